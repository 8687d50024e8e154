r"""Every patch of every training image: scores of all pixels against one row of training windows at a time.

Training images are laid out as strips: ``strips[j]`` holds, for every column, the ``p C`` values of image row j that a
window starting in that column covers. The window of training row j is then a run of strips, ``strips[j : j + p]``,
with no further copying, and two neighbouring rows share all but two strips. With ``c(i, j)`` the correlation of the
noisy window in row i with the training window in row j,

    c(i + 1, j + 1) = c(i, j) + x_strip[i + p] . strip[j + p] - x_strip[i] . strip[j],

a product over ``2 p C`` numbers a pair instead of ``p^2 C``. The walk goes down the training rows in segments; each
segment starts from a full product, so that rounding does not pile up, and the sums live in slots: during step t of a
segment, slot s holds the noisy windows of row s + t. Segments of about two windows spread the full product over its
rows, so that the cost of a pair grows with p, not with p^2. A segment of one row is the plain blocked product, and the
only one that serves reductions with fixed arrays, because those are not turned.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from critjax._typing import Array
from critjax.patch_score._plan import Plan, Query
from critjax.patch_score._scores import (
    Features,
    Split,
    Wide,
    add_scores,
    common_shift,
    excluded_logit,
    features,
    half_squares,
    matmul,
    offsets,
    score_changes,
    scores,
)
from critjax.patch_score._windows import pad, unfold, unfold_rows


def _segment(plan: Plan, split: bool) -> int:
    """Return how many training rows a segment has; accurate sums hardly round, and go through."""
    if plan.method != "box":
        return 1
    return plan.num_rows if split else -(-plan.num_rows // -(-plan.num_rows // (2 * plan.size + 2)))


class Layout(NamedTuple):
    """The noisy image as rows of products, for full products and for steps from one row to the next."""

    start: Features  # leading axes (H, W)
    #: Leading axes (2 H, W), the rows twice: row i leads from the windows of row i to those of row i + 1.
    moves: Features | None


def lay_out(plan: Plan, query: Query) -> Layout:
    """Lay out the noisy image once, before the loop over blocks."""
    padded = pad(query.x, plan.size, plan.query_pad, axes=(0, 1))
    windows = unfold(padded, plan.size)
    start = features(query, windows, common_shift(query, windows, plan.size))
    if plan.method != "box":
        return Layout(start, None)
    height = windows.shape[0]
    strips = unfold_rows(padded, plan.size)
    # Under the windows of the last row and of the first, which follows it, lies one strip: number H - 1 + p is p - 1.
    leaving, entering = strips[:height], jnp.concatenate([strips[plan.size :], strips[plan.size - 1][None]])
    change = jnp.sum(leaving**2 - entering**2, axis=-1, keepdims=True) / (2 * query.sigma**2)
    moves = features(query, jnp.concatenate([entering, -leaving], axis=-1), change)
    return Layout(start, jax.tree.map(lambda a: jnp.concatenate([a, a]), moves))


def allowed_rows(length: int, size: int) -> np.ndarray:
    """Pairs (query row, training row) that noiseless padding permits: border rows only themselves."""
    reach = (size - 1) // 2
    index = np.arange(length)
    interior = (index >= reach) & (index < length - reach)
    return np.where(interior[:, None], interior[None, :], np.eye(length, dtype=bool))


def cut_strips(plan: Plan, images: Array) -> Array:
    """Cut images (b, H, W, C) into strips (H', p C, b W), with rows of zeros to fill the last segment."""
    images = pad(images, plan.size, plan.bank_pad, axes=(1, 2))
    strips = jnp.transpose(unfold_rows(images, plan.size), (1, 3, 0, 2))
    missing = -plan.num_rows % _segment(plan, split=False)
    return jnp.pad(strips.reshape(*strips.shape[:2], -1), ((0, missing), (0, 0), (0, 0)))


class _Bank(NamedTuple):
    """One block of training images."""

    strips: Array  # (H', p C, B), B = images times columns
    energies: tuple[Array, ...]  # half squares of the strips, (H', B) each
    log_prior: Array  # (B,)
    changes: tuple[Array, ...]  # `_row_changes`; empty where every row starts afresh


def _cut(array: Array, first, count: int) -> Array:
    return lax.dynamic_slice_in_dim(array, first, count, axis=0)


def _flat(rows: Features) -> Features:
    """Merge rows and columns: (H, W, K) to (H W, K)."""
    return jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), rows)


def _full(plan: Plan, query: Query, bank: _Bank, row) -> Array | Split | Wide:
    """Score all windows against training row ``row``, from nothing."""
    size = plan.size
    window = _cut(bank.strips, row, size).reshape(-1, bank.strips.shape[-1])
    energies = tuple(_cut(part, row, size) for part in bank.energies)
    return scores(query, _flat(query.layout.start), window, offsets(query, energies, bank.log_prior))


def _row_changes(
    plan: Plan, query: Query, energies: tuple[Array, ...], log_prior: Array
) -> tuple[Array, ...]:
    """Compute what is added to the correlations' changes; entry j leads from training row j to the next, (H' - p, B).

    All at once, because XLA would fold the few operations of one row into the passes over the pairs.
    """
    kept = jnp.isfinite(log_prior)
    changes = [jnp.where(kept, part[: -plan.size] - part[plan.size :], 0) for part in energies]
    if not query.wide and len(changes) == 1:
        # Plain sums go in segments, the last of which may reach beyond the rows that exist.
        beyond = jnp.arange(changes[0].shape[0])[:, None] == plan.num_rows - 1
        lowest = jnp.where(beyond, excluded_logit(log_prior.dtype), 0)
        changes = [changes[0] / query.sigma**2 + lowest]
    return tuple(changes)


def _step(plan: Plan, query: Query, bank: _Bank, row, step) -> Array | Split | Wide:
    """Change of all scores on the way to training row ``row``, the one numbered ``step`` of its segment."""
    entering, leaving = row + plan.size - 1, row - 1
    if len(bank.changes) == 1:
        # One gather, because nothing else is done to the strips: XLA would copy two slices number by number.
        strips = bank.strips[jnp.stack([entering, leaving])].reshape(-1, bank.strips.shape[-1])
    else:
        strips = jnp.concatenate([bank.strips[entering], bank.strips[leaving]])
    height = query.x.shape[0]
    moves = jax.tree.map(lambda a: _cut(a, step - 1, height), query.layout.moves)
    return score_changes(query, _flat(moves), strips, tuple(part[leaving] for part in bank.changes))


def fold_images(plan: Plan, query: Query, block, state, reduce, combine, split: bool):
    """Feed all windows of a block (`cut_strips`, prior of the images) through the reduction, row by row."""
    strips, log_prior = block
    size, shape, channels = plan.size, query.x.shape, query.x.shape[-1]
    columns = strips.shape[-1] // log_prior.shape[0]
    num_rows = plan.num_rows
    length = _segment(plan, split)
    energies, log_prior_of = half_squares(query, strips, 1, split), jnp.repeat(log_prior, columns)
    changes = _row_changes(plan, query, energies, log_prior_of) if length > 1 else ()
    bank = _Bank(strips, energies, log_prior_of, changes)
    allowed = None
    if plan.boundary == "zero":
        by_row = jnp.asarray(allowed_rows(num_rows, size).T)
        by_column = jnp.repeat(jnp.asarray(allowed_rows(columns, size))[:, None], log_prior.shape[0], axis=1)
        allowed = by_row[:, :, None, None], by_column.reshape(columns, -1)

    def consume(state, logits: Array | Split | Wide, row, step):
        logits = jax.tree.map(lambda a: a.reshape(*shape[:2], -1) if a.ndim else a, logits)
        if plan.readout == "average":
            values = _cut(bank.strips, row, size).reshape(size * size * channels, -1)
        else:
            middle = size // 2
            values = bank.strips[row + middle, middle * channels : (middle + 1) * channels]
        table = jnp.concatenate([jnp.ones_like(values[:1]), values]).T
        mask = None if allowed is None else allowed[0][row] & allowed[1]
        result = reduce(query.fixed, logits, mask, lambda weights: matmul(weights, table))
        if length > 1:  # from slots back to rows
            result = jax.tree.map(lambda a: jnp.roll(a, step, axis=0), result)
        return combine(state, result)

    def advance(row, carry, step):
        sums, state = carry
        sums = add_scores(sums, _step(plan, query, bank, row + step, step))
        return (sums, consume(state, sums, row + step, step)), None

    def visit(state, segment):
        row = segment * length
        sums = _full(plan, query, bank, row)
        state = consume(state, sums, row, 0)
        if length == 1:
            return state, None
        (_, state), _ = lax.scan(functools.partial(advance, row), (sums, state), jnp.arange(1, length))
        return state, None

    state, _ = lax.scan(jax.checkpoint(visit), state, jnp.arange(-(-num_rows // length)))
    return state
