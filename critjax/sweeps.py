"""Sweeps: one function at many points, batched by `jax.vmap`, spread over devices, resumable.

Everything that JAX can batch can be swept: numbers such as noise levels, seeds, random keys, stacked banks.
A sweep that is interrupted goes on where it stopped if it was given a folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from critjax import __version__
from critjax._checks import check, check_count, message
from critjax._programs import as_pytree, program
from critjax.store import digest, locked, says, seal, unseal, visible, write_file

__all__ = ["grid_points", "sweep"]

#: Largest batch that is chosen when none is given.
DEFAULT_BATCH = 64
#: A sweep waits this often for the disk to have what it saved.
SYNC_SECONDS = 1.0


def grid_points(**axes: Any) -> dict[str, np.ndarray]:
    """List the points of a grid, the product of one-dimensional axes.

    Parameters
    ----------
    **axes : (n_i,) array-like
        Values along each axis, at least one.

    Returns
    -------
    dict of (N,) arrays
        Coordinates of all N = n_1 n_2 ... points, dtypes kept, the last axis fastest; values (N, ...) of a
        sweep become a grid by ``values.reshape(n_1, n_2, ..., *values.shape[1:])``.

    Raises
    ------
    ValueError
        If there is no axis, or one is empty or not one-dimensional.

    Example
    -------
    >>> grid_points(sigma=[0.5, 1.0], seed=[0, 1, 2])["seed"].tolist()
    [0, 1, 2, 0, 1, 2]
    """
    check(bool(axes), "axes", "at least one axis", "none", "pass e.g. sigma=[0.5, 1.0]")
    expected, advice = (
        "a non-empty one-dimensional array",
        "pass a list of numbers; for keys, of integer seeds",
    )
    arrays = []
    for name, values in axes.items():
        try:
            array = np.asarray(values)
        except (TypeError, ValueError) as error:
            raise ValueError(message(name, expected, f"{type(values).__name__} ({error})", advice)) from None
        check(array.ndim == 1 and array.size > 0, name, expected, f"shape {array.shape}", advice)
        arrays.append(array)
    columns = np.meshgrid(*arrays, indexing="ij")
    return {name: column.reshape(-1) for name, column in zip(axes, columns, strict=True)}


def sweep(
    fn: Callable[..., Any],
    points: Any,
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    axis: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Any:
    """Evaluate a function at many points.

    Batches of points go through one program, ``jax.vmap(fn)`` compiled: the last batch is filled up with
    repetitions of the last point, which are dropped. Results of a point never depend on its neighbours; batch
    size and mesh change them by round-off only.

    Parameters
    ----------
    fn : callable
        ``point -> pytree of arrays``, a pure JAX function of one point. A second sweep of the same function and
        shapes compiles nothing; a function that is a pytree, such as `jax.tree_util.Partial`, is the same whatever
        its arrays hold.
    points : pytree of (N, ...) arrays
        Points stacked along a shared leading axis, e.g. of `grid_points`; random keys, stacked banks and
        other registered dataclasses may be among them. Each call of ``fn`` gets one row of every array.
    batch_size : int, optional
        Points evaluated at a time; by default at most 64, in batches of nearly equal size. Rounded up to a
        multiple of the devices along ``axis``.
    mesh, axis : jax.sharding.Mesh and str, optional
        Spread each batch over this mesh axis: every device evaluates its own points without talking to the
        others. ``fn`` may then use no mesh itself.
    folder : path, optional
        Save each batch there as it is finished. The same call loads what it finds and evaluates the rest.
    progress : callable, optional
        ``(num_done, num_points)``, called after each batch, and at the start if some batches were loaded.

    Returns
    -------
    pytree of (N, ...) numpy arrays
        Results in the structure of ``fn``'s result. Values that are not finite are kept as they are.

    Raises
    ------
    ValueError
        Before anything is evaluated: if points have no shared leading axis, or none at all; on a batch size
        that is no positive integer, a mesh without its axis or an axis without its mesh; if ``fn`` returns no
        arrays; if the folder is a file, cannot be written, is in use, or belongs to something else (which stays).

    Notes
    -----
    Memory: points and results on the host, one batch on the devices. ``fn`` is traced once (with a mesh
    twice) and compiled once, not at all if every batch is loaded or the same object was swept before. It is a
    constant: what it reads from outside is read when it is traced. One process: devices of other processes
    (`jax.distributed`) are out of scope.

    The folder holds one file a batch and ``sweep.json``: digests of the points and of the program that JAX
    makes of ``fn`` for one point, arrays that it closes over included, the shapes of the results, batch size
    and versions. A folder where any of these differ is refused. The mesh may differ, unless the program
    depends on the number of devices, as that of `patch_denoiser` does. The digest misses what the program
    does not show, such as Python called back from it: after such a change take a new folder. Files appear
    complete or not at all; the disk is waited for once a second. A batch file that was damaged later, or is of
    another sweep, is evaluated again, with a warning. One sweep at a time may use a folder; a second one is refused.

    Example
    -------
    The critical noise of the uniform mode of random-pattern banks. Over all draws the mean of sigma^2 is
    1 + (P-1)/(M+1) = 3 exactly (THEORY section 3), here to 0.2:

    >>> from critjax import critical_point, geometric_sigmas, random_pattern_bank, symbol
    >>> def critical_noise(point):
    ...     bank = random_pattern_bank(jax.random.key(point["seed"]), 3, 3)
    ...     sigmas = geometric_sigmas(8.0, 0.5, 16)
    ...     return critical_point(lambda sigma: symbol(bank, sigma, (1, 1)), sigmas).sigma
    >>> sigma = sweep(critical_noise, grid_points(seed=range(40)), batch_size=20)
    >>> round(float(np.mean(sigma**2)), 1)
    2.9
    """
    fn = as_pytree("fn", fn)
    names, leaves, layout = _unpack(points)
    num_points = len(leaves[0])
    size = _batch_size(batch_size, num_points, mesh, axis)
    row = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves]
    traced = _at_point.trace(layout, fn, row)
    fields, outputs, structure = _flatten("", traced.out_info)
    check(bool(outputs), "fn", "a function that returns arrays", "none", "return its results")
    keys = [f"result{name}" for name, output in zip(fields, outputs, strict=True) if _is_key(output)]
    check(not keys, "fn", "results that are numbers", f"keys in {keys}", "return jax.random.key_data of them")

    batches = np.split(np.arange(num_points), range(size, num_points, size))
    results = [np.empty((num_points, *output.shape), output.dtype) for output in outputs]
    with contextlib.ExitStack() as held:
        saved = None
        if folder is not None:
            identity = {
                "points": _digest(layout.kinds, names, leaves),
                "fn": _digest_of_program(traced, fn),
                "num_points": num_points,
                "batch_size": size,
                "results": {name: f"{o.dtype} {o.shape}" for name, o in zip(fields, outputs, strict=True)},
                "versions": {"critjax": __version__, "jax": jax.__version__},
            }
            held.enter_context(locked(Path(folder), "folder"))
            saved = _Saved(Path(folder), identity)
        missing = [
            number
            for number, rows in enumerate(batches)
            if saved is None or not saved.load(number, results, rows)
        ]
        num_done = num_points - sum(len(batches[number]) for number in missing)
        if progress is not None and num_done:
            progress(num_done, num_points)
        sharding = None if mesh is None else NamedSharding(mesh, PartitionSpec(axis))
        for number in missing:
            rows = batches[number]
            padded = np.pad(rows, (0, size - len(rows)), mode="edge")
            batch = jax.device_put([leaf[padded] for leaf in leaves], sharding)
            found = jax.device_get(jax.tree.leaves(_at_points(layout, mesh, axis, fn, batch)))
            values = [value[: len(rows)] for value in found]
            if saved is not None:
                saved.save(number, values)
            for result, value in zip(results, values, strict=True):
                result[rows] = value
            num_done += len(rows)
            if progress is not None:
                progress(num_done, num_points)
    return jax.tree.unflatten(structure, results)


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _flatten(name: str, tree: Any) -> tuple[list[str], list[Any], Any]:
    """Return the names of the leaves of a tree, the leaves and the structure."""
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [name + jax.tree_util.keystr(path) for path, _ in found], [leaf for _, leaf in found], structure


class _Layout(NamedTuple):
    """How a point is made of its rows: the structure, and the kind of key of each leaf, None for numbers."""

    structure: Any
    kinds: tuple[Any, ...]


@program(static_argnames="layout")
def _at_point(layout: _Layout, fn: Callable[..., Any], rows: list[Any]) -> Any:
    """Evaluate the function at one point."""
    pairs = zip(rows, layout.kinds, strict=True)
    leaves = [r if kind is None else jax.random.wrap_key_data(r, impl=kind) for r, kind in pairs]
    return fn(jax.tree.unflatten(layout.structure, leaves))


@program(static_argnames=("layout", "mesh", "axis"))
def _at_points(
    layout: _Layout, mesh: Mesh | None, axis: str | None, fn: Callable[..., Any], batch: list[Any]
) -> Any:
    """Evaluate the function at a batch of points."""
    evaluate = jax.vmap(functools.partial(_at_point, layout), (None, 0))
    if mesh is not None:
        # Left to itself the compiler would gather the batch for operations that it cannot split, Fourier
        # transforms among them, and let all devices wait for each other in every loop. The check that is switched
        # off refuses loops that start from constants.
        spec = PartitionSpec(axis)
        evaluate = jax.shard_map(
            evaluate, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec, check_vma=False
        )
    return evaluate(fn, batch)


def _unpack(points: Any) -> tuple[list[str], list[np.ndarray], _Layout]:
    """Return the names of the leaves, the leaves on the host (keys as numbers), and how to put rows together."""
    names, leaves, structure = _flatten("points", points)
    check(bool(names), "points", "at least one array", "none", "pass e.g. grid_points(sigma=[0.5, 1.0])")
    advice = "stack the points along the first axis of every array"
    for name, leaf in zip(names, leaves, strict=True):
        got = f"shape {leaf.shape}" if hasattr(leaf, "shape") else type(leaf).__name__
        check(np.ndim(leaf) > 0, name, "an array with a leading axis", got, advice)
    got = ", ".join(f"{len(leaf)} in {name}" for name, leaf in zip(names, leaves, strict=True))
    check(len({len(leaf) for leaf in leaves}) == 1, "points", "arrays of one length", got, advice)
    check(len(leaves[0]) > 0, "points", "at least one point", got, "sweep over something")

    kinds = [jax.random.key_impl(leaf) if _is_key(leaf) else None for leaf in leaves]
    arrays = []
    for name, leaf, kind in zip(names, leaves, kinds, strict=True):
        array = np.asarray(leaf if kind is None else jax.random.key_data(leaf))
        numeric = array.dtype.kind not in "OSUMm"
        check(numeric, name, "numbers or keys", f"dtype {array.dtype}", "convert them")
        # Numbers as JAX will use them, so that the digest is of these.
        arrays.append(array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False))

    return names, arrays, _Layout(structure, tuple(kinds))


def _batch_size(batch_size: Any, num_points: int, mesh: Mesh | None, axis: str | None) -> int:
    """Return the size of every batch, a multiple of the devices that share it, or raise."""
    if batch_size is None:
        batch_size = -(-num_points // -(-num_points // DEFAULT_BATCH))
    batch_size = check_count("batch_size", batch_size, least=1, advice="None chooses one")
    num_devices = 1
    if mesh is None:
        check(axis is None, "axis", "a mesh with it", f"{axis!r} alone", "pass mesh, or no axis")
    else:
        expected = f"one of the mesh axes {mesh.axis_names}"
        check(axis in mesh.axis_names, "axis", expected, repr(axis), "name the axis to spread points over")
        num_devices = mesh.shape[axis]
    return -(-min(batch_size, num_points) // num_devices) * num_devices


def _digest(kinds: Iterable[Any], names: list[str], leaves: list[np.ndarray]) -> str:
    """Return a digest of where leaves sit in their tree, of their kinds of key, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for kind, name, leaf in zip(kinds, names, leaves, strict=True):
        digest.update(f"{name} {kind}: {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _digest_of_program(traced: Any, fn: Any) -> str:
    """Return a digest of the program of one point, and of the arrays that a function which is a pytree holds."""
    text = traced.lower().as_text()
    names, leaves, _ = _flatten("fn", fn)
    kinds = [str(jax.random.key_impl(leaf)) if _is_key(leaf) else None for leaf in leaves]
    pairs = zip(leaves, kinds, strict=True)
    arrays = [np.asarray(leaf if kind is None else jax.random.key_data(leaf)) for leaf, kind in pairs]
    return hashlib.sha256((text + _digest(kinds, names, arrays)).encode()).hexdigest()


class _Saved:
    """The finished batches of a sweep in a folder that is new, empty or of the same sweep; another is not touched."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self._synced = folder, -math.inf
        self.sweep = digest(json.dumps(identity, sort_keys=True).encode())
        advice, record = "choose another folder", folder / "sweep.json"
        try:
            stored = dict(json.loads(record.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError):  # none, or damaged: batches tell whose they are
            content = visible(folder)
            good = not content or any(says(path, sweep=self.sweep) for path in folder.glob("batch-*.part"))
            got = f"{folder} with {', '.join(content[:4])}"
            check(good, "folder", "a new or empty folder, or one of this sweep", got, advice)
            write_file(record, json.dumps(identity, indent=1))
            return
        differing = [name for name, value in identity.items() if stored.get(name) != value]
        digests = ("points", "fn")  # which tell a reader nothing
        shown = (n if n in digests else f"{n} ({stored.get(n)} there, {identity[n]} here)" for n in differing)
        got = f"{folder} of a sweep that differs in {', '.join(shown)}"
        check(not differing, "folder", "one of this very sweep", got, f"{advice} or repeat that call")

    def _path(self, number: int) -> Path:
        return self.folder / f"batch-{number:05d}.part"

    def save(self, number: int, values: list[np.ndarray]) -> None:
        """Save the results of a batch, one array a leaf."""
        file = io.BytesIO()
        np.savez(file, *values)
        # To wait for the disk takes longer than many a batch; one that a power cut damages is evaluated again.
        now = time.monotonic()
        sync = now >= self._synced + SYNC_SECONDS
        self._synced = now if sync else self._synced
        content = seal(file.getvalue(), sweep=self.sweep, number=number)
        write_file(self._path(number), content, sync=sync)

    def load(self, number: int, results: list[np.ndarray], rows: np.ndarray) -> bool:
        """Fill in the results of a finished batch; return False if there are none that can be used.

        A damaged file is no reason to stop: points and function are those of the record, so evaluating them again
        gives what the file held, and replaces it.
        """
        path = self._path(number)
        if not path.exists():
            return False
        try:
            content = unseal(path.read_bytes(), sweep=self.sweep, number=number)
        except (OSError, ValueError) as error:
            warnings.warn(f"{path}: {error}", stacklevel=3)
            return False
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            for index, result in enumerate(results):
                # The view gives back dtypes that npz files do not know, such as bfloat16.
                values = file[f"arr_{index}"].view(result.dtype)
                result[rows] = values.reshape(len(rows), *result.shape[1:])
        return True
