r"""Scores as matrix products: plain, compensated, or in float64.

The score of candidate mu at pixel i is ``s = x_i . phi_mu - |phi_mu|^2 / 2``, the logit ``s / sigma^2 + log pi_mu``.
Everything that is added to the correlations of full scores enters as further features, so that nothing passes over the
pairs again: plain logits are one product, compensated scores one exact and one small product, or one in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
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


class Wide(NamedTuple):
    """Scores in float64, the prior included."""

    values: Array  # (..., B)


class Features(NamedTuple):
    """Windows as rows of a product, with the columns that `scores` expects, or with the values alone."""

    #: (..., K + 2 g): of each of g parts, divided by sigma^2: values, a common shift, one. In float64 (..., K + 1):
    #: values, one.
    plain: Array
    high: Any  # (..., K + 1): heads, one; None where sums are not compensated
    low: Any  # (..., 2 K + 1): heads, tails, one; or None


def excluded_logit(dtype) -> float:
    """Stand for -inf where the arithmetic needs a finite number; no allowed logit comes near it."""
    return -0.25 * float(jnp.finfo(dtype).max)


def unit(query: Query) -> Array:
    """Return the number of which every exact part is a multiple."""
    return jnp.minimum(query.grid.x, 0.5 * query.grid.bank) * query.grid.bank


def common_shift(query: Query, windows: Array, size: int) -> Array:
    """Compute what brings the logits that matter near zero, from the rows of windows (..., p^2 C): (..., p).

    It is common to all candidates: the noisy window's own square, and half a unit a pixel and channel, which is what
    white noise alone contributes. Row by row, like the squares of the candidates, because then the partial sums of a
    product stay near zero, too, and round little.
    """
    rows = windows.reshape(*windows.shape[:-1], size, -1)
    return 0.5 * rows.shape[-1] - jnp.sum(rows**2, axis=-1) / (2 * query.sigma**2)


def features(query: Query, windows: Array, shift: Array | None = None) -> Features:
    """Prepare windows (..., K) of g equal parts for products with a bank; each part shifts the logits (..., g).

    Without ``shift`` there are the values alone, as for `correlations`.
    """
    one = jnp.ones_like(windows[..., : 0 if shift is None else 1])
    if query.wide:
        return Features(jnp.concatenate([windows, one], axis=-1), None, None)
    plain = windows / query.sigma**2
    if shift is not None:
        parts = plain.reshape(*shift.shape, -1)
        plain = jnp.concatenate([parts, shift[..., None], jnp.ones_like(parts[..., :1])], axis=-1)
        plain = plain.reshape(*shift.shape[:-1], -1)
    if query.grid is None:
        return Features(plain, None, None)
    heads = head(windows, query.grid.x)
    return Features(
        plain,
        jnp.concatenate([heads, one], axis=-1),
        jnp.concatenate([heads, windows - heads, one], axis=-1),
    )


def half_squares(query: Query, values: Array, axis, split: bool) -> tuple[Array, ...]:
    """Sum half squares over ``axis``: an exact and a small array in compensated arithmetic, else one."""
    if query.wide or not split:
        return (0.5 * jnp.sum(jnp.square(values.astype(query.x.dtype)), axis=axis),)
    heads = head(values, query.grid.bank)
    tails = (values - heads) * (values + heads)
    return 0.5 * jnp.sum(heads * heads, axis=axis), 0.5 * jnp.sum(tails, axis=axis)


def prior_offsets(query: Query, log_prior: Array, split: bool) -> tuple[Array, ...]:
    """Compute what the prior (B,) adds to the scores of each candidate, in the form of `half_squares`.

    Excluded candidates get a large finite number: the derivative multiplies it by zero, which -inf would not survive.
    """
    if not query.wide and not split:
        return (jnp.maximum(log_prior, excluded_logit(log_prior.dtype)),)
    kept = jnp.isfinite(log_prior)
    prior = jnp.where(kept, log_prior, 0) * query.sigma**2
    if query.wide:
        return (jnp.where(kept, prior, EXCLUDED_SCORE),)
    return jnp.where(kept, 0, EXCLUDED_SCORE), prior


def offsets(query: Query, energies: tuple[Array, ...], prior: tuple[Array, ...] | None) -> tuple[Array, ...]:
    """Compute what is added to the correlations of each candidate, from `half_squares` (g, B) and `prior_offsets`.

    Plain logits get it part by part, the prior with the first; other scores at once.
    """
    if not query.wide and len(energies) == 1:
        added = -energies[0] / query.sigma**2
        return (added if prior is None else added.at[0].add(prior[0]),)
    added = tuple(-jnp.sum(part, axis=0) for part in energies)
    return added if prior is None else tuple(map(jnp.add, added, prior))


def scores(query: Query, rows: Features, bank: Array, added: tuple[Array, ...]) -> Array | Split | Wide:
    """Multiply windows by a bank (K, B), with `offsets`: logits, or accurate scores."""
    if query.wide:
        return Wide(matmul(rows.plain, jnp.concatenate([bank.astype(query.x.dtype), added[0][None]])))
    if len(added) == 1:
        own = added[0][:, None]
        parts = bank.reshape(own.shape[0], -1, bank.shape[-1])
        bank = jnp.concatenate([parts, jnp.ones_like(own), own], axis=1).reshape(-1, bank.shape[-1])
        return matmul(rows.plain, bank)
    return _compensated(query, rows, bank, added)


def correlations(query: Query, rows: Features, bank: Array, split: bool) -> Array | Split | Wide:
    """Multiply windows by a bank (K, B), with nothing added."""
    if query.wide:
        return Wide(matmul(rows.plain, bank.astype(query.x.dtype)))
    if not split:
        return matmul(rows.plain, bank)
    heads = head(bank, query.grid.bank)
    return Split(
        matmul(rows.high, heads), matmul(rows.low, jnp.concatenate([bank - heads, bank])), unit(query)
    )


def add_offsets(scores: Any, added: tuple[Array, ...]) -> Any:
    """Add what `offsets` or `prior_offsets` computed, in a pass over the pairs.

    Where there is such a pass anyway, columns of the bank that would have to be put together first took longer.
    """
    if isinstance(scores, Split):
        return Split(scores.high + added[0], scores.low + added[1], scores.unit)
    return map_scores(lambda values: values + added[0], scores)


def _compensated(query: Query, rows: Features, bank: Array, added: tuple[Array, ...]) -> Split:
    heads = head(bank, query.grid.bank)
    return Split(
        matmul(rows.high, jnp.concatenate([heads, added[0][None]])),
        matmul(rows.low, jnp.concatenate([bank - heads, bank, added[1][None]])),
        unit(query),
    )


def map_scores(fn: Callable[[Array], Array], scores: Any) -> Any:
    """Apply a function to all numbers a pair, of scores of any kind."""
    if isinstance(scores, Split):
        return Split(fn(scores.high), fn(scores.low), scores.unit)
    return jax.tree.map(fn, scores)


def add_scores(total: Any, change: Any) -> Any:
    """Add scores of one kind."""
    if isinstance(total, Split):
        return Split(total.high + change.high, total.low + change.low, total.unit)
    return jax.tree.map(jnp.add, total, change)


def matmul(a: Array, b: Array) -> Array:
    """Multiply in full precision on every backend."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
