r"""The freeze-out study: how the length of a field depends on the rate at which its noise is lowered.

Annealed Langevin dynamics of the two-pattern bank with n steps per unit of tau = -ln sigma, for n over decades. Linear
theory says that the field arrives at its bare critical noise with a length of ``sqrt(K) (2a/pi)^{1/4}``, a = n e.
Fluctuations remove the transition at that noise; the study measures what samples do there, near the transition that
they do have, and after a short quench below it, and beside it the Binder cumulant on grids of several sizes.

THEORY sections 1, 5 and 6.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.tree_util import Partial

from critjax._programs import as_pytree, program
from critjax._typing import Array, DenoiseFn
from critjax.closed_form import two_pattern_denoiser
from critjax.fluctuations import freeze_out_distance, freeze_out_length, resolves_freeze_out
from critjax.observables import binder_cumulant, first_crossing, jackknife_error
from critjax.sampling import langevin_step
from critjax.studies._engine.cost import RUNTIME_BYTES, time_evaluation
from critjax.studies._engine.results import attributes
from critjax.studies._engine.run import Checkpoint, Progress, Run
from critjax.studies.freeze_out import quench
from critjax.studies.freeze_out.settings import FreezeOutSettings, ResolvedFreezeOut

__all__ = ["ISING_BINDER", "FreezeOutSettings", "estimate_cost", "fit_exponent", "run"]

#: Binder cumulant of the Ising model at its critical point, periodic square (Kamieniarz & Blote 1993): a landmark.
ISING_BINDER = 0.6107


def run(
    settings: FreezeOutSettings | None = None,
    *,
    progress: Progress | None = None,
    on_checkpoint: Checkpoint | None = None,
    saved: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> xr.Dataset:
    r"""Run the study and return everything as one labelled dataset.

    Parameters
    ----------
    settings : FreezeOutSettings, optional
        What to do; default: p = 3, 64 x 64, n = 10 ... 10,000, grids 32, 64, 128 (some minutes on two cores).
    progress : callable, optional
        ``(stage, done, total)``, for a progress bar.
    on_checkpoint : callable, optional
        ``(name, part)`` after every quench and every grid, a dictionary of arrays, for saving.
    saved : mapping, optional
        Quenches and grids of an earlier, identical run by name; they are not simulated again.

    Returns
    -------
    xarray.Dataset
        Over ``steps_per_tau`` and ``sigma_ratio`` (sigma/sigma_c), in pixels and fractions of bonds:
        ``xi_second_moment`` (from S at k = 0 and the lowest modes), ``xi_fit`` (Ornstein-Zernike fit of S over
        |k| <= pi/p; for correlations, too long for domains), ``xi_sign`` and ``xi_denoised_sign`` (1/e lengths of the
        signs of x and of D) and ``wall_density`` (of D). Each has its jackknife error as ``name_error``; its power of n
        as ``name_exponent``, with ``_error`` and ``_chi2`` (per degree of freedom: far above one, it is no power); and
        the predictions ``linear_name`` (bare S equation, NaN below sigma_c, where it has no bound) and
        ``closure_name`` (Gaussian closure).
        Over ``steps_per_tau``: ``freeze_out_length`` (its leading order), ``freeze_out_distance``, ``rate``,
        ``ladder_resolved``, ``closure_critical_ratio`` (NaN if lambda_reg(0) of the closure stays below one) and
        ``num_samples``.
        Over ``grid_side`` and ``binder_ratio``: ``binder``, ``order_rms`` and errors; over ``grid_side``:
        ``binder_crossing``, the sigma/sigma_c at which the cumulant passes `ISING_BINDER`, and ``relaxation_tau``,
        the change of ln sigma during which order diffuses across the grid, 1/(a K k1^2): where it is not small the
        curve shows freeze-out, not equilibrium.
        Attributes ``settings``, ``versions``, ``seconds``.

    Raises
    ------
    ValueError
        If a setting is illegal.

    Notes
    -----
    One denoiser evaluation per step and sample; one batch of fields in memory, a few hundred numbers kept per sample
    and level. Fields are not centred: the bank is symmetric, their mean is zero. float32. An exponent is the slope of
    a weighted straight line in logarithms, its error scaled up where the line does not fit. THEORY sections 5 and 6;
    Zurek 1985, Nature 317, 505; Binder 1981, Z. Phys. B 43, 119.

    Example
    -------
    >>> settings = FreezeOutSettings(steps_per_tau=(10, 40), grid=16, num_samples=16, max_samples=16, num_blocks=4,
    ...                              binder_grids=())
    >>> result = run(settings)
    >>> print(f"{float(result.freeze_out_length[0]):.4f}")  # sqrt(1/3) (2/pi)^(1/4)
    0.5157
    """
    full = (settings or FreezeOutSettings()).resolved()
    run = Run(progress, on_checkpoint, saved)
    numbers, sides = full.steps_per_tau, full.binder_grids
    key, denoise_fn = (
        jax.random.key(full.seed),
        as_pytree("denoise_fn", two_pattern_denoiser(full.size)),
    )

    def quench_of(index: int) -> dict[str, np.ndarray]:
        return _quench(full, denoise_fn, numbers[index], key)

    def grid_of(index: int) -> dict[str, np.ndarray]:
        return _binder(full, denoise_fn, sides[index], key)

    rows = list(run.parts("quenches", [f"quench-{number}" for number in numbers], quench_of))
    columns = list(run.parts("binder", [f"grid-{side}" for side in sides], grid_of)) if sides else []
    return _dataset(full, rows, columns, run)


def _count(settings: ResolvedFreezeOut, wanted: Any, side: int) -> tuple[int, int]:
    """Return samples per batch and number of batches: whole blocks, at least ``wanted`` samples."""
    blocks = settings.num_blocks
    total = -(-math.ceil(wanted) // blocks) * blocks
    per_batch = min(total, quench.batch_size(side))
    while total % per_batch:
        per_batch -= 1
    return per_batch, total // per_batch


class _Simulation(NamedTuple):
    """Samples of one ladder on one grid."""

    side: int
    number: int
    ladder: quench.Ladder
    step_size: float
    wanted: float


def _quench_plan(settings: ResolvedFreezeOut, number: int) -> _Simulation:
    """Plan the quench of one n: as many samples as cost what those of the largest n do."""
    ratios, e = np.array(settings.noise_ratios), settings.step_size
    ladder = quench.build_ladder(
        settings.size * ratios, float(settings.size), number, e, settings.steps_per_level
    )
    most, least = settings.steps_per_tau[-1], settings.num_samples
    wanted = max(min(least * most / number, settings.max_samples), least)
    return _Simulation(settings.grid, number, ladder, e, wanted)


def _binder_plan(settings: ResolvedFreezeOut, side: int) -> _Simulation:
    """Plan the Binder curve of one grid."""
    size, e, number = settings.size, settings.binder_step_size, settings.binder_steps_per_tau
    ratios = _binder_ratios(settings)
    ladder = quench.build_ladder(size * ratios, float(size * ratios[0]), number, e, settings.steps_per_level)
    wanted = settings.binder_samples * settings.binder_grids[-1] / side
    return _Simulation(side, number, ladder, e, wanted)


@program
def _batch_key(key: Array, number: Any, batch: Any) -> Array:
    """Return the key of one batch of a quench or a grid, which ``number`` tells from all others."""
    return jax.random.fold_in(jax.random.fold_in(key, number), batch)


def _simulate(
    settings: ResolvedFreezeOut, denoise_fn: DenoiseFn, plan: _Simulation, key: Array, number: int
) -> dict[str, np.ndarray]:
    """Simulate batch after batch; return the kept numbers of all samples: (levels, samples, ...)."""
    num, batches = _count(settings, plan.wanted, plan.side)
    done = []
    for batch in range(batches):
        found = quench.simulate(
            denoise_fn,
            _batch_key(key, number, batch),
            np.float32(plan.ladder.start),
            plan.ladder.stretches,
            np.float32(plan.step_size),
            num=num,
            side=plan.side,
            size=settings.size,
            steps_per_level=plan.ladder.steps_per_level,
        )
        done.append(jax.tree.map(np.asarray, found))
    return {name: np.concatenate([part[name] for part in done], axis=1) for name in done[0]}


def _quench(
    settings: ResolvedFreezeOut, denoise_fn: DenoiseFn, number: int, key: Array
) -> dict[str, np.ndarray]:
    """Simulate one n and predict it; everything by name, over the measured levels."""
    plan = _quench_plan(settings, number)
    side, size, ladder = plan.side, settings.size, plan.ladder
    samples = _simulate(settings, denoise_fn, plan, key, number)
    # Lengths depend on averages over samples alone: the averages of the blocks are all that is needed.
    blocks = {
        name: np.stack([part.mean(1) for part in np.split(values, settings.num_blocks, axis=1)], axis=1)
        for name, values in samples.items()
    }
    values, errors = quench.lengths_and_errors(blocks, side=side, size=size)
    found: dict[str, Any] = {**values, **{f"{name}_error": error for name, error in errors.items()}}

    num_levels, above = len(settings.noise_ratios), int(np.sum(np.array(settings.noise_ratios) >= 1 - 1e-9))
    closure, crossing = quench.closure_prediction(
        np.float32(ladder.start),
        ladder.stretches,
        np.float32(plan.step_size),
        side=side,
        size=size,
        steps_per_level=ladder.steps_per_level,
    )
    linear = np.full((num_levels, side, side), np.nan, np.float32)  # below sigma_c it has no bound
    if above:
        linear[:above] = quench.linear_prediction(side, size, ladder, plan.step_size, above)
    predicted = quench.lengths_of_spectra(np.concatenate([linear, closure]), size=size)
    for name, lengths in predicted.items():
        found[f"linear_{name}"], found[f"closure_{name}"] = np.split(np.asarray(lengths), 2)
    rate = number * plan.step_size
    found |= {
        "rate": rate,
        "freeze_out_length": freeze_out_length((size**2 - 1) / 24, rate),
        "freeze_out_distance": freeze_out_distance(rate),
        "ladder_resolved": resolves_freeze_out(ladder.sigmas, rate, size),
        "closure_critical_ratio": np.asarray(crossing, np.float64) / size,
        "num_samples": samples["walls"].shape[1],
    }
    return {name: _stored(value) for name, value in found.items()}


def _stored(value: Any) -> np.ndarray:
    """Return a number or an array as a saved part holds it: floats in double precision."""
    value = np.asarray(value)
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def _binder_ratios(settings: ResolvedFreezeOut) -> np.ndarray:
    first, last = settings.binder_range
    return np.geomspace(first, last, settings.binder_levels)


def _binder_statistic(falling: Array, order: Array) -> dict[str, Array]:
    """Return the cumulant of the spatial mean (samples, L), its size, and the noise of the Ising value."""
    binder = binder_cumulant(order)
    return {
        "binder": binder,
        "order_rms": jnp.sqrt((order**2).mean(0)),
        "binder_crossing": jnp.exp(first_crossing(falling, binder, ISING_BINDER)),
    }


@program(static_argnames="num_blocks")
def _binder_statistics(
    order: Array, falling: Array, *, num_blocks: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    statistic = functools.partial(_binder_statistic, falling)
    return statistic(order), jackknife_error(statistic, order, num_blocks=num_blocks)


def _binder(
    settings: ResolvedFreezeOut, denoise_fn: DenoiseFn, side: int, key: Array
) -> dict[str, np.ndarray]:
    """Simulate one grid down to every ratio of the Binder curve."""
    plan = _binder_plan(settings, side)
    order = _simulate(settings, denoise_fn, plan, key, 2**30 + side)["order"].T
    falling = np.log(np.asarray(_binder_ratios(settings), order.dtype))
    values, errors = _binder_statistics(order, falling, num_blocks=settings.num_blocks)
    stiffness = (settings.size**2 - 1) / 24  # at the noise where the uniform mode is marginal
    found = {**values, **{f"{name}_error": error for name, error in errors.items()}}
    found |= {
        "relaxation_tau": 1 / (plan.number * plan.step_size * stiffness * 4 * math.sin(math.pi / side) ** 2),
        "binder_num_samples": len(order),
    }
    return {name: np.asarray(value) for name, value in found.items()}


def estimate_cost(settings: FreezeOutSettings) -> dict[str, float]:
    """Predict wall time and memory of a run by timing Langevin steps on its grid.

    Parameters
    ----------
    settings : FreezeOutSettings
        The run to be estimated.

    Returns
    -------
    dict
        ``seconds`` in all, ``seconds_per_evaluation`` of one batch, ``evaluations`` (of batches; of other grids by
        their pixels), ``bytes`` resident at most, ``overhead`` seconds (compilation, theory, figures), the last
        from experience.

    Example
    -------
    >>> settings = FreezeOutSettings(steps_per_tau=(10,), grid=8, num_samples=4, max_samples=4, num_blocks=2,
    ...                              binder_grids=())
    >>> estimate_cost(settings)["overhead"]  # six seconds, and two for the quench
    8.0
    """
    full = settings.resolved()
    plans = [_quench_plan(full, number) for number in full.steps_per_tau]
    plans += [_binder_plan(full, side) for side in full.binder_grids]
    side = full.grid
    batch = _count(full, full.num_samples, side)[0]
    step_fn = Partial(_step, two_pattern_denoiser(full.size), jax.random.key(0))
    per_step = time_evaluation(step_fn, (batch, side, side, 1), jnp.float32)
    pixels = [math.prod(_count(full, p.wanted, p.side)) * p.side**2 * p.ladder.num_steps for p in plans]
    steps = sum(pixels) / (batch * side**2)
    overhead = 6.0 + 2.0 * len(plans)
    return {
        "seconds": overhead + steps * per_step,
        "seconds_per_evaluation": per_step,
        "evaluations": steps,
        "bytes": RUNTIME_BYTES + 12 * 4 * quench.PIXELS_PER_BATCH,
        "overhead": overhead,
    }


def _step(denoise_fn: DenoiseFn, key: Array, x: Array, sigma: Array) -> Array:
    """One Langevin step of one field, with the noise that makes up much of its cost."""
    return langevin_step(denoise_fn, key, x, sigma, 0.1)


def fit_exponent(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> tuple[float, float, float]:
    """Fit ``y ~ x^s`` by a weighted line in logarithms; return s, its standard error and chi^2 per degree of freedom.

    Points without a finite, positive value and error take no part. The error is scaled by sqrt(chi^2 per degree of
    freedom) where that exceeds one. NaN below two points; chi^2 is NaN for two.

    Example
    -------
    >>> x = np.exp([0.0, 1.0, 2.0])
    >>> slope, error, _ = fit_exponent(x, x**2, 0.1 * x**2)
    >>> print(f"{slope:.4f} {error:.4f}")  # 0.1/sqrt(2)
    2.0000 0.0707
    """
    good = np.isfinite(y) & np.isfinite(error) & (y > 0) & (error > 0)
    if good.sum() < 2:
        return math.nan, math.nan, math.nan
    log_x, log_y, spread = np.log(x[good]), np.log(y[good]), error[good] / y[good]
    weights = spread**-2
    centre = np.average(log_x, weights=weights)
    curvature = float((weights * (log_x - centre) ** 2).sum())
    slope = float((weights * (log_x - centre) * log_y).sum()) / curvature
    rest = log_y - np.average(log_y, weights=weights) - slope * (log_x - centre)
    free = good.sum() - 2
    chi = float((weights * rest**2).sum()) / free if free else math.nan
    return slope, math.sqrt((chi if chi > 1 else 1.0) / curvature), chi


def _dataset(settings: ResolvedFreezeOut, rows: list, columns: list, run: Run) -> xr.Dataset:
    """Label everything."""
    numbers = np.array(settings.steps_per_tau[: len(rows)])
    variables: dict[str, Any] = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        variables[name] = (("steps_per_tau", "sigma_ratio")[: values.ndim], values)
    fitted = numbers >= settings.fit_from
    for name in quench.MEASURED:
        values, errors = variables[name][1], variables[f"{name}_error"][1]
        pairs = [
            fit_exponent(numbers[fitted], values[fitted, level], errors[fitted, level])
            for level in range(values.shape[1])
        ]
        slopes = np.array(pairs)
        variables[f"{name}_exponent"] = ("sigma_ratio", slopes[:, 0])
        variables[f"{name}_exponent_error"] = ("sigma_ratio", slopes[:, 1])
        variables[f"{name}_exponent_chi2"] = ("sigma_ratio", slopes[:, 2])
    coordinates: dict[str, Any] = {
        "steps_per_tau": numbers,
        "sigma_ratio": np.array(settings.noise_ratios),
    }
    if columns:
        coordinates["grid_side"] = np.array(settings.binder_grids[: len(columns)])
        coordinates["binder_ratio"] = _binder_ratios(settings)
        for name in columns[0]:
            values = np.array([column[name] for column in columns])
            variables[name] = (("grid_side", "binder_ratio")[: values.ndim], values)
    dataset = xr.Dataset(variables, coordinates)
    for name in dataset.variables:
        parts = str(name).split("_")
        if "exponent" in parts:
            continue
        if "xi" in parts or name == "freeze_out_length":
            dataset[name].attrs["units"] = "pixels"
        elif "wall" in parts:
            dataset[name].attrs["units"] = "fraction of bonds"
        elif "ratio" in parts or "crossing" in parts:
            dataset[name].attrs["units"] = "sigma_c"
    dataset.attrs = attributes(
        "freeze-out",
        f"two patterns, p = {settings.size}",
        settings,
        run.seconds,
        critical_sigma_bare=float(settings.size),
        fit_from=settings.fit_from,
        ising_binder=ISING_BINDER,
    )
    return dataset
