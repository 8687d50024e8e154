"""A bank cut into blocks of candidates: what their posterior weights and moments are made of, and the pass over all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, widened
from critjax._typing import Array
from critjax.banks import ImageBank, PatchBank

EXACT = jax.lax.Precision.HIGHEST  # accelerators would otherwise round products to ten bits
# Numbers of candidates per block that kept a block's arrays within a core's cache when timed; any choice is
# exact.
_POSITIONS_PER_BLOCK = 2**14
_UNFOLDED_NUMBERS_PER_BLOCK = 2**18


class Block(NamedTuple):
    """Statistics of one block of n candidates, none of which depends on sigma."""

    log_prior: Array  # (n,)
    spread: Array  # (n,): sum over window and channels of the squared deviation from the window mean
    mean: Array  # (C, n): window mean per channel
    features: Array  # (F, n)
    entries: Callable[[Array], Array]  # rows (K, n) -> sum over n of rows[., n] entry[n], (K, G)


def working_dtype(bank: PatchBank | ImageBank) -> Any:
    """Return the dtype of all results: the bank's, but at least float32."""
    data = bank.patches if isinstance(bank, PatchBank) else bank.images
    return widened(data.dtype)


def _window_sums(y: Array, size: int) -> tuple[Array, Array]:
    """Return mean (C, h, w, B) and squared spread (h, w, B) of the windows of y (C, h + p - 1, w + p - 1, B).

    Rows are merged into windows by the parallel-axis theorem: O(p) operations per pixel instead of O(p^2),
    and every term is a square.
    """
    row_mean, row_spread = _merge_shifts(y, jnp.zeros_like(y), size, axis=2, weight=1)
    mean, spread = _merge_shifts(row_mean, row_spread, size, axis=1, weight=size)
    return mean, jnp.sum(spread, axis=0)


def _merge_shifts(mean: Array, spread: Array, size: int, axis: int, weight: int) -> tuple[Array, Array]:
    """Merge means and squared spreads of ``size`` neighbours along an axis, each made of ``weight`` pixels.

    A loop rather than a sum of slices, because compilers fuse the latter into every consumer, which would
    repeat it for each noise level.
    """
    length = mean.shape[axis] - size + 1

    def add(carry: tuple[Array, Array], q: Array) -> tuple[tuple[Array, Array], None]:
        total_mean, total_spread = carry
        new_mean, new_spread = (jax.lax.dynamic_slice_in_dim(a, q, length, axis) for a in (mean, spread))
        shift = new_mean - total_mean
        share = 1 / (q + 1).astype(mean.dtype)
        total_spread = total_spread + new_spread + weight * (1 - share) * shift**2
        return (total_mean + share * shift, total_spread), None

    start = (
        jax.lax.slice_in_dim(mean, 0, length, axis=axis),
        jax.lax.slice_in_dim(spread, 0, length, axis=axis),
    )
    # Two trips at least, or the loop would be inlined; as many shifts as possible in each, to spare memory traffic.
    unroll = max((n for n in range(1, (size - 1) // 2 + 1) if (size - 1) % n == 0), default=1)
    (total_mean, total_spread), _ = jax.lax.scan(add, start, jnp.arange(1, size), unroll=unroll)
    return total_mean, total_spread


def _slices(y: Array, size: int, axis: int) -> list[Array]:
    length = y.shape[axis] - size + 1
    return [jax.lax.slice_in_dim(y, q, q + length, axis=axis) for q in range(size)]


def _image_block(bank: ImageBank, readout: str, uniform: bool, images: Array, log_prior: Array) -> Block:
    """Prepare a block of whole images, laid out (C, h, w, B): with images innermost shifts are free."""
    size, dtype = bank.size, working_dtype(bank)
    before = (size - 1) // 2
    y = _image_layout(bank, images)
    channels, height, width, count = y.shape
    height, width = height - size + 1, width - size + 1
    if readout == "average" and not uniform:
        unfolded = jnp.stack([r for s in _slices(y, size, axis=1) for r in _slices(s, size, axis=2)])
        patches = unfolded.reshape(size, size, channels, -1).transpose(3, 0, 1, 2)
        log_prior = jnp.broadcast_to(log_prior, (height, width, count)).reshape(-1)
        return _patch_block(dtype, readout, uniform, patches, log_prior)
    mean, spread = _window_sums(y, size)

    def entries(rows: Array) -> Array:
        # Images are the contracted channel, image channels the batch, and the p x p positions the output. Of
        # the equivalent layouts only this one meets a fast route on a CPU.
        weights = jnp.transpose(rows.reshape(-1, height, width, count), (1, 2, 3, 0))
        out = jax.lax.conv_general_dilated(
            y, weights, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=EXACT
        )
        return jnp.transpose(out, (3, 1, 2, 0)).reshape(rows.shape[0], -1)

    log_prior = jnp.broadcast_to(log_prior.astype(dtype), spread.shape)
    features = mean if readout == "average" else y[:, before : before + height, before : before + width]
    # Flat, so that loops over candidates vectorise.
    return Block(
        log_prior.reshape(-1),
        spread.reshape(-1),
        mean.reshape(channels, -1),
        features.reshape(channels, -1),
        entries,
    )


def _patch_block(dtype: Any, readout: str, uniform: bool, patches: Array, log_prior: Array) -> Block:
    count, size = patches.shape[:2]
    patches = patches.astype(dtype)
    flat = patches.reshape(count, -1)
    mean = jnp.mean(patches, axis=(1, 2), keepdims=True)
    spread = jnp.sum((patches - mean) ** 2, axis=(1, 2, 3))
    middle = (size - 1) // 2
    mean = mean[:, 0, 0, :].T
    features = patches[:, middle, middle, :].T
    if readout == "average":
        features = mean if uniform else flat.T
    return Block(
        log_prior.astype(dtype),
        spread,
        mean,
        features,
        lambda rows: jnp.matmul(rows, flat, precision=EXACT),
    )


def make_block(
    bank: PatchBank | ImageBank, readout: str, uniform: bool, data: Array, log_prior: Array
) -> Block:
    """Prepare a block of the bank's candidates: patches, or images with all their windows."""
    if isinstance(bank, PatchBank):
        return _patch_block(working_dtype(bank), readout, uniform, data, log_prior)
    return _image_block(bank, readout, uniform, data, log_prior)


def candidates(bank: PatchBank | ImageBank) -> tuple[Array, Array]:
    """Return patches or images, and their log prior."""
    return bank.patches if isinstance(bank, PatchBank) else bank.images, bank.log_prior


def fold(
    step: Callable[[Any, tuple[Array, Array]], Any], carry: Any, bank: PatchBank | ImageBank, length: int
) -> Any:
    """Carry ``step(carry, (data, log_prior))`` through blocks of ``length`` candidates and what is left of them."""
    data = candidates(bank)
    whole = len(data[1]) // length
    if whole > 1:
        split = jax.tree.map(lambda a: a[: whole * length].reshape(whole, length, *a.shape[1:]), data)
        again = jax.checkpoint(lambda carry, part: (step(carry, part), None))
        carry, _ = jax.lax.scan(again, carry, split)
        data = jax.tree.map(lambda a: a[whole * length :], data)
    return step(carry, data) if len(data[1]) else carry


def check_block_size(block_size: Any) -> int | None:
    """Return a number of patches or images per block as an ``int``, None as it is, or raise `ValueError`."""
    if block_size is None:
        return None
    good = isinstance(block_size, (int, np.integer)) and not isinstance(block_size, bool) and block_size >= 1
    advice = "count patches or images per block"
    check(bool(good), "block_size", "an integer >= 1 or None", repr(block_size), advice)
    return int(block_size)


def block_length(bank: PatchBank | ImageBank, readout: str, uniform: bool, block_size: int | None) -> int:
    """Return the number of candidates (patches or images) of one block."""
    if isinstance(bank, PatchBank):
        count, positions = bank.patches.shape[0], 1
    else:
        count, height, width = bank.images.shape[:3]
        lost = 0 if bank.positions == "all" else bank.size - 1
        positions = (height - lost) * (width - lost)
    if block_size is not None:
        return min(block_size, count)
    target = _POSITIONS_PER_BLOCK
    if uniform:
        target *= 2
    elif readout == "average" or isinstance(bank, PatchBank):
        target = min(target, _UNFOLDED_NUMBERS_PER_BLOCK // (bank.size**2 * bank.channels))
    target = max(1, target // positions)
    if target >= count:
        return count
    # A divisor near the target spares a remainder, and with it a copy of the whole bank.
    divisors = [b for b in range((target + 1) // 2, min(2 * target, count) + 1) if count % b == 0]
    return min(divisors, key=lambda b: abs(np.log(b / target)), default=target)


def window_waves(bank: PatchBank | ImageBank, data: Array, wavevector: Array) -> Array:
    """Compute ``sum_r phi_c(r) exp(i k.r)`` for every candidate of a block, (C, n), windows unformed for images."""
    size = bank.size
    before = (size - 1) // 2
    offsets = jnp.arange(size) - before
    along = [jnp.exp(1j * k * offsets) for k in wavevector]
    if isinstance(bank, PatchBank):
        return jnp.einsum("npqc,p,q->cn", data.astype(working_dtype(bank)), *along, precision=EXACT)
    waves = _image_layout(bank, data)
    for axis, weights in zip((1, 2), along, strict=True):
        waves = jnp.tensordot(weights, jnp.stack(_slices(waves, size, axis)), 1, precision=EXACT)
    return waves.reshape(waves.shape[0], -1)


def _image_layout(bank: ImageBank, images: Array) -> Array:
    """Lay images out (C, h, w, B), extended so that every training window lies inside."""
    before, after = (bank.size - 1) // 2, bank.size // 2
    y = jnp.transpose(images, (3, 1, 2, 0)).astype(working_dtype(bank))
    if bank.positions == "all":
        y = jnp.pad(y, ((0, 0), (before, after), (before, after), (0, 0)), mode="wrap")
    return y
