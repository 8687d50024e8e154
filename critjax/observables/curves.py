"""Features of sampled curves: where one crosses a level, where it has a minimum."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from critjax._checks import check
from critjax._programs import as_argument, program
from critjax._typing import Array, ArrayLike, Float, Scalar


def first_crossing(
    x: Float[ArrayLike, " n"], values: Float[ArrayLike, " n"], level: Scalar, *, rising: bool = False
) -> Float[Array, ""]:
    r"""Find where a sampled curve first passes a level, in either direction, by linear interpolation.

    Parameters
    ----------
    x : array (n,)
        Monotonic abscissae, rising or falling, e.g. ``ln sigma`` on the way down.
    values : array (n,)
        The curve, n >= 2.
    level : scalar
        The level.
    rising : bool
        Only from below: none for a curve that starts at or above the level.

    Returns
    -------
    scalar
        x of the crossing met first in the order of the array; NaN if there is none.

    Raises
    ------
    ValueError
        If there are fewer than two points.

    Example
    -------
    >>> print(first_crossing(jnp.array([3.0, 2.0, 1.0]), jnp.array([0.0, 0.5, 1.5]), 1.0))
    1.5
    """
    values = as_argument(values)
    num = values.shape[0]
    check(num >= 2, "values", "two points or more", num, "sample the curve more finely")
    return _first_crossing(as_argument(x), values, level, bool(rising))


@program(static_argnums=3)
def _first_crossing(x: Any, values: Any, level: Any, rising: bool) -> Array:
    x, offset = jnp.asarray(x), jnp.asarray(values) - level
    positive = offset > 0
    passes = positive[:-1] != positive[1:]
    found, i = passes.any(), jnp.argmax(passes)
    if rising:
        found &= offset[0] < 0
    drop = jnp.where(found, offset[i] - offset[i + 1], 1)
    return jnp.where(found, x[i] + offset[i] / drop * (x[i + 1] - x[i]), jnp.nan)


class Minimum(NamedTuple):
    """Result of `interior_minimum`."""

    x: Float[Array, ""]
    """Where the minimum is."""
    value: Float[Array, ""]
    """The curve there."""


def interior_minimum(x: Float[ArrayLike, " n"], values: Float[ArrayLike, " n"]) -> Minimum:
    r"""Find the minimum of a sampled curve by the parabola through the lowest point and its neighbours.

    Where the gap of a mean Jacobian does not cross zero, its minimum is reported instead, under that name.

    Parameters
    ----------
    x, values : arrays (n,)
        Strictly monotonic abscissae and the curve, n >= 3.

    Returns
    -------
    Minimum
        ``x`` and ``value`` at the minimum; NaN if the lowest sample is the first or the last: then the minimum was not
        bracketed.

    Raises
    ------
    ValueError
        If there are fewer than three points.

    Example
    -------
    >>> x = jnp.array([0.0, 1.0, 2.0, 4.0])
    >>> print(*interior_minimum(x, (x - 1.25) ** 2 + 3))
    1.25 3.0
    """
    values = as_argument(values)
    num = values.shape[0]
    check(num >= 3, "values", "three points or more", num, "sample the curve more finely")
    return _interior_minimum(as_argument(x), values)


@program
def _interior_minimum(x: Any, values: Any) -> Minimum:
    x, values = jnp.asarray(x), jnp.asarray(values)
    num = values.shape[0]
    lowest = jnp.argmin(values)
    i = jnp.clip(lowest, 1, num - 2)
    left = (values[i] - values[i - 1]) / (x[i] - x[i - 1])
    right = (values[i + 1] - values[i]) / (x[i + 1] - x[i])
    curvature = (right - left) / (x[i + 1] - x[i - 1])
    slope = left + curvature * (x[i] - x[i - 1])  # of the parabola, at the lowest sample
    step = -slope / (2 * curvature)
    bracketed = lowest == i
    value = values[i] + step * slope / 2
    return Minimum(jnp.where(bracketed, x[i] + step, jnp.nan), jnp.where(bracketed, value, jnp.nan))
