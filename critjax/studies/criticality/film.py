"""Films: a few samples from noise to image, and reduced models of the slow modes from the same noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._programs import program
from critjax._typing import Array
from critjax.banks import PatchBank
from critjax.landau import ReducedModel, integrate, low_pass, reduced_model, stable_substeps
from critjax.studies._engine.problem import Problem
from critjax.studies.criticality.ensemble import Kept
from critjax.studies.criticality.prediction import Prediction, Variables
from critjax.studies.criticality.settings import ResolvedCriticality

NUM_FILM_SAMPLES = 2
NUM_FILM_LEVELS = 8


def film_levels(levels: np.ndarray) -> np.ndarray:
    """Return which of the kept levels a film shows, from the first to the last."""
    return np.unique(np.rint(np.linspace(0, len(levels) - 1, NUM_FILM_LEVELS)).astype(int))


def film(kept: Kept, levels: np.ndarray, sigmas: np.ndarray) -> Variables:
    """Pick a few levels, from noise to image, of a few samples; ``levels`` are those of the kept fields."""
    chosen = film_levels(levels)
    dims = ("film_sample", "film_sigma", "y", "x", "channel")
    return {
        "film_x": (dims, np.asarray(kept.x)[:NUM_FILM_SAMPLES, chosen]),
        "film_denoised": (dims, np.asarray(kept.denoised)[:NUM_FILM_SAMPLES, chosen]),
        "film_sigma": (("film_sigma",), np.asarray(sigmas)[levels[chosen]]),
    }


def has_reduced_model(problem: Problem, prediction: Prediction) -> bool:
    """Tell whether slow modes, |k| <= pi/p about the uniform state, hold the softest mode of a pattern bank."""
    wavenumber = float(prediction.variables["critical_wavenumber_bare"][1])
    return isinstance(problem.bank, PatchBank) and wavenumber <= np.pi / problem.bank.size


def reduced_film(
    problem: Problem,
    settings: ResolvedCriticality,
    prediction: Prediction,
    kept: Kept,
    levels: np.ndarray,
    key: Array,
    closure_symbol: np.ndarray | None,
) -> Variables:
    """Run the reduced model from the noise of the first sample, bare and with the symbol of the closure.

    Bare: the Ginzburg-Landau equation of the bank, on the study's ladder, subdivided. With the
    closure's symbol (L, H, W), if there is one: linear, as this symbol holds the mean effect of all nonlinear terms
    already. ``key`` is that of the sample, which gives its later noise, too (eta > 0). Fields are NaN from where the
    equation diverges; correlations are those with the simulated field, both low-passed to |k| <= pi/p.
    """
    chosen = film_levels(levels)
    noise_key = jax.random.split(key)[1]
    start, simulated = kept.x[0, 0], np.asarray(kept.x)[0, chosen]
    bare = _reduced_model(problem.bank, prediction.sigmas, settings.eta, grid=problem.grid)
    models: dict[str, tuple[ReducedModel, Any]] = {"reduced": (bare, stable_substeps(bare, eta=settings.eta))}
    if closure_symbol is not None:
        local = {name: np.zeros_like(bare.coefficients.u) for name in ("h", "u")}
        linear = bare._replace(symbol=closure_symbol, coefficients=bare.coefficients._replace(**local))
        models["closure"] = (linear, None)
    variables: Variables = {"reduced_cubic": (("sigma",), np.asarray(bare.coefficients.u))}
    for name, (model, substeps) in models.items():
        found = _follow(
            model,
            noise_key,
            start,
            simulated,
            levels[chosen],
            substeps,
            eta=settings.eta,
            cutoff=np.pi / problem.bank.size,
        )
        fields, correlation = jax.tree.map(np.asarray, found)
        variables[f"film_{name}"] = (("film_sigma", "y", "x"), fields)
        variables[f"film_{name}_correlation"] = (("film_sigma",), correlation)
    return variables


@program(static_argnames="grid")
def _reduced_model(bank: PatchBank, sigmas: Array, eta: Any, *, grid: tuple[int, int]) -> ReducedModel:
    return reduced_model(bank, sigmas, grid, eta=eta)


@program(static_argnames=("eta", "cutoff"))
def _follow(
    model: ReducedModel,
    key: Array,
    start: Array,
    simulated: Array,
    levels: Array,
    num_substeps: Array | None,
    *,
    eta: float,
    cutoff: float,
) -> tuple[Array, Array]:
    """Run a reduced model; return its fields (L', H, W) at some levels and their correlations with simulated ones.

    Without ``num_substeps`` (L - 1,) every step is undivided.
    """
    counts = 1 if num_substeps is None else num_substeps
    found = integrate(model, key, start, eta=eta, cutoff=cutoff, num_substeps=counts)
    fields = found.x[levels].mean(-1)
    fields = jnp.where(jnp.isfinite(fields).all((1, 2), keepdims=True), fields, jnp.nan)
    slow = jax.vmap(lambda field: low_pass(field, cutoff))
    pair = (slow(fields), slow(simulated.mean(-1)))
    centred = [field - field.mean((1, 2), keepdims=True) for field in pair]
    norms = [jnp.sqrt((field**2).mean((1, 2))) for field in centred]
    return fields, (centred[0] * centred[1]).mean((1, 2)) / (norms[0] * norms[1])
