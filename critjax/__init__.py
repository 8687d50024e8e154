"""critjax: when and how structure appears while a diffusion model generates an image.

The numerical core is imported here; data, studies, plotting and reports load when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from critjax.banks import (
    ImageBank,
    PatchBank,
    extract_patches,
    random_pattern_bank,
    select,
    stripe_bank,
    two_pattern_bank,
)
from critjax.closed_form import (
    gaussian_denoiser,
    ideal_denoiser,
    mixture_denoiser,
    score,
    two_pattern_denoiser,
)
from critjax.eigenmodes import Eigenmodes, leading_modes
from critjax.fluctuations import (
    GaussianClosure,
    freeze_out_length,
    gaussian_closure,
    langevin_structure_factor,
    linear_structure_factor,
    transformed_closure,
)
from critjax.guidance import (
    GuidanceWindow,
    Susceptibility,
    describe_window,
    guidance_window,
    guided,
    pulse,
    susceptibility,
)
from critjax.landau import (
    LandauCoefficients,
    landau_coefficients,
    landau_sample,
    renormalised_coefficients,
)
from critjax.noise import geometric_sigmas, karras_sigmas
from critjax.observables import correlation_length, radial_average, structure_factor
from critjax.patch_score import (
    available_methods,
    effective_patches,
    patch_denoiser,
    patch_denoisers,
    scheduled_denoiser,
)
from critjax.sampling import Trajectory, sample
from critjax.spectra import (
    CriticalPoint,
    critical_point,
    growth_rate,
    homogeneous_state,
    instability_kind,
    measured_symbol,
    rayleigh_quotient,
    regression_symbol,
    response_kernel,
    symbol,
)

__version__ = "0.1.0"

_LAZY = (
    "banks",
    "closed_form",
    "cli",
    "data",
    "eigenmodes",
    "fluctuations",
    "fourier",
    "guidance",
    "landau",
    "networks",
    "noise",
    "observables",
    "patch_score",
    "plotting",
    "report",
    "sampling",
    "spectra",
    "studies",
    "sweeps",
)

__all__ = [
    "CriticalPoint",
    "Eigenmodes",
    "GaussianClosure",
    "GuidanceWindow",
    "ImageBank",
    "LandauCoefficients",
    "PatchBank",
    "Susceptibility",
    "Trajectory",
    "available_methods",
    "correlation_length",
    "critical_point",
    "describe_window",
    "effective_patches",
    "extract_patches",
    "freeze_out_length",
    "gaussian_closure",
    "gaussian_denoiser",
    "geometric_sigmas",
    "growth_rate",
    "guidance_window",
    "guided",
    "homogeneous_state",
    "ideal_denoiser",
    "instability_kind",
    "karras_sigmas",
    "landau_coefficients",
    "landau_sample",
    "langevin_structure_factor",
    "leading_modes",
    "linear_structure_factor",
    "measured_symbol",
    "mixture_denoiser",
    "patch_denoiser",
    "patch_denoisers",
    "pulse",
    "radial_average",
    "random_pattern_bank",
    "rayleigh_quotient",
    "regression_symbol",
    "renormalised_coefficients",
    "response_kernel",
    "sample",
    "scheduled_denoiser",
    "score",
    "select",
    "stripe_bank",
    "structure_factor",
    "susceptibility",
    "symbol",
    "transformed_closure",
    "two_pattern_bank",
    "two_pattern_denoiser",
]


def __getattr__(name: str) -> Any:
    """Load a submodule on first use."""
    if name in _LAZY:
        return importlib.import_module(f"critjax.{name}")
    raise AttributeError(f"module 'critjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_LAZY, "__version__"})
