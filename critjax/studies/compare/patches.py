"""Second part of the comparison: the same noisy images through denoiser, patch models and ideal denoiser."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from critjax._programs import program
from critjax._typing import Array, DenoiseFn
from critjax.banks import ImageBank
from critjax.closed_form import gaussian_symbol, ideal_denoiser, ideal_log_weights, image_spectrum
from critjax.observables import jackknife_spread, jackknife_values, radial_average
from critjax.patch_score import patch_denoiser, patch_denoisers
from critjax.spectra import leading_eigenvalue
from critjax.spectra.measured import jacobian_products, probe_symbol, probe_tangents
from critjax.studies._engine.run import Progress
from critjax.studies.compare.nearest import nearest_indices
from critjax.studies.compare.problem import Problem
from critjax.studies.compare.settings import ResolvedCompare
from critjax.studies.measure.instruments import (
    fit_fields,
    gap_stiffness_length,
    lowest_eigenvalues,
    lowest_tangents,
    mean_and_error,
    shells_of,
    with_lowest_modes,
)

#: Patch models: positions of their patches -> name.
MODELS = {"all": "ELS", "same": "LS"}
SIGMA_MAX, SIGMA_MIN = 10.0, 0.1
#: Fields at which the Jacobian of the nearest patch model is probed: it costs far more than a network's.
PATCH_FIELDS = 3


def compare_patches(problem: Problem, settings: ResolvedCompare, report: Progress) -> xr.Dataset:
    """Put the same noised images through the network, all patch models and the ideal denoiser."""
    sizes, bank = settings.sizes, problem.bank
    clean = np.asarray(problem.queries[: settings.num_queries])
    levels = np.geomspace(SIGMA_MAX, SIGMA_MIN, settings.num_levels)
    models = {
        name: patch_denoisers(ImageBank(bank, sizes[0], positions=p), sizes, boundary="zero")
        for p, name in MODELS.items()
    }
    key = jax.random.key(settings.seed)
    rows: dict[str, list[np.ndarray]] = {}
    noised = []
    for number, sigma in enumerate(levels.astype(clean.dtype)):
        x = np.asarray(_noised(key, clean, sigma, 1000 + number))
        noised.append(x)
        found = []
        for query, image in enumerate(x):
            report("patches", number * len(x) + query, len(levels) * len(x))
            found.append(jax.tree.map(np.asarray, _through(models, problem.denoise, bank, image, sigma)))
        for name in found[0]:
            rows.setdefault(name, []).append(np.stack([f[name] for f in found]))
    report("patches", len(levels) * len(clean), len(levels) * len(clean))
    variables = _errors({n: np.stack(v) for n, v in rows.items()}, clean, sizes)
    model, size = nearest_indices(np.moveaxis(variables["relative_error"][1], 0, 1))
    nearest = [(tuple(MODELS.values())[m], sizes[s]) for m, s in zip(model, size, strict=True)]
    variables.update(_symbols(problem, noised, levels, nearest, settings, report))
    coordinates = {
        "model": list(MODELS.values()),
        "rival": [*MODELS.values(), "ideal"],
        "size": list(sizes),
        "level_sigma": levels,
    }
    return xr.Dataset(variables, coordinates)


@program
def _noised(key: Array, clean: Array, sigma: Array, number: Array) -> Array:
    """Return images with the noise of a level."""
    return clean + sigma * jax.random.normal(jax.random.fold_in(key, number), clean.shape, clean.dtype)


@program
def _through(
    models: dict[str, DenoiseFn], denoise: DenoiseFn, bank: Array, x: Array, sigma: Array
) -> dict[str, Array]:
    """Return what patch models, ideal denoiser and network make of one image."""
    found = {name: model(x, sigma) for name, model in models.items()}
    weights = jnp.exp(ideal_log_weights(bank, x, sigma))
    entropy = -jnp.sum(jax.scipy.special.xlogy(weights, weights))
    return {
        **found,
        "ideal": ideal_denoiser(bank)(x, sigma),
        "entropy": entropy,
        "network": denoise(x, sigma),
    }


def _errors(rows: dict[str, np.ndarray], clean: np.ndarray, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Relative errors between network and models, the best sizes, and losses; rows (level, query, ...)."""
    network = rows["network"].astype(np.float64)
    pixels = tuple(range(2, network.ndim))

    def first(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, 1, 0)

    def unexplained(sums: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        difference, total = (a.sum(0) for a in sums)  # query, level, ...
        return np.sqrt(difference / total[(...,) + (None,) * (difference.ndim - total.ndim)])

    def with_jackknife(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value, standard error and values with one query left out (query first); difference (level, query, ...)."""
        sums = first(difference), first(variance)
        left = jackknife_values(unexplained, sums, host=True)
        return unexplained(sums), jackknife_spread(left), left

    # About the mean over queries and pixels: a constant image explains nothing.
    centre = network.mean(axis=(1, *pixels), keepdims=True)
    variance = ((network - centre) ** 2).sum(pixels)
    patches = np.stack([rows[name] for name in MODELS.values()], axis=2).astype(np.float64)
    difference = ((patches - network[:, :, None, None]) ** 2).sum(
        axis=(-3, -2, -1)
    )  # level, query, model, size
    error, spread, left = with_jackknife(difference)
    ideal, ideal_error, _ = with_jackknife(((rows["ideal"] - network) ** 2).sum(pixels))
    best = np.asarray(sizes)[error.argmin(-1)]
    others = np.asarray(sizes)[left.argmin(-1)]  # query, level, model
    clean = clean.astype(np.float64)  # losses are close to each other, their differences count
    losses = {name: ((rows[name] - clean) ** 2).mean(pixels) for name in ("network", "ideal")}
    loss = ((patches - clean[None, :, None, None]) ** 2).mean(axis=(-3, -2, -1))
    # Differences on the same noisy images: what an image costs every denoiser cancels.
    chosen = np.take_along_axis(loss, loss.mean(1, keepdims=True).argmin(-1)[..., None], -1)[..., 0]
    rivals = np.concatenate([np.moveaxis(chosen, -1, 0), losses["ideal"][None]])
    advantage = rivals - losses["network"]  # rival, level, query
    dims = ("model", "level_sigma", "size")

    count = loss.shape[1]
    result = {
        "relative_error": (dims, first(error)),
        "relative_error_error": (dims, first(spread)),
        "best_size": (("model", "level_sigma"), first(best)),
        "best_size_low": (("model", "level_sigma"), first(others.min(0))),
        "best_size_high": (("model", "level_sigma"), first(others.max(0))),
        "relative_error_ideal": (("level_sigma",), ideal),
        "relative_error_ideal_error": (("level_sigma",), ideal_error),
        "effective_images": (("level_sigma",), np.exp(rows["entropy"].mean(1))),
        "loss": (dims, first(loss.mean(1))),
        "loss_error": (dims, first(loss.std(1, ddof=1) / np.sqrt(count))),
        "loss_advantage": (("rival", "level_sigma"), advantage.mean(-1)),
        "loss_advantage_error": (("rival", "level_sigma"), advantage.std(-1, ddof=1) / np.sqrt(count)),
    }
    for name, values in losses.items():
        result[f"loss_{name}"] = (("level_sigma",), values.mean(1))
        result[f"loss_{name}_error"] = (("level_sigma",), values.std(1, ddof=1) / np.sqrt(count))
    return result


def els_denoiser(bank: Array, size: int) -> DenoiseFn:
    """Build the ELS model of one window size."""
    return patch_denoiser(ImageBank(bank, size, positions="all"), boundary="zero")


@program
def probe(denoise: DenoiseFn, x: Array, sigma: Array, key: Array) -> Array:
    """Estimate the symbol (H, W) of the Jacobian at one image; the lowest modes, which set gap and length, exactly."""
    tangents, transforms = zip(
        *(probe_tangents(k, x.shape, x.dtype) for k in jax.random.split(key)), strict=True
    )
    lowest = lowest_tangents(x)
    # One pass for all directions: a pass over the bank costs more than what they add to it.
    every = jacobian_products(denoise, x, sigma, jnp.concatenate([lowest, *tangents]))
    responses = jnp.split(every[len(lowest) :], len(tangents))
    symbol = jnp.mean(jnp.stack(list(map(probe_symbol, transforms, responses))), axis=0)
    return with_lowest_modes(leading_eigenvalue(symbol).real, lowest_eigenvalues(every[: len(lowest)]))


def _patch_model(bank: Array, model: str, size: int) -> DenoiseFn:
    if model == "ELS":
        return els_denoiser(bank, size)
    return patch_denoiser(ImageBank(bank, size, positions="same"), boundary="zero")


@program
def _probes(denoise: DenoiseFn, fields: Array, sigma: Array, key: Array, number: Array) -> Array:
    """Return symbols (K, H, W) at single fields."""
    keys = jax.random.split(jax.random.fold_in(key, number), len(fields))
    return jax.lax.map(lambda pair: probe(denoise, pair[0], sigma, pair[1]), (fields, keys))


@program
def _gaussian(spectrum: Array, sigma: Array) -> tuple[Array, Array]:
    """Return shells of the Gaussian model's symbol, and its gap, stiffness and length."""
    symbol = leading_eigenvalue(gaussian_symbol(spectrum)(sigma)).real
    return radial_average(symbol), gap_stiffness_length(symbol)


def _symbols(problem, noised, levels, nearest, settings, report) -> dict[str, Any]:
    """Leading eigenvalues of the nearest patch model (name, size) at every level, and of the Gaussian model."""
    spectrum, key = image_spectrum(problem.bank), jax.random.key(settings.seed)
    models = {model: _patch_model(problem.bank, *model) for model in sorted(set(nearest))}
    rows: dict[str, list[Any]] = {}
    for number, (sigma, model) in enumerate(zip(levels, nearest, strict=True)):
        report("symbols", number, len(levels))
        x = noised[number][:PATCH_FIELDS]
        found = _probes(models[model], x, sigma.astype(x.dtype), key, 2000 + number)
        leading = np.asarray(found, np.float64)
        gaussian, fit = _gaussian(spectrum, sigma.astype(spectrum.real.dtype))
        shells, shells_error = mean_and_error(np.asarray(shells_of(leading)))
        (gap, _, length), errors = fit_fields(leading)
        gaussian_gap, _, gaussian_length = np.asarray(fit)
        row = {
            "mean_jacobian_patch": shells,
            "mean_jacobian_patch_error": shells_error,
            "mean_jacobian_gaussian": np.asarray(gaussian),
            "gap_patch": gap,
            "gap_patch_error": errors[0],
            "xi_eq_patch": length,
            "xi_eq_patch_error": errors[2],
            "gap_gaussian": gaussian_gap,
            "xi_eq_gaussian": gaussian_length,
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    report("symbols", len(levels), len(levels))
    return {
        name: (("level_sigma", "wavenumber") if np.ndim(values[0]) else ("level_sigma",), np.stack(values))
        for name, values in rows.items()
    }
