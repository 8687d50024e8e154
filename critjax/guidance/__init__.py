r"""Guidance: when to push, how much a push matters, and where a denoiser is softest.

A guided denoiser mixes two others with a weight that depends on the noise level,

.. math:: D_g = D_u + w(\sigma)\,(D_c - D_u), \qquad \text{budget} = \int (w - w_0)\, d\tau, \quad
          \tau = -\ln \sigma

so that w = 0 is the unconditional and w = 1 the conditional one (`guided`). Schedules w are plain functions of sigma
(`constant`, `pulse`, `smooth_pulse`, `weights_on`); to be compared they must spend the same budget, the sampler's own
quadrature sum (`guidance_budget`, `with_budget`). What one unit of weight at tau changes in the result is the
susceptibility, measured by one reverse pass through the sampler (`susceptibility`) and known in linear theory
(`linear_response`). `guidance_window` measures the softening of a mode on a denoiser's own trajectories, guesses from
it alone where a push works best and recommends a window there, with errors, or says that it cannot tell.
`describe_window` tells a window in timesteps of every convention, `window_from` reads one, `sampler_levels` knows the
steps of common samplers.

Patch models, networks and closed forms are all denoisers, so that any two can be mixed; a class of a bank, for
example, is guided with

>>> from critjax import PatchBank, patch_denoiser, select
>>> bank = PatchBank(np.linspace(-1, 1, 36, dtype=np.float32).reshape(4, 3, 3, 1), labels=[0, 0, 1, 1])
>>> denoise = guided(patch_denoiser(bank), patch_denoiser(select(bank, 1)), pulse(0.5, 2.0, 1.5))
>>> denoise(jnp.zeros((8, 8, 1)), 1.0).shape
(8, 8, 1)

and a network with ``network_denoiser(config, params)`` beside ``network_denoiser(config, params, label)`` of
`critjax.networks`. THEORY section 8.
"""

from critjax.guidance._budget import guidance_budget, quadrature_weights, with_budget
from critjax.guidance._susceptibility import Susceptibility, linear_response, susceptibility
from critjax.guidance._units import (
    SAMPLERS,
    WINDOW_UNITS,
    Window,
    describe_window,
    sampler_levels,
    window_from,
)
from critjax.guidance._weights import (
    Pulse,
    SmoothPulse,
    WeightFn,
    constant,
    guided,
    pulse,
    smooth_pulse,
    weights_on,
)
from critjax.guidance._window import GuidanceWindow, WindowStatus, guidance_window, window_status

__all__ = [
    "SAMPLERS",
    "WINDOW_UNITS",
    "GuidanceWindow",
    "Pulse",
    "SmoothPulse",
    "Susceptibility",
    "WeightFn",
    "Window",
    "WindowStatus",
    "constant",
    "describe_window",
    "guidance_budget",
    "guidance_window",
    "guided",
    "linear_response",
    "pulse",
    "quadrature_weights",
    "sampler_levels",
    "smooth_pulse",
    "susceptibility",
    "weights_on",
    "window_from",
    "window_status",
    "with_budget",
]
