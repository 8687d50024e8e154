"""Evaluation routes: how scores of a block of candidates are computed, all equal to round-off.

A route turns one block of the bank into scores for all windows and hands them, with the candidates on the last axis,
to a *reduction* (the softmax of the block, or its derivative), whose results *combine* over blocks.

================  =========================================================================================
``"convolution"``  few patches: scores by one convolution with the patches as filters
``"product"``      blocked matrix product of unfolded windows and unfolded patches
``"box"``          image banks: scores of one training row follow from those of the row above by adding one strip of
                   the window and removing one, and strips are sums of shorter ones (`_images`); for
                   ``positions="same"`` box sums of squared differences
================  =========================================================================================

A reduction takes ``(fixed, scores, allowed, contract)`` and returns arrays with leading axes (H, W):

- ``fixed``: the arrays of `Query.fixed`, at the windows that the scores belong to;
- ``scores`` (H, W, B): logits in plain arithmetic, else accurate scores, a `Split` or `Wide`;
- ``allowed``: None or a boolean array that broadcasts to (H, W, B);
- ``contract``: weights (H, W, B) -> (H, W, 1 + R), their sum and their sum times the readout values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from critjax._typing import Array
from critjax.patch_score import _images
from critjax.patch_score._plan import Plan, Query
from critjax.patch_score._scores import (
    EXCLUDED_SCORE,
    Split,
    Wide,
    common_shift,
    excluded_logit,
    features,
    half_squares,
    matmul,
    offsets,
    prior_offsets,
    scores,
    unit,
)
from critjax.patch_score._split import head
from critjax.patch_score._windows import box_sum, pad, unfold

Reduce = Callable[[Any, Array | Split | Wide, Array | None, Callable[[Array], Array]], Any]
Combine = Callable[[Any, Any], Any]


def lay_out(plan: Plan, query: Query) -> Any:
    """Lay out the noisy image (H, W, C) once, before the loop over blocks."""
    if plan.positions == "same":
        return query.x
    if plan.kind == "images":
        return _images.lay_out(plan, query)
    padded = pad(query.x, plan.size, plan.query_pad, axes=(0, 1))
    if plan.method == "convolution":
        return padded
    windows = unfold(padded, plan.size)
    return features(query, windows, common_shift(query, windows, plan.size))


def prepare(plan: Plan, candidates: Array) -> Array:
    """Lay out one block of candidates, for either arithmetic."""
    if plan.kind == "images" and plan.positions != "same":
        return _images.cut_strips(plan, candidates)
    return candidates


def fold(
    plan: Plan,
    query: Query,
    block: tuple[Array, Array],
    state: Any,
    reduce: Reduce,
    combine: Combine,
    split: bool,
) -> Any:
    """Feed one prepared block of the bank through the reduction; ``split`` selects accurate scores.

    A ``state`` of None stands for nothing yet: the block's own result is returned.
    """
    if plan.kind == "images" and plan.positions != "same":
        return _images.fold_images(plan, query, block, state, reduce, combine, split)
    logits, contract = (_same if plan.kind == "images" else _patches)(plan, query, *block, split)
    result = reduce(query.fixed, logits, None, contract)
    return result if state is None else combine(state, result)


def _patches(plan: Plan, query: Query, patches: Array, log_prior: Array, split: bool):
    """Score patches (B, p, p, C) at every pixel."""
    count = patches.shape[0]
    energies = half_squares(query, jnp.moveaxis(patches, 0, -1), (1, 2), split)
    added = offsets(query, energies, prior_offsets(query, log_prior, split))
    if plan.method == "convolution":
        logits = _convolution(query, patches, added)
    else:
        logits = scores(query, query.layout, patches.reshape(count, -1).T, added)
    values = patches if plan.readout == "average" else patches[:, plan.size // 2, plan.size // 2]
    values = values.reshape(count, -1)
    table = jnp.concatenate([jnp.ones_like(values[:, :1]), values], axis=1)
    return logits, lambda weights: matmul(weights, table)


def _convolution(query: Query, patches: Array, added: tuple[Array, ...]) -> Array | Split | Wide:
    """Score a padded image (H', W', C) against patches (B, p, p, C)."""

    def correlate(a: Array, b: Array) -> Array:
        return lax.conv_general_dilated(
            a[None],
            jnp.moveaxis(b, 0, -1),
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )[0]

    if len(added) == 1:
        return correlate(query.layout / query.sigma**2, patches) + jnp.sum(added[0], axis=0)
    x_heads, heads = head(query.layout, query.grid.x), head(patches, query.grid.bank)
    x_both = jnp.concatenate([x_heads, query.layout - x_heads], axis=-1)
    low = correlate(x_both, jnp.concatenate([patches - heads, patches], axis=-1))
    return Split(correlate(x_heads, heads) + added[0], low + added[1], unit(query))


def _same(plan: Plan, query: Query, images: Array, log_prior: Array, split: bool):
    """Score images (B, H, W, C) at the same position: box sums of squared differences."""
    difference = query.x - images
    squares = jnp.moveaxis(jnp.sum(difference * difference, axis=-1), 0, -1)
    squares = pad(squares, plan.size, plan.query_pad, axes=(0, 1))

    def score(values: Array) -> Array:
        return -0.5 * box_sum(values, plan.size, axes=(0, 1))

    if split:
        coarse = head(squares, query.grid.squares)
        kept = jnp.isfinite(log_prior)
        high = jnp.where(kept, score(coarse), EXCLUDED_SCORE)
        low = score(squares - coarse) + jnp.where(kept, log_prior, 0) * query.sigma**2
        logits = Split(high, low, 0.5 * query.grid.squares)
    else:
        logits = jnp.maximum(score(squares) / query.sigma**2 + log_prior, excluded_logit(squares.dtype))
    values = images
    if plan.readout == "average":
        values = unfold(pad(images, plan.size, plan.query_pad, axes=(1, 2)), plan.size)

    def contract(weights: Array) -> Array:
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mean = jnp.sum(weights[..., None] * jnp.moveaxis(values, 0, 2), axis=2)
        return jnp.concatenate([total, mean], axis=-1)

    return logits, contract
