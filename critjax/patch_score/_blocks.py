"""A bank of any length in blocks of one size, without a copy of it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from critjax._typing import Array


def least_overlap(count: int, target: int) -> int:
    """Return the size of blocks whose last one overlaps least with the one before, see `cut_block`.

    Never below 5/6 of the target, so that what a block needs hardly depends on ``count``.
    """
    sizes = range(target, (5 * target - 1) // 6, -1)
    return min(count, min(sizes, key=lambda size: -count % size))


def cut_block(bank: tuple[Array, Array], number: Any, size: int) -> tuple[Array, Array]:
    """Cut block ``number`` out of rows of at least ``size`` candidates and their prior.

    The last block reaches back over candidates that have counted and excludes them: filling it up would copy the bank.
    """
    start = number * size
    first = jnp.minimum(start, bank[1].shape[0] - size)
    rows, log_prior = (lax.dynamic_slice_in_dim(a, first, size) for a in bank)
    return rows, jnp.where(first + jnp.arange(size) < start, -jnp.inf, log_prior)
