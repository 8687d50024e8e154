"""Ginzburg-Landau reduction: coefficients, free energy and reduced dynamics of slow fields."""

from critjax.landau._coefficients import (
    AmplitudeCoefficients,
    LandauCoefficients,
    amplitude_coefficients,
    landau_coefficients,
    quartic_form,
)
from critjax.landau._dynamics import free_energy, integrate, landau_sample, low_pass, stable_substeps
from critjax.landau._model import ReducedModel, reduced_model
from critjax.landau._renormalised import (
    RenormalisedCoefficients,
    fast_fields,
    renormalised_coefficients,
    renormalised_model,
)

__all__ = [
    "AmplitudeCoefficients",
    "LandauCoefficients",
    "ReducedModel",
    "RenormalisedCoefficients",
    "amplitude_coefficients",
    "fast_fields",
    "free_energy",
    "integrate",
    "landau_coefficients",
    "landau_sample",
    "low_pass",
    "quartic_form",
    "reduced_model",
    "renormalised_coefficients",
    "renormalised_model",
    "stable_substeps",
]
