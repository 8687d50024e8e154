"""Second part of the comparison: the same noisy images through denoiser, patch models and ideal denoiser."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from critjax._typing import Array, DenoiseFn
from critjax.banks import ImageBank
from critjax.closed_form import gaussian_symbol, image_spectrum
from critjax.observables import radial_average
from critjax.patch_score import patch_denoiser, patch_denoisers
from critjax.spectra import leading_eigenvalue
from critjax.spectra.measured import jacobian_products, probe_symbol, probe_tangents
from critjax.studies._engine.run import Progress
from critjax.studies.compare.nearest import nearest_indices
from critjax.studies.compare.problem import Problem
from critjax.studies.compare.settings import CompareSettings
from critjax.studies.measure.instruments import (
    fit_fields,
    gap_stiffness_length,
    lowest_eigenvalues,
    lowest_tangents,
    mean_and_error,
    with_lowest_modes,
)

#: Patch models: positions of their patches -> name.
MODELS = {"all": "ELS", "same": "LS"}
SIGMA_MAX, SIGMA_MIN = 10.0, 0.1
#: Fields at which the Jacobian of the nearest patch model is probed: it costs far more than a network's.
PATCH_FIELDS = 3
#: Window from which window sums of squared differences are faster than products of windows (benchmarks/nested.py).
NESTED_FROM = 9


def compare_patches(problem: Problem, settings: CompareSettings, report: Progress) -> xr.Dataset:
    """Put the same noised images through the network, all patch models and the ideal denoiser."""
    sizes, bank = tuple(settings.sizes), problem.bank
    clean = problem.queries[: settings.num_queries]
    levels = np.geomspace(SIGMA_MAX, SIGMA_MIN, settings.num_levels or 0)
    models = {name: patch_denoisers(bank, sizes, positions=p, boundary="zero") for p, name in MODELS.items()}

    @jax.jit
    def through(x: Array, sigma: Array) -> dict[str, Array]:
        found = {name: denoise(x, sigma) for name, denoise in models.items()}
        weights = jax.nn.softmax(-0.5 * jnp.sum((bank - x) ** 2, axis=(1, 2, 3)) / sigma**2)
        entropy = -jnp.sum(jax.scipy.special.xlogy(weights, weights))
        ideal = jnp.tensordot(weights, bank, 1)
        return {**found, "ideal": ideal, "entropy": entropy, "network": problem.denoise(x, sigma)}

    rows: dict[str, list[np.ndarray]] = {}
    noised = []
    for number, sigma in enumerate(levels):
        key = jax.random.fold_in(jax.random.key(settings.seed), 1000 + number)
        x = clean + float(sigma) * jax.random.normal(key, clean.shape, clean.dtype)
        noised.append(x)
        found = []
        for query, image in enumerate(x):
            report("patches", number * len(x) + query, len(levels) * len(x))
            found.append(jax.tree.map(np.asarray, through(image, jnp.asarray(sigma, x.dtype))))
        for name in found[0]:
            rows.setdefault(name, []).append(np.stack([f[name] for f in found]))
    report("patches", len(levels) * len(clean), len(levels) * len(clean))
    variables = _errors({n: np.stack(v) for n, v in rows.items()}, np.asarray(clean), sizes)
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


def _errors(rows: dict[str, np.ndarray], clean: np.ndarray, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Relative errors between network and models, the best sizes, and losses; rows (level, query, ...)."""
    network = rows["network"].astype(np.float64)
    pixels = tuple(range(2, network.ndim))

    def unexplained(difference: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.sqrt(difference.sum(1) / total.sum(1)[(...,) + (None,) * (difference.ndim - 2)])

    def with_jackknife(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value, standard error and values with one query left out (query first); difference (level, query, ...)."""
        value, count = unexplained(difference, variance), difference.shape[1]
        left = np.stack(
            [unexplained(np.delete(difference, i, 1), np.delete(variance, i, 1)) for i in range(count)]
        )
        return value, np.sqrt((count - 1) / count * ((left - left.mean(0)) ** 2).sum(0)), left

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

    def first(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, 1, 0)

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
    """Build the ELS model of one window size by the faster route, for values and Jacobian-vector products."""
    if size < NESTED_FROM:
        return patch_denoiser(ImageBank(bank, size, positions="all"), boundary="zero")
    nested = patch_denoisers(bank, (size,), positions="all", boundary="zero")
    return lambda x, sigma: nested(x, sigma)[0]


def _probe(denoise: DenoiseFn, x: Array, sigma: Array, key: Array) -> Array:
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


def _symbols(problem, noised, levels, nearest, settings, report) -> dict[str, Any]:
    """Leading eigenvalues of the nearest patch model (name, size) at every level, and of the Gaussian model."""
    spectrum = image_spectrum(problem.bank)
    gaussian_fn = gaussian_symbol(spectrum)
    programs: dict[tuple[str, int], Any] = {}
    rows: dict[str, list[Any]] = {}
    for number, (sigma, model) in enumerate(zip(levels, nearest, strict=True)):
        report("symbols", number, len(levels))
        if model not in programs:
            programs[model] = jax.jit(functools.partial(_probe, _patch_model(problem.bank, *model)))
        fields = noised[number][:PATCH_FIELDS]
        keys = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 2000 + number), len(fields))
        leading = np.stack(
            [programs[model](x, jnp.asarray(sigma, x.dtype), k) for x, k in zip(fields, keys, strict=True)]
        ).astype(np.float64)
        gaussian = leading_eigenvalue(gaussian_fn(jnp.asarray(sigma, spectrum.real.dtype))).real
        shells, shells_error = mean_and_error(np.asarray(jax.vmap(radial_average)(jnp.asarray(leading))))
        (gap, _, length), errors = fit_fields(leading)
        gaussian_gap, _, gaussian_length = gap_stiffness_length(gaussian)
        row = {
            "mean_jacobian_patch": shells,
            "mean_jacobian_patch_error": shells_error,
            "mean_jacobian_gaussian": np.asarray(radial_average(gaussian)),
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
