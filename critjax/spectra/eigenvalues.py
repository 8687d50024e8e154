r"""Leading eigenvalues of small symbol matrices and the growth rates they give.

Up to three channels the characteristic polynomial is solved in closed form, which maps over a grid of
wavevectors and differentiates; beyond, LAPACK does it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Inexact

from critjax._checks import as_sigmas, check, check_count, check_finite, check_option, check_rank, is_concrete
from critjax._programs import as_pytree, program
from critjax._typing import Array, ArrayLike, Complex, Float, Scalar, SymbolFn
from critjax.noise import FRAMES, frame_correction
from critjax.spectra._inputs import as_eta, as_sigma


def _safe_divide(numerator: Array, denominator: Array, usable: Array) -> Array:
    return jnp.where(usable, numerator / jnp.where(usable, denominator, 1), 0)


def _roots_of_two(m: Array) -> Array:
    half_trace = (m[..., 0, 0] + m[..., 1, 1]) / 2
    difference = (m[..., 0, 0] - m[..., 1, 1]) / 2
    discriminant = difference**2 + m[..., 0, 1] * m[..., 1, 0]
    # At a double root the derivative of the root is the mean of the two branches, that of the half trace.
    distinct = discriminant != 0
    root = jnp.where(distinct, jnp.sqrt(jnp.where(distinct, discriminant, 1)), 0)
    return jnp.stack([half_trace + root, half_trace - root], axis=-1)


def _roots_of_three(m: Array) -> Array:
    """Solve mu^3 + a mu + b = 0 for the traceless part by Cardano's formula, polished by Newton steps."""
    third = jnp.trace(m, axis1=-2, axis2=-1) / 3
    traceless = m - third[..., None, None] * jnp.eye(3, dtype=m.dtype)
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(traceless), axis=(-2, -1)))
    scale = jnp.where(scale > 0, scale, 1)
    t = traceless / scale[..., None, None]
    minors = [t[..., i, i] * t[..., j, j] - t[..., i, j] * t[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2))]
    a = minors[0] + minors[1] + minors[2]
    b = -jnp.sum(t[..., 0, :] * jnp.cross(t[..., 1, :], t[..., 2, :]), axis=-1)

    a0, b0 = jax.lax.stop_gradient((a, b))
    inner = jnp.sqrt((b0 / 2) ** 2 + (a0 / 3) ** 3)
    candidates = jnp.stack([-b0 / 2 + inner, -b0 / 2 - inner])
    cube = jnp.where(jnp.abs(candidates[0]) > jnp.abs(candidates[1]), candidates[0], candidates[1])
    nonzero = cube != 0
    u = jnp.where(nonzero, jnp.where(nonzero, cube, 1) ** (1 / 3), 0)
    turns = jnp.exp(2j * jnp.pi * jnp.arange(3) / 3).astype(m.dtype)
    u = u[..., None] * turns
    mu = u - _safe_divide(a0[..., None] / 3, u, nonzero[..., None])
    # The root itself enters as a constant; Newton's step carries the derivatives (first order by the first
    # step, up to third by the second) and no singular power does. At a multiple root the step is left out.
    usable = jnp.abs(3 * mu**2 + a0[..., None]) > 10 * jnp.finfo(m.dtype).eps ** 0.5
    for _ in range(2):
        value, slope = mu**3 + a[..., None] * mu + b[..., None], 3 * mu**2 + a[..., None]
        mu = mu - _safe_divide(value, slope, usable)
    return third[..., None] + scale[..., None] * mu


def leading_eigenvalue(matrix: Inexact[ArrayLike, "*batch C C"]) -> Complex[Array, "*batch"]:
    r"""Compute the eigenvalue with the largest real part.

    Parameters
    ----------
    matrix : array (..., C, C)
        Real or complex, e.g. a symbol (H, W, C, C); no symmetry is assumed.

    Returns
    -------
    complex array (...)
        Of a conjugate pair (or any tie within rounding) the one with the larger imaginary part. NaN in, NaN
        out.

    Raises
    ------
    ValueError
        If the last two axes differ.

    Notes
    -----
    One channel: the entry. Two and three: closed form, differentiable to third order at simple roots; at a
    multiple root the derivative is that of the mean eigenvalue, finite. Rounding errors grow to the square
    root (two equal) or cube root (three equal) of the machine epsilon near such roots, as for any
    non-symmetric eigenvalue problem. More channels: `jnp.linalg.eigvals`.

    Example
    -------
    >>> complex(leading_eigenvalue(jnp.array([[0.0, -2.0], [2.0, 0.0]])))
    2j
    """
    shape = tuple(matrix.shape)
    good = len(shape) >= 2 and len(set(shape[-2:])) == 1 and shape[-1] >= 1
    check(good, "matrix", "shape (..., C, C)", f"shape {shape}", "pass square matrices on the last two axes")
    return _leading_eigenvalue(matrix)


@program
def _leading_eigenvalue(m: Array) -> Array:
    m = m.astype(jnp.promote_types(m.dtype, jnp.complex64))
    channels = m.shape[-1]
    if channels == 1:
        return m[..., 0, 0]
    if channels == 2:
        roots = _roots_of_two(m)
    elif channels == 3:
        roots = _roots_of_three(m)
    else:
        roots = jnp.linalg.eigvals(m)
    top = jnp.max(roots.real, axis=-1, keepdims=True)
    width = 8 * jnp.finfo(roots.dtype).eps * jnp.max(jnp.abs(roots), axis=-1, keepdims=True)
    index = jnp.argmax(jnp.where(roots.real >= top - width, roots.imag, -jnp.inf), axis=-1)
    return jnp.take_along_axis(roots, index[..., None], axis=-1)[..., 0]


def right_eigenvector(matrix: Inexact[ArrayLike, "C C"], eigenvalue: Any) -> Complex[Array, " C"]:
    r"""Compute the unit eigenvector ``A e = lambda e`` that belongs to a known eigenvalue.

    Parameters
    ----------
    matrix : array (C, C)
        Real or complex.
    eigenvalue : complex scalar
        An eigenvalue, e.g. from `leading_eigenvalue`; rounding errors are harmless.

    Returns
    -------
    complex array (C,)
        Norm one, the first of the largest components real and positive. Within a degenerate eigenspace an
        arbitrary member. A constant for differentiation.

    Notes
    -----
    The right singular vector of ``A - lambda`` with the smallest singular value: O(C^3), no failure at
    degenerate points.

    Example
    -------
    >>> print(abs(right_eigenvector(jnp.diag(jnp.array([1.0, 3.0])), 3.0)))
    [0. 1.]
    """
    return _right_eigenvector(matrix, complex(eigenvalue) if is_concrete(eigenvalue) else eigenvalue)


@program
def _right_eigenvector(matrix: Array, eigenvalue: Any) -> Array:
    m = jax.lax.stop_gradient(matrix)
    m = m.astype(jnp.promote_types(m.dtype, jnp.complex64))
    eigenvalue = jax.lax.stop_gradient(jnp.asarray(eigenvalue)).astype(m.dtype)
    _, _, vh = jnp.linalg.svd(m - eigenvalue * jnp.eye(m.shape[0], dtype=m.dtype))
    vector = jnp.conj(vh[-1])
    size = jnp.abs(vector)
    first = vector[jnp.argmax(size >= jnp.max(size) * (1 - 1e-3))]
    return vector * jnp.conj(first) / jnp.abs(first)


def growth_rate(
    symbol: Inexact[ArrayLike, "H W C C"], sigma: Scalar, *, eta: Scalar = 0.0, frame: str = "ve"
) -> Float[Array, "H W"]:
    r"""Compute the growth rate of every mode per e-fold of decreasing noise.

    .. math:: \Gamma(k, \sigma) = (1 + \eta) (\max \mathrm{Re\,eig}\, \hat D(k, \sigma) - 1)
              \quad [ + \sigma^2 / (1 + \sigma^2) \text{ in the VP frame} ]

    Parameters
    ----------
    symbol : array (H, W, C, C)
        Symbol at ``sigma``, from a bank, probe, regression, or network alike.
    sigma : scalar > 0
        Standard deviation of the noise; enters the VP frame only.
    eta : scalar >= 0
        Stochasticity: 0 the probability-flow ODE, 1 the reverse SDE.
    frame : "ve" or "vp"
        Variance-exploding (fields x) or variance-preserving (fields alpha x).

    Returns
    -------
    float array (H, W)
        Per unit tau = -ln sigma; positive modes grow as generation proceeds.

    Raises
    ------
    ValueError
        If the rank, the frame or a concrete sigma or eta is illegal, or the symbol is not finite.

    Notes
    -----
    O(H W C^3); exact. See `leading_eigenvalue` for derivatives and degenerate points. A critical noise
    depends on the frame, ``Dhat = 1`` does not. THEORY sections 1 and 3.

    Example
    -------
    >>> print(growth_rate(jnp.full((1, 1, 1, 1), 1.5), 2.0, eta=1.0))
    [[1.]]
    >>> print(growth_rate(jnp.full((1, 1, 1, 1), 1.5), 2.0, frame="vp"))
    [[1.3]]
    """
    check_rank("symbol", symbol, "H W C C")
    check_finite("symbol", symbol)
    check_option("frame", frame, FRAMES)
    return _growth_rate(symbol, as_sigma(sigma), as_eta(eta), frame=frame)


@program(static_argnames="frame")
def _growth_rate(symbol: Array, sigma: Any, eta: Any, *, frame: str) -> Array:
    return rate_of_eigenvalue(leading_eigenvalue(symbol), sigma, eta, frame)


def rate_of_eigenvalue(leading: Array, sigma: Any, eta: Any, frame: str) -> Array:
    """Return the growth rate that belongs to leading eigenvalues."""
    dtype = leading.real.dtype
    correction = frame_correction(jnp.asarray(sigma).astype(dtype), frame)
    return (1 + jnp.asarray(eta).astype(dtype)) * (leading.real - 1) + correction


def dispersion(
    symbol_fn: SymbolFn, sigmas: Float[ArrayLike, " num"], *, batch_size: int | None = None
) -> Complex[Array, "num H W C C"]:
    r"""Evaluate a symbol at every level of a ladder.

    Parameters
    ----------
    symbol_fn : SymbolFn
        ``(sigma) -> (H, W, C, C)``.
    sigmas : float array (num,)
        Strictly decreasing noise levels.
    batch_size : int, optional
        Levels evaluated together. Default: all, by `jax.vmap`, which shares one pass over a bank between
        them; smaller batches bound memory, e.g. for networks.

    Returns
    -------
    complex array (num, H, W, C, C)
        Dhat(k, sigma); its growth rates are ``jax.vmap(growth_rate)(result, sigmas)``.

    Raises
    ------
    ValueError
        If ``sigmas`` is not a strictly decreasing ladder.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> from critjax.spectra import bank_symbol_fn
    >>> table = dispersion(bank_symbol_fn(two_pattern_bank(3), (8, 8)), jnp.array([3.0, 1.5]))
    >>> print(table[:, 0, 0, 0, 0].real)
    [1. 4.]
    """
    levels = as_sigmas("sigmas", sigmas)
    if batch_size is not None:
        advice = "count noise levels evaluated together"
        batch_size = check_count("batch_size", batch_size, least=1, advice=advice)
    return _dispersion(as_pytree("symbol_fn", symbol_fn), levels, batch_size=batch_size)


@program(static_argnames="batch_size")
def _dispersion(symbol_fn: SymbolFn, levels: Array, *, batch_size: int | None) -> Array:
    if batch_size is None:
        return jax.vmap(symbol_fn)(levels)
    return jax.lax.map(symbol_fn, levels, batch_size=batch_size)
