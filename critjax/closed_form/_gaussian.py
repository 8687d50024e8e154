"""One stationary Gaussian field: the Wiener filter, its symbol, and the spectrum of a set of images."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from critjax._checks import as_array, as_floating, check, check_finite, is_concrete, message, on_host, widened
from critjax._programs import program
from critjax._typing import Array, ArrayLike, Complex, DenoiseFn, Float, SymbolFn
from critjax.closed_form._inputs import EXACT, check_inputs, check_sigma


def _check_spectrum(spectrum: Any) -> Array:
    """Validate a spectrum and return it as (H, W, C, C); C = 1 comes back real, as do real matrices."""
    spectrum = spectrum if hasattr(spectrum, "dtype") else np.asarray(spectrum)
    if not jnp.issubdtype(spectrum.dtype, jnp.inexact):
        raise TypeError(message("spectrum", "floating point", f"dtype {spectrum.dtype}", "convert it"))
    shape = tuple(spectrum.shape)
    good = (len(shape) == 2 or (len(shape) == 4 and shape[2] == shape[3])) and 0 not in shape
    check(good, "spectrum", "shape (H, W) or (H, W, C, C)", f"shape {shape}", "see image_spectrum")
    check_finite("spectrum", spectrum)
    if len(shape) == 2:
        spectrum = spectrum[..., None, None]
    if is_concrete(spectrum):
        values = np.asarray(spectrum)
        tolerance = 100 * float(np.finfo(values.dtype).eps) * float(np.abs(values).max())
        adjoint = np.conj(np.swapaxes(values, -1, -2))
        skew = float(np.abs(values - adjoint).max())
        advice = "use S = <x_k x_k^dagger>/N_pixels, as image_spectrum does"
        check(skew <= tolerance, "spectrum", "a Hermitian matrix at every k", f"deviation {skew:.3g}", advice)
        mirror = np.roll(np.flip(values, (0, 1)), (1, 1), (0, 1))
        odd = float(np.abs(values - np.conj(mirror)).max())
        advice = "only real images are denoised; use the full FFT order of fft2"
        check(odd <= tolerance, "spectrum", "S(-k) = conj S(k)", f"deviation {odd:.3g}", advice)
        lowest = float(np.linalg.eigvalsh(values).min())
        check(lowest >= -tolerance, "spectrum", "no negative power", f"{lowest:.3g}", "pass |FFT|^2/N_pixels")
    if spectrum.shape[-1] == 1:
        spectrum = np.real(spectrum) if is_concrete(spectrum) else jnp.real(spectrum)
    return as_array(spectrum)


@jax.custom_jvp
def _shrink(spectrum: Array, values: Array, vectors: Array, variance: Array) -> tuple[Array, Array]:
    """Return G = S (S + t)^{-1} and R = t (S + t)^{-1} = 1 - G from the eigenpairs of S.

    A linear solve fails in float32 once t drops below eps |S| and S is singular, as for grey images in RGB.
    """
    del spectrum
    values = jnp.maximum(values, 0)  # round-off only: the constructor refused negative power
    adjoint = jnp.conj(jnp.swapaxes(vectors, -1, -2))

    def assemble(factor: Array) -> Array:
        return jnp.matmul(vectors * factor[..., None, :], adjoint, precision=EXACT)

    return assemble(values / (values + variance)), assemble(variance / (values + variance))


@_shrink.defjvp
def _shrink_jvp(primals, tangents):
    # dG = R dS R / t - G R dt / t. Differentiating eigh would divide by the gaps of equal eigenvalues.
    variance = primals[3]
    d_spectrum, _, _, d_variance = tangents
    gain, rest = _shrink(*primals)
    d_gain = (rest @ d_spectrum @ rest - (gain @ rest) * d_variance) / variance
    return (gain, rest), (d_gain, -d_gain)


class _Spectrum(NamedTuple):
    """A spectrum (H, W, C, C) with its eigenpairs, which are found once; None with one channel."""

    matrix: Array
    values: Array | None
    vectors: Array | None


def _diagonalise(spectrum: Any) -> _Spectrum:
    matrix = _check_spectrum(spectrum)
    return _Spectrum(matrix, *((None, None) if matrix.shape[-1] == 1 else _eigenpairs(matrix)))


@program
def _eigenpairs(matrix: Array) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(matrix))
    return values, vectors


def _gain(spectrum: _Spectrum, variance: Array) -> Array:
    """Return S (S + variance)^{-1}, (H, W, C, C)."""
    real = variance.dtype
    if spectrum.values is None or spectrum.vectors is None:
        power = jnp.maximum(spectrum.matrix.astype(real), 0)
        return power / (power + variance)
    dtype = jnp.promote_types(real, jnp.complex64) if jnp.iscomplexobj(spectrum.matrix) else real
    pairs = spectrum.values.astype(real), spectrum.vectors.astype(dtype)
    return _shrink(spectrum.matrix.astype(dtype), *pairs, variance)[0]


def gaussian_denoiser(mean: ArrayLike, spectrum: ArrayLike) -> DenoiseFn:
    r"""Denoise under a stationary Gaussian field with a given mean image: the Wiener filter.

    .. math:: D(x, \sigma) = \mu + F^{-1}\big[ S_0 (S_0 + \sigma^2)^{-1} F(x - \mu) \big]

    Parameters
    ----------
    mean : float array (H, W, C)
        Mean image mu.
    spectrum : array (H, W) or (H, W, C, C)
        Spectrum S_0 = <x_k x_k^dagger>/N_pixels in FFT order, the normalisation of `image_spectrum`: white
        noise of standard deviation s has S_0 = s^2. Two axes: the same power in every channel, channels
        independent.

    Returns
    -------
    DenoiseFn
        ``(x (H, W, C), sigma) -> (H, W, C)``, the exact posterior mean, linear in x - mu; real x only.

    Raises
    ------
    ValueError, TypeError
        If a shape or dtype is wrong, or (outside tracing) the spectrum is not that of a real field: negative
        power, not Hermitian, or S(-k) != conj S(k).

    Notes
    -----
    O(H W (C log(H W) + C^3)) per call. Never unstable in the variance-exploding frame: every eigenvalue of
    its symbol lies in [0, 1). Wiener 1949; THEORY section 3.

    Example
    -------
    >>> denoise = gaussian_denoiser(np.zeros((4, 6, 1)), np.full((4, 6), 3.0))  # white
    >>> round(float(denoise(np.ones((4, 6, 1)), 1.0)[0, 0, 0]), 4)  # 3 x/(3 + sigma^2)
    0.75
    """
    mean = as_floating("mean", mean, "H W C")
    filtered = _diagonalise(spectrum)
    grid, channels = tuple(filtered.matrix.shape[:2]), filtered.matrix.shape[-1]
    expected = f"grid {tuple(mean.shape[:2])} and {mean.shape[2]} channels, those of mean"
    fits = grid == tuple(mean.shape[:2]) and channels in (1, mean.shape[2])
    got = f"grid {grid} and {channels} channels"
    check(fits, "spectrum", expected, got, "compute both from the same images")

    return Partial(_denoise, mean, filtered)


def _denoise(mean: ArrayLike, spectrum: _Spectrum, x: Any, sigma: Any) -> Array:
    return _filter(mean, spectrum, x, check_inputs(x, sigma, tuple(mean.shape)))


@program
def _filter(mean: Array, spectrum: _Spectrum, x: Array, sigma: Array) -> Array:
    centre = mean.astype(sigma.dtype)
    modes = jnp.fft.fft2(x.astype(sigma.dtype) - centre, axes=(0, 1))
    factor = _gain(spectrum, sigma**2)
    if factor.shape[-1] == 1:
        modes = factor[..., 0] * modes
    else:
        modes = jnp.einsum("hwab,hwb->hwa", factor.astype(modes.dtype), modes, precision=EXACT)
    return (centre + jnp.real(jnp.fft.ifft2(modes, axes=(0, 1)))).astype(x.dtype)


def gaussian_symbol(spectrum: ArrayLike) -> SymbolFn:
    r"""Return the Fourier symbol of the Wiener filter, the null model beside measured symbols.

    .. math:: \hat D(k, \sigma) = S_0(k) (S_0(k) + \sigma^2)^{-1}

    Parameters
    ----------
    spectrum : array (H, W) or (H, W, C, C)
        Spectrum S_0 as in `gaussian_denoiser`; two axes are read as one channel.

    Returns
    -------
    SymbolFn
        ``(sigma) -> (H, W, C, C)`` complex, FFT order, J e_k = Dhat(k) e_k for e_k(j) = exp(i k.j). Exact;
        its eigenvalues lie in [0, 1).

    Raises
    ------
    ValueError, TypeError
        As `gaussian_denoiser`.

    Notes
    -----
    O(H W C^3) per call. The result has the precision of ``spectrum``. THEORY sections 3 and 7.

    Example
    -------
    >>> symbol_fn = gaussian_symbol(np.full((4, 6), 3.0))
    >>> complex(symbol_fn(1.0)[0, 0, 0, 0])
    (0.75+0j)
    """
    return Partial(_symbol_at, _diagonalise(spectrum))


def _symbol_at(spectrum: _Spectrum, sigma: Any) -> Array:
    check_sigma(sigma)
    real = jnp.finfo(widened(spectrum.matrix.dtype)).dtype
    return _symbol(spectrum, on_host(sigma, real))


@program
def _symbol(spectrum: _Spectrum, sigma: Array) -> Array:
    return _gain(spectrum, sigma**2).astype(jnp.promote_types(sigma.dtype, jnp.complex64))


def image_spectrum(images: ArrayLike, *, mean: Any = None) -> Complex[Array, "H W C C"]:
    r"""Average the cross spectrum of images about their mean.

    .. math:: S_{ab}(k) = \frac{1}{N H W} \sum_n F(x_n - \mu)_a(k)\, \overline{F(x_n - \mu)_b(k)}

    Parameters
    ----------
    images : float array (N, H, W, C)
        Training images.
    mean : float array broadcastable to (H, W, C), optional
        What is subtracted. Default: the mean image. With ``images.mean((0, 1, 2))`` the result is the exact
        spectrum of the ensemble of all images at all circular shifts, the one to compare a shift-equivariant
        denoiser of these images with; use the same mean in `gaussian_denoiser`.

    Returns
    -------
    complex array (H, W, C, C)
        Hermitian and positive semi-definite at every k, FFT order; white noise of standard deviation s gives
        s^2. Divided by N, not N - 1: the spectrum of the empirical distribution.

    Raises
    ------
    ValueError, TypeError
        If a shape, dtype or (outside tracing) a value is wrong.

    Notes
    -----
    O(N H W C (log(H W) + C)). Keeps only the shift-invariant part of the covariance: what it leaves out is
    the dependence on position. THEORY sections 6 and 7.

    Example
    -------
    >>> images = np.array([1.0, -1.0]).reshape(2, 1, 1, 1) * np.ones((2, 4, 6, 1))
    >>> spectrum = image_spectrum(images)  # all power in the uniform mode: N_pixels
    >>> complex(spectrum[0, 0, 0, 0]), float(abs(spectrum[1, 0, 0, 0]))
    ((24+0j), 0.0)
    """
    images = as_floating("images", images, "N H W C")
    _, height, width, channels = images.shape
    if mean is not None:
        mean = on_host(mean, images.dtype)
        expected = f"a shape that broadcasts to {(height, width, channels)}"
        pairs = zip(mean.shape[::-1], (channels, width, height), strict=False)
        fits = mean.ndim <= 3 and all(size in (1, full) for size, full in pairs)
        got = f"shape {tuple(mean.shape)}"
        check(fits, "mean", expected, got, "pass images.mean(0) or images.mean((0, 1, 2))")
    return _image_spectrum(images, mean)


@program
def _image_spectrum(images: Array, mean: Any) -> Array:
    modes = jnp.fft.fft2(images - (jnp.mean(images, axis=0) if mean is None else mean), axes=(1, 2))
    total = jnp.einsum("nhwa,nhwb->hwab", modes, jnp.conj(modes), precision=EXACT)
    return total / math.prod(images.shape[:3])


def gaussian_fields(
    white_hat: Complex[ArrayLike, "B H W C"], spectrum: Complex[ArrayLike, "H W C C"]
) -> Float[Array, "B H W C"]:
    """Colour white noise: Gaussian fields of mean zero and structure factor S.

    Parameters
    ----------
    white_hat : complex array (B, H, W, C)
        ``fft2`` over the pixels of real white noise; a mode that is set to zero stays out.
    spectrum : complex array (H, W, C, C)
        S(k) = <x_k x_k^dagger>/N_pixels in FFT order, S(-k) = conj S(k); positive definite if C > 1.

    Returns
    -------
    float array (B, H, W, C)
        Real fields.

    Example
    -------
    >>> white = jax.random.normal(jax.random.key(0), (1, 4, 4, 1))
    >>> fields = gaussian_fields(np.fft.fft2(white, axes=(1, 2)), np.full((4, 4, 1, 1), 9.0 + 0j))
    >>> bool(np.allclose(fields, 3 * white, atol=1e-5))
    True
    """
    return _coloured(white_hat, spectrum)


@program
def _coloured(white_hat: Array, spectrum: Array) -> Array:
    if spectrum.shape[-1] == 1:
        coloured = jnp.sqrt(jnp.maximum(spectrum.real, 0))[..., 0] * white_hat
    else:
        # The Cholesky factor is unique, hence its conjugate at -k: the field stays real.
        coloured = jnp.einsum("hwab,nhwb->nhwa", jnp.linalg.cholesky(spectrum), white_hat, precision=EXACT)
    return jnp.fft.ifft2(coloured, axes=(1, 2)).real
