# ruff: noqa: RUF001  (Greek letters belong in a report)
"""Sentences on what lies beyond the closure and linear theory: Gaussianity and reduced models."""

from __future__ import annotations

import numpy as np
import xarray as xr

from critjax.observables.errors import Estimate
from critjax.report.numbers import noise, plain, text

#: Kurtosis of a Gaussian field, and what counts as a departure from it.
GAUSSIAN, KURTOSIS_BAND = 3.0, 0.3
#: Correlation above which one field is said to follow another.
FOLLOWS = 0.9


def departure(values: np.ndarray, errors: np.ndarray) -> int | None:
    """Return the first index at which a kurtosis is off its Gaussian value by `KURTOSIS_BAND` and three errors."""
    away = np.abs(values - GAUSSIAN)
    off = np.flatnonzero((away > KURTOSIS_BAND) & (away > 3 * errors))
    return int(off[0]) if off.size else None


def gaussian_sentence(dataset: xr.Dataset) -> str | None:
    """State down to which noise the soft modes are Gaussian, and whether the closure foresees it."""
    if "soft_kurtosis" not in dataset or not np.any(np.isfinite(dataset["soft_kurtosis_error"])):
        return None
    sigma = dataset["sigma"].values
    values, errors = (dataset[f"soft_kurtosis{end}"].values for end in ("", "_error"))
    first = departure(values, errors)
    soft = "the field of the soft modes (|k| ≤ 2π/p)"
    if first is None:
        farthest = int(np.nanargmax(np.abs(values - GAUSSIAN)))
        shown = text(Estimate(float(values[farthest]), float(errors[farthest])))
        if abs(values[farthest] - GAUSSIAN) > KURTOSIS_BAND:
            return (
                f"Whether {soft} stays Gaussian is not decided: its kurtosis reaches {shown}, within three "
                "standard errors of 3."
            )
        return (
            f"{soft[:1].upper()}{soft[1:]} is Gaussian on the whole ladder: its kurtosis stays within "
            f"{KURTOSIS_BAND} of 3 (farthest: {shown}), as the closure assumes."
        )
    shown = text(Estimate(float(values[first]), float(errors[first])))
    if first == 0:
        return (
            f"{soft[:1].upper()}{soft[1:]} is not Gaussian from the first noise level on (kurtosis {shown})."
        )
    level = noise(Estimate(float(sigma[first])))
    sentence = (
        f"{soft[:1].upper()}{soft[1:]} is Gaussian down to about {level}, where its kurtosis is {shown}: from there "
        "on the closure's premise fails"
    )
    if "kurtosis_closure" not in dataset:
        return f"{sentence}."
    expected = np.flatnonzero(np.abs(dataset["kurtosis_closure"].values - GAUSSIAN) > KURTOSIS_BAND)
    if not expected.size:
        return f"{sentence}, which its own estimate of the kurtosis does not show."
    return f"{sentence}; its own estimate of the kurtosis leaves 3 at {noise(Estimate(float(sigma[expected[0]])))}."


def _diverged(dataset: xr.Dataset, name: str) -> np.ndarray:
    """Tell at which levels of the film a reduced model has no finite field."""
    return np.asarray(~np.isfinite(dataset[name].values).all((1, 2)))


def _follows(dataset: xr.Dataset, name: str) -> str:
    """Say down to which level of the film a reduced model follows the simulated field."""
    values = dataset[f"{name}_correlation"].values
    close = np.cumprod(values > FOLLOWS).astype(bool)
    if not close.any():
        return "does not follow the simulated field at all"
    last = plain(float(dataset["film_sigma"].values[close][-1]))
    how = f"correlation above {FOLLOWS}"
    if close.all():
        return f"follows the simulated field on the whole ladder ({how})"
    if _diverged(dataset, name)[np.argmin(close)]:
        lost = plain(float(dataset["film_sigma"].values[np.argmin(close)]))
        return f"follows the simulated field ({how}) until it is lost between σ = {last} and {lost}"
    return f"follows the simulated field ({how}) down to σ = {last}"


def reduced_sentence(dataset: xr.Dataset) -> str | None:
    """State how far reduced models of the slow modes follow the sample that started from the same noise."""
    if "film_reduced" not in dataset:
        return None
    sentence = (
        "From the noise of the first sample the Ginzburg-Landau equation of the slow modes with bare coefficients "
        f"{_follows(dataset, 'film_reduced')}"
    )
    lost = np.flatnonzero(_diverged(dataset, "film_reduced"))
    if lost.size:
        before = max(int(lost[0]) - 1, 0)
        there = dataset["sigma"].values <= dataset["film_sigma"].values[before]
        cubic = float(dataset["reduced_cubic"].values[there][0])
        sentence += (
            ": its cubic term has the sign that drives growth instead of stopping it"
            if cubic < 0
            else ": its cubic term damps, but is too stiff there to be integrated"
        )
    if "film_closure" not in dataset:
        return f"{sentence}."
    return f"{sentence}. With the closure's symbol their linear growth {_follows(dataset, 'film_closure')}."
