r"""Leading eigenmodes of any denoiser's Jacobian at one noisy image, by Krylov methods without the matrix.

To linear order a perturbation of x along a mode v of :math:`J = \partial D/\partial x`, :math:`J v = \lambda v`,
grows at the rate :math:`(1+\eta)(\mathrm{Re}\,\lambda - 1)` per unit of tau = -ln sigma (THEORY section 1).
Symbols are these eigenvalues where D is translation invariant and x uniform; here x is any image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from critjax._checks import (
    check,
    check_count,
    check_finite,
    check_floating,
    check_rank,
    is_concrete,
    message,
    widened,
)
from critjax._programs import as_pytree, program
from critjax._typing import Array, ArrayLike, DenoiseFn, Float, PRNGKey, Scalar
from critjax.closed_form._inputs import check_sigma

_Product = Callable[[np.ndarray], np.ndarray]
_DEFAULT_TOLERANCE = 1e-8
_TIE = 1e-3


class Eigenmodes(NamedTuple):
    """Result of `leading_modes`, from the largest real part downwards."""

    eigenvalue: Inexact[Array, " num"]
    """Complex; real if symmetric. Of a complex pair the member with positive imaginary part comes first."""
    mode: Inexact[Array, "num H W C"]
    """Right eigenvectors of unit L2 norm. The first entry, in row-major order, within a thousandth of the largest
    magnitude is real and positive. Modes of equal eigenvalue are an arbitrary basis of their space; without symmetry
    rounding may split such an eigenvalue into a close complex pair."""
    residual: Float[Array, " num"]
    """``|J v - lambda v|``, for a symmetric Jacobian a bound on the error of lambda."""
    num_products: int
    """Jacobian-vector products that were spent."""


def leading_modes(
    denoise_fn: DenoiseFn,
    x: Float[ArrayLike, "H W C"],
    sigma: Scalar,
    *,
    num_modes: int = 6,
    symmetric: bool = False,
    key: PRNGKey | None = None,
    tolerance: float | None = None,
    max_products: int = 5000,
) -> Eigenmodes:
    r"""Find the modes of a denoiser's Jacobian that soften first: those of largest real part.

    .. math:: J v_n = \lambda_n v_n, \qquad J = \partial D(x, \sigma)/\partial x, \qquad
              \mathrm{Re}\,\lambda_1 \ge \mathrm{Re}\,\lambda_2 \ge \ldots

    The real part, not the magnitude, decides: the growth rate is :math:`(1+\eta)(\mathrm{Re}\,\lambda - 1)`.

    Parameters
    ----------
    denoise_fn : DenoiseFn
        Any callable ``(x, sigma) -> (H, W, C)`` with forward derivatives.
    x : float array (H, W, C)
        Where the Jacobian is taken; concrete values.
    sigma : scalar > 0
        Standard deviation of the noise.
    num_modes : int
        1 ... H W C; a complex pair counts twice, and the last one may be cut.
    symmetric : bool
        Lanczos in place of Arnoldi, with real eigenvalues and orthogonal modes: for exact posterior means, whose
        J = Cov/sigma^2 is symmetric. Average readouts and networks are not; asymmetry raises.
    key : PRNG key, optional
        Source of the start vectors; default ``jax.random.key(0)``.
    tolerance : float, optional
        Residual at which a mode has converged, relative to the size of J; default 1e-8, and 100 times the rounding
        unit of x (1.2e-5 in float32) where that is larger.
    max_products : int
        Most Jacobian-vector products to spend.

    Returns
    -------
    Eigenmodes
        In the precision of x (at least float32): ``eigenvalue`` (num,), ``mode`` (num, H, W, C), ``residual``
        (num,), ``num_products``.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dtypes or values, for traced x or sigma, for products that are not finite, and for
        ``symmetric=True`` with a Jacobian that is not.
    RuntimeError
        If max_products do not suffice.

    Notes
    -----
    Runs on the host, not under `jax.jit`; the product is one program for all denoisers of one kind and shape, and
    keeps no more memory than one forward derivative. About 50 to 300 products, and 4 num_modes + 20 vectors of H W C.
    ARPACK (Lehoucq, Sorensen & Yang 1998) works in float64 also where x is float32: the Krylov basis then loses no
    orthogonality of its own, and the
    residual is left with the rounding of the products alone. A Krylov space holds one vector of a degenerate
    eigenspace, so the search is repeated with what was found projected out, until nothing leads the last mode;
    eigenpairs are then those of J within all that was found (Rayleigh-Ritz). Images of few pixels are solved
    densely, by H W C products. THEORY sections 1 and 6.

    Example
    -------
    >>> from critjax.fourier import wavevectors
    >>> spectrum = 1 / (0.1 + jnp.sum(wavevectors((6, 8)) ** 2, -1))
    >>> denoise = gaussian_denoiser(jnp.zeros((6, 8, 1)), spectrum)
    >>> modes = leading_modes(denoise, jnp.zeros((6, 8, 1)), 1.0, num_modes=3, symmetric=True)
    >>> print(np.round(np.float64(modes.eigenvalue), 3))  # S/(S + sigma^2) at k = 0 and twice at |k| = pi/4
    [0.909 0.582 0.582]
    """
    x, sigma = _inputs(x, sigma)
    size = x.size
    whole = isinstance(num_modes, (int, np.integer)) and not isinstance(num_modes, bool)
    good = whole and 1 <= num_modes <= size
    check(good, "num_modes", f"an integer of 1 ... {size}", repr(num_modes), "ask for fewer modes")
    max_products = check_count("max_products", max_products, least=1, advice="leave it out")
    usual = max(_DEFAULT_TOLERANCE, 100 * float(jnp.finfo(x.dtype).eps))
    tolerance = usual if tolerance is None else tolerance
    check(0 < tolerance < 1, "tolerance", "a relative residual in (0, 1)", tolerance, "leave it out")
    denoise_fn = as_pytree("denoise_fn", denoise_fn)
    product, spent = _host_product(denoise_fn, x, sigma, max_products)

    def start(number: int) -> np.ndarray:
        return np.asarray(_start(key, number, size=size), np.float64)

    if symmetric:
        _check_symmetry(product, start(0), start(1), usual)
    found = _search(product, start, size, num_modes, symmetric, tolerance)
    real = widened(x.dtype)
    kind = real if symmetric else np.result_type(real, np.complex64)
    value, mode, residual = found
    mode = jnp.asarray(mode.reshape(num_modes, *x.shape), kind)
    return Eigenmodes(jnp.asarray(value, kind), mode, jnp.asarray(residual, real), spent())


@program(static_argnames="size")
def _start(key: PRNGKey | None, number: Any, *, size: int) -> Array:
    """Draw start vector ``number``, in single precision whatever that of x."""
    source: PRNGKey = jax.random.key(0) if key is None else key
    return jax.random.normal(jax.random.fold_in(source, number), (size,), jnp.float32)


@program
def _respond(denoise_fn: DenoiseFn, x: Array, sigma: Any, tangent: Array) -> Array:
    """Return J v; not by jax.linearize, which would keep one weight per pixel and patch of a patch model."""
    sigma = jnp.asarray(sigma).astype(x.dtype)
    return jax.jvp(lambda y: denoise_fn(y, sigma), (x,), (tangent,))[1]


def _inputs(x: Any, sigma: Any) -> tuple[Array, float]:
    check_floating("x", x)
    check_rank("x", x, "H W C")
    check_sigma(sigma)
    for name, value in (("x", x), ("sigma", sigma)):
        advice = "call leading_modes outside jit, vmap and grad"
        check(is_concrete(value), name, "concrete values", "a traced array", advice)
    check(0 not in x.shape, "x", "no empty axis", f"shape {tuple(x.shape)}", "give at least one pixel")
    check_finite("x", x)
    return jnp.asarray(x), float(sigma)


def _host_product(
    denoise_fn: DenoiseFn, x: Array, sigma: float, max_products: int
) -> tuple[_Product, Callable[[], int]]:
    """Return ``v -> J v`` on flat float64 vectors, and the number of times it was called."""
    count = 0

    def product(vector: np.ndarray) -> np.ndarray:
        nonlocal count
        if count >= max_products:
            expected = f"convergence within max_products = {max_products} Jacobian-vector products"
            advice = "raise max_products or tolerance, or ask for fewer modes"
            raise RuntimeError(message("leading_modes", expected, "none yet", advice))
        count += 1
        out = _respond(denoise_fn, x, sigma, np.asarray(vector.reshape(x.shape), x.dtype))
        got = f"shape {tuple(out.shape)}"
        check(out.shape == x.shape, "denoise_fn", f"results of shape {x.shape}", got, "fix it")
        out = np.asarray(out, np.float64).reshape(-1)
        finite = bool(np.all(np.isfinite(out)))
        advice = "look for overflow or 0/0 in the denoiser at this x and sigma"
        check(finite, "denoise_fn", "finite Jacobian-vector products", "NaN or infinity", advice)
        return out

    return product, lambda: count


def _check_symmetry(product: _Product, u: np.ndarray, v: np.ndarray, tolerance: float) -> None:
    """Compare u.Jv with v.Ju; a random pair overlooks asymmetry with probability zero."""
    forth, back = product(v), product(u)
    scale = np.linalg.norm(u) * np.linalg.norm(forth) + np.linalg.norm(v) * np.linalg.norm(back)
    asymmetry = float(abs(u @ forth - v @ back) / scale) if scale > 0 else 0.0
    got = f"|u.Jv - v.Ju| = {asymmetry:.2g} (|u||Jv| + |v||Ju|)"
    advice = "pass symmetric=False: only exact posterior means are symmetric"
    check(asymmetry <= tolerance, "symmetric", "a symmetric Jacobian", got, advice)


def _subspace(num_modes: int) -> int:
    """Return the dimension of the Krylov spaces."""
    return max(3 * num_modes, 24)


def _search(
    product: _Product,
    start: Callable[[int], np.ndarray],
    size: int,
    num_modes: int,
    symmetric: bool,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return eigenvalues, modes (num_modes, size) and residuals; a basis of an invariant space grows by rounds."""
    if size <= 4 * _subspace(num_modes):  # no dearer, and exact
        basis = np.eye(size)
        images = np.stack([product(column) for column in basis], axis=1)
        return _rayleigh_ritz(basis, images, num_modes, symmetric)
    # ARPACK fails on a zero matrix, as of a constant denoiser, and measures convergence by the eigenvalue itself. A
    # multiple of the identity mends both and leaves Krylov spaces as they are. It is three times the root mean square
    # eigenvalue, since no leading eigenvalue can be minus that.
    shift = 3 * float(np.linalg.norm(product(start(2))) / np.linalg.norm(start(2))) or 1.0
    basis = images = np.zeros((size, 0))
    level, floor, want, number = -np.inf, 0.0, num_modes, 3
    while True:
        # What was found is projected out and moved to `floor`, below the last mode, so that it is not found again.
        shifted = _deflated(product, basis, floor, shift)
        values, vectors = _arpack(shifted, start(number), want, symmetric, tolerance)
        leading = np.real(values) - shift > level
        if not leading.any():
            return _rayleigh_ritz(basis, images, num_modes, symmetric)
        new = _orthonormal(vectors[:, leading], basis)
        basis = np.concatenate([basis, new], axis=1)
        images = np.concatenate([images, np.stack([product(v) for v in new.T], axis=1)], axis=1)
        values = _rayleigh_ritz(basis, images, num_modes, symmetric)[0]
        scale = float(np.max(np.abs(values)))
        last = float(np.real(values[-1]))
        missing = num_modes - len(values)  # modes of a defective eigenvalue are parallel and count once
        if missing <= 0:
            level, floor = last + tolerance * scale, last - 0.1 * scale
        else:
            level, floor = -np.inf, -shift - scale
        want = max(missing, 1) if number == 3 else min(2 * want, num_modes)
        number += 1


def _deflated(product: _Product, basis: np.ndarray, floor: float, shift: float) -> _Product:
    """Return ``v -> (P J P + floor (1 - P) + shift) v`` where P projects on the complement of the basis."""

    def apply(vector: np.ndarray) -> np.ndarray:
        inside = basis @ (basis.T @ vector)
        out = product(vector - inside)
        return out - basis @ (basis.T @ out) + floor * inside + shift * vector

    return apply


def _arpack(
    apply: _Product, start: np.ndarray, count: int, symmetric: bool, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``count`` eigenvalues of largest real part and their vectors as columns."""
    from scipy.sparse.linalg import LinearOperator, eigs, eigsh

    size = start.size
    operator = LinearOperator((size, size), matvec=apply, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    options: dict[str, Any] = {"k": count, "v0": start, "ncv": _subspace(count), "tol": tolerance}
    # Restarts are bounded by the products that the caller allows, not by ARPACK's own limit.
    options["maxiter"] = np.iinfo(np.int32).max
    pairs: Any = (
        eigsh(operator, which="LA", **options) if symmetric else eigs(operator, which="LR", **options)
    )
    return pairs


def _orthonormal(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the real span of the columns outside an orthonormal basis."""
    columns = vectors
    if np.iscomplexobj(vectors):
        columns = np.concatenate([np.real(vectors), np.imag(vectors)], axis=1)
    for _ in range(2):  # once more, for what cancellation left
        columns = columns - basis @ (basis.T @ columns)
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    # Both members of a complex pair, and a defective pair, span the same plane.
    left = left[:, size > 1e-6 * size[0]]
    return left - basis @ (basis.T @ left)


def _rayleigh_ritz(
    basis: np.ndarray, images: np.ndarray, num_modes: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return leading eigenvalues, modes and residuals of J restricted to a basis with J basis = images."""
    small = basis.T @ images
    pairs: Any = np.linalg.eigh((small + small.T) / 2) if symmetric else np.linalg.eig(small)
    values, vectors = pairs
    real, imaginary = np.real(values), np.imag(values)
    upper = [n for n in range(len(values)) if imaginary[n] >= 0]
    upper.sort(key=lambda n: (-real[n], -imaginary[n]))
    value, mode, residual = [], [], []
    for n in upper:
        eigenvalue, vector = values[n], vectors[:, n] / np.linalg.norm(vectors[:, n])
        field = _with_convention(basis @ vector)
        error = np.linalg.norm(images @ vector - eigenvalue * (basis @ vector))
        members = [(eigenvalue, field)]
        if imaginary[n] > 0:
            members.append((np.conj(eigenvalue), np.conj(field)))
        for member in members:
            value.append(member[0])
            mode.append(member[1])
            residual.append(error)
    return np.array(value[:num_modes]), np.array(mode[:num_modes]), np.array(residual[:num_modes])


def _with_convention(mode: np.ndarray) -> np.ndarray:
    """Turn the phase so that the first of the largest entries is real and positive."""
    size = np.abs(mode)
    # Entries of a plane wave are equally large: rounding must not choose among them.
    first = mode[np.argmax(size >= (1 - _TIE) * size.max())]
    return mode * (np.conj(first) / np.abs(first))
