# ruff: noqa: RUF001  (Greek letters belong in a report)
"""What a Landau study says: sentences and table, chosen by the numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import xarray as xr

from critjax.observables.errors import Estimate
from critjax.report.numbers import plain
from critjax.report.page import UNITS, Content, labels
from critjax.report.table import Row, noise_rows
from critjax.studies._engine.results import stored_values

_KINDS = {"bare": "bare coefficients", "renormalised": "renormalised coefficients"}


def _scale(part: xr.Dataset) -> float:
    return float(part["critical_sigma"])


def _level(part: xr.Dataset, sigma: float) -> str:
    critical = _scale(part)
    return f"σ = {plain(sigma)}" + (f" ({plain(sigma / critical)} σ_c)" if math.isfinite(critical) else "")


def _holds(part: xr.Dataset, kind: str, tolerance: float) -> float:
    return float(part["holds_to_sigma"].sel(comparison=kind, error_limit=tolerance))


def _reach(part: xr.Dataset, kind: str) -> str:
    """Say how far down one comparison holds, to each tolerance."""
    pieces = []
    for tolerance in part["error_limit"].values:
        sigma = _holds(part, kind, float(tolerance))
        where = f"down to {_level(part, sigma)}" if math.isfinite(sigma) else "at no level"
        pieces.append(f"to {100 * float(tolerance):g} % {where}")
    return ", ".join(pieces)


def validity_sentence(part: xr.Dataset) -> str:
    """State how far down the reduced equation follows the exact slow field, bare and renormalised."""
    name, tolerance = str(part["bank"].values), float(part["error_limit"].values[-1])
    bare, renormalised = (_holds(part, kind, tolerance) for kind in ("bare", "renormalised"))
    sentence = f"{name}: with bare coefficients the slow field follows the exact one {_reach(part, 'bare')}"
    other = f"with coefficients renormalised by the fast modes {_reach(part, 'renormalised')}"
    if not (math.isfinite(bare) and math.isfinite(renormalised)):
        return f"{sentence}; {other}."
    if renormalised < 0.98 * bare:
        return f"{sentence}; {other}: averaging over the fast modes carries the reduction further."
    if renormalised > 1.02 * bare:
        return f"{sentence}; {other}: averaging over the fast modes makes it worse."
    return f"{sentence}; {other}: averaging over the fast modes changes little."


def saturation_sentence(part: xr.Dataset) -> str:
    """State whether growth of the softest mode saturates, and what becomes of a slow field whose cubic term drives."""
    name, critical = str(part["bank"].values), _scale(part)
    ends = [
        f"with {_KINDS[kind]} at {_level(part, float(part['escapes_at_sigma'].sel(comparison=kind)))}"
        for kind in _KINDS
        if math.isfinite(float(part["escapes_at_sigma"].sel(comparison=kind)))
    ]
    lost = f"; the reduced slow field leaves for infinity {' and '.join(ends)}" if ends else ""
    if float(part["critical_wavenumber"]) > 1e-9:
        saturates = bool(np.isfinite(part["plateau_squared_reduced"].values[0]))
        kind = "supercritical" if saturates else "subcritical: nothing saturates the wave"
        return (
            f"{name}: the softest mode has a finite wavelength, which no slow field holds; its amplitude equation is "
            f"{kind}{lost}."
        )
    at = critical if math.isfinite(critical) else float(part["sigma"].values[0])
    i = int(np.argmin(np.abs(np.log(part["sigma"].values / at))))
    cubic = float(part["u_bare"].values[i])
    where = "at the bare critical noise" if math.isfinite(critical) else "at the first level"
    if cubic > 0:
        return (
            f"{name}: the bare cubic coefficient is positive {where} (u = {plain(cubic)}): growth saturates, the "
            f"instability is supercritical{lost}."
        )
    text = f"{name}: the bare cubic coefficient is negative {where} (u = {plain(cubic)}): nothing saturates growth"
    return f"{text}{lost}." if ends else f"{text}, though the run ends before that shows."


def cause_sentence(part: xr.Dataset) -> str | None:
    """Tell from the run without fast modes what limits the bare equation; noise would bring these back."""
    if not bool(part.attrs.get("probability_flow", True)):
        return None
    name, tolerance = str(part["bank"].values), float(part["error_limit"].values[-1])
    with_fast, without = (_holds(part, kind, tolerance) for kind in ("bare", "slow"))
    if not (math.isfinite(with_fast) and math.isfinite(without)):
        return None
    text = (
        f"{name}: an exact run that starts without fast modes is followed to {100 * tolerance:g} % down to "
        f"{_level(part, without)}"
    )
    if without < 0.95 * with_fast:
        return f"{text}: fluctuations, not the expansion in powers and gradients, limit the bare equation."
    return f"{text}, no further: the expansion in powers and gradients limits the bare equation, too."


def states_sentence(part: xr.Dataset) -> str | None:
    """State how ordered states at frozen noise compare with the reduced ones, nearest to the critical noise."""
    name = str(part["bank"].values)
    depth = part["depth"].values
    if not np.any(np.isfinite(depth)):
        return None
    i = int(np.nanargmin(depth))
    plateau, width = (
        float(part[q].values[i] / part[f"{q}_reduced"].values[i]) for q in ("plateau_squared", "wall_width")
    )
    where = f"at -r = {plain(float(depth[i]), 2)}"
    if not math.isfinite(plateau):
        found = math.sqrt(float(part["plateau_squared"].values[i]))
        return (
            f"{name}: the reduced equation has no plateau {where}; the exact one orders at |x| = {plain(found)} at "
            "once, as in a first-order transition."
            if found > 0.5
            else f"{name}: the reduced equation has no plateau {where}, and the exact one does not order there."
        )
    pattern = float(part["critical_wavenumber"]) > 1e-9
    what = "squared amplitude of one wave" if pattern else "squared plateau"
    formula = "-Re r/Re γ" if pattern else "-r/u"
    text = f"{name}: the {what} {where} is {plain(plateau)} times {formula}"
    return (
        f"{text}, the wall {plain(width)} times as wide as sqrt(2K/-r)."
        if math.isfinite(width)
        else f"{text}."
    )


def findings(dataset: xr.Dataset) -> list[str]:
    """Return the sentences of a Landau study, bank by bank."""
    flow = float(json.loads(dataset.attrs.get("settings", "{}")).get("eta", 0.0)) == 0
    parts = [dataset.isel(bank=i).assign_attrs(probability_flow=flow) for i in range(dataset.sizes["bank"])]
    kinds = (validity_sentence, saturation_sentence, cause_sentence, states_sentence)
    return [sentence for kind in kinds for part in parts if (sentence := kind(part)) is not None]


def table(dataset: xr.Dataset) -> list[Row]:
    """Return the rows of a Landau study's table."""
    rows: list[Row] = []
    for i in range(dataset.sizes["bank"]):
        part = dataset.isel(bank=i)
        name = str(part["bank"].values)
        kind = str(part["instability"].values)
        rows += noise_rows(f"{name}: bare critical noise σ_c", _scale(part), Estimate(math.nan), kind)
        for comparison, label in (*_KINDS.items(), ("slow", "bare, exact run without fast modes")):
            for tolerance in part["error_limit"].values:
                sigma = _holds(part, comparison, float(tolerance))
                quantity = f"{name}: lowest σ with error ≤ {100 * float(tolerance):g} %, {label}"
                error = part["holds_to_sigma_error"].sel(comparison=comparison, error_limit=tolerance)
                note = _level(part, sigma).partition("(")[2].rstrip(")") if math.isfinite(sigma) else ""
                rows.append(Row(quantity, "-", plain(sigma), plain(float(error), 2), note))
        if not np.any(np.isfinite(part["depth"].values)):
            continue
        i_near = int(np.nanargmin(part["depth"].values))
        for quantity, label in (("plateau_squared", "squared amplitude"), ("wall_width", "wall width (px)")):
            theory, found = (float(part[q].values[i_near]) for q in (f"{quantity}_reduced", quantity))
            if math.isfinite(found):
                depth = plain(float(part["depth"].values[i_near]), 2)
                rows.append(Row(f"{name}: {label} at -r = {depth}", plain(theory), plain(found), "-"))
    return rows


def description(dataset: xr.Dataset, settings: dict) -> str:
    """Describe the run in one line."""
    height, width = settings["grid"]
    return (
        f"{', '.join(map(str, dataset['bank'].values))}; p = {settings['size']}, {height} x {width}, "
        f"{settings['num_samples']} samples, {settings['num_levels']} noise levels, eta = {settings['eta']:g}, "
        f"{settings['precision']}"
    )


def content(dataset: xr.Dataset) -> Content:
    """Collect sentences and table of a Landau study."""
    settings = stored_values(dataset)
    return Content(
        description(dataset, settings),
        findings(dataset),
        dataset.sizes["bank"],
        table(dataset),
        "The error is the root-mean-square difference of the slow fields, |k| ≤ π/p, over the size of the exact "
        f"one. {UNITS}",
        labels(dataset),
    )
