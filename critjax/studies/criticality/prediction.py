"""What theory says before anything is simulated: bank, symbols, critical points, structure factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._typing import Array, SymbolFn
from critjax.banks import ImageBank, PatchBank, random_pattern_bank
from critjax.closed_form import gaussian_symbol, image_spectrum
from critjax.fluctuations import gaussian_closure, linear_structure_factor
from critjax.fourier import kernel_offsets, symbol_to_kernel, wavevectors
from critjax.noise import frame_correction, geometric_sigmas
from critjax.observables import second_moment_length
from critjax.patch_score import patch_denoiser
from critjax.spectra import (
    CriticalPoint,
    bank_symbol_fn,
    critical_point,
    growth_rate,
    homogeneous_state,
    instability_kind,
    leading_eigenvalue,
    mean_field_critical_sigma,
    nonreciprocal_fraction,
)
from critjax.studies.criticality.ensemble import mode_groups, shell_maximum, shells
from critjax.studies.criticality.problem import Problem, bank_key, largest_sigma
from critjax.studies.criticality.settings import CriticalitySettings, ladder_ends

Variables = dict[str, tuple[tuple[str, ...], Any]]
_SCAN_LEVELS = 96


def make_symbol_fn(problem: Problem, scan: Array, eta: float) -> tuple[SymbolFn, Array]:
    """Return the bare symbol along the homogeneous state, valid on the range of ``scan``.

    The states start a little above the scan, so that every level of it lies inside.
    """
    if problem.symmetric:
        return bank_symbol_fn(problem.bank, problem.grid), jnp.zeros(
            (len(scan), problem.channels), scan.dtype
        )
    levels = jnp.concatenate([4 * scan[:1], 1.01 * scan[:1], scan[1:-1], 0.99 * scan[-1:]])
    states = jax.jit(lambda levels: homogeneous_state(problem.bank, levels, eta=eta))(levels)
    return bank_symbol_fn(problem.bank, problem.grid, sigmas=levels, states=states), states


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

    sigmas: Array
    symbol_fn: SymbolFn
    softest: tuple[int, int]
    """Full-plane index of the softest mode."""
    threshold: np.ndarray
    """Real part of the symbol at which a mode neither grows nor decays in the chosen frame, per level."""
    variables: Variables
    attributes: dict[str, Any]


def predict(problem: Problem, settings: CriticalitySettings) -> Prediction:
    """Compute everything linear theory says; a few seconds, most of them compilation."""
    grid, eta, frame, dtype = problem.grid, settings.eta, settings.frame, jnp.dtype(settings.precision)
    top = max(largest_sigma(problem), settings.sigma_max or 0.0)
    if frame == "vp":  # a mode c/sigma^2 turns critical below sigma^2 = c (1+eta)/eta; for eta = 0 never
        top *= min(np.sqrt((1 + eta) / eta), 10.0) if eta > 0 else 1.0
    bottom = min(0.02 * top, settings.sigma_min or np.inf, 0.05 if settings.uses_images else np.inf)
    scan = geometric_sigmas(top, bottom, _SCAN_LEVELS - 1, dtype=dtype)
    symbol_fn, _ = make_symbol_fn(problem, scan, eta)

    def find(fn: SymbolFn, frame: str) -> CriticalPoint:
        return jax.jit(lambda scan: critical_point(fn, scan, eta=eta, frame=frame))(scan)

    ve = find(symbol_fn, "ve")
    chosen = ve if frame == "ve" else find(symbol_fn, frame)
    at_zero = bool(np.isfinite(float(chosen.sigma))) and not np.any(np.asarray(chosen.wavevector))
    uniform = chosen if at_zero else find(lambda sigma: symbol_fn(sigma)[:1, :1], frame)
    high, low = ladder_ends(settings, float(ve.sigma), top, frame_sigma=float(chosen.sigma))
    sigmas = geometric_sigmas(high, low, (settings.num_levels or 2) - 1, dtype=dtype)
    softest, vector = _softest_mode(problem, (chosen, ve), symbol_fn, sigmas)
    groups = jnp.asarray(mode_groups(grid, float(np.hypot(*vector)))[1], dtype)

    @jax.jit
    def along(sigmas: Array, at: Array) -> dict[str, Array]:
        symbols = jax.lax.map(symbol_fn, sigmas)
        modes = leading_eigenvalue(symbols)
        linear = linear_structure_factor(symbol_fn, sigmas, eta=eta)
        power = jnp.trace(linear, axis1=-2, axis2=-1).real / problem.channels
        checked = jnp.einsum("ghw,lhw->lg", groups, power[..., : grid[1] // 2 + 1], precision="highest")
        special = symbol_fn(at)
        rates = jax.vmap(lambda s, level: growth_rate(s, level, eta=eta, frame=frame))(symbols, sigmas)
        return {
            "rates": shell_maximum(rates, grid),
            "uniform_rate": rates[:, 0, 0],
            "modes": modes,
            "shells": shells(modes.real, grid[1]),
            "linear": shells(power, grid[1]),
            "checked": checked / checked[0],
            "xi": jax.lax.map(second_moment_length, power),
            "xi_eq": _equilibrium_lengths(modes, problem.bank.size),
            "imag": leading_eigenvalue(special[softest]).imag,
            "nonreciprocal": nonreciprocal_fraction(special),
        }

    # Without a critical point, what is said "there" is said at the middle of the ladder.
    at = chosen.sigma if np.isfinite(float(chosen.sigma)) else sigmas[len(sigmas) // 2]
    found = jax.tree.map(np.asarray, along(sigmas, jnp.asarray(at, dtype)))
    by_sigma, by_shell = ("sigma",), ("sigma", "wavenumber")
    threshold = 1 - np.asarray(frame_correction(sigmas, frame), np.float64) / (1 + eta)
    at_softest = found["modes"][:, softest[0], softest[1]]
    variables: Variables = {
        "growth_rate": (by_shell, found["rates"]),
        "homogeneous_growth_rate": (by_sigma, found["uniform_rate"]),
        "lambda_bare": (by_shell, found["shells"]),
        "lambda_bare_softest": (by_sigma, at_softest.real),
        "lambda_bare_softest_imag": (by_sigma, at_softest.imag),
        "lambda_bare_uniform": (by_sigma, found["modes"].real[:, 0, 0]),
        "structure_factor_linear": (by_shell, found["linear"]),
        "linear_growth": (("sigma", "checked_mode"), found["checked"]),
        "xi_eq_bare": (by_sigma, found["xi_eq"]),
        "xi_second_moment_linear": (by_sigma, found["xi"]),
        "threshold": (by_sigma, threshold),
        "crossing_sigma": (("crossing",), np.asarray(chosen.crossings)),
    }
    for name, value in {
        "critical_sigma_bare": chosen.sigma,
        "critical_sigma_bare_ve": ve.sigma,
        "critical_sigma_uniform_bare": uniform.sigma,
        "critical_wavenumber_bare": np.hypot(*vector),
        "critical_imag_bare": found["imag"],
        "nonreciprocal_bare": found["nonreciprocal"],
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
    return Prediction(sigmas, symbol_fn, softest, threshold, variables, attributes)


def _softest_mode(
    problem: Problem, candidates: tuple[CriticalPoint, ...], symbol_fn: SymbolFn, sigmas: Array
) -> tuple[tuple[int, int], np.ndarray]:
    """Return index and wavevector of the softest mode: of the first critical point there is.

    Without one it is the mode whose symbol is largest anywhere on the ladder.
    """
    vectors = np.asarray(wavevectors(problem.grid), np.float64)
    for point in candidates:
        if np.isfinite(float(point.sigma)):
            row, column = np.argwhere(np.asarray(point.modes))[0]
            return (int(row), int(column)), vectors[row, column]
    scan = jax.jit(lambda levels: jax.lax.map(lambda s: leading_eigenvalue(symbol_fn(s)).real, levels))
    values = np.asarray(scan(sigmas))
    _, row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    return (int(row), int(column)), vectors[row, column]


def closure_replicas(num_samples: int, channels: int) -> int:
    """Return as many replicas as leave each more samples than channels; a single one tells no errors."""
    return max(n for n in (1, 2, 4) if n == 1 or (num_samples % n == 0 and num_samples // n > channels))


def closure_prediction(
    problem: Problem, settings: CriticalitySettings, prediction: Prediction, key: Array
) -> tuple[Variables, Array]:
    """Solve the Gaussian closure on the study's own ladder; return its predictions and its symbol (L, H, W)."""
    grid, sigmas = problem.grid, prediction.sigmas
    linear_growth = np.asarray(prediction.variables["linear_growth"][1])
    near = float(prediction.variables["critical_wavenumber_bare"][1])
    groups = jnp.asarray(mode_groups(grid, near)[1], sigmas.dtype)
    denoise = patch_denoiser(problem.bank)
    mean = None if problem.images is None else jnp.asarray(problem.images.mean((0, 1, 2)))
    num_samples = settings.closure_samples or 2
    num_replicas = closure_replicas(num_samples, problem.channels)

    @jax.jit
    def solve(key: Array):
        result = gaussian_closure(
            denoise,
            key,
            sigmas,
            grid,
            eta=settings.eta,
            num_samples=num_samples,
            num_replicas=num_replicas,
            window=problem.bank.size,
            mean=mean,
            channels=problem.channels,
        )
        modes = leading_eigenvalue(result.symbol)
        power = jnp.trace(result.structure_factor, axis1=-2, axis2=-1).real / problem.channels
        checked = jnp.einsum("ghw,lhw->lg", groups, power[..., : grid[1] // 2 + 1], precision="highest")
        # One channel: the symbol's own error. Several: that of its largest entry, which bounds the mode's.
        error = jnp.max(result.symbol_error, axis=(-2, -1))
        return {
            "modes": modes,
            "fastest": shell_maximum(modes.real, grid),
            "shells": shells(modes.real, grid[1]),
            "softest": modes[:, *prediction.softest],
            "softest_error": error[:, *prediction.softest],
            "uniform": modes.real[:, 0, 0],
            "uniform_error": error[:, 0, 0],
            "power": shells(power, grid[1]),
            "growth": checked / checked[0],
            "xi": jax.lax.map(second_moment_length, power),
            "xi_eq": _equilibrium_lengths(modes, problem.bank.size),
            "kurtosis": result.kurtosis,
            "kurtosis_error": result.kurtosis_error,
        }

    solved = solve(key)
    found = {name: np.asarray(value) for name, value in solved.items() if name != "modes"}
    levels, softest = np.asarray(sigmas), np.real(found["softest"])
    by_sigma, by_shell = ("sigma",), ("sigma", "wavenumber")
    variables: Variables = {
        "lambda_closure": (by_shell, found["shells"]),
        "lambda_closure_fastest": (by_shell, found["fastest"]),
        "lambda_closure_softest": (by_sigma, softest),
        "lambda_closure_softest_error": (by_sigma, found["softest_error"]),
        "lambda_closure_uniform": (by_sigma, found["uniform"]),
        "structure_factor_closure": (by_shell, found["power"]),
        "closure_ratio": (("sigma", "checked_mode"), found["growth"] / linear_growth),
        "xi_second_moment_closure": (by_sigma, found["xi"]),
        "xi_eq_closure": (by_sigma, found["xi_eq"]),
        "kurtosis_closure": (by_sigma, found["kurtosis"]),
        "kurtosis_closure_error": (by_sigma, found["kurtosis_error"]),
    }
    for name, curve, error in (
        ("critical_sigma_closure", softest, found["softest_error"]),
        ("critical_sigma_uniform_closure", found["uniform"], found["uniform_error"]),
    ):
        variables[name] = ((), crossing(levels, curve, prediction.threshold))
        variables[f"{name}_error"] = ((), crossing_error(levels, curve, error, prediction.threshold))
    critical = variables["critical_sigma_closure"][1]
    imag = np.interp(-np.log(critical), -np.log(levels), np.imag(found["softest"]))
    variables["critical_imag_closure"] = ((), imag)
    return variables, solved["modes"]


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


def null_model(problem: Problem, prediction: Prediction) -> Variables:
    """Symbols of the Gaussian with the training images' spectrum; nothing for pattern banks."""
    if problem.images is None:
        return {}
    # About one mean for all pixels: patches, too, know nothing of where they are.
    images = jnp.asarray(problem.images)
    null_fn = gaussian_symbol(image_spectrum(images, mean=images.mean((0, 1, 2))))
    modes = np.asarray(
        jax.jit(lambda s: jax.lax.map(lambda v: leading_eigenvalue(null_fn(v)).real, s))(prediction.sigmas)
    )
    row, column = prediction.softest
    return {
        "lambda_null": (("sigma", "wavenumber"), np.asarray(shells(jnp.asarray(modes), problem.grid[1]))),
        "lambda_null_softest": (("sigma",), modes[:, row, column]),
        "lambda_null_uniform": (("sigma",), modes[:, 0, 0]),
    }


def bank_spread(problem: Problem, settings: CriticalitySettings) -> Variables:
    """Draw many random banks and give their bare critical noise, squared, in closed form, and this one's."""
    if settings.bank != "random-pattern" or not settings.num_banks:
        return {}
    size, number, grid = problem.bank.size, settings.num_random, problem.grid

    def squares(bank: PatchBank | ImageBank) -> tuple[Array, Array]:
        modes = mean_field_critical_sigma(bank, grid) ** 2
        return modes[0, 0], modes.max()

    def draw(key: Array) -> tuple[Array, Array]:
        return squares(random_pattern_bank(key, size, number, dtype=jnp.dtype(settings.precision)))

    @jax.jit
    def everything(keys: Array) -> tuple[Any, Any]:
        return jax.lax.map(draw, keys), squares(problem.bank)

    # Keys apart from the study's own, so that this bank is not one of the draws.
    keys = jax.random.split(jax.random.fold_in(bank_key(settings.seed), 2**20), settings.num_banks)
    (uniform, softest), own = jax.tree.map(np.asarray, everything(keys))
    pixels = size**2
    return {
        "draw_critical_uniform": (("draw",), uniform),
        "draw_critical_softest": (("draw",), softest),
        "bank_critical_uniform_squared": ((), np.float64(own[0])),
        "bank_critical_softest_squared": ((), np.float64(own[1])),
        "mean_field_squared": ((), np.float64(1 + (pixels - 1) / (number + 1))),
        "mean_field_squared_spread": ((), np.float64(np.sqrt(number * (pixels - 1)) / (number + 1))),
    }
