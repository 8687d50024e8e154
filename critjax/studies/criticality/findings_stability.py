# ruff: noqa: RUF001  (Greek letters belong in a report)
"""What a report says of the state that bare theory is about: whether it is stable, and whether growth lasts."""

from __future__ import annotations

import numpy as np
import xarray as xr

from critjax.observables.errors import Estimate
from critjax.report.numbers import noise, plain, read


def stability_sentence(dataset: xr.Dataset) -> str | None:
    """State whether the uniform state that bare theory is about is stable itself, Gamma(0) <= 0."""
    if "homogeneous_growth_rate" not in dataset:
        return None
    where = "" if dataset.attrs.get("frame", "ve") == "ve" else " in the variance-preserving frame"
    rate, sigma = dataset["homogeneous_growth_rate"].values, dataset["sigma"].values
    unstable = np.flatnonzero(rate > 0)
    if unstable.size == 0:
        best = int(np.nanargmax(rate))
        return (
            f"The uniform state itself stays stable{where} on the whole ladder (Γ(0) at most "
            f"{plain(float(rate[best]))}, at {noise(Estimate(float(sigma[best])))}): bare theory describes a state "
            "that can be followed."
        )
    first = int(unstable[0])
    if first == 0:
        return (
            f"The uniform state itself is unstable{where} from the first noise level on "
            f"(Γ(0) = {plain(float(rate[0]))}): all bare curves describe a state that generation leaves at once."
        )
    level = read(dataset, "critical_sigma_uniform_bare").value
    if not sigma[first - 1] >= level >= sigma[first]:  # unknown, or another crossing
        level = float(sigma[first])
    again = np.flatnonzero(rate[first:] <= 0)
    end = (
        ""
        if again.size == 0
        else f", though the state is stable again at {noise(Estimate(float(sigma[first + again[0]])))}"
    )
    return (
        f"The uniform state itself turns unstable{where} at {noise(Estimate(level))}: bare curves below describe a "
        f"state that generation has left{end}."
    )


def crossings_sentence(dataset: xr.Dataset) -> str | None:
    """State whether bare theory crosses from decay to growth once, or is re-entrant."""
    if "crossing_sigma" not in dataset:
        return None
    levels = dataset["crossing_sigma"].values
    levels, count = levels[np.isfinite(levels)], int(read(dataset, "num_crossings").value)
    if levels.size == 0:
        return None
    # Without a critical noise modes grow from the top of the scan on, and the first crossing ends that.
    known = read(dataset, "critical_sigma_bare").known
    if known and count == 1:
        return "In linear theory growth sets in only once: below σ_c some mode grows at every noise scanned."
    words = ("starts", "stops") if known else ("stops", "starts")
    listed = ", ".join(f"{words[i % 2]} at {noise(Estimate(float(s)))}" for i, s in enumerate(levels))
    more = "" if count <= levels.size else f" (the first {levels.size} of {count} crossings)"
    return f"In linear theory growth does not last: as the noise falls, it {listed}{more}."
