r"""Scores of training images by sums over windows: what neighbouring windows share is computed once.

*All patches* (`walk`): with ``s(i, j)`` the score of the noisy window in row i and the training window in row j,

    s(i + 1, j + 1) = s(i, j) + x_strip[i + p] . strip[j + p] - x_strip[i] . strip[j] - (their half squares),

where ``strip[j]`` holds, for every column, the ``p C`` values of row j from that column on. So a step is one product
over ``2 p C`` numbers a pair instead of ``p^2 C``. The sums live in slots: during step t, slot s holds the noisy
windows of row s + t. Sums of heads are exact; plain sums start afresh after about two windows, so that rounding does
not pile up.

*The patch at the same position* (`same`): box sums of squared differences.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from critjax._typing import Array
from critjax.patch_score._plan import Plan
from critjax.patch_score._scores import (
    Noise,
    add,
    energies,
    matmul,
    multiply,
    parts_of,
    priors,
    split,
    with_offsets,
    with_one,
)
from critjax.patch_score._windows import box_sum, pad, unfold, unfold_rows
from critjax.patch_score.softmax import Scores, lowest


def lay_out(plan: Plan, noise: Noise, x: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Lay out the noisy image (H, W, C) once: whole windows (H, W, K), and (2 H, W, 2 p C) what enters and leaves.

    Entry i of the latter, which come twice, leads from row i to row i + 1.
    """
    size = plan.size
    padded = pad(x, size, plan.query_pad, axes=(0, 1))
    windows = unfold(padded, size)
    strips = unfold_rows(padded, size)
    # Below the windows of the last row lies strip number H - 1 + p, which is p - 1.
    entering = jnp.concatenate([strips[size:], strips[size - 1][None]])
    moves = jnp.concatenate([entering, -strips[: x.shape[0]]], axis=-1)
    moves = jnp.concatenate([moves, moves])
    return with_one(parts_of(noise, windows, 0)), with_one(parts_of(noise, moves, 0))


def _cut(arrays: tuple[Array, ...], first, count: int) -> tuple[Array, ...]:
    """Cut rows out of each array."""
    return tuple(lax.dynamic_slice_in_dim(a, first, count) for a in arrays)


def walk(plan: Plan, noise: Noise, layout, images: Array, log_prior: Array, state, consume):
    """Feed all windows of a block of images (b, H', W', C) through ``consume``, training row by training row.

    ``consume(state, scores (H, W, B), values (B, R))`` with the state's leading axes H and W; returns the state.
    """
    size, channels = plan.size, images.shape[-1]
    windows, moves = layout
    height = windows[0].shape[0]
    padded = pad(images, size, plan.bank_pad, axes=(1, 2))
    strips = jnp.transpose(unfold_rows(padded, size), (1, 3, 2, 0))
    strips = strips.reshape(*strips.shape[:2], -1)  # (rows of pixels, p C, columns b)
    num_rows = strips.shape[0] - size + 1
    length = num_rows if noise.accurate else -(-num_rows // -(-num_rows // (2 * size + 2)))
    strips = jnp.pad(strips, ((0, -num_rows % length), (0, 0), (0, 0)))
    rows = parts_of(noise, strips, 1)
    of_rows = energies(rows, (1,))
    prior = priors(noise, jnp.tile(log_prior, strips.shape[-1] // log_prior.shape[0]))
    read = slice(0, size * channels)
    if plan.readout == "centre":
        read = slice(size // 2 * channels, (size // 2 + 1) * channels)

    def values(row) -> Array:
        if plan.readout == "average":
            return lax.dynamic_slice_in_dim(strips, row, size).reshape(size * size * channels, -1).T
        return strips[row + size // 2, read].T

    def full(row) -> Scores:
        own = [lax.dynamic_slice_in_dim(a, row, size).sum(0) for a in of_rows if a is not None]
        strip = tuple(a.reshape(-1, a.shape[-1]) for a in _cut(rows, row, size))
        bank = with_offsets(strip, add(Scores(*own), prior), 0)
        return multiply(matmul, windows, bank)

    def between_rows() -> tuple[Array, ...]:
        """Return what enters and what leaves from each row to the next; beyond the last row nothing is allowed."""
        pairs = tuple(jnp.concatenate([a[size:], a[:-size]], axis=1) for a in rows)
        changes = [a[size:] - a[:-size] for a in of_rows if a is not None]
        beyond = jnp.arange(len(changes[0]))[:, None] == num_rows - 1
        changes[0] = changes[0] + jnp.where(beyond, lowest(strips.dtype), jnp.zeros_like(changes[0]))
        return with_offsets(pairs, Scores(*changes), 1)

    pairs = between_rows() if length > 1 else ()

    def advance(carry, step):
        scores, state, row = carry
        # The state follows its rows through the slots.
        state = jax.tree.map(lambda a: jnp.roll(a, -1, axis=0), state)
        pair = tuple(a[row] for a in pairs)
        scores = add(scores, multiply(matmul, _cut(moves, step % height, height), pair))
        return (scores, consume(state, scores, values(row + 1)), row + 1), None

    def segment(state, number):
        row = number * length
        scores = full(row)
        state = consume(state, scores, values(row))
        if length == 1:
            return state, None
        (_, state, _), _ = lax.scan(advance, (scores, state, row), jnp.arange(length - 1))
        return jax.tree.map(lambda a: jnp.roll(a, length - 1, axis=0), state), None

    return lax.scan(segment, state, jnp.arange(-(-num_rows // length)))[0]


def same(plan: Plan, noise: Noise, x: Array, images: Array, log_prior: Array) -> tuple[Scores, Array]:
    """Score images (b, H, W, C) at the same position: (H, W, 1, b), with what is read out (H, W, b, R)."""
    (x_head, x_tail), (heads, tails) = split(x, noise.steps[0]), split(images, noise.steps[1])
    head, tail = x_head - heads, x_tail - tails

    def score(squares: Array) -> Array:
        squares = jnp.moveaxis(jnp.sum(squares, axis=-1), 0, -1)
        squares = pad(squares, plan.size, plan.query_pad, axes=(0, 1))
        return -0.5 * box_sum(squares, plan.size, axes=(0, 1))

    scores = add(Scores(score(head**2), score(tail * (2 * head + tail))), priors(noise, log_prior))
    values = images
    if plan.readout == "average":
        values = unfold(pad(images, plan.size, plan.query_pad, axes=(1, 2)), plan.size)
    return Scores(*(a[:, :, None] for a in scores)), jnp.moveaxis(values, 0, 2)
