"""Freeze-out: the structure factor of annealed Langevin dynamics, and the length at which it stops growing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_scalar, as_sigmas, check, check_count, check_eta, check_option, check_rank
from critjax._programs import as_argument, as_pytree, program
from critjax._typing import Array, ArrayLike, Complex, Float, SymbolFn
from critjax.fluctuations._linear import adjoint, is_quiet, matrix_product


class _Affine(NamedTuple):
    """The map ``S -> (1 + E) S (1 + E)^dagger + N``; E itself is kept, because 1 + E would round it off."""

    change: Array
    noise: Array


def _transport(change: Array, matrix: Array) -> Array:
    """Return ``(1 + E) M (1 + E)^dagger``."""
    half = matrix + matrix_product(change, matrix)
    return half + matrix_product(half, adjoint(change))


def _then(first: _Affine, second: _Affine) -> _Affine:
    change = first.change + second.change + matrix_product(second.change, first.change)
    return _Affine(change, _transport(second.change, first.noise) + second.noise)


def _repeated(step: _Affine, binary: Array) -> _Affine:
    """Compose as many copies of a map as binary digits say, by repeated squaring: the geometric sum of any gap."""

    def digit(total: _Affine, one: Array) -> tuple[_Affine, None]:
        doubled = _then(total, total)
        more = _then(doubled, step)
        return _Affine(*(jnp.where(one, a, b) for a, b in zip(more, doubled, strict=True))), None

    identity = _Affine(jnp.zeros_like(step.change), jnp.zeros_like(step.noise))
    return jax.lax.scan(digit, identity, binary)[0]


def _predictor(solver: str, eta: Any) -> Callable[..., _Affine]:
    """Return one step of `critjax.sample` between two levels, of a linear field."""

    def euler(gap: Array, later_gap: Array, sigma: Array, later: Array) -> _Affine:
        del later_gap
        identity = jnp.eye(gap.shape[-1], dtype=gap.dtype)
        noise = eta * (sigma - later) * (sigma + later) * identity
        return _Affine(-(1 + eta) * (1 - later / sigma) * gap, jnp.broadcast_to(noise, gap.shape))

    def heun(gap: Array, later_gap: Array, sigma: Array, later: Array) -> _Affine:
        first = euler(gap, later_gap, sigma, later)
        # Half of the drift at the far end acts on what Euler predicts, noise included; half of the near one stays.
        end = -0.5 * (1 + eta) * (sigma / later - 1) * later_gap
        change = 0.5 * first.change + end + matrix_product(end, first.change)
        return _Affine(change, _transport(end, first.noise))

    return {"euler": euler, "heun": heun}[solver]


def langevin_structure_factor(
    symbol_fn: SymbolFn,
    sigmas: Float[ArrayLike, " num"],
    *,
    langevin_steps: int,
    step_size: Any = 0.1,
    solver: str | None = None,
    eta: Any = 0.0,
    levels: Sequence[int] | None = None,
) -> Complex[Array, "saved H W C C"]:
    r"""Compute the structure factor of annealed Langevin dynamics on a ladder, in linear theory but without error.

    At every level after the first each mode is taken through n corrector steps at fixed noise,

    .. math:: S \leftarrow (1 - e\,g)\, S\, (1 - e\,g)^\dagger + 2 e \sigma^2, \qquad g = 1 - \hat D(k, \sigma)

    which for one channel sum up to :math:`q^n S + 2 e \sigma^2 (1 - q^n)/(1 - q)`, :math:`q = |1 - e g|^2`. With
    ``solver=None`` nothing else happens: pure annealed Langevin, n steps a level, which on a ladder of spacing h in
    ln sigma is the rate a = n e/h per unit of tau. With "euler" or "heun" the step that `critjax.sample` takes from
    level to level comes first, so that the result is the ensemble average of ``sample(..., solver=solver, eta=eta,
    langevin_steps=n, step_size=e)``: the rate is then a + 1 + eta.

    Parameters
    ----------
    symbol_fn : SymbolFn
        ``(sigma) -> (H, W, C, C)``; the true symbol for a linear denoiser, the bare one for linear theory.
    sigmas : float array (num,)
        Strictly decreasing standard deviations; the field starts as white noise at the first, uncorrected.
    langevin_steps : int
        Corrector steps n >= 0 at every later level.
    step_size : scalar
        e, dimensionless, in (0, 2).
    solver : "euler", "heun" or None
        The step between levels.
    eta : scalar >= 0
        Stochasticity of that step; without a solver it must be zero.
    levels : sequence of int, optional
        Increasing indices of the levels to return, so that a long ladder needs no more memory than these.
        Default: all.

    Returns
    -------
    complex array (num or number of chosen levels, H, W, C, C)
        S(k, sigma) = <x_k x_k^dagger>/N_pixels at every level after its correction, FFT order, Hermitian.

    Raises
    ------
    ValueError
        If the ladder, the number of steps, the step size, the solver, ``eta`` or a level is illegal.

    Notes
    -----
    One symbol per level and ``2 log2(n)`` products of C x C matrices per mode. Exact, discretisation included,
    for denoisers linear in x: there is no continuum limit in it. Stable modes (0 < e g < 2) tend to
    ``sigma^2/(g (1 - e g/2))``; marginal ones grow as ``2 e sigma^2 n``, with nothing to divide by zero. THEORY
    sections 1 and 5.

    Example
    -------
    Without data the gap is one, and many steps reach ``sigma^2/(1 - e/2)``:

    >>> free = lambda sigma: jnp.zeros((4, 4, 1, 1), "complex64")
    >>> s = langevin_structure_factor(free, jnp.array([2.0, 1.0]), langevin_steps=100, step_size=0.5)
    >>> round(float(s[1, 0, 0, 0, 0].real), 4)
    1.3333
    """
    sigmas = as_sigmas("sigmas", sigmas)
    eta = check_eta(eta)
    advice = "0 leaves the solver alone"
    number = check_count("langevin_steps", langevin_steps, least=0, advice=advice)
    step_size = as_scalar(
        "step_size", step_size, "a number in (0, 2)", "larger steps are unstable", good=lambda e: 0 < e < 2
    )
    if solver is None:
        check(number > 0, "langevin_steps", "at least one without a solver", number, "or pass a solver")
        check(is_quiet(eta), "eta", "0 without a solver", eta, "pass solver='euler' or 'heun'")
    else:
        check_option("solver", solver, ("euler", "heun"))
    if levels is not None:
        stops = [int(stop) for stop in levels]
        good = bool(stops) and stops == sorted(set(stops)) and stops[0] >= 0 and stops[-1] < sigmas.shape[0]
        expected = f"increasing indices below {sigmas.shape[0]}"
        check(good, "levels", expected, stops, "count levels from 0")
        levels = tuple(stops)
    # The leading digit first; whole bytes, so that most numbers of steps share a program.
    binary = np.array([bit == "1" for bit in f"{number:0{8 * -(-number.bit_length() // 8)}b}"])
    symbol_fn = as_pytree("symbol_fn", symbol_fn)
    return _langevin_structure_factor(symbol_fn, sigmas, binary, step_size, eta, solver, levels)


@program(static_argnums=(5, 6))
def _langevin_structure_factor(
    symbol_fn: Any,
    sigmas: Array,
    binary: Array,
    step_size: Any,
    eta: Any,
    solver: str | None,
    levels: tuple[int, ...] | None,
) -> Array:
    shape = jax.eval_shape(symbol_fn, sigmas[0])
    check_rank("symbol_fn(sigma)", shape, "H W C C")
    dtype = jnp.promote_types(shape.dtype, jnp.complex64)
    identity = jnp.eye(shape.shape[-1], dtype=dtype)
    start = jnp.broadcast_to(sigmas[0] ** 2 * identity, shape.shape).astype(dtype)

    def gap_at(sigma: Array) -> Array:
        return (identity - symbol_fn(sigma)).astype(dtype)

    def level(carry: tuple[Array, Array], pair: Array) -> tuple[tuple[Array, Array], Array]:
        spectrum, gap = carry
        sigma, later = pair
        later_gap = gap_at(later)
        if solver is not None:
            step = _predictor(solver, eta)(gap, later_gap, sigma, later)
            spectrum = _transport(step.change, spectrum) + step.noise
        noise = jnp.broadcast_to(2 * step_size * later**2 * identity, gap.shape)
        correct = _repeated(_Affine(-step_size * later_gap, noise.astype(dtype)), binary)
        spectrum = (_transport(correct.change, spectrum) + correct.noise).astype(dtype)
        spectrum = (spectrum + adjoint(spectrum)) / 2
        return (spectrum, later_gap), spectrum

    state, pairs = (start, gap_at(sigmas[0])), jnp.stack([sigmas[:-1], sigmas[1:]], axis=1)
    if levels is None:
        return jnp.concatenate([start[None], jax.lax.scan(level, state, pairs)[1]])
    kept, done = [], 0
    for stop in levels:
        state, _ = jax.lax.scan(lambda carry, pair: (level(carry, pair)[0], None), state, pairs[done:stop])
        kept.append(state[0])
        done = stop
    return jnp.stack(kept)


def freeze_out_length(stiffness: Any, rate: Any) -> Array:
    r"""Give the correlation length with which a swept field arrives at its bare critical noise.

    .. math:: \xi = \sqrt K \left( \frac{2a}{\pi} \right)^{1/4}

    Parameters
    ----------
    stiffness : scalar or array
        K in pixels^2, Dhat(k) = Dhat(0) - K k^2 + ... at sigma_c; two patterns: (p^2 - 1)/24.
    rate : scalar or array
        a, relaxation per unit of tau at unit gap: n e for n Langevin steps of size e per unit of tau, 1 + eta for the
        reverse SDE.

    Returns
    -------
    array
        xi in pixels, xi^2 = -d ln S/dk^2 at k = 0 (the second-moment length of a large grid).

    Notes
    -----
    Linear theory, leading order at large a. With s = ln(sigma/sigma_c) the gap is 2 s + K k^2, so that
    S(k) = 2 a sigma_c^2 int_0^inf exp(-2 a (s^2 + K k^2 s)) ds and xi^2 = 2 a K <s>, where s has the weight
    exp(-2 a s^2), hence <s> = (2 pi a)^{-1/2}. For Dhat(0) = (sigma_c/sigma)^2, K in proportion, the next order
    multiplies xi^2 by 1 + (pi - 8/3) (2 pi a)^{-1/2}. Exponents: 1/4 = nu/(1 + z nu), nu = 1/2, z = 2 (Zurek 1985,
    Nature 317, 505). Fluctuations move the transition away from sigma_c: a statement on the linear equation, not a
    prediction for samples. THEORY section 5.

    Example
    -------
    >>> print(f"{freeze_out_length(1.0, jnp.pi / 2):.4f}")
    1.0000
    """
    return _freeze_out_length(as_argument(stiffness), as_argument(rate))


@program
def _freeze_out_length(stiffness: Any, rate: Any) -> Array:
    return jnp.sqrt(stiffness) * (2 * jnp.asarray(rate) / jnp.pi) ** 0.25


def freeze_out_distance(rate: Any) -> Array:
    r"""Give the distance ln(sigma/sigma_c) at which a swept field stops following equilibrium, ``(2 a)^{-1/2}``.

    There the relaxation time 1/(a g) of the uniform mode, with the gap g = 2 s at s = ln(sigma/sigma_c), equals the
    time s that is left; the weight exp(-2 a s^2) of `freeze_out_length` has fallen to 1/e.

    Parameters
    ----------
    rate : scalar or array
        a as in `freeze_out_length`.

    Returns
    -------
    array
        In units of tau. A ladder must be finer than this around sigma_c; see `resolves_freeze_out`.

    Example
    -------
    >>> print(f"{freeze_out_distance(50.0):.2f}")
    0.10
    """
    return _freeze_out_distance(as_argument(rate))


@program
def _freeze_out_distance(rate: Any) -> Array:
    return (2 * jnp.asarray(rate)) ** -0.5


def resolves_freeze_out(
    sigmas: Float[ArrayLike, " num"], rate: Any, critical_sigma: Any, *, fraction: float = 0.25
) -> Array:
    r"""Tell whether a ladder is fine enough around the critical noise for its freeze-out.

    The criterion: the ladder spans sigma_c (1 + 2 w) ... sigma_c, w = (2 a)^{-1/2}, and no step of ln sigma in there
    exceeds ``fraction w``.

    Parameters
    ----------
    sigmas : float array (num,)
        Strictly decreasing ladder.
    rate : scalar
        a: Langevin steps times step size per unit of tau.
    critical_sigma : scalar
        sigma_c.
    fraction : float
        Largest step allowed, in units of w; at 1/4 the linear length at sigma_c is right within a few per cent.

    Returns
    -------
    bool array ()
        False also if the ladder starts too late or ends before sigma_c.

    Raises
    ------
    ValueError
        If ``sigmas`` is no ladder of two levels.

    Notes
    -----
    A ladder that fails lets the last level before sigma_c equilibrate alone: xi then grows as n^{1/2}. THEORY
    section 5.

    Example
    -------
    >>> ladder = jnp.exp(jnp.linspace(0.5, 0.0, 11))  # steps of 0.05 down to 1
    >>> bool(resolves_freeze_out(ladder, 10.0, 1.0)), bool(resolves_freeze_out(ladder, 1000.0, 1.0))
    (True, False)
    """
    sigmas = as_sigmas("sigmas", sigmas, minimum=2)
    return _resolves_freeze_out(sigmas, rate, critical_sigma, fraction)


@program
def _resolves_freeze_out(sigmas: Array, rate: Any, critical_sigma: Any, fraction: Any) -> Array:
    width = freeze_out_distance(rate)
    above = jnp.log(sigmas / critical_sigma)
    slack = 1e-5  # levels that mean to be at sigma_c may miss it by rounding
    spans = (above[0] >= 2 * width - slack) & (above[-1] <= slack)
    near = (above[1:] < 2 * width) & (above[:-1] > slack)
    return spans & jnp.all(jnp.where(near, -jnp.diff(above), 0) <= fraction * width + slack)
