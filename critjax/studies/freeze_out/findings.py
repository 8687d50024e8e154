# ruff: noqa: RUF001  (Greek letters belong in a report)
"""What a freeze-out study says: sentences and table, chosen by the numbers."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from critjax.observables.errors import Estimate
from critjax.report.numbers import plain, text
from critjax.report.page import UNITS, Content, labels
from critjax.report.table import Row, noise_rows, table_row
from critjax.studies._engine.results import stored_values

#: Differences below so many standard errors are called no difference.
AGREEMENT = 2.0
#: Relative differences below this are called small even where they are significant.
SMALL = 0.02
#: chi^2 per degree of freedom above which points do not lie on a power.
BAD_FIT = 4.0
#: Share of the change of ln sigma below the transition during which order may diffuse across a grid at equilibrium.
QUASISTATIC = 0.3
#: Power of n of the length at the critical noise in linear theory.
LINEAR_POWER = 0.25

_LENGTHS = {
    "xi_fit": "correlation length by a fit to S (px)",
    "xi_denoised_sign": "domain length, 1/e of sign D (px)",
    "wall_density": "wall density of D",
}


def _at(dataset: xr.Dataset, name: str, number: int, level: int) -> Estimate:
    """Read one quantity of one quench at one noise level."""
    error = float(dataset[f"{name}_error"].values[number, level])
    return Estimate(float(dataset[name].values[number, level]), error)


def _difference(first: Estimate, second: Estimate) -> Estimate:
    return Estimate(first.value - second.value, math.hypot(first.error, second.error))


def _told(difference: Estimate) -> bool:
    """Tell whether a difference is larger than its error allows; one without an error is not."""
    return AGREEMENT < difference.deviations(0.0) < math.inf


def _bare_level(dataset: xr.Dataset) -> int | None:
    """Return the measured level that is the bare critical noise, if there is one."""
    near = np.flatnonzero(np.abs(dataset["sigma_ratio"].values - 1) < 1e-9)
    return int(near[0]) if near.size else None


def _beside(found: Estimate, predicted: float, what: str) -> str:
    """Say how a measured length stands to a predicted one."""
    theory, away = f"the {plain(predicted)} px of {what}", found.deviations(predicted)
    if away <= AGREEMENT:
        return f"in agreement with {theory} ({away:.1f} standard errors)"
    side = "above" if found.value > predicted else "below"
    relative = abs(found.value / predicted - 1)
    size = "only " if relative < SMALL else ""
    return f"{size}{100 * relative:.1f} % {side} {theory} ({plain(away, 2)} standard errors)"


def length_sentence(dataset: xr.Dataset) -> str | None:
    """State the length that the slowest quench has at the bare critical noise, beside linear theory and closure."""
    level = _bare_level(dataset)
    if level is None:
        return None
    number = int(dataset["steps_per_tau"].values[-1])
    found = _at(dataset, "xi_fit", -1, level)
    start = f"At the bare critical noise σ_c the slowest quench (n = {number})"
    if not found.known:
        return f"{start} has no correlation length: its structure factor does not fall with |k|."
    linear, closure = (float(dataset[f"{kind}_xi_fit"].values[-1, level]) for kind in ("linear", "closure"))
    sentence = f"{start} has a correlation length of {text(found)} px"
    theories = (("linear theory", linear), ("the Gaussian closure", closure))
    if not math.isfinite(found.error):
        listed = ", ".join(f"{plain(value)} px by {name}" for name, value in theories if math.isfinite(value))
        return f"{sentence}, without an error: how it stands to theory is not decided ({listed})."
    parts = [_beside(found, value, name) for name, value in theories if math.isfinite(value)]
    if not parts:
        return f"{sentence}."
    verdict, away = "", found.deviations(linear)
    if math.isfinite(linear) and away <= AGREEMENT:
        verdict = " Whether fluctuations limit the length is not decided."
    elif math.isfinite(linear) and found.value < linear:
        verdict = " Fluctuations limit the length there, not the rate alone."
    elif math.isfinite(linear):
        verdict = " The field is correlated over longer distances than linear theory says."
    return f"{sentence}: {', '.join(parts)}.{verdict}"


def _power(dataset: xr.Dataset, name: str, level: int) -> tuple[Estimate, float]:
    found = (float(dataset[f"{name}_exponent{end}"].values[level]) for end in ("", "_error", "_chi2"))
    value, error, chi2 = found
    return Estimate(value, error), chi2


def exponent_sentence(dataset: xr.Dataset) -> str | None:
    """State whether the length at the bare critical noise grows as the quarter power of n that linear theory says."""
    level = _bare_level(dataset)
    if level is None:
        return None
    power, chi2 = _power(dataset, "xi_fit", level)
    if not power.known:
        return None
    start = (
        f"Fitted from n = {int(dataset.attrs['fit_from'])} on, the length at σ_c goes as n^({text(power)})"
    )
    if math.isfinite(chi2) and chi2 > BAD_FIT:
        return f"{start}, but is no power of n: χ² per degree of freedom is {plain(chi2, 2)}."
    away = power.deviations(LINEAR_POWER)
    if not math.isfinite(away) or (away <= AGREEMENT and power.error > LINEAR_POWER / AGREEMENT):
        return f"{start}: whether that is the freeze-out power 1/4 of linear theory is not decided."
    if away <= AGREEMENT:
        return f"{start}, in agreement with the freeze-out power 1/4 of linear theory ({away:.1f} standard errors)."
    if power.value < LINEAR_POWER:
        return (
            f"{start}, {plain(away, 2)} standard errors below the freeze-out power 1/4 of linear theory: the length "
            "saturates."
        )
    return f"{start}, {plain(away, 2)} standard errors above the freeze-out power 1/4 of linear theory."


def domains_sentence(dataset: xr.Dataset) -> str | None:
    """State whether slower quenches leave longer domains at the end, and how fast these grow with n."""
    numbers, name = dataset["steps_per_tau"].values, "xi_denoised_sign"
    if len(numbers) < 2:
        return None
    first, last = (_at(dataset, name, i, -1) for i in (0, -1))
    if not (first.known and last.known):
        return None
    ratio = float(dataset["sigma_ratio"].values[-1])
    change = _difference(last, first)
    ends = f"{text(first)} px at n = {numbers[0]}, {text(last)} px at n = {numbers[-1]}"
    where = f"at the end of the quench, {plain(ratio)} σ_c"
    if not _told(change):
        return f"Whether the rate of the quench decides how long domains are {where} is not decided: {ends}."
    if change.value < 0:
        return f"Slower quenches leave shorter domains {where}: {ends}."
    sentence = f"Slower quenches leave longer domains {where}: {ends}"
    power, chi2 = _power(dataset, name, -1)
    if not power.known:
        return f"{sentence}."
    good = (
        ""
        if not (math.isfinite(chi2) and chi2 > BAD_FIT)
        else f", though no power fits (χ² {plain(chi2, 2)})"
    )
    return f"{sentence}; the last of them go as n^({text(power)}){good}."


def walls_sentence(dataset: xr.Dataset) -> str | None:
    """State whether slower quenches leave fewer walls."""
    numbers, name = dataset["steps_per_tau"].values, "wall_density"
    if len(numbers) < 2:
        return None
    first, last = (_at(dataset, name, i, -1) for i in (0, -1))
    change = _difference(last, first)
    ends = f"{text(first)} at n = {numbers[0]}, {text(last)} at n = {numbers[-1]}"
    if not _told(change):
        return f"Whether slower quenches leave fewer walls is not decided: {ends}."
    return f"{'Fewer' if change.value < 0 else 'More'} walls are left by slower quenches: {ends}."


def ladder_sentence(dataset: xr.Dataset) -> str | None:
    """Name the quenches whose ladder is too coarse for freeze-out."""
    numbers = dataset["steps_per_tau"].values
    coarse = numbers[~dataset["ladder_resolved"].values.astype(bool)]
    if not coarse.size:
        return None
    listed = ", ".join(str(n) for n in coarse)
    return (
        f"The ladders of n = {listed} are too coarse to resolve freeze-out: read them as quenches in jumps."
    )


def transition_sentence(dataset: xr.Dataset) -> str | None:
    """State at which noise grids of different size order, and whether a larger one does so later."""
    if "binder_crossing" not in dataset:
        return None
    sides = dataset["grid_side"].values
    found = [
        Estimate(*(float(dataset[f"binder_crossing{end}"].values[i]) for end in ("", "_error")))
        for i in range(len(sides))
    ]
    known = [i for i, one in enumerate(found) if one.known]
    end = plain(float(dataset["binder_ratio"].values[-1]))
    if not known:
        last, error = (dataset[f"binder{tail}"].values[:, -1] for tail in ("", "_error"))
        if not np.all(last + AGREEMENT * error < dataset.attrs["ising_binder"]):
            near = "the Binder cumulant nears its Ising value"
            return f"Whether any grid orders down to {end} σ_c is not decided: {near}."
        return f"No grid orders down to {end} σ_c: the Binder cumulant stays below its Ising value."
    listed = ", ".join(f"{text(found[i])} σ_c ({sides[i]} x {sides[i]})" for i in known)
    sentence = f"Samples order where the Binder cumulant passes its Ising value, at {listed}"
    never = [side for i, side in enumerate(sides) if i not in known]
    if never:
        sentence += f", on {', '.join(f'{s} x {s}' for s in never)} not down to {end} σ_c"
    if len(known) < 2:
        return f"{sentence}."
    change = _difference(found[known[-1]], found[known[0]])
    if not _told(change):
        return f"{sentence}. Whether larger grids order later is not decided."
    late = "later, at lower noise" if change.value < 0 else "earlier, at higher noise"
    return f"{sentence}. The larger grid orders {late} ({plain(change.deviations(0.0), 2)} standard errors apart)."


def equilibrium_sentence(dataset: xr.Dataset) -> str | None:
    """State whether the Binder curves are at equilibrium, or freeze-out of the largest grid."""
    if "relaxation_tau" not in dataset:
        return None
    ratios, side = dataset["binder_ratio"].values, int(dataset["grid_side"].values[-1])
    needed, span = float(dataset["relaxation_tau"].values[-1]), float(np.log(ratios[0] / ratios[-1]))
    size = f"{side} x {side}"
    start = (
        f"Order takes {plain(needed, 2)} of ln σ to diffuse across {size}, the curve spans {plain(span, 2)}"
    )
    if needed <= QUASISTATIC * span:
        return f"{start}: it shows what the field is like at each noise."
    return f"{start}: it shows freeze-out, not what the field would settle to."


def closure_sentence(dataset: xr.Dataset) -> str:
    """State whether the Gaussian closure has a transition of its own."""
    ratio = float(dataset["closure_critical_ratio"].values[-1])
    if not math.isfinite(ratio):
        return "The Gaussian closure never turns unstable on the ladder: λ_reg(0) stays below one."
    return f"In the Gaussian closure of the slowest quench λ_reg(0) reaches one at {plain(ratio)} σ_c."


def findings(dataset: xr.Dataset) -> list[str]:
    """Return the sentences of a freeze-out study, the most important first."""
    kinds = (
        length_sentence,
        domains_sentence,
        exponent_sentence,
        walls_sentence,
        closure_sentence,
        transition_sentence,
        equilibrium_sentence,
        ladder_sentence,
    )
    return [sentence for kind in kinds if (sentence := kind(dataset)) is not None]


def table(dataset: xr.Dataset) -> list[Row]:
    """Return the rows of a freeze-out study's table: the slowest quench, exponents, the transition of samples."""
    bare = float(dataset.attrs["critical_sigma_bare"])
    rows = noise_rows("bare critical noise σ_c", bare, Estimate(math.nan))
    number = int(dataset["steps_per_tau"].values[-1])
    for level, ratio in enumerate(dataset["sigma_ratio"].values):
        for name, what in _LENGTHS.items():
            linear, closure = (
                float(dataset[f"{kind}_{name}"].values[-1, level]) for kind in ("linear", "closure")
            )
            note = f"theory: closure; linear {plain(linear)}" if math.isfinite(linear) else "theory: closure"
            quantity = f"{what} at {plain(float(ratio))} σ_c, n = {number}"
            rows.append(table_row(quantity, closure, _at(dataset, name, -1, level), note))
    for level, ratio in enumerate(dataset["sigma_ratio"].values):
        at_bare = level == _bare_level(dataset)
        for name in ("xi_fit", "xi_denoised_sign") if at_bare else ("xi_denoised_sign",):
            power, chi2 = _power(dataset, name, level)
            if power.known:
                theory = LINEAR_POWER if name == "xi_fit" else math.nan
                note = f"χ² per degree of freedom {plain(chi2, 2)}" if math.isfinite(chi2) else ""
                what = "correlation length" if name == "xi_fit" else "domain length"
                rows.append(
                    table_row(f"power of n of the {what} at {plain(float(ratio))} σ_c", theory, power, note)
                )
    if "binder_crossing" in dataset:
        for i, side in enumerate(dataset["grid_side"].values):
            value, error = (float(dataset[f"binder_crossing{end}"].values[i]) for end in ("", "_error"))
            if not math.isfinite(value):
                continue
            quantity = f"noise at which {side} x {side} passes the Ising value"
            rows += noise_rows(quantity, math.nan, Estimate(bare * value, bare * error))
    return rows


def content(dataset: xr.Dataset) -> Content:
    """Collect sentences and table of a freeze-out study."""
    settings = stored_values(dataset)
    return Content(
        f"two patterns, p = {settings['size']}; {settings['grid']} x {settings['grid']}, "
        f"n = {', '.join(str(n) for n in dataset['steps_per_tau'].values)} Langevin steps of "
        f"{settings['step_size']:g} per unit of ln σ, {int(dataset['num_samples'].values[-1])} samples of the slowest",
        findings(dataset),
        2,
        table(dataset),
        "Errors are one standard error, by jackknife over blocks of samples. n: Langevin steps per unit of ln σ. "
        f"{UNITS}",
        labels(dataset),
    )
