# ruff: noqa: RUF001  (Greek letters belong in a report)
"""What a comparison says: sentences and table, chosen by the numbers."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from critjax.report._numbers import Measured, curve_at, plain, text
from critjax.report._table import Row, noise_rows

#: A patch model explains a network from this share of the variance on (Kamb & Ganguli 2024: median r² ~ 0.9).
EXPLAINS = 0.9
#: Effective images below which the ideal denoiser memorises.
MEMORISES = 2.0
#: Standard errors that make a difference.
_SURE = 2.0


def _at(dataset: xr.Dataset, name: str, index: int) -> Measured:
    return Measured(float(dataset[name].values[index]), float(dataset[f"{name}_error"].values[index]))


def softening_sentence(dataset: xr.Dataset) -> str:
    """State where the gap of the mean Jacobian is smallest, and whether it closes."""
    part = dataset.sel(ensemble="trajectories")
    gap = Measured(float(part["minimal_gap"]), float(part["minimal_gap_error"]))
    sigma = Measured(float(part["minimal_gap_sigma"]), float(part["minimal_gap_sigma_error"]))
    values, errors = part["mean_jacobian_uniform"].values, part["mean_jacobian_uniform_error"].values
    lowest = int(np.argmax(values))
    if not gap.known:
        gap = Measured(1 - float(values[lowest]), float(errors[lowest]))
        sigma = Measured(float(part["sigma"].values[lowest]))
    where = "" if sigma.value > part["sigma"].values[-1] * 1.001 else ", the end of the ladder"
    sentence = (
        "Along the network's own trajectories the uniform mode of the mean Jacobian is softest at σ "
        f"= {text(sigma)}{where}: "
        f"its gap 1 - λ(0) is {text(gap)} there"
    )
    if gap.value - _SURE * gap.error > 0:
        return f"{sentence}; it does not close."
    if gap.value + _SURE * gap.error < 0:
        return f"{sentence}: λ(0) exceeds one, a push on all pixels grows."
    return f"{sentence}, zero within its error."


def crossing_sentence(dataset: xr.Dataset) -> str:
    """State whether the regression symbol passes one, and what the closure makes of it."""
    part = dataset.sel(ensemble="trajectories")
    values, errors = part["regression_uniform"].values, part["regression_uniform_error"].values
    above = np.flatnonzero(values - 1 > _SURE * errors)
    found = Measured(float(part["critical_sigma_regression"]), float(part["critical_sigma_regression_error"]))
    highest = int(np.argmax(values))
    top = text(Measured(float(values[highest]), float(errors[highest])))
    if above.size:
        sentence = f"The regression symbol at k = 0 passes one at σ = {text(found)} and reaches {top}"
    elif found.known:
        sentence = (
            f"The regression symbol at k = 0 touches one at σ = {text(found)}, never above it "
            f"beyond error ({top})"
        )
    else:
        sentence = f"The regression symbol at k = 0 stays below one ({top} at most)"
    if "critical_sigma_closure" not in dataset:
        return f"{sentence}."
    closure = Measured(
        float(dataset["critical_sigma_closure"]), float(dataset["critical_sigma_closure_error"])
    )
    if closure.known:
        return f"{sentence}; the Gaussian closure of the network alone puts the crossing at {text(closure)}."
    curve, error = (dataset[f"regression_uniform_closure{s}"].values for s in ("", "_error"))
    known = np.flatnonzero(np.isfinite(curve))
    best = known[np.argmax(curve[known])]
    return (
        f"{sentence}; the Gaussian closure of the network alone stays below one, "
        f"{text(Measured(float(curve[best]), float(error[best])))} at most."
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


def reach_sentence(dataset: xr.Dataset) -> str:
    """State how receptive field, best window and quasi-equilibrium length move with the noise."""
    part = dataset.sel(ensemble="noised data")
    radius = [_at(part, "receptive_radius", i) for i in (0, -1)]
    lengths = part["xi_eq"].values
    known = np.flatnonzero(np.isfinite(lengths))
    change = radius[1].value - radius[0].value
    sure = abs(change) > _SURE * math.hypot(radius[0].error, radius[1].error)
    word = ("shrinks" if change < 0 else "grows") if sure else "stays the same within error"
    sentence = (
        f"From σ = {plain(float(part['sigma'].values[0]))} to {plain(float(part['sigma'].values[-1]))} the effective "
        f"receptive field {word}: radius {text(radius[0])} to {text(radius[1])} px"
    )
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
        where = plain(float(part["sigma"].values[peak]))
        sentence += f"; ξ_eq is largest, {text(_at(part, 'xi_eq', peak))} px, at σ = {where}"
    return f"{sentence}."


def explanation_sentence(dataset: xr.Dataset) -> str:
    """State which patch model explains the network, and how much of its output's variance."""
    errors = dataset["relative_error"].values  # model, level, size
    best = errors.min(-1)
    explained = 1 - best**2
    median = np.median(explained, axis=1)
    models, levels = dataset["model"].values, dataset["level_sigma"].values
    order = int(np.argmax(median))
    name, other = str(models[order]), str(models[1 - order])
    worst = int(np.argmin(explained[order]))
    sentence = (
        f"{name} models of the best size explain the network better than {other} models: median r² over noise levels "
        f"{plain(float(median[order]))} against {plain(float(median[1 - order]))}, least "
        f"{plain(float(explained[order, worst]))} "
        f"at σ = {plain(float(levels[worst]))}"
    )
    ideal = np.median(1 - dataset["relative_error_ideal"].values ** 2)
    sentence += f"; the ideal denoiser has {plain(float(ideal))}"
    beyond = [plain(float(s)) for s, r in zip(levels, explained.max(0), strict=True) if r < EXPLAINS]
    if not beyond:
        return f"{sentence}. Patches explain this network at every noise level."
    return (
        f"{sentence}. No patch model reaches r² = {EXPLAINS} at σ = {', '.join(beyond)}: there the "
        "network does more."
    )


def films_sentence(dataset: xr.Dataset) -> str | None:
    """State how well trajectories from the same noise agree in the end."""
    if "film_explained" not in dataset:
        return None
    medians = np.median(dataset["film_explained"].values, axis=1)
    correlation, errors = (
        dataset["film_correlation"].values[:, -1],
        dataset["film_correlation_error"].values[:, -1],
    )
    pieces = [
        f"{other}: correlation {text(Measured(float(c), float(e)))}, median r² {plain(float(m))}"
        for other, c, e, m in zip(dataset["film_other"].values, correlation, errors, medians, strict=True)
    ]
    word = (
        "end in the same image"
        if medians[0] > 0.75
        else ("resemble each other" if medians[0] > 0.25 else "part")
    )
    return (
        f"From the same noise, network and patch models {word} ({pieces[0]}); the ideal denoiser "
        f"{pieces[1].partition(': ')[2]}."
    )


def loss_sentence(dataset: xr.Dataset) -> str:
    """State where the network denoises better than patch models and than the ideal denoiser that memorises."""
    levels = dataset["level_sigma"].values
    network, error = dataset["loss_network"].values, dataset["loss_network_error"].values
    patches = dataset["loss"].values.min(-1).min(0)
    better = [plain(float(s)) for s, a, b in zip(levels, network, patches, strict=True) if a < b]
    memory = dataset["effective_images"].values < MEMORISES
    ideal = dataset["loss_ideal"].values
    beaten = network[memory] < ideal[memory]
    first = (
        f"On these images the network's loss is below that of every patch model at σ = {', '.join(better)}"
        if better
        else "On these images some patch model denoises better than the network at every noise level"
    )
    if not memory.any():
        return f"{first}; the ideal denoiser nowhere rests on fewer than {MEMORISES:g} images."
    where = f"where the ideal denoiser memorises (σ ≤ {plain(float(levels[memory].max()))})"
    last = plain(float(network[-1]), 2), plain(float(error[-1]), 2), plain(float(ideal[-1]), 2)
    if beaten.all():
        return (
            f"{first}; {where} the network beats it at every level, in the end {last[0]} ± "
            f"{last[1]} against {last[2]}."
        )
    return f"{first}; {where} the network beats it at {int(beaten.sum())} of {int(memory.sum())} levels."


def compare_findings(dataset: xr.Dataset) -> list[str]:
    """Return the sentences of a comparison; those of parts that were not run are missing."""
    sentences = [softening_sentence(dataset), crossing_sentence(dataset)]
    if "best_size" in dataset:
        sentences.insert(0, explanation_sentence(dataset))
    sentences.append(reach_sentence(dataset))
    more = [local_modes_sentence(dataset), films_sentence(dataset)]
    if "loss" in dataset:
        more.append(loss_sentence(dataset))
    return sentences + [sentence for sentence in more if sentence is not None]


def compare_table(dataset: xr.Dataset) -> list[Row]:
    """Return the rows of a comparison's table; the notes say what stands under theory."""
    rows: list[Row] = []
    closure = Measured(math.nan)
    if "critical_sigma_closure" in dataset:
        closure = Measured(
            float(dataset["critical_sigma_closure"]), float(dataset["critical_sigma_closure_error"])
        )
    for ensemble in dataset["ensemble"].values:
        part = dataset.sel(ensemble=ensemble)
        found = Measured(
            float(part["critical_sigma_regression"]), float(part["critical_sigma_regression_error"])
        )
        rows += noise_rows(
            f"effective critical noise, λ_reg(0) = 1, {ensemble}",
            closure,
            found,
            "theory: closure of the network alone",
        )
    for ensemble in dataset["ensemble"].values:
        part = dataset.sel(ensemble=ensemble)
        gap = Measured(float(part["minimal_gap"]), float(part["minimal_gap_error"]))
        sigma = Measured(float(part["minimal_gap_sigma"]), float(part["minimal_gap_sigma_error"]))
        rows.append(_row(f"smallest gap 1 - λ(0) of the mean Jacobian, {ensemble}", Measured(math.nan), gap))
        rows += noise_rows(f"   noise of the smallest gap, {ensemble}", math.nan, sigma)
        fraction = curve_at(part, "nonreciprocal", sigma.value)
        rows.append(
            _row(f"   non-reciprocal size of the mean kernel there, {ensemble}", Measured(math.nan), fraction)
        )
    if "best_size" in dataset:
        part = dataset.sel(ensemble="noised data")
        for index, sigma in enumerate(dataset["level_sigma"].values):
            level = plain(float(sigma))
            els = dataset.sel(model="ELS").isel(level_sigma=index)
            best = int(els["relative_error"].values.argmin())
            error = Measured(float(els["relative_error"][best]), float(els["relative_error_error"][best]))
            low, high = int(els["best_size_low"]), int(els["best_size_high"])
            size = int(els["size"].values[best])
            rows.append(
                _row(
                    f"relative error, network to best ELS model, σ = {level}",
                    Measured(math.nan),
                    error,
                    f"p* = {size}" + ("" if low == high else f" ({low} to {high})"),
                )
            )
            for name, label in (("gap", "gap 1 - λ(0)"), ("xi_eq", "ξ_eq (px)")):
                theory = Measured(
                    float(dataset[f"{name}_patch"][index]), float(dataset[f"{name}_patch_error"][index])
                )
                measured = curve_at(part, name, float(sigma))
                rows.append(_row(f"   {label}, σ = {level}", theory, measured, "theory: best ELS model"))
    return rows


def _row(quantity: str, theory: Measured, measured: Measured, note: str = "") -> Row:
    value = text(theory) if theory.known and math.isfinite(theory.error) else plain(theory.value)
    return Row(quantity, value, plain(measured.value), plain(measured.error, 2), note)


def compare_description(dataset: xr.Dataset, settings: dict) -> str:
    """Describe the run in one line."""
    return (
        f"{dataset.attrs.get('network', '')}; {settings['num_images']} images of {settings['data']} "
        "for the patch models, "
        f"windows {', '.join(map(str, settings['sizes']))}; {settings['num_samples']} trajectories, "
        f"{settings['num_queries']} noised images at {settings['num_levels']} levels"
    )
