"""Windows of images: padding, unfolding, box sums, and the adjoint that lays patches back onto the image."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from critjax._typing import Array


def pad(image: Array, size: int, mode: str, *, axes: tuple[int, int]) -> Array:
    """Extend two axes so that a ``size`` window fits at every pixel: "wrap", "zero", or "none" (no extension)."""
    if mode == "none" or size == 1:
        return jnp.asarray(image)
    widths = [(0, 0)] * image.ndim
    for axis in axes:
        widths[axis] = ((size - 1) // 2, size // 2)
    return jnp.pad(image, widths, mode="wrap" if mode == "wrap" else "constant")


def box_sum(array: Array, size: int, *, axes: tuple[int, int]) -> Array:
    """Sum over every ``size`` x ``size`` window of a padded array by doubling, O(log size) additions per axis."""
    for axis in axes:
        array = run_sum(array, size, (axis,))
    return array


def run_sum(array: Array, size: int, axes: tuple[int, ...]) -> Array:
    """Sum over runs of ``size`` entries along an axis, or along the diagonal of several axes of one length."""
    length = array.shape[axes[0]] - size + 1

    def cut(values: Array, start: int, count: int) -> Array:
        index = [slice(None)] * values.ndim
        for axis in axes:
            index[axis] = slice(start, start + count)
        return values[tuple(index)]

    total, offset = jnp.zeros_like(cut(array, 0, length)), 0
    power, width = array, 1  # power[i] holds the sum of `width` entries from i on
    while width <= size:
        if size & width:
            total = total + cut(power, offset, length)
            offset += width
        if 2 * width <= size:
            count = power.shape[axes[0]] - width
            power = cut(power, 0, count) + cut(power, width, count)
        width *= 2
    return total


def _runs(array: Array, size: int, axis: int) -> Array:
    """Replace ``axis`` by two: where a run of ``size`` entries starts, and the entry in it.

    One gather: slices and a concatenation compute the same, but cost the compiler tens of megabytes.
    """
    starts = np.arange(array.shape[axis] - size + 1)
    index = (slice(None),) * (axis % array.ndim) + (starts[:, None] + np.arange(size),)
    return array.at[index].get(mode="promise_in_bounds")


def unfold(image: Array, size: int, width: int | None = None) -> Array:
    """Stack all windows of ``size`` rows and ``width`` (or ``size``) columns of a padded image.

    ``(..., H, W, C)`` to ``(..., Ho, Wo, size width C)``; rows lead.
    """
    windows = jnp.swapaxes(_runs(unfold_rows(image, width or size), size, -3), -3, -2)
    return windows.reshape(*windows.shape[:-2], -1)


def unfold_rows(image: Array, size: int) -> Array:
    """Stack windows along columns only: ``(..., H, W, C)`` to ``(..., H, Wo, size C)``."""
    windows = _runs(image, size, -2)
    return windows.reshape(*windows.shape[:-2], -1)


def overlap_mean(
    patches: Array, size: int, channels: int, shape: tuple[int, int], *, periodic: bool
) -> Array:
    """Average whole-patch estimates ``(Hq, Wq, P C)`` over the windows that cover each pixel, giving (H, W, C).

    Periodic windows are anchored like `pad` ("wrap"), every pixel is covered ``P`` times; else windows lie inside
    the image and the cover count falls towards the border.
    """
    height, width = shape
    rows, columns = patches.shape[:2]
    patches = patches.reshape(rows, columns, size, size, channels)
    before = (size - 1) // 2
    total = jnp.zeros((height, width, channels), patches.dtype)
    if periodic:
        for i in range(size):
            for j in range(size):
                total = total + jnp.roll(patches[:, :, i, j], (i - before, j - before), (0, 1))
        return total / (size * size)
    for i in range(size):
        for j in range(size):
            total = total.at[i : i + rows, j : j + columns].add(patches[:, :, i, j])
    return total / _cover_count(rows, columns, size, patches.dtype)[..., None]


def _cover_count(rows: int, columns: int, size: int, dtype) -> Array:
    """Count the contained windows that cover each pixel."""

    def count(length: int) -> Array:
        index = jnp.arange(length + size - 1)
        last, first = jnp.minimum(index, length - 1), jnp.maximum(index - size + 1, 0)
        return (last - first + 1).astype(dtype)

    return count(rows)[:, None] * count(columns)
