"""Weights on disk: safetensors with the configuration in the header, written atomically."""

from __future__ import annotations

import hashlib
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, message
from critjax._stored import json_object
from critjax.networks._architectures import NetworkConfig, Parameters, apply
from critjax.store import digest, write_file

SUFFIX = ".safetensors"


class Damaged(ValueError):
    """A file that does not hold what was written."""


class StoredNetwork(NamedTuple):
    """What a file of weights holds."""

    config: NetworkConfig
    params: Parameters
    info: dict[str, Any]
    """Whatever was stored beside: training settings, losses, the command."""


def flatten(params: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Name every array of a nested dictionary by its path, ``a.b.c``."""
    if isinstance(params, dict):
        return {n: a for k, v in params.items() for n, a in flatten(v, f"{prefix}{k}.").items()}
    return {prefix[:-1]: np.asarray(params)}


def unflatten(arrays: dict[str, Any]) -> Parameters:
    """Undo `flatten`."""
    tree: Parameters = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        here = tree
        for part in path:
            here = here.setdefault(part, {})
        here[last] = array
    return tree


def write(path: Path, arrays: dict[str, np.ndarray], header: dict[str, str]) -> None:
    """Write a safetensors file in one step: it appears whole or not at all."""
    from safetensors.numpy import save

    arrays = {n: np.array(a, order="C") for n, a in arrays.items()}
    write_file(path, save(arrays, metadata=header | {"digest": _digest(arrays, header)}))


def _digest(arrays: dict[str, np.ndarray], header: dict[str, str]) -> str:
    """Return a digest of all that a file holds."""
    texts = [f"{n} {a.dtype} {a.shape} {digest(np.ascontiguousarray(a).data)}" for n, a in arrays.items()]
    return digest("\n".join(sorted(texts) + [f"{n} {header[n]}" for n in sorted(header)]).encode())


def read(path: Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read arrays and header of a safetensors file.

    Raises
    ------
    FileNotFoundError, Damaged
        If there is no such file, or it is corrupt, or has numbers that are not finite.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise FileNotFoundError(message(what, "a file of weights", f"no file {path}", "check the path"))
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        got = f"the unreadable {path} ({error})"
        raise Damaged(message(what, "a whole safetensors file", got, "copy or train it again")) from None
    told = header.pop("digest", None)  # files of other programs and of earlier versions have none
    if told is not None and told != _digest(arrays, header):
        raise Damaged(message(what, "what was written", f"the damaged {path}", "copy or train it again"))
    infinite = sorted(n for n, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all())
    if infinite:
        got = f"others in {', '.join(infinite[:4])} of {path}"
        raise Damaged(message(what, "finite numbers", got, "copy or train it again"))
    return arrays, header


def save_network(
    path: str | Path, config: NetworkConfig, params: Parameters, info: dict[str, Any] | None = None
) -> None:
    """Store a network with its configuration.

    Parameters
    ----------
    path : path
        File to write, usually ``.safetensors``.
    config, params
        As of `init`.
    info : dict, optional
        Stored beside, as JSON.

    Example
    -------
    See `load_network`, which reads it.

    >>> from critjax.networks import init
    >>> config = NetworkConfig(width=8, dilations=(1,))
    >>> import os
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_network(f"{folder}/a.safetensors", config, init(config, jax.random.key(0)))
    ...     os.listdir(folder)
    ['a.safetensors']
    """
    header = {"critjax_config": config.to_json(), "critjax_info": json.dumps(info or {})}
    write(Path(path), flatten(params), header)


def shipped_networks() -> tuple[str, ...]:
    """List the names of the trained networks that come with the package, for `load_network`.

    Example
    -------
    >>> "local-11" in shipped_networks()
    True
    """
    folder = resources.files("critjax.networks").joinpath("weights")
    names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
    return tuple(sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)))


def weights_file(name_or_path: str | Path) -> Path:
    """Return where the weights of a shipped network, or of a file, should be."""
    if str(name_or_path) in shipped_networks():
        return Path(str(resources.files("critjax.networks").joinpath("weights", f"{name_or_path}{SUFFIX}")))
    return Path(name_or_path)


def weights_digest(name_or_path: str | Path) -> str | None:
    """Return the SHA-256 of the weights, by which two networks of one name are told apart; None without a file."""
    path = weights_file(name_or_path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if os.path.isfile(path) else None


def load_network(name_or_path: str | Path) -> StoredNetwork:
    """Read a shipped network by its name, one written by `save_network`, or the average in a checkpoint of training.

    Parameters
    ----------
    name_or_path : str or path
        One of `shipped_networks`, or a file. The name wins over a file of that name.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it is corrupt, or its weights do not fit its configuration.

    Example
    -------
    >>> from critjax.networks import init
    >>> config = NetworkConfig(width=8, dilations=(1,))
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_network(f"{folder}/a.safetensors", config, init(config, jax.random.key(0)), {"seed": 0})
    ...     load_network(f"{folder}/a.safetensors").info
    {'seed': 0}
    """
    path = weights_file(name_or_path)
    names = ", ".join(shipped_networks())
    if not os.path.isfile(path):
        advice = f"check the path, or use a shipped network: {names}"
        raise FileNotFoundError(message("network", "a name or a file of weights", f"no file {path}", advice))
    arrays, header = read(path, "network")
    checkpoint = "config" in header and "training" in header
    known = "critjax_config" in header or checkpoint
    advice = "use a file written by save_network or a checkpoint of critjax train"
    check(known, "network", "weights with a configuration", f"{path} without one", advice)
    config = NetworkConfig.from_json(header["config" if checkpoint else "critjax_config"])
    params = unflatten(jax.device_put(arrays))
    if checkpoint:
        params = params["average"]
    side = 2 ** (len(config.multipliers) - 1)
    shape = jax.ShapeDtypeStruct((1, side, side, config.channels), jnp.float32)
    level = jax.ShapeDtypeStruct((1,), jnp.float32)
    jax.eval_shape(
        lambda x, s: apply(config, params, x, s), shape, level
    )  # names and shapes fit, or it says which not
    return StoredNetwork(config, params, json_object(header.get("critjax_info", "{}"), "network", advice))
