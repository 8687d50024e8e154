r"""The freeze-out study: how the length of a field depends on the rate at which its noise is lowered.

Annealed Langevin dynamics of the two-pattern bank with n steps per unit of tau = -ln sigma, for n over decades. Linear
theory says that the field arrives at its bare critical noise with a length of ``sqrt(K) (2a/pi)^{1/4}``, a = n e.
Fluctuations remove the transition at that noise; the study measures what samples do there, near the transition that
they do have, and after a short quench below it, and beside it the Binder cumulant on grids of several sizes:

>>> settings = FreezeOutSettings(steps_per_tau=(10, 40), grid=16, num_samples=16, max_samples=16, num_blocks=4,
...                              binder_grids=())
>>> result = run(settings)
>>> print(f"{float(result.freeze_out_length[0]):.4f}")  # sqrt(1/3) (2/pi)^(1/4)
0.5157

THEORY sections 1, 5 and 6.
"""

from __future__ import annotations

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from critjax.fluctuations import freeze_out_distance, freeze_out_length, resolves_freeze_out
from critjax.observables import binder_cumulant, first_crossing, jackknife_error
from critjax.studies._engine.results import attributes
from critjax.studies._engine.run import Progress
from critjax.studies.freeze_out import quench
from critjax.studies.freeze_out.settings import FreezeOutSettings

__all__ = ["ISING_BINDER", "FreezeOutSettings", "run"]

#: Binder cumulant of the Ising model at its critical point, periodic square (Kamieniarz & Blote 1993): a landmark.
ISING_BINDER = 0.6107


def run(settings: FreezeOutSettings | None = None, *, progress: Progress | None = None) -> xr.Dataset:
    r"""Run the study and return everything as one labelled dataset.

    Parameters
    ----------
    settings : FreezeOutSettings, optional
        What to do; default: p = 3, 64 x 64, n = 10 ... 10,000, grids 32, 64, 128 (some minutes on two cores).
    progress : callable, optional
        ``(stage, done, total)``, for a progress bar.

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
        Attributes ``status`` ("complete" or "interrupted"), ``settings``, ``versions``, ``seconds``. An interrupted run
        returns the quenches and grids that were finished.

    Raises
    ------
    ValueError
        If a setting is illegal.
    KeyboardInterrupt
        If interrupted before the first quench was finished.

    Notes
    -----
    One denoiser evaluation per step and sample; one batch of fields in memory, a few hundred numbers kept per sample
    and level. Fields are not centred: the bank is symmetric, their mean is zero. float32. An exponent is the slope of
    a weighted straight line in logarithms, its error scaled up where the line does not fit. THEORY sections 5 and 6;
    Zurek 1985, Nature 317, 505; Binder 1981, Z. Phys. B 43, 119.
    """
    settings = (settings or FreezeOutSettings()).resolved()
    report = progress or (lambda stage, done, total: None)
    numbers, sides = settings.steps_per_tau or (), settings.binder_grids or ()
    key = jax.random.key(settings.seed)
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    columns: list[dict[str, Any]] = []
    status, seconds = "complete", {}
    try:
        report("quenches", 0, len(numbers))
        for done, number in enumerate(numbers):
            rows.append(_quench(settings, number, jax.random.fold_in(key, number)))
            report("quenches", done + 1, len(numbers))
        seconds["quenches"] = round(time.perf_counter() - began, 2)
        report("binder", 0, len(sides))
        for done, side in enumerate(sides):
            columns.append(_binder(settings, side, jax.random.fold_in(key, 2**30 + side)))
            report("binder", done + 1, len(sides))
    except KeyboardInterrupt:
        if not rows:
            raise
        status = "interrupted"
    seconds["all"] = round(time.perf_counter() - began, 2)
    return _dataset(settings, rows, columns, status, seconds)


def _count(settings: FreezeOutSettings, wanted: Any, side: int) -> tuple[int, int]:
    """Return samples per batch and number of batches: whole blocks, at least ``wanted`` samples."""
    blocks = settings.num_blocks
    total = -(-math.ceil(wanted) // blocks) * blocks
    per_batch = min(total, quench.batch_size(side))
    while total % per_batch:
        per_batch -= 1
    return per_batch, total // per_batch


def _simulate(
    settings: FreezeOutSettings,
    side: int,
    ladder: quench.Ladder,
    wanted: Any,
    key: Any,
    *,
    step_size: float,
) -> list[dict[str, np.ndarray]]:
    """Simulate batch after batch; return the kept numbers of all samples, one dictionary per measured level."""
    num, batches = _count(settings, wanted, side)
    pieces = quench.make_quench(side, settings.size, step_size, ladder.steps_per_level, num)
    done = [quench.simulate(pieces, jax.random.fold_in(key, batch), ladder) for batch in range(batches)]
    return [jax.tree.map(lambda *parts: np.concatenate(parts), *level) for level in zip(*done, strict=True)]


def _quench(settings: FreezeOutSettings, number: int, key: Any) -> dict[str, Any]:
    """Simulate one n and predict it; everything by name, over the measured levels."""
    side, size, e = settings.grid or 0, settings.size, settings.step_size
    ratios = np.array(settings.noise_ratios)
    ladder = quench.build_ladder(size * ratios, float(size), number, e, settings.steps_per_level)
    most = (settings.steps_per_tau or (number,))[-1]
    least = settings.num_samples or 0
    wanted = max(min(least * most / number, settings.max_samples or 0), least)
    levels = _simulate(settings, side, ladder, wanted, key, step_size=e)
    found: dict[str, Any] = {name: [] for name in quench.MEASURED}
    found |= {f"{name}_error": [] for name in quench.MEASURED}
    for level in levels:
        # Lengths depend on averages over samples alone: the averages of the blocks are all that is needed.
        blocks = {
            name: np.stack([p.mean(0) for p in np.split(a, settings.num_blocks)]) for name, a in level.items()
        }
        values, errors = quench.lengths_and_errors(side, size)(blocks)
        for name in quench.MEASURED:
            found[name].append(float(values[name]))
            found[f"{name}_error"].append(float(errors[name]))

    predict = quench.lengths_of_spectrum(side, size)
    above = int(np.sum(ratios >= 1 - 1e-9))
    linear = quench.linear_prediction(side, size, ladder, e, above) if above else ()
    closure, crossing = quench.closure_prediction(side, size, ladder, e)
    for prefix, spectra in (("linear", linear), ("closure", closure)):
        lengths = [predict(spectrum) for spectrum in spectra]
        for name in quench.MEASURED:
            values = [float(one[name]) for one in lengths]
            found[f"{prefix}_{name}"] = values + [math.nan] * (len(ratios) - len(values))
    rate = number * e
    return found | {
        "rate": rate,
        "freeze_out_length": float(freeze_out_length((size**2 - 1) / 24, rate)),
        "freeze_out_distance": float(freeze_out_distance(rate)),
        "ladder_resolved": bool(resolves_freeze_out(ladder.sigmas, rate, size)),
        "closure_critical_ratio": crossing / size,
        "num_samples": len(levels[0]["walls"]),
    }


def _binder_ratios(settings: FreezeOutSettings) -> np.ndarray:
    first, last = settings.binder_range
    return np.geomspace(first, last, settings.binder_levels)


def _binder(settings: FreezeOutSettings, side: int, key: Any) -> dict[str, Any]:
    """Simulate one grid down to every ratio of the Binder curve."""
    ratios, number = _binder_ratios(settings), settings.binder_steps_per_tau or 0
    size, e = settings.size, settings.binder_step_size
    ladder = quench.build_ladder(size * ratios, float(size * ratios[0]), number, e, settings.steps_per_level)
    wanted = (settings.binder_samples or 0) * (settings.binder_grids or (side,))[-1] / side
    levels = _simulate(settings, side, ladder, wanted, key, step_size=e)
    order = np.stack([level["order"] for level in levels], axis=1)
    falling = jnp.log(jnp.asarray(ratios, order.dtype))

    def statistic(order: Any) -> dict[str, Any]:
        binder = binder_cumulant(order)
        return {
            "binder": binder,
            "order_rms": jnp.sqrt((order**2).mean(0)),
            "binder_crossing": jnp.exp(first_crossing(falling, binder, ISING_BINDER)),
        }

    found = {name: np.asarray(value) for name, value in statistic(jnp.asarray(order)).items()}
    errors = jackknife_error(statistic, order, num_blocks=settings.num_blocks)
    found |= {f"{name}_error": np.asarray(value) for name, value in errors.items()}
    stiffness = (size**2 - 1) / 24  # at the noise where the uniform mode is marginal
    return found | {
        "relaxation_tau": 1 / (number * e * stiffness * 4 * math.sin(math.pi / side) ** 2),
        "binder_num_samples": len(order),
    }


def fit_exponent(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> tuple[float, float, float]:
    """Fit ``y ~ x^s`` by a weighted line in logarithms; return s, its standard error and chi^2 per degree of freedom.

    Points without a finite, positive value and error take no part. The error is scaled by sqrt(chi^2 per degree of
    freedom) where that exceeds one. NaN below two points; chi^2 is NaN for two.
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


def _dataset(settings, rows, columns, status, seconds) -> xr.Dataset:
    """Label everything."""
    numbers = np.array((settings.steps_per_tau or ())[: len(rows)])
    variables: dict[str, Any] = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        variables[name] = (("steps_per_tau", "sigma_ratio")[: values.ndim], values)
    fitted = numbers >= (settings.fit_from or 0)
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
        coordinates["grid_side"] = np.array((settings.binder_grids or ())[: len(columns)])
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
        status,
        seconds,
        critical_sigma_bare=float(settings.size),
        fit_from=settings.fit_from,
        ising_binder=ISING_BINDER,
    )
    return dataset
