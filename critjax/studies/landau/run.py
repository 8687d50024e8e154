r"""The Landau study: the exact dynamics of a bank beside its Ginzburg-Landau reduction, from the same noise.

For every bank three comparisons down one ladder of noise levels, always of the slow modes |k| <= pi/p:

- ``bare``: the exact run against the reduced equation with bare coefficients;
- ``renormalised``: the same exact run against coefficients averaged over the modes left out;
- ``slow``: an exact run that starts without those modes, against bare coefficients: what truncating the expansion
  costs, apart from fluctuations.

THEORY section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from critjax._programs import program
from critjax._typing import Array
from critjax.banks import PatchBank
from critjax.fluctuations import gaussian_closure
from critjax.landau import (
    ReducedModel,
    integrate,
    low_pass,
    reduced_model,
    renormalised_model,
    stable_substeps,
)
from critjax.noise import geometric_sigmas
from critjax.patch_score import patch_denoiser
from critjax.sampling import sample
from critjax.spectra import CriticalPoint, instability_kind
from critjax.studies._engine.cost import RUNTIME_BYTES, time_evaluation
from critjax.studies._engine.critical import critical_points
from critjax.studies._engine.problem import Problem, check_precision, largest_sigma, pattern_problem
from critjax.studies._engine.results import attributes
from critjax.studies._engine.run import Checkpoint, Progress, Run
from critjax.studies.landau.reduction import (
    COMPARISONS,
    TOLERANCES,
    Runs,
    coefficients,
    compare,
    film,
    holds_to,
    slow_shells,
)
from critjax.studies.landau.settings import LandauSettings, ResolvedLandau
from critjax.studies.landau.walls import DEPTHS, pattern_states, uniform_states

__all__ = ["COMPARISONS", "TOLERANCES", "LandauSettings", "estimate_cost", "holds_to", "run"]

#: Samples simulated at once.
_BATCH = 8
#: Evaluations per closure sample and level: the closure's own, the probes' and three nested derivatives.
_CLOSURE_EVALUATIONS = 15
#: First letters of a variable's name -> unit.
_UNITS = {
    "sigma": "image units (data in [-1, 1])",
    "critical_sigma": "image units (data in [-1, 1])",
    "quench_sigma": "image units (data in [-1, 1])",
    "holds_to_sigma": "image units (data in [-1, 1])",
    "escapes_at_sigma": "image units (data in [-1, 1])",
    "film": "image units (data in [-1, 1])",
    "slow_wavenumber": "rad per pixel",
    "critical_wavenumber": "rad per pixel",
    "wall_width": "pixels",
    "stiffness": "pixels^2",
    "drift": "pixels per e-fold of sigma",
    "structure_factor": "image units^2",
    "plateau_squared": "image units^2",
}


def run(
    settings: LandauSettings | None = None,
    *,
    progress: Progress | None = None,
    on_checkpoint: Checkpoint | None = None,
    saved: Mapping[str, xr.Dataset] | None = None,
) -> xr.Dataset:
    """Run the study and return everything as one labelled dataset.

    Parameters
    ----------
    settings : LandauSettings, optional
        What to do; default: three pattern banks.
    progress : callable, optional
        ``(stage, done, total)``, for a progress bar.
    on_checkpoint : callable, optional
        ``(bank, dataset)`` after every bank, for saving.
    saved : mapping, optional
        Banks of an earlier, identical run; they are not run again.

    Returns
    -------
    xarray.Dataset
        Axes ``bank``, ``level`` (with ``sigma`` per bank), ``comparison``, ``error_limit``, ``slow_wavenumber``,
        ``quench``, and those of the film: ``film_row``, ``film_level``, ``y``, ``x``.

    Raises
    ------
    ValueError
        If a setting is illegal.

    Notes
    -----
    Per bank ``4 num_samples num_levels`` denoiser evaluations for two exact runs by Heun's method, and
    ``15 closure_samples num_levels`` for the closure and the renormalised coefficients. All slow fields of a bank are
    in memory: ``5 num_samples num_levels H W`` numbers.

    Example
    -------
    >>> settings = LandauSettings(banks="two-pattern", size=5)
    >>> settings.resolved().num_levels  # of the ladder that ``run(settings)`` goes down
    80
    """
    full = (settings or LandauSettings()).resolved()
    check_precision(full.precision)
    run = Run(progress, on_checkpoint, saved)
    banks = full.banks
    # Every bank reports by its own name.
    found = run.parts("banks", banks, lambda index: _one_bank(banks[index], full, run.report), shown=False)
    parts = list(found)
    result = xr.concat(parts, dim="bank", combine_attrs="drop", join="exact", data_vars="all", coords="all")
    rows = ["exact, denoised", "exact, slow", "bare", "renormalised"]
    result = result.assign_coords(comparison=list(COMPARISONS), error_limit=list(TOLERANCES), film_row=rows)
    for name in result.variables:
        unit = next((u for prefix, u in _UNITS.items() if str(name).startswith(prefix)), None)
        if unit is not None:
            result[name].attrs["units"] = unit
    result.attrs = attributes("landau", "exact and reduced dynamics", full, run.seconds)
    return result


def _one_bank(name: str, settings: ResolvedLandau, report: Progress) -> xr.Dataset:
    grid, eta = settings.grid, settings.eta
    num_samples, num_levels = settings.num_samples, settings.num_levels
    steps = num_samples + 4

    def done(count: int) -> None:
        report(name, count, steps)

    done(0)
    problem = _problem(name, settings)
    bank, dtype, top = problem.bank, jnp.dtype(settings.precision), largest_sigma(problem)
    softest, _, uniform, _ = critical_points(
        problem, (top, 0.02 * top), precision=settings.precision, eta=eta
    )
    found = math.isfinite(softest.sigma)
    reference = float(softest.sigma) if found else top / np.sqrt(6)
    ladder = np.asarray(
        geometric_sigmas(np.sqrt(6) * reference, np.sqrt(0.1) * reference, num_levels - 1, dtype=dtype)
    )
    closure_key, fast_key, sample_key = _stage_keys(jax.random.key(settings.seed))
    bare = _bare_model(bank, ladder, eta, grid=grid)
    done(1)
    renormalised = _renormalised_model(
        bank, ladder, closure_key, fast_key, eta, grid=grid, num_samples=settings.closure_samples
    )
    runs = _simulate(bank, bare, renormalised, ladder, settings, sample_key, lambda count: done(2 + count))
    variables = compare(runs, ladder, grid, bank.size)
    variables.update(coefficients(bare, renormalised))
    done(steps - 1)
    variables.update(_ordered_states(bank, softest, grid))
    done(steps)
    variables.update(film(runs, ladder))
    variables["critical_sigma"] = ((), float(softest.sigma))
    variables["critical_sigma_uniform"] = ((), float(uniform))
    variables["critical_wavenumber"] = ((), float(np.linalg.norm(np.asarray(softest.wavevector))))
    shells, inside = slow_shells(grid, bank.size)
    coordinates = {
        "sigma": (("level",), np.asarray(ladder)),
        "slow_wavenumber": (("slow_wavenumber",), shells[inside]),
        "instability": ((), instability_kind(softest)),
    }
    return xr.Dataset(variables, coordinates).expand_dims(bank=[name])


def _problem(name: str, settings: ResolvedLandau) -> Problem:
    """Build one of the banks on the grid."""
    return pattern_problem(
        name,
        settings.grid,
        size=settings.size,
        num_random=settings.num_random,
        wavelength=settings.wavelength,
        seed=settings.seed,
        precision=settings.precision,
    )


@program
def _stage_keys(key: Array) -> Array:
    """Return the keys of closure, fast modes and samples."""
    return jax.random.split(jax.random.fold_in(key, 2), 3)


@program(static_argnames="grid")
def _bare_model(bank: PatchBank, ladder: Array, eta: Any, *, grid: tuple[int, int]) -> ReducedModel:
    return reduced_model(bank, ladder, grid, eta=eta)


@program(static_argnames=("grid", "num_samples"))
def _renormalised_model(
    bank: PatchBank,
    ladder: Array,
    closure_key: Array,
    fast_key: Array,
    eta: Any,
    *,
    grid: tuple[int, int],
    num_samples: int,
) -> ReducedModel:
    """Average the coefficients over the fast modes, distributed as the Gaussian closure says."""
    denoise, size = patch_denoiser(bank), bank.size
    options = {"eta": eta, "num_samples": num_samples, "size": size}
    closure = gaussian_closure(denoise, closure_key, ladder, grid, **options)
    # The bank is symmetric: what is left of the mean is sampling noise.
    mean, spectrum = 0 * closure.mean, closure.structure_factor
    return renormalised_model(denoise, fast_key, ladder, mean, spectrum, size=size, num_samples=num_samples)


@program(static_argnames=("grid", "eta"))
def _run_both(
    bank: PatchBank,
    key: Array,
    numbers: Array,
    models: tuple[ReducedModel, ReducedModel],
    ladder: Array,
    num_substeps: Array,
    *,
    grid: tuple[int, int],
    eta: Any,
) -> Runs:
    """Run exact and reduced dynamics from the same noise, for the samples of these numbers (B,)."""
    shape, cutoff, denoise = (*grid, 1), np.pi / bank.size, patch_denoiser(bank)
    pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)

    def slow(fields: Array) -> Array:
        return jax.vmap(lambda x: low_pass(x[..., 0], cutoff))(fields)

    def one(number: Array) -> Runs:
        # Keys by number: the first samples of a longer run are those of a shorter one.
        own_key = jax.random.fold_in(key, number)
        start_key, noise_key = jax.random.split(own_key)
        start = ladder[0] * jax.random.normal(start_key, shape, ladder.dtype)
        calm = low_pass(start[..., 0], cutoff)[..., None]
        # Pairs of runs as batches of two: half the compilation.
        exact = jax.vmap(lambda x: sample(denoise, own_key, shape, ladder, eta=eta, x_init=x))(
            jnp.stack([start, calm])
        )
        options = {"eta": eta, "cutoff": cutoff, "num_substeps": num_substeps}
        reduced = jax.vmap(lambda model: integrate(model, noise_key, start, **options))(pair)
        fields = (*jax.vmap(slow)(exact.x), *jax.vmap(slow)(reduced.x))
        exact_field, exact_slow, bare, renormalised = fields
        return Runs(exact_field, exact_slow, bare, renormalised, exact.denoised[0, ..., 0])

    return jax.vmap(one)(numbers)


def _simulate(bank, bare, renormalised, ladder, settings, key, report) -> Runs:
    """Run everything from the same noise, batch by batch; keep slow fields."""
    models = (bare, renormalised)
    counts = [stable_substeps(model, eta=settings.eta) for model in models]
    substeps = np.where(np.min(counts, 0) > 0, np.max(counts, 0), 0)
    options = {"grid": settings.grid, "eta": settings.eta}
    chunks = []
    for first in range(0, settings.num_samples, _BATCH):
        report(first)
        numbers = np.arange(first, min(first + _BATCH, settings.num_samples))
        chunks.append(
            jax.tree.map(np.asarray, _run_both(bank, key, numbers, models, ladder, substeps, **options))
        )
    report(settings.num_samples)
    joined = Runs(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))
    return joined._replace(film=joined.film[:1])


def _ordered_states(bank: Any, softest: CriticalPoint, grid: tuple[int, int]) -> dict[str, Any]:
    """Plateau and wall width below the softest mode's critical noise, where there is one."""
    names = (
        "depth",
        "quench_sigma",
        "plateau_squared",
        "plateau_squared_reduced",
        "wall_width",
        "wall_width_reduced",
    )
    values = {name: np.full(len(DEPTHS), np.nan) for name in names}
    if math.isfinite(softest.sigma):
        pattern = np.any(softest.wavevector)
        values = (
            pattern_states(bank, softest.sigma, softest.wavevector, grid=grid)
            if pattern
            else uniform_states(bank, softest.sigma)
        )
    return {name: (("quench",), np.asarray(values[name], np.float64)) for name in names}


def estimate_cost(settings: LandauSettings) -> dict[str, float]:
    """Predict wall time and memory of a run by timing the compiled denoisers of its banks.

    Parameters
    ----------
    settings : LandauSettings
        The run to be estimated.

    Returns
    -------
    dict
        ``seconds`` in all, ``seconds_per_evaluation`` of one batch (mean over banks), ``evaluations`` (of batches),
        ``bytes`` resident at most, ``overhead`` seconds (compilation, theory, figures), the last from experience.

    Example
    -------
    >>> settings = LandauSettings(banks="two-pattern", size=3, grid=(8, 8), num_samples=2, num_levels=3)
    >>> cost = estimate_cost(settings)
    >>> cost["seconds"] > cost["overhead"]
    True
    """
    full = settings.resolved()
    grid, dtype = full.grid, jnp.dtype(full.precision)
    num_samples, num_levels = full.num_samples, full.num_levels
    batch = min(_BATCH, num_samples)
    times = []
    for name in full.banks:
        denoise = patch_denoiser(_problem(name, full).bank)
        times.append(time_evaluation(denoise, (batch, *grid, 1), dtype))
    trajectories = 4 * (num_levels - 1) + 2
    extra = _CLOSURE_EVALUATIONS * full.closure_samples * num_levels / batch
    per_bank = -(-num_samples // batch) * trajectories + extra
    overhead = 35.0 * len(full.banks)
    fields = float(np.prod(grid)) * dtype.itemsize * num_levels * num_samples
    return {
        "seconds": overhead + per_bank * sum(times),
        "seconds_per_evaluation": sum(times) / len(times),
        "evaluations": per_bank * len(times),
        "bytes": RUNTIME_BYTES + 12 * fields,
        "overhead": overhead,
    }
