"""From the images of every schedule to responses, differences, peaks and their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy import stats

from critjax.guidance import quadrature_weights
from critjax.observables import feature_variance, frechet_distance, frechet_error, interior_minimum
from critjax.studies._guide_arms import ladder, pulse_centres, random_positions
from critjax.studies._guide_settings import GuideSettings
from critjax.studies._guide_systems import System

_NUM_RESAMPLES = 1000
#: Most blocks of the jackknife of a Frechet distance.
_MAX_BLOCKS = 25
#: The schedules that are judged, both recommended from the softening alone; all others are compared with them.
JUDGED = ("critical pulse", "window")


def summarise(parts: Mapping[str, xr.Dataset], system: System, settings: GuideSettings) -> xr.Dataset:
    """Reduce the parts of a run.

    Returns
    -------
    xarray.Dataset
        On ``budget`` and ``arm``, with standard errors over images as ``*_error``:

        ``response``, ``accuracy``, ``diversity``, ``frechet``
            Mean response; share of images of the target class; trace of the covariance of the features within a class;
            Frechet distance of the features to held-out images (biased by the finite number, equally for all arms).
        ``advantage``, ``advantage_p``
            Also on ``judged``, "critical pulse" and "window": mean paired difference of the response of the judged arm
            and of this arm, same seeds, and the two-sided p-value of Student's paired t; ``advantage_accuracy_p`` of
            McNemar's exact test for the accuracy. NaN where nothing was recommended.
        ``weight``, ``arm_low``, ``arm_high``
            The schedule on the levels ``sigma``, and its edges.

        ``real_diversity`` is the diversity within classes of the real images that distances are taken to.

        On ``budget`` and ``position_sigma``: ``pulse_response`` and ``pulse_amplitude``, the change of response and of
        the class mode's amplitude per unit of budget, with paired errors, and ``predicted_*``, the same from every chi
        of ``theory``. ``peak_*`` are the noise levels of their largest values (parabola in ln sigma), with bootstrap
        errors for those that are measured.
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
    budgets = [_one_budget(parts, number, system, settings) for number in range(len(settings.budgets or ()))]
    budget = xr.DataArray(list(settings.budgets or ()), dims="budget", name="budget")
    arms = xr.concat(budgets, budget, join="outer", combine_attrs="drop")
    pulses = [_pulses(parts, number, b, shared, settings) for number, b in enumerate(settings.budgets or ())]
    result = xr.merge(
        [shared, arms, xr.concat(pulses, budget, combine_attrs="drop")],
        combine_attrs="drop",
        join="exact",
        compat="no_conflicts",
    )
    if system.references is not None and system.reference_labels is not None:
        real = feature_variance(system.references.astype(np.float64), system.reference_labels)
        result["real_diversity"], result["real_diversity_error"] = map(float, real)
    for name in ("sigma", "position_sigma"):
        result[name].attrs["units"] = "image units"
    return result


def _arms(parts: Mapping[str, xr.Dataset], number: int, settings: GuideSettings) -> dict[str, xr.Dataset]:
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
    parts: Mapping[str, xr.Dataset], number: int, system: System, settings: GuideSettings
) -> xr.Dataset:
    found = _arms(parts, number, settings)
    rows: dict[str, list[Any]] = {}
    num_levels = (settings.num_levels or 0) + 1
    for arm in found.values():
        row: dict[str, Any] = {}
        for name, values in (("response", arm["response"]), ("accuracy", arm["correct"])):
            row[name], row[f"{name}_error"] = _mean_and_error(values.values)
        features, labels = arm["features"].values.astype(np.float64), arm["label"].values
        row |= _quality(features, labels, system.references)
        against = [_comparison(found.get(name), arm) for name in JUDGED]
        row |= {name: [values[name] for values in against] for name in against[0]}
        row["weight"] = arm["weight"].values if "weight" in arm else np.full(num_levels, np.nan)
        row["arm_low"], row["arm_high"] = arm.attrs["low"], arm.attrs["high"]
        row["kept"] = arm["kept"].values
        row["kind"] = arm.attrs["kind"]
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    dims = {"weight": ("arm", "sigma"), "kept": ("arm", "shown", "y", "x", "channel")}
    dims |= {name: ("arm", "judged") for name in rows if name.startswith("advantage")}
    variables = {n: (dims.get(n, ("arm",)), np.asarray(v)) for n, v in rows.items()}
    return xr.Dataset(variables, {"arm": list(found), "judged": list(JUDGED)})


def _quality(features: np.ndarray, labels: np.ndarray, references: np.ndarray | None) -> dict[str, float]:
    """Diversity within classes, and distance to held-out images."""
    row: dict[str, float] = {
        n: math.nan for n in ("diversity", "diversity_error", "frechet", "frechet_error")
    }
    if np.bincount(labels).min() >= 3:
        row["diversity"], row["diversity_error"] = map(float, feature_variance(features, labels))
    if references is not None:
        other = references.astype(np.float64)
        row["frechet"] = float(frechet_distance(features, other))
        both = math.gcd(len(features), len(other))
        blocks = max(b for b in range(1, _MAX_BLOCKS + 1) if both % b == 0)
        if blocks > 1:
            row["frechet_error"] = float(frechet_error(features, other, num_blocks=blocks))
    return row


def _comparison(judged: xr.Dataset | None, arm: xr.Dataset) -> dict[str, float]:
    """Compare an arm with the judged one, image by image."""
    names = ("advantage", "advantage_error", "advantage_p", "advantage_accuracy_p")
    if judged is None:
        return dict.fromkeys(names, math.nan)
    difference = judged["response"].values - arm["response"].values
    mean, error = _mean_and_error(difference)
    test = 2 * stats.t.sf(abs(mean) / error, len(difference) - 1) if error > 0 else 1.0
    better = int((judged["correct"].values & ~arm["correct"].values).sum())
    worse = int((~judged["correct"].values & arm["correct"].values).sum())
    exact = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    return dict(zip(names, (mean, error, float(test), float(exact)), strict=True))


def peaks_of(log_sigma: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Return the ln sigma of the largest value of every curve (..., n); a peak at an end of the ladder is that end."""
    flat = jnp.asarray(-curves.reshape(-1, len(log_sigma)))
    inside = np.asarray(jax.vmap(lambda c: interior_minimum(jnp.asarray(log_sigma), c)[0])(flat))
    ends = log_sigma[np.argmax(curves, axis=-1)]
    return np.where(np.isnan(inside.reshape(ends.shape)), ends, inside.reshape(ends.shape))


def _pulses(
    parts: Mapping[str, xr.Dataset], number: int, budget: float, shared: xr.Dataset, settings: GuideSettings
) -> xr.Dataset:
    """Measured and predicted response to a pulse against its position."""
    none = parts["0-none"]
    arms = [parts[f"{number}-pulse-{i:02d}"] for i in range(settings.num_positions)]
    centres = pulse_centres(settings)
    log_centres = np.log(centres)
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
        peaks = np.exp(peaks_of(log_centres, change[:, draws].mean(2).T))
        variables[f"peak_{name}"] = ((), float(np.exp(peaks_of(log_centres, change.mean(1)))))
        variables[f"peak_{name}_error"] = ((), float(peaks.std(ddof=1)))
    for name, chi in shared.data_vars.items():
        kind = str(name).removeprefix("chi_")
        if kind == name or kind.endswith("_error"):
            continue
        predicted = spent @ np.nan_to_num(chi.values)
        variables[f"predicted_{kind}"] = (("position_sigma",), predicted)
        variables[f"peak_predicted_{kind}"] = ((), float(np.exp(peaks_of(log_centres, predicted))))
    return xr.Dataset(variables, {"position_sigma": centres})
