"""The mean Jacobian and the condensation along simulated trajectories, at a few noise levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._programs import as_pytree, program
from critjax._typing import Array, DenoiseFn
from critjax.fourier import kernel_to_symbol, symbol_to_kernel
from critjax.patch_score import effective_patches, patch_denoiser
from critjax.spectra import leading_eigenvalue, measured_symbol
from critjax.studies._engine.problem import Problem
from critjax.studies.criticality.ensemble import Kept, shells
from critjax.studies.criticality.prediction import Prediction, Variables
from critjax.studies.criticality.settings import ResolvedCriticality
from critjax.studies.measure.instruments import nonreciprocal_estimate
from critjax.studies.measure.ladder import minimum

NUM_PROBE_LEVELS = 12
_PROBES_PER_SAMPLE = 2
_CONDENSATION_SAMPLES = 2


def _mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over samples (axis 1) and its standard error."""
    return values.mean(1), values.std(1, ddof=1) / np.sqrt(values.shape[1])


@program(static_argnames=("grid", "size"))
def _probe_level(
    denoise_fn: DenoiseFn,
    key: Array,
    index: Array,
    x: Array,
    sigma: Array,
    *,
    grid: tuple[int, int],
    size: int,
) -> tuple[Array, Array, Array]:
    """Return leading modes (K, H, W), their shells and kernels (K, p, p, C, C) of the Jacobian at K fields."""

    def one(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        x, key = pair
        symbol, _ = measured_symbol(denoise_fn, key, x, sigma, num_probes=_PROBES_PER_SAMPLE)
        kernel = symbol_to_kernel(symbol, size)
        # Its support is the window, so the projection cuts nothing but noise.
        return leading_eigenvalue(kernel_to_symbol(kernel, grid)), kernel

    symbols, kernels = jax.lax.map(one, (x, jax.random.split(jax.random.fold_in(key, index), len(x))))
    return symbols.real, shells(symbols.real, grid[1]), kernels


@program
def _condensation(count_fn: Callable[..., Array], x: Array, sigma: Array) -> Array:
    """Return the geometric mean over pixels of the effective number of patches, for fields (K, H, W, C)."""
    return jax.lax.map(lambda one: jnp.exp(jnp.log(count_fn(one, sigma)).mean()), x)


def probe(
    problem: Problem,
    settings: ResolvedCriticality,
    prediction: Prediction,
    kept: Kept,
    levels: np.ndarray,
    key: Array,
    report: Callable[[str, int, int], None],
) -> Variables:
    """Probe the Jacobian of every kept sample and count effective patches on a few."""
    grid, size = problem.grid, min(problem.bank.size, *problem.grid)
    denoise_fn = as_pytree("denoise_fn", patch_denoiser(problem.bank))
    count_fn = as_pytree("count_fn", effective_patches(problem.bank))
    sigmas = prediction.sigmas[levels]
    num_samples = min(settings.probe_samples, len(kept.x))
    rows = []
    for i, sigma in enumerate(sigmas):
        report("probes", i, len(sigmas))
        x = np.asarray(kept.x)[:num_samples, i]
        found = _probe_level(denoise_fn, key, i, x, sigma, grid=grid, size=size)
        rows.append(
            jax.tree.map(np.asarray, (*found, _condensation(count_fn, x[:_CONDENSATION_SAMPLES], sigma)))
        )
    report("probes", len(sigmas), len(sigmas))
    symbols, per_shell, kernels, effective = (np.stack(part) for part in zip(*rows, strict=True))
    result = _summary(symbols, per_shell, kernels.astype(np.float64), effective, sigmas, prediction)
    softest = symbols[:, :, *prediction.softest].T
    for name, (value, error) in minimum(sigmas, softest, jax.random.fold_in(key, len(sigmas))).items():
        result[name], result[f"{name}_error"] = ((), value), ((), error)
    return result


def _summary(
    symbols: np.ndarray,
    per_shell: np.ndarray,
    kernels: np.ndarray,
    effective: np.ndarray,
    sigmas: np.ndarray,
    prediction: Prediction,
) -> Variables:
    """Average over samples: symbols (L, K, H, W), shells (L, K, S), kernels (L, K, p, p, C, C), numbers (L, K')."""
    row, column = prediction.softest
    result: Variables = {"probe_sigma": (("probe_sigma",), sigmas)}
    measured: dict[str, tuple[tuple[str, ...], Any]] = {
        "mean_jacobian": (("probe_sigma", "wavenumber"), per_shell),
        "mean_jacobian_softest": (("probe_sigma",), symbols[:, :, row, column]),
        "mean_jacobian_uniform": (("probe_sigma",), symbols[:, :, 0, 0]),
        "effective_patches": (("probe_sigma",), np.log(effective)),
    }
    for name, (dims, values) in measured.items():
        mean, error = _mean_and_error(values)
        if name == "effective_patches":  # geometric mean, error by propagation
            mean, error = np.exp(mean), np.exp(mean) * error
        result[name], result[f"{name}_error"] = (dims, mean), (dims, error)
    fractions = np.array([nonreciprocal_estimate(k) for k in kernels])
    result["nonreciprocal"] = (("probe_sigma",), fractions[:, 0])
    result["nonreciprocal_error"] = (("probe_sigma",), fractions[:, 1])
    return result
