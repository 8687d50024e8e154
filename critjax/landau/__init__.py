"""Ginzburg-Landau reduction: coefficients, free energy and reduced dynamics of slow fields."""

from critjax.landau._coefficients import (
    AmplitudeCoefficients,
    LandauCoefficients,
    amplitude_coefficients,
    landau_coefficients,
    quartic_form,
)

__all__ = [
    "AmplitudeCoefficients",
    "LandauCoefficients",
    "amplitude_coefficients",
    "landau_coefficients",
    "quartic_form",
]
