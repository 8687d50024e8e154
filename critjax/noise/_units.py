"""One noise level in the units of every diffusion convention, and the frame correction of rates.

Python numbers are converted in float64 and stay Python numbers; arrays in their own dtype, half precision in float32.
An infinite sigma is the start of schedules whose last timestep is pure noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from critjax._checks import check, check_count, check_option, is_concrete, is_real
from critjax._programs import program
from critjax._typing import Array, ArrayLike, Float, Scalar

#: A noise level or an array of them, in the unit that the function names.
Levels: TypeAlias = Float[ArrayLike, "*shape"] | float | int

DDPM_SCHEDULES = ("linear", "cosine")
FRAMES = ("ve", "vp")
#: Relative distance from a level within which the edge of a window counts as at it: conversions there and back, through
#: alpha_bar for sigma = 1e-6 even in float64, move an edge by half of it.
EDGE_TOLERANCE = 1e-4


def is_inside(sigma: Any, low: Any, high: Any) -> Any:
    """Tell which levels a window holds, ``low < sigma <= high``; edges within 1e-4 of a level are at it.

    Neighbouring windows tile. An infinite upper edge holds an infinite level.

    Parameters
    ----------
    sigma, low, high : scalars or arrays that broadcast
        Levels and edges, standard deviations >= 0.

    Returns
    -------
    bool or boolean array
        Of NumPy or JAX, as the arguments are.

    Example
    -------
    >>> is_inside(np.array([0.3, 0.1, 0.03, 0.01]), 0.01, np.float32(0.1)).tolist()
    [False, True, True, False]
    """
    return (sigma > low * (1 + EDGE_TOLERANCE)) & (sigma <= high * (1 + EDGE_TOLERANCE))


def _levels(name: str, values: Any, low: float, high: float, domain: str) -> Any:
    """Return ``values`` as `_evaluated` takes them, checked against ``[low, high]`` if they can be read."""
    if not is_concrete(values):
        return values
    if not hasattr(values, "dtype"):
        values = np.asarray(values) if np.ndim(values) else values
    host = np.asarray(values)
    check(is_real(host), name, domain, f"{type(values).__name__} {values!r}", "pass numbers")
    wide = host.astype(np.float64)
    bad = wide[~((wide >= low) & (wide <= high))]  # NaN is bad, too
    check(bad.size == 0, name, domain, np.array2string(bad, threshold=4), "check unit and values")
    if isinstance(values, (int, float)) and not hasattr(values, "dtype"):
        return float(values)
    return (
        host.astype(jnp.result_type(float)) if host.dtype.kind in "iu" or not host.dtype.isnative else values
    )


def _sigma(sigma: Any) -> Any:
    return _levels("sigma", sigma, 0.0, np.inf, "noise standard deviations >= 0")


def _evaluated(formula: Callable[..., Any], values: Any, *tables: Any) -> Any:
    """Evaluate ``formula(numpy or jax.numpy, values, *tables)``: for a Python number in float64, on the host."""
    if isinstance(values, float) and not hasattr(values, "dtype"):
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return float(formula(np, np.float64(values), *tables))
    # Within a program a float64 constant would stay one, also where JAX has float64 off.
    return _program(formula, values, *(table.astype(jnp.result_type(float)) for table in tables))


@program(static_argnums=0)
def _program(formula: Callable[..., Any], values: Any, *tables: Any) -> Array:
    """Half precision is computed in float32."""
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values * 1.0  # a Python integer stays weakly typed and promotes nothing
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    tables = tuple(table.astype(dtype) for table in tables)
    if dtype == values.dtype:  # a conversion of its own would make weakly typed numbers strong
        return formula(jnp, values, *tables)
    return formula(jnp, values.astype(dtype), *tables).astype(values.dtype)


def _t_ou(xp: Any, sigma: Any) -> Any:
    return 0.5 * xp.log1p(sigma * sigma)


def _from_t_ou(xp: Any, t_ou: Any) -> Any:
    return xp.sqrt(xp.expm1(2 * t_ou))


def _alpha_bar(xp: Any, sigma: Any) -> Any:
    return 1 / (1 + sigma * sigma)


def _from_alpha_bar(xp: Any, alpha_bar: Any) -> Any:
    return xp.sqrt((1 - alpha_bar) / alpha_bar)


def _log_snr(xp: Any, sigma: Any) -> Any:
    return -2 * xp.log(sigma)


def _from_log_snr(xp: Any, log_snr: Any) -> Any:
    return xp.exp(-0.5 * log_snr)


def _flow_time(xp: Any, sigma: Any) -> Any:
    return xp.where(xp.isinf(sigma), 1, sigma / (1 + sigma))


def _from_flow_time(xp: Any, time: Any) -> Any:
    return time / (1 - time)


def _no_correction(xp: Any, sigma: Any) -> Any:
    return xp.zeros_like(sigma)


def _vp_correction(xp: Any, sigma: Any) -> Any:
    square = sigma * sigma
    return xp.where(xp.isinf(square), 1, square / (1 + square))


def sigma_to_t_ou(sigma: Levels) -> Float[Array, "*shape"] | float:
    r"""Convert to Ornstein-Uhlenbeck time, ``t_ou = (1/2) ln(1 + sigma^2)``.

    Parameters
    ----------
    sigma : array
        Noise standard deviation, >= 0.

    Returns
    -------
    array
        Time >= 0 of ``dy = -y dt + sqrt(2) dW`` from the data; the signal has shrunk by ``exp(-t_ou)``.

    Example
    -------
    >>> print(f"{sigma_to_t_ou(1.0):.4f}")
    0.3466
    """
    return _evaluated(_t_ou, _sigma(sigma))


def t_ou_to_sigma(t_ou: Levels) -> Float[Array, "*shape"] | float:
    r"""Invert `sigma_to_t_ou`, ``sigma = sqrt(expm1(2 t_ou))`` for t_ou >= 0.

    Example
    -------
    >>> print(f"{t_ou_to_sigma(0.5 * np.log(5.0)):.4f}")
    2.0000
    """
    return _evaluated(_from_t_ou, _levels("t_ou", t_ou, 0.0, np.inf, "times >= 0"))


def sigma_to_alpha_bar(sigma: Levels) -> Float[Array, "*shape"] | float:
    r"""Convert to the squared signal amplitude of the variance-preserving frame, ``1/(1 + sigma^2)``.

    Parameters
    ----------
    sigma : array
        Noise standard deviation, >= 0.

    Returns
    -------
    array
        alpha_bar in [0, 1]: ``y = sqrt(alpha_bar) x`` carries noise of variance ``1 - alpha_bar``.

    Example
    -------
    >>> print(f"{sigma_to_alpha_bar(3.0):.4f}")
    0.1000
    """
    return _evaluated(_alpha_bar, _sigma(sigma))


def alpha_bar_to_sigma(alpha_bar: Levels) -> Float[Array, "*shape"] | float:
    r"""Invert `sigma_to_alpha_bar`, ``sigma = sqrt((1 - alpha_bar)/alpha_bar)`` for alpha_bar in [0, 1].

    Example
    -------
    >>> print(f"{alpha_bar_to_sigma(0.1):.4f}")
    3.0000
    """
    return _evaluated(_from_alpha_bar, _levels("alpha_bar", alpha_bar, 0.0, 1.0, "values in [0, 1]"))


def sigma_to_log_snr(sigma: Levels) -> Float[Array, "*shape"] | float:
    r"""Convert to the logarithm of the signal-to-noise ratio, ``log_snr = -2 ln sigma``.

    Parameters
    ----------
    sigma : array
        Noise standard deviation, >= 0.

    Returns
    -------
    array
        Natural logarithm ``ln(alpha_bar/(1 - alpha_bar))``, for data of unit variance.

    Example
    -------
    >>> print(f"{sigma_to_log_snr(10.0):.4f}")
    -4.6052
    """
    return _evaluated(_log_snr, _sigma(sigma))


def log_snr_to_sigma(log_snr: Levels) -> Float[Array, "*shape"] | float:
    r"""Invert `sigma_to_log_snr`, ``sigma = exp(-log_snr/2)`` for any real number.

    Example
    -------
    >>> print(f"{log_snr_to_sigma(0.0):.4f}")
    1.0000
    """
    return _evaluated(_from_log_snr, _levels("log_snr", log_snr, -np.inf, np.inf, "numbers"))


def sigma_to_rectified_flow_time(sigma: Levels) -> Float[Array, "*shape"] | float:
    r"""Convert to rectified-flow time, ``t = sigma/(1 + sigma)``.

    Parameters
    ----------
    sigma : array
        Noise standard deviation, >= 0.

    Returns
    -------
    array
        t in [0, 1] of ``x_t = (1-t) x0 + t eps``, so ``x = x_t/(1-t)``: 0 is data and 1 is noise. Liu et al.
        2022, arXiv:2209.03003, count from the noise: theirs is 1 - t.

    Example
    -------
    >>> print(f"{sigma_to_rectified_flow_time(3.0):.4f}")
    0.7500
    """
    return _evaluated(_flow_time, _sigma(sigma))


def rectified_flow_time_to_sigma(time: Levels) -> Float[Array, "*shape"] | float:
    r"""Invert `sigma_to_rectified_flow_time`, ``sigma = t/(1 - t)`` for t in [0, 1], 0 at the data.

    Example
    -------
    >>> print(f"{rectified_flow_time_to_sigma(0.75):.4f}")
    3.0000
    """
    return _evaluated(_from_flow_time, _levels("time", time, 0.0, 1.0, "values in [0, 1]"))


@cache
def _ddpm_table(schedule: str, num_timesteps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the timesteps 0 ... T - 1 and their ln sigma (strictly increasing), in float64."""
    check_option("schedule", schedule, DDPM_SCHEDULES)
    check_count("num_timesteps", num_timesteps, least=2, advice="the papers use 1000")
    timesteps = np.arange(num_timesteps, dtype=np.float64)
    if schedule == "linear":
        betas = np.linspace(1e-4, 0.02, num_timesteps)
    else:
        edges = np.arange(num_timesteps + 1) / num_timesteps
        alpha_bar = np.cos((edges + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    # sigma^2 = 1/alpha_bar - 1, without the cancellation at small noise.
    return timesteps, 0.5 * np.log(np.expm1(-np.cumsum(np.log1p(-betas))))


def _interpolate_inside(xp: Any, x: Any, knots: Any, values: Any) -> Any:
    """Interpolate linearly; NaN outside the knots, with room for rounding at the two ends."""
    low, high = knots[0], knots[-1]
    slack = 8 * xp.finfo(x.dtype).eps * xp.maximum(xp.abs(low), xp.abs(high))
    inside = (x >= low - slack) & (x <= high + slack)
    return xp.where(inside, xp.interp(x, knots, values), xp.nan)


def _timestep(xp: Any, sigma: Any, timesteps: Any, log_sigmas: Any) -> Any:
    return _interpolate_inside(xp, xp.log(sigma), log_sigmas, timesteps)


def _from_timestep(xp: Any, timestep: Any, timesteps: Any, log_sigmas: Any) -> Any:
    return xp.exp(_interpolate_inside(xp, timestep, timesteps, log_sigmas))


class SigmaRange(NamedTuple):
    """Result of `ddpm_sigma_range`."""

    low: float
    """Noise level of timestep 0."""
    high: float
    """Noise level of the last timestep."""


def ddpm_sigma_range(*, schedule: str = "linear", num_timesteps: int = 1000) -> SigmaRange:
    """Tell the smallest and largest sigma of a DDPM schedule; `sigma_to_ddpm_timestep` is NaN outside.

    Example
    -------
    >>> print("{:.4f} {:.2f}".format(*ddpm_sigma_range()))
    0.0100 157.41
    """
    _, log_sigmas = _ddpm_table(schedule, num_timesteps)
    return SigmaRange(float(np.exp(log_sigmas[0])), float(np.exp(log_sigmas[-1])))


def sigma_to_ddpm_timestep(
    sigma: Levels, *, schedule: str = "linear", num_timesteps: int = 1000
) -> Float[Array, "*shape"] | float:
    r"""Convert to the timestep of a discrete DDPM schedule, made continuous by interpolating ``ln sigma``.

    ``sigma_t^2 = 1/alpha_bar_t - 1``,   ``alpha_bar_t = prod_{s <= t} (1 - beta_s)``,   t = 0 ... T - 1

    Parameters
    ----------
    sigma : array
        Noise standard deviation, >= 0.
    schedule : "linear" or "cosine"
        ``"linear"``: T values beta from 1e-4 to 0.02 (Ho et al. 2020, arXiv:2006.11239). ``"cosine"``:
        alpha_bar proportional to ``cos^2((t/T + 0.008)/1.008 pi/2)``, beta <= 0.999 (Nichol & Dhariwal 2021,
        arXiv:2102.09672).
    num_timesteps : int
        T >= 2.

    Returns
    -------
    array
        Timestep counted from 0, fractional between the knots; **NaN** where sigma lies outside
        `ddpm_sigma_range`, because no timestep of the schedule means that noise level.

    Raises
    ------
    ValueError
        If the schedule is unknown, ``num_timesteps < 2``, or a concrete sigma is negative or NaN.

    Notes
    -----
    Exact at the knots, piecewise linear in ln sigma between them: the derivative jumps at the knots.

    Example
    -------
    >>> print(np.round(np.float64(sigma_to_ddpm_timestep(np.array([0.001, 0.1, 1.0, 10.0]))), 1))
    [  nan  26.4 258.1 673.7]
    """
    return _evaluated(_timestep, _sigma(sigma), *_ddpm_table(schedule, num_timesteps))


def ddpm_timestep_to_sigma(
    timestep: Levels, *, schedule: str = "linear", num_timesteps: int = 1000
) -> Float[Array, "*shape"] | float:
    r"""Invert `sigma_to_ddpm_timestep`; **NaN** for timesteps outside 0 ... num_timesteps - 1.

    Example
    -------
    >>> print(np.round(np.float64(ddpm_timestep_to_sigma(np.array([0.0, 500.0, 999.0, 1000.0]))), 2))
    [1.0000e-02 3.4400e+00 1.5741e+02        nan]
    """
    timestep = _levels("timestep", timestep, -np.inf, np.inf, "numbers")
    return _evaluated(_from_timestep, timestep, *_ddpm_table(schedule, num_timesteps))


def frame_correction(sigma: Levels, frame: str) -> Float[Array, "*shape"] | float:
    r"""Give what a growth rate per unit ``tau = -ln sigma`` gains from the change of frame.

    A mode growing at rate G in x grows at ``G + sigma^2/(1 + sigma^2)`` in ``y = x/sqrt(1 + sigma^2)``, so a
    critical noise level depends on the frame (THEORY section 1).

    Parameters
    ----------
    sigma : array
        Noise standard deviation, >= 0.
    frame : "ve" or "vp"
        Variance exploding (x) or variance preserving (y).

    Returns
    -------
    array
        0 for ``"ve"``, ``sigma^2/(1 + sigma^2)`` for ``"vp"``.

    Raises
    ------
    ValueError
        If the frame is unknown or a concrete sigma is negative or NaN.

    Example
    -------
    >>> print(frame_correction(1.0, "ve"), frame_correction(1.0, "vp"))
    0.0 0.5
    """
    check_option("frame", frame, FRAMES)
    return _evaluated(_vp_correction if frame == "vp" else _no_correction, _sigma(sigma))


def describe_noise(sigma: Scalar) -> dict[str, float]:
    r"""Name one concrete noise level in every smooth unit, for printing.

    Returns
    -------
    dict
        Python floats ``sigma``, ``t_ou``, ``alpha_bar``, ``log_snr``.

    Raises
    ------
    ValueError
        If sigma is no scalar, is traced, negative or NaN.

    Example
    -------
    >>> {name: round(value, 4) for name, value in describe_noise(1.0).items()}
    {'sigma': 1.0, 't_ou': 0.3466, 'alpha_bar': 0.5, 'log_snr': 0.0}
    """
    got, advice = "a traced array", "call describe_noise outside jit"
    check(is_concrete(sigma), "sigma", "a concrete number", got, advice)
    got, advice = f"shape {np.shape(sigma)}", "describe one level at a time"
    check(np.shape(sigma) == (), "sigma", "a scalar", got, advice)
    sigma = float(_sigma(sigma))
    functions = {"t_ou": sigma_to_t_ou, "alpha_bar": sigma_to_alpha_bar, "log_snr": sigma_to_log_snr}
    # Adding zero turns the -0.0 of ln 1 into 0.0.
    return {
        "sigma": sigma,
        **{name: float(convert(sigma)) + 0.0 for name, convert in functions.items()},
    }
