"""Figures of the studies: one message each, a dataset in, a `matplotlib.figure.Figure` out.

Theory is drawn as lines, measurement as points with error bars, critical points are marked. Colours are from
the set of Okabe and Ito and never stand alone: line style, marker or a direct label says the same. The noise
axis runs from high to low noise, the way generation does. Nothing here touches pyplot's global state.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from critjax.plotting._compare import COMPARE_FIGURES
from critjax.plotting._fields import (
    bank_spread_figure,
    condensation_figure,
    correlation_length_figure,
    film_strip_figure,
    gaussianity_figure,
    order_figure,
)
from critjax.plotting._freeze_out import FREEZE_OUT_FIGURES, binder_figure, frozen_length_figure
from critjax.plotting._guide import GUIDE_FIGURES
from critjax.plotting._landau import landau_figures
from critjax.plotting._spectral import (
    growth_rate_figure,
    linear_check_figure,
    softest_mode_figure,
    structure_factor_figure,
)
from critjax.plotting._style import FigureKind

__all__ = [
    "FIGURES",
    "FigureKind",
    "available_figures",
    "bank_spread_figure",
    "binder_figure",
    "condensation_figure",
    "correlation_length_figure",
    "film_strip_figure",
    "frozen_length_figure",
    "gaussianity_figure",
    "growth_rate_figure",
    "landau_figures",
    "linear_check_figure",
    "order_figure",
    "softest_mode_figure",
    "structure_factor_figure",
]


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


def available_figures(dataset: xr.Dataset) -> dict[str, FigureKind]:
    """Return the figures whose variables the dataset has, with at least one finite number each."""

    def ready(name: str) -> bool:
        return name in dataset and bool(np.any(np.isfinite(dataset[name].values)))

    study = dataset.attrs.get("study", "criticality")
    special = {
        "landau": landau_figures,
        "freeze_out": lambda _: FREEZE_OUT_FIGURES,
        "compare": lambda _: COMPARE_FIGURES,
        "guide": lambda _: GUIDE_FIGURES,
    }
    kinds = special[study](dataset) if study in special else FIGURES
    return {name: kind for name, kind in kinds.items() if all(map(ready, kind.needs))}
