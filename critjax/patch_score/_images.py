r"""Every patch of every training image: scores of all pixels against one row of training windows at a time.

Training images are laid out as strips: ``strips[j]`` holds, for every column, the ``w C`` values of image row j from
that column on, and a block of ``p x w`` pixels is a run of strips, ``strips[j : j + p]``, with no further copying.

*Products* (``w = p``) score all windows against one training row at a time, over ``p^2 C`` numbers a pair.

*Box sums* go from one row to the next. With ``c(i, j)`` the correlation of the noisy window in row i with the training
window in row j,

    c(i + 1, j + 1) = c(i, j) + x_strip[i + p] . strip[j + p] - x_strip[i] . strip[j],

where two neighbouring rows of windows share all but two strips. Along a row, in turn, the product of two long strips is
a sum over products of short ones, which neighbouring columns share: ``e(k, l) + e(k + w, l + w) + ...``, with e the
product of the strips in noisy column k and training column l (`Cover`). So a step is one product over ``2 w C`` numbers
a pair and a few additions (`strip_width`; elsewhere than on a CPU, ``w = p``).

The walk goes down the training rows in segments; each segment starts from full sums, so that rounding does not pile up,
and the sums live in slots: during step t of a segment, slot s holds the noisy windows of row s + t. Segments of about
two windows spread the start over its rows. Segments of one row are what products use, and what serves reductions with
fixed arrays, because those are not turned.
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
    add_offsets,
    add_scores,
    common_shift,
    correlations,
    excluded_logit,
    features,
    half_squares,
    map_scores,
    matmul,
    offsets,
    prior_offsets,
    scores,
)
from critjax.patch_score._windows import pad, unfold, unfold_rows

#: What an addition to all pairs costs, in products over one number, and as much again a second, narrower product
#: (benchmarks/README.md).
ADDITION_COST = 2.0


class Cover(NamedTuple):
    """Strips side by side that cover part of a row of the window."""

    width: int
    first: int  # column of the window where they start
    repeats: int

    @property
    def shifts(self) -> range:
        """How far to the right of the first strip each one lies."""
        return range(0, self.repeats * self.width, self.width)


def covers(plan: Plan) -> tuple[Cover, ...]:
    """Cover a row of the window by strips of `Plan.strip` pixels, and a narrower one for the rest."""
    repeats, rest = divmod(plan.size, plan.strip)
    whole = Cover(plan.strip, 0, repeats)
    return (whole, Cover(rest, plan.size - rest, 1)) if rest else (whole,)


def strip_width(size: int, channels: int, columns: int) -> int:
    """Choose the strips of box sums that cost least: short ones make products over few numbers, but more additions.

    For ``columns`` windows of a training row, strips of ``size - width`` more columns are needed.
    """

    def cost(width: int) -> float:
        repeats, rest = divmod(size, width)
        numbers = width * (columns + size - width) / columns + rest
        return channels * numbers + ADDITION_COST * (repeats + 2 * (rest > 0))

    return min((size, *range(1, size // 2 + 1)), key=cost)


def _segment(plan: Plan, split: bool) -> int:
    """Return how many training rows a segment has; accurate sums hardly round, and go through."""
    if plan.method != "box":
        return 1
    return plan.num_rows if split else -(-plan.num_rows // -(-plan.num_rows // (2 * plan.size + 2)))


class Layout(NamedTuple):
    """The noisy image as rows of products, for full sums and for steps from one row to the next."""

    start: tuple[Features, ...]  # of every `Cover`, leading axes (H, W)
    #: The rows twice, leading axes (2 H, W): row i leads from the windows of row i to those of row i + 1.
    moves: tuple[Features, ...]
    shifts: Array | None  # (2 H, W), how `common_shift` changes on the way


def lay_out(plan: Plan, query: Query) -> Layout:
    """Lay out the noisy image once, before the loop over blocks."""
    padded = pad(query.x, plan.size, plan.query_pad, axes=(0, 1))
    width = padded.shape[1] - plan.size + 1
    start, moves, shifts = [], [], []
    for cover in covers(plan):
        part = padded[:, cover.first : cover.first + width + cover.width - 1]
        blocks = unfold(part, plan.size, cover.width)
        start.append(features(query, blocks, common_shift(query, blocks, plan.size)))
        if plan.method == "box":
            height, strips = blocks.shape[0], unfold_rows(part, cover.width)
            # Under the windows of the last row and of the first, which follows it, lies one strip: number H - 1 + p
            # is p - 1.
            entering = jnp.concatenate([strips[plan.size :], strips[plan.size - 1][None]])
            leaving = strips[:height]
            row = features(query, jnp.concatenate([entering, -leaving], axis=-1))
            moves.append(jax.tree.map(lambda a: jnp.concatenate([a, a]), row))
            change = jnp.sum(leaving**2 - entering**2, axis=-1) / (2 * query.sigma**2)
            shifts += [jnp.roll(change, -shift, axis=1) for shift in cover.shifts]
    return Layout(tuple(start), tuple(moves), jnp.tile(sum(shifts), (2, 1)) if shifts else None)


def allowed_rows(length: int, size: int) -> np.ndarray:
    """Pairs (query row, training row) that noiseless padding permits: border rows only themselves."""
    reach = (size - 1) // 2
    index = np.arange(length)
    interior = (index >= reach) & (index < length - reach)
    return np.where(interior[:, None], interior[None, :], np.eye(length, dtype=bool))


def cut_strips(plan: Plan, images: Array) -> Array:
    """Cut images (b, H, W, C) into strips (H', w C, columns b), with rows of zeros to fill the last segment."""
    images = pad(images, plan.size, plan.bank_pad, axes=(1, 2))
    strips = jnp.transpose(unfold_rows(images, plan.strip), (1, 3, 2, 0))
    missing = -plan.num_rows % _segment(plan, split=False)
    return jnp.pad(strips.reshape(*strips.shape[:2], -1), ((0, missing), (0, 0), (0, 0)))


class _Bank(NamedTuple):
    """One block of b training images; B = columns of windows times images."""

    strips: tuple[Array, ...]  # of every `Cover` (H', w C, B + what its repetitions lie further to the right)
    energies: tuple[tuple[Array, ...], ...]  # half squares of the strips, without their second axis
    log_prior: Array  # (B,)
    changes: tuple[Array, ...]  # `_row_changes`; empty where every row starts afresh
    count: int  # b


def _cut(array: Array, first, count: int) -> Array:
    return lax.dynamic_slice_in_dim(array, first, count, axis=0)


def _flat(rows: Features) -> Features:
    """Merge rows and columns: (H, W, K) to (H W, K)."""
    return jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), rows)


def _join(plan: Plan, bank: _Bank, shape: tuple[int, ...], parts) -> Array | Split | Wide:
    """Add up what the strips of every `Cover` contribute to windows: (H W, their columns) to (H, W, B)."""

    def place(part: Array, shift: int) -> Array:
        first = shift * bank.count
        columns = part.reshape(*shape[:2], -1)[:, :, first : first + bank.log_prior.shape[0]]
        if not shift:
            return columns
        # The noisy image is periodic wherever a window is more than one strip. A gather, because XLA adds up rolled
        # arrays, which are concatenations, up to ten times as slowly.
        index = (np.arange(shape[1]) + shift) % shape[1]
        return columns.at[:, index].get(mode="promise_in_bounds")

    placed = [
        map_scores(functools.partial(place, shift=shift), part)
        for cover, part in zip(covers(plan), parts, strict=True)
        for shift in cover.shifts
    ]
    return functools.reduce(add_scores, placed)


def _full(plan: Plan, query: Query, bank: _Bank, row, split: bool) -> Array | Split | Wide:
    """Score all windows against training row ``row``, from nothing."""
    prior = prior_offsets(query, bank.log_prior, split)
    alone = plan.strip == plan.size
    parts = []
    for start, strips, energies in zip(query.layout.start, bank.strips, bank.energies, strict=True):
        block = _cut(strips, row, plan.size).reshape(-1, strips.shape[-1])
        added = offsets(
            query, tuple(_cut(part, row, plan.size) for part in energies), prior if alone else None
        )
        parts.append(scores(query, _flat(start), block, added))
    total = _join(plan, bank, query.x.shape, parts)
    return total if alone else add_offsets(total, prior)


def _row_changes(plan: Plan, query: Query, bank: _Bank, split: bool) -> tuple[Array, ...]:
    """Compute what is added to the correlations' changes; entry j leads from training row j to the next, (H' - p, B).

    All at once, because XLA would fold the few operations of one row into the passes over the pairs.
    """
    num_windows = bank.log_prior.shape[0]

    def whole_rows(number: int) -> Array:
        parts = [
            energies[number][:, shift * bank.count :][:, :num_windows]
            for cover, energies in zip(covers(plan), bank.energies, strict=True)
            for shift in cover.shifts
        ]
        return functools.reduce(jnp.add, parts)

    kept = jnp.isfinite(bank.log_prior)
    rows = [whole_rows(number) for number in range(len(bank.energies[0]))]
    changes = [jnp.where(kept, part[: -plan.size] - part[plan.size :], 0) for part in rows]
    if not query.wide and not split:
        # Plain sums go in segments, the last of which may reach beyond the rows that exist.
        beyond = jnp.arange(changes[0].shape[0])[:, None] == plan.num_rows - 1
        lowest = jnp.where(beyond, excluded_logit(bank.log_prior.dtype), 0)
        changes = [changes[0] / query.sigma**2 + lowest]
    return tuple(changes)


def _step(plan: Plan, query: Query, bank: _Bank, row, step, split: bool) -> Array | Split | Wide:
    """Change of all scores on the way to training row ``row``, the one numbered ``step`` of its segment."""
    entering, leaving = row + plan.size - 1, row - 1
    shape, layout = query.x.shape, query.layout
    first = (step - 1) % shape[0]  # training images may have more rows
    parts = []
    for moves, strips in zip(layout.moves, bank.strips, strict=True):
        if query.wide or not split:
            # One gather, because nothing else is done to the strips: XLA would copy two slices number by number.
            pair = strips[jnp.stack([entering, leaving])].reshape(-1, strips.shape[-1])
        else:
            pair = jnp.concatenate([strips[entering], strips[leaving]])
        rows = jax.tree.map(lambda a: _cut(a, first, shape[0]), moves)
        parts.append(correlations(query, _flat(rows), pair, split))
    change = _join(plan, bank, shape, parts)
    added = tuple(part[leaving] for part in bank.changes)
    if not query.wide and not split:
        added = (added[0] + _cut(layout.shifts, first, shape[0])[..., None],)
    return add_offsets(change, added)


def _lay_out_bank(
    plan: Plan, query: Query, strips: Array, log_prior: Array, columns: int, split: bool
) -> _Bank:
    """Cut out what every `Cover` needs of the strips of a block."""
    count = log_prior.shape[0]
    parts = []
    for cover in covers(plan):
        # A narrower strip is the right end of one of the strips.
        missing = plan.strip - cover.width
        first, used = cover.first - missing, columns + cover.shifts[-1]
        channels = query.x.shape[-1]
        parts.append(strips[:, missing * channels :, first * count : (first + used) * count])
    energies = tuple(half_squares(query, part, 1, split) for part in parts)
    return _Bank(tuple(parts), energies, jnp.tile(log_prior, columns), (), count)


def fold_images(plan: Plan, query: Query, block, state, reduce, combine, split: bool):
    """Feed all windows of a block (`cut_strips`, prior of the images) through the reduction, row by row."""
    strips, log_prior = block
    size, channels = plan.size, query.x.shape[-1]
    count, num_rows = log_prior.shape[0], plan.num_rows
    columns = strips.shape[-1] // count - (size - plan.strip)
    length = _segment(plan, split)
    bank = _lay_out_bank(plan, query, strips, log_prior, columns, split)
    if length > 1:
        bank = bank._replace(changes=_row_changes(plan, query, bank, split))
    allowed = None
    if plan.boundary == "zero":
        by_row = jnp.asarray(allowed_rows(num_rows, size).T)
        by_column = jnp.repeat(jnp.asarray(allowed_rows(columns, size)), count, axis=1)
        allowed = by_row[:, :, None, None], by_column

    def consume(state, logits: Array | Split | Wide, row, step):
        if plan.readout == "average":
            values = _cut(strips, row, size).reshape(size * size * channels, -1)
        else:
            # The middle of the window is pixel ``within`` of the strip that starts ``shift`` to the right of it.
            middle = size // 2
            shift = min(middle, size - plan.strip)
            within = (middle - shift) * channels
            values = strips[
                row + middle, within : within + channels, shift * count : (shift + columns) * count
            ]
        table = jnp.concatenate([jnp.ones_like(values[:1]), values]).T
        mask = None if allowed is None else allowed[0][row] & allowed[1]
        result = reduce(query.fixed, logits, mask, lambda weights: matmul(weights, table))
        if length > 1:  # from slots back to rows
            result = jax.tree.map(lambda a: jnp.roll(a, step, axis=0), result)
        return combine(state, result)

    def advance(row, carry, step):
        sums, state = carry
        sums = add_scores(sums, _step(plan, query, bank, row + step, step, split))
        return (sums, consume(state, sums, row + step, step)), None

    def visit(state, segment):
        row = segment * length
        sums = _full(plan, query, bank, row, split)
        state = consume(state, sums, row, 0)
        if length == 1:
            return state, None
        (_, state), _ = lax.scan(functools.partial(advance, row), (sums, state), jnp.arange(1, length))
        return state, None

    state, _ = lax.scan(jax.checkpoint(visit), state, jnp.arange(-(-num_rows // length)))
    return state
