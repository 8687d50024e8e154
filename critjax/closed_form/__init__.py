r"""Denoisers in closed form: oracles for every other route, and null models for what is measured.

Each is the exact posterior mean of a prior that can be written down: whole images (memorising), isotropic
Gaussian mixtures, one stationary Gaussian field, and the two constant patches of a ferromagnet (THEORY
section 3).

All work in the dtype of ``x`` (half precision is computed in float32 and rounded at the end), are stable in
float32 for sigma from 1e-3 to 1e3, and compose with ``jit``, ``vmap``, ``grad`` and ``jvp``, also with
respect to the parameters of the prior.
"""

from critjax.closed_form._gaussian import gaussian_denoiser, gaussian_fields, gaussian_symbol, image_spectrum
from critjax.closed_form._mixtures import (
    ideal_denoiser,
    ideal_log_weights,
    mixture_denoiser,
    score,
    two_pattern_denoiser,
)

__all__ = [
    "gaussian_denoiser",
    "gaussian_fields",
    "gaussian_symbol",
    "ideal_denoiser",
    "ideal_log_weights",
    "image_spectrum",
    "mixture_denoiser",
    "score",
    "two_pattern_denoiser",
]
