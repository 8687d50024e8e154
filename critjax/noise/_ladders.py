"""Ladders of noise levels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_scalar, check, check_count, is_concrete, is_real
from critjax._programs import program
from critjax._typing import Array, Float, Scalar

#: Steps of a ladder at most; float32 does not tell so many levels apart.
MOST_STEPS = 10_000_000


def _falling(sigmas: Array) -> Array:
    """Return levels that rounding leaves apart, or raise."""
    if is_concrete(sigmas):
        good = bool(np.all(np.diff(np.asarray(sigmas)) < 0))
        got = f"equal neighbours among {len(sigmas)} in {sigmas.dtype}"
        check(
            good, "num_steps", "levels that rounding leaves apart", got, "take fewer steps, or a larger rho"
        )
    return sigmas


def _checked(sigma_max: Any, sigma_min: Any, num_steps: Any, dtype: Any) -> tuple[Any, Any, int, Any]:
    """Check the arguments of a noise grid; return those of its program."""
    num_steps = check_count(
        "num_steps", num_steps, least=1, most=MOST_STEPS, advice="ask for tens to hundreds"
    )
    for name, end in (("sigma_max", sigma_max), ("sigma_min", sigma_min)):
        got = f"shape {tuple(np.shape(end))}"
        check(np.shape(end) == (), name, "a scalar", got, "use jax.vmap for several grids")
        real = not is_concrete(end) or is_real(np.asarray(end))
        check(real, name, "a noise level", repr(end), "pass a standard deviation")
    if dtype is None:
        dtype = jnp.result_type(sigma_max, sigma_min)
        dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else float
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    low, high = (
        float(np.asarray(end, dtype)) if is_concrete(end) else None for end in (sigma_min, sigma_max)
    )
    if low is not None:
        check(low > 0, "sigma_min", "a noise level > 0", low, "end at a small positive sigma")
    if high is not None:
        check(bool(np.isfinite(high)), "sigma_max", "a finite noise level", high, "start lower")
    if low is not None and high is not None:
        check(
            low < high,
            "sigma_max",
            f"a noise level above sigma_min = {low}",
            high,
            "pass the larger end first",
        )
    return sigma_max, sigma_min, num_steps, dtype


def _ends(high: Any, low: Any, num_steps: int, dtype: Any) -> tuple[Array, Array, Array]:
    """Return both ends in one dtype and the fractions 0 ... 1."""
    return jnp.asarray(high, dtype), jnp.asarray(low, dtype), jnp.linspace(0, 1, num_steps + 1, dtype=dtype)


@program(static_argnums=(2, 3))
def _geometric(high: Any, low: Any, num_steps: int, dtype: Any) -> Array:
    high, low, fraction = _ends(high, low, num_steps, dtype)
    sigmas = jnp.exp(jnp.log(high) + fraction * (jnp.log(low) - jnp.log(high)))
    return sigmas.at[0].set(high).at[-1].set(low)


@program(static_argnums=(2, 3))
def _karras(high: Any, low: Any, num_steps: int, dtype: Any, rho: Any) -> Array:
    high, low, fraction = _ends(high, low, num_steps, dtype)
    # In logarithms, which neither overflow at small rho nor cancel at large.
    span = jnp.expm1((jnp.log(low) - jnp.log(high)) / rho)
    sigmas = high * jnp.exp(rho * jnp.log1p(fraction * span))
    return sigmas.at[0].set(high).at[-1].set(low)


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
        If ``num_steps < 1``, the ends are not two scalars in order, or rounding leaves no levels apart.

    Example
    -------
    >>> print(np.round(np.float64(geometric_sigmas(100.0, 1.0, 4)), 2))
    [100.    31.62  10.     3.16   1.  ]
    """
    return _falling(_geometric(*_checked(sigma_max, sigma_min, num_steps, dtype)))


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
    rho = as_scalar("rho", rho, "an exponent > 0", "the paper uses 7", good=lambda value: value > 0)
    return _falling(_karras(*_checked(sigma_max, sigma_min, num_steps, dtype), rho))
