"""A bank of any length in blocks of one size, without a copy of it."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from critjax._typing import Array


def least_overlap(count: int, target: int) -> int:
    """Return the size of blocks whose last one overlaps least with the one before, see `cut_block`.

    Never below 5/6 of the target, so that what a block needs hardly depends on ``count``.
    """
    sizes = range(target, (5 * target - 1) // 6, -1)
    return min(count, min(sizes, key=lambda size: -count % size))


def cut_block(rows: Array, log_prior: Array, number: Array, size: int) -> tuple[Array, Array]:
    """Cut block ``number`` out of at least ``size`` candidates, one a row.

    The last block reaches back over candidates that have counted and excludes them: filling it up would copy the bank.
    """
    start = number * size
    first = jnp.minimum(start, log_prior.shape[0] - size)
    rows, log_prior = (lax.dynamic_slice_in_dim(a, first, size) for a in (rows, log_prior))
    return rows, jnp.where(first + jnp.arange(size) < start, -jnp.inf, log_prior)
