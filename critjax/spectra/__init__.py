"""Linear theory of a denoiser: kernels, symbols, growth rates, homogeneous states, critical points.

Exact symbols come from banks (`symbol`), measured ones from any denoiser (`measured_symbol`,
`regression_symbol`); both are ``(H, W, C, C)`` complex in FFT order with ``J e_k = symbol(k) e_k``, ``e_k(j)
= exp(i k.j)`` (THEORY section 3).
"""

from critjax.spectra.critical import (
    CriticalPoint,
    CriticalStatus,
    critical_point,
    critical_sigmas,
    instability_kind,
)
from critjax.spectra.eigenvalues import dispersion, growth_rate, leading_eigenvalue, right_eigenvector
from critjax.spectra.kernels import (
    mean_field_critical_sigma,
    nonreciprocal_fraction,
    response_kernel,
    symbol,
    uniform_symbol,
)
from critjax.spectra.measured import (
    PhaseField,
    measured_symbol,
    project_symbol,
    random_phase_field,
    rayleigh_quotient,
)
from critjax.spectra.regression import regression_ratio, regression_symbol
from critjax.spectra.states import bank_symbol_fn, homogeneous_growth_rate, homogeneous_state

__all__ = [
    "CriticalPoint",
    "CriticalStatus",
    "PhaseField",
    "bank_symbol_fn",
    "critical_point",
    "critical_sigmas",
    "dispersion",
    "growth_rate",
    "homogeneous_growth_rate",
    "homogeneous_state",
    "instability_kind",
    "leading_eigenvalue",
    "mean_field_critical_sigma",
    "measured_symbol",
    "nonreciprocal_fraction",
    "project_symbol",
    "random_phase_field",
    "rayleigh_quotient",
    "regression_ratio",
    "regression_symbol",
    "response_kernel",
    "right_eigenvector",
    "symbol",
    "uniform_symbol",
]
