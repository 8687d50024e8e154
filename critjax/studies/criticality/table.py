# ruff: noqa: RUF001  (Greek letters belong in a report)
"""The result table of a criticality study."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from critjax.observables.errors import Estimate
from critjax.report.numbers import curve_at, in_units, plain, read, text, with_error
from critjax.report.table import Row, noise_rows, table_row
from critjax.studies._engine.results import stored_values
from critjax.studies.criticality.findings import checked_modes, linear_ratios, smallest_gap


def table(dataset: xr.Dataset) -> list[Row]:
    """Return the rows of the result table of a criticality study."""
    settings = stored_values(dataset)
    eta = float(settings.get("eta", 0.0))
    measured = read(dataset, "critical_sigma_measured")
    status = (
        "" if read(dataset, "critical_sigma_bare").known else str(dataset.attrs.get("instability_kind", ""))
    )
    rows = noise_rows(
        "critical noise σ_c, softest mode: bare theory",
        read(dataset, "critical_sigma_bare").value,
        measured,
        status,
    )
    if "critical_sigma_closure" in dataset:
        closure = read(dataset, "critical_sigma_closure")
        note = "" if closure.known else "theory never crosses one"
        if math.isfinite(closure.error):
            note = "± of theory: the closure's own sampling"
            if closure.error > closure.value / 4:
                note += ", whose symbol grazes one"
        rows += noise_rows(
            "effective critical noise, softest mode: Gaussian closure", closure, measured, note
        )
    if read(dataset, "critical_wavenumber_bare").value > 1e-9:
        uniform = read(dataset, "critical_sigma_uniform_measured")
        rows += noise_rows(
            "critical noise, uniform mode: bare theory",
            read(dataset, "critical_sigma_uniform_bare").value,
            uniform,
        )
        if "critical_sigma_uniform_closure" in dataset:
            closure = read(dataset, "critical_sigma_uniform_closure")
            rows += noise_rows("effective critical noise, uniform mode: Gaussian closure", closure, uniform)
    rows += _mode_rows(dataset, eta, measured)
    rows += _mean_field_rows(dataset)
    which = checked_modes(dataset).removeprefix("the ").replace("wavenumbers", "|k|")
    for ratio, mean, worst in linear_ratios(dataset):
        rows.append(
            table_row(
                f"S(k) over linear theory at σ²/σ_c² = {ratio:g}, {which}",
                1.0,
                mean,
                f"farthest from one: {with_error(worst)[0]} ± {with_error(worst)[1]}",
            )
        )
    rows += _length_rows(dataset, measured)
    rows += _kurtosis_rows(dataset, measured)
    return rows


def _mode_rows(dataset: xr.Dataset, eta: float, measured: Estimate) -> list[Row]:
    """Wavenumber, frequency, non-reciprocal size and the gap of the mean Jacobian."""
    wavenumber = read(dataset, "critical_wavenumber_bare").value
    rows = [
        table_row(
            "critical wavenumber |k_c| (rad per pixel)",
            wavenumber,
            read(dataset, "critical_wavenumber_measured"),
        )
    ]
    imag, found = read(dataset, "critical_imag_bare").value, read(dataset, "critical_imag_measured")
    frequency = Estimate((1 + eta) * found.value, (1 + eta) * found.error)
    rows.append(table_row("frequency of the softest mode (rad per e-fold of σ)", (1 + eta) * imag, frequency))
    at = measured.value if measured.known else read(dataset, "critical_sigma_bare").value
    nonreciprocal, note = Estimate(math.nan), ""
    if "nonreciprocal" in dataset and math.isfinite(at):
        i = int(np.argmin(np.abs(np.log(dataset["probe_sigma"].values / at))))
        nonreciprocal = Estimate(float(dataset["nonreciprocal"][i]), float(dataset["nonreciprocal_error"][i]))
        note = (
            "theory at bare σ_c; measured on the mean Jacobian at σ = "
            f"{plain(float(dataset['probe_sigma'][i]))}"
        )
    rows.append(
        table_row(
            "non-reciprocal size of the Jacobian",
            round(read(dataset, "nonreciprocal_bare").value, 6),
            nonreciprocal,
            note,
        )
    )
    if "mean_jacobian_softest" in dataset:
        gap, level = smallest_gap(dataset)
        units = ", ".join(f"{unit} {text(v)}" for unit, v in in_units(level).items())
        rows.append(
            table_row(
                "smallest gap of the mean Jacobian, softest mode",
                math.nan,
                gap,
                f"at σ = {text(level)} ({units})",
            )
        )
    return rows


def _mean_field_rows(dataset: xr.Dataset) -> list[Row]:
    """Set the mean-field value, with the spread over random banks, beside this bank's own."""
    if "mean_field_squared" not in dataset:
        return []
    mean, own = (
        read(dataset, "mean_field_squared").value,
        read(dataset, "bank_critical_uniform_squared").value,
    )
    spread = read(dataset, "mean_field_squared_spread").value
    draws = dataset["draw_critical_uniform"].values
    drawn = f"{len(draws)} drawn: {plain(float(draws.mean()))} ± {plain(float(draws.std(ddof=1)), 2)}"
    rows = [
        Row(
            "mean-field σ_c² of the uniform mode (measured: this bank, bare)",
            plain(mean, 4),
            plain(own, 4),
            plain(spread, 2),
            f"error: spread over random banks; {drawn}",
        )
    ]
    # The bank's own value is exact; its column of errors holds the spread over banks, in the same units.
    width = spread / (2 * math.sqrt(mean))
    units = in_units(Estimate(math.sqrt(mean), width))
    bank = in_units(Estimate(math.sqrt(own)) if own > 0 else Estimate(math.nan))
    sigma = math.sqrt(own) if own > 0 else math.nan
    rows.append(
        Row(
            "mean-field critical noise σ_c (the same)",
            plain(math.sqrt(mean), 4),
            plain(sigma, 4),
            plain(width, 2),
        )
    )
    for unit, value in units.items():
        rows.append(
            Row(f"   as {unit}", plain(value.value, 4), plain(bank[unit].value, 4), plain(value.error, 2))
        )
    return rows


def _length_rows(dataset: xr.Dataset, measured: Estimate) -> list[Row]:
    """Correlation lengths where the softest mode turns, and at the end."""
    if "xi_denoised" not in dataset:
        return []
    rows = []
    end = float(dataset["sigma"].values[-1])
    places = [("at the lowest noise", end)]
    if measured.known:
        places.insert(0, ("at the effective critical noise", measured.value))
    for place, sigma in places:
        theory = curve_at(dataset, "xi_second_moment_closure", sigma).value
        rows.append(
            table_row(
                f"correlation length {place}, second moment of S (px)",
                theory,
                curve_at(dataset, "xi_second_moment", sigma),
                "theory: Gaussian closure" if math.isfinite(theory) else "",
            )
        )
        rows.append(
            table_row(
                f"correlation length {place}, denoised field, 1/e (px)",
                math.nan,
                curve_at(dataset, "xi_denoised", sigma),
            )
        )
    return [row for row in rows if (row.theory, row.measured) != ("-", "-")]


def _kurtosis_rows(dataset: xr.Dataset, measured: Estimate) -> list[Row]:
    """Kurtosis of the soft modes where the softest one turns, and at the end."""
    if "soft_kurtosis" not in dataset:
        return []
    places = [("at the lowest noise", float(dataset["sigma"].values[-1]))]
    if measured.known:
        places.insert(0, ("at the effective critical noise", measured.value))
    rows = []
    for place, sigma in places:
        expected = curve_at(dataset, "kurtosis_closure", sigma)
        possible = (
            expected.value >= 1
        )  # no field has less: there the expansion to first order has long failed
        note = "3: Gaussian" + ("; theory: closure, first order" if possible else "")
        found = curve_at(dataset, "soft_kurtosis", sigma)
        quantity = f"kurtosis of the soft modes {place}"
        rows.append(table_row(quantity, expected if possible else math.nan, found, note))
    return rows
