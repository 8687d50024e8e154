"""A window of noise levels in the units of every diffusion convention, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from critjax._checks import check, check_option, check_sigmas, is_concrete
from critjax._typing import ArrayLike, Float, Scalar
from critjax.noise import (
    DDPM_SCHEDULES,
    alpha_bar_to_sigma,
    ddpm_timestep_to_sigma,
    is_inside,
    karras_sigmas,
    log_snr_to_sigma,
    rectified_flow_time_to_sigma,
    sigma_to_alpha_bar,
    sigma_to_ddpm_timestep,
    sigma_to_log_snr,
    sigma_to_rectified_flow_time,
    sigma_to_t_ou,
    t_ou_to_sigma,
)

_FROM_SIGMA = {
    "t_ou": sigma_to_t_ou,
    "alpha_bar": sigma_to_alpha_bar,
    "log_snr": sigma_to_log_snr,
    "rectified_flow_time": sigma_to_rectified_flow_time,
}
_TO_SIGMA = {
    "t_ou": t_ou_to_sigma,
    "alpha_bar": alpha_bar_to_sigma,
    "log_snr": log_snr_to_sigma,
    "rectified_flow_time": rectified_flow_time_to_sigma,
}
#: Samplers whose levels `sampler_levels` knows.
SAMPLERS = ("ddpm_linear", "ddpm_cosine", "edm", "rectified_flow")
WINDOW_UNITS = ("sigma", *_TO_SIGMA, "ddpm_timestep", "step")


def sampler_levels(sampler: str, num_steps: int, *, num_timesteps: int = 1000) -> np.ndarray:
    r"""Give the noise levels that a common sampler visits, so that its steps can be counted.

    Parameters
    ----------
    sampler : str
        ``"ddpm_linear"`` or ``"ddpm_cosine"``: DDIM on evenly spaced timesteps from the last one on ("trailing");
        ``"edm"``: `karras_sigmas` from 80 to 0.002; ``"rectified_flow"``: t = 1 - n/num_steps, sigma = t/(1 - t).
    num_steps : int
        Steps of the sampler; each of those levels starts one, and the last step ends without noise.
    num_timesteps : int
        Length of the DDPM schedules.

    Returns
    -------
    array (num_steps + 1,)
        Falling standard deviations, float64; the first of rectified flow is infinite, the last of all is 0. Not a
        ladder for `sample`, which takes finite levels, but for ``sigmas`` of `describe_window` and `window_from`.

    Raises
    ------
    ValueError
        If the sampler is unknown, or there are too few or too many steps.

    Notes
    -----
    Song et al. 2021, arXiv:2010.02502 (DDIM); Lin et al. 2024, arXiv:2305.08891 (trailing timesteps); Karras et al.
    2022, arXiv:2206.00364; Liu et al. 2023, arXiv:2209.03003. Samplers of other packages may place their steps
    otherwise: pass their own levels then.

    Example
    -------
    >>> sampler_levels("rectified_flow", 4).tolist()
    [inf, 3.0, 1.0, 0.3333333333333333, 0.0]
    >>> describe_window(0.3, 2.0, sigmas=sampler_levels("rectified_flow", 4))["step"]
    (2, 3)
    """
    check_option("sampler", sampler, SAMPLERS)
    whole = isinstance(num_steps, (int, np.integer)) and not isinstance(num_steps, bool)
    most = num_timesteps if sampler.startswith("ddpm") else None
    good = whole and num_steps >= 2 and (most is None or num_steps <= most)
    expected = "an integer >= 2" + ("" if most is None else f", at most {most} timesteps")
    check(good, "num_steps", expected, repr(num_steps), "count the steps of the sampler")
    if sampler == "edm":
        starts = np.asarray(karras_sigmas(80.0, 0.002, num_steps - 1), np.float64)
    elif sampler == "rectified_flow":
        left = np.arange(num_steps) / num_steps  # 1 - t
        starts = np.divide(1 - left, left, out=np.full(num_steps, np.inf), where=left > 0)
    else:
        timesteps = np.round(num_timesteps * (1 - np.arange(num_steps) / num_steps)) - 1
        schedule = sampler.removeprefix("ddpm_")
        starts = np.asarray(
            ddpm_timestep_to_sigma(timesteps, schedule=schedule, num_timesteps=num_timesteps), np.float64
        )
    return np.append(starts, 0.0)


def describe_window(
    sigma_low: Scalar,
    sigma_high: Scalar,
    *,
    sigmas: Float[ArrayLike, " levels"] | None = None,
    num_timesteps: int = 1000,
) -> dict[str, Any]:
    r"""Translate a window of noise levels into the units of every diffusion convention.

    Parameters
    ----------
    sigma_low, sigma_high : scalars
        Edges of the window, standard deviations, ``0 <= sigma_low <= sigma_high``; concrete.
    sigmas : float array (num + 1,), optional
        A sampler's levels, its own or those of `sampler_levels`; the first may be infinite, the last 0.
    num_timesteps : int
        Length of the DDPM schedules.

    Returns
    -------
    dict
        For each unit the pair of its values **where generation enters the window and where it leaves it**, Python
        floats: ``sigma`` (falls), ``t_ou`` (falls), ``alpha_bar`` (rises), ``log_snr`` (rises),
        ``rectified_flow_time`` (falls), ``ddpm_timestep_linear`` and ``ddpm_timestep_cosine`` (fall; counted from 0;
        NaN for an edge outside the schedule). With a ladder also ``step``, the first and the last index n of the
        steps ``sigmas[n] -> sigmas[n+1]`` that start in the window, sigma_low < sigmas[n] <= sigma_high, exactly those
        that `pulse` weighs, or None if none does. (A Heun step also looks at its end: with `pulse` the second stage
        of the step before the first one is guided, too.)

    Raises
    ------
    ValueError
        If the edges are out of order, NaN (no window was found) or traced, or the ladder does not decrease.

    Notes
    -----
    `window_from` inverts each entry. Conversions and their limits: `critjax.noise`.

    Example
    -------
    >>> window = describe_window(1.0, 10.0, sigmas=np.array([40.0, 10.0, 3.0, 1.0]))
    >>> for unit in ("sigma", "alpha_bar", "rectified_flow_time", "ddpm_timestep_linear", "step"):
    ...     print(unit, np.round(np.float64(window[unit]), 2))
    sigma [10.  1.]
    alpha_bar [0.01 0.5 ]
    rectified_flow_time [0.91 0.5 ]
    ddpm_timestep_linear [673.67 258.09]
    step [1. 2.]
    """
    for name, edge in (("sigma_low", sigma_low), ("sigma_high", sigma_high)):
        check(is_concrete(edge), name, "a concrete number", "a traced array", "describe windows outside jit")
        check(np.shape(edge) == (), name, "a scalar", f"shape {np.shape(edge)}", "describe one window")
    low, high = float(sigma_low), float(sigma_high)
    advice = "pass the lower level first; NaN means that no window was found, see its status"
    check(0 <= low <= high, "sigma_low, sigma_high", "0 <= sigma_low <= sigma_high", (low, high), advice)
    window: dict[str, Any] = {"sigma": (high, low)}
    window |= {unit: (convert(high), convert(low)) for unit, convert in _FROM_SIGMA.items()}
    for schedule in DDPM_SCHEDULES:
        options = {"schedule": schedule, "num_timesteps": num_timesteps}
        ends = tuple(sigma_to_ddpm_timestep(edge, **options) for edge in (high, low))
        window[f"ddpm_timestep_{schedule}"] = ends
    if sigmas is not None:
        inside = np.flatnonzero(is_inside(_checked_levels(sigmas)[:-1], low, high))
        window["step"] = (int(inside[0]), int(inside[-1])) if inside.size else None
    return window


class Window(NamedTuple):
    """Result of `window_from`."""

    sigma_low: float
    """Lower edge, as of `pulse`."""
    sigma_high: float
    """Upper edge."""


def window_from(
    unit: str,
    start: Scalar,
    stop: Scalar,
    *,
    schedule: str = "linear",
    num_timesteps: int = 1000,
    sigmas: Float[ArrayLike, " levels"] | None = None,
) -> Window:
    r"""Translate a window in any unit into noise levels.

    Parameters
    ----------
    unit : str
        ``"sigma"``, ``"t_ou"``, ``"alpha_bar"``, ``"log_snr"``, ``"rectified_flow_time"``, ``"ddpm_timestep"`` or
        ``"step"``.
    start, stop : scalars
        The ends of the window in that unit, in either order; for ``"step"`` the first and the last step, both inside.
    schedule, num_timesteps
        The DDPM schedule, for ``"ddpm_timestep"``, see `sigma_to_ddpm_timestep`.
    sigmas : float array (num + 1,), optional
        The sampler's levels, as in `describe_window`, for ``"step"``.

    Returns
    -------
    Window
        ``sigma_low`` and ``sigma_high``, for `pulse`. Steps first ... last give (sigmas[last + 1], sigmas[first]), the
        levels between which they run.

    Raises
    ------
    ValueError
        If the unit is unknown, a value lies outside its domain, or steps come without a ladder.

    Example
    -------
    >>> print("{:.4f} {:.4f}".format(*window_from("ddpm_timestep", 600, 300)))
    1.2402 6.1735
    >>> window_from("step", 1, 2, sigmas=np.array([8.0, 4.0, 2.0, 1.0]))
    Window(sigma_low=1.0, sigma_high=4.0)
    """
    check_option("unit", unit, WINDOW_UNITS)
    if unit == "step":
        return _levels_of_steps(start, stop, sigmas)
    if unit == "ddpm_timestep":
        ends = [
            float(ddpm_timestep_to_sigma(end, schedule=schedule, num_timesteps=num_timesteps))
            for end in (start, stop)
        ]
        expected = f"timesteps of 0 ... {num_timesteps - 1}"
        check(not np.isnan(ends).any(), "start, stop", expected, (start, stop), "check unit and schedule")
    else:
        convert = _TO_SIGMA.get(unit, float)
        ends = [float(convert(end)) for end in (start, stop)]
        good = all(end >= 0 for end in ends)  # which NaN is not
        check(good, "start, stop", "noise standard deviations >= 0", (start, stop), "check unit and values")
    return Window(min(ends), max(ends))


def _levels_of_steps(start: Any, stop: Any, sigmas: Any) -> Window:
    check(sigmas is not None, "sigmas", "the sampler's levels, to count its steps", None, "pass sigmas=")
    sigmas = _checked_levels(sigmas)
    first, last = sorted((start, stop))
    num = len(sigmas) - 1
    good = float(first).is_integer() and float(last).is_integer() and first >= 0 and last < num
    check(good, "start, stop", f"steps of 0 ... {num - 1}", (start, stop), "count steps from 0")
    return Window(float(sigmas[int(last) + 1]), float(sigmas[int(first)]))


def _checked_levels(sigmas: Any) -> np.ndarray:
    """Return levels that fall, from infinity to zero at most."""
    values = np.asarray(sigmas, np.float64)
    inner = values[
        1 if values[:1].tolist() == [np.inf] else 0 : -1 if values[-1:].tolist() == [0.0] else None
    ]
    check_sigmas("sigmas", inner)
    check(len(values) >= 2, "sigmas", "at least 2 noise levels", len(values), "pass both ends of the steps")
    return values
