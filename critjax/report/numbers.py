# ruff: noqa: RUF001  (Greek letters belong in a report)
"""Numbers as people write them: digits that the error allows, noise levels in every unit."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from critjax.observables.errors import Estimate

#: Unit -> (function of sigma, its derivative), for the conventions of other papers.
NOISE_UNITS = {
    "t_ou": (lambda s: 0.5 * math.log1p(s * s), lambda s: s / (1 + s * s)),
    "ᾱ": (lambda s: 1 / (1 + s * s), lambda s: 2 * s / (1 + s * s) ** 2),
    "log-SNR": (lambda s: -2 * math.log(s), lambda s: 2 / s),
}


def read(dataset: xr.Dataset, name: str, error: str | None = None) -> Estimate:
    """Read a scalar and its error from a dataset; NaN where it is missing."""
    value = float(dataset[name]) if name in dataset else math.nan
    error = error or f"{name}_error"
    return Estimate(value, float(dataset[error]) if error in dataset else math.nan)


def curve_at(dataset: xr.Dataset, name: str, sigma: float, error: str | None = None) -> Estimate:
    """Read a curve at a given noise, interpolating linearly in ln sigma; NaN outside the ladder."""
    if name not in dataset or not math.isfinite(sigma):
        return Estimate(math.nan)
    values = dataset[name]
    levels = -np.log(values[values.dims[0]].values)

    def interpolate(array: xr.DataArray) -> float:
        return float(np.interp(-math.log(sigma), levels, array.values, left=math.nan, right=math.nan))

    error = error or f"{name}_error"
    return Estimate(interpolate(values), interpolate(dataset[error]) if error in dataset else math.nan)


def plain(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, without exponents where that is readable."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if -4 <= size < 6:
        text = f"{value:.{max(0, digits - 1 - size)}f}"
        return "0" if float(text) == 0 else text
    return f"{value:.{digits - 1}e}"


def _decimals(error: float) -> int:
    size = math.floor(math.log10(error))
    # Two digits of the error if it starts with 1, else one: the usual rule.
    return max(0, -size + (1 if error / 10.0**size < 1.95 else 0))


def with_error(number: Estimate) -> tuple[str, str]:
    """Write value and error with the digits that the error allows."""
    if not number.known:
        return "-", "-"
    if not (math.isfinite(number.error) and number.error > 0):
        return plain(number.value, 4), "-" if not math.isfinite(number.error) else "0"
    decimals = _decimals(number.error)
    shown = f"{number.value:.{decimals}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown, f"{number.error:.{decimals}f}"


def text(number: Estimate) -> str:
    """Write ``value ± error``."""
    value, error = with_error(number)
    return value if error in ("-", "0") else f"{value} ± {error}"


def in_units(sigma: Estimate) -> dict[str, Estimate]:
    """Convert a noise level, with its error, to t_ou, alpha-bar and log-SNR.

    Example
    -------
    >>> in_units(Estimate(1.0, 0.1))["ᾱ"]  # 1/(1 + sigma^2), and its slope 1/2 times the error
    Estimate(value=0.5, error=0.05)
    """
    if not sigma.known or sigma.value <= 0:
        return {name: Estimate(math.nan) for name in NOISE_UNITS}
    return {
        name: Estimate(convert(sigma.value), abs(slope(sigma.value)) * sigma.error)
        for name, (convert, slope) in NOISE_UNITS.items()
    }


def noise(sigma: Estimate, name: str = "σ") -> str:
    """Write a noise level in all its units: ``σ = 2.16 ± 0.01 (t_ou 0.87, ᾱ 0.18, log-SNR -1.54)``.

    Example
    -------
    >>> noise(Estimate(2.0))  # ln(5)/2, 1/5, -2 ln(2)
    'σ = 2.000 (t_ou 0.8047, ᾱ 0.2000, log-SNR -1.386)'
    """
    units = ", ".join(f"{unit} {with_error(value)[0]}" for unit, value in in_units(sigma).items())
    return f"{name} = {text(sigma)} ({units})"
