# ruff: noqa: RUF001  (Greek letters belong in a report)
"""What a comparison says of patch models: which explains the network, and what the network does that none does."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from critjax.observables.errors import Estimate
from critjax.report.numbers import plain, read, text
from critjax.studies.compare.nearest import nearest_patch_models

#: A patch model explains a network from this share of the variance on (Kamb & Ganguli 2024: median r² ~ 0.9).
EXPLAINS = 0.9
#: Standard errors that make a difference.
SURE = 2.0


def median_and_range(values: np.ndarray) -> str:
    """Write the median, and the range in brackets."""
    median, low, high = (plain(float(f(values))) for f in (np.median, np.min, np.max))
    return f"{median} ({low} to {high})"


def better_and_worse(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Tell where (rival, level) the network's loss is below a rival's on the same images, and where above, for sure."""
    advantage, error = dataset["loss_advantage"].values, dataset["loss_advantage_error"].values
    return advantage > SURE * error, advantage < -SURE * error


def explanation_sentence(dataset: xr.Dataset) -> str:
    """State which patch model explains the network, and how much of its output's variance."""
    explained = 1 - dataset["relative_error"].values.min(-1) ** 2  # model, level
    models, levels = dataset["model"].values, dataset["level_sigma"].values
    order = int(np.argmax(np.median(explained, axis=1)))
    name, other = str(models[order]), str(models[1 - order])
    worst = int(np.argmin(explained[order]))
    level = dataset.isel(model=order, level_sigma=worst)
    error = read(level.isel(size=int(level["relative_error"].values.argmin())), "relative_error")
    least = Estimate(1 - error.value**2, 2 * error.value * error.error)
    sentence = (
        f"{name} models of the best size explain the network better than {other} models: median r² (least to most) "
        f"over noise levels {median_and_range(explained[order])} against {median_and_range(explained[1 - order])}, "
        f"least {text(least)} at σ = {plain(float(levels[worst]))}"
    )
    ideal = 1 - dataset["relative_error_ideal"].values ** 2
    sentence += f"; the ideal denoiser has {median_and_range(ideal)}"
    beyond = [plain(float(s)) for s, r in zip(levels, explained.max(0), strict=True) if r < EXPLAINS]
    if not beyond:
        return f"{sentence}. Patches explain this network at every noise level."
    return f"{sentence}. No patch model reaches r² = {EXPLAINS} at σ = {', '.join(beyond)}."


def _window_clause(level: xr.Dataset, largest: int) -> str:
    """State how much the network sees outside the window of the patch model that is nearest to it at one level."""
    outside = read(level, "weight_outside")
    if not (outside.known and math.isfinite(outside.error)):
        return ""
    largest_tried = ", the largest tried" if level["size"] == largest else ""
    window = f"the best window there ({int(level['size'])} px{largest_tried})"
    if outside.value > SURE * outside.error:
        return f" It looks further: {text(outside)} of the absolute weight of its Jacobian lies outside {window}."
    return f" It looks no further: none of the weight of its Jacobian lies outside {window} beyond error."


def _ideal_clause(dataset: xr.Dataset, nearest: xr.Dataset) -> str:
    """State where the ideal denoiser is nearer to the network than any patch model, for sure."""
    whole, its_error = (dataset[f"relative_error_ideal{s}"].values for s in ("", "_error"))
    patch, error = (nearest[f"relative_error{s}"].values for s in ("", "_error"))
    nearer = np.flatnonzero(patch - whole > SURE * np.hypot(error, its_error))
    if not nearer.size:
        return ""
    levels = ", ".join(plain(float(s)) for s in dataset["level_sigma"].values[nearer])
    most = int(nearer[np.argmax((patch**2 - whole**2)[nearer])])
    shares = [
        text(Estimate(1 - value[most] ** 2, 2 * value[most] * spread[most]))
        for value, spread in ((whole, its_error), (patch, error))
    ]
    return (
        f" At σ = {levels} whole images explain it better than any patches: the ideal denoiser up to r² {shares[0]} "
        f"against {shares[1]}."
    )


def beyond_patches_sentence(dataset: xr.Dataset) -> str:
    """State what the network does that no patch model does: differ from all of them, gain by it, look further."""
    nearest, levels = nearest_patch_models(dataset), dataset["level_sigma"].values
    explained, advantage = nearest["explained"].values, nearest["advantage"].values
    differs = explained < EXPLAINS
    better = np.asarray(better_and_worse(dataset.drop_sel(rival="ideal"))[0].all(0))
    where = differs & better

    def listed(mask: np.ndarray) -> str:
        return ", ".join(plain(float(s)) for s in levels[mask])

    def gain(mask: np.ndarray) -> str:
        level = nearest.isel(level_sigma=int(np.argmax(np.where(mask, advantage, -np.inf))))
        share = text(Estimate(*(100 * x for x in read(level, "relative_advantage"))))
        return (
            f"most by {text(read(level, 'advantage'))} in squared error per pixel, {share} % of the best "
            f"({level['rival'].item()}), at σ = {plain(float(level['level_sigma']))}"
        )

    kept = where if where.any() else np.ones_like(where)
    level = nearest.isel(level_sigma=int(np.argmin(np.where(kept, explained, np.inf))))
    clause = _window_clause(level, int(dataset["size"].values[-1])) + _ideal_clause(dataset, nearest)
    far = f"r² down to {text(read(level, 'explained'))} at σ = {plain(float(level['level_sigma']))}"
    if where.any():
        return (
            f"What no patch model of these images does: at σ = {listed(where)} the network differs from all of "
            f"them ({far}) and denoises better than all of them, {gain(where)}.{clause}"
        )
    if differs.any():
        return (
            f"At σ = {listed(differs)} the network differs from every patch model of these images ({far}), and gains "
            f"nothing by it beyond error.{clause}"
        )
    if better.any():
        return (
            f"Patch models explain the network at every noise level ({far}); by what they leave it denoises better "
            f"than all of them at σ = {listed(better)}, {gain(better)}.{clause}"
        )
    return (
        f"The network does nothing that patch models do not: the best of them explains it at every noise level ({far}) "
        f"and it denoises no better beyond error.{clause}"
    )
