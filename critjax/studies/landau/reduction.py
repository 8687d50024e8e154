"""What exact and reduced runs have in common: errors, overlaps, structure factors of their slow fields."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._programs import program
from critjax._typing import Array
from critjax.fourier import radial_shells, wavevectors
from critjax.landau import ReducedModel
from critjax.observables import jackknife_error, radial_average

COMPARISONS = ("bare", "renormalised", "slow")
#: Relative errors whose range of validity is reported.
TOLERANCES = (0.05, 0.2)
_NUM_FILM_LEVELS = 7
#: Relative error beyond which a reduced run counts as having left for infinity.
_ESCAPE = 100.0


class Runs(NamedTuple):
    """Slow fields (B, L, H, W) of one bank's runs, and a film of the exact one."""

    exact: Any
    exact_slow: Any
    bare: Any
    renormalised: Any
    film: Any


def slow_shells(grid: tuple[int, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the wavenumbers of all shells, and which of them are slow, |k| <= pi/p."""
    shells = np.asarray(radial_shells(grid).wavenumber, np.float64)
    return shells, np.flatnonzero(shells <= np.pi / size)


def _sums(exact: Array, reduced: Array) -> dict[str, Array]:
    """Sum over pixels, per sample (B, L)."""
    axes = (-2, -1)
    return {
        "difference": jnp.sum((exact - reduced) ** 2, axes),
        "exact": jnp.sum(exact**2, axes),
        "reduced": jnp.sum(reduced**2, axes),
        "both": jnp.sum(exact * reduced, axes),
    }


def _statistic(parts: dict[str, Array]) -> dict[str, Array]:
    total = jax.tree.map(lambda a: a.sum(0), parts)
    return {
        "field_error": jnp.sqrt(total["difference"] / total["exact"]),
        "overlap": total["both"] / jnp.sqrt(total["exact"] * total["reduced"]),
        "power_ratio": total["reduced"] / total["exact"],
    }


def _spectrum(fields: Array, slow_modes: Array, inside: Array) -> Array:
    """Shell averages (L, S) of |psi_k|^2/N over samples; modes beyond the slow ones are zero by construction."""
    weight = jnp.maximum(radial_average(jnp.where(slow_modes, 1.0, 0.0)), 1e-9)

    def level(psi: Array) -> Array:
        power = jnp.mean(jnp.abs(jnp.fft.fft2(psi)) ** 2, axis=0) / slow_modes.size
        return radial_average(jnp.where(slow_modes, power, 0)) / weight

    return jax.lax.map(level, jnp.swapaxes(fields, 0, 1))[:, inside]


@program
def _everything(runs: Runs, slow_modes: Array, inside: Array) -> tuple[Any, Any, Any]:
    """Return values and jackknife errors of the three comparisons, and the spectra of all four runs."""
    pairs = ((runs.exact, runs.bare), (runs.exact, runs.renormalised), (runs.exact_slow, runs.bare))
    parts = [_sums(*pair) for pair in pairs]
    fields = (runs.exact, runs.exact_slow, runs.bare, runs.renormalised)
    return (
        [_statistic(part) for part in parts],
        [jackknife_error(_statistic, part) for part in parts],
        [_spectrum(field, slow_modes, inside) for field in fields],
    )


def compare(runs: Runs, ladder: np.ndarray, grid: tuple[int, int], size: int) -> dict[str, Any]:
    """Errors, overlaps and structure factors of the slow fields, with jackknife errors over samples."""
    slow_modes = (np.asarray(wavevectors(grid)) ** 2).sum(-1) <= (np.pi / size) ** 2
    found = _everything(runs, slow_modes, slow_shells(grid, size)[1])
    values, errors, spectra = jax.tree.map(np.asarray, found)
    dims = ("comparison", "level")
    result: dict[str, Any] = {}
    # Without saturation (u < 0) a reduced run ends at infinity; what comes after is no number.
    escaped = ~(np.stack([v["field_error"] for v in values]) < _ESCAPE)
    for name in values[0]:
        for suffix, source in (("", values), ("_error", errors)):
            result[name + suffix] = (dims, np.where(escaped, np.nan, np.stack([s[name] for s in source])))
    result["escapes_at_sigma"] = (
        ("comparison",),
        np.array([np.asarray(ladder)[np.argmax(row)] if row.any() else np.nan for row in escaped]),
    )
    for name, values_ in zip(("exact", "exact_slow", "bare", "renormalised"), spectra, strict=True):
        result[f"structure_factor_{name}"] = (("level", "slow_wavenumber"), values_)
    field_error, spread = result["field_error"][1], result["field_error_error"][1]
    # The whole curve shifted by its error, up and down: errors of neighbouring levels go together.
    holds, upper, lower = (
        np.array([[holds_to(np.asarray(ladder), row, limit) for limit in TOLERANCES] for row in curve])
        for curve in (field_error, field_error + spread, field_error - spread)
    )
    result["holds_to_sigma"] = (("comparison", "error_limit"), holds)
    result["holds_to_sigma_error"] = (("comparison", "error_limit"), np.abs(upper - lower) / 2)
    return result


def holds_to(sigmas: np.ndarray, error: np.ndarray, limit: float) -> float:
    """Return the noise level down to which an error stays within the limit; NaN if it never does.

    Interpolates linearly in ln sigma; the last level if the limit is never passed.

    Example
    -------
    >>> print(f"{holds_to(np.array([4.0, 2.0, 1.0]), np.array([0.0, 0.1, 0.3]), 0.2):.4f}")  # sqrt(2)
    1.4142
    """
    bad = np.flatnonzero(~(error <= limit))
    if bad.size == 0:
        return float(sigmas[-1])
    i = int(bad[0])
    if i == 0:
        return math.nan
    if not np.isfinite(error[i]):
        return float(sigmas[i - 1])
    share = (limit - error[i - 1]) / (error[i] - error[i - 1])
    return float(np.exp(np.log(sigmas[i - 1]) + share * np.log(sigmas[i] / sigmas[i - 1])))


def coefficients(bare: ReducedModel, renormalised: ReducedModel) -> dict[str, Any]:
    """Return the coefficients of both models over the ladder."""
    result: dict[str, Any] = {}
    for name, model in (("bare", bare), ("renormalised", renormalised)):
        c = jax.tree.map(np.asarray, model.coefficients)
        for field in ("r", "h", "u"):
            result[f"{field}_{name}"] = (("level",), getattr(c, field))
        result[f"stiffness_{name}"] = (("level",), np.trace(c.K, axis1=-2, axis2=-1) / 2)
        result[f"drift_{name}"] = (("level",), np.hypot(*np.moveaxis(c.v, -1, 0)))
    result["well_posed"] = (("level",), np.asarray(bare.coefficients.well_posed))
    return result


def film(runs: Runs, ladder: np.ndarray) -> dict[str, Any]:
    """Return the fields of one sample, exact and reduced, at a few levels."""
    levels = np.unique(np.rint(np.linspace(0, len(ladder) - 1, _NUM_FILM_LEVELS)).astype(int))
    rows = (runs.film, runs.exact, runs.bare, runs.renormalised)
    pictures = np.stack([np.asarray(row[0])[levels] for row in rows])
    return {
        "film": (("film_row", "film_level", "y", "x"), pictures),
        "film_sigma": (("film_level",), np.asarray(ladder)[levels]),
    }
