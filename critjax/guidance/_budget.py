"""The budget of a guidance schedule: the sampler's own quadrature sum of its weights."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_sigmas, check, check_option, is_concrete
from critjax._programs import as_pytree, program
from critjax._typing import Array, ArrayLike, Float, Scalar
from critjax.guidance._weights import WeightFn, as_level, as_weight

SOLVERS = ("heun", "euler")


def quadrature_weights(sigmas: Float[ArrayLike, " levels"], solver: str = "heun") -> Float[Array, " levels"]:
    r"""Give the length in tau = -ln sigma that the sampler assigns to each of its levels.

    .. math:: q_n^{Euler} = \ln(\sigma_n/\sigma_{n+1}), \quad q_N^{Euler} = 0; \qquad
              q_n^{Heun} = \tfrac12 \ln(\sigma_{n-1}/\sigma_{n+1})

    An Euler step uses the denoiser at its first level only; a Heun step gives half of itself to either end, so that
    the first and the last level carry half a step.

    Parameters
    ----------
    sigmas : float array (num + 1,)
        Strictly decreasing noise levels, at least two.
    solver : "heun" or "euler"
        That of `sample`.

    Returns
    -------
    float array (num + 1,)
        Node weights; their sum is ln(sigmas[0]/sigmas[-1]).

    Raises
    ------
    ValueError
        If the ladder does not decrease or the solver is unknown.

    Notes
    -----
    To first order in the step the lengths 1 - sigma_{n+1}/sigma_n with which the steps enter the image. THEORY
    section 8.

    Example
    -------
    >>> print(np.round(np.float64(quadrature_weights(jnp.exp(-jnp.arange(4.0)))), 3))
    [0.5 1.  1.  0.5]
    """
    sigmas = as_sigmas("sigmas", sigmas, minimum=2)
    check_option("solver", solver, SOLVERS)
    return _quadrature_weights(sigmas, solver)


@program(static_argnums=1)
def _quadrature_weights(sigmas: Array, solver: str) -> Array:
    # The difference of neighbours is exact, their ratio is not.
    steps = jnp.log1p((sigmas[:-1] - sigmas[1:]) / sigmas[1:])
    if solver == "euler":
        return jnp.append(steps, 0)
    return (jnp.append(steps, 0) + jnp.append(jnp.zeros_like(steps[:1]), steps)) / 2


def guidance_budget(
    weight_fn: WeightFn,
    sigmas: Float[ArrayLike, " levels"],
    *,
    baseline: Scalar = 0.0,
    solver: str = "heun",
) -> Float[Array, ""]:
    r"""Sum what a guidance schedule spends above a baseline.

    .. math:: B = \sum_n q_n\,(w(\sigma_n) - w_0) \approx \int (w - w_0)\, d\tau

    Parameters
    ----------
    weight_fn : callable
        ``sigma -> w``.
    sigmas : float array (num + 1,)
        The sampler's levels.
    baseline : scalar
        w_0, common to all schedules that are compared.
    solver : "heun" or "euler"
        The sampler's, which decides q_n, see `quadrature_weights`.

    Returns
    -------
    scalar
        Dimensionless; a constant weight w has (w - w_0) ln(sigmas[0]/sigmas[-1]).

    Raises
    ------
    ValueError
        As `quadrature_weights`, or if the weight is no scalar.

    Notes
    -----
    THEORY section 8.

    Example
    -------
    >>> from critjax.guidance import constant
    >>> print(guidance_budget(constant(2.0), jnp.exp(-jnp.arange(4.0))))
    6.0
    """
    sigmas = as_sigmas("sigmas", sigmas, minimum=2)
    check_option("solver", solver, SOLVERS)
    return _guidance_budget(as_pytree("weight_fn", weight_fn), sigmas, baseline, solver)


@program(static_argnums=3)
def _guidance_budget(weight_fn: Any, sigmas: Array, baseline: Any, solver: str) -> Array:
    weights = jax.vmap(lambda sigma: as_weight(weight_fn(sigma)))(sigmas)
    return jnp.sum(quadrature_weights(sigmas, solver) * (weights - baseline))


def with_budget(
    weight_fn: WeightFn,
    sigmas: Float[ArrayLike, " levels"],
    budget: Scalar,
    *,
    baseline: Scalar = 0.0,
    solver: str = "heun",
) -> WeightFn:
    r"""Scale a guidance schedule about its baseline to a given budget.

    .. math:: w'(\sigma) = w_0 + \frac{B'}{B}\,(w(\sigma) - w_0)

    Parameters
    ----------
    weight_fn, sigmas, baseline, solver
        As in `guidance_budget`.
    budget : scalar
        B', the sum that the result has; 0 is exactly the baseline at every level.

    Returns
    -------
    callable
        ``sigma -> w'``, whose `guidance_budget` on the same ladder is ``budget`` to round-off.

    Raises
    ------
    ValueError
        If the schedule spends nothing on this ladder, so that no factor reaches the budget, or if it is a `pulse` or
        `smooth_pulse` (at half maximum) narrower than the sampler's step there: the sampler then sees something else
        than the pulse. On concrete input.

    Notes
    -----
    THEORY section 8.

    Example
    -------
    >>> from critjax.guidance import pulse
    >>> sigmas = jnp.exp(-jnp.arange(9.0) / 2)
    >>> weight_fn = with_budget(pulse(0.1, 0.5, 1.0), sigmas, 2.0)
    >>> print(f"{guidance_budget(weight_fn, sigmas):.6f}")
    2.000000
    """
    sigmas = as_sigmas("sigmas", sigmas, minimum=2)
    check_option("solver", solver, SOLVERS)
    schedule = as_pytree("weight_fn", weight_fn)
    now, factor = _factor(schedule, sigmas, budget, baseline, solver)
    edges = getattr(weight_fn, "edges", None)
    if edges is not None and all(map(is_concrete, (*edges, sigmas))):
        low, high = map(float, edges)
        _check_resolved(low, high, np.asarray(sigmas, np.float64))
    if is_concrete(now):
        advice = "widen the schedule or move it to the levels of the ladder"
        good = bool(np.isfinite(now)) and float(now) != 0
        check(good, "weight_fn", "a schedule that differs from its baseline", f"a sum of {now}", advice)
    return _Scaled(schedule, factor, baseline)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weight_fn", "factor", "baseline"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True, eq=False)
class _Scaled:
    """Weight function of `with_budget`; a pytree."""

    weight_fn: Any
    factor: Any
    baseline: Any

    def __call__(self, sigma: Any) -> Float[Array, ""]:
        return _scaled(self, sigma)


@program
def _scaled(schedule: _Scaled, sigma: Any) -> Array:
    factor, baseline = schedule.factor, schedule.baseline
    weight = as_weight(schedule.weight_fn(as_level(sigma)))
    return jnp.asarray(baseline + factor * (weight - baseline))


@program(static_argnums=4)
def _factor(weight_fn: Any, sigmas: Array, budget: Any, baseline: Any, solver: str) -> tuple[Array, Array]:
    """Return what a schedule spends, and the factor that it takes to spend the budget."""
    now = _guidance_budget(weight_fn, sigmas, baseline, solver)
    return now, budget / now


def _check_resolved(low: float, high: float, sigmas: np.ndarray) -> None:
    """Raise `ValueError` if the part of a pulse on the ladder is narrower than the step around its middle."""
    tau = -np.log(sigmas)
    first, last = np.clip(-np.log(np.maximum([high, low], np.finfo(float).tiny)), tau[0], tau[-1])
    n = int(np.clip(np.searchsorted(tau, (first + last) / 2) - 1, 0, len(tau) - 2))
    step = tau[n + 1] - tau[n]
    tolerance = 1e-5 * step  # edges that are levels, in float32
    advice = f"widen it to a factor {np.exp(step):.4g} in sigma or more, or use a finer ladder there"
    expected = f"a pulse at least one step of the ladder wide, {step:.4g} in ln sigma at this place"
    check(
        bool(last - first >= step - tolerance),
        "weight_fn",
        expected,
        f"a width of {last - first:.4g}",
        advice,
    )
