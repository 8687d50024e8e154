r"""Centre-readout denoisers of several window sizes in one pass over pairs of pixels.

With the query pixel i and the training pixel i + a, the squared differences ``|x(i) - y(i + a)|^2`` of one offset a
form an image, and the distance of two windows of any size is a window sum of it: a product with a matrix of zeros and
ones on either side. All sizes share the differences, and so does what is expensive to lay out. Nothing is subtracted
after the differences are squared, so that scores are as accurate as the differences at any noise level.

Every legal variant is an outer product of what happens along rows and along columns (`_Axis`): which offsets there
are, which pixels take part, which of their neighbours the window sums, and whether the training window has to fit.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from critjax._checks import (
    check,
    check_count,
    check_option,
    check_window,
    message,
)
from critjax._programs import Static
from critjax._typing import Array, ArrayLike
from critjax.banks import ImageBank, PatchBank
from critjax.patch_score._blocks import cut_block, least_overlap
from critjax.patch_score._denoiser import LEGAL, check_query
from critjax.patch_score._scores import excluded_logit, matmul
from critjax.patch_score._turns import in_turn

#: Pairs of pixels a block, images times H times W: what differences, scores and sums need then stays in the cache.
PAIR_TARGET = 32768


class _Axis(NamedTuple):
    """What one pass does along one axis of length n."""

    offsets: np.ndarray  # from query to training pixel, modulo n
    pixels: tuple[np.ndarray, ...]  # of every size: the query pixels that take part
    sums: tuple[np.ndarray, ...]  # of every size: (n, len(pixels)), one where the window covers the pixel
    fits: bool  # whether training windows must lie inside the image


class _Running(NamedTuple):
    """Online softmax: weights are relative to ``exp(top)``; the last axis counts query rows of images in turn."""

    top: Array
    total: Array
    values: tuple[Array, ...]  # of every channel: weighted sum of what is read out
    tilt: Array | None  # weighted sum of logit - top, for the entropy


def _axes(length: int, sizes: tuple[int, ...], positions: str, boundary: str) -> list[_Axis]:
    """List the passes that all pixels of one axis need."""
    index = np.arange(length)
    near = np.abs(index[:, None] - index)
    if boundary == "periodic":
        near = np.minimum(near, length - near)
    every, here = index, index[:1]

    def axis(offsets: np.ndarray, chosen: Callable[[int], np.ndarray], fits: bool) -> _Axis:
        pixels = tuple(np.flatnonzero(chosen(size // 2)) for size in sizes)
        sums = tuple(near[:, own] <= size // 2 for own, size in zip(pixels, sizes, strict=True))
        return _Axis(offsets, pixels, sums, fits)

    def inside(reach: int) -> np.ndarray:
        return (index >= reach) & (index < length - reach)

    def anywhere(_reach: int) -> np.ndarray:
        return index >= 0

    if positions == "same":
        return [axis(here, anywhere, False)]
    if boundary == "periodic":
        return [axis(every, anywhere, positions == "interior")]
    # Noiseless padding: pixels near the border meet their own row only, where padding differs from itself by nothing.
    return [axis(every, inside, True), axis(here, lambda reach: ~inside(reach), False)]


def _pick(array: Array, index: np.ndarray, axis: int) -> Array:
    """Take entries along an axis, by a slice where they are neighbours."""
    if len(index) == index[-1] - index[0] + 1:
        return lax.slice_in_dim(array, int(index[0]), int(index[-1]) + 1, axis=axis)
    return jnp.take(array, index, axis=axis)


def _fitting(axis: _Axis, number: int, size: int, length: int, offset: Array) -> Array:
    """Tell which pixels meet a training pixel whose window may be used."""
    partner = (jnp.asarray(axis.pixels[number]) + offset) % length
    return (partner >= size // 2) & (partner < length - size // 2)


def _update(state: _Running, scores: Array, values: list[Array]) -> _Running:
    """Add one candidate everywhere, with one exponential: of the two of a running maximum one is exp(0)."""
    change = scores - state.top
    higher = change > 0
    # Not -abs: its derivative is zero where candidates tie.
    small = jnp.exp(jnp.where(higher, -change, change))

    def add(total: Array, value: Any) -> Array:
        return jnp.where(higher, total * small + value, total + small * value)

    tilt = state.tilt
    if tilt is not None:
        raised = small * tilt - (small * change) * state.total
        tilt = jnp.where(higher, raised, tilt + small * change)
    sums = tuple(add(*pair) for pair in zip(state.values, values, strict=True))
    return _Running(jnp.where(higher, scores, state.top), add(state.total, 1), sums, tilt)


def _start(shape: tuple[int, ...], channels: int, dtype, with_tilt: bool) -> _Running:
    none = jnp.zeros(shape, dtype)
    lowest = jnp.full(shape, excluded_logit(dtype), dtype)
    return _Running(lowest, none, (none,) * channels, none if with_tilt else None)


def _merge(parts: _Running, log_prior: Any, axis: int) -> _Running:
    """Join running sums along an axis, each with a log prior that all its candidates share."""
    tops = parts.top + log_prior
    top = jnp.max(tops, axis=axis, keepdims=True)
    scale = jnp.exp(tops - top)

    def total(sums: Array) -> Array:
        return jnp.sum(scale * sums, axis=axis)

    tilt = parts.tilt
    if tilt is not None:
        tilt = total(tilt) + jnp.sum((scale * (tops - top)) * parts.total, axis=axis)
    return _Running(jnp.squeeze(top, axis), total(parts.total), tuple(map(total, parts.values)), tilt)


def _pass(rows: _Axis, columns: _Axis, sizes, x: Array, sigma: Array, block: Array, with_tilt: bool):
    """Meet one block of images (b, H, W, C); return `_Running` of shape (columns, b, rows) of every size.

    Columns lead and rows come last, images between: either sum over a window is then one plain matrix product, and
    elementwise work runs over long rows.
    """
    count, height, width, channels = block.shape
    y = jnp.transpose(block, (3, 2, 0, 1))  # (C, W, b, H)
    for axis, passed in ((1, columns), (3, rows)):
        if len(passed.offsets) > 1:  # every offset is then a slice
            y = jnp.concatenate([y, y], axis=axis)
    x = jnp.broadcast_to(jnp.transpose(x, (2, 1, 0))[:, :, None], (channels, width, count, height))
    x = x.reshape(channels, width, -1)
    scale = -0.5 / sigma**2
    sums = [
        (jnp.asarray(own, x.dtype) * scale, jnp.asarray(other.T, x.dtype))
        for own, other in zip(rows.sums, columns.sums, strict=True)
    ]
    used = [number for number in range(len(sizes)) if sums[number][0].size and sums[number][1].size]
    if not used:  # no pixel lies near the border of a window of one pixel
        return {}

    # One product sums the columns of windows of all sizes: many small ones are slow.
    every_column = jnp.concatenate([sums[number][1] for number in used])
    bounds = np.cumsum([len(columns.pixels[number]) for number in used])[:-1]

    def flat_shape(number: int) -> tuple[int, int]:
        return len(columns.pixels[number]), count * len(rows.pixels[number])

    def over_rows(states, row_offset):
        shifted = lax.dynamic_slice_in_dim(y, row_offset, height, axis=3)
        centres, fitting = [], []
        for number in used:
            centres.append(_pick(shifted, rows.pixels[number], 3).reshape(*y.shape[:2], -1))
            fitting.append(jnp.tile(_fitting(rows, number, sizes[number], height, row_offset), count))
        shifted = shifted.reshape(*y.shape[:2], -1)

        def over_columns(states, column_offset):
            def shift(values: Array) -> Array:
                return lax.dynamic_slice_in_dim(values, column_offset, width, axis=1)

            squares = sum((x[c] - shift(shifted)[c]) ** 2 for c in range(channels))
            strips = jnp.split(matmul(every_column, jnp.asarray(squares)), bounds)
            result = []
            for number, strip, state, centre, row_fits in zip(
                used, strips, states, centres, fitting, strict=True
            ):
                scores = matmul(strip.reshape(-1, height), sums[number][0]).reshape(len(strip), -1)
                allowed = None
                if columns.fits:
                    allowed = _fitting(columns, number, sizes[number], width, column_offset)[:, None]
                if rows.fits:
                    allowed = row_fits if allowed is None else allowed & row_fits
                if allowed is not None:
                    scores = jnp.where(allowed, scores, excluded_logit(scores.dtype))
                values = _pick(shift(centre), columns.pixels[number], 1)
                result.append(_update(state, scores, list(values)))
            return tuple(result), None

        return lax.scan(over_columns, states, jnp.asarray(columns.offsets))[0], None

    states = tuple(_start(flat_shape(number), channels, x.dtype, with_tilt) for number in used)
    states, _ = lax.scan(over_rows, states, jnp.asarray(rows.offsets))
    unfold = functools.partial(jax.tree.map, lambda a: a.reshape(a.shape[0], count, -1))
    return {number: unfold(state) for number, state in zip(used, states, strict=True)}


def _evaluate(sizes, passes, with_tilt: bool, block_size: int, x: Array, sigma: Array, images, log_prior):
    """Compute the means (sizes, H, W, C) and, if asked, the entropies (sizes, H, W)."""
    count = images.shape[0]
    # Flat rows: with a trailing axis of size one, XLA would choose another layout and copy all images.
    bank = images.reshape(count, -1), log_prior

    def visit(states, number):
        flat, prior = cut_block(bank, number, block_size)
        flat = flat.reshape(block_size, *x.shape)
        # Excluded images get a large finite number: differences of it exist.
        prior = jnp.maximum(prior, excluded_logit(x.dtype))
        result = []
        for (rows, columns), before in zip(passes, states, strict=True):
            found = _pass(rows, columns, sizes, x, sigma, flat, with_tilt)
            found = {number: _merge(part, prior[:, None], 1) for number, part in found.items()}
            both = jax.tree.map(lambda a, b: jnp.stack([a, b]), before, found)
            result.append({number: _merge(part, 0.0, 0) for number, part in both.items()})
        return tuple(result), None

    def start(rows: _Axis, columns: _Axis) -> dict[int, _Running]:
        shapes = [(len(columns.pixels[n]), len(rows.pixels[n])) for n in range(len(sizes))]
        return {n: _start(s, x.shape[-1], x.dtype, with_tilt) for n, s in enumerate(shapes) if 0 not in s}

    states, _ = lax.scan(visit, tuple(start(*axes) for axes in passes), jnp.arange(-(-count // block_size)))
    some = jnp.any(jnp.isfinite(log_prior))
    means = jnp.zeros((len(sizes), *x.shape), x.dtype)
    entropies = jnp.zeros(means.shape[:3], x.dtype)
    for (rows, columns), state in zip(passes, states, strict=True):
        for number, part in state.items():
            place = (number, rows.pixels[number][:, None], columns.pixels[number])
            # With every image excluded there is no posterior: NaN, not the mean of what was excluded.
            total = jnp.where(some, part.total, jnp.nan)
            means = means.at[place].set(jnp.stack([(v / total).T for v in part.values], axis=-1))
            if part.tilt is not None:
                entropies = entropies.at[place].set((jnp.log(total) - part.tilt / total).T)
    return means, entropies


def _check_sizes(sizes: Sequence[Any], grid: tuple[int, int]) -> tuple[int, ...]:
    found = tuple(check_window(size) for size in sizes)
    check(len(found) > 0, "sizes", "at least one window size", "none", "pass e.g. (3, 5, 7)")
    even = [size for size in found if size % 2 == 0]
    check(not even, "sizes", "odd windows, which have a centre", even, "use odd sizes")
    check(len(set(found)) == len(found), "sizes", "different window sizes", found, "list each size once")
    fits = f"windows that fit the {grid[0]} x {grid[1]} images"
    check(max(found) <= min(grid), "sizes", fits, max(found), "use smaller windows")
    return found


class PatchEstimates(NamedTuple):
    """What `patch_denoisers` finds with ``with_effective``, in the order of the sizes."""

    denoised: Array  # (sizes, H, W, C)
    effective: Array  # (sizes, H, W): exp(entropy of the weights)


class _Options(NamedTuple):
    """Everything static about an evaluation."""

    sizes: tuple[int, ...]
    positions: str
    boundary: str
    with_effective: bool
    block: int  # images a block


def _call(options: _Options, images: ArrayLike, log_prior: ArrayLike, x: Any, sigma: Any) -> Any:
    sigma, grid = check_query(x, sigma), tuple(images.shape[1:])
    check(
        tuple(x.shape) == grid,
        "x",
        f"shape {grid} of the training images",
        f"shape {tuple(x.shape)}",
        "resize it",
    )
    return _estimates(options, images, log_prior, x, sigma)


@functools.partial(jax.jit, static_argnums=0)
def _estimates(options: _Options, images: Array, log_prior: Array, x: Array, sigma: Array) -> Any:
    axes = [_axes(length, *options[:3]) for length in images.shape[1:3]]
    passes = tuple(itertools.product(*axes))
    evaluate = in_turn(
        functools.partial(_evaluate, options.sizes, passes, options.with_effective, options.block)
    )
    means, entropies = evaluate(*(a.astype(sigma.dtype) for a in (x, sigma, images, log_prior)))
    means = means.astype(x.dtype)
    return PatchEstimates(means, jnp.exp(entropies).astype(x.dtype)) if options.with_effective else means


def patch_denoisers(
    bank: PatchBank | ImageBank,
    sizes: Sequence[Any],
    *,
    boundary: str = "periodic",
    with_effective: bool = False,
    block_size: int | None = None,
) -> Callable[..., Any]:
    r"""Build the exact patch score denoisers of several window sizes, which share one pass over the images.

    For every window size p in ``sizes``, with squared differences summed over channels,

    .. math::
        w_\mu(i) \propto \pi_\mu \exp\Big(-\frac{1}{2\sigma^2} \sum_{r \in \Omega_p} |x(i+r) - y_\mu(r)|^2\Big), \qquad
        D_i = \sum_\mu w_\mu(i)\, y_\mu(0),

    the same as ``patch_denoiser(ImageBank(images, p, positions=positions), boundary=boundary)``.

    Parameters
    ----------
    bank : ImageBank
        Training images (N, H, W, C), their prior, and which patches of each are candidates. The size of the bank itself
        is not used.
    sizes : sequence of int
        Different odd window sizes, at most ``min(H, W)``, in any order.
    boundary : "periodic" or "zero"
        How windows continue beyond the image, as for `patch_denoiser`; positions "interior" need "periodic".
    with_effective : bool
        Return exp(entropy of the weights) as well, at the cost of one more running sum.
    block_size : int, optional
        Images a block; bounds memory, changes no number beyond round-off.

    Returns
    -------
    callable
        ``(x (H, W, C), sigma ()) -> (len(sizes), H, W, C)`` in the order of ``sizes``, dtype of ``x``; with
        ``with_effective`` a NamedTuple of it, ``denoised``, and of the numbers of patches that share the posterior,
        ``effective`` (len(sizes), H, W). NaN where the prior excludes every image.

    Raises
    ------
    ValueError, TypeError
        On sizes that are even, repeated or too large, an illegal combination or option, another bank, or (at the call)
        an image whose shape is not that of the training images.

    Notes
    -----
    Exact. For "all" with zero padding and n sizes, O(N (H W)^2 (n + sum over sizes of (H + W))) operations, the
    second term in matrix products; one exponential a pair and size. Identical patches count each time that they occur,
    as in a bank. Memory O(n H W) times a block of images, independent of N, for values and forward derivatives.
    In float32 distances are sums of squared differences and need no compensated arithmetic at low noise. `jax.vmap`
    takes queries in turn, because one fills the cache: a batch costs what its members cost; several directions of a
    forward derivative share one pass. Reverse mode is not supported: use `patch_denoiser`. Source: Kamb & Ganguli 2024,
    arXiv:2412.20292; THEORY section 2.

    Example
    -------
    >>> images = np.linspace(-1, 1, 2 * 6 * 5, dtype=np.float32).reshape(2, 6, 5, 1)
    >>> denoise = patch_denoisers(ImageBank(images, 1), (1, 3, 5))
    >>> denoise(np.zeros((6, 5, 1), np.float32), 0.5).shape
    (3, 6, 5, 1)
    """
    if not isinstance(bank, ImageBank):
        raise TypeError(
            message("bank", "an ImageBank", type(bank).__name__, "a list of patches has one size")
        )
    check_option("boundary", boundary, ("periodic", "zero"))
    check(
        ("images", bank.positions, boundary, "centre") in LEGAL,
        "boundary",
        f"'periodic' with positions={bank.positions!r}",
        repr(boundary),
        "choose positions='all' for noiseless padding",
    )
    count, height, width, _ = bank.images.shape[-4:]
    sizes = _check_sizes(sizes, (height, width))
    if block_size is not None:
        block_size = check_count("block_size", block_size, least=1, advice="it counts images a block")
    block = min(count, block_size or least_overlap(count, max(1, PAIR_TARGET // (height * width))))
    options = _Options(sizes, bank.positions, boundary, bool(with_effective), block)
    return Partial(Static(_call, options), bank.images, bank.log_prior)
