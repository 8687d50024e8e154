"""Linear theory: the structure factor driven by a given symbol, and the step that closures share with it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_sigmas, check_count, check_eta, check_rank, is_concrete
from critjax._programs import as_pytree, program
from critjax._typing import Array, ArrayLike, Complex, Float, SymbolFn

EXACT = jax.lax.Precision.HIGHEST

# Gauss-Legendre nodes and weights on [0, 1], and the integrals from node j to 1 of the three Lagrange
# polynomials through the nodes: together they integrate the symbol over a step, and over what is left of it,
# to sixth order.
NODES = 0.5 + np.sqrt(0.15) * np.array([-1.0, 0.0, 1.0])
_WEIGHTS = np.array([5.0, 8.0, 5.0]) / 18.0


def _tail_weights() -> np.ndarray:
    rows = []
    for start in NODES:
        powers = np.array([(1 - start ** (n + 1)) / (n + 1) for n in range(3)])
        rows.append(np.linalg.solve(np.vander(NODES, 3, increasing=True).T, powers))
    return np.array(rows)


_TAILS = _tail_weights()


def is_quiet(eta: Any) -> bool:
    """Tell whether a stochasticity is known to be zero: a program without noise is shorter."""
    return is_concrete(eta) and float(eta) == 0.0


def adjoint(a: Array) -> Array:
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def _propagator(exponent: Array) -> Array:
    if exponent.shape[-1] == 1:
        return jnp.exp(exponent)
    return jax.scipy.linalg.expm(exponent)


def matrix_product(a: Array, b: Array) -> Array:
    return a * b if a.shape[-1] == 1 else jnp.matmul(a, b, precision=EXACT)


def magnus_step(factor: Array, symbols: Array, sigma: Array, span: Array, eta: Any) -> Array:
    """Advance S by ``span`` in tau, given the symbol at the three Gauss nodes (3, H, W, C, C).

    Magnus expansion to fourth order: exponent ``int A - (h^3/12) [A_mid, A']``; for one channel the
    commutator vanishes and only the quadrature of the symbol is left.
    """
    channels = symbols.shape[-1]
    drift = (1 + eta) * (symbols - jnp.eye(channels, dtype=symbols.dtype))
    weights = jnp.asarray(_WEIGHTS, drift.real.dtype)
    slope = (drift[2] - drift[0]) / float(NODES[2] - NODES[0])

    def exponent(integral: Array, length: Any) -> Array:
        if channels == 1:
            return span * integral
        # Over a fraction l of the step: integral / l is the mean drift there, slope / span its derivative.
        middle = integral / length
        commutator = matrix_product(middle, slope) - matrix_product(slope, middle)
        return span * integral - (span**2 * length**3 / 12) * commutator

    full = _propagator(exponent(jnp.tensordot(weights, drift, 1, precision=EXACT), 1.0))
    advanced = matrix_product(matrix_product(full, factor), adjoint(full))
    if is_quiet(eta):
        return advanced
    noise = jnp.zeros_like(advanced)
    for node, weight, tail in zip(NODES, _WEIGHTS, _TAILS, strict=True):
        integral = jnp.tensordot(jnp.asarray(tail, drift.real.dtype), drift, 1, precision=EXACT)
        rest = _propagator(exponent(integral, float(1 - node)))
        strength = 2 * eta * (sigma * jnp.exp(-float(node) * span)) ** 2
        noise = noise + float(weight) * strength * matrix_product(rest, adjoint(rest))
    return advanced + span * noise


def linear_structure_factor(
    symbol_fn: SymbolFn, sigmas: Float[ArrayLike, " num"], *, eta: Any = 0.0, num_substeps: int = 2
) -> Complex[Array, "num H W C C"]:
    r"""Integrate the structure factor of linear theory down a ladder of noise levels.

    .. math:: dS/d\tau = (1+\eta)[(\hat D - 1) S + S (\hat D - 1)^\dagger] + 2 \eta \sigma^2,
              \qquad S(\sigma_0) = \sigma_0^2, \quad \tau = -\ln \sigma

    Parameters
    ----------
    symbol_fn : SymbolFn
        ``(sigma) -> (H, W, C, C)``: the bare symbol for linear theory, or any other symbol that drives S.
    sigmas : float array (num,)
        Strictly decreasing standard deviations; the field starts as white noise at the first.
    eta : scalar >= 0
        Stochasticity: 0 probability flow, 1 reverse SDE.
    num_substeps : int
        Integration steps between neighbouring levels, three evaluations of ``symbol_fn`` each.

    Returns
    -------
    complex array (num, H, W, C, C)
        S(k, sigma) = <x_k x_k^dagger>/N_pixels in FFT order, Hermitian; white noise of std s has S = s^2.

    Raises
    ------
    ValueError
        If ``sigmas`` does not decrease, ``eta`` is negative or ``num_substeps`` is not positive.

    Notes
    -----
    ``3 num num_substeps`` symbols and matrix exponentials per mode; the error per step is of sixth order in
    the spacing of ln sigma for one channel, of fourth order for several. Exact for fields that stay small;
    THEORY section 5 (linear stability with noise: Hohenberg & Halperin 1977).

    Example
    -------
    Without structure in the data the symbol is zero, and white noise stays white noise of standard deviation
    sigma:

    >>> s = linear_structure_factor(lambda sigma: jnp.zeros((4, 4, 1, 1), "complex64"), jnp.array([2.0, 0.5]))
    >>> round(float(s[1, 0, 0, 0, 0].real), 5)
    0.25
    """
    sigmas = as_sigmas("sigmas", sigmas)
    eta = check_eta(eta)
    advice = "2 suits ladders of 40 levels or more"
    num_substeps = check_count("num_substeps", num_substeps, least=1, advice=advice)
    return _linear_structure_factor(
        as_pytree("symbol_fn", symbol_fn), sigmas, eta, num_substeps, is_quiet(eta)
    )


@program(static_argnums=(3, 4))
def _linear_structure_factor(
    symbol_fn: Any, sigmas: Array, eta: Any, num_substeps: int, quiet: bool
) -> Array:
    eta = 0.0 if quiet else eta
    shape = jax.eval_shape(symbol_fn, sigmas[0])
    check_rank("symbol_fn(sigma)", shape, "H W C C")
    dtype = jnp.promote_types(shape.dtype, jnp.complex64)
    identity = jnp.eye(shape.shape[-1], dtype=dtype)
    start = jnp.broadcast_to(sigmas[0] ** 2 * identity, shape.shape).astype(dtype)
    tau = -jnp.log(sigmas)

    def substep(carry: tuple[Array, Array], span: Array) -> tuple[tuple[Array, Array], None]:
        spectrum, level = carry
        nodes = level * jnp.exp(-jnp.asarray(NODES, sigmas.dtype) * span)
        symbols = jax.lax.map(symbol_fn, nodes).astype(dtype)
        return (magnus_step(spectrum, symbols, level, span, eta), level * jnp.exp(-span)), None

    def between(spectrum: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        level, span = step
        spans = jnp.full((num_substeps,), span / num_substeps)
        spectrum = jax.lax.scan(substep, (spectrum, level), spans)[0][0]
        return spectrum, spectrum

    _, later = jax.lax.scan(between, start, (sigmas[:-1], jnp.diff(tau)))
    return jnp.concatenate([start[None], later])
