"""Exact high parts of sums of products, so that float32 logits stay accurate at low noise.

At noise sigma the softmax needs differences of squared distances to within a small fraction of sigma^2, while the
distances themselves are of order p^2 C. Every factor is therefore split into a head on a coarse power-of-two grid
and a tail. Sums of products of heads are exact in floating point (all partial sums are integers below 2^24 in units
of the grid, in float32), so differences between candidates are exact too; only the small remainder is rounded.
The split is the error-free transformation of Ozaki, Ogita, Oishi & Rump 2012 (Numer. Algorithms 59, 95),
with one head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from critjax._typing import Array


def sum_bits(num_terms: int, dtype) -> int:
    """Return how many bits each of ``num_terms`` integers may have if their sum is to be exact in ``dtype``."""
    return max(2, jnp.finfo(dtype).nmant + 1 - math.ceil(math.log2(max(num_terms, 1))))


def head_bits(num_terms: int, dtype) -> int:
    """Return how many fractional bits of head keep a score of ``num_terms`` products exact in ``dtype``.

    Products of heads and half squares are multiples of half a squared grid step. One bit is spared for a noisy image
    that is up to twice as large as the bank.
    """
    return max(1, (sum_bits(num_terms, dtype) - 2) // 2)


def grid_step(largest: Array, bits: int) -> Array:
    """Return the power-of-two step that writes numbers up to ``largest`` with ``bits`` bits and a sign."""
    mantissa, exponent = jnp.frexp(jnp.maximum(largest, jnp.finfo(largest.dtype).tiny))
    exponent = exponent - (mantissa == 0.5)
    return jnp.ldexp(jnp.ones_like(largest), jnp.maximum(exponent, -60) - bits)


class Grid(NamedTuple):
    """Grid steps, the same for every block so that blocks compare exactly."""

    x: Array  # of the noisy image
    bank: Array  # of the candidates
    squares: Array  # of squared differences summed over channels


def grid_steps(largest_x: Array, largest_candidate: Array, size: int, channels: int) -> Grid:
    """Choose the grid steps for windows of ``size`` x ``size`` x ``channels`` from the largest absolute values."""
    dtype = largest_x.dtype
    bits = head_bits(size**2 * channels, dtype)
    largest_square = (largest_x + largest_candidate) ** 2 * channels
    return Grid(
        grid_step(largest_x, bits),
        grid_step(largest_candidate, bits),
        grid_step(largest_square, sum_bits(size**2, dtype)),
    )


def head(values: Array, step: Array) -> Array:
    """Return ``values`` rounded to the grid, as a constant for differentiation."""
    return lax.stop_gradient(jnp.round(values / step) * step)
