# ruff: noqa: RUF001  (Greek letters belong in a report)
"""What a guidance study says: sentences and table, chosen by the numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import xarray as xr

from critjax.guidance import describe_window
from critjax.report._numbers import Measured, plain, read, text, with_error
from critjax.report._table import Row, noise_rows

#: Significance of a difference, and agreement of two peaks in sigma.
SIGNIFICANT, AGREES = 0.01, 0.15
_RIVALS = ("random positions", "constant", "best interval", "response window", "none")
_JUDGED = {"critical pulse": "the critical pulse", "window": "guidance in the recommended window"}
_THEORIES = {
    "regression": "regression",
    "closure": "Gaussian closure",
    "linear": "linear theory",
    "image": "expected image (exact for small pulses)",
    "amplitude": "derivatives along single trajectories",
}
#: What predicts the response itself, not the amplitude of a mode.
_RESPONSES = {"information": "class information", "response": "derivatives along single trajectories"}
#: Derivatives that hold less than this share of what pulses do do not see the response.
_SEEN = 0.1


def window_sentence(dataset: xr.Dataset) -> str:
    """State the recommended window in the units that people use, or that there is none."""
    low, high = read(dataset, "window_sigma_low"), read(dataset, "window_sigma_high")
    cost = json.loads(dataset.attrs["cost"])
    price = f"({cost['jacobian_products']} Jacobian-vector products, {cost['evaluations']} evaluations)"
    if not (low.known and high.known):
        return f"The softening of the uniform mode recommends no window: {dataset.attrs['window_status']} {price}."
    units = describe_window(low.value, high.value, sigmas=dataset["sigma"].values)
    ddpm = sorted(float(v) for v in units["ddpm_timestep_linear"])
    where = f"DDPM steps {ddpm[0]:.0f} to {ddpm[1]:.0f} of 1000 (linear schedule)"
    return (
        f"The softening of the uniform mode recommends guidance from σ = {text(high)} to {text(low)}, {where}, or a "
        f"pulse at σ = {text(read(dataset, 'window_centre'))} {price}. {_softest(dataset)}"
    )


def _softest(dataset: xr.Dataset) -> str:
    """State where the mode itself is softest, which is not where it responds most."""
    softest = read(dataset, "window_softest")
    if not softest.known:
        return "Its gap has no minimum inside the ladder."
    return f"The mode is softest at σ = {text(softest)}, where less of it is left to decide."


def _against(part: xr.Dataset, rival: str) -> str | None:
    """Compare a recommended schedule with another of the same budget."""
    if rival not in part["arm"].values:
        return None
    row = part.sel(arm=rival)
    difference, p_value = read(row, "advantage"), float(row["advantage_p"])
    if not difference.known:
        return None
    chance = f"p = {p_value:.1g}" if p_value >= 1e-4 else "p < 0.0001"
    if p_value >= SIGNIFICANT:
        return f"not distinguishable from {rival} ({text(difference)}, {chance})"
    word = "better than" if difference.value > 0 else "worse than"
    return f"{word} {rival} (by {text(Measured(abs(difference.value), difference.error))}, {chance})"


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


def diversity_sentence(dataset: xr.Dataset) -> str | None:
    """State what the critical pulse, or else the best pulse, costs in diversity."""
    part = dataset.isel(budget=0)
    arms = [str(a) for a in part["arm"].values]
    pulses = [a for a in arms if a.startswith("pulse")]
    best = pulses[int(np.argmax(part["response"].sel(arm=pulses).values))]
    arm = "critical pulse" if "critical pulse" in arms else best
    name = "the critical pulse" if arm == "critical pulse" else "the best pulse"
    spread, free = (read(part.sel(arm=a), "diversity") for a in (arm, "none"))
    if not spread.known or not free.known:
        return None
    change = spread.value - free.value
    error = math.hypot(spread.error, free.error)  # too large: the two share their seeds
    share = Measured(100 * abs(change) / free.value, 100 * error / free.value)
    real = read(dataset, "real_diversity")
    among = f" (that of {dataset.attrs['references']}: {text(real)})" if real.known else ""
    level = f"{text(spread)}{among}"
    if abs(change) < 2 * error:
        return (
            f"The diversity within classes under {name}, {level}, is that without guidance within error "
            f"({text(share)} %)."
        )
    word = "lowers" if change < 0 else "raises"
    return (
        f"At budget {float(part['budget']):g} {name} {word} the diversity within classes by {text(share)} % to "
        f"{level}. Images of another class than the one asked for count towards it."
    )


def peak_sentences(dataset: xr.Dataset) -> list[str]:
    """State where pulses work best, and whether theory puts the peak there."""
    part = dataset.isel(budget=0)
    measured = read(part, "peak_amplitude")
    response = read(part, "peak_response")
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
            predicted = read(part, f"peak_predicted_{name}").value
            if not math.isfinite(predicted) or (name == "response" and not _derivatives_see(part)):
                continue
            off = predicted / value - 1
            word = "within" if abs(off) <= AGREES else "not within"
            pieces.append(f"{label} σ = {plain(predicted)} ({100 * off:+.0f} %, {word} {100 * AGREES:.0f} %)")
        if pieces:
            found.append(f"For the {target} theory predicts the peak at: {'; '.join(pieces)}.")
    if not _derivatives_see(part):
        found.append(
            "Derivatives along single trajectories hold nothing of what pulses do: final images are so decided that "
            "none of them answers an infinitesimal push, and rare ones flip under a finite one."
        )
    return found


def _derivatives_see(part: xr.Dataset) -> bool:
    """Tell whether reverse mode finds a fair share of the largest response to a pulse, if it was run at all."""
    if "predicted_response" not in part:
        return True
    best = int(np.argmax(part["pulse_response"].values))
    found, pulse = (float(part[n].values[best]) for n in ("predicted_response", "pulse_response"))
    return found > _SEEN * pulse


def guide_findings(dataset: xr.Dataset) -> list[str]:
    """Return the sentences of a guidance study, the verdict first."""
    found = [*verdict_sentences(dataset), window_sentence(dataset), *peak_sentences(dataset)]
    diversity = diversity_sentence(dataset)
    return found + ([diversity] if diversity is not None else [])


def guide_table(dataset: xr.Dataset) -> list[Row]:
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


def guide_description(dataset: xr.Dataset, settings: dict) -> str:
    """Describe the run in one line."""
    real = f", Frechet distances to {dataset.attrs['references']}" if dataset.attrs["references"] else ""
    return (
        f"{settings['model']}; {settings['num_samples']} images a schedule, {settings['num_levels']} noise levels, "
        f"{settings['solver']}, eta = {settings['eta']:g}, baseline weight {settings['baseline']:g}, "
        f"seed {settings['seed']}{real}"
    )
