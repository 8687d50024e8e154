"""Instruments of measurements at one level: symbols, kernels from columns, and the numbers that they give."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._programs import program
from critjax._typing import Array, DenoiseFn
from critjax.fourier import plane_wave, shells_on_host, wavevectors
from critjax.observables import (
    bootstrap_values,
    fit_gap,
    jackknife,
    jackknife_spread,
    jackknife_values,
    radial_average,
    receptive_field_radius,
)
from critjax.spectra import leading_eigenvalue, regression_symbol
from critjax.spectra.measured import jacobian_products

NUM_RESAMPLES = 200
#: Kernel entries below so many standard errors count as zero: their noise would weigh by r^2 in the radius.
_SIGNIFICANT = 3.0
#: Gap 1 - lambda(0) and stiffness from the lowest shell: symbols of images and networks are no parabolas beyond it.
_LOWEST_SHELL = 1
gap_and_length = functools.partial(fit_gap, num_shells=_LOWEST_SHELL, fit_uniform=False)


def mean_and_error(values: np.ndarray) -> tuple[Any, Any]:
    """Mean over fields (axis 0) and its standard error."""
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def _odd_even_norms(kernels: np.ndarray) -> tuple[float, float]:
    """Return unbiased estimates of |(g - g^T)/2|^2 and |g|^2 of the mean kernel from kernels (K, p, p, C, C).

    Products of different samples only: the noise of the single kernels would add to both norms.
    """
    odd = (kernels - np.swapaxes(kernels[:, ::-1, ::-1], -1, -2)) / 2

    def square(part: np.ndarray) -> float:
        flat = part.reshape(len(part), -1)
        count = len(flat)
        return float(((flat.sum(0) ** 2).sum() - (flat**2).sum()) / (count * (count - 1)))

    return square(odd), square(kernels)


def nonreciprocal_estimate(kernels: np.ndarray) -> tuple[float, float]:
    """Estimate ||(J - J^T)/2|| / ||J|| of the mean kernel free of noise bias, and its standard error.

    Its square is estimated, with a jackknife error s, and may be negative where noise rules: the value is then 0. The
    error is the distance to the root of the square plus or minus s, whichever is farther: sqrt(s) at value 0.
    """

    def squared(part: np.ndarray) -> float:
        odd, whole = _odd_even_norms(part)
        return odd / whole if whole > 0 else float("nan")

    square, count = squared(kernels), len(kernels)
    value = float(np.sqrt(np.maximum(square, 0.0)))
    if count < 3:
        return value, float("nan")
    spread = jackknife_spread(jackknife_values(squared, kernels, host=True))
    ends = np.sqrt(np.maximum([square - spread, max(square, 0.0) + spread], 0.0))
    return value, float(np.abs(ends - value).max())


def _lowest_modes(grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the modes of `gap_and_length`, one of each pair +-k, the uniform one first."""
    index = shells_on_host(*grid)[0]
    rows, columns = np.nonzero((index >= 0) & (index <= _LOWEST_SHELL))
    width = grid[1]
    first = rows * width + columns <= -rows % grid[0] * width + -columns % width
    return rows[first], columns[first]


def _lowest_waves(grid: tuple[int, int], dtype: Any) -> Array:
    """Return exp(i k.j) of `_lowest_modes`: (M, H, W)."""
    return jax.vmap(functools.partial(plane_wave, grid))(wavevectors(grid, dtype=dtype)[_lowest_modes(grid)])


def num_lowest_tangents(grid: tuple[int, int]) -> int:
    """Count `lowest_tangents` of one channel."""
    return 2 * len(_lowest_modes(grid)[0]) - 1


def lowest_tangents(x: Array) -> Array:
    """Return tangents of a field (H, W, C): cosines of the lowest modes, then sines without the uniform one's, 0.

    One for each channel: ((2 M - 1) C, H, W, C).
    """
    height, width, channels = x.shape
    waves = _lowest_waves((height, width), x.dtype)
    parts = jnp.concatenate([waves.real, waves.imag[1:]])
    tangents = parts[:, None, :, :, None] * jnp.eye(channels, dtype=x.dtype)[:, None, None]
    return tangents.reshape(-1, *x.shape)


def lowest_eigenvalues(response: Array) -> Array:
    """Return leading eigenvalues of the lowest modes, the uniform one first, from the response to `lowest_tangents`.

    (M,), real parts. They are exact at the field, where probes mix other elements of the Jacobian in.
    """
    _, height, width, channels = response.shape
    waves = _lowest_waves((height, width), response.dtype)
    product = functools.partial(jnp.einsum, "kyx,kayxb->kba", precision="highest")
    parts = response.reshape(-1, channels, *response.shape[1:])  # input channels second, output channels last
    cosines, sines = parts[: len(waves)], parts[len(waves) :]
    matrices = product(waves.conj(), cosines).at[1:].add(1j * product(waves[1:].conj(), sines))
    return leading_eigenvalue(matrices[None] / (height * width))[0].real.astype(response.dtype)


def with_lowest_modes(values: Any, lowest: Any) -> Any:
    """Set a symbol (..., H, W) to ``lowest`` (..., M) at the lowest modes, for +k and -k."""
    rows, columns = _lowest_modes(values.shape[-2:])
    both = (..., np.concatenate([rows, -rows]), np.concatenate([columns, -columns]))
    values = jnp.asarray(values)
    return values.at[both].set(jnp.concatenate([lowest, lowest], axis=-1).astype(values.dtype))


def fit_fields(symbols: np.ndarray) -> tuple[Any, Any]:
    """Return `gap_stiffness_length` of the mean of symbols (K, H, W) at single fields, and its errors.

    Errors by leaving one field out: gap and stiffness of a field err together.
    """

    def fit(some: np.ndarray) -> np.ndarray:
        return np.asarray(gap_stiffness_length(some.mean(0)), np.float64)

    return jackknife(fit, symbols, host=True)


@program
def gap_stiffness_length(symbol: Array) -> Array:
    """Return gap 1 - lambda(0), stiffness from there to the lowest shell and length of a symbol (H, W): (3,)."""
    fit = gap_and_length(symbol)
    return jnp.stack([fit.gap, fit.stiffness, fit.correlation_length])


def kernel_columns(
    denoise_fn: DenoiseFn, x: Array, sigma: Array, key: Array, count: int
) -> tuple[Array, Array]:
    """Average columns of the Jacobian at random pixels into a kernel (p, p, C, C): output channel, input channel.

    The second result is the average of their absolute values, summed over channels, (p, p): what cancels in the kernel
    counts there. Exact zeros stay zeros, where random-phase probes scatter noise over all distances. The image is taken
    as periodic, as symbols are: next to an edge a kernel holds what lies at the opposite one.
    """
    height, width, channels = x.shape
    size = min(height, width) - (min(height, width) + 1) % 2  # largest odd window that fits
    rows, columns = (
        jax.random.randint(k, (count,), 0, n)
        for k, n in zip(jax.random.split(key), (height, width), strict=True)
    )
    half = size // 2
    offsets = jnp.arange(-half, half + 1)

    def column(row: Array, column: Array) -> Array:
        tangents = jnp.zeros((channels, *x.shape), x.dtype)
        tangents = tangents.at[:, row, column].set(jnp.eye(channels, dtype=x.dtype))
        response = jacobian_products(denoise_fn, x, sigma, tangents)  # input channel, H, W, output channel
        # D_i = sum_r g(r) x_{i+r}: pixel j drives pixel i = j - r.
        i_y, i_x = (row - offsets) % height, (column - offsets) % width
        return jnp.moveaxis(response[:, i_y[:, None], i_x[None, :]], 0, -1)

    found = jax.vmap(column)(rows, columns)
    return found.mean(0), jnp.abs(found).mean(0).sum((-2, -1))


def jacobian_row(
    symbols: np.ndarray, kernels: np.ndarray, weights: np.ndarray, lowest: np.ndarray
) -> dict[str, Any]:
    """Reduce what single fields gave at one level.

    Symbols (K, H, W, C, C), kernels (K, p, p, C, C), absolute weights (K, p, p) and the lowest modes (L, M) of as many
    or more fields.
    """
    shell_mean, shell_error = mean_and_error(np.asarray(_shells_of_symbols(symbols)))
    exact, shells = (np.asarray(a) for a in _lowest_alone(lowest, symbols.shape[1:3]))
    known = slice(_LOWEST_SHELL + 1)
    shell_mean[known], shell_error[known] = mean_and_error(shells[:, known])
    (gap, stiffness, length), errors = fit_fields(exact)
    radius, radius_error = _radius(kernels)
    outside, outside_error = _outside(weights)
    fraction, fraction_error = nonreciprocal_estimate(kernels)
    return {
        "mean_jacobian": shell_mean,
        "mean_jacobian_error": shell_error,
        "mean_jacobian_uniform": shell_mean[0],
        "mean_jacobian_uniform_error": shell_error[0],
        "uniform_of_fields": lowest[:, 0],
        "gap": gap,
        "gap_error": errors[0],
        "stiffness": stiffness,
        "stiffness_error": errors[1],
        "xi_eq": length,
        "xi_eq_error": errors[2],
        "receptive_radius": radius,
        "receptive_radius_error": radius_error,
        "weight_outside": outside,
        "weight_outside_error": outside_error,
        "nonreciprocal": fraction,
        "nonreciprocal_error": fraction_error,
        "kernel": np.trace(kernels.mean(0), axis1=-2, axis2=-1) / kernels.shape[-1],
    }


@program
def _shells_of_symbols(symbols: Array) -> Array:
    """Return the shells (K, shells) of the leading eigenvalues of symbols (K, H, W, C, C)."""
    return shells_of(leading_eigenvalue(symbols).real)


@program
def shells_of(fields: Array) -> Array:
    """Return the shells (K, shells) of single fields' eigenvalues (K, H, W)."""
    return jax.vmap(radial_average)(fields)


@program(static_argnums=1)
def _lowest_alone(lowest: Array, grid: tuple[int, int]) -> tuple[Array, Array]:
    """Return symbols at the lowest modes alone, which is all that the fit reads, and their shells."""
    exact = with_lowest_modes(jnp.zeros((len(lowest), *grid), lowest.dtype), lowest)
    return exact, shells_of(exact)


def _radius(kernels: np.ndarray) -> tuple[float, float]:
    """Effective receptive field radius of the mean of kernels (K, p, p, C, C), noise cut off, and a jackknife error."""

    def radius(part: np.ndarray) -> float:
        mean, error = mean_and_error(part)
        kept = np.where(np.abs(mean) > _SIGNIFICANT * error, mean, 0.0)
        return float(receptive_field_radius(kept)) if kept.any() else float("nan")

    return jackknife(radius, kernels, host=True)


def _outside(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of weights (K, p, p) outside centred windows 1, 3, ..., p, and jackknife errors; of no weight, NaN."""
    offset = np.abs(np.arange(weights.shape[-1]) - weights.shape[-1] // 2)
    ring = np.maximum(offset[:, None], offset)
    rings = np.stack([weights[:, ring == d].sum(-1) for d in range(offset.max() + 1)], axis=-1)

    def share(part: np.ndarray) -> np.ndarray:
        total = part.sum(0)
        if not total.any():
            return np.full(total.shape, np.nan)
        # Summed from the edge inwards: beyond the reach of a local denoiser the share is zero, without round-off.
        return np.append(np.cumsum(total[:0:-1])[::-1], 0.0) / total.sum()

    return jackknife(share, rings, host=True)


@program
def regression_and_resamples(x: Array, denoised: Array, key: Array) -> tuple[Array, Array]:
    """Return the regression symbol (1 + shells,), k = 0 first, and that of resampled fields (R, 1 + shells).

    The key decides which fields are drawn: one key for all levels follows whole fields, or images, through the ladder.
    """
    pair = (x, denoised)
    resampled = bootstrap_values(_regression_shells, key, pair, num_resamples=NUM_RESAMPLES)
    return _regression_shells(pair), resampled


def _regression_shells(pair: tuple[Array, Array]) -> Array:
    symbol = leading_eigenvalue(regression_symbol(*pair)).real
    return jnp.concatenate([symbol[:1, 0], radial_average(symbol)])


def regression_row(values: np.ndarray, resampled: np.ndarray) -> dict[str, Any]:
    """Name what `regression_and_resamples` found at one level."""
    error = resampled.std(0, ddof=1)
    return {
        "regression": values[1:],
        "regression_error": error[1:],
        "regression_uniform": values[0],
        "regression_uniform_error": error[0],
        "resampled": resampled[:, 0],
    }
