r"""Annealed Langevin dynamics of the two-pattern bank through its transition, and what is measured on the way.

The ladder starts at ``sigma_c exp(max(START, 3 w))`` or higher, w = (2 a)^{-1/2}, and goes down by ``m/n`` in ln
sigma a level, with m Langevin steps at each. Samples are simulated in batches; of each only a few numbers per
measured noise level are kept: the power of the lowest modes, two radial autocorrelations, walls and the mean. The
same lengths follow from any structure factor of a Gaussian field, which is how linear theory and the Gaussian closure
are compared with them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from critjax._programs import program
from critjax._typing import Array, DenoiseFn
from critjax.fluctuations import freeze_out_distance, langevin_structure_factor
from critjax.fluctuations._two_pattern import mean_slope
from critjax.fourier import kernel_to_symbol
from critjax.observables import (
    first_crossing,
    jackknife_error,
    radial_autocorrelation,
    second_moment_length,
    wall_density,
)
from critjax.sampling import langevin_step

PIXELS_PER_BATCH = 2**17
START = 0.25

#: Lengths and the wall density that are measured and predicted, in the order of the result.
MEASURED = ("xi_second_moment", "xi_fit", "xi_sign", "xi_denoised_sign", "wall_density")


class Stretches(NamedTuple):
    """Segments of a ladder (S,) between two measurements."""

    counts: Any
    """Langevin steps."""
    log_sigmas: Any
    """ln sigma before."""
    spacings: Any
    """Fall of ln sigma from level to level."""
    ends: Any
    """sigma afterwards."""


class Ladder(NamedTuple):
    """Noise levels of one quench: from ``start`` down in segments of equal steps of ln sigma."""

    start: float
    segments: tuple[tuple[int, float], ...]  # (levels, spacing), the end of each a level to measure at
    steps_per_level: int

    @property
    def sigmas(self) -> np.ndarray:
        """All levels, the first included."""
        spacings = [np.full(levels, spacing) for levels, spacing in self.segments]
        return self.start * np.exp(-np.concatenate([np.zeros(1), np.cumsum(np.concatenate(spacings))]))

    @property
    def measured(self) -> list[int]:
        """Indices of the ends of the segments."""
        return np.cumsum([levels for levels, _ in self.segments]).tolist()

    @property
    def stretches(self) -> Stretches:
        """The segments as arguments of a program."""
        levels, spacings = (np.array(part) for part in zip(*self.segments, strict=True))
        ends = float(np.log(self.start)) - np.cumsum(levels * spacings)
        starts = np.concatenate([[np.log(self.start)], ends[:-1]])
        counts = levels.astype(np.int32) * np.int32(self.steps_per_level)
        floats = (np.asarray(part, np.float32) for part in (starts, spacings, np.exp(ends)))
        return Stretches(counts, *floats)

    @property
    def num_steps(self) -> int:
        """Langevin steps in all."""
        return self.measured[-1] * self.steps_per_level


def build_ladder(
    targets: np.ndarray, critical: float, number: int, step_size: float, steps_per_level: int
) -> Ladder:
    """Plan a ladder with ``number`` steps per unit of tau that meets every target exactly.

    Between targets the spacing is rounded to a whole number of levels, which changes the rate there a little.
    """
    spacing = steps_per_level / number
    lead = max(START, 3 * float(freeze_out_distance(number * step_size)))
    lead = max(lead, float(np.log(targets[0] / critical)) + START)
    start = critical * np.exp(spacing * np.ceil(lead / spacing - 1e-9))
    segments, above = [], start
    for target in targets:
        span = float(np.log(above / target))
        levels = max(1, round(span / spacing))
        segments.append((levels, span / levels))
        above = target
    return Ladder(float(start), tuple(segments), steps_per_level)


def batch_size(side: int) -> int:
    """Return how many samples of a square grid are simulated at once."""
    return max(1, PIXELS_PER_BATCH // side**2)


class Modes(NamedTuple):
    """The modes whose power is kept: |k| <= pi/p, and at least the four lowest."""

    side: int
    rows: np.ndarray
    columns: np.ndarray
    group: np.ndarray
    """Index of the set of equal |k|^2 that a mode belongs to."""
    lattice: np.ndarray
    """4 sum_a sin^2(k_a/2) of each set, its mean."""


def low_modes(side: int, size: int) -> Modes:
    """Choose the modes for lengths from the structure factor."""
    n = np.rint(np.fft.fftfreq(side) * side).astype(int)
    squared = n[:, None] ** 2 + n**2
    cut = max(1, side**2 // (4 * size**2))  # |k| = 2 pi |n|/side
    rows, columns = np.nonzero(squared <= cut)
    group = np.unique(squared[rows, columns], return_inverse=True)[1]
    lattice = 4 * (np.sin(np.pi * n[rows] / side) ** 2 + np.sin(np.pi * n[columns] / side) ** 2)
    mean = np.bincount(group, lattice) / np.bincount(group)
    return Modes(side, rows, columns, group, mean)


def spectral_lengths(power: Array, modes: Modes) -> dict[str, Array]:
    """Return the two lengths that the low modes' power (M,) gives.

    The second-moment length uses k = 0 and the four lowest modes alone; the fit of ``1/S = A (1 + xi^2 khat^2)`` over
    all low modes, each set of equal |k| weighted by its number of modes and by S^2, is far less noisy for short xi.
    """
    plane = jnp.ones((modes.side, modes.side), power.dtype).at[modes.rows, modes.columns].set(power)
    count = jnp.asarray(np.bincount(modes.group), power.dtype)
    mean = jax.ops.segment_sum(power, modes.group, len(modes.lattice)) / count
    lattice = jnp.asarray(modes.lattice, power.dtype)
    # Least squares of A S + B khat^2 S = 1, in units of S(0): xi^2 = B/A.
    scaled = mean / mean[0]
    one, two = scaled, scaled * lattice
    aa, ab, bb = (count * one * one).sum(), (count * one * two).sum(), (count * two * two).sum()
    a, b = (count * one).sum(), (count * two).sum()
    squared = (aa * b - ab * a) / (bb * a - ab * b)
    fitted = jnp.sqrt(jnp.where(squared >= 0, squared, jnp.nan))
    return {"xi_second_moment": second_moment_length(plane), "xi_fit": fitted}


def _one_over_e(radius: Array, curve: Array) -> Array:
    return first_crossing(radius, curve, float(np.exp(-1)))


@program(static_argnames=("num", "side", "size", "steps_per_level"))
def simulate(
    denoise_fn: DenoiseFn,
    key: Any,
    start: Any,
    stretches: Stretches,
    step_size: Any,
    *,
    num: int,
    side: int,
    size: int,
    steps_per_level: int,
) -> dict[str, Array]:
    """Take ``num`` samples of side x side pixels down a ladder; return the kept numbers (S, num, ...) of stretches."""
    denoise, modes = jax.vmap(denoise_fn, (0, None)), low_modes(side, size)
    start_key, noise_key = jax.random.split(key)

    def advance(carry: tuple[Array, Array], stretch: Stretches) -> tuple[Any, dict[str, Array]]:
        x, first = carry

        def step(i: Array, x: Array) -> Array:
            sigma = jnp.exp(stretch.log_sigmas - stretch.spacings * (i // steps_per_level + 1))
            return langevin_step(denoise, jax.random.fold_in(noise_key, first + i), x, sigma, step_size)

        x = jax.lax.fori_loop(0, stretch.counts, step, x)
        return (x, first + stretch.counts), _kept(x, denoise(x, stretch.ends), modes)

    x = start * jax.random.normal(start_key, (num, side, side, 1), jnp.float32)
    return jax.lax.scan(advance, (x, jnp.zeros((), jnp.int32)), stretches)[1]


def _kept(x: Array, denoised: Array, modes: Modes) -> dict[str, Array]:
    """Return the numbers that are kept of each sample (B, H, W, 1)."""
    x_hat = jnp.fft.fft2(x[..., 0])[:, modes.rows, modes.columns]

    def curve(field: Array) -> Array:
        return jax.lax.map(lambda one: radial_autocorrelation(one[None], centre=False)[1], jnp.sign(field))

    return {
        "power": (x_hat.real**2 + x_hat.imag**2) / modes.side**2,
        "sign": curve(x),
        "denoised_sign": curve(denoised),
        "walls": wall_density(denoised)[:, 0],
        "order": x.mean((1, 2, 3)),
    }


def measured_lengths(samples: dict[str, Array], modes: Modes) -> dict[str, Array]:
    """Return `MEASURED` from the kept numbers of some samples at one level."""
    radius = radial_autocorrelation(jnp.ones((1, modes.side, modes.side, 1)), centre=False)[0]
    found = spectral_lengths(samples["power"].mean(0), modes)
    found["xi_sign"] = _one_over_e(radius, samples["sign"].mean(0))
    found["xi_denoised_sign"] = _one_over_e(radius, samples["denoised_sign"].mean(0))
    found["wall_density"] = samples["walls"].mean()
    return found


def gaussian_lengths(spectrum: Array, window: Array, modes: Modes) -> dict[str, Array]:
    r"""Return `MEASURED` of a Gaussian field of structure factor S (H, W).

    Signs of Gaussian variables of correlation rho have the correlation ``(2/pi) arcsin rho`` and differ with
    probability ``arccos(rho)/pi``; the denoised field has the sign of the window sum, of spectrum ``c_k^2 S``.
    """

    def sign_correlation(power: Array) -> Array:
        correlation = jnp.fft.ifft2(power).real
        return jnp.arcsin(jnp.clip(correlation / correlation[0, 0], -1, 1)) * 2 / jnp.pi

    def length(correlation: Array) -> Array:
        # A field whose autocorrelation is just this one.
        field = jnp.fft.ifft2(jnp.sqrt(jnp.maximum(jnp.fft.fft2(correlation).real, 0))).real
        return _one_over_e(*radial_autocorrelation(field[None, :, :, None], centre=False))

    raw, denoised = sign_correlation(spectrum), sign_correlation(window**2 * spectrum)
    found = spectral_lengths(spectrum[modes.rows, modes.columns], modes)
    found["xi_sign"], found["xi_denoised_sign"] = length(raw), length(denoised)
    found["wall_density"] = (1 - (denoised[0, 1] + denoised[1, 0]) / 2) / 2
    return found


@program(static_argnames=("side", "size"))
def lengths_and_errors(
    blocks: dict[str, Any], *, side: int, size: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return `MEASURED` and their jackknife errors, each (L,), from averages over blocks (L, blocks, ...)."""
    statistic = functools.partial(measured_lengths, modes=low_modes(side, size))
    return jax.lax.map(lambda level: (statistic(level), jackknife_error(statistic, level)), blocks)


@program(static_argnames="size")
def lengths_of_spectra(spectra: Array, *, size: int) -> dict[str, Array]:
    """Return `MEASURED` (L,) of Gaussian fields of structure factors (L, H, W)."""
    side = spectra.shape[-1]
    modes, window = low_modes(side, size), window_symbol(side, size)
    return jax.lax.map(lambda spectrum: gaussian_lengths(spectrum, window, modes), spectra)


def window_symbol(side: int, size: int) -> Array:
    """Return c_k, the transform of the window (H, W); the bare symbol is c_k/sigma^2."""
    return kernel_to_symbol(jnp.ones((size, size, 1, 1), jnp.float32), (side, side))[..., 0, 0].real


def _bare_symbol(window: Array, sigma: Any) -> Array:
    return window / sigma**2


def linear_prediction(side: int, size: int, ladder: Ladder, step_size: float, num: int) -> Array:
    """Return S of bare linear theory at the first ``num`` measured levels, on the very ladder of the simulation."""
    window = np.asarray(window_symbol(side, size))[..., None, None].astype(np.complex64)
    levels = ladder.measured[:num]
    found = langevin_structure_factor(
        Partial(_bare_symbol, window),
        np.asarray(ladder.sigmas[: levels[-1] + 1], np.float32),
        langevin_steps=ladder.steps_per_level,
        step_size=step_size,
        levels=levels,
    )
    return found[..., 0, 0].real


@program(static_argnames=("side", "size", "steps_per_level"))
def closure_prediction(
    start: Any, stretches: Stretches, step_size: Any, *, side: int, size: int, steps_per_level: int
) -> tuple[Array, Array]:
    r"""Return S of the Gaussian closure (L, H, W), and the noise at which its lambda_reg(0) reaches one.

    The recursion of the simulation with ``lambda_reg = (c_k/sigma^2) E[sech^2 u]`` in place of the bare symbol, u the
    argument of the hyperbolic tangent under the current S. NaN if there is no crossing.
    """
    window = window_symbol(side, size)

    def advance(state: tuple[Array, Array], stretch: Stretches) -> tuple[tuple[Array, Array], Array]:
        def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            spectrum, crossing = state
            sigma = jnp.exp(stretch.log_sigmas - stretch.spacings * (i // steps_per_level + 1))
            variance = jnp.mean(window**2 * spectrum) / sigma**4
            symbol = window / sigma**2 * mean_slope(variance)
            first = jnp.isnan(crossing) & (symbol[0, 0] >= 1)
            factor = 1 - step_size * (1 - symbol)
            return factor**2 * spectrum + 2 * step_size * sigma**2, jnp.where(first, sigma, crossing)

        state = jax.lax.fori_loop(0, stretch.counts, step, state)
        return state, state[0]

    spectrum = jnp.full((side, side), start**2, jnp.float32)
    (_, crossing), spectra = jax.lax.scan(advance, (spectrum, jnp.asarray(jnp.nan, jnp.float32)), stretches)
    return spectra, crossing
