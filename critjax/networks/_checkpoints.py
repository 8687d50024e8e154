"""Checkpoints of a training run: all that it needs to go on to bitwise the same parameters."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from critjax._checks import check, message
from critjax._stored import json_object
from critjax.networks._architectures import NetworkConfig
from critjax.networks._step import TrainingConfig, TrainingState, drawn_state
from critjax.networks._weights import Damaged, flatten, read, unflatten, weights_digest, write

CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint-previous.safetensors"


def checkpoint_arrays(state: TrainingState, losses: list, recent: list) -> dict[str, np.ndarray]:
    """Name all that a run needs to go on; ``recent`` are the losses since the last entry of the log."""
    memory = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state.optimiser))}
    log = {"losses": np.asarray(losses, np.float64).reshape(-1, 2), "recent": np.asarray(recent, np.float64)}
    return flatten({**state._asdict(), "optimiser": memory, **log})


def _checkpoint_names(template: TrainingState) -> set[str]:
    """Name the arrays of a checkpoint of a run whose state has the shape of ``template``."""
    state = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), template)
    return set(checkpoint_arrays(state, [], []))


def digests(images: Any, labels: Any, start: str | None) -> dict[str, str]:
    """Tell what a run learns from, images, labels and starting weights, from anything else of the same shape."""
    arrays = {"images": images} | ({} if labels is None else {"labels": labels})
    found = {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        found[name] = hashlib.blake2b(array.data, key=str(array.shape).encode(), digest_size=16).hexdigest()
    weights = None if start is None else weights_digest(start)
    return found | ({} if weights is None else {"starting weights": weights})


def save_checkpoint(
    folder: Path,
    config: NetworkConfig,
    training: TrainingConfig,
    arrays: dict[str, np.ndarray],
    data: dict[str, str],
) -> None:
    """Write everything that the run needs to go on, ``data`` as of `digests`; the checkpoint before stays beside it."""
    header = {"training": json.dumps(dataclasses.asdict(training)), "data": json.dumps(data)}
    if (folder / CHECKPOINT).exists():
        os.replace(folder / CHECKPOINT, folder / PREVIOUS)
    write(
        folder / CHECKPOINT,
        arrays,
        {"config": config.to_json(), "processors": json.dumps(processors()), **header},
    )


def processors() -> str:
    """Return how many processors the compiler spreads sums over, on which their last bits depend."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{count} of {jax.default_backend()}"


def newest_checkpoint(
    folder: Path, config: NetworkConfig, training: TrainingConfig, data: dict[str, str]
) -> tuple[TrainingState, list, list] | None:
    """Read the newest checkpoint of a folder that is not damaged, with a warning if one is; None if there is none.

    Raises
    ------
    ValueError
        If it belongs to other settings or data, or every checkpoint is damaged.
    """
    newest, before = folder / CHECKPOINT, folder / PREVIOUS
    if newest.exists():
        try:
            return load_checkpoint(newest, config, training, data)
        except Damaged as error:
            if not before.exists():
                raise
            warnings.warn(f"{error}: going on from {before}", stacklevel=3)
    if not before.exists():
        return None
    found = load_checkpoint(before, config, training, data)
    os.replace(before, newest)  # else the next checkpoint would push it out
    return found


def load_checkpoint(
    path: Path, config: NetworkConfig, training: TrainingConfig, data: dict[str, str] | None = None
) -> tuple[TrainingState, list, list]:
    """Read a checkpoint of the very same run; its data are compared with ``data``, as of `digests`, if both are known.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, it is corrupt or of another version, or it belongs to other settings or data.
    """
    arrays, header = read(path, "checkpoint")
    advice = "repeat the settings, or choose another folder"
    for name, own in (("config", config), ("training", training)):
        check(name in header, "checkpoint", f"a header with its {name}", "none", advice)
        defaults, mine = (json.loads(json.dumps(dataclasses.asdict(s))) for s in (type(own)(), own))
        # What was not yet an option when the checkpoint was written has its default.
        stored = defaults | json_object(header[name], "checkpoint", advice)
        # Longer or shorter runs share what came first only if their schedules do; they do not.
        differing = sorted(k for k in {*stored, *mine} if stored.get(k) != mine.get(k))
        shown = ", ".join(f"{k} = {stored.get(k)!r}" for k in differing)
        check(not differing, "checkpoint", "one of the same settings", f"one with {shown}", advice)
    if data is not None and "data" in header:  # older checkpoints do not tell
        stored = json_object(header["data"], "checkpoint", advice)
        differing = sorted(k for k in {*stored, *data} if stored.get(k) != data.get(k))
        got = f"one of other {' and '.join(differing)}"
        advice = "go on with those of its start, or choose another folder"
        check(not differing, "checkpoint", "one of the same data", got, advice)
    before = json.loads(header.get("processors", json.dumps(processors())))
    if before != processors():
        text = message(
            "checkpoint", f"processors as now ({processors()})", before, "the last bits of the run may differ"
        )
        warnings.warn(text, stacklevel=3)
    template = jax.eval_shape(lambda: drawn_state(config, jax.random.key(0)))
    differing = sorted(set(arrays) ^ _checkpoint_names(template))
    got = f"{path}, which differs in {', '.join(differing)}"
    advice = "it is of another version or damaged: remove it to train anew"
    check(not differing, "checkpoint", "exactly the arrays of the run", got, advice)
    tree = unflatten(arrays)
    if not 0 <= int(tree["step"]) <= training.num_steps:
        got = f"{int(tree['step'])} in {path}"
        raise Damaged(
            message("checkpoint", f"a step up to {training.num_steps}", got, "remove it to train anew")
        )
    structure = jax.tree.structure(template.optimiser)
    memory = structure.unflatten([tree["optimiser"][str(i)] for i in range(structure.num_leaves)])
    state = TrainingState(tree["step"], tree["params"], tree["average"], memory)
    return jax.device_put(state), arrays["losses"].tolist(), arrays["recent"].tolist()
