"""Order parameters of an ensemble of fields."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from critjax._checks import check, check_finite, check_option, check_rank
from critjax._programs import as_argument, program
from critjax._typing import Array, ArrayLike, Float


def order_parameter(x: Float[ArrayLike, "B H W C"]) -> Float[Array, "B C"]:
    """Give the spatial mean m of each sample and channel.

    Example
    -------
    >>> print(order_parameter(jnp.ones((2, 4, 4, 1)))[:, 0])
    [1. 1.]
    """
    x = as_argument(x)
    check_rank("x", x, "B H W C")
    check_finite("x", x)
    return _order_parameter(x)


@program
def _order_parameter(x: Any) -> Array:
    return jnp.asarray(x).mean(axis=(1, 2))


def binder_cumulant(order: Float[ArrayLike, "B ..."]) -> Float[Array, "*rest"]:
    r"""Give the Binder cumulant over an ensemble, ``1 - <m^4>/(3 <m^2>^2)``.

    Parameters
    ----------
    order : array (B, ...)
        One order parameter per sample, about zero; see `order_parameter`.

    Returns
    -------
    array (...)
        0 for a Gaussian m (disorder), 2/3 for m = +-const (order); never above 2/3. NaN if all m vanish.

    Example
    -------
    >>> print(f"{binder_cumulant(jnp.array([1.0, -1.0])):.4f}")
    0.6667
    """
    return _binder_cumulant(as_argument(order))


@program
def _binder_cumulant(order: Any) -> Array:
    squared = jnp.asarray(order) ** 2
    return 1 - (squared**2).mean(axis=0) / (3 * squared.mean(axis=0) ** 2)


def wall_density(x: Float[ArrayLike, "B H W C"], *, boundary: str = "periodic") -> Float[Array, "B C"]:
    r"""Give the fraction of nearest-neighbour bonds whose two pixels have opposite signs.

    Parameters
    ----------
    x : array (B, H, W, C)
        Samples; a pixel that is exactly zero has no sign and makes no wall.
    boundary : "periodic" or "zero"
        Whether bonds across the edges of the image count.

    Returns
    -------
    array (B, C)
        1/2 for white noise, 0 for one domain. Piecewise constant in x: its gradient is zero.

    Raises
    ------
    ValueError
        If the boundary is unknown, the image has no bond, or a value is not finite.

    Example
    -------
    >>> print(wall_density(jnp.array([1.0, 1.0, -1.0, -1.0]).reshape(1, 1, 4, 1))[0, 0])
    0.5
    """
    x = as_argument(x)
    check_rank("x", x, "B H W C")
    check_finite("x", x)
    check_option("boundary", boundary, ("periodic", "zero"))
    check(max(x.shape[1:3]) >= 2, "x", "an image of two pixels or more", x.shape, "use larger images")
    return _wall_density(x, boundary)


@program(static_argnums=1)
def _wall_density(x: Any, boundary: str) -> Array:
    x = jnp.asarray(x)
    walls, bonds = jnp.zeros((x.shape[0], x.shape[3]), x.dtype), 0
    for axis in (1, 2):
        length = x.shape[axis]
        if length == 1:
            continue  # the only neighbour would be the pixel itself
        last = length if boundary == "periodic" else length - 1
        opposite = jnp.sign(x) * jnp.sign(jnp.roll(x, -1, axis)) < 0
        opposite = jax.lax.slice_in_dim(opposite, 0, last, axis=axis)
        walls = walls + opposite.sum(axis=(1, 2), dtype=x.dtype)
        bonds += opposite.shape[1] * opposite.shape[2]
    return walls / bonds
