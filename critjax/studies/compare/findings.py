# ruff: noqa: RUF001  (Greek letters belong in a report)
"""What a comparison says: sentences and table, chosen by the numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import xarray as xr
from scipy import stats

from critjax.observables.errors import Estimate
from critjax.report.numbers import curve_at, plain, read, text
from critjax.report.page import UNITS, Content, labels
from critjax.report.table import Row, noise_rows
from critjax.studies._engine.results import stored_values
from critjax.studies.compare.findings_patches import (
    SURE,
    better_and_worse,
    beyond_patches_sentence,
    explanation_sentence,
    median_and_range,
)
from critjax.studies.compare.nearest import nearest_patch_models

#: Effective images below which the ideal denoiser memorises.
MEMORISES = 2.0
#: Median r² of final images from which trajectories end alike, and below which they part.
_SAME_IMAGE, _RESEMBLES = 0.75, 0.25
#: Radii are compared from the first to the last noise level at which their error is at most so large a part of them.
_PRECISE = 0.25


def _surest(dataset: xr.Dataset, name: str) -> tuple[Estimate, float, bool]:
    """Return a symbol where it exceeds one by most standard errors, the sigma there, and whether it does for sure.

    The largest of many deviations is large by chance: it must be as unlikely as `SURE` of one level (Bonferroni).
    """
    values, errors = dataset[name].values, dataset[f"{name}_error"].values
    score = (values - 1) / np.maximum(errors, 1e-12)  # exact values have no error
    level = dataset.isel(sigma=int(np.nanargmax(score)))
    bound = stats.norm.isf(stats.norm.sf(SURE) / np.isfinite(score).sum())
    return read(level, name), float(level["sigma"]), bool(np.nanmax(score) > bound)


def softening_sentence(dataset: xr.Dataset) -> str:
    """State where the gap of the mean Jacobian is smallest, and whether it closes.

    Levels are compared as if their errors were independent, for results keep no field's own curve. They share their
    fields: the true error of a difference is as a rule smaller, and "within error" is said too often, not too seldom.
    """
    part = dataset.sel(ensemble="trajectories")
    gap, sigma = read(part, "minimal_gap"), read(part, "minimal_gap_sigma")
    where = f" at σ = {text(sigma)}"
    if not gap.known:
        values, errors = 1 - part["mean_jacobian_uniform"].values, part["mean_jacobian_uniform_error"].values
        least = int(np.argmin(values))
        gap, levels = Estimate(float(values[least]), float(errors[least])), part["sigma"].values
        unlike = np.flatnonzero((values - gap.value > SURE * np.hypot(errors, gap.error))[:least])
        first = int(unlike[-1]) + 1 if unlike.size else 0
        end = ", the end of the ladder" if least == len(levels) - 1 else ""
        where = f" at σ = {plain(float(levels[least]))}{end}"
        if first < least:
            where += f", and no softer there than from σ = {plain(float(levels[first]))} on within error"
    sentence = (
        f"Along the network's own trajectories the uniform mode of the mean Jacobian is softest{where}: "
        f"its gap 1 - λ(0) is {text(gap)} there"
    )
    if gap.value - SURE * gap.error > 0:
        return f"{sentence}; it does not close."
    if gap.value + SURE * gap.error < 0:
        return f"{sentence}: λ(0) exceeds one, a push on all pixels grows."
    return f"{sentence}, zero within its error."


#: Said of a symbol that passes one nowhere for sure, see `_surest`.
_TOUCHES = "never above it beyond error"


def crossing_sentence(dataset: xr.Dataset) -> str:
    """State whether the regression symbol passes one, and what the closure makes of it."""
    part = dataset.sel(ensemble="trajectories")
    found = read(part, "critical_sigma_regression")
    top, where, sure = _surest(part, "regression_uniform")
    at = f"{text(top)} at σ = {plain(where)}"
    if sure:
        how = f"passes one at σ = {text(found)}" if found.known else "is above one from the first level"
        sentence = f"The regression symbol at k = 0 {how}, most clearly with {at}"
    elif found.known or top.value >= 1:
        first = f" at σ = {text(found)}" if found.known else ""
        sentence = f"The regression symbol at k = 0 touches one{first}, {_TOUCHES} ({at})"
    else:
        sentence = f"The regression symbol at k = 0 stays below one (nearest to it with {at})"
    if "critical_sigma_closure" not in dataset:
        return f"{sentence}."
    closure = read(dataset, "critical_sigma_closure")
    if closure.known:
        return f"{sentence}; the Gaussian closure of the network alone puts the crossing at {text(closure)}."
    top, where, _ = _surest(dataset, "regression_uniform_closure")
    lost = np.flatnonzero(~np.isfinite(dataset["regression_uniform_closure"].values))
    end = f" and diverges from σ = {plain(float(dataset['sigma'].values[lost[0]]))} on" if lost.size else ""
    how = (
        "stays below one, nearest to it"
        if top.value < 1
        else "is above one from the first level, most clearly"
    )
    return (
        f"{sentence}; the Gaussian closure of the network alone {how} with "
        f"{text(top)} at σ = {plain(where)}{end}."
    )


def local_modes_sentence(dataset: xr.Dataset) -> str | None:
    """State between which noise levels single modes of one image begin to grow."""
    if "mode_eigenvalue" not in dataset:
        return None
    largest, sigma = dataset["mode_eigenvalue"].values.max(-1), dataset["mode_sigma"].values
    growing = np.flatnonzero(largest > 1)
    if not growing.size:
        return (
            "At one noised image no eigenvalue of the Jacobian exceeds one (at most "
            f"{plain(float(largest.max()))}): no mode "
            "grows."
        )
    first = int(growing[0])
    where = f"at σ = {plain(float(sigma[0]))} already" if first == 0 else (
        f"between σ = {plain(float(sigma[first - 1]))} and {plain(float(sigma[first]))}"
    )  # fmt: skip
    return (
        f"At one noised image the largest eigenvalue of the Jacobian passes one {where} and reaches "
        f"{plain(float(largest.max()))}: single modes grow, seen as pictures below, whatever the mean Jacobian does."
    )


def _radius_clause(part: xr.Dataset) -> str:
    """State how the receptive field moves between the ends of the precise levels, and what it was in between."""
    levels = [read(part.isel(sigma=i), "receptive_radius") for i in range(part.sizes["sigma"])]
    precise = [i for i, level in enumerate(levels) if level.error <= _PRECISE * level.value]
    known = precise if len(precise) > 1 else [0, len(levels) - 1]

    def differ(one: int, other: int) -> bool:
        error = math.hypot(levels[one].error, levels[other].error)
        return abs(levels[one].value - levels[other].value) > SURE * error

    def sigma(index: int) -> str:
        return plain(float(part["sigma"].values[index]))

    first, last = known[0], known[-1]
    least, most = (choose(known, key=lambda i: levels[i].value) for choose in (min, max))
    word = "ends as it began within error" if differ(least, most) else "stays the same within error"
    if differ(first, last):
        word = "shrinks" if levels[last].value < levels[first].value else "grows"
    sentence = f"From σ = {sigma(first)} to {sigma(last)}"
    if (first, last) != (0, len(levels) - 1):
        sentence += f", the first and last level with an error of at most {100 * _PRECISE:g} %,"
    sentence += f" the effective receptive field {word}: "
    sentence += f"radius {text(levels[first])} to {text(levels[last])} px"
    for name, extreme in (("smallest", least), ("largest", most)):
        if extreme not in (first, last) and differ(least, most):
            sentence += f", {name} {text(levels[extreme])} px at σ = {sigma(extreme)}"
    return sentence


def reach_sentence(dataset: xr.Dataset) -> str:
    """State how receptive field, best window and quasi-equilibrium length move with the noise."""
    part = dataset.sel(ensemble="noised data")
    sentence = _radius_clause(part)
    lengths = part["xi_eq"].values
    known = np.flatnonzero(np.isfinite(lengths) & np.isfinite(part["xi_eq_error"].values))
    if "best_size" in dataset:
        sizes = dataset["best_size"].sel(model="ELS").values.astype(int)
        levels = dataset["level_sigma"].values
        how = "falls" if sizes[-1] < sizes[0] else ("rises" if sizes[-1] > sizes[0] else "ends as it began")
        listed = ", ".join(map(str, sizes))
        sentence += (
            f"; the window that explains it best {how} ({listed} px from σ = {plain(float(levels[0]))} to "
            f"{plain(float(levels[-1]))})"
        )
    if known.size:
        peak = int(known[np.argmax(lengths[known])])
        top = part.isel(sigma=peak)
        where = plain(float(top["sigma"]))
        ends = " and ".join(
            f"{text(read(part.isel(sigma=i), 'xi_eq'))} at σ = {plain(float(part['sigma'].values[i]))}"
            for i in (known[0], known[-1])
            if i != peak
        )
        sentence += f"; ξ_eq is largest, {text(read(top, 'xi_eq'))} px, at σ = {where}"
        sentence += f", against {ends}" if ends else ""
    return f"{sentence}."


def films_sentence(dataset: xr.Dataset) -> str:
    """State how well trajectories from the same noise agree in the end."""
    final = dataset.isel(film_sigma=-1)
    explained = dataset["film_explained"].values  # other denoiser, film
    patches, ideal = (
        f"correlation {text(read(final.isel(film_other=i), 'film_correlation'))}, "
        f"median r² {median_and_range(values)}"
        for i, values in enumerate(explained)
    )
    median = float(np.median(explained[0]))
    word = "part"
    if median > _RESEMBLES:
        word = "end in the same image" if median > _SAME_IMAGE else "resemble each other"
    return (
        f"From the same noise, network and patch models {word} ({dataset['film_other'].values[0]}: {patches}); "
        f"the ideal denoiser {ideal}."
    )


def loss_sentence(dataset: xr.Dataset) -> str:
    """State where the network denoises better than patch models and than the ideal denoiser that memorises."""
    levels = dataset["level_sigma"].values
    here = "On these images" + (", which it saw in training," if dataset.attrs.get("seen") else "")
    better, worse = better_and_worse(dataset.drop_sel(rival="ideal"))
    below, above = (", ".join(plain(float(s)) for s in levels[m]) for m in (better.all(0), worse.any(0)))
    first = f"{here} the network and the best patch models do not differ in their losses beyond error"
    if below:
        first = f"{here} the network's loss is below that of every patch model at σ = {below}"
        first += f", above that of some at σ = {above}" if above else ", nowhere above one beyond error"
    elif above:
        first = (
            f"{here} the network is beaten by some patch model at σ = {above}, and nowhere are all of them worse "
            "beyond error"
        )
    memory = dataset["effective_images"].values < MEMORISES
    if not memory.any():
        return f"{first}; the ideal denoiser nowhere rests on fewer than {MEMORISES:g} images."
    where = f"where the ideal denoiser memorises (σ ≤ {plain(float(levels[memory].max()))})"
    ideal = dataset.sel(rival="ideal")
    better, worse = (m[0, memory] for m in better_and_worse(dataset.sel(rival=["ideal"])))
    last = text(read(ideal.isel(level_sigma=int(np.flatnonzero(memory)[-1])), "loss_advantage"))
    count = f"{int(better.sum())} of {len(better)} levels"
    if worse.any():
        count += f" and is beaten at {int(worse.sum())}"
    if better.all():
        count = "every level"
    return (
        f"{first}; {where} the network beats it at {count}, in the end by {last} in squared error per pixel."
    )


def findings(dataset: xr.Dataset) -> list[str]:
    """Return the sentences of a comparison."""
    sentences = [
        explanation_sentence(dataset),
        beyond_patches_sentence(dataset),
        softening_sentence(dataset),
        crossing_sentence(dataset),
        reach_sentence(dataset),
        local_modes_sentence(dataset),
        films_sentence(dataset),
        loss_sentence(dataset),
    ]
    return [sentence for sentence in sentences if sentence is not None]


def table(dataset: xr.Dataset) -> list[Row]:
    """Return the rows of a comparison's table; the notes say what stands under theory."""
    rows: list[Row] = []
    critical = read(dataset, "critical_sigma_closure")
    for ensemble in dataset["ensemble"].values:
        part = dataset.sel(ensemble=ensemble)
        found, note = read(part, "critical_sigma_regression"), "theory: closure of the network alone"
        if found.known and not _surest(part, "regression_uniform")[2]:
            note = f"touches one, {_TOUCHES}; {note}"
        rows += noise_rows(f"effective critical noise, λ_reg(0) = 1, {ensemble}", critical, found, note)
    for ensemble in dataset["ensemble"].values:
        part = dataset.sel(ensemble=ensemble)
        gap, sigma = read(part, "minimal_gap"), read(part, "minimal_gap_sigma")
        rows.append(_row(f"smallest gap 1 - λ(0) of the mean Jacobian, {ensemble}", Estimate(math.nan), gap))
        rows += noise_rows(f"   noise of the smallest gap, {ensemble}", math.nan, sigma)
    if "best_size" in dataset:
        part, nearest = dataset.sel(ensemble="noised data"), nearest_patch_models(dataset)
        for index, sigma in enumerate(dataset["level_sigma"].values):
            level = plain(float(sigma))
            els = dataset.sel(model="ELS").isel(level_sigma=index)
            best = els.isel(size=int(els["relative_error"].values.argmin()))
            low, high = int(els["best_size_low"]), int(els["best_size_high"])
            rows.append(
                _row(
                    f"relative error, network to best ELS model, σ = {level}",
                    Estimate(math.nan),
                    read(best, "relative_error"),
                    f"p* = {int(best['size'])}" + ("" if low == high else f" ({low} to {high})"),
                )
            )
            patch = nearest.isel(level_sigma=index)
            outside, note = (
                read(patch, "weight_outside"),
                f"{patch['model'].item()}, p = {int(patch['size'])}",
            )
            label = f"   weight of the Jacobian outside the best window, σ = {level}"
            rows.append(_row(label, Estimate(math.nan), outside, note))
            fraction = curve_at(part, "nonreciprocal", float(sigma))
            rows.append(
                _row(f"   non-reciprocal size of the mean kernel, σ = {level}", Estimate(math.nan), fraction)
            )
            rows.append(
                _row(
                    f"   λ(0), σ = {level}",
                    read(els.isel(wavenumber=0), "mean_jacobian_patch"),
                    curve_at(part, "mean_jacobian_uniform", float(sigma)),
                    f"theory: {note}",
                )
            )
            for name, label in (("gap", "gap 1 - λ(0)"), ("xi_eq", "ξ_eq (px)")):
                others = [f"Gaussian model {plain(read(els, f'{name}_gaussian').value)}"]
                closure = curve_at(dataset, f"{name}_closure", float(sigma))
                if closure.known:
                    others.append(f"closure {text(closure)}")
                rows.append(
                    _row(
                        f"   {label}, σ = {level}",
                        read(els, f"{name}_patch"),
                        curve_at(part, name, float(sigma)),
                        f"theory: nearest patch model; {', '.join(others)}",
                    )
                )
    return rows


def _row(quantity: str, theory: Estimate, measured: Estimate, note: str = "") -> Row:
    value = text(theory) if theory.known and math.isfinite(theory.error) else plain(theory.value)
    return Row(quantity, value, plain(measured.value), plain(measured.error, 2), note)


def description(dataset: xr.Dataset, settings: dict) -> str:
    """Describe the run in one line."""
    seen = ", which the network saw in training" if dataset.attrs.get("seen") else ""
    return (
        f"{dataset.attrs.get('network', '')}; {settings['num_images']} images of {settings['data']} "
        "for the patch models, "
        f"windows {', '.join(map(str, settings['sizes']))}; {settings['num_samples']} trajectories, "
        f"{settings['num_queries']} noised images at {settings['num_levels']} levels{seen}"
    )


def content(dataset: xr.Dataset) -> Content:
    """Collect sentences and table of a comparison."""
    cost = json.loads(dataset.attrs["cost"])
    return Content(
        description(dataset, stored_values(dataset)),
        findings(dataset),
        2,
        table(dataset),
        "Errors are one standard error over fields or images (bootstrap, jackknife). LS and ELS: local score "
        "models whose patches come from the same place, or from everywhere (Kamb & Ganguli 2024). The measurement "
        f"took {cost['evaluations']:,} evaluations of the network and {cost['jacobian_products']:,} "
        f"Jacobian-vector products. {UNITS}",
        labels(dataset),
    )
