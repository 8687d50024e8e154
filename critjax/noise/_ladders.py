"""Ladders of noise levels."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from critjax._checks import check, is_concrete
from critjax._typing import Array, Float, Scalar


def _grid(sigma_max: Any, sigma_min: Any, num_steps: Any, dtype: Any) -> tuple[Array, Array, Array]:
    """Check the arguments of a noise grid; return its ends in one dtype and the fractions 0 ... 1."""
    whole = isinstance(num_steps, (int, np.integer)) and not isinstance(num_steps, bool)
    good = bool(whole and num_steps >= 1)
    check(good, "num_steps", "an integer >= 1", repr(num_steps), "ask for at least one step")
    high, low = jnp.asarray(sigma_max), jnp.asarray(sigma_min)
    for name, end in (("sigma_max", high), ("sigma_min", low)):
        check(end.shape == (), name, "a scalar", f"shape {end.shape}", "use jax.vmap for several grids")
    if dtype is None:
        dtype = jnp.result_type(high, low)
        dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else float
    high, low = high.astype(dtype), low.astype(dtype)
    if is_concrete(low):
        check(float(low) > 0, "sigma_min", "a noise level > 0", float(low), "end at a small positive sigma")
    if is_concrete(high):
        check(bool(jnp.isfinite(high)), "sigma_max", "a finite noise level", float(high), "start lower")
    if is_concrete(low) and is_concrete(high):
        above = f"a noise level above sigma_min = {float(low)}"
        check(float(low) < float(high), "sigma_max", above, float(high), "pass the larger end first")
    return high, low, jnp.linspace(0, 1, int(num_steps) + 1, dtype=high.dtype)


def geometric_sigmas(
    sigma_max: Scalar, sigma_min: Scalar, num_steps: int, *, dtype: Any = None
) -> Float[Array, " num"]:
    r"""Build a noise grid with equal steps of ``tau = -ln sigma``.

    ``sigma_n = sigma_max (sigma_min/sigma_max)^(n/num_steps)``,   n = 0 ... num_steps

    Parameters
    ----------
    sigma_max, sigma_min : scalar
        First and last noise level, ``0 < sigma_min < sigma_max``; both are met exactly.
    num_steps : int
        Number of steps, >= 1.
    dtype : optional
        Floating dtype; default that of the ends.

    Returns
    -------
    array (num_steps + 1,)
        Strictly decreasing, without a final zero: the last step, to zero noise, is the denoiser itself.

    Raises
    ------
    ValueError
        If ``num_steps < 1`` or the ends are not two scalars in order.

    Example
    -------
    >>> print(np.round(np.float64(geometric_sigmas(100.0, 1.0, 4)), 2))
    [100.    31.62  10.     3.16   1.  ]
    """
    high, low, fraction = _grid(sigma_max, sigma_min, num_steps, dtype)
    sigmas = jnp.exp(jnp.log(high) + fraction * (jnp.log(low) - jnp.log(high)))
    return sigmas.at[0].set(high).at[-1].set(low)


def karras_sigmas(
    sigma_max: Scalar, sigma_min: Scalar, num_steps: int, *, rho: float = 7.0, dtype: Any = None
) -> Float[Array, " num"]:
    r"""Build a noise grid with equal steps of ``sigma^(1/rho)``.

    ``sigma_n = (sigma_max^(1/rho) + (n/num_steps) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho``

    Parameters
    ----------
    sigma_max, sigma_min, num_steps, dtype
        As in `geometric_sigmas`, which is the limit of large ``rho``.
    rho : float
        Exponent > 0; 1 is a uniform grid.

    Returns
    -------
    array (num_steps + 1,)
        Strictly decreasing. The N levels of the paper are ``num_steps = N - 1``; its final zero is left out.

    Raises
    ------
    ValueError
        If ``num_steps < 1``, ``rho <= 0``, or the ends are not two scalars in order.

    Notes
    -----
    Karras et al. 2022, arXiv:2206.00364, equation 5.

    Example
    -------
    >>> print(np.round(np.float64(karras_sigmas(80.0, 0.5, 4)), 2))
    [80.   30.44  9.92  2.61  0.5 ]
    """
    check(rho > 0, "rho", "an exponent > 0", rho, "the paper uses 7")
    high, low, fraction = _grid(sigma_max, sigma_min, num_steps, dtype)
    first, last = high ** (1 / rho), low ** (1 / rho)
    sigmas = (first + fraction * (last - first)) ** rho
    return sigmas.at[0].set(high).at[-1].set(low)
