"""What theory says before anything is simulated: bank, symbols, critical points, structure factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._programs import as_pytree, program
from critjax._typing import Array, DenoiseFn
from critjax.banks import ImageBank, PatchBank, random_pattern_bank
from critjax.closed_form import gaussian_symbol, image_spectrum
from critjax.fluctuations import gaussian_closure, linear_structure_factor
from critjax.fourier import kernel_offsets, symbol_to_kernel, wavevectors
from critjax.noise import frame_correction, geometric_sigmas
from critjax.observables import second_moment_length
from critjax.patch_score import patch_denoiser
from critjax.spectra import (
    CriticalPoint,
    growth_rate,
    instability_kind,
    leading_eigenvalue,
    mean_field_critical_sigma,
    nonreciprocal_fraction,
)
from critjax.studies._engine.critical import Branch, critical_points, symbol_along
from critjax.studies._engine.problem import Problem, bank_key, largest_sigma
from critjax.studies.criticality.ensemble import mode_groups, shell_maximum, shells
from critjax.studies.criticality.settings import ResolvedCriticality, ladder_ends

Variables = dict[str, tuple[tuple[str, ...], Any]]


def _stiffness(kernel: Array) -> Array:
    """K = (1/2) sum_r g(r) r_a^2, averaged over the two axes."""
    offsets = kernel_offsets(kernel.shape[:2], dtype=kernel.dtype)
    return (kernel[..., 0, 0] * (offsets**2).sum(-1)).sum() / 4


def _equilibrium_lengths(modes: Array, size: int) -> Array:
    """sqrt(K/|1 - lambda(0)|) of symbols (L, H, W); NaN for K <= 0."""

    def length(one: Array) -> Array:
        stiffness = _stiffness(symbol_to_kernel(one[..., None, None], size))
        positive = jnp.sqrt(jnp.abs(stiffness / (1 - one[0, 0].real)))
        return jnp.where(stiffness > 0, positive, jnp.nan)

    return jax.lax.map(length, modes)


class Prediction(NamedTuple):
    """Theory of one problem."""

    sigmas: Any
    """Ladder (L,)."""
    softest: tuple[int, int]
    """Full-plane index of the softest mode."""
    threshold: np.ndarray
    """Real part of the symbol at which a mode neither grows nor decays in the chosen frame, per level."""
    variables: Variables
    attributes: dict[str, Any]


@program(static_argnames=("grid", "frame", "channels"))
def _along(
    bank: PatchBank | ImageBank,
    branch: Branch | None,
    sigmas: Array,
    at: Array,
    eta: Any,
    *,
    grid: tuple[int, int],
    frame: str,
    channels: int,
) -> dict[str, Array]:
    """Evaluate bare theory on the ladder, and the symbol at one noise."""
    symbol_fn = symbol_along(bank, grid, branch)
    symbols = jax.lax.map(symbol_fn, sigmas)
    modes = leading_eigenvalue(symbols)
    linear = linear_structure_factor(symbol_fn, sigmas, eta=eta)
    power = jnp.trace(linear, axis1=-2, axis2=-1).real / channels
    special = symbol_fn(at)
    rates = jax.vmap(lambda s, level: growth_rate(s, level, eta=eta, frame=frame))(symbols, sigmas)
    return {
        "rates": shell_maximum(rates, grid),
        "uniform_rate": rates[:, 0, 0],
        "modes": modes,
        "shells": shells(modes.real, grid[1]),
        "linear": shells(power, grid[1]),
        "power": power,
        "xi": jax.lax.map(second_moment_length, power),
        "xi_eq": _equilibrium_lengths(modes, bank.size),
        "imag": leading_eigenvalue(special).imag,
        "nonreciprocal": nonreciprocal_fraction(special),
        "correction": jnp.asarray(frame_correction(sigmas, frame)),
    }


def growth_of(groups: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Return S (L, H, W), averaged over groups of modes (G, H, h), over its value at the first level: (L, G)."""
    checked = np.einsum("ghw,lhw->lg", groups, power[..., : groups.shape[-1]])
    return checked / checked[0]


def predict(problem: Problem, settings: ResolvedCriticality) -> Prediction:
    """Compute everything linear theory says; a few seconds, most of them compilation."""
    grid, eta, frame, dtype = problem.grid, settings.eta, settings.frame, jnp.dtype(settings.precision)
    top = max(largest_sigma(problem), settings.sigma_max or 0.0)
    if frame == "vp":  # a mode c/sigma^2 turns critical below sigma^2 = c (1+eta)/eta; for eta = 0 never
        top *= min(np.sqrt((1 + eta) / eta), 10.0) if eta > 0 else 1.0
    bottom = min(0.02 * top, settings.sigma_min or np.inf, 0.05 if settings.uses_images else np.inf)
    ve, chosen, uniform, branch = critical_points(
        problem, (top, bottom), precision=settings.precision, eta=eta, frame=frame
    )
    high, low = ladder_ends(settings, float(ve.sigma), top, frame_sigma=float(chosen.sigma))
    sigmas = np.asarray(geometric_sigmas(high, low, settings.num_levels - 1, dtype=dtype))
    # Without a critical point, what is said "there" is said at the middle of the ladder.
    at = chosen.sigma if np.isfinite(chosen.sigma) else sigmas[len(sigmas) // 2]
    theory = _along(
        problem.bank,
        branch,
        sigmas,
        np.asarray(at, dtype),
        eta,
        grid=grid,
        frame=frame,
        channels=problem.channels,
    )
    curves = jax.tree.map(np.asarray, theory)
    softest = _softest_mode((chosen, ve), curves["modes"].real)
    vector = np.asarray(wavevectors(grid), np.float64)[softest]
    by_sigma, by_shell = ("sigma",), ("sigma", "wavenumber")
    threshold = 1 - np.asarray(curves["correction"], np.float64) / (1 + eta)
    at_softest = curves["modes"][:, softest[0], softest[1]]
    groups = mode_groups(grid, float(np.hypot(*vector)))[1]
    variables: Variables = {
        "growth_rate": (by_shell, curves["rates"]),
        "homogeneous_growth_rate": (by_sigma, curves["uniform_rate"]),
        "lambda_bare": (by_shell, curves["shells"]),
        "lambda_bare_softest": (by_sigma, at_softest.real),
        "lambda_bare_softest_imag": (by_sigma, at_softest.imag),
        "lambda_bare_uniform": (by_sigma, curves["modes"].real[:, 0, 0]),
        "structure_factor_linear": (by_shell, curves["linear"]),
        "linear_growth": (("sigma", "checked_mode"), growth_of(groups, curves["power"])),
        "xi_eq_bare": (by_sigma, curves["xi_eq"]),
        "xi_second_moment_linear": (by_sigma, curves["xi"]),
        "threshold": (by_sigma, threshold),
        "crossing_sigma": (("crossing",), chosen.crossings),
    }
    for name, value in {
        "critical_sigma_bare": chosen.sigma,
        "critical_sigma_bare_ve": ve.sigma,
        "critical_sigma_uniform_bare": uniform,
        "critical_wavenumber_bare": np.hypot(*vector),
        "critical_imag_bare": curves["imag"][softest],
        "nonreciprocal_bare": curves["nonreciprocal"],
        "num_crossings": chosen.num_crossings,
        "num_patches": problem.num_patches,
    }.items():
        variables[name] = ((), np.float64(value))
    attributes = {
        "bank_description": problem.description,
        "instability_kind": instability_kind(chosen),
        "instability_kind_ve": instability_kind(ve),
        "softest_wavevector": [float(k) for k in vector],
    }
    return Prediction(sigmas, softest, threshold, variables, attributes)


def _softest_mode(candidates: tuple[CriticalPoint, ...], modes: np.ndarray) -> tuple[int, int]:
    """Return the index of the softest mode: of the first critical point there is.

    Without one it is the mode whose symbol (L, H, W) is largest anywhere on the ladder.
    """
    for point in candidates:
        if np.isfinite(point.sigma):
            row, column = np.argwhere(point.modes)[0]
            return int(row), int(column)
    _, row, column = np.unravel_index(int(np.argmax(modes)), modes.shape)
    return int(row), int(column)


def closure_replicas(num_samples: int, channels: int) -> int:
    """Return as many replicas as leave each more samples than channels; a single one tells no errors."""
    return max(n for n in (1, 2, 4) if n == 1 or (num_samples % n == 0 and num_samples // n > channels))


@program(static_argnames=("grid", "channels", "size", "num_samples", "num_replicas"))
def _closure(
    denoise_fn: DenoiseFn,
    key: Array,
    sigmas: Array,
    mean: Array | None,
    eta: Any,
    *,
    grid: tuple[int, int],
    channels: int,
    size: int,
    num_samples: int,
    num_replicas: int,
) -> dict[str, Array]:
    """Solve the Gaussian closure on a ladder."""
    result = gaussian_closure(
        denoise_fn,
        key,
        sigmas,
        grid,
        eta=eta,
        num_samples=num_samples,
        num_replicas=num_replicas,
        size=size,
        mean=mean,
        channels=channels,
    )
    modes = leading_eigenvalue(result.symbol)
    power = jnp.trace(result.structure_factor, axis1=-2, axis2=-1).real / channels
    return {
        "modes": modes,
        # One channel: the symbol's own error. Several: that of its largest entry, which bounds the mode's.
        "modes_error": jnp.max(result.symbol_error, axis=(-2, -1)),
        "fastest": shell_maximum(modes.real, grid),
        "shells": shells(modes.real, grid[1]),
        "power": power,
        "power_shells": shells(power, grid[1]),
        "xi": jax.lax.map(second_moment_length, power),
        "xi_eq": _equilibrium_lengths(modes, size),
        "kurtosis": result.kurtosis,
        "kurtosis_error": result.kurtosis_error,
    }


def closure_prediction(
    problem: Problem, settings: ResolvedCriticality, prediction: Prediction, key: Array
) -> tuple[Variables, np.ndarray]:
    """Solve the Gaussian closure on the study's own ladder; return its predictions and its symbol (L, H, W)."""
    grid, sigmas = problem.grid, prediction.sigmas
    num_samples = settings.closure_samples
    solved = _closure(
        as_pytree("denoise_fn", patch_denoiser(problem.bank)),
        key,
        sigmas,
        None if problem.images is None else problem.images.mean((0, 1, 2)),
        settings.eta,
        grid=grid,
        channels=problem.channels,
        size=problem.bank.size,
        num_samples=num_samples,
        num_replicas=closure_replicas(num_samples, problem.channels),
    )
    found = jax.tree.map(np.asarray, solved)
    near = float(prediction.variables["critical_wavenumber_bare"][1])
    linear_growth = np.asarray(prediction.variables["linear_growth"][1])
    growth = growth_of(mode_groups(grid, near)[1], found["power"])
    at_softest = found["modes"][:, *prediction.softest]
    softest_error, uniform_error = (
        found["modes_error"][:, row, column] for row, column in (prediction.softest, (0, 0))
    )
    softest, uniform = np.real(at_softest), np.real(found["modes"][:, 0, 0])
    by_sigma, by_shell = ("sigma",), ("sigma", "wavenumber")
    variables: Variables = {
        "lambda_closure": (by_shell, found["shells"]),
        "lambda_closure_fastest": (by_shell, found["fastest"]),
        "lambda_closure_softest": (by_sigma, softest),
        "lambda_closure_softest_error": (by_sigma, softest_error),
        "lambda_closure_uniform": (by_sigma, uniform),
        "structure_factor_closure": (by_shell, found["power_shells"]),
        "closure_ratio": (("sigma", "checked_mode"), growth / linear_growth),
        "xi_second_moment_closure": (by_sigma, found["xi"]),
        "xi_eq_closure": (by_sigma, found["xi_eq"]),
        "kurtosis_closure": (by_sigma, found["kurtosis"]),
        "kurtosis_closure_error": (by_sigma, found["kurtosis_error"]),
    }
    for name, curve, error in (
        ("critical_sigma_closure", softest, softest_error),
        ("critical_sigma_uniform_closure", uniform, uniform_error),
    ):
        variables[name] = ((), crossing(sigmas, curve, prediction.threshold))
        variables[f"{name}_error"] = ((), crossing_error(sigmas, curve, error, prediction.threshold))
    critical = variables["critical_sigma_closure"][1]
    imag = np.interp(-np.log(critical), -np.log(sigmas), np.imag(at_softest))
    variables["critical_imag_closure"] = ((), imag)
    return variables, found["modes"]


def crossing(sigmas: np.ndarray, curve: np.ndarray, threshold: np.ndarray) -> float:
    """Return sigma where a curve first reaches the threshold; NaN if it never does or starts above."""
    offset = np.asarray(curve) - threshold
    passed = np.flatnonzero(offset >= 0)
    if passed.size == 0 or passed[0] == 0:
        return float("nan")
    i = passed[0] - 1
    share = offset[i] / (offset[i] - offset[i + 1])
    return float(np.exp(np.log(sigmas[i]) + share * np.log(sigmas[i + 1] / sigmas[i])))


def crossing_error(sigmas: np.ndarray, curve: np.ndarray, error: np.ndarray, threshold: np.ndarray) -> float:
    """Return the standard error of `crossing` for a curve with errors: half the way between the shifted crossings.

    If only one of the shifted curves crosses, the way from the curve's own crossing to that one; NaN if neither does.
    """
    shifted = [crossing(sigmas, curve + sign * error, threshold) for sign in (1, -1)]
    found = [value for value in shifted if np.isfinite(value)]
    if len(found) == 2:
        return abs(found[0] - found[1]) / 2
    return abs(found[0] - crossing(sigmas, curve, threshold)) if found else float("nan")


@program
def _null_symbol(images: Array, sigmas: Array) -> tuple[Array, Array]:
    """Return the symbol (L, H, W) of the Gaussian that has the spectrum of images (N, H, W, C), and its shells."""
    # About one mean for all pixels: patches, too, know nothing of where they are.
    null_fn = gaussian_symbol(image_spectrum(images, mean=images.mean((0, 1, 2))))
    modes = jax.lax.map(lambda sigma: leading_eigenvalue(null_fn(sigma)).real, sigmas)
    return modes, shells(modes, images.shape[2])


def null_model(problem: Problem, prediction: Prediction) -> Variables:
    """Symbols of the Gaussian with the training images' spectrum; nothing for pattern banks."""
    if problem.images is None:
        return {}
    modes, by_shell = jax.tree.map(np.asarray, _null_symbol(problem.images, prediction.sigmas))
    return {
        "lambda_null": (("sigma", "wavenumber"), by_shell),
        "lambda_null_softest": (("sigma",), modes[:, *prediction.softest]),
        "lambda_null_uniform": (("sigma",), modes[:, 0, 0]),
    }


@program(static_argnames="grid")
def _critical_squares(bank: PatchBank | ImageBank, *, grid: tuple[int, int]) -> tuple[Array, Array]:
    """Return the bare critical noise, squared, of the uniform and of the softest mode."""
    modes = mean_field_critical_sigma(bank, grid) ** 2
    return modes[0, 0], modes.max()


@program(static_argnames=("grid", "size", "num_random", "num_banks", "dtype"))
def _bank_spread(
    bank: PatchBank,
    key: Array,
    *,
    grid: tuple[int, int],
    size: int,
    num_random: int,
    num_banks: int,
    dtype: str,
) -> tuple[Any, Any]:
    """Return the `_critical_squares` of so many random banks, and of one."""

    def draw(key: Array) -> tuple[Array, Array]:
        return _critical_squares(
            random_pattern_bank(key, size, num_random, dtype=jnp.dtype(dtype)), grid=grid
        )

    return jax.lax.map(draw, jax.random.split(key, num_banks)), _critical_squares(bank, grid=grid)


def bank_spread(problem: Problem, settings: ResolvedCriticality) -> Variables:
    """Draw many random banks and give their bare critical noise, squared, in closed form, and this one's."""
    bank, number = problem.bank, settings.num_random
    if settings.bank != "random-pattern" or not settings.num_banks or not isinstance(bank, PatchBank):
        return {}
    found = _bank_spread(
        bank,
        # Apart from the study's own keys, so that this bank is not one of the draws.
        jax.random.fold_in(bank_key(settings.seed), 2**20),
        grid=problem.grid,
        size=bank.size,
        num_random=number,
        num_banks=settings.num_banks,
        dtype=settings.precision,
    )
    (uniform, softest), own = jax.tree.map(np.asarray, found)
    pixels = bank.size**2
    return {
        "draw_critical_uniform": (("draw",), uniform),
        "draw_critical_softest": (("draw",), softest),
        "bank_critical_uniform_squared": ((), np.float64(own[0])),
        "bank_critical_softest_squared": ((), np.float64(own[1])),
        "mean_field_squared": ((), np.float64(1 + (pixels - 1) / (number + 1))),
        "mean_field_squared_spread": ((), np.float64(np.sqrt(number * (pixels - 1)) / (number + 1))),
    }
