"""Scalar roots under ``jit`` and ``vmap``: bracketed search and local interpolation."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from critjax._typing import Array

_MAX_ITERATIONS = 60


def _inverse_quadratic(a: Array, b: Array, c: Array, f_a: Array, f_b: Array, f_c: Array) -> Array:
    """Return how far from a towards b the inverse quadratic through three points vanishes.

    One half, a bisection, where that curve does not stay within the bracket (Chandrupatla's criterion).
    """
    xi, phi = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
    safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
    fraction = f_a / (f_b - f_a) * f_c / (f_b - f_c)
    fraction += (c - a) / (b - a) * f_a / (f_c - f_a) * f_b / (f_c - f_b)
    return jnp.where(safe & jnp.isfinite(fraction), fraction, 0.5)


def bracketed_root(
    fn: Callable[[Array], Array], low: Array, high: Array, f_low: Array, f_high: Array
) -> Array:
    """Refine the sign change of ``fn`` in each bracket by Chandrupatla's method, in ln of the argument.

    Parameters
    ----------
    fn : callable
        Scalar to scalar; mapped over brackets.
    low, high : float arrays (num,)
        Positive ends.
    f_low, f_high : float arrays (num,)
        Values there. A bracket without a sign change returns one of its ends.

    Returns
    -------
    float array (num,)
        Roots to a few units of rounding; NaN if ``fn`` turns out non-finite beside the root.

    Notes
    -----
    At most 60 evaluations, enough for bisection alone to reach rounding error; usually 6 to 10. Not
    differentiable in reverse mode. Chandrupatla 1997, Adv. Eng. Softw. 28, 145.
    """
    eps = jnp.finfo(low.dtype).eps

    def unfinished(carry: tuple) -> Array:
        *_, done, count = carry
        return ~jnp.all(done) & (count < _MAX_ITERATIONS)

    def step(carry: tuple) -> tuple:
        *old, done, count = carry
        a, b, f_a, f_b, fraction = old  # a is the newest point; the root lies between a and b
        new = a + fraction * (b - a)
        f_new = jax.vmap(fn)(jnp.exp(new))
        same = jnp.sign(f_new) == jnp.sign(f_a)
        b, f_b, c, f_c = (jnp.where(same, *pair) for pair in ((b, a), (f_b, f_a), (a, b), (f_a, f_b)))
        smallest = 2 * eps * (1 + jnp.abs(new)) / jnp.maximum(jnp.abs(b - new), eps**2)
        finished = (smallest >= 0.5) | (f_new == 0)
        fraction = _inverse_quadratic(new, b, c, f_new, f_b, f_c)
        fraction = jnp.clip(fraction, jnp.minimum(smallest, 0.5), jnp.maximum(1 - smallest, 0.5))
        fresh = (new, b, f_new, f_b, fraction)
        kept = tuple(jnp.where(done, was, now) for was, now in zip(old, fresh, strict=True))
        return (*kept, done | finished, count + 1)

    ends = (jnp.log(high), jnp.log(low), f_high, f_low)
    no_change = jnp.sign(f_low) == jnp.sign(f_high)
    start = (*ends, jnp.full_like(low, 0.5), no_change, jnp.zeros((), jnp.int32))
    a, b, f_a, f_b, *_ = jax.lax.while_loop(unfinished, step, start)
    root = jnp.exp(jnp.where(jnp.abs(f_a) < jnp.abs(f_b), a, b))
    return jnp.where(jnp.isfinite(f_a) & jnp.isfinite(f_b), root, jnp.nan)


def interpolated_root(positions: Array, values: Array, lower: Array) -> Array:
    """Locate sign changes of sampled curves by the cubic through the four nearest samples.

    Parameters
    ----------
    positions : float array (num,)
        Monotonic sample positions, num >= 4.
    values : float array (num, *shape)
        Samples of one curve per element.
    lower : integer array (*shape)
        The sign changes between samples ``lower - 1`` and ``lower``.

    Returns
    -------
    float array (*shape)
        Positions within the brackets; linear interpolation where a further sample is not finite.
    """
    first = jnp.clip(lower - 2, 0, positions.shape[0] - 4)
    index = first + jnp.arange(4).reshape(4, *(1,) * lower.ndim)
    x, y = positions[index], jnp.take_along_axis(values, index, axis=0)
    in_bracket = (index == lower) | (index == lower - 1)
    sound = jnp.all(jnp.isfinite(y), axis=0)
    low, high = positions[lower], positions[lower - 1]
    f_low, f_high = (jnp.take_along_axis(values, i[None], axis=0)[0] for i in (lower, lower - 1))
    y = jnp.where(in_bracket | sound, y, 0)
    others = [jnp.array([m for m in range(4) if m != n]) for n in range(4)]
    scale = [jnp.prod(x[n] - x[o], axis=0) for n, o in enumerate(others)]

    def curve(at: Array) -> Array:
        cubic = sum(y[n] * jnp.prod(at - x[o], axis=0) / scale[n] for n, o in enumerate(others))
        line = f_low + (f_high - f_low) * (at - low) / (high - low)
        return jnp.where(sound, cubic, line)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        below, above = ends
        middle = (below + above) / 2
        inside = jnp.sign(curve(middle)) == jnp.sign(f_low)
        return jnp.where(inside, middle, below), jnp.where(inside, above, middle)

    below, above = jax.lax.fori_loop(0, 60, halve, (low, high))
    return (below + above) / 2
