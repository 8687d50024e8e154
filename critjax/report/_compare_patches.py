# ruff: noqa: RUF001  (Greek letters belong in a report)
"""What a comparison says of patch models: which explains the network, and what the network does that none does."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from critjax.report._numbers import Measured, curve_at, plain, read, text

#: A patch model explains a network from this share of the variance on (Kamb & Ganguli 2024: median r² ~ 0.9).
EXPLAINS = 0.9
#: Standard errors that make a difference.
SURE = 2.0


def median_and_range(values: np.ndarray) -> str:
    median, low, high = (plain(float(f(values))) for f in (np.median, np.min, np.max))
    return f"{median} ({low} to {high})"


def better_and_worse(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Tell where (rival, level) the network's loss is below a rival's on the same images, and where above, for sure."""
    advantage, error = dataset["loss_advantage"].values, dataset["loss_advantage_error"].values
    return advantage > SURE * error, advantage < -SURE * error


def best_patch_models(dataset: xr.Dataset) -> list[xr.Dataset]:
    """Return at every level the patch model, of all kinds and sizes, that is nearest to the network, as scalars."""
    nearest = []
    for index in range(dataset.sizes["level_sigma"]):
        level = dataset.drop_dims("rival", errors="ignore").isel(level_sigma=index)
        model, size = np.unravel_index(
            int(level["relative_error"].values.argmin()), level["relative_error"].shape
        )
        nearest.append(level.isel(model=int(model), size=int(size)))
    return nearest


def weight_outside(dataset: xr.Dataset, size: int, sigma: float) -> Measured:
    """Share of the absolute weight of the Jacobian on noised images outside a window; NaN where it was not measured."""
    if "weight_outside" not in dataset:
        return Measured(math.nan)
    part = dataset[["weight_outside", "weight_outside_error"]].sel(ensemble="noised data", window=size)
    return curve_at(part, "weight_outside", sigma)


def explained_share(best: xr.Dataset) -> Measured:
    """Return r² of one patch model at one level, the share of the output's variance that it explains."""
    error = read(best, "relative_error")
    return Measured(1 - error.value**2, 2 * error.value * error.error)


def explanation_sentence(dataset: xr.Dataset) -> str:
    """State which patch model explains the network, and how much of its output's variance."""
    explained = 1 - dataset["relative_error"].values.min(-1) ** 2  # model, level
    models, levels = dataset["model"].values, dataset["level_sigma"].values
    order = int(np.argmax(np.median(explained, axis=1)))
    name, other = str(models[order]), str(models[1 - order])
    worst = int(np.argmin(explained[order]))
    level = dataset.isel(model=order, level_sigma=worst)
    least = explained_share(level.isel(size=int(level["relative_error"].values.argmin())))
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


def _window_clause(dataset: xr.Dataset, best: xr.Dataset) -> str:
    """State how much the network sees outside the window of the patch model that is nearest to it at one level."""
    size, sigma = int(best["size"]), float(best["level_sigma"])
    outside = weight_outside(dataset, size, sigma)
    if not outside.known:
        return ""
    window = f"the best window there ({size} px{', the largest tried' if size == dataset['size'].values[-1] else ''})"
    if outside.value > SURE * outside.error:
        return f" It looks further: {text(outside)} of the absolute weight of its Jacobian lies outside {window}."
    return f" It looks no further: none of the weight of its Jacobian lies outside {window} beyond error."


def beyond_patches_sentence(dataset: xr.Dataset) -> str:
    """State what the network does that no patch model does: differ from all of them, gain by it, look further."""
    nearest, levels = best_patch_models(dataset), dataset["level_sigma"].values
    explained = np.array([explained_share(best).value for best in nearest])
    differs = explained < EXPLAINS
    patches = dataset.drop_sel(rival="ideal")
    better = better_and_worse(patches)[0].all(0)
    where, listed = differs & better, lambda mask: ", ".join(plain(float(s)) for s in levels[mask])
    least = patches["loss_advantage"].min("rival").values

    def gain(mask: np.ndarray) -> str:
        index = int(np.argmax(np.where(mask, least, -np.inf)))
        level = patches.isel(level_sigma=index)
        rival = level.isel(rival=int(level["loss_advantage"].values.argmin()))
        name, advantage = rival["rival"].item(), text(read(rival, "loss_advantage"))
        return (
            f"by {advantage} in squared error per pixel (best: {name}) at σ = {plain(float(levels[index]))}"
        )

    lowest = int(np.argmin(np.where(where, explained, np.inf) if where.any() else explained))
    clause = _window_clause(dataset, nearest[lowest])
    far = f"r² down to {text(explained_share(nearest[lowest]))} at σ = {plain(float(levels[lowest]))}"
    if where.any():
        return (
            f"What no patch model of these images does: at σ = {listed(where)} the network differs from all of "
            f"them ({far}) and denoises better than all of them, most {gain(where)}.{clause}"
        )
    if differs.any():
        return (
            f"At σ = {listed(differs)} the network differs from every patch model of these images ({far}), and gains "
            f"nothing by it beyond error.{clause}"
        )
    if better.any():
        return (
            f"The network does little that patch models do not ({far}): a small correction makes it better than all of "
            f"them at σ = {listed(better)}, most {gain(better)}.{clause}"
        )
    return (
        f"The network does nothing that patch models do not: the best of them explains it at every noise level ({far}) "
        f"and it denoises no better beyond error.{clause}"
    )
