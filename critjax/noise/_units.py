"""One noise level in the units of every diffusion convention, and the frame correction of rates."""

from __future__ import annotations

import functools
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, check_count, check_option, is_concrete
from critjax._programs import as_argument
from critjax._typing import Array, ArrayLike, Float, Scalar

#: A noise level or an array of them, in the unit that the function names.
Levels: TypeAlias = Float[ArrayLike, "*shape"] | float | int

DDPM_SCHEDULES = ("linear", "cosine")
FRAMES = ("ve", "vp")


def _levels(name: str, values: Any, low: float, high: float, domain: str) -> Any:
    """Return ``values`` as the argument of a program, checked against ``[low, high]`` if they can be read."""
    if is_concrete(values):
        values = as_argument(values)
        host = np.asarray(values)
        bad = host[~((host >= low) & (host <= high))]  # NaN is bad, too
        check(bad.size == 0, name, domain, np.array2string(bad, threshold=4), "check unit and values")
    return values


def _sigma(sigma: Any) -> Any:
    return _levels("sigma", sigma, 0.0, np.inf, "noise standard deviations >= 0")


def _floating(values: Any) -> Array:
    array = jnp.asarray(values)
    # A Python integer stays weakly typed and promotes nothing.
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array * 1.0


@jax.jit
def _t_ou(sigma: Any) -> Array:
    sigma = _floating(sigma)
    return 0.5 * jnp.log1p(sigma * sigma)


@jax.jit
def _from_t_ou(t_ou: Any) -> Array:
    return jnp.sqrt(jnp.expm1(2 * _floating(t_ou)))


@jax.jit
def _alpha_bar(sigma: Any) -> Array:
    sigma = _floating(sigma)
    return 1 / (1 + sigma * sigma)


@jax.jit
def _from_alpha_bar(alpha_bar: Any) -> Array:
    alpha_bar = _floating(alpha_bar)
    return jnp.sqrt((1 - alpha_bar) / alpha_bar)


@jax.jit
def _log_snr(sigma: Any) -> Array:
    return -2 * jnp.log(_floating(sigma))


@jax.jit
def _from_log_snr(log_snr: Any) -> Array:
    return jnp.exp(-0.5 * _floating(log_snr))


@jax.jit
def _flow_time(sigma: Any) -> Array:
    sigma = _floating(sigma)
    return sigma / (1 + sigma)


@jax.jit
def _from_flow_time(time: Any) -> Array:
    time = _floating(time)
    return time / (1 - time)


def sigma_to_t_ou(sigma: Levels) -> Float[Array, "*shape"]:
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
    return _t_ou(_sigma(sigma))


def t_ou_to_sigma(t_ou: Levels) -> Float[Array, "*shape"]:
    r"""Invert `sigma_to_t_ou`, ``sigma = sqrt(expm1(2 t_ou))`` for t_ou >= 0.

    Example
    -------
    >>> print(f"{t_ou_to_sigma(0.5 * np.log(5.0)):.4f}")
    2.0000
    """
    return _from_t_ou(_levels("t_ou", t_ou, 0.0, np.inf, "times >= 0"))


def sigma_to_alpha_bar(sigma: Levels) -> Float[Array, "*shape"]:
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
    return _alpha_bar(_sigma(sigma))


def alpha_bar_to_sigma(alpha_bar: Levels) -> Float[Array, "*shape"]:
    r"""Invert `sigma_to_alpha_bar`, ``sigma = sqrt((1 - alpha_bar)/alpha_bar)`` for alpha_bar in [0, 1].

    Example
    -------
    >>> print(f"{alpha_bar_to_sigma(0.1):.4f}")
    3.0000
    """
    return _from_alpha_bar(_levels("alpha_bar", alpha_bar, 0.0, 1.0, "values in [0, 1]"))


def sigma_to_log_snr(sigma: Levels) -> Float[Array, "*shape"]:
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
    return _log_snr(_sigma(sigma))


def log_snr_to_sigma(log_snr: Levels) -> Float[Array, "*shape"]:
    r"""Invert `sigma_to_log_snr`, ``sigma = exp(-log_snr/2)`` for any real number.

    Example
    -------
    >>> print(f"{log_snr_to_sigma(0.0):.4f}")
    1.0000
    """
    return _from_log_snr(_levels("log_snr", log_snr, -np.inf, np.inf, "numbers"))


def sigma_to_rectified_flow_time(sigma: Levels) -> Float[Array, "*shape"]:
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
    return _flow_time(_sigma(sigma))


def rectified_flow_time_to_sigma(time: Levels) -> Float[Array, "*shape"]:
    r"""Invert `sigma_to_rectified_flow_time`, ``sigma = t/(1 - t)`` for t in [0, 1], 0 at the data.

    Example
    -------
    >>> print(f"{rectified_flow_time_to_sigma(0.75):.4f}")
    3.0000
    """
    return _from_flow_time(_levels("time", time, 0.0, 1.0, "values in [0, 1]"))


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


def _knots(schedule: str, num_timesteps: int) -> list[np.ndarray]:
    """Return the table of a schedule as arguments of a program, in the widest float that JAX has on."""
    # Within a program a float64 constant would stay one, also where JAX has float64 off.
    return [table.astype(jnp.result_type(float)) for table in _ddpm_table(schedule, num_timesteps)]


def _interpolate_inside(x: Array, knots: Any, values: Any) -> Array:
    """Interpolate linearly; NaN outside the knots, with room for rounding at the two ends."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # half precision cannot tell 1000 knots apart
    low, high = knots[0].astype(x.dtype), knots[-1].astype(x.dtype)
    slack = 8 * jnp.finfo(x.dtype).eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
    inside = (x >= low - slack) & (x <= high + slack)
    result = jnp.interp(x.astype(dtype), jnp.asarray(knots, dtype), jnp.asarray(values, dtype))
    return jnp.where(inside, result, jnp.nan).astype(x.dtype)


@jax.jit
def _timestep(sigma: Any, timesteps: Any, log_sigmas: Any) -> Array:
    return _interpolate_inside(jnp.log(_floating(sigma)), log_sigmas, timesteps)


@jax.jit
def _from_timestep(timestep: Any, timesteps: Any, log_sigmas: Any) -> Array:
    return jnp.exp(_interpolate_inside(_floating(timestep), timesteps, log_sigmas))


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
) -> Float[Array, "*shape"]:
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
    return _timestep(_sigma(sigma), *_knots(schedule, num_timesteps))


def ddpm_timestep_to_sigma(
    timestep: Levels, *, schedule: str = "linear", num_timesteps: int = 1000
) -> Float[Array, "*shape"]:
    r"""Invert `sigma_to_ddpm_timestep`; **NaN** for timesteps outside 0 ... num_timesteps - 1.

    Example
    -------
    >>> print(np.round(np.float64(ddpm_timestep_to_sigma(np.array([0.0, 500.0, 999.0, 1000.0]))), 2))
    [1.0000e-02 3.4400e+00 1.5741e+02        nan]
    """
    timestep = _levels("timestep", timestep, -np.inf, np.inf, "numbers")
    return _from_timestep(timestep, *_knots(schedule, num_timesteps))


@functools.partial(jax.jit, static_argnames="frame")
def _frame_correction(sigma: Any, frame: str) -> Array:
    sigma = _floating(sigma)
    return jnp.zeros_like(sigma) if frame == "ve" else sigma * sigma / (1 + sigma * sigma)


def frame_correction(sigma: Levels, frame: str) -> Float[Array, "*shape"]:
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
    return _frame_correction(_sigma(sigma), frame)


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
    check(
        is_concrete(sigma), "sigma", "a concrete number", "a traced array", "call describe_noise outside jit"
    )
    check(
        np.shape(sigma) == (), "sigma", "a scalar", f"shape {np.shape(sigma)}", "describe one level at a time"
    )
    functions = {"t_ou": sigma_to_t_ou, "alpha_bar": sigma_to_alpha_bar, "log_snr": sigma_to_log_snr}
    # Adding zero turns the -0.0 of ln 1 into 0.0.
    return {
        "sigma": float(sigma),
        **{name: float(convert(sigma)) + 0.0 for name, convert in functions.items()},
    }
