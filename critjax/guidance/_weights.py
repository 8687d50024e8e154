"""Guided denoisers and the weights, functions of the noise level, that mix their two parts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from critjax._checks import check, check_finite, check_sigmas, is_concrete, message
from critjax._programs import as_argument, as_pytree, program
from critjax._typing import Array, ArrayLike, DenoiseFn, Float, Scalar
from critjax.noise import is_inside

#: A noise level in, the guidance weight there out: ``(sigma ()) -> ()``.
WeightFn: TypeAlias = Callable[..., Any]

_HALF_MAXIMUM = np.sqrt(2 * np.log(2))  # where a Gaussian has fallen to one half, in standard deviations


def guided(
    unconditional: DenoiseFn, conditional: DenoiseFn, weight_fn: WeightFn, *, skip: bool = True
) -> DenoiseFn:
    r"""Mix two denoisers with a weight that depends on the noise level.

    .. math:: D_g(x, \sigma) = D_u + w(\sigma)\,(D_c - D_u) = (1 - w)\,D_u + w\,D_c

    Parameters
    ----------
    unconditional, conditional : DenoiseFn
        D_u and D_c, ``(x (H, W, C), sigma) -> (H, W, C)``: patch models, networks or closed forms alike, for example
        ``patch_denoiser(bank)`` beside ``patch_denoiser(select(bank, label))``, or
        ``network_denoiser(config, params)`` beside ``network_denoiser(config, params, label)``.
    weight_fn : callable
        ``sigma -> w``: `constant`, `pulse`, `smooth_pulse`, `weights_on` or any other; w = 0 is unconditional, w = 1
        conditional, beyond 1 extrapolates.
    skip : bool
        Evaluate only what the weight needs: not D_c where w = 0, not D_u where w = 1. The result then has no
        derivative with respect to the weight, which at w = 0 is the D_c - D_u that was skipped; asking for it raises.
        ``skip=False`` evaluates both everywhere and has it.

    Returns
    -------
    DenoiseFn
        Each call equals D_u where w = 0 and D_c where w = 1 to the last bit, with either ``skip`` (where both are
        finite). Within a larger program the compiler may round what follows differently, unless the weight is known
        while tracing to be 0 or 1, as for `constant` and pulses of zero width: then it is the same program.

    Raises
    ------
    ValueError
        When called: if the weight is no scalar, or a denoiser does not return the shape of x.
    TypeError
        If ``skip`` and the weight is differentiated.

    Notes
    -----
    The branches of `jax.lax.cond` on the weight: it depends on sigma alone, so that they stay branches under
    `jax.vmap` over images; mapped over noise levels or weights both sides are computed. Ho & Salimans 2022,
    arXiv:2207.12598; weights that depend on the noise: Kynkaanniemi et al. 2024, arXiv:2404.07724. THEORY section 8.

    Example
    -------
    >>> denoise = guided(lambda x, s: 0 * x, lambda x, s: x, pulse(1.0, 4.0, 0.5))
    >>> [float(denoise(jnp.ones((1, 1, 1)), sigma)[0, 0, 0]) for sigma in (5.0, 4.0, 1.0)]
    [0.0, 0.5, 0.0]
    """
    unconditional = as_pytree("unconditional", unconditional)
    conditional = as_pytree("conditional", conditional)
    known = _known(weight_fn) if skip else None
    return _Guided(unconditional, conditional, as_pytree("weight_fn", weight_fn), bool(skip), known)


def _known(weight_fn: WeightFn) -> int | None:
    """Return 0 or 1 where a schedule is known to have this weight at every level."""
    if isinstance(weight_fn, Pulse) and weight_fn.empty:
        weight = weight_fn.baseline
    elif isinstance(weight_fn, _Constant):
        weight = weight_fn.weight
    else:
        return None
    return int(weight) if is_concrete(weight) and float(weight) in (0, 1) else None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["unconditional", "conditional", "weight_fn"],
    meta_fields=["skip", "known"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class _Guided:
    """Denoiser of `guided`; a pytree. ``known`` is the weight, 0 or 1, where that is no matter of the level."""

    unconditional: Any
    conditional: Any
    weight_fn: Any
    skip: bool
    known: int | None

    def __call__(self, x: ArrayLike, sigma: Any) -> Float[Array, "*shape"]:
        return _mix(self, as_argument(x), sigma)


@program
def _mix(guided: _Guided, x: Any, sigma: Any) -> Array:
    def evaluate(name: str) -> Array:
        out = getattr(guided, name)(x, sigma)
        check(out.shape == x.shape, name, f"results of shape {x.shape}", f"shape {out.shape}", "fix it")
        return out.astype(x.dtype)

    def part(name: str, unused: Any) -> Array:
        def used() -> Array:
            return evaluate(name)

        return jax.lax.cond(unused, lambda: jnp.zeros_like(x), used) if guided.skip else used()

    names = ("unconditional", "conditional")
    x, sigma = jnp.asarray(x), as_level(sigma)
    if guided.known is not None:
        return evaluate(names[guided.known])  # the other denoiser does not even enter the program
    weight = guided.weight_fn(sigma)
    if guided.skip and is_concrete(weight) and jnp.shape(weight) == () and float(weight) in (0, 1):
        return evaluate(names[int(weight)])  # a function of the user's that returns a number
    weight = as_weight(weight).astype(x.dtype)
    if guided.skip:
        weight = _undifferentiated(weight)
    plain = part("unconditional", weight == 1)
    guide = part("conditional", weight == 0)
    # Unlike D_u + w (D_c - D_u) this is exact at both ends, and so is its derivative.
    return (1 - weight) * plain + weight * guide


@jax.custom_jvp
def _undifferentiated(weight: Array) -> Array:
    """Return the weight; refuse to be differentiated rather than to answer zero."""
    return weight


def _refuse_derivative(primals, tangents):
    if not isinstance(tangents[0], SymbolicZero):
        expected = "a weight that is not differentiated where branches are skipped"
        raise TypeError(message("weight_fn", expected, "a derivative", "pass skip=False to guided"))
    return primals[0], tangents[0]


_undifferentiated.defjvp(_refuse_derivative, symbolic_zeros=True)


def as_level(number: Any) -> Array:
    """Return a noise level, or a weight, as a floating array."""
    number = jnp.asarray(number)
    return number if jnp.issubdtype(number.dtype, jnp.floating) else number * 1.0


def as_weight(weight: Any) -> Array:
    """Return the result of a weight function as a floating scalar."""
    weight = as_level(weight)
    check(weight.shape == (), "weight_fn", "a scalar weight", f"shape {weight.shape}", "return one number")
    return weight


def _check_scalars(**values: Any) -> None:
    for name, value in values.items():
        got = tuple(jnp.shape(value))
        check(got == (), name, "a scalar", f"shape {got}", "map over several with jax.vmap")
        if is_concrete(value):
            check(bool(np.isfinite(value)), name, "a finite number", float(value), "0 is no guidance")


def constant(weight: Any) -> WeightFn:
    """Weigh every noise level alike.

    Parameters
    ----------
    weight : scalar
        w; 0 is unconditional, 1 conditional.

    Returns
    -------
    callable
        ``sigma -> w``.

    Raises
    ------
    ValueError
        If the weight is no finite scalar.

    Example
    -------
    >>> print(constant(1.5)(0.3))
    1.5
    """
    _check_scalars(weight=weight)
    return _Constant(weight)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["weight"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class _Constant:
    """Weight function of `constant`; a pytree."""

    weight: Any

    def __call__(self, sigma: Any) -> Any:
        return self.weight


class Pulse(NamedTuple):
    """Weight function of `pulse`; a pytree, so that it may be mapped over and differentiated."""

    sigma_low: Any
    """Lower edge, not inside."""
    sigma_high: Any
    """Upper edge, inside."""
    weight: Any
    """Weight inside."""
    baseline: Any = 0.0
    """Weight outside."""

    @property
    def edges(self) -> tuple[Any, Any]:
        """Lower and upper noise level of the pulse."""
        return self.sigma_low, self.sigma_high

    @property
    def empty(self) -> bool:
        """Whether the pulse is known to have no width."""
        return all(map(is_concrete, self.edges)) and float(self.sigma_low) == float(self.sigma_high)

    def __call__(self, sigma: Any) -> Scalar:
        """Return the weight at one noise level."""
        return self.baseline if self.empty else _pulse(self, sigma)


@program
def _pulse(pulse: Pulse, sigma: Any) -> Array:
    sigma = as_level(sigma)
    low, high, weight, baseline = (jnp.asarray(value, sigma.dtype) for value in pulse)
    return jnp.where(is_inside(sigma, low, high), weight, baseline)


def pulse(sigma_low: Any, sigma_high: Any, weight: Any, *, baseline: Any = 0.0) -> Pulse:
    r"""Weigh one interval of noise levels: w = weight for sigma_low < sigma <= sigma_high, baseline elsewhere.

    Generation goes down in noise: the interval holds the level at which it is entered, not the one at which it is
    left. An edge within 1e-4 of a level counts as at it. Neighbouring pulses tile, and a pulse of zero width is
    exactly no guidance.

    Parameters
    ----------
    sigma_low, sigma_high : scalars
        Edges, standard deviations, ``0 <= sigma_low <= sigma_high``; infinity is allowed.
    weight : scalar
        Weight inside; 0 is unconditional, 1 conditional.
    baseline : scalar
        Weight outside.

    Returns
    -------
    Pulse
        ``sigma -> w``.

    Raises
    ------
    ValueError
        If the edges are out of order, or a number is no scalar or not finite.

    Notes
    -----
    Kynkaanniemi et al. 2024, arXiv:2404.07724. See `with_budget` for pulses of equal budget.

    Example
    -------
    >>> weight_fn = pulse(1.0, 2.0, 3.0, baseline=0.5)
    >>> print(weight_fn(2.5), weight_fn(2.0), weight_fn(1.0))
    0.5 3.0 0.5
    """
    _check_scalars(weight=weight, baseline=baseline)
    for name, edge in (("sigma_low", sigma_low), ("sigma_high", sigma_high)):
        got = tuple(jnp.shape(edge))
        check(got == (), name, "a scalar", f"shape {got}", "map over several with jax.vmap")
    if is_concrete(sigma_low) and is_concrete(sigma_high):
        low, high = float(sigma_low), float(sigma_high)
        advice = "pass the lower noise level first; NaN means that no window was found"
        check(0 <= low <= high, "sigma_low, sigma_high", "0 <= sigma_low <= sigma_high", (low, high), advice)
    return Pulse(sigma_low, sigma_high, weight, baseline)


class SmoothPulse(NamedTuple):
    """Weight function of `smooth_pulse`; a pytree, so that it may be mapped over and differentiated."""

    centre: Any
    """Noise level of the maximum."""
    width: Any
    """Standard deviation in ln sigma."""
    weight: Any
    """Weight at the centre."""
    baseline: Any = 0.0
    """Weight far away."""

    @property
    def edges(self) -> tuple[Any, Any]:
        """Lower and upper noise level at half of the maximum."""
        return _half_maximum(self.centre, self.width)

    def __call__(self, sigma: Any) -> Float[Array, ""]:
        """Return the weight at one noise level."""
        return _smooth_pulse(self, sigma)


@program
def _half_maximum(centre: Any, width: Any) -> tuple[Array, Array]:
    factor = jnp.exp(_HALF_MAXIMUM * jnp.asarray(width))
    return centre / factor, centre * factor


@program
def _smooth_pulse(pulse: SmoothPulse, sigma: Any) -> Array:
    sigma = as_level(sigma)
    centre, width, weight, baseline = (jnp.asarray(value, sigma.dtype) for value in pulse)
    distance = jnp.log(sigma / centre) / jnp.where(width > 0, width, 1)
    shape = jnp.where(width > 0, jnp.exp(-(distance**2) / 2), 0)
    return baseline + (weight - baseline) * shape


def smooth_pulse(centre: Any, width: Any, weight: Any, *, baseline: Any = 0.0) -> SmoothPulse:
    r"""Weigh noise levels by a Gaussian in ln sigma.

    .. math:: w(\sigma) = w_0 + (\mathrm{weight} - w_0)\, e^{-(\ln \sigma/\mathrm{centre})^2 / 2\,\mathrm{width}^2}

    Parameters
    ----------
    centre : scalar > 0
        Noise level of the maximum.
    width : scalar >= 0
        Standard deviation in ln sigma; 0 is exactly the baseline everywhere.
    weight : scalar
        Weight at the centre.
    baseline : scalar
        Weight w_0 far away.

    Returns
    -------
    SmoothPulse
        ``sigma -> w``. Differentiable in all numbers; nowhere exactly 0 or 1, so that a guided denoiser seldom skips.

    Raises
    ------
    ValueError
        If a number is no scalar, not finite or out of range.

    Example
    -------
    >>> print(smooth_pulse(2.0, 0.5, 3.0)(2.0))
    3.0
    """
    _check_scalars(centre=centre, width=width, weight=weight, baseline=baseline)
    if is_concrete(centre):
        check(float(centre) > 0, "centre", "a noise level > 0", float(centre), "pass a standard deviation")
    if is_concrete(width):
        check(float(width) >= 0, "width", "a width >= 0 in ln sigma", float(width), "pass e.g. 0.5")
    return SmoothPulse(centre, width, weight, baseline)


def weights_on(sigmas: Float[ArrayLike, " levels"], values: Float[ArrayLike, " values"]) -> WeightFn:
    r"""Weigh by a table: the value at the level that is nearest in ln sigma.

    Parameters
    ----------
    sigmas : float array (num + 1,)
        Strictly decreasing noise levels, those of the sampler.
    values : float array (num + 1,)
        A weight for each.

    Returns
    -------
    callable
        ``sigma -> w``: exact at the levels, piecewise constant between them with steps at their geometric means;
        beyond both ends the value of that end. Differentiable in ``values``.

    Raises
    ------
    ValueError
        If the ladder does not decrease, the shapes differ or a concrete value is not finite.

    Example
    -------
    >>> weight_fn = weights_on(np.array([4.0, 2.0, 1.0]), np.array([0.0, 3.0, 1.0]))
    >>> print(weight_fn(2.0), weight_fn(2.9), weight_fn(1.3))
    3.0 0.0 1.0
    """
    check_sigmas("sigmas", sigmas)
    expected, got = f"shape {tuple(sigmas.shape)}, one weight for each level", f"shape {tuple(values.shape)}"
    check(tuple(values.shape) == tuple(sigmas.shape), "values", expected, got, "give a weight for each level")
    check_finite("values", values)
    return _Table(sigmas, values)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["sigmas", "values"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """Weight function of `weights_on`; a pytree."""

    sigmas: Any
    values: Any

    def __call__(self, sigma: Any) -> Float[Array, ""]:
        return _nearest(self, sigma)


@program
def _nearest(table: _Table, sigma: Any) -> Array:
    levels = jnp.log(jnp.asarray(table.sigmas))
    return jnp.asarray(table.values)[jnp.argmin(jnp.abs(levels - jnp.log(as_level(sigma))))]
