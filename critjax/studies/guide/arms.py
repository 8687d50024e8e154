"""The schedules that a guidance study compares, all of one budget, fixed before anything is sampled."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from critjax._programs import program
from critjax.guidance import WeightFn, constant, pulse, quadrature_weights, with_budget
from critjax.noise import geometric_sigmas
from critjax.studies.guide.settings import ResolvedGuide

#: What the study is about, fixed in advance.
PRIMARY = (
    "mean over images of the difference of the target response between the critical pulse, placed where lambda(k) "
    "alone recommends, and pulses of the same width at random positions, same seeds, first budget"
)


class Arm(NamedTuple):
    """One schedule: its name, what kind it is, its edges in sigma, and its weight on every level."""

    name: str
    kind: str
    """One of "none", "constant", "pulse", "interval", "critical pulse", "window" or "response window"."""
    low: float
    high: float
    table: np.ndarray


def ladder(settings: ResolvedGuide) -> jax.Array:
    """Return the sampler's levels (num_levels + 1,), float32."""
    high, low = settings.sigma_max, settings.sigma_min
    return geometric_sigmas(high, low, settings.num_levels, dtype=jnp.float32)


def pulse_centres(settings: ResolvedGuide) -> np.ndarray:
    """Place the pulses evenly in ln sigma; the first and the last end where the ladder ends."""
    half = settings.pulse_width / 2
    high, low = math.log(settings.sigma_max) - half, math.log(settings.sigma_min) + half
    return np.exp(np.linspace(high, low, settings.num_positions))


def _arm(
    name: str, kind: str, weight_fn: WeightFn, low: float, high: float, settings: ResolvedGuide, budget: float
) -> Arm:
    sigmas = ladder(settings)
    fixed = with_budget(weight_fn, sigmas, budget, baseline=settings.baseline, solver=settings.solver)
    return Arm(name, kind, low, high, np.asarray(_on_levels(fixed, sigmas)))


@program
def _on_levels(weight_fn: WeightFn, sigmas: jax.Array) -> jax.Array:
    return jax.vmap(weight_fn)(sigmas)


def window_arm(
    kind: str, low: float, high: float, settings: ResolvedGuide, budget: float, name: str | None = None
) -> Arm:
    """Return a constant weight between two noise levels, scaled to the budget."""
    shape = pulse(low, high, settings.baseline + 1.0, baseline=settings.baseline)
    return _arm(name or kind, kind, shape, low, high, settings, budget)


def pulse_arm(
    kind: str, centre: float, settings: ResolvedGuide, budget: float, name: str | None = None
) -> Arm:
    """Return a pulse of the common width."""
    half = math.exp(settings.pulse_width / 2)
    return window_arm(kind, centre / half, centre * half, settings, budget, name)


def fixed_arms(settings: ResolvedGuide, budget: float) -> list[Arm]:
    """Return no guidance, constant guidance, and the pulses."""
    low, high = settings.sigma_min, settings.sigma_max
    num = settings.num_levels + 1
    arms = [Arm("none", "none", math.nan, math.nan, np.full(num, settings.baseline, np.float32))]
    even = constant(settings.baseline + 1.0)
    arms.append(_arm("constant", "constant", even, low, high, settings, budget))
    for number, centre in enumerate(pulse_centres(settings)):
        arms.append(pulse_arm("pulse", centre, settings, budget, f"pulse {number:02d}"))
    return arms


def searched_arms(settings: ResolvedGuide, budget: float) -> list[Arm]:
    """Return the intervals of the grid search: all pairs of edges a fourth of the positions apart, and every pulse."""
    low, high = settings.sigma_min, settings.sigma_max
    edges = np.geomspace(high, low, max(3, (settings.num_positions + 3) // 4 + 2))
    pairs = [(a, b) for a, b in itertools.combinations(edges, 2) if math.log(a / b) >= settings.pulse_width]
    half = math.exp(settings.pulse_width / 2)
    pairs += [(centre * half, centre / half) for centre in pulse_centres(settings)]
    return [
        window_arm("interval", float(b), float(a), settings, budget, f"interval {i:02d}")
        for i, (a, b) in enumerate(pairs)
    ]


def _levels_of_steps(settings: ResolvedGuide) -> np.ndarray:
    """Return the levels at which the sampler evaluates the model in every step: (num_levels, 1 or 2)."""
    return np.arange(settings.num_levels)[:, None] + np.arange(2 if settings.solver == "heun" else 1)


def first_step(arm: Arm, settings: ResolvedGuide) -> int:
    """Return the first step of the sampler that a schedule changes; ``num_levels`` if it changes none."""
    changed = (arm.table != np.float32(settings.baseline))[_levels_of_steps(settings)].any(1)
    return int(np.argmax(changed)) if changed.any() else len(changed)


def num_evaluations(arm: Arm, settings: ResolvedGuide) -> int:
    """Count the evaluations of either model that an image costs from the first step that a schedule changes."""
    weights = arm.table[_levels_of_steps(settings)][first_step(arm, settings) :]
    return int(np.sum(weights != 0) + np.sum(weights != 1)) + 1


def pulse_positions(settings: ResolvedGuide) -> np.ndarray:
    """Return the mean of ln sigma, as sigma, over what every pulse spends: where it acts on a coarse ladder."""
    nodes = np.asarray(quadrature_weights(ladder(settings), settings.solver), np.float64)
    arms = [pulse_arm("pulse", centre, settings, 1.0) for centre in pulse_centres(settings)]
    spent = nodes * (np.stack([a.table for a in arms]) - settings.baseline)
    return np.exp(spent @ np.log(np.asarray(ladder(settings), np.float64)) / spent.sum(1))


def sample_seeds(settings: ResolvedGuide, purpose: str, count: int) -> jax.Array:
    """Return the keys of images for a purpose: "test", "search", "window", "theory"; no two share one."""
    number = ("test", "search", "window", "theory").index(purpose)
    return _split(jax.random.key(settings.seed), number, count)


@program(static_argnums=2)
def _split(key: jax.Array, number: Any, count: int) -> jax.Array:
    return jax.random.split(jax.random.fold_in(key, number), count)


def resolved_edges(low: float, high: float, sigma: np.ndarray) -> tuple[float, float] | None:
    """Cut a window to the ladder, and widen what is narrower than a step to one step; None if there is none."""
    step = np.log(sigma[0] / sigma[1])
    if not low < high:  # NaN: there is none
        return None
    ends = np.log([max(low, sigma[-1]), min(high, sigma[0])])
    half = max(ends[1] - ends[0], step) / 2
    middle = np.clip(ends.mean(), np.log(sigma[-1]) + half, np.log(sigma[0]) - half)
    return float(np.exp(middle - half)), float(np.exp(middle + half))


def response_window(theory: xr.Dataset) -> dict[str, float]:
    """Return the levels around the largest predicted susceptibility where it is at least half of that."""
    curve, sigma = theory["chi_regression"].values, theory["sigma"].values
    peak = int(np.argmax(curve))
    inside = curve >= curve[peak] / 2
    outside = np.flatnonzero(~inside)
    first = max([i for i in outside if i < peak], default=-1) + 1
    last = min([i for i in outside if i > peak], default=len(curve)) - 1
    # Edges half a step outside: between the levels that are in and those that are not.
    step = np.sqrt(sigma[0] / sigma[1])
    return {"sigma_low": sigma[last] / step, "sigma_high": sigma[first] * step}


def random_positions(settings: ResolvedGuide) -> np.ndarray:
    """Draw the pulse that every test image gets in the arm of random positions."""
    rng = np.random.default_rng([settings.seed, 4])
    return rng.integers(0, settings.num_positions, settings.num_samples)


def plan(settings: ResolvedGuide) -> dict[str, Any]:
    """Write down schedules, seeds and primary statistic, to be stored before the run."""
    budgets = tuple(settings.budgets)
    return {
        "primary_statistic": PRIMARY,
        "seeds": {p: [settings.seed, i] for i, p in enumerate(("test", "search", "window", "theory"))},
        "random_positions": random_positions(settings).tolist(),
        "sigmas": np.asarray(ladder(settings), np.float64).tolist(),
        "arms": {
            f"{budget:g}": [
                {"name": a.name, "kind": a.kind, "sigma": [a.low, a.high], "weight": a.table.tolist()}
                for a in fixed_arms(settings, budget) + searched_arms(settings, budget)
            ]
            for budget in budgets
        },
        "chosen_during_the_run": [
            "critical pulse, window: centre and edges of guidance_window of the model at the baseline (of its first "
            "class, if the baseline is not 0), seeds 'window'",
            "response window: where linear response predicts at least half of its largest value, seeds 'theory'",
            "interval: the searched interval of the largest mean response on seeds 'search'",
        ],
    }
