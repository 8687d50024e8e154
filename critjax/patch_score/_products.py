"""Scores by matrix products: windows of the noisy image times a block of candidates.

A list of patches is multiplied as it is, by one convolution if ``method`` says so; training images are unfolded into
patches block by block. Leading axes of scores are (Q,), all windows, or for border rows (G, Q): the rows, each with its
own candidates, and the windows of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from critjax._typing import Array
from critjax.patch_score._plan import Plan, Route
from critjax.patch_score._scores import (
    Noise,
    add,
    energies,
    matmul,
    multiply,
    parts_of,
    priors,
    with_offsets,
    with_one,
)
from critjax.patch_score._windows import pad, unfold
from critjax.patch_score.softmax import Scores, lowest


class Candidates(NamedTuple):
    """A block of candidates."""

    windows: Array  # (B, K), one table a group, or patches (B, p, p, C)
    log_prior: Array  # (B,)
    allowed: np.ndarray | None = None  # (Q, B), of border rows


def lay_out(plan: Plan, route: Route, noise: Noise, x: Array) -> tuple[Array, ...]:
    """Lay out the noisy image (H, W, C) once, before the loop over blocks."""
    if plan.part == "columns":
        x = jnp.swapaxes(x, 0, 1)
    padded = pad(x, plan.size, plan.query_pad, axes=(0, 1))
    if route.method == "convolution":
        return parts_of(noise, padded, 0)
    if plan.part in ("rows", "columns"):
        windows = _border_rows(plan, padded[None], x.shape[0])[:, 0]
    else:
        windows = unfold(padded, plan.size)
        windows = windows.reshape(-1, windows.shape[-1])
    return with_one(parts_of(noise, windows, 0))


def _border_rows(plan: Plan, padded: Array, length: int) -> Array:
    """Unfold the windows of border rows only: (b, H', W', C) to (rows, b, W, K)."""
    rows = plan.border(length)[:, None] + np.arange(plan.size)
    strips = jnp.moveaxis(padded[:, rows], 1, 0)
    return unfold(strips, plan.size)[:, :, 0]


def candidates(plan: Plan, route: Route, row_block, block: Array, log_prior: Array) -> Candidates:
    """Unfold a block of images (b, H, W, C), or some of their rows; patches are candidates already."""
    if plan.kind == "patches":
        return Candidates(block, log_prior)
    if plan.part in ("rows", "columns"):
        block = jnp.swapaxes(block, 1, 2) if plan.part == "columns" else block
        count, length, width = block.shape[:3]
        windows = _border_rows(plan, pad(block, plan.size, plan.bank_pad, axes=(1, 2)), length)
        windows = windows.reshape(windows.shape[0], -1, windows.shape[-1])
        return Candidates(
            windows, jnp.repeat(log_prior, width), np.tile(_meeting_columns(plan, width), (1, count))
        )
    rows, columns = plan.bank_shape(block.shape)
    padded = pad(block, plan.size, plan.bank_pad, axes=(1, 2))
    log_prior = jnp.broadcast_to(log_prior[:, None, None], (len(block), route.rows, columns))
    if route.rows < rows:
        begin = row_block * route.rows
        first = jnp.minimum(begin, rows - route.rows)
        padded = lax.dynamic_slice_in_dim(padded, first, route.rows + plan.size - 1, axis=1)
        fresh = first + jnp.arange(route.rows) >= begin
        log_prior = jnp.where(fresh[:, None], log_prior, -jnp.inf)
    windows = unfold(padded, plan.size)
    return Candidates(windows.reshape(-1, windows.shape[-1]), log_prior.reshape(-1))


def _meeting_columns(plan: Plan, length: int) -> np.ndarray:
    """Pairs (query, training) of pixels along a row that noiseless padding permits: border pixels only themselves."""
    inside = ~np.isin(np.arange(length), plan.border(length))
    return np.where(inside[:, None], inside, np.eye(length, dtype=bool))


def scored(plan: Plan, route: Route, noise: Noise, layout, block: Candidates) -> tuple[Scores, Array]:
    """Return scores (..., Q, B) and what is read out (B, R), or one table a group."""
    bank, count = parts_of(noise, block.windows, 1), block.windows.shape[0]

    def correlate(a: Array, b: Array) -> Array:
        result = lax.conv_general_dilated(
            a[None],
            jnp.moveaxis(b, 0, -1),
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
        return result.reshape(-1, count)

    def product(a: Array, b: Array) -> Array:
        return matmul(a, jnp.swapaxes(b, -1, -2))

    if route.method == "convolution":
        added = add(energies(bank, (1, 2, 3)), priors(noise, block.log_prior))
        scores = add(multiply(correlate, layout, bank), added)
    else:
        if plan.kind == "patches":
            bank = tuple(part.reshape(count, -1) for part in bank)
        own = energies(bank, (-1,))
        added = add(
            own,
            Scores(
                *(
                    jnp.broadcast_to(a, own.high.shape)
                    for a in priors(noise, block.log_prior)
                    if a is not None
                )
            ),
        )
        scores = multiply(product, layout, with_offsets(bank, added, -1))
    if block.allowed is not None:
        scores = scores._replace(high=jnp.where(block.allowed, scores.high, lowest(scores.high.dtype)))
    values = block.windows
    if plan.kind == "patches":
        values = values.reshape(count, -1)
    if plan.readout == "centre":
        channels = values.shape[-1] // plan.size**2
        middle = plan.size**2 // 2 * channels
        values = values[..., middle : middle + channels]
    return scores, values
