"""From the images of every schedule to responses, differences, peaks and their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr
from scipy import stats

from critjax._programs import program
from critjax._typing import Array
from critjax.guidance import quadrature_weights
from critjax.observables import (
    feature_variance,
    feature_variance_change,
    frechet_change,
    frechet_distance,
    frechet_error,
    interior_minimum,
    jackknife,
)
from critjax.studies.guide.arms import ladder, pulse_positions, random_positions
from critjax.studies.guide.settings import ResolvedGuide
from critjax.studies.guide.systems import System
from critjax.studies.guide.theory import resampled_means

_NUM_RESAMPLES = 1000
#: Most blocks of the jackknife of a Frechet distance.
_MAX_BLOCKS = 25
#: Draws of real images for the distance that equal distributions have.
_REAL_DRAWS = 5
#: Images of a class that a variance with an error needs.
_FEWEST = 3
#: The schedules that are judged, both recommended from the softening alone; all others are compared with them.
JUDGED = ("critical pulse", "window")


def summarise(parts: Mapping[str, xr.Dataset], system: System, settings: ResolvedGuide) -> xr.Dataset:
    """Reduce the parts of a run.

    Returns
    -------
    xarray.Dataset
        On ``budget`` and ``arm``, with standard errors over images as ``*_error``:

        ``response``, ``accuracy``, ``diversity``, ``frechet``
            Mean response; share of images of the target class; trace of the covariance of the features within a class;
            Frechet distance of the features to held-out images (biased upwards by the finite number, the more the more
            diverse the images are).
        ``diversity_correct``, ``classes_correct``
            The same diversity among those images only that are judged to be of the target class, over the classes that
            have at least three of them, and how many these are.
        ``advantage``, ``advantage_p``
            Also on ``judged``, "critical pulse" and "window": mean paired difference of the response of the judged arm
            and of this arm, same seeds, and the two-sided p-value of Student's paired t; ``advantage_accuracy_p`` of
            McNemar's exact test for the accuracy; ``change_diversity`` and ``change_frechet`` with paired jackknife
            errors. NaN where nothing was recommended.
        ``weight``, ``arm_low``, ``arm_high``
            The schedule on the levels ``sigma``, and its edges.

        ``real_diversity`` is the diversity within classes of the real images that distances are taken to, and
        ``real_frechet`` the distance of as many of them as an arm has images to the rest, with the spread over draws.

        On ``budget`` and ``position_sigma``, the mean of ln sigma over what a pulse spends: ``pulse_response`` and
        ``pulse_amplitude``, the change of response and of the class mode's amplitude per unit of budget, with paired
        errors, and ``predicted_*``, the same from every chi of ``theory``. ``peak_*`` are the noise levels of their
        largest values (parabola in ln sigma), with bootstrap errors where images or trajectories enter.
        On ``sigma``: ``gap``, the predictions, and the means of the susceptibilities with standard errors.
    """
    shared = parts["window"].merge(parts["theory"], combine_attrs="drop")
    for name in ("sigma_low", "sigma_high", "centre", "softest"):
        shared = shared.rename({name: f"window_{name}", f"{name}_error": f"window_{name}_error"})
    if "susceptibility" in parts:
        for name, values in parts["susceptibility"].data_vars.items():
            count = values.sizes["differentiated"]
            shared[f"{name}"] = values.mean("differentiated")
            shared[f"{name}_error"] = values.std("differentiated", ddof=1) / math.sqrt(count)
            shared[f"{name}_resampled"] = (
                ("resample", "sigma"),
                resampled_means(values.values, settings.seed),
            )
    budgets = [_one_budget(parts, number, system, settings) for number in range(len(settings.budgets))]
    budget = xr.DataArray(list(settings.budgets), dims="budget", name="budget")
    arms = xr.concat(budgets, budget, join="outer", combine_attrs="drop")
    pulses = [_pulses(parts, number, b, shared, settings) for number, b in enumerate(settings.budgets)]
    shared = shared.drop_dims("resample", errors="ignore")
    result = xr.merge(
        [shared, arms, xr.concat(pulses, budget, combine_attrs="drop")],
        combine_attrs="drop",
        join="exact",
        compat="no_conflicts",
    )
    if system.references is not None and system.reference_labels is not None:
        real = feature_variance(system.references.astype(np.float64), system.reference_labels)
        result["real_diversity"], result["real_diversity_error"] = map(float, real)
        floor = _real_distances(system.references.astype(np.float64), settings)
        if floor is not None:
            result["real_frechet"], result["real_frechet_error"] = floor
    for name in ("sigma", "position_sigma"):
        result[name].attrs["units"] = "image units"
    return result


def _arms(parts: Mapping[str, xr.Dataset], number: int, settings: ResolvedGuide) -> dict[str, xr.Dataset]:
    """Return the tested schedules of one budget by name, random positions among them."""
    found = {"none": parts["0-none"]}
    start = f"{number}-"
    for key, part in parts.items():
        if key.startswith(start) and not key.startswith(f"{start}search"):
            found[part.attrs["name"]] = part
    # The sampler knows nothing but seed and schedule: an image with a random pulse is that of the arm of the pulse.
    chosen = random_positions(settings)
    pulses = [found[f"pulse {i:02d}"] for i in range(settings.num_positions)]
    images = np.arange(len(chosen))
    picked = {}
    for name in ("response", "amplitude", "correct", "features"):
        picked[name] = (pulses[0][name].dims, np.stack([p[name].values for p in pulses])[chosen, images])
    random = pulses[0].assign(picked).drop_vars("weight")
    kept = np.stack([pulses[c]["kept"].values[i] for i, c in enumerate(chosen[: random.sizes["shown"]])])
    random["kept"] = (pulses[0]["kept"].dims, kept)
    random.attrs = {"name": "random positions", "kind": "random", "low": math.nan, "high": math.nan}
    found["random positions"] = random
    return found


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _one_budget(
    parts: Mapping[str, xr.Dataset], number: int, system: System, settings: ResolvedGuide
) -> xr.Dataset:
    found = _arms(parts, number, settings)
    rows: dict[str, list[Any]] = {}
    num_levels = settings.num_levels + 1
    for arm in found.values():
        row: dict[str, Any] = {}
        for name, values in (("response", arm["response"]), ("accuracy", arm["correct"])):
            row[name], row[f"{name}_error"] = _mean_and_error(values.values)
        features, labels = arm["features"].values.astype(np.float64), arm["label"].values
        row |= _quality(features, labels, arm["correct"].values, system.references)
        against = [_comparison(found.get(name), arm, system.references) for name in JUDGED]
        row |= {name: [values[name] for values in against] for name in against[0]}
        row["weight"] = arm["weight"].values if "weight" in arm else np.full(num_levels, np.nan)
        row["arm_low"], row["arm_high"] = arm.attrs["low"], arm.attrs["high"]
        row["kept"] = arm["kept"].values
        row["kind"] = arm.attrs["kind"]
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    dims = {"weight": ("arm", "sigma"), "kept": ("arm", "shown", "y", "x", "channel")}
    dims |= {name: ("arm", "judged") for name in rows if name.startswith(("advantage", "change"))}
    variables = {n: (dims.get(n, ("arm",)), np.asarray(v)) for n, v in rows.items()}
    return xr.Dataset(variables, {"arm": list(found), "judged": list(JUDGED)})


def _quality(
    features: np.ndarray, labels: np.ndarray, correct: np.ndarray, references: np.ndarray | None
) -> dict[str, float]:
    """Diversity within classes, also of correct images alone, and distance to held-out images."""
    names = ("diversity", "diversity_correct", "frechet")
    row = dict.fromkeys([*names, *(f"{n}_error" for n in names)], math.nan)
    if np.bincount(labels).min() >= _FEWEST:
        row["diversity"], row["diversity_error"] = map(float, feature_variance(features, labels))
    classes = [features[correct & (labels == c)] for c in np.unique(labels)]
    # On the host: every schedule has another number of correct images, and a program is compiled for one number.
    found = [jackknife(_variance, own, host=True) for own in classes if len(own) >= _FEWEST]
    row["classes_correct"] = len(found)
    if found:
        values, errors = np.array(found, np.float64).T
        row["diversity_correct"] = float(values.mean())
        row["diversity_correct_error"] = float(np.sqrt((errors**2).sum()) / len(found))
    if references is not None:
        row["frechet"] = float(frechet_distance(features, references.astype(np.float64)))
        blocks, a, b = _in_blocks(features, references)
        row["frechet_error"] = float(frechet_error(a, b, num_blocks=blocks))
    return row


def _variance(features: np.ndarray) -> Any:
    return features.var(0, ddof=1).sum()


def _real_distances(references: np.ndarray, settings: ResolvedGuide) -> tuple[float, float] | None:
    """Mean and spread of the distance of real images, as many as an arm has, to the others; None if too few."""
    count = settings.num_samples
    if len(references) < 2 * count:
        return None
    rng, found = np.random.default_rng([settings.seed, 13]), []
    for _ in range(_REAL_DRAWS):
        order = rng.permutation(len(references))
        found.append(float(frechet_distance(references[order[:count]], references[order[count:]])))
    return float(np.mean(found)), float(np.std(found, ddof=1))


def _in_blocks(features: np.ndarray, references: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Return a number of blocks for the jackknife, and both sets without what is left over."""
    blocks = min(_MAX_BLOCKS, len(features), len(references))
    a, b = (f[: len(f) - len(f) % blocks].astype(np.float64) for f in (features, references))
    return blocks, a, b


def _comparison(
    judged: xr.Dataset | None, arm: xr.Dataset, references: np.ndarray | None
) -> dict[str, float]:
    """Compare an arm with the judged one, image by image."""
    names = ("advantage", "advantage_error", "advantage_p", "advantage_accuracy_p")
    changes = ("change_diversity", "change_diversity_error", "change_frechet", "change_frechet_error")
    found: dict[str, float] = {n: math.nan for n in (*names, *changes)}
    if judged is None:
        return found
    difference = judged["response"].values - arm["response"].values
    mean, error = _mean_and_error(difference)
    test = 2 * stats.t.sf(abs(mean) / error, len(difference) - 1) if error > 0 else 1.0
    better = int((judged["correct"].values & ~arm["correct"].values).sum())
    worse = int((~judged["correct"].values & arm["correct"].values).sum())
    exact = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    found |= zip(names, (mean, error, float(test), float(exact)), strict=True)
    features, others = (part["features"].values.astype(np.float64) for part in (judged, arm))
    labels = arm["label"].values
    if np.bincount(labels).min() >= _FEWEST:
        found |= zip(changes[:2], map(float, feature_variance_change(features, others, labels)), strict=True)
    if references is not None:
        blocks, pairs, real = _in_blocks(np.stack([features, others], axis=1), references)
        change = frechet_change(pairs[:, 0], pairs[:, 1], real, num_blocks=blocks)
        found |= zip(changes[2:], map(float, change), strict=True)
    return found


def spread_of(values: np.ndarray) -> float:
    """Return the standard deviation; equal values, as of peaks at an end of the ladder, have none but rounding."""
    return float(values.std(ddof=1)) if np.ptp(values) > 0 else 0.0


def peaks_of(log_sigma: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Return the ln sigma of the largest value of every curve (..., n); a peak at an end of the ladder is that end."""
    inside = np.asarray(_vertices(log_sigma, -curves.reshape(-1, len(log_sigma))))
    ends = log_sigma[np.argmax(curves, axis=-1)]
    return np.where(np.isnan(inside.reshape(ends.shape)), ends, inside.reshape(ends.shape))


@program
def _vertices(x: Array, curves: Array) -> Array:
    return jax.vmap(lambda curve: interior_minimum(x, curve)[0])(curves)


def _pulses(
    parts: Mapping[str, xr.Dataset], number: int, budget: float, shared: xr.Dataset, settings: ResolvedGuide
) -> xr.Dataset:
    """Measured and predicted response to a pulse against its position."""
    none = parts["0-none"]
    arms = [parts[f"{number}-pulse-{i:02d}"] for i in range(settings.num_positions)]
    positions = pulse_positions(settings)
    log_positions = np.log(positions)
    nodes = np.asarray(quadrature_weights(ladder(settings), settings.solver), np.float64)
    spent = np.stack([nodes * (a["weight"].values - settings.baseline) for a in arms]) / budget
    rng = np.random.default_rng([settings.seed, 9])
    variables: dict[str, Any] = {}
    for name in ("response", "amplitude"):
        change = np.stack([a[name].values - none[name].values for a in arms]) / budget
        variables[f"pulse_{name}"] = (("position_sigma",), change.mean(1))
        error = change.std(1, ddof=1) / math.sqrt(change.shape[1])
        variables[f"pulse_{name}_error"] = (("position_sigma",), error)
        draws = rng.integers(0, change.shape[1], (_NUM_RESAMPLES, change.shape[1]))
        peaks = np.exp(peaks_of(log_positions, change[:, draws].mean(2).T))
        variables[f"peak_{name}"] = ((), float(np.exp(peaks_of(log_positions, change.mean(1)))))
        variables[f"peak_{name}_error"] = ((), spread_of(peaks))
    for name, chi in shared.data_vars.items():
        kind = str(name).removeprefix("chi_")
        if kind == name or kind.endswith(("_error", "_resampled")):
            continue
        if not np.isfinite(chi.values[spent.any(axis=0)]).all():  # it diverges where pulses are
            continue
        predicted = spent @ np.nan_to_num(chi.values)
        variables[f"predicted_{kind}"] = (("position_sigma",), predicted)
        variables[f"peak_predicted_{kind}"] = ((), float(np.exp(peaks_of(log_positions, predicted))))
        if f"{name}_resampled" in shared:
            others = np.exp(peaks_of(log_positions, shared[f"{name}_resampled"].values @ spent.T))
            variables[f"peak_predicted_{kind}_error"] = ((), spread_of(others))
    return xr.Dataset(variables, {"position_sigma": positions})
