"""The figures of a criticality study, in the order of its report."""

from __future__ import annotations

import xarray as xr

from critjax.plotting.style import FigureKind
from critjax.studies.criticality.figures_fields import (
    bank_spread_figure,
    condensation_figure,
    correlation_length_figure,
    film_strip_figure,
    gaussianity_figure,
    order_figure,
)
from critjax.studies.criticality.figures_spectral import (
    growth_rate_figure,
    linear_check_figure,
    softest_mode_figure,
    structure_factor_figure,
)

#: Name of the file -> figure, in the order of the report.
FIGURES: dict[str, FigureKind] = {
    "softest-mode": FigureKind(
        softest_mode_figure,
        ("lambda_bare_softest",),
        "Three different symbols of one mode. Bare: the response about the uniform state. λ_reg: the "
        "regression of the denoised on the noisy field, which drives the structure factor; where it "
        "crosses one is the effective critical noise. ⟨J⟩: the mean Jacobian, what a probe of a trained "
        "network sees. Shaded, as in other figures against noise: the uniform state itself is unstable, and bare "
        "theory describes a state that generation has left.",
    ),
    "growth-rate": FigureKind(
        growth_rate_figure,
        ("growth_rate",),
        "Growth rate of linear theory, for the fastest mode of each shell of wavenumbers. Black: where it "
        "neither grows nor decays. Dashed: the same by the Gaussian closure. Circles: where λ_reg of the "
        "simulated ensemble becomes marginal. Hatched: the uniform state itself is unstable.",
    ),
    "film-strip": FigureKind(
        film_strip_figure,
        ("film_x", "film_denoised"),
        "Two trajectories from noise to image, from left to right, each with what the denoiser makes of it. "
        "Rows named reduced: the slow modes alone, from the same noise as the sample above, each picture on its own "
        "grey scale. Bare: the Ginzburg-Landau equation with the bank's own coefficients. Closure: their linear "
        "growth with the closure's symbol in place of the bare one, which holds the mean effect of all "
        "nonlinear terms.",
    ),
    "structure-factor": FigureKind(
        structure_factor_figure,
        ("structure_factor_linear",),
        "Solid lines are linear theory from the bare symbol, dashed lines the Gaussian closure, both integrated "
        "down the same noise ladder with no free parameter. Noise levels are in units of the bare critical noise. "
        "Dotted: linear theory at levels where the uniform state itself is unstable.",
    ),
    "linear-check": FigureKind(
        linear_check_figure,
        ("linear_ratio",),
        "Simulated structure factor, divided by its own value at the first noise level, over the same "
        "ratio of linear theory. Below the grey band fluctuations have made the field grow less than "
        "linear theory says. Dashed: the same ratio by the Gaussian closure.",
    ),
    "correlation-length": FigureKind(
        correlation_length_figure,
        ("xi_raw",),
        "White noise hides correlations in the raw field; the denoised field and the second moment of S "
        "show them. The quasi-static length diverges where its symbol reaches one; the swept field cannot "
        "follow, as the second moment by the closure shows.",
    ),
    "gaussianity": FigureKind(
        gaussianity_figure,
        ("soft_kurtosis",),
        "The closure takes the field for Gaussian. Kurtosis of the field ψ of the soft modes: 3 if it is, less "
        "where it splits into two values, more where few patches pull harder than the average. Dashed, with its "
        "standard error: what the closure itself expects to first order, to be read near 3 only.",
    ),
    "order": FigureKind(
        order_figure,
        ("binder", "wall_density"),
        "The Binder cumulant of the spatial mean is 0 for Gaussian fluctuations and 2/3 when each sample "
        "settles in one of two states. Walls are nearest neighbours of opposite sign in the denoised field.",
    ),
    "condensation": FigureKind(
        condensation_figure,
        ("effective_patches",),
        "Exponential of the mean entropy of the patch weights along simulated trajectories.",
    ),
    "bank-spread": FigureKind(
        bank_spread_figure,
        ("draw_critical_uniform",),
        "Bare critical noise of random banks of the same size and number of patterns. The seed of this "
        "study's bank is given in the settings and was not chosen for its result.",
    ),
}


def figures(dataset: xr.Dataset) -> dict[str, FigureKind]:
    """Return the figures of a criticality study."""
    return FIGURES
