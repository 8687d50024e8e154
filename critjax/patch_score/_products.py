"""Scores by matrix products: windows of the noisy image times a block of candidates.

A list of patches is multiplied as it is, by one convolution if ``method`` says so; training images are unfolded into
patches block by block. Leading axes of scores are those of the windows. A border row meets itself alone, so there
products of columns of p pixels are summed along the row: few windows share the candidates of a row, and unfolding them
would cost more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
from critjax.patch_score._windows import pad, run_sum, unfold
from critjax.patch_score.softmax import Scores, lowest


class Candidates(NamedTuple):
    """A block of candidates."""

    numbers: (
        Array  # (B, K) windows, or (B, p, p, C) patches, or (G, W + p - 1, b, p C) columns of border rows
    )
    values: Array  # (B, R), or for border rows (G, B, R): what is read out
    log_prior: Array  # (B,)
    allowed: Any = None  # (Q, B), of border rows


def lay_out(plan: Plan, route: Route, noise: Noise, x: Array) -> tuple[Array, ...]:
    """Lay out the noisy image (H, W, C) once, before the loop over blocks."""
    if plan.part == "columns":
        x = jnp.swapaxes(x, 0, 1)
    padded = pad(x, plan.size, plan.query_pad, axes=(0, 1))
    if route.method == "convolution":
        return parts_of(noise, padded, 0)
    if plan.is_border:
        return with_one(parts_of(noise, _border_columns(plan, padded[None], x.shape[0])[:, :, 0], 0))
    return with_one(parts_of(noise, unfold(padded, plan.size), 0))


def _border_columns(plan: Plan, padded: Array, length: int) -> Array:
    """Cut columns of p pixels along border rows: (b, H', W', C) to (rows, W', b, p C)."""
    rows = plan.border(length)[:, None] + np.arange(plan.size)
    columns = jnp.transpose(padded[:, rows], (1, 3, 0, 2, 4))
    return columns.reshape(*columns.shape[:3], -1)


def candidates(plan: Plan, route: Route, row_block, block: Array, log_prior: Array) -> Candidates:
    """Lay out a block of images (b, H, W, C), or some of their rows; patches are candidates already."""
    if plan.kind == "patches":
        flat = block.reshape(len(block), -1)
        return Candidates(block if route.method == "convolution" else flat, _read(plan, flat), log_prior)
    if plan.is_border:
        block = jnp.swapaxes(block, 1, 2) if plan.part == "columns" else block
        count, length, width, channels = block.shape
        columns = _border_columns(plan, pad(block, plan.size, plan.bank_pad, axes=(1, 2)), length)
        values = jnp.transpose(block[:, plan.border(length)], (1, 2, 0, 3))
        allowed = np.repeat(_meeting_columns(plan, width), count, axis=1)
        values = values.reshape(len(values), -1, channels)
        return Candidates(columns, values, jnp.tile(log_prior, width), allowed)
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
    windows = windows.reshape(-1, windows.shape[-1])
    return Candidates(windows, _read(plan, windows), log_prior.reshape(-1))


def _read(plan: Plan, windows: Array) -> Array:
    """Return what is read out of windows (B, K): their centre, or all of them."""
    if plan.readout == "average":
        return windows
    channels = windows.shape[-1] // plan.size**2
    middle = plan.size**2 // 2 * channels
    return windows[:, middle : middle + channels]


def _meeting_columns(plan: Plan, length: int) -> np.ndarray:
    """Pairs (query, training) of pixels along a row that noiseless padding permits: border pixels only themselves."""
    inside = ~np.isin(np.arange(length), plan.border(length))
    return np.where(inside[:, None], inside, np.eye(length, dtype=bool))


def scored(plan: Plan, route: Route, noise: Noise, layout, block: Candidates) -> tuple[Scores, Array]:
    """Return scores (rows, columns, B) and what is read out."""
    bank, prior = parts_of(noise, block.numbers, 1), priors(noise, block.log_prior)
    if route.method == "convolution":
        own = add(energies(bank, (1, 2, 3)), prior)
        return add(multiply(_correlate, layout, bank), own), block.values
    if not plan.is_border:
        own = energies(bank, (-1,))
        return multiply(_product, layout, with_offsets(bank, add(own, prior), -1)), block.values
    bank = tuple(part.reshape(len(part), -1, part.shape[-1]) for part in bank)
    columns = multiply(_product, layout, with_offsets(bank, energies(bank, (-1,)), -1))
    count = block.numbers.shape[2]

    def along_rows(scores: Array) -> Array:
        groups, width = scores.shape[:2]
        sums = run_sum(scores.reshape(groups, width, width, count), plan.size, (1, 2))
        return sums.reshape(*sums.shape[:2], -1)

    scores = add(Scores(*map(along_rows, columns)), prior)
    return scores._replace(
        high=jnp.where(block.allowed, scores.high, lowest(scores.high.dtype))
    ), block.values


def _product(windows: Array, candidates: Array) -> Array:
    return matmul(windows, jnp.swapaxes(candidates, -1, -2))


def _correlate(image: Array, patches: Array) -> Array:
    result = lax.conv_general_dilated(
        image[None],
        jnp.moveaxis(patches, 0, -1),
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return result[0]
