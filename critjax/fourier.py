r"""Wavevectors, transforms and radial shells: every sign and normalisation of the library, stated once.

On a periodic grid of N = H W pixels j = (y, x) with wavevectors k = 2 pi (n_y/H, n_x/W):

* transform    ``x_k = sum_j x_j exp(-i k.j)`` (numpy's sign, unnormalised), inversely
  ``x_j = (1/N) sum_k x_k exp(i k.j)``;
* Parseval     ``sum_j |x_j|^2 = (1/N) sum_k |x_k|^2``; the structure factor is ``|x_k|^2 / N``;
* plane wave   ``e_k(j) = exp(+i k.j)``;
* kernel       a translation-invariant operator acts as a *correlation*, ``(J v)_i = sum_r g(r) v_{i+r}``:
  g(r) is the response of pixel i to its neighbour at i + r;
* symbol       ``lambda(k) = sum_r g(r) exp(+i k.r)``, so that ``J e_k = lambda(k) e_k`` and, for every
  field, ``(J v)_k = lambda(k) v_k`` in the transform above; inversely
  ``g(r) = (1/N) sum_k lambda(k) exp(-i k.r)``.

The symbol of a kernel therefore carries the sign *opposite* to numpy's forward FFT (THEORY section 3). A real
operator has ``lambda(-k) = conj(lambda(k))``. Offsets of a window of p pixels run over
``-((p-1)//2) ... p//2``, for kernels on the whole grid as well; offsets that leave the grid alias: they are
added modulo (H, W).

Spatial axes come first: fields are (H, W, C), kernels (p, q, C, C), symbols (H, W, C, C), with the output
channel before the input channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from critjax._checks import as_array, check, check_grid, check_rank
from critjax._programs import as_argument, program
from critjax._typing import Array, ArrayLike, Complex, Float, Int


class RadialShells(NamedTuple):
    """Circular shells of wavevectors; see `radial_shells`."""

    index: Int[Array, "H W"]
    """Shell of each wavevector in FFT order; -1 for the corners |k| > pi."""
    wavenumber: Float[Array, " S"]
    """Mean |k| over each shell, rad per pixel."""
    count: Int[Array, " S"]
    """Number of wavevectors in each shell, at least one."""


def _integer_wavenumbers(grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the integers (n_y (H, 1), n_x (1, W)) in FFT order, each in [-n/2, n/2)."""
    n_y, n_x = ((np.arange(n) + n // 2) % n - n // 2 for n in grid)
    return n_y[:, None], n_x[None, :]


def wavevectors(grid: Sequence[int], *, dtype: Any = None) -> Float[Array, "H W 2"]:
    r"""List the wavevectors of a periodic grid, ``k = 2 pi (n_y/H, n_x/W)``.

    Parameters
    ----------
    grid : (H, W)
        Static grid size.
    dtype : optional
        Floating dtype; default JAX's.

    Returns
    -------
    array (H, W, 2)
        (k_y, k_x) in rad per pixel, FFT order, each component in [-pi, pi): Nyquist is -pi.

    Raises
    ------
    ValueError
        If ``grid`` is not two positive integers.

    Notes
    -----
    Exact up to rounding; O(N). THEORY section 0.

    Example
    -------
    >>> print(np.round(wavevectors((1, 4))[0, :, 1] / np.pi, 3))
    [ 0.   0.5 -1.  -0.5]
    """
    height, width = check_grid(grid)
    n_y, n_x = _integer_wavenumbers((height, width))
    k_y, k_x = np.broadcast_arrays(2 * np.pi * n_y / height, 2 * np.pi * n_x / width)
    return as_array(np.stack([k_y, k_x], axis=-1), dtype)


def plane_wave(grid: Sequence[int], wavevector: Any) -> Complex[Array, "H W"]:
    r"""Evaluate the plane wave ``e_k(j) = exp(i k.j)`` on a grid.

    Parameters
    ----------
    grid : (H, W)
        Static grid size.
    wavevector : array (2,)
        (k_y, k_x) in rad per pixel; any real values, but only those of `wavevectors` are periodic.

    Returns
    -------
    complex array (H, W)
        Amplitude one; the precision follows ``wavevector``.

    Raises
    ------
    ValueError
        If ``grid`` is not two positive integers or ``wavevector`` has another shape than (2,).

    Notes
    -----
    Exact up to rounding of the phase; O(N). Differentiable in ``wavevector``. THEORY section 3.

    Example
    -------
    >>> e = plane_wave((4, 6), wavevectors((4, 6))[1, 2])
    >>> bool(jnp.allclose(jnp.fft.fft2(e), jnp.zeros((4, 6)).at[1, 2].set(24), atol=1e-4))
    True
    """
    height, width = check_grid(grid)
    k = as_argument(wavevector)
    got = f"shape {np.shape(k)}"
    check(np.shape(k) == (2,), "wavevector", "shape (2,): (k_y, k_x)", got, "use vmap for several")
    return _plane_wave(k, height, width)


@program(static_argnums=(1, 2))
def _plane_wave(k: Any, height: int, width: int) -> Array:
    k = jnp.asarray(k)
    if not jnp.issubdtype(k.dtype, jnp.floating):
        k = k.astype(float)
    # Two short phases instead of one long one: less rounding, and O(H + W) calls of exp instead of O(H W).
    rows = jnp.exp(1j * k[0] * jnp.arange(height))
    columns = jnp.exp(1j * k[1] * jnp.arange(width))
    return rows[:, None] * columns[None, :]


def fft2(x: Inexact[ArrayLike, "H W *rest"]) -> Complex[Array, "H W *rest"]:
    r"""Transform the two leading axes, ``x_k = sum_j x_j exp(-i k.j)``.

    Parameters
    ----------
    x : array (H, W, ...)
        Real or complex field; trailing axes (channels) are left alone.

    Returns
    -------
    complex array (H, W, ...)
        Numpy's sign, unnormalised: white noise of standard deviation sigma has ``<|x_k|^2> = N sigma^2``.

    Notes
    -----
    O(N log N) per trailing index; float32 in, complex64 out.

    Example
    -------
    >>> complex(fft2(jnp.ones((3, 4, 1)))[0, 0, 0])
    (12+0j)
    """
    return _fft2(as_argument(x))


@program
def _fft2(x: Any) -> Array:
    return jnp.fft.fft2(x, axes=(0, 1))


def ifft2(x_hat: Inexact[ArrayLike, "H W *rest"], *, real: bool = False) -> Inexact[Array, "H W *rest"]:
    r"""Invert `fft2`, ``x_j = (1/N) sum_k x_k exp(i k.j)``.

    Parameters
    ----------
    x_hat : array (H, W, ...)
        Amplitudes in FFT order.
    real : bool
        Return the real part, which is the field of the Hermitian part ``(x_k + conj(x_{-k}))/2``.

    Returns
    -------
    array (H, W, ...)
        Complex, or real with ``real=True``.

    Example
    -------
    >>> float(ifft2(fft2(jnp.full((3, 4), 2.0)), real=True)[1, 1])
    2.0
    """
    return _ifft2(as_argument(x_hat), bool(real))


@program(static_argnums=1)
def _ifft2(x_hat: Any, real: bool) -> Array:
    x = jnp.fft.ifft2(x_hat, axes=(0, 1))
    return x.real if real else x


def kernel_offsets(shape: Sequence[int], *, dtype: Any = None) -> Float[Array, "p q 2"]:
    """List the offsets r = (r_y, r_x) of a kernel, in the order in which kernels are stored.

    Parameters
    ----------
    shape : (p, q)
        Static window size; on the whole grid (p, q) = (H, W) these are the minimal-image offsets.
    dtype : optional
        Floating dtype, so that moments ``sum_r g(r) r_a r_b`` need no conversion; default JAX's.

    Returns
    -------
    array (p, q, 2)
        In pixels, ``-((p-1)//2) ... p//2`` along y and likewise along x; zero is at ``[(p-1)//2, (q-1)//2]``.

    Raises
    ------
    ValueError
        If ``shape`` is not two positive integers.

    Example
    -------
    >>> print(kernel_offsets((3, 4))[0].T)
    [[-1. -1. -1. -1.]
     [-1.  0.  1.  2.]]
    """
    sides = check_grid(shape)
    r_y, r_x = (np.arange(n, dtype=np.float64) - (n - 1) // 2 for n in sides)
    return as_array(np.stack(np.meshgrid(r_y, r_x, indexing="ij"), axis=-1), dtype)


def kernel_to_symbol(kernel: Inexact[ArrayLike, "p q C C"], grid: Sequence[int]) -> Complex[Array, "H W C C"]:
    r"""Turn a response kernel into its Fourier symbol, ``lambda(k) = sum_r g(r) exp(i k.r)``.

    Parameters
    ----------
    kernel : array (p, q, C, C)
        g(r), offsets as in `kernel_offsets`, output channel before input channel.
        A window larger than the grid wraps around it.
    grid : (H, W)
        Static grid size.

    Returns
    -------
    complex array (H, W, C, C)
        FFT order; ``(J v)_k = lambda(k) v_k``.

    Raises
    ------
    ValueError
        If ``kernel`` has not four axes or ``grid`` is not two positive integers.

    Notes
    -----
    One FFT, O(C^2 N log N); exact. THEORY section 3.

    Example
    -------
    The shift ``(J v)_i = v_{i + x}`` has the symbol exp(i k_x):

    >>> shift = jnp.zeros((3, 3, 1, 1)).at[1, 2].set(1.0)
    >>> lam, k = kernel_to_symbol(shift, (4, 6)), wavevectors((4, 6))
    >>> bool(jnp.allclose(lam[..., 0, 0], jnp.exp(1j * k[..., 1]), atol=1e-6))
    True
    """
    check_rank("kernel", kernel, "p q C C")
    return _kernel_to_symbol(kernel, *check_grid(grid))


@program(static_argnums=(1, 2))
def _kernel_to_symbol(kernel: Any, height: int, width: int) -> Array:
    p, q, channels, _ = kernel.shape
    rows = (np.arange(p) - (p - 1) // 2) % height
    columns = (np.arange(q) - (q - 1) // 2) % width
    placed = jnp.zeros((height, width, channels, channels), kernel.dtype)
    placed = placed.at[rows[:, None], columns[None, :]].add(kernel)
    # The inverse FFT carries the + sign; norm="forward" leaves out its 1/N.
    return jnp.fft.ifft2(placed, axes=(0, 1), norm="forward")


def symbol_to_kernel(
    symbol: Inexact[ArrayLike, "H W C C"], size: int | None = None, *, real: bool = True
) -> Inexact[Array, "p q C C"]:
    r"""Turn a Fourier symbol into its response kernel, ``g(r) = (1/N) sum_k lambda(k) exp(-i k.r)``.

    Parameters
    ----------
    symbol : array (H, W, C, C)
        lambda(k) in FFT order; keep it complex: dropping Im lambda symmetrises the kernel.
    size : int, optional
        Window p <= min(H, W) to cut out; entries outside are dropped, which is the orthogonal projection on
        kernels supported there. Default: the whole grid.
    real : bool
        Return the real part, that is the kernel of the real operator nearest to the symbol.

    Returns
    -------
    array (p, p, C, C) or (H, W, C, C)
        Offsets as in `kernel_offsets`; ``kernel_to_symbol(symbol_to_kernel(s), (H, W))`` gives back ``s``.

    Raises
    ------
    ValueError
        If ``symbol`` has not four axes or the window does not fit the grid.

    Notes
    -----
    One FFT, O(C^2 N log N); exact. THEORY sections 3 and 6.

    Example
    -------
    >>> g = jnp.arange(9.0).reshape(3, 3, 1, 1)
    >>> bool(jnp.allclose(symbol_to_kernel(kernel_to_symbol(g, (8, 5)), 3), g, atol=1e-5))
    True
    """
    check_rank("symbol", symbol, "H W C C")
    height, width = symbol.shape[:2]
    sides = (height, width)
    if size is not None:
        largest = min(height, width)
        good = isinstance(size, (int, np.integer)) and 1 <= size <= largest
        check(bool(good), "size", f"a window of 1 to {largest} pixels", size, "fit it to the grid")
        sides = (int(size), int(size))
    return _symbol_to_kernel(symbol, sides, bool(real))


@program(static_argnums=(1, 2))
def _symbol_to_kernel(symbol: Any, sides: tuple[int, int], real: bool) -> Array:
    rows, columns = ((np.arange(p) - (p - 1) // 2) % n for p, n in zip(sides, symbol.shape[:2], strict=True))
    kernel = jnp.fft.fft2(symbol, axes=(0, 1), norm="forward")[rows[:, None], columns[None, :]]
    return kernel.real if real else kernel


def apply_symbol(
    symbol: Inexact[ArrayLike, "H W C C"], x: Inexact[ArrayLike, "H W C"]
) -> Inexact[Array, "H W C"]:
    r"""Apply a translation-invariant operator, ``(J x)_k = lambda(k) x_k``.

    Parameters
    ----------
    symbol : array (H, W, C, C)
        lambda(k), FFT order.
    x : array (H, W, C)
        Field; for a real field the real part of the result is returned.

    Returns
    -------
    array (H, W, C)
        ``sum_{r,b} g_ab(r) x_b(i + r)``.

    Raises
    ------
    ValueError
        If the ranks are wrong.

    Notes
    -----
    Two FFTs, O(C N log N + C^2 N); exact.

    Example
    -------
    >>> x = jnp.arange(12.0).reshape(3, 4, 1)
    >>> shift = kernel_to_symbol(jnp.zeros((3, 3, 1, 1)).at[1, 2].set(1.0), (3, 4))
    >>> bool(jnp.allclose(apply_symbol(shift, x), jnp.roll(x, -1, axis=1), atol=1e-5))
    True
    """
    check_rank("symbol", symbol, "H W C C")
    check_rank("x", x, "H W C")
    return _apply_symbol(symbol, x)


@program
def _apply_symbol(symbol: Any, x: Any) -> Array:
    result = jnp.einsum("hwab,hwb->hwa", jnp.asarray(symbol), fft2(x), precision="highest")
    return ifft2(result, real=not jnp.iscomplexobj(x))


def radial_shells(grid: Sequence[int], *, dtype: Any = None) -> RadialShells:
    r"""Divide the wavevectors with |k| <= pi into shells of width ``2 pi / max(H, W)``.

    ``index = rint(|k| / width)``; shell 0 is the mean (DC) alone. The shells stop at |k| = pi, beyond which
    the Brillouin zone of a square lattice holds corners only.

    Parameters
    ----------
    grid : (H, W)
        Static grid size.
    dtype : optional
        Floating dtype of ``wavenumber``; default JAX's.

    Returns
    -------
    RadialShells
        ``index`` (H, W) with -1 for |k| > pi, ``wavenumber`` (S,) the mean |k| of each shell, ``count`` (S,).

    Raises
    ------
    ValueError
        If ``grid`` is not two positive integers.

    Notes
    -----
    Membership is decided in integer arithmetic, so no mode changes shell by rounding. O(N). THEORY section 6.

    Example
    -------
    >>> print(radial_shells((8, 8)).count)
    [ 1  8 12 16 10]
    """
    index, wavenumber, count = shells_on_host(*check_grid(grid))
    return RadialShells(as_array(index, np.int32), as_array(wavenumber, dtype), as_array(count, np.int32))


def shells_on_host(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what `radial_shells` does as NumPy arrays, for programs whose structure depends on them."""
    n_y, n_x = _integer_wavenumbers((height, width))
    # |k| / (2 pi) = sqrt((n_y W)^2 + (n_x H)^2) / (H W), and the width is 2 pi / max(H, W).
    squared = (n_y * width) ** 2 + (n_x * height) ** 2
    index = np.rint(np.sqrt(squared) / min(height, width)).astype(np.int32)
    index = np.where(4 * squared <= (height * width) ** 2, index, -1)
    inside = index >= 0
    count = np.bincount(index[inside])
    # The long side alone puts a mode into every shell, so that no count is zero.
    total = np.bincount(index[inside], weights=2 * np.pi * np.sqrt(squared[inside]) / (height * width))
    return index, total / count, count
