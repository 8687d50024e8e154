r"""Noise levels: grids, and one noise level in the units of every diffusion convention.

The library speaks of ``sigma``, the standard deviation of the noise in the variance-exploding (VE) frame
``x = x0 + sigma eps``. The other conventions are functions of it:

==================  =========================================  =================================
unit                definition                                 at sigma = 0 ... inf
==================  =========================================  =================================
t_ou                ``sigma^2 = expm1(2 t_ou)``                0 ... inf
alpha_bar           ``1/(1 + sigma^2) = exp(-2 t_ou)``         1 ... 0
log_snr             ``-2 ln sigma`` (unit data variance)       inf ... -inf
rectified-flow t    ``x_t = (1-t) x0 + t eps``                 0 (data) ... 1 (noise)
DDPM timestep       ``alpha_bar_t`` of a discrete schedule     0 ... T - 1, NaN outside
==================  =========================================  =================================

All conversions take a scalar or an array, keep its dtype, are differentiable, and invert each other up to
rounding. Python numbers are converted in float64 and stay Python numbers; half precision is computed in float32.
An infinite sigma, pure noise, is legal. Two conversions crowd a whole range of noise levels next to the number
one, where floats have a spacing ``eps``: after a round trip the relative error of sigma is about
``eps/sigma^2`` through alpha_bar (small sigma) and ``eps sigma`` through rectified-flow time (large sigma). No
formula avoids that; t_ou and log_snr have no such limit.

Every conversion raises `ValueError` for concrete input outside the domain of its unit. Under ``jit`` values
cannot be read: there the formula is evaluated as it stands. THEORY section 1.
"""

from critjax.noise._ladders import geometric_sigmas, karras_sigmas
from critjax.noise._units import (
    DDPM_SCHEDULES,
    FRAMES,
    SigmaRange,
    alpha_bar_to_sigma,
    ddpm_sigma_range,
    ddpm_timestep_to_sigma,
    describe_noise,
    frame_correction,
    is_inside,
    log_snr_to_sigma,
    rectified_flow_time_to_sigma,
    sigma_to_alpha_bar,
    sigma_to_ddpm_timestep,
    sigma_to_log_snr,
    sigma_to_rectified_flow_time,
    sigma_to_t_ou,
    t_ou_to_sigma,
)

__all__ = [
    "DDPM_SCHEDULES",
    "FRAMES",
    "SigmaRange",
    "alpha_bar_to_sigma",
    "ddpm_sigma_range",
    "ddpm_timestep_to_sigma",
    "describe_noise",
    "frame_correction",
    "geometric_sigmas",
    "is_inside",
    "karras_sigmas",
    "log_snr_to_sigma",
    "rectified_flow_time_to_sigma",
    "sigma_to_alpha_bar",
    "sigma_to_ddpm_timestep",
    "sigma_to_log_snr",
    "sigma_to_rectified_flow_time",
    "sigma_to_t_ou",
    "t_ou_to_sigma",
]
