"""What a measurement makes of all levels together: crossings, the smallest gap, and the closure's prediction."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from critjax._programs import program
from critjax._typing import Array, DenoiseFn
from critjax.fluctuations import gaussian_closure
from critjax.observables import bootstrap_values, first_crossing, interior_minimum
from critjax.spectra import leading_eigenvalue
from critjax.studies.measure.instruments import NUM_RESAMPLES, gap_and_length, mean_and_error, shells_of

#: Independent closures. `gaussian_closure` has replicas of its own, but returns their averages and errors level by
#: level; the error of a crossing needs the crossing of every replica.
REPLICAS = 4
#: What the errors of crossings and minima need of every level, and no result keeps.
_PER_FIELD = ("resampled", "uniform_of_fields")

Variables = dict[str, tuple[tuple[str, ...], Any]]


def collect(rows: dict[str, dict[str, list[Any]]], ladder: np.ndarray, key: Array) -> Variables:
    """Join the levels of all ensembles, and find where their symbols turn."""
    dims = {
        "regression": ("wavenumber",),
        "mean_jacobian": ("wavenumber",),
        "kernel": ("kernel_y", "kernel_x"),
        "weight_outside": ("window",),
    }
    found: dict[str, list[float]] = {}
    for part in rows.values():
        resampled, ones = (np.stack(part[name], axis=1) for name in _PER_FIELD)
        numbers = {
            "critical_sigma_regression": crossing(ladder, np.stack(part["regression_uniform"]), resampled),
            **minimum(ladder, ones, key),
        }
        for name, (value, error) in numbers.items():
            found.setdefault(name, []).append(value)
            found.setdefault(f"{name}_error", []).append(error)
    variables: Variables = {}
    kept = [name for name in next(iter(rows.values())) if name not in _PER_FIELD]
    for name in kept:
        values = np.stack([np.stack(part[name]) for part in rows.values()])
        variables[name] = (("ensemble", "sigma", *dims.get(name.removesuffix("_error"), ())), values)
    variables.update({name: (("ensemble",), np.array(values)) for name, values in found.items()})
    return variables


def _spread(values: np.ndarray) -> float:
    """Return the standard deviation over resamples; NaN where fewer than nine of ten exist."""
    good = values[np.isfinite(values)]
    return float(good.std(ddof=1)) if len(good) >= 0.9 * len(values) else float("nan")


@program
def _first_passages(ladder: Array, curves: Array) -> Array:
    """Return the sigma at which each curve (R, num) first passes one from below."""
    find = functools.partial(first_crossing, jnp.log(ladder), level=1.0, rising=True)
    return jnp.exp(jax.vmap(lambda curve: find(values=curve))(curves))


def crossing(ladder: np.ndarray, curve: np.ndarray, resampled: np.ndarray) -> tuple[float, float]:
    """Find where a symbol (num,) rises through one, and its error from the curves (R, num) of resampled fields."""
    found = np.asarray(_first_passages(ladder, np.concatenate([curve[None], resampled])))
    return float(found[0]), _spread(found[1:])


def minimum(ladder: np.ndarray, symbols: np.ndarray, key: Array) -> dict[str, tuple[float, float]]:
    """Find the smallest gap of the mean over fields of one mode's symbols (K, num), and where; errors over fields."""
    (sigma, gap), (sigmas, gaps) = (np.asarray(a) for a in _smallest_gaps(ladder, symbols, key))
    return {
        "minimal_gap": (float(gap), _spread(gaps)),
        "minimal_gap_sigma": (float(sigma), _spread(sigmas)),
    }


@program
def _smallest_gaps(ladder: Array, symbols: Array, key: Array) -> tuple[Array, Array]:
    """Return sigma and gap (2,) of the fields, and those (2, R) of resampled fields."""
    find = Partial(_smallest_gap, jnp.asarray(ladder))
    resampled = bootstrap_values(find, key, symbols, num_resamples=NUM_RESAMPLES)
    return find(jnp.asarray(symbols)), resampled.T


def _smallest_gap(ladder: Array, symbols: Array) -> Array:
    at, gap = interior_minimum(jnp.log(ladder), 1 - symbols.mean(0))
    return jnp.stack([jnp.exp(at), gap])


@program(static_argnames=("shape", "num_samples", "size"))
def _replicas(
    denoise_fn: DenoiseFn,
    key: Array,
    sigmas: Array,
    shape: tuple[int, int, int],
    num_samples: int,
    size: int | None,
) -> tuple[Array, Array, Array, Array]:
    """Return the uniform mode, shells, gap and length of every replica's symbol, and level."""

    def replica(key: Array) -> tuple[Array, Array, Array, Array]:
        found = gaussian_closure(
            denoise_fn,
            key,
            sigmas,
            shape[:2],
            num_samples=num_samples // REPLICAS,
            size=size,
            centre="ensemble",
            channels=shape[2],
        )
        symbol = leading_eigenvalue(found.symbol).real
        fit = jax.vmap(gap_and_length)(symbol)
        return symbol[:, 0, 0], shells_of(symbol), fit.gap, fit.correlation_length

    return jax.lax.map(replica, jax.random.split(key, REPLICAS))


def closure(
    denoise_fn: DenoiseFn,
    key: Array,
    sigmas: Array,
    shape: tuple[int, int, int],
    num_samples: int,
    size: int | None,
) -> Variables:
    """Predict the regression symbol from the denoiser alone, each replica with a crossing of its own."""
    uniform, shells, gaps, lengths = map(
        np.asarray, _replicas(denoise_fn, key, sigmas, shape, num_samples, size)
    )
    mean, error = mean_and_error(uniform)
    shell_mean, shell_error = mean_and_error(shells)
    gap, gap_error = mean_and_error(gaps)
    length, length_error = mean_and_error(lengths)
    crossed, *critical = np.asarray(_first_passages(sigmas, np.concatenate([mean[None], uniform])))
    spread = float(mean_and_error(np.array(critical))[1])  # NaN unless every replica has one
    return {
        "regression_uniform_closure": (("sigma",), mean),
        "regression_uniform_closure_error": (("sigma",), error),
        "regression_closure": (("sigma", "wavenumber"), shell_mean),
        "regression_closure_error": (("sigma", "wavenumber"), shell_error),
        "gap_closure": (("sigma",), gap),
        "gap_closure_error": (("sigma",), gap_error),
        "xi_eq_closure": (("sigma",), length),
        "xi_eq_closure_error": (("sigma",), length_error),
        "critical_sigma_closure": ((), float(crossed)),
        "critical_sigma_closure_error": ((), spread),
    }
