"""Streaming statistics of simulated trajectories: one batch in memory, sums kept, errors from the batches.

Per batch, noise level and mode of the half plane of a real transform: sums of x_k, D_k, x_k x_k^dagger,
D_k x_k^dagger, |D_k|^2 and |sign_k|^2, and moments of the field of soft modes. All but the signs are centred
exactly by the ensemble mean afterwards, whichever batches are in; signs are no sums, and are those about a
centre known beforehand. Leaving out one batch at a time gives jackknife errors of every quantity.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._programs import program
from critjax._typing import Array, DenoiseFn
from critjax.fluctuations import soft_modes
from critjax.fourier import radial_shells
from critjax.observables import (
    binder_cumulant,
    first_crossing,
    fit_gap,
    jackknife_error,
    radial_autocorrelation,
    radial_average,
    second_moment_length,
    wall_density,
)
from critjax.sampling import sample
from critjax.spectra import leading_eigenvalue, project_symbol

_EXACT = jax.lax.Precision.HIGHEST


class BatchSums(NamedTuple):
    """Sums over the trajectories of one batch; L noise levels, h = W//2 + 1, C channels, B trajectories."""

    x: Any  # (L, H, h, C) complex, sum of x_k
    denoised: Any  # (L, H, h, C) complex, sum of D_k
    power: Any  # (L, H, h, C, C) complex, sum of x_k x_k^dagger
    cross: Any  # (L, H, h, C, C) complex, sum of D_k x_k^dagger
    denoised_power: Any  # (L, H, h) real, sum over samples and channels of |D_k|^2
    sign_power: Any  # (L, H, h) real, the same of the sign of x about the centre
    order: Any  # (B, L) real, spatial and channel mean of x
    walls: Any  # (B, L) real, wall density of D about the centre
    soft: Any  # (L, 4) real, sum over samples of the spatial means of psi, psi^2, psi^3, psi^4; psi: soft modes of x


class Kept(NamedTuple):
    """Fields of a batch at chosen levels, for films and probes."""

    x: Any  # (K, L', H, W, C)
    denoised: Any  # (K, L', H, W, C)


class Estimator(NamedTuple):
    """What the statistics of an ensemble need to know beside the sums."""

    sigmas: Any
    """Ladder (L,)."""
    threshold: Any
    """Value of the symbol's real part at which a mode is critical, per level: 1 in the VE frame."""
    softest: Any
    """Index (row, column) in the full plane of the softest mode of theory."""
    groups: Any
    """Weights (G, H, h) of the modes whose growth is compared with linear theory, see `mode_groups`."""
    linear_growth: Any
    """Linear theory of S over its value at the first level, for those groups (L, G)."""


@program(static_argnames=("shape", "kept_levels", "num_kept", "eta", "solver", "window"))
def simulate_batch(
    denoise_fn: DenoiseFn,
    keys: Array,
    sigmas: Array,
    centre: Array,
    *,
    shape: tuple[int, int, int],
    kept_levels: tuple[int, ...],
    num_kept: int,
    eta: float,
    solver: str,
    window: int,
) -> tuple[BatchSums, Kept]:
    """Simulate one batch of ``keys`` (B,) down the ladder.

    Signs are those of x and D about ``centre`` (C,), the mean of the bank: a mean of the batch would make them
    depend on its size. Soft modes are those of `critjax.fluctuations.soft_modes` for the ``window`` p, of the
    mean of the channels.
    """
    soft = soft_modes(shape[:2], window)[:, : shape[1] // 2 + 1]

    def level_sums(fields: tuple[Array, Array]) -> tuple[Array, ...]:
        x, denoised = fields
        x_hat, d_hat, s_hat = (
            jnp.fft.rfft2(field, axes=(1, 2)) for field in (x, denoised, jnp.sign(x - centre))
        )
        psi = jnp.fft.irfft2(jnp.where(soft, x_hat.mean(-1), 0), s=shape[:2], axes=(1, 2))
        return (
            x_hat.sum(0),
            d_hat.sum(0),
            _outer(x_hat, x_hat),
            _outer(d_hat, x_hat),
            (jnp.abs(d_hat) ** 2).sum((0, 3)),
            (jnp.abs(s_hat) ** 2).sum((0, 3)),
            x.mean((1, 2, 3)),
            wall_density(denoised - centre).mean(1),
            jnp.stack([(psi**n).mean((1, 2)).sum() for n in range(1, 5)]),
        )

    run = jax.vmap(lambda key: sample(denoise_fn, key, shape, sigmas, eta=eta, solver=solver))(keys)
    by_level = (jnp.swapaxes(run.x, 0, 1), jnp.swapaxes(run.denoised, 0, 1))
    sums = BatchSums(*jax.lax.map(level_sums, by_level))
    kept = Kept(*(field[:num_kept][:, np.asarray(kept_levels)] for field in (run.x, run.denoised)))
    return sums._replace(order=sums.order.T, walls=sums.walls.T), kept


def _outer(a: Array, b: Array) -> Array:
    """Sum a b^dagger over samples: (B, H, h, C) twice -> (H, h, C, C)."""
    if a.shape[-1] == 1:
        return (a * b.conj()).sum(0)[..., None]
    return jnp.einsum("nhwa,nhwb->hwab", a, b.conj(), precision=_EXACT)


def full_plane(half: Array, width: int) -> Array:
    """Complete the half plane (..., H, h) of a real field's transform to (..., H, W): f(-k) = conj f(k)."""
    columns = np.arange(half.shape[-1], width)
    rows = -np.arange(half.shape[-2]) % half.shape[-2]
    return jnp.concatenate([half, half[..., rows[:, None], width - columns].conj()], axis=-1)


def shells(values: Array, width: int) -> Array:
    """Average (L, H, W or h, ...) over shells of wavenumber: (L, S, ...)."""
    rfft_width = None if values.shape[2] == width else width
    return jnp.moveaxis(radial_average(jnp.moveaxis(values, 0, -1), rfft_width=rfft_width), -1, 0)


def _ratio(cross: Array, power: Array) -> Array:
    """<D x^dagger> <x x^dagger>^{-1}."""
    if power.shape[-1] == 1:
        return cross / power
    solved = jnp.linalg.solve(jnp.swapaxes(power, -1, -2), jnp.swapaxes(cross, -1, -2))
    return jnp.swapaxes(solved, -1, -2)


def _one_over_e(power: Array, width: int) -> Array:
    """1/e length of fields (L, H, h) given by their spectrum: a field with just that spectrum is measured."""
    grid = (power.shape[1], width)
    fields = jnp.fft.irfft2(jnp.sqrt(jnp.maximum(power, 0)), s=grid, axes=(1, 2))

    def length(field: Array) -> Array:
        radius, correlation = radial_autocorrelation(field[None, ..., None], centre=False)
        return first_crossing(radius, correlation, float(np.exp(-1)))

    return jax.lax.map(length, fields)


def mode_groups(grid: tuple[int, int], near: float = 0.0, count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``count`` distinct |k| nearest to ``near``, and weights (count, H, h) of averages."""
    n_y = np.fft.fftfreq(grid[0])[:, None]
    n_x = np.fft.rfftfreq(grid[1])[None, :]
    scale = 2 * np.pi / (grid[0] * grid[1])
    squared = np.round((n_y**2 + n_x**2) * (grid[0] * grid[1]) ** 2).astype(np.int64)
    distinct = np.unique(squared)
    nearest = np.argsort(np.abs(scale * np.sqrt(distinct) - near), kind="stable")[:count]
    chosen = np.sort(distinct[nearest])
    multiplicity = np.where((n_x == 0) | (n_x == 0.5), 1.0, 2.0) * np.ones_like(n_y)
    weights = np.stack([np.where(squared == value, multiplicity, 0.0) for value in chosen])
    return scale * np.sqrt(chosen), weights / weights.sum((1, 2), keepdims=True)


def shell_maximum(values: Array, grid: tuple[int, int]) -> Array:
    """Return the largest value in each shell, (L, H, W) -> (L, S)."""
    with jax.ensure_compile_time_eval():
        index = np.asarray(radial_shells(grid).index).ravel()
    inside, count = np.flatnonzero(index >= 0), int(index.max()) + 1
    flat = values.reshape(values.shape[0], -1)[:, inside]
    return jax.vmap(lambda row: jax.ops.segment_max(row, index[inside], count))(flat)


def _central_moments(raw: Array) -> tuple[Array, Array]:
    """Second and fourth moment about the mean, from the moments about zero (L, 4)."""
    first, second, third, fourth = raw.T
    central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    return second - first**2, central


def statistics(
    sums: BatchSums, estimator: Estimator, *, width: int, size: int, own_start: bool
) -> dict[str, Array]:
    """Return every measured quantity from the sums of some batches, stacked on a leading axis.

    Parameters
    ----------
    sums : BatchSums
        Of some batches.
    estimator : Estimator
        What theory says.
    width : int
        W of the grid, which its half plane does not tell.
    size : int
        Window p, on which the regression symbol is projected where noise must be cut.
    own_start : bool
        Divide spectra by the same ensemble's at the first level, where theory knows it: white noise. Along the
        probability flow the sampling error of a mode's power is nearly all inherited from there, and cancels.

    Returns
    -------
    dict
        Quantities by name.

    Notes
    -----
    Centring uses the mean over just these batches, with the factor n/(n-1) that makes second moments
    unbiased. The real part of a shell average is the average over the whole shell, since f(-k) = conj f(k).
    """
    height = sums.x.shape[-3]
    grid = (height, width)
    sigmas, threshold = jnp.asarray(estimator.sigmas), jnp.asarray(estimator.threshold)
    log_sigma = jnp.log(sigmas)
    order, walls = (a.reshape(-1, a.shape[-1]) for a in (sums.order, sums.walls))
    count, channels = order.shape[0], sums.x.shape[-1]
    x, denoised, power, cross, d_power, sign_power = (a.sum(0) for a in sums[:6])
    scale = 1 / ((count - 1) * height * width)
    power = (power - x[..., :, None] * x[..., None, :].conj() / count) * scale
    cross = (cross - denoised[..., :, None] * x[..., None, :].conj() / count) * scale
    d_power = (d_power - (jnp.abs(denoised) ** 2).sum(-1) / count) * scale
    spectrum = jnp.trace(power, axis1=-2, axis2=-1).real / channels
    start = spectrum[0] / sigmas[0] ** 2 if own_start else jnp.ones_like(spectrum[0])
    cleaned = spectrum / start

    per_shell = leading_eigenvalue(_ratio(shells(cross, width).real, shells(power, width).real)).real
    symbol = _ratio(cross, power)
    # Axes (L, H, h, C, C): the two spatial axes go last to complete the plane, then back.
    plane = jnp.moveaxis(full_plane(jnp.moveaxis(symbol, (1, 2), (-2, -1)), width), (-2, -1), (1, 2))
    modes = leading_eigenvalue(plane)
    softest = modes[:, estimator.softest[0], estimator.softest[1]]

    projected = jax.vmap(lambda one_level: project_symbol(one_level, size))(plane)
    projected = leading_eigenvalue(projected)
    fastest = shell_maximum(projected.real, grid)
    projected = projected.reshape(len(sigmas), -1)
    best = jnp.argmax(projected.real, 1)
    top = jnp.take_along_axis(projected, best[:, None], 1)[:, 0]

    def crossing(curve: Array) -> Array:
        return jnp.exp(first_crossing(log_sigma, curve - threshold, 0.0, rising=True))

    crossing_softest, crossing_top = crossing(softest.real), crossing(top.real)
    at_top = jnp.argmin(jnp.abs(log_sigma - jnp.log(crossing_top)))
    n_y, n_x = (jnp.asarray(np.fft.fftfreq(n) * 2 * np.pi, sigmas.dtype) for n in (height, width))
    wavenumber = jnp.sqrt(n_y[:, None] ** 2 + n_x**2).ravel()

    groups = jnp.asarray(estimator.groups, spectrum.dtype)
    checked = jnp.einsum("ghw,lhw->lg", groups, spectrum, precision=_EXACT)
    origin = jnp.einsum("ghw,hw->g", groups, start, precision=_EXACT) * sigmas[0] ** 2
    ratio = checked / origin / estimator.linear_growth
    fits = jax.lax.map(lambda s: fit_gap(s).correlation_length, modes)
    variance, fourth = _central_moments(sums.soft.sum(0) / count)
    return {
        "structure_factor": shells(spectrum, width),
        "structure_factor_cleaned": shells(spectrum, width) / shells(start[None], width),
        "denoised_structure_factor": shells(d_power, width) / channels,
        "lambda_reg": per_shell,
        "lambda_reg_softest": softest.real,
        "lambda_reg_softest_imag": softest.imag,
        "lambda_reg_uniform": modes[:, 0, 0].real,
        "lambda_reg_top": top.real,
        "lambda_reg_top_wavenumber": wavenumber[best],
        "linear_ratio": ratio,
        "linear_ratio_mean": ratio.mean(1),
        "lambda_reg_fastest": fastest,
        "lambda_reg_crossing": jax.vmap(crossing, 1)(fastest),
        "critical_sigma_measured": crossing_softest,
        "critical_sigma_uniform_measured": crossing(modes[:, 0, 0].real),
        "critical_sigma_top_measured": crossing_top,
        "critical_wavenumber_measured": jnp.where(
            jnp.isfinite(crossing_top), wavenumber[best[at_top]], jnp.nan
        ),
        "critical_imag_measured": jnp.interp(-jnp.log(crossing_softest), -log_sigma, softest.imag),
        "xi_raw": _one_over_e(spectrum, width),
        "xi_sign": _one_over_e(sign_power, width),
        "xi_denoised": _one_over_e(d_power, width),
        "xi_second_moment": jax.lax.map(second_moment_length, full_plane(cleaned, width)),
        "xi_eq_measured": fits,
        "order_std": jnp.std(order, 0),
        "binder": binder_cumulant(order - order.mean(0)),
        "wall_density": walls.mean(0),
        "soft_kurtosis": fourth / variance**2,
    }


def wavenumbers(grid: tuple[int, int]) -> np.ndarray:
    """Mean |k| of each shell."""
    return np.asarray(radial_shells(grid).wavenumber, np.float64)


def combine(batches: Sequence[BatchSums]) -> BatchSums:
    """Stack batches on a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


@program(static_argnames=("width", "size", "own_start"))
def estimate(
    stacked: BatchSums, estimator: Estimator, *, width: int, size: int, own_start: bool
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the `statistics` of stacked batches and their jackknife errors over these, NaN for one batch."""
    statistic = functools.partial(
        statistics, estimator=estimator, width=width, size=size, own_start=own_start
    )
    values = statistic(stacked)
    if len(stacked.order) < 2:
        return values, jax.tree.map(lambda v: jnp.full(v.shape, jnp.nan), values)
    return values, jackknife_error(statistic, stacked)
