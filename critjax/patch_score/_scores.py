r"""Scores of candidates, plain or accurate, by anything that multiplies windows with candidates.

The score of candidate mu at pixel i is ``s = x_i . phi_mu - |phi_mu|^2 / 2``, its logit ``s / sigma^2 + log pi_mu``.
At noise sigma the softmax needs differences of scores to within a small fraction of sigma^2, while the scores
themselves are of order ``p^2 C``. *Accurate* scores therefore split every factor into a head on a coarse power-of-two
grid and a tail. Sums of products of heads are exact in floating point: all partial sums are integers below 2^24 in
units of the grid (2^53 in float64). So their differences are exact, too, and only the small remainder is rounded. The
split is the error-free transformation of Ozaki, Ogita, Oishi & Rump 2012 (Numer. Algorithms 59, 95), with one head.

Everything here is in units in which the largest candidate is between one half and one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from critjax._typing import Array
from critjax.patch_score.softmax import Scores, lowest


class Noise(NamedTuple):
    """The noise level, and how scores are computed at it."""

    sigma: Array
    inverse: Array | None  # 1/sigma where scores are accurate, None where they are logits already
    steps: Any  # (Array, Array): of the grids for the noisy image and for candidates, or None

    @property
    def accurate(self) -> bool:
        """Tell whether factors are split."""
        return self.steps is not None


def head_bits(num_terms: int, dtype) -> int:
    """Return how many bits of head keep sums of ``num_terms`` products and of their half squares exact.

    One bit is spared for a noisy image that is up to twice as large as the bank.
    """
    return max(1, (jnp.finfo(dtype).nmant - 1 - math.ceil(math.log2(max(num_terms, 1)))) // 2)


def grid_step(largest: Array, bits: int) -> Array:
    """Return the power-of-two step that writes numbers up to ``largest`` with ``bits`` bits and a sign."""
    mantissa, exponent = jnp.frexp(jnp.maximum(largest, jnp.finfo(largest.dtype).tiny))
    exponent = exponent - (mantissa == 0.5)
    return jnp.ldexp(jnp.ones_like(largest), jnp.maximum(exponent, -100) - bits)


def rounding(num_terms: int, steps: Any, largest: Array) -> Array:
    """Return about the root mean square of the rounding of accurate scores (a law fitted to measurements).

    ``largest`` number of both factors; `tests/test_patch_score_oracle.py` measures it.
    """
    return jnp.finfo(largest.dtype).eps * num_terms**0.75 / 8 * steps[1] * largest


def split(values: Array, step: Array) -> tuple[Array, Array]:
    """Return the head on the grid, a constant for differentiation, and the tail."""
    head = lax.stop_gradient(jnp.round(values / step) * step)
    return head, values - head


def parts_of(noise: Noise, values: Array, which: int) -> tuple[Array, ...]:
    """Prepare one factor of `multiply`: the noisy image (``which = 0``) or candidates (1)."""
    if not noise.accurate:
        return (values / noise.sigma,)
    return (*split(values, noise.steps[which]), values)


def with_one(x: tuple[Array, ...]) -> tuple[Array, ...]:
    """Append a one to the numbers of every window (..., K): a factor for what `with_offsets` appends."""
    return jnp.concatenate([x[0], jnp.ones_like(x[0][..., :1])], axis=-1), *x[1:]


def with_offsets(bank: tuple[Array, ...], added: Scores, axis: int) -> tuple[Array, ...]:
    """Append to the numbers of candidates what is added to their scores: cheaper than a pass over the pairs."""
    terms = (added.high,) if added.low is None else (added.high, added.low)
    joined = [
        jnp.concatenate([part, jnp.expand_dims(term, axis)], axis=axis)
        for part, term in zip(bank, terms, strict=False)
    ]
    return *joined, *bank[len(terms) :]


def multiply(dot: Callable[[Array, Array], Array], x: tuple[Array, ...], bank: tuple[Array, ...]) -> Scores:
    """Multiply two factors that `parts_of` prepared, by ``dot``."""
    if len(x) == 1:
        return Scores(dot(x[0], bank[0]))
    (x_head, x_tail, _), (head, tail, whole) = x, bank
    return Scores(dot(x_head, head), dot(x_head, tail) + dot(x_tail, whole))


def energies(bank: tuple[Array, ...], axes: tuple[int, ...]) -> Scores:
    """Compute what half the squares of candidates, summed over ``axes``, add to their scores."""
    if len(bank) == 1:
        return Scores(-0.5 * jnp.sum(bank[0] ** 2, axis=axes))
    head, tail, whole = bank
    return Scores(-0.5 * jnp.sum(head * head, axis=axes), -0.5 * jnp.sum(tail * (whole + head), axis=axes))


def priors(noise: Noise, log_prior: Array) -> Scores:
    """Compute what the prior adds to scores; excluded candidates get a large finite number."""
    kept = jnp.isfinite(log_prior)
    if not noise.accurate:
        return Scores(jnp.where(kept, log_prior, lowest(log_prior.dtype)))
    excluded = jnp.where(kept, jnp.zeros_like(log_prior), lowest(log_prior.dtype))
    return Scores(excluded, jnp.where(kept, log_prior, 0) * noise.sigma**2)


def add(*terms: Scores) -> Scores:
    """Add scores of one kind, or of candidates to those of pairs."""
    high = functools.reduce(jnp.add, [term.high for term in terms])
    return Scores(
        high, None if terms[0].low is None else functools.reduce(jnp.add, [term.low for term in terms])
    )


def matmul(a: Array, b: Array) -> Array:
    """Multiply in full precision on every backend."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
