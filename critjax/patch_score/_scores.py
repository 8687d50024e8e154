r"""Scores as matrix products, plain or compensated.

The score of candidate mu at pixel i is ``s = x_i . phi_mu - |phi_mu|^2 / 2``, the logit ``s / sigma^2 + log pi_mu``.
Everything that is added to the correlations enters as further features, so that nothing passes over the pairs again:
plain logits are one product, compensated scores one exact and one small product.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from critjax._typing import Array
from critjax.patch_score._plan import Query
from critjax.patch_score._split import head

#: Stands for a score of -inf in compensated sums: far below every score, and finite after division by sigma^2.
EXCLUDED_SCORE = -1e20


class Split(NamedTuple):
    """Scores in an exact and a small part; the prior is in the small part, exclusion in the exact one."""

    high: Array  # (..., B), multiples of `unit`
    low: Array  # (..., B)
    unit: Array  # ()


class Features(NamedTuple):
    """Windows as rows of a product, with the columns that `operands` expects appended."""

    plain: Array  # (..., K + 2): divided by sigma^2, a shift common to all candidates, one
    high: Any  # (..., K + 1): heads, one; None where sums are never compensated
    low: Any  # (..., 2 K + 1): heads, tails, one; or None


def excluded_logit(dtype) -> float:
    """Stand for -inf where the arithmetic needs a finite number; no allowed logit comes near it."""
    return -0.25 * float(jnp.finfo(dtype).max)


def unit(query: Query) -> Array:
    """Return the number of which every exact part is a multiple."""
    return jnp.minimum(query.grid.x, 0.5 * query.grid.bank) * query.grid.bank


def features(query: Query, windows: Array, shift: Array) -> Features:
    """Prepare windows (..., K) and the shift of their logits (..., 1) for products with a bank."""
    one = jnp.ones_like(windows[..., :1])
    plain = jnp.concatenate([windows / query.sigma**2, shift, one], axis=-1)
    if query.grid is None:
        return Features(plain, None, None)
    heads = head(windows, query.grid.x)
    return Features(
        plain,
        jnp.concatenate([heads, one], axis=-1),
        jnp.concatenate([heads, windows - heads, one], axis=-1),
    )


def half_squares(query: Query, values: Array, axis, split: bool) -> tuple[Array, ...]:
    """Sum half squares over ``axis``: one array in plain arithmetic, an exact and a small one in compensated."""
    if not split:
        return (0.5 * jnp.sum(values * values, axis=axis),)
    heads = head(values, query.grid.bank)
    tails = (values - heads) * (values + heads)
    return 0.5 * jnp.sum(heads * heads, axis=axis), 0.5 * jnp.sum(tails, axis=axis)


def offsets(query: Query, energies: tuple[Array, ...], log_prior: Array) -> tuple[Array, ...]:
    """Compute what is added to the correlations of each candidate, from `half_squares` and prior (B,).

    Excluded candidates get a large finite number: the derivative multiplies it by zero, which -inf would not survive.
    """
    if len(energies) == 1:
        return (jnp.maximum(log_prior - energies[0] / query.sigma**2, excluded_logit(log_prior.dtype)),)
    kept = jnp.isfinite(log_prior)
    low = jnp.where(kept, log_prior, 0) * query.sigma**2 - energies[1]
    return jnp.where(kept, -energies[0], EXCLUDED_SCORE), low


def scores(query: Query, rows: Features, bank: Array, added: tuple[Array, ...]) -> Array | Split:
    """Multiply windows by a bank (K, B), with the offsets (B,) ``added``: logits, or scores in two parts."""
    added = tuple(part[None] for part in added)
    if len(added) == 1:
        return matmul(rows.plain, jnp.concatenate([bank, jnp.ones_like(added[0]), added[0]]))
    heads = head(bank, query.grid.bank)
    return Split(
        matmul(rows.high, jnp.concatenate([heads, added[0]])),
        matmul(rows.low, jnp.concatenate([bank - heads, bank, added[1]])),
        unit(query),
    )


def add_scores(total: Any, change: Any) -> Any:
    """Add scores of either kind."""
    if isinstance(total, Split):
        return Split(total.high + change.high, total.low + change.low, total.unit)
    return total + change


def matmul(a: Array, b: Array) -> Array:
    """Multiply in full precision on every backend."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
