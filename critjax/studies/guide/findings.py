# ruff: noqa: RUF001  (Greek letters belong in a report)
"""What a guidance study says: sentences and table, chosen by the numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import xarray as xr

from critjax.guidance import WindowStatus, describe_window, sampler_levels
from critjax.observables.errors import Estimate
from critjax.report.numbers import plain, read, text, with_error
from critjax.report.page import UNITS, Content, labels
from critjax.report.table import Row, noise_rows
from critjax.studies._engine.results import stored_values

#: Significance of a difference, and agreement of two peaks in sigma.
SIGNIFICANT, AGREES = 0.01, 0.15
_RIVALS = ("random positions", "constant", "best interval", "response window", "none")
_JUDGED = {"critical pulse": "the critical pulse", "window": "guidance in the recommended window"}
_THEORIES = {
    "regression": "regression",
    "closure": "Gaussian closure",
    "linear": "linear theory",
    "image": "integration by parts (exact for small pulses)",
    "amplitude": "derivatives along single trajectories",
}
#: What predicts the response itself, not the amplitude of a mode.
_RESPONSES = {
    "class": "integration by parts (exact for small pulses)",
    "response": "derivatives along single trajectories",
}
#: Units of a window and what they are called.
_UNITS = {
    "t_ou": "OU time",
    "alpha_bar": "ᾱ",
    "rectified_flow_time": "rectified-flow time",
    "ddpm_timestep_linear": "DDPM timestep (linear, of 1000)",
    "ddpm_timestep_cosine": "DDPM timestep (cosine, of 1000)",
}
_SAMPLERS = {
    "ddpm_linear": "DDIM steps (linear)",
    "ddpm_cosine": "DDIM steps (cosine)",
    "edm": "EDM steps",
    "rectified_flow": "rectified-flow steps",
}
#: Steps of the samplers that a window is told in.
_STEPS = 50
#: Derivatives that hold less than this share of what pulses do do not see the response.
_SEEN = 0.1


def window_sentence(dataset: xr.Dataset) -> str:
    """State the recommended window in the units that people use, or that there is none."""
    low, high = read(dataset, "window_sigma_low"), read(dataset, "window_sigma_high")
    cost = json.loads(dataset.attrs["cost"])
    price = f"({cost['jacobian_products']} Jacobian-vector products, {cost['evaluations']} evaluations)"
    if not (low.known and high.known):
        return f"The softening of the uniform mode recommends no window: {dataset.attrs['window_status']} {price}."
    cut = (
        ""
        if dataset.attrs["window_status"] == WindowStatus.FOUND.message
        else ", where the ladder cuts it off,"
    )
    return (
        f"The softening of the uniform mode recommends guidance from σ = {text(high)} to {text(low)}{cut} or a "
        f"pulse at σ = {text(read(dataset, 'window_centre'))} {price}. {_softest(dataset)}"
    )


def units_sentence(dataset: xr.Dataset) -> str | None:
    """Tell the recommended window in the units and steps of the common samplers."""
    low, high = read(dataset, "window_sigma_low"), read(dataset, "window_sigma_high")
    if not (low.known and high.known):
        return None
    units = describe_window(low.value, high.value, sigmas=dataset["sigma"].values)
    pieces = [
        f"{label} {units[unit][0]:.3g} to {units[unit][1]:.3g}"
        for unit, label in _UNITS.items()
        if np.isfinite(units[unit]).all()
    ]
    for sampler, label in _SAMPLERS.items():
        step = describe_window(low.value, high.value, sigmas=sampler_levels(sampler, _STEPS))["step"]
        pieces.append(f"{label} of {_STEPS}: {_steps(step)}")
    pieces.append(f"steps of this ladder of {dataset.sizes['sigma'] - 1}: {_steps(units['step'])}")
    return f"In other units the window is {'; '.join(pieces)} (steps count from 0)."


def _steps(step: tuple[int, int] | None) -> str:
    return "none" if step is None else f"{step[0]} to {step[1]}"


def _softest(dataset: xr.Dataset) -> str:
    """State where the mode itself is softest, which is not where it responds most."""
    softest = read(dataset, "window_softest")
    if not softest.known:
        return "Its gap has no minimum inside the ladder."
    later = softest.value < read(dataset, "window_centre").value
    return f"The mode is softest at σ = {text(softest)}{', where less of it is left to decide' if later else ''}."


def _against(part: xr.Dataset, rival: str) -> str | None:
    """Compare a recommended schedule with another of the same budget."""
    if rival not in part["arm"].values:
        return None
    row = part.sel(arm=rival)
    difference, p_value = read(row, "advantage"), float(row["advantage_p"])
    if not difference.known:
        return None
    chance = _chance(p_value)
    if p_value >= SIGNIFICANT:
        return f"not distinguishable from {rival} ({text(difference)}, {chance})"
    word = "better than" if difference.value > 0 else "worse than"
    accuracy = f"accuracy {_chance(float(row['advantage_accuracy_p']))}"
    return (
        f"{word} {rival} (by {text(Estimate(abs(difference.value), difference.error))}, {chance}; {accuracy})"
    )


def _chance(p_value: float) -> str:
    return f"p = {p_value:.1g}" if p_value >= 1e-4 else "p < 0.0001"


def verdict_sentences(dataset: xr.Dataset) -> list[str]:
    """State, for every budget, how the recommended pulse and window do against the other schedules."""
    found = []
    for budget in dataset["budget"].values:
        for judged, name in _JUDGED.items():
            part = dataset.sel(budget=budget, judged=judged)
            pieces = [piece for piece in (_against(part, rival) for rival in _RIVALS) if piece is not None]
            if pieces:
                found.append(
                    f"Budget {budget:g}: in the {dataset.attrs['response']}, {name} is {'; '.join(pieces)}."
                )
    return found


def diversity_sentences(dataset: xr.Dataset) -> list[str]:
    """State, for every budget, what the critical pulse, or else the best pulse, costs in diversity and distance."""
    found = []
    for budget in dataset["budget"].values:
        part = dataset.sel(budget=budget)
        arms = [str(a) for a in part["arm"].values]
        pulses = [a for a in arms if a.startswith("pulse")]
        arm, name = "critical pulse", "the critical pulse"
        if arm not in arms:
            arm, name = pulses[int(np.argmax(part["response"].sel(arm=pulses).values))], "the best pulse"
        chosen, none = part.sel(arm=arm), part.sel(arm="none")
        if not read(chosen, "diversity").known:
            continue
        changes = {}
        for quantity in ("diversity", "frechet"):
            before, after = read(none, quantity), read(chosen, quantity)
            if arm == "critical pulse":
                changes[quantity] = read(none.sel(judged=arm), f"change_{quantity}")
            else:  # too large: the two share their seeds
                changes[quantity] = Estimate(
                    after.value - before.value, math.hypot(after.error, before.error)
                )
        sentence = f"Budget {budget:g}: under {name} the diversity within classes is "
        sentence += f"{text(read(chosen, 'diversity'))}, " + _changed(
            changes["diversity"], read(none, "diversity")
        )
        if read(chosen, "frechet").known:
            sentence += f"; the Frechet distance to {dataset.attrs['references']} is {text(read(chosen, 'frechet'))}, "
            sentence += _changed(changes["frechet"], read(none, "frechet"))
            floor = read(dataset, "real_frechet")
            if floor.known:
                sentence += f" (as many real images: {text(floor)})"
        correct = read(chosen, "diversity_correct")
        if correct.known:
            sentence += (
                f". Among its images that are judged to be of the class asked for ({int(chosen['classes_correct'])} "
                f"classes) the diversity is {text(correct)}"
            )
            real = read(dataset, "real_diversity")
            if real.known:
                sentence += f", that of {dataset.attrs['references']} {text(real)}"
        found.append(f"{sentence}.")
    return found


def _changed(change: Estimate, before: Estimate) -> str:
    """Tell a change against the value without guidance."""
    level = f"the {text(before)} without guidance"
    if abs(change.value) < 2 * change.error:
        return f"not distinguishable from {level} (change {text(change)})"
    return f"{'below' if change.value < 0 else 'above'} {level} by {text(Estimate(abs(change.value), change.error))}"


def peak_sentences(dataset: xr.Dataset) -> list[str]:
    """State where pulses work best, and whether theory puts the peak there."""
    part = dataset.isel(budget=0)
    measured = read(part, "peak_amplitude")
    response = read(part, "peak_response")
    last = float(part["position_sigma"].min())
    found = [
        f"At budget {float(part['budget']):g} a pulse changes the {dataset.attrs['response']} most at "
        f"σ = {text(response)}, the amplitude of the class mode at σ = {text(measured)}."
    ]
    for target, value, theories in (
        ("amplitude", measured.value, _THEORIES),
        ("response", response.value, _RESPONSES),
    ):
        pieces = []
        for name, label in theories.items():
            predicted = read(part, f"peak_predicted_{name}")
            if not predicted.known or (name == "response" and not _derivatives_see(part)):
                continue
            off = predicted.value / value - 1
            word = "within" if abs(off) <= AGREES else "not within"
            place = ", the last position" if predicted.value < 1.001 * last else ""
            pieces.append(
                f"{label} σ = {text(predicted)}{place} ({100 * off:+.0f} %, {word} {100 * AGREES:.0f} %)"
            )
        if pieces:
            found.append(f"For the {target} theory predicts the peak at: {'; '.join(pieces)}.")
    if not _derivatives_see(part):
        found.append(
            f"Derivatives along single trajectories hold nothing of what pulses do to the {dataset.attrs['response']}: "
            "final images are so decided that none of them answers an infinitesimal push, and rare ones flip under a "
            "finite one."
        )
    return found


def _derivatives_see(part: xr.Dataset) -> bool:
    """Tell whether reverse mode finds a fair share of the largest response to a pulse, if it was run at all."""
    if "predicted_response" not in part:
        return True
    best = int(np.argmax(part["pulse_response"].values))
    found, pulse = (float(part[n].values[best]) for n in ("predicted_response", "pulse_response"))
    return found > _SEEN * pulse


def findings(dataset: xr.Dataset) -> list[str]:
    """Return the sentences of a guidance study, the verdict first."""
    units = units_sentence(dataset)
    window = [window_sentence(dataset)] + ([] if units is None else [units])
    return [*verdict_sentences(dataset), *window, *peak_sentences(dataset), *diversity_sentences(dataset)]


def table(dataset: xr.Dataset) -> list[Row]:
    """Return the rows of a guidance study's table."""
    rows: list[Row] = []
    first = dataset.isel(budget=0)
    for name, label in _THEORIES.items():
        predicted = read(first, f"peak_predicted_{name}").value
        if math.isfinite(predicted):
            measured = read(first, "peak_amplitude")
            rows += noise_rows(
                f"noise of the largest response of the class mode: {label}", predicted, measured
            )
    for budget in dataset["budget"].values:
        part = dataset.sel(budget=budget)
        for arm in part["arm"].values:
            row = part.sel(arm=arm)
            if not np.isfinite(float(row["response"])):
                continue
            value, error = with_error(read(row, "response"))
            notes = [f"correct {text(read(row, 'accuracy'))}"]
            for quantity in ("diversity", "frechet"):
                if read(row, quantity).known:
                    notes.append(f"{quantity} {text(read(row, quantity))}")
            low, high = float(row["arm_low"]), float(row["arm_high"])
            span = f", σ {plain(high)} to {plain(low)}" if math.isfinite(low) else ""
            rows.append(Row(f"response, budget {budget:g}: {arm}{span}", "-", value, error, "; ".join(notes)))
    return rows


def description(dataset: xr.Dataset, settings: dict) -> str:
    """Describe the run in one line."""
    real = f", Frechet distances to {dataset.attrs['references']}" if dataset.attrs["references"] else ""
    return (
        f"{settings['model']}; {settings['num_samples']} images a schedule, {settings['num_levels']} noise levels, "
        f"{settings['solver']}, eta = {settings['eta']:g}, baseline weight {settings['baseline']:g}, "
        f"seed {settings['seed']}{real}"
    )


def content(dataset: xr.Dataset) -> Content:
    """Collect sentences and table of a guidance study."""
    settings = stored_values(dataset)
    return Content(
        description(dataset, settings),
        findings(dataset),
        dataset.sizes["budget"],
        table(dataset),
        "Errors are one standard error over images; differences are paired by seed. Primary statistic, fixed "
        f"before the run: {dataset.attrs['primary_statistic']}. {UNITS}",
        labels(dataset),
    )
