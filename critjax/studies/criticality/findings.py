# ruff: noqa: RUF001  (Greek letters belong in a report)
"""Sentences that state findings, each chosen by the numbers: other numbers, another sentence."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from critjax.observables.errors import Estimate
from critjax.report.numbers import curve_at, noise, plain, read, text
from critjax.studies._engine.results import stored_values
from critjax.studies.criticality.findings_beyond import gaussian_sentence, reduced_sentence
from critjax.studies.criticality.findings_stability import crossings_sentence, stability_sentence

#: Deviations below this many standard errors are called agreement.
AGREEMENT = 2.0
#: Relative deviations below this are called small even where they are significant.
SMALL = 0.05
LINEAR_RATIOS = (4.0, 2.0, 1.5, 1.0, 0.7)


def mode_name(dataset: xr.Dataset) -> str:
    """Name the softest mode of bare theory."""
    wavenumber = read(dataset, "critical_wavenumber_bare").value
    if not wavenumber > 1e-9:
        return "the uniform mode (k = 0)"
    return f"the mode |k| = {plain(wavenumber)} rad/px (wavelength {plain(2 * math.pi / wavenumber)} px)"


def compare(theory: float, measured: Estimate) -> str:
    """Say how a measured number stands to a predicted one."""
    deviations, relative = measured.deviations(theory), measured.value / theory - 1
    side = "above" if relative > 0 else "below"
    if deviations <= AGREEMENT:
        return f"in agreement with it ({deviations:.1f} standard errors)"
    significance = f", {plain(deviations, 2)} standard errors" if math.isfinite(deviations) else ""
    size = "only " if abs(relative) < SMALL else ""
    return f"{size}{abs(relative) * 100:.1f} % {side} it{significance}"


def bare_sentence(dataset: xr.Dataset) -> str:
    """State what linear theory predicts, in the frame of the study."""
    bare, frame = read(dataset, "critical_sigma_bare"), str(dataset.attrs.get("frame", "ve"))
    where = "" if frame == "ve" else " in the variance-preserving frame"
    if bare.known:
        return (
            f"Linear theory puts the critical noise{where} at {noise(bare, 'σ_c')}: there "
            f"{mode_name(dataset)} stops decaying."
        )
    threshold = dataset.get("threshold", 1.0)
    grows = bool((dataset["lambda_bare_softest"] >= threshold).values[0])
    if grows:
        return (
            f"Linear theory has no critical noise{where}: {mode_name(dataset)} grows at every noise level "
            "of the ladder, from the very first."
        )
    nearest = dataset["lambda_bare_softest"] - threshold
    at = int(np.argmax(nearest.values))
    value = plain(float(dataset["lambda_bare_softest"][at]))
    level = noise(Estimate(float(dataset["sigma"][at])))
    return (
        f"Linear theory has no critical noise{where}: no mode ever grows on the scanned range. "
        f"{mode_name(dataset)[:1].upper()}{mode_name(dataset)[1:]} comes nearest, with a symbol of {value} "
        f"at {level}."
    )


def simulation_sentence(dataset: xr.Dataset) -> str | None:
    """State where the simulated softest mode turns, and how that stands to bare theory."""
    if "lambda_reg_softest" not in dataset:
        return None
    bare, measured = read(dataset, "critical_sigma_bare"), read(dataset, "critical_sigma_measured")
    if not measured.known:
        top = dataset["lambda_reg_softest"]
        largest = Estimate(
            float(top.max()), float(dataset["lambda_reg_softest_error"].values[int(np.argmax(top.values))])
        )
        start = float((top - dataset["threshold"]).values[0]) if "threshold" in dataset else -1.0
        if start >= 0:
            return "In simulation this mode grows from the first noise level on."
        return (
            "In simulation this mode never stops decaying: its λ_reg stays below the marginal value "
            f"(largest {text(largest)})."
        )
    sentence = f"In simulation this mode turns at the effective critical noise {noise(measured)}"
    if not bare.known:
        return sentence + "."
    verdict = compare(bare.value, measured)
    if measured.deviations(bare.value) <= AGREEMENT:
        return f"{sentence}, {verdict}: fluctuations do not shift the transition measurably."
    if measured.value < bare.value:
        return f"{sentence}, {verdict}: fluctuations delay the instability, bare theory overestimates growth."
    return f"{sentence}, {verdict}: the instability comes earlier than bare theory says."


def closure_sentence(dataset: xr.Dataset) -> str | None:
    """State how well the Gaussian closure predicts the simulated symbol and where it crosses one."""
    if "lambda_closure_softest" not in dataset or "lambda_reg_softest" not in dataset:
        return None
    closure, measured = read(dataset, "critical_sigma_closure"), read(dataset, "critical_sigma_measured")
    difference = abs(dataset["lambda_closure_softest"] - dataset["lambda_reg_softest"])
    if not measured.known:
        follows = (
            f"The Gaussian closure follows λ_reg within {plain(float(difference.max()), 2)} on the whole "
            "ladder"
        )
        if closure.known:
            return (
                f"{follows}, but predicts a crossing at {noise(closure)} that the simulation does not show."
            )
        return f"{follows} and, like it, never crosses one."
    above = difference.where(dataset["sigma"] >= measured.value, drop=True)
    follows = f"Down to there the Gaussian closure follows λ_reg within {plain(float(above.max()), 2)}"
    if not closure.known:
        there = curve_at(dataset, "lambda_closure_softest", measured.value).value
        return f"{follows}, but it never crosses one: its symbol there is {plain(there)}."
    own = closure.error if math.isfinite(closure.error) else 0.0
    both = Estimate(measured.value, math.hypot(measured.error, own))
    verdict = f"it predicts {noise(closure)}, and the simulation is {compare(closure.value, both)}"
    if 0.5 < measured.value / closure.value < 2:
        return f"{follows}; {verdict}."
    there = curve_at(dataset, "lambda_closure_softest", measured.value).value
    return (
        f"{follows}, where its symbol is {plain(there)}; it grazes one and crosses it only at "
        f"{noise(closure)}, so that its own critical noise means little."
    )


def checked_modes(dataset: xr.Dataset) -> str:
    """Name the wavenumbers at which linear theory is checked."""
    return (
        "the ten smallest wavenumbers"
        if float(dataset["checked_wavenumber"][0]) == 0
        else ("the ten wavenumbers nearest to k_c")
    )


def linear_ratios(dataset: xr.Dataset) -> list[tuple[float, Estimate, Estimate]]:
    """Return (sigma^2/sigma_c^2, mean ratio, ratio farthest from one) of simulated S over linear theory.

    Over the ten wavenumbers that are checked; ratios whose noise level is off the ladder are left out.
    """
    critical = read(dataset, "critical_sigma_bare_ve").value
    if "linear_ratio" not in dataset or not math.isfinite(critical):
        return []
    rows = []
    for ratio in LINEAR_RATIOS:
        sigma = math.sqrt(ratio) * critical
        mean = curve_at(dataset, "linear_ratio_mean", sigma)
        if not mean.known:
            continue
        low = dataset["linear_ratio"].interp(sigma=sigma).values
        low_error = dataset["linear_ratio_error"].interp(sigma=sigma).values
        worst = int(np.argmax(np.abs(low - 1)))
        rows.append((ratio, mean, Estimate(float(low[worst]), float(low_error[worst]))))
    return rows


def linear_sentence(dataset: xr.Dataset) -> str | None:
    """State where linear theory of S holds to five per cent, and how far it parts below."""
    critical = read(dataset, "critical_sigma_bare_ve").value
    rows = linear_ratios(dataset)
    if not rows:
        return None
    which = checked_modes(dataset)
    early = dataset["sigma"].values >= 2 * critical * (1 - 1e-6)
    if early.sum() < 2:
        first = "The ladder starts below σ² = 4 σ_c², so the linear regime was not tested."
    else:
        # The very end of that range is between two levels: read it there, too.
        ends = [w for ratio, _, w in rows if ratio == 4]
        deviations = np.append(
            np.abs(dataset["linear_ratio"].values[early] - 1), [abs(w.value - 1) for w in ends]
        )
        errors = np.append(dataset["linear_ratio_error"].values[early], [w.error for w in ends])
        worst = int(np.argmax(deviations))
        largest = f"at most {deviations[worst] * 100:.1f} %"
        if deviations[worst] <= SMALL:
            verdict = f"holds at the 5 % level: {which} deviate by {largest}"
        elif np.all(deviations - 3 * errors <= SMALL):
            verdict = (
                f"is not contradicted, but the samples do not decide at the 5 % level: {which} deviate by "
                f"{largest}, within three standard errors"
            )
        else:
            verdict = f"fails at the 5 % level: {which} deviate by {largest}"
        first = f"For σ² ≥ 4 σ_c² linear theory of S(k) {verdict}."
    later = [(r, m) for r, m, _ in rows if r < 4]
    if not later:
        return first
    listed = ", ".join(f"{text(m)} at {r:g}" for r, m in later)
    parted = any(abs(m.value - 1) > SMALL for _, m in later)
    judgement = "measured and bare values part" if parted else "it still holds"
    units = "on average over them, in units of σ²/σ_c²"
    return f"{first} Nearer to the transition {judgement}: simulated over linear S is {listed} ({units})."


def kind_sentence(dataset: xr.Dataset) -> str | None:
    """State what kind of structure appears first, in theory and in simulation."""
    if not read(dataset, "critical_sigma_bare").known:
        return None
    wavenumber, found = (
        read(dataset, "critical_wavenumber_bare"),
        read(dataset, "critical_wavenumber_measured"),
    )
    eta = float(stored_values(dataset).get("eta", 0.0))
    imag = (1 + eta) * read(dataset, "critical_imag_bare").value
    what = "a uniform change of grey" if wavenumber.value <= 1e-9 else "a pattern with a wavelength"
    motion = "" if abs(imag) < 1e-6 else f", travelling at {plain(abs(imag))} rad per e-fold of σ"
    sentence = f"Theory expects {what} to appear first{motion}"
    if not found.known:
        return sentence + "."
    spacing = float(dataset["wavenumber"].values[1]) if dataset.sizes.get("wavenumber", 0) > 1 else 0.0
    if abs(found.value - wavenumber.value) <= spacing * 1.01:
        return f"{sentence}, and the simulation confirms the wavenumber."
    return f"{sentence}, but in the simulation |k| = {plain(found.value)} rad/px grows first."


def mean_field_sentence(dataset: xr.Dataset) -> str | None:
    """Place this random bank within the distribution of its kind."""
    if "draw_critical_uniform" not in dataset:
        return None
    own = read(dataset, "bank_critical_uniform_squared").value
    mean, spread = read(dataset, "mean_field_squared").value, read(dataset, "mean_field_squared_spread").value
    draws = dataset["draw_critical_uniform"].values
    rank = 100 * float(np.mean(draws < own))
    away = abs(own - mean) / spread
    typical = "a typical draw" if away <= 1 else ("an unusual draw" if away <= 2 else "a rare draw")
    level = noise(Estimate(math.sqrt(mean)), "σ")
    return (
        f"The mean-field value of the uniform mode is σ_c² = {plain(mean)} ± {plain(spread, 2)} (spread "
        f"over banks), {level}; this bank has {plain(own)}: {typical}, above {rank:.0f} % of {len(draws)} "
        f"random banks (their mean is {plain(float(draws.mean()))} ± {plain(float(draws.std(ddof=1)), 2)})."
    )


def smallest_gap(dataset: xr.Dataset) -> tuple[Estimate, Estimate]:
    """Return the smallest gap of the softest mode's mean Jacobian, and the noise of it.

    By the parabola through the least, errors over fields; without it or its error (an older result, a gap least at an
    end of the ladder) that of the best level, whose noise has no error.
    """
    found = read(dataset, "minimal_gap"), read(dataset, "minimal_gap_sigma")
    if found[0].known and math.isfinite(found[0].error):
        return found
    values, errors = dataset["mean_jacobian_softest"].values, dataset["mean_jacobian_softest_error"].values
    best = int(np.nanargmax(values))
    gap = Estimate(1 - float(values[best]), float(errors[best]))
    return gap, Estimate(float(dataset["probe_sigma"].values[best]))


def jacobian_sentence(dataset: xr.Dataset) -> str | None:
    """State whether the mean Jacobian, too, crosses one, or else how near it comes."""
    if "mean_jacobian_softest" not in dataset:
        return None
    gap, sigma = smallest_gap(dataset)
    where = noise(sigma)
    if gap.value + AGREEMENT * gap.error < 0:
        return (
            f"The mean Jacobian of this mode crosses one as well: its gap reaches {text(gap)}, near "
            f"{where}. Probing Jacobians alone would see an instability."
        )
    if gap.value - AGREEMENT * gap.error > 0:
        return (
            f"The mean Jacobian of this mode never reaches one: its smallest gap is {text(gap)}, near "
            f"{where}. Probing Jacobians shows a minimum, not a crossing."
        )
    return (
        f"The mean Jacobian of this mode comes to one within errors: its smallest gap is {text(gap)}, near "
        f"{where}."
    )


def order_sentence(dataset: xr.Dataset) -> str | None:
    """State whether whole images order or only domains form."""
    if "binder" not in dataset:
        return None
    binder = Estimate(float(dataset["binder"].values[-1]), float(dataset["binder_error"].values[-1]))
    walls, start = (float(dataset["wall_density"].values[i]) for i in (-1, 0))
    if binder.value - AGREEMENT * binder.error > 1 / 3:
        order = f"Whole images choose one state (Binder cumulant {text(binder)} at the end)"
    elif binder.value + AGREEMENT * binder.error < 1 / 3:
        order = f"Whole images do not order (Binder cumulant {text(binder)} at the end)"
    else:
        order = f"Whether whole images order is not decided (Binder cumulant {text(binder)} at the end)"
    levels = f"from {plain(start)} to {plain(walls)}"
    if walls < 0.8 * start:
        return f"{order}; domains coarsen: the wall density of D falls {levels}."
    if walls > 1.25 * start:
        return f"{order}; detail appears: the wall density of D rises {levels}."
    return f"{order}; the wall density of D hardly changes, {levels}."


def condensation_sentence(dataset: xr.Dataset) -> str | None:
    """State where the posterior condenses on few patches."""
    if "effective_patches" not in dataset:
        return None
    effective = dataset["effective_patches"].values
    sigma = dataset["probe_sigma"].values
    total = read(dataset, "num_patches").value
    few = min(2.0, math.sqrt(total))
    below = np.flatnonzero(effective < few)
    if below.size == 0:
        last = plain(float(effective[-1]))
        return (
            f"The posterior does not condense: {last} of {total:.0f} patches still compete at the lowest "
            "noise."
        )
    level = Estimate(float(sigma[below[0]]))
    return (
        f"The posterior condenses on fewer than {few:.2g} of {total:.0f} patches from about {noise(level)} "
        "on."
    )


def null_sentence(dataset: xr.Dataset) -> str | None:
    """State from where on the simulation leaves the Gaussian null model."""
    if "lambda_null_softest" not in dataset or "lambda_reg_softest" not in dataset:
        return None
    difference = (dataset["lambda_reg_softest"] - dataset["lambda_null_softest"]).values
    error = dataset["lambda_reg_softest_error"].values
    parted = (np.abs(difference) > 0.1) & (np.abs(difference) > AGREEMENT * error)
    if not parted.any():
        return (
            "The Gaussian null model with the images' spectrum follows λ_reg of the softest mode within "
            "0.1 at every noise."
        )
    first = int(np.argmax(parted))
    side = "above" if difference[first] > 0 else "below"
    level = Estimate(float(dataset["sigma"].values[first]))
    if first == 0:
        return (
            f"λ_reg of the softest mode lies {side} the Gaussian null model of the images' spectrum from "
            "the first noise level on."
        )
    return (
        "The Gaussian null model, which can never turn unstable, follows λ_reg of the softest mode within "
        f"0.1 down to about {noise(level)}; below, the simulation lies {side} it."
    )


def findings(dataset: xr.Dataset) -> list[str]:
    """Return the findings of a criticality study as sentences, the most important first.

    Example
    -------
    >>> compare(3.0, Estimate(2.0, 0.1))
    '33.3 % below it, 10 standard errors'
    """
    sentences = [bare_sentence(dataset)]
    for choose in (
        simulation_sentence,
        closure_sentence,
        gaussian_sentence,
        linear_sentence,
        kind_sentence,
        crossings_sentence,
        stability_sentence,
        null_sentence,
        mean_field_sentence,
        jacobian_sentence,
        order_sentence,
        condensation_sentence,
        reduced_sentence,
    ):
        sentence = choose(dataset)
        if sentence:
            sentences.append(sentence)
    return sentences
