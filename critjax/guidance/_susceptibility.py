"""How much one unit of guidance at each noise level changes a response: measured, and in linear theory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from critjax._checks import as_sigmas, check, check_eta, check_option, is_concrete
from critjax._programs import as_argument, as_pytree, program
from critjax._typing import Array, ArrayLike, DenoiseFn, Float, PRNGKey
from critjax.guidance._budget import SOLVERS, quadrature_weights
from critjax.guidance._weights import constant, guided, weights_on
from critjax.sampling import sample

#: States of the sampler that reverse mode keeps, at most.
_NUM_SAVED = 64


class Susceptibility(NamedTuple):
    """Result of `susceptibility`."""

    sigma: Float[Array, " levels"]
    """The sampler's noise levels."""
    value: Float[Array, "*responses levels"]
    """chi_n = (1/q_n) dR/dw_n; NaN where q_n = 0, at the last level of the Euler solver."""
    response: Float[Array, "*responses"]
    """R of the final image."""
    weights: Float[Array, " levels"]
    """The weights w_n about which the response is expanded."""
    quadrature: Float[Array, " levels"]
    """q_n of `quadrature_weights`: ``sum(value * quadrature * change)`` is the response to a change of weights."""


def susceptibility(
    unconditional: DenoiseFn,
    conditional: DenoiseFn,
    response_fn: Callable[..., Any],
    key: PRNGKey,
    shape: tuple[int, int, int],
    sigmas: Float[ArrayLike, " levels"],
    *,
    weights: Any = 0.0,
    eta: Any = 0.0,
    solver: str = "heun",
    x_init: Float[Array, "H W C"] | None = None,
) -> Susceptibility:
    r"""Differentiate a response of the generated image with respect to the guidance weight at every noise level.

    .. math:: \chi_n = \frac{1}{q_n}\,\frac{\partial R}{\partial w_n}, \qquad
              \delta R = \sum_n q_n\,\chi_n\,\delta w_n \approx \int \chi\,\delta w\, d\tau

    Parameters
    ----------
    unconditional, conditional : DenoiseFn
        As in `guided`: patch models, networks or closed forms.
    response_fn : callable
        R: the final image (H, W, C) to a scalar or a vector (R,), differentiable, such as a classifier's
        log-probability or a mean.
    key, shape, sigmas, eta, solver, x_init
        As in `sample`; batch with `jax.vmap` over keys. The derivative is taken at fixed noise.
    weights : scalar or float array (num + 1,)
        Guidance weights w_n on the levels about which to expand; 0 is the unconditional model.

    Returns
    -------
    Susceptibility
        ``value`` (num + 1,) or (R, num + 1): response per unit of weight and of tau = -ln sigma, in the units of R.

    Raises
    ------
    ValueError
        On bad input of `sample`, weights of a wrong shape, or a response that is neither scalar nor vector.

    Notes
    -----
    One reverse pass through the sampler, exact up to rounding: about four times the cost of sampling, for all levels at
    once; two more for every further response. Where all weights are known to be 0, or 1, the other model is evaluated
    only once a level. At most 64 states are kept; longer ladders recompute those between them. THEORY section 8.

    Example
    -------
    Two known images, 0 and 1: what an early push adds is forgotten, and all pushes together lead from one to the other:

    >>> sigmas = jnp.exp(-jnp.arange(9.0))
    >>> one = lambda x, sigma: jnp.ones_like(x)
    >>> chi = susceptibility(lambda x, s: 0 * x, one, jnp.mean, jax.random.key(0), (4, 4, 1), sigmas)
    >>> int(jnp.argmax(chi.value)), bool(abs(chi.value @ chi.quadrature - 1) < 1e-3)
    (8, True)
    """
    sigmas = as_sigmas("sigmas", sigmas, minimum=2)
    eta = check_eta(eta)
    check_option("solver", solver, SOLVERS)
    weights = as_argument(weights)
    got = f"shape {np.shape(weights)}"
    advice = "pass one weight for each level of sigmas"
    check(
        np.shape(weights) in ((), sigmas.shape), "weights", f"a scalar or shape {sigmas.shape}", got, advice
    )
    known = None
    if is_concrete(weights) and (np.all(np.asarray(weights) == 0) or np.all(np.asarray(weights) == 1)):
        known = int(np.ravel(weights)[0])
    return _susceptibility(
        as_pytree("unconditional", unconditional),
        as_pytree("conditional", conditional),
        as_pytree("response_fn", response_fn),
        key,
        sigmas,
        weights,
        eta,
        x_init,
        tuple(shape),
        solver,
        known,
        is_concrete(eta) and float(eta) == 0,
    )


@program(static_argnums=(8, 9, 10, 11))
def _susceptibility(
    unconditional: Any,
    conditional: Any,
    response_fn: Any,
    key: PRNGKey,
    sigmas: Array,
    weights: Any,
    eta: Any,
    x_init: Any,
    shape: tuple[int, int, int],
    solver: str,
    known: int | None,
    still: bool,
) -> Susceptibility:
    nodes = quadrature_weights(sigmas, solver)
    table = jnp.broadcast_to(jnp.asarray(weights), nodes.shape).astype(sigmas.dtype)
    # The states between those that are saved are recomputed in reverse mode.
    block = -(-(len(sigmas) - 1) // _NUM_SAVED)
    options = {"eta": 0.0 if still else eta, "solver": solver, "x_init": x_init, "save_every": block}

    def response(table: Array) -> tuple[Array, Array]:
        weight_fn = weights_on(sigmas, table)
        denoise: DenoiseFn
        if known is None:
            denoise = guided(unconditional, conditional, weight_fn, skip=False)
        else:
            own, other = (guided(unconditional, conditional, constant(w)) for w in (known, 1 - known))
            denoise = _About(own, other, weight_fn, 1 - 2 * known)
        value = jnp.asarray(response_fn(sample(denoise, key, shape, sigmas, **options).x[-1]))
        got = f"shape {value.shape}"
        check(
            value.ndim <= 1, "response_fn", "a scalar or a vector of responses of the image", got, "reduce it"
        )
        return value, value

    slope, value = jax.jacrev(response, has_aux=True)(table)
    carried = nodes > 0
    chi = jnp.where(carried, slope / jnp.where(carried, nodes, 1), jnp.nan)
    return Susceptibility(sigmas, chi, value, table, nodes)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["own", "other", "weight_fn"], meta_fields=["sign"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class _About:
    """Guide where the weight is known to be that of ``own`` alone: the other model enters first derivatives only."""

    own: Any
    other: Any
    weight_fn: Any
    sign: int

    def __call__(self, x: Array, sigma: Array) -> Array:
        value = self.own(x, sigma)
        return value + _push(self.sign, self.other, x, sigma, value, self.weight_fn(sigma))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _push(sign: int, other: Any, x: Array, sigma: Array, value: Array, weight: Array) -> Array:
    """Return zero, whose derivative with respect to the weight is the other model less the value."""
    return jnp.zeros_like(value)


@_push.defjvp
def _push_jvp(sign: int, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    # Only arguments: what a rule closes over is gone where it is used inside a program.
    other, x, sigma, value, _ = primals
    change = sign * tangents[-1].astype(value.dtype) * (other(x, sigma) - value)
    return jnp.zeros_like(value), change


def linear_response(
    symbol: Inexact[ArrayLike, "*modes"],
    difference: Inexact[ArrayLike, "*same"],
    sigmas: Float[ArrayLike, " levels"],
    *,
    eta: Any = 0.0,
) -> Inexact[Array, "*modes"]:
    r"""Compute the susceptibility of Fourier modes in linear theory from a symbol on a ladder.

    .. math:: \chi_k(\tau) = (1+\eta)\,(D_c - D_u)_k(\tau)\,
              \exp\Big( (1+\eta) \int_\tau^{\tau_{end}} [\lambda_k(\tau') - 1]\, d\tau' \Big)

    whose exponent is the growth rate Gamma plus i (1+eta) Im lambda.

    Parameters
    ----------
    symbol : array (num + 1, ...)
        lambda_k on the levels, real or complex, of the guided model at the baseline weights: one channel or one
        eigenvalue for each mode; the regression symbol once bare theory no longer holds.
    difference : array (num + 1, ...)
        (D_c - D_u)_k on the levels, same shape.
    sigmas : float array (num + 1,)
        Strictly decreasing noise levels.
    eta : scalar >= 0
        Stochasticity.

    Returns
    -------
    array (num + 1, ...)
        chi_k on the levels: the final amplitude of the mode per unit of weight and of tau.

    Raises
    ------
    ValueError
        If shapes differ, the ladder does not decrease or eta is negative.

    Notes
    -----
    Trapezoidal rule in ln sigma, cumulative from the end: second order in the spacing. A mode that loses its gap from
    high noise on, (1+eta)(lambda - 1) < 0 turning positive, has the largest exponential at the crossing. THEORY
    section 8.

    Example
    -------
    For white Gaussian data of variance v lambda = v/(v + sigma^2), and chi peaks where sigma^2 = 2 v:

    >>> sigmas = geometric_sigmas(30.0, 0.01, 400)
    >>> gap = sigmas**2 / (1 + sigmas**2)
    >>> print(f"{sigmas[jnp.argmax(linear_response(1 - gap, gap, sigmas))]:.1f}")
    1.4
    """
    sigmas = as_sigmas("sigmas", sigmas, minimum=2)
    eta = check_eta(eta)
    symbol, difference = as_argument(symbol), as_argument(difference)
    for name, values in (("symbol", symbol), ("difference", difference)):
        good = values.shape[:1] == sigmas.shape and values.shape == symbol.shape
        expected = f"{sigmas.shape[0]} levels first, and equal shapes"
        check(good, name, expected, f"shape {values.shape}", "evaluate both on the levels of sigmas")
    return _linear_response(symbol, difference, sigmas, eta)


@program
def _linear_response(symbol: Any, difference: Any, sigmas: Array, eta: Any) -> Array:
    symbol, difference = jnp.asarray(symbol), jnp.asarray(difference)
    rate = (1 + eta) * (symbol - 1)
    steps = -jnp.diff(jnp.log(sigmas)).reshape(-1, *[1] * (symbol.ndim - 1))
    pieces = steps * (rate[:-1] + rate[1:]) / 2
    tail = jnp.flip(jnp.cumsum(jnp.flip(pieces, 0), axis=0), 0)
    return (1 + eta) * difference * jnp.exp(jnp.concatenate([tail, jnp.zeros_like(tail[:1])]))
