r"""The criticality study: predict, simulate and measure how structure appears as the noise falls.

One call joins the linear theory of a bank (growth rates, critical point, structure factor), the Gaussian
closure, an ensemble of generated samples with streaming statistics, and the mean Jacobian along real
trajectories.

THEORY sections 3, 5 and 6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr

from critjax._programs import as_pytree, program
from critjax.patch_score import patch_denoiser
from critjax.studies._engine.problem import Problem, bank_key, check_precision
from critjax.studies._engine.results import attributes
from critjax.studies._engine.run import Checkpoint, Progress, Run
from critjax.studies.criticality import prediction as theory
from critjax.studies.criticality.cost import estimate_cost
from critjax.studies.criticality.ensemble import (
    BatchSums,
    Estimator,
    Kept,
    combine,
    estimate,
    mode_groups,
    simulate_batch,
    wavenumbers,
)
from critjax.studies.criticality.film import NUM_FILM_SAMPLES, film, has_reduced_model, reduced_film
from critjax.studies.criticality.probes import NUM_PROBE_LEVELS, probe
from critjax.studies.criticality.problem import build_problem
from critjax.studies.criticality.settings import CriticalitySettings, ResolvedCriticality, ladder_ends

__all__ = ["CriticalitySettings", "estimate_cost", "ladder_ends", "run"]

_UNITS = {
    "sigma": "image units (data in [-1, 1])",
    "wavenumber": "rad per pixel",
    "rate": "per e-fold of sigma",
    "xi": "pixels",
}


def run(
    settings: CriticalitySettings | None = None,
    *,
    progress: Progress | None = None,
    on_checkpoint: Checkpoint | None = None,
    saved: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> xr.Dataset:
    r"""Run the study and return everything as one labelled dataset.

    Parameters
    ----------
    settings : CriticalitySettings, optional
        What to do; default: the random-pattern bank of seed 0.
    progress : callable, optional
        ``(stage, done, total)``, for a progress bar.
    on_checkpoint : callable, optional
        ``(name, part)`` after every simulated batch, a dictionary of arrays, for saving.
    saved : mapping, optional
        Batches of an earlier, identical run by name; they are not simulated again.

    Returns
    -------
    xarray.Dataset
        Theory and measurement over ``sigma`` and ``wavenumber``; every measured ``name`` has its standard error beside
        it as ``name_error``: by jackknife over batches for statistics of the ensemble; over the probed fields for
        ``mean_jacobian*``, ``nonreciprocal``, ``effective_patches`` and, by bootstrap, ``minimal_gap*``; over replicas
        for the closure. ``homogeneous_growth_rate`` is Gamma(0): where it is positive
        the homogeneous state itself is unstable, and bare curves from there on describe a state that generation has
        left. ``crossing_sigma``: every noise at which the largest growth rate changes sign on the scanned range,
        decreasing, re-entrant ones included, padded with NaN; ``num_crossings`` of them, also if there are more.
        Attributes: ``settings`` (JSON, enough to repeat the run),
        ``versions``, ``seconds`` per stage.

    Raises
    ------
    ValueError, FileNotFoundError
        If a setting is illegal or images cannot be read.

    Notes
    -----
    ``num_samples (2 num_levels - 1)`` denoiser evaluations with Heun's method; one batch of trajectories in
    memory. Precision float64 needs ``jax.config.update("jax_enable_x64", True)`` by the caller. THEORY
    sections 3, 5, 6.

    Example
    -------
    >>> settings = CriticalitySettings(bank="two-pattern", size=5, grid=(16, 16), num_samples=8, num_levels=12,
    ...                                batch_size=4, closure_samples=2, probe_samples=0)
    >>> result = run(settings)
    >>> print(f"{float(result.critical_sigma_bare):.3f}")  # two patterns: sigma_c^2 = P
    5.000
    """
    settings = (settings or CriticalitySettings()).resolved()
    check_precision(settings.precision)
    run = Run(progress, on_checkpoint, saved)
    with run.stage("theory"):
        problem = build_problem(settings)
        prediction = theory.predict(problem, settings)
        variables: theory.Variables = dict(prediction.variables)
        variables.update(theory.null_model(problem, prediction))
        variables.update(theory.bank_spread(problem, settings))
    closure_key, sample_key, probe_key = _stage_keys(bank_key(settings.seed))
    closure_symbol = None
    if settings.closure_samples:
        with run.stage("closure"):
            predicted, closure_symbol = theory.closure_prediction(problem, settings, prediction, closure_key)
            variables.update(predicted)
    batches, kept = _simulate(problem, settings, prediction, sample_key, run)
    with run.stage("statistics"):
        variables.update(_measure(problem, prediction, batches, settings.eta == 0))
    levels = kept_levels(len(prediction.sigmas))
    variables.update(film(kept, levels, prediction.sigmas))
    if has_reduced_model(problem, prediction):
        with run.stage("reduced model"):
            first_key = sample_keys(sample_key, 0, batch_size=settings.batch_size)[0]
            film_of = (problem, settings, prediction, kept, levels, first_key, closure_symbol)
            variables.update(reduced_film(*film_of))
    if settings.probe_samples:
        with run.stage("probes"):
            variables.update(probe(problem, settings, prediction, kept, levels, probe_key, run.report))
    return _dataset(problem, settings, prediction, variables, run)


def kept_levels(num_levels: int) -> np.ndarray:
    """Return the levels whose fields are kept for probes and films, spread over the whole ladder."""
    return np.unique(np.rint(np.linspace(0, num_levels - 1, NUM_PROBE_LEVELS)).astype(int))


@program
def _stage_keys(key: jax.Array) -> jax.Array:
    """Return the keys of closure, samples and probes."""
    return jax.random.split(jax.random.fold_in(key, 1), 3)


@program(static_argnames="batch_size")
def sample_keys(key: jax.Array, index: Any, *, batch_size: int) -> jax.Array:
    """Return the keys of one batch; by index, so that a resumed run draws what a straight one would have drawn."""
    return jax.random.split(jax.random.fold_in(key, index), batch_size)


def _simulate(
    problem: Problem,
    settings: ResolvedCriticality,
    prediction: theory.Prediction,
    key: jax.Array,
    run: Run,
) -> tuple[list[BatchSums], Kept]:
    """Simulate batch after batch; return the sums of each, and the kept fields of enough samples."""
    wanted = max(NUM_FILM_SAMPLES, settings.probe_samples)
    denoise_fn = as_pytree("denoise_fn", patch_denoiser(problem.bank))
    centre = np.asarray(problem.mean, prediction.sigmas.dtype)

    def batch(index: int) -> dict[str, np.ndarray]:
        simulated = simulate_batch(
            denoise_fn,
            sample_keys(key, index, batch_size=settings.batch_size),
            prediction.sigmas,
            centre,
            shape=(*problem.grid, problem.channels),
            kept_levels=tuple(kept_levels(len(prediction.sigmas)).tolist()),
            num_kept=wanted,
            eta=settings.eta,
            solver=settings.solver,
            window=problem.bank.size,
        )
        sums, kept = jax.tree.map(np.asarray, simulated)
        # Of the fields those are kept that the batches before, all of one size, left to be wanted.
        missing = max(0, wanted - index * len(kept.x))
        part = {f"sums_{name}": value for name, value in sums._asdict().items()}
        return part | {f"kept_{name}": value[:missing] for name, value in kept._asdict().items()}

    total = settings.num_samples // settings.batch_size
    names = [f"batch-{index:05d}" for index in range(total)]
    parts = list(run.parts("simulation", names, batch))
    batches = [BatchSums(*(part[f"sums_{name}"] for name in BatchSums._fields)) for part in parts]
    return batches, Kept(*(np.concatenate([part[f"kept_{name}"] for part in parts]) for name in Kept._fields))


def _measure(
    problem: Problem, prediction: theory.Prediction, batches: list[BatchSums], own_start: bool
) -> theory.Variables:
    """Estimate everything from the sums, with jackknife errors over batches (NaN for one batch)."""
    near = float(prediction.variables["critical_wavenumber_bare"][1])
    estimator = Estimator(
        prediction.sigmas,
        np.asarray(prediction.threshold, prediction.sigmas.dtype),
        np.asarray(prediction.softest),
        np.asarray(mode_groups(problem.grid, near)[1], prediction.sigmas.dtype),
        np.asarray(prediction.variables["linear_growth"][1], prediction.sigmas.dtype),
    )
    width, size = problem.grid[1], problem.bank.size
    found = estimate(combine(batches), estimator, width=width, size=size, own_start=own_start)
    values, errors = jax.tree.map(lambda a: np.asarray(a, np.float64), found)
    by_name = {"linear_ratio": ("sigma", "checked_mode"), "lambda_reg_crossing": ("wavenumber",)}
    result: theory.Variables = {}
    for name, value in values.items():
        dims = by_name.get(name, ("sigma", "wavenumber")[: value.ndim])
        result[name] = (dims, value)
        result[f"{name}_error"] = (dims, errors[name])
    return result


def _dataset(problem, settings, prediction, variables, run) -> xr.Dataset:
    """Label everything."""
    coordinates = {
        "sigma": (("sigma",), np.asarray(prediction.sigmas)),
        "wavenumber": (("wavenumber",), wavenumbers(problem.grid)),
        "checked_wavenumber": (
            ("checked_mode",),
            mode_groups(problem.grid, float(variables["critical_wavenumber_bare"][1]))[0],
        ),
    }
    for name in ("film_sigma", "probe_sigma"):
        if name in variables:
            coordinates[name] = variables.pop(name)
    dataset = xr.Dataset(variables, coordinates)
    for name in dataset.variables:
        unit = next((u for prefix, u in _UNITS.items() if prefix in str(name).split("_")), None)
        if unit is not None:
            dataset[name].attrs["units"] = unit
    dataset.attrs = attributes(
        "criticality",
        settings.label,
        settings,
        run.seconds,
        frame=settings.frame,
        **{k: json.dumps(v) if isinstance(v, list) else v for k, v in prediction.attributes.items()},
    )
    return dataset
