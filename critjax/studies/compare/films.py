"""Third part of the comparison: trajectories of denoiser, patch models and ideal denoiser from the same noise."""

from __future__ import annotations

import jax
import numpy as np
import xarray as xr

from critjax.closed_form import ideal_denoiser
from critjax.noise import geometric_sigmas
from critjax.patch_score import scheduled_denoiser
from critjax.sampling import sample
from critjax.studies._engine.run import Progress
from critjax.studies.compare.patches import els_denoiser
from critjax.studies.compare.problem import Problem
from critjax.studies.compare.settings import ResolvedCompare

#: Sampler of the films.
FILM_MAX, FILM_MIN, FILM_STEPS = 20.0, 0.1, 16


def follow(problem: Problem, settings: ResolvedCompare, patches: xr.Dataset, report: Progress) -> xr.Dataset:
    """Follow network, patch models of the best size at every noise, and ideal denoiser from the same noise."""
    best = patches["best_size"].sel(model="ELS").values.astype(int)
    levels = patches["level_sigma"].values
    changes = np.flatnonzero(np.diff(best))
    edges = np.sqrt(levels[changes] * levels[changes + 1])
    sizes = [int(size) for size in best[np.append(changes, len(best) - 1)]]
    models = [els_denoiser(problem.bank, size) for size in sizes]
    following = scheduled_denoiser(models, edges) if len(models) > 1 else models[0]
    denoisers = {"network": problem.denoise, "ELS at p*": following, "ideal": ideal_denoiser(problem.bank)}
    sigmas = geometric_sigmas(FILM_MAX, FILM_MIN, FILM_STEPS, dtype=problem.bank.dtype)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 3000), settings.num_films)
    height, width, channels = problem.bank.shape[1:]
    rows, total = [], len(denoisers) * len(keys)
    for row, denoise in enumerate(denoisers.values()):
        found = []
        for number, key in enumerate(keys):
            report("films", row * len(keys) + number, total)
            found.append(np.asarray(sample(denoise, key, (height, width, channels), sigmas).denoised))
        rows.append(np.stack(found))
    report("films", total, total)
    films = np.stack(rows)  # denoiser, sample, level, H, W, C
    flat = films.reshape(*films.shape[:3], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    norm = np.sqrt((flat**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (flat[:1] * flat).sum(-1) / (norm[:1] * norm)  # NaN for uniform fields
    others = slice(1, None)
    count = correlation.shape[1]
    # Of the final images: how much of the variance of the network's pixels the other model explains.
    left_over = ((films[others, :, -1] - films[:1, :, -1]) ** 2).sum(axis=(-3, -2, -1)) / norm[0, :, -1] ** 2
    return xr.Dataset(
        {
            "film": (("film_row", "film_sample", "film_sigma", "y", "x", "channel"), films),
            "film_correlation": (("film_other", "film_sigma"), correlation[others].mean(1)),
            "film_correlation_error": (
                ("film_other", "film_sigma"),
                correlation[others].std(1, ddof=1) / np.sqrt(count),
            ),
            "film_explained": (("film_other", "film_sample"), 1 - left_over),
        },
        {
            "film_row": list(denoisers),
            "film_other": list(denoisers)[1:],
            "film_sigma": np.asarray(sigmas, np.float64),
        },
    )
