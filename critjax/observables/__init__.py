r"""What is measured on samples: spectra, correlation lengths, order, and the errors of all these.

Ensembles carry their samples on the first axis, (B, H, W, C). Fields are centred by the ensemble mean, never
each by its own mean: that would erase the mode k = 0, whose growth is the question. White noise hides
correlations of the raw field, so pass denoised fields as well, and compare like with like. Functions return
NaN, and say so, where a quantity does not exist (no crossing, negative stiffness). THEORY section 6.
"""

from __future__ import annotations

from critjax.observables.curves import Minimum, first_crossing, interior_minimum
from critjax.observables.errors import (
    Estimate,
    bootstrap_error,
    bootstrap_means,
    bootstrap_values,
    jackknife,
    jackknife_error,
    jackknife_spread,
    jackknife_values,
)
from critjax.observables.features import (
    feature_variance,
    feature_variance_change,
    frechet_change,
    frechet_distance,
    frechet_error,
)
from critjax.observables.kernels import (
    GapFit,
    equilibrium_length,
    fit_gap,
    mean_kernel,
    receptive_field_radius,
)
from critjax.observables.lengths import (
    RadialAutocorrelation,
    correlation_length,
    radial_autocorrelation,
    second_moment_length,
)
from critjax.observables.order import binder_cumulant, order_parameter, wall_density
from critjax.observables.structure import radial_average, sample_spectra, structure_factor

__all__ = [
    "Estimate",
    "GapFit",
    "Minimum",
    "RadialAutocorrelation",
    "binder_cumulant",
    "bootstrap_error",
    "bootstrap_means",
    "bootstrap_values",
    "correlation_length",
    "equilibrium_length",
    "feature_variance",
    "feature_variance_change",
    "first_crossing",
    "fit_gap",
    "frechet_change",
    "frechet_distance",
    "frechet_error",
    "interior_minimum",
    "jackknife",
    "jackknife_error",
    "jackknife_spread",
    "jackknife_values",
    "mean_kernel",
    "order_parameter",
    "radial_autocorrelation",
    "radial_average",
    "receptive_field_radius",
    "sample_spectra",
    "second_moment_length",
    "structure_factor",
    "wall_density",
]
