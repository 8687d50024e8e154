r"""The symbol of the mean Jacobian, measured on any denoiser by Jacobian-vector products (THEORY section 5).

It is neither the bare symbol at a homogeneous state (`symbol`) nor that of the regression (`regression_symbol`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from critjax._checks import (
    check,
    check_count,
    check_floating,
    check_grid,
    check_rank,
    check_window,
)
from critjax._programs import as_pytree, program
from critjax._typing import Array, ArrayLike, Complex, DenoiseFn, Float, PRNGKey, Scalar
from critjax.fourier import fft2, ifft2, kernel_to_symbol, plane_wave, symbol_to_kernel
from critjax.observables.errors import Estimate
from critjax.spectra._inputs import as_sigma

#: Most probes of one image that share an evaluation: beyond it memory grows, and little is left to share.
PROBES_TOGETHER = 8


class PhaseField(NamedTuple):
    """Result of `random_phase_field`."""

    field: Float[Array, "H W"]
    """Real field of mean square one."""
    transform: Complex[Array, "H W"]
    """Its transform z_k = conj(z_-k); at self-conjugate k the phase is +1 or -1."""


def rayleigh_quotient(
    denoise_fn: DenoiseFn,
    x: Float[ArrayLike, "H W C"],
    wavevector: Float[ArrayLike, " 2"],
    sigma: Scalar,
    *,
    polarisation: Inexact[ArrayLike, " C"] | None = None,
) -> Complex[Array, ""]:
    r"""Measure a denoiser's response to one plane wave, the diagonal element of its Jacobian.

    .. math:: \lambda = \frac{e^\dagger J e}{e^\dagger e}, \qquad e(j) = a\, e^{i k \cdot j}, \quad
              J = \partial D / \partial x

    With e = c + i s: Re = (c.Jc + s.Js)/(e.e), Im = (c.Js - s.Jc)/(e.e).

    Parameters
    ----------
    denoise_fn : DenoiseFn
        Any callable ``(x, sigma) -> (H, W, C)`` with forward derivatives.
    x : float array (H, W, C)
        Where the Jacobian is taken.
    wavevector : float array (2,)
        (k_y, k_x) in rad per pixel, a row of `wavevectors`.
    sigma : scalar > 0
        Standard deviation of the noise.
    polarisation : array (C,), optional
        The amplitude a of each channel, real or complex, any norm. Default: all channels equal.

    Returns
    -------
    complex array ()
        Equals ``a^dagger Dhat(k) a / a^dagger a`` where D is translation invariant; averaged over x, the same
        of the mean Jacobian's symbol. NaN for a zero polarisation.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes or dtypes.

    Notes
    -----
    Two Jacobian-vector products; exact. THEORY section 6.

    Example
    -------
    >>> from critjax.closed_form import two_pattern_denoiser
    >>> lam = rayleigh_quotient(two_pattern_denoiser(3), jnp.zeros((8, 8, 1)), jnp.zeros(2), 3.0)
    >>> round(float(lam.real), 6)  # P / sigma^2
    1.0
    """
    check_floating("x", x)
    check_rank("x", x, "H W C")
    if polarisation is None:
        polarisation = np.ones(x.shape[-1:], x.dtype)
    got, wanted = (f"shape {tuple(s)}" for s in (polarisation.shape, x.shape[-1:]))
    check(got == wanted, "polarisation", wanted, got, "pass one value per channel")
    denoise = as_pytree("denoise_fn", denoise_fn)
    return _rayleigh_quotient(denoise, x, wavevector, as_sigma(sigma), polarisation)


@program
def _rayleigh_quotient(
    denoise_fn: DenoiseFn, x: Array, wavevector: Array, sigma: Any, amplitude: Array
) -> Array:
    sigma = jnp.asarray(sigma).astype(x.dtype)
    wave = plane_wave(x.shape[:2], wavevector.astype(x.dtype))[..., None] * amplitude
    cosine, sine = wave.real.astype(x.dtype), wave.imag.astype(x.dtype)
    response = jacobian_products(denoise_fn, x, sigma, jnp.stack([cosine, sine]))
    result = response[0] + 1j * response[1]
    return jnp.sum(jnp.conj(wave) * result) / jnp.sum(jnp.abs(wave) ** 2)


def jacobian_products(denoise_fn: DenoiseFn, x: Array, sigma: Array, tangents: Array) -> Array:
    """Return J v for each tangent (num, H, W, C), in at least float32; the primal pass is shared."""

    def response(tangent: Array) -> Array:
        return jax.jvp(lambda y: denoise_fn(y, sigma), (x,), (tangent,))[1]

    out = jax.vmap(response)(tangents)
    check(
        out.shape == tangents.shape,
        "denoise_fn",
        f"results of shape {x.shape}",
        f"shape {out.shape[1:]}",
        "fix it",
    )
    return out.astype(jnp.promote_types(out.dtype, jnp.float32))


def random_phase_field(key: PRNGKey, grid: tuple[int, int], dtype: Any) -> PhaseField:
    r"""Draw a real field with ``|z_k|^2 = N`` at every wavevector and independent uniform phases.

    Parameters
    ----------
    key : PRNG key
        Source of the phases.
    grid : (H, W)
        Static grid.
    dtype
        Floating dtype.

    Returns
    -------
    PhaseField
        ``field`` (H, W), of mean square one, and its ``transform`` (H, W).

    Notes
    -----
    The phases are those of white noise: uniform, independent and Hermitian by construction.

    Example
    -------
    >>> z, z_hat = random_phase_field(jax.random.key(0), (4, 5), jnp.float32)
    >>> bool(jnp.allclose(jnp.abs(jnp.fft.fft2(z)) ** 2, 20.0, rtol=1e-4))
    True
    """
    return _random_phase_field(key, grid=check_grid(grid), dtype=jnp.dtype(dtype))


@program(static_argnames=("grid", "dtype"))
def _random_phase_field(key: PRNGKey, *, grid: tuple[int, int], dtype: Any) -> PhaseField:
    noise = fft2(jax.random.normal(key, grid, dtype))
    size = jnp.abs(noise)
    # White noise has no zero mode amplitude except with probability zero; then the phase is arbitrary.
    phase = jnp.where(size > 0, noise / jnp.where(size > 0, size, 1), 1)
    z_hat = phase * float(np.sqrt(np.prod(grid)))
    return PhaseField(ifft2(z_hat, real=True), z_hat)


def probe_tangents(key: PRNGKey, shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
    """Draw one probe of shape (H, W, C) as a tangent of each channel, (C, H, W, C), with its transform (H, W)."""
    height, width, channels = shape
    z, z_hat = random_phase_field(key, (height, width), dtype)
    return z[None, :, :, None] * jnp.eye(channels, dtype=dtype)[:, None, None, :], z_hat


def probe_symbol(z_hat: Array, response: Array) -> Array:
    """Estimate the symbol (H, W, C, C) from the response (C, H, W, C) to the tangents of one probe."""
    response_hat = fft2(jnp.moveaxis(response, 0, -1))
    return jnp.conj(z_hat)[..., None, None] * response_hat / z_hat.size


def measured_symbol(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    x: Float[ArrayLike, "*samples H W C"],
    sigma: Scalar,
    *,
    num_probes: int,
    batch_size: int | None = None,
) -> Estimate:
    r"""Measure the symbol of a denoiser's mean Jacobian at all wavevectors by random-phase probes.

    .. math:: \lambda_{ab}(k) = \langle \overline{z_k} (J z^{(b)})_{a,k} \rangle / N, \qquad |z_k|^2 = N

    where :math:`z^{(b)}` is the probe z in channel b and zero in the others.

    Parameters
    ----------
    denoise_fn : DenoiseFn
        Any callable ``(x, sigma) -> (H, W, C)`` with forward derivatives.
    key : PRNG key
        Every sample and probe draws its own phases.
    x : float array (H, W, C) or (B, H, W, C)
        Where the Jacobian is taken; samples are averaged over.
    sigma : scalar > 0
        Standard deviation of the noise.
    num_probes : int
        Probes per sample, at least 2 for a single image.
    batch_size : int, optional
        Samples evaluated together. Default one.

    Returns
    -------
    Estimate
        ``value`` (H, W, C, C) complex, FFT order, with the symbol's sign: ``J e_k = lambda(k) e_k`` where D is
        translation invariant. ``error`` (H, W, C, C) real, sqrt(error of real part^2 + error of imaginary part^2):
        over samples for a batch (B >= 2), which includes the probes' own; over probes, given x, for a single image.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dtypes, or too few probes for an error.

    Notes
    -----
    Unbiased. B * num_probes * C Jacobian-vector products. Up to eight probes of an image are pushed at once and share
    the evaluation of a JAX denoiser; memory is that of ``batch_size * min(num_probes, 8) * C`` tangents. In the unitary
    Fourier basis the variance of one probe is ``sum_{k' != k} |J_kk'|^2``: none where J is translation invariant.
    Gaussian probes with a ratio would have infinite variance. THEORY section 6.

    Example
    -------
    >>> from critjax.closed_form import gaussian_denoiser
    >>> denoise = gaussian_denoiser(jnp.zeros((4, 6, 1)), jnp.full((4, 6), 3.0))
    >>> found = measured_symbol(denoise, jax.random.key(0), jnp.ones((4, 6, 1)), 1.0, num_probes=2)
    >>> print(round(float(found.value[1, 2, 0, 0].real), 5), bool(np.max(found.error) < 1e-5))
    0.75 True
    """
    check_floating("x", x)
    got = f"shape {tuple(x.shape)}"
    check(x.ndim in (3, 4), "x", "shape (H, W, C) or (B, H, W, C)", got, "add or drop axes")
    least = 2 if x.ndim == 3 or x.shape[0] == 1 else 1
    advice = "one probe of one image has no standard error"
    num_probes = check_count("num_probes", num_probes, least=least, advice=advice)
    if batch_size is not None:
        advice = "count samples evaluated together"
        batch_size = check_count("batch_size", batch_size, least=1, advice=advice)
    denoise, options = (
        as_pytree("denoise_fn", denoise_fn),
        {"num_probes": num_probes, "batch_size": batch_size},
    )
    return _measured_symbol(denoise, key, x, as_sigma(sigma), **options)


@program(static_argnames=("num_probes", "batch_size"))
def _measured_symbol(
    denoise_fn: DenoiseFn, key: PRNGKey, x: Array, sigma: Any, *, num_probes: int, batch_size: int | None
) -> Estimate:
    samples = x[None] if x.ndim == 3 else x
    sigma = jnp.asarray(sigma).astype(x.dtype)
    num_samples, height, width, channels = samples.shape
    dtype = jnp.promote_types(x.dtype, jnp.float32)

    def probe(image: Array, key: PRNGKey) -> Array:
        tangents, z_hat = probe_tangents(key, (height, width, channels), dtype)
        return probe_symbol(z_hat, jacobian_products(denoise_fn, image, sigma, tangents.astype(image.dtype)))

    def sample(data: tuple[Array, PRNGKey]) -> tuple[Array, Array]:
        image, key = data
        together = min(num_probes, PROBES_TOGETHER)
        keys = jax.random.split(key, num_probes)
        return _mean_and_error(jax.lax.map(lambda k: probe(image, k), keys, batch_size=together))

    keys = jax.random.split(key, num_samples)
    means, errors = jax.lax.map(sample, (samples, keys), batch_size=batch_size)
    if num_samples == 1:
        return Estimate(means[0], errors[0])
    return Estimate(*_mean_and_error(means))


def _mean_and_error(values: Array) -> tuple[Array, Array]:
    """Return the mean over the leading axis and its standard error; NaN for a single value."""
    count = values.shape[0]
    mean = jnp.mean(values, axis=0)
    if count == 1:
        return mean, jnp.full(mean.shape, jnp.nan, mean.real.dtype)
    return mean, jnp.sqrt(jnp.sum(jnp.abs(values - mean) ** 2, axis=0) / (count - 1) / count)


def project_symbol(symbol: Inexact[ArrayLike, "H W C C"], size: int) -> Complex[Array, "H W C C"]:
    r"""Project a symbol on those of kernels supported on a window.

    Parameters
    ----------
    symbol : array (H, W, C, C)
        FFT order.
    size : int
        Window p <= min(H, W); offsets ``-((p-1)//2) ... p//2``.

    Returns
    -------
    complex array (H, W, C, C)
        The nearest such symbol in the mean square over k; it belongs to a real kernel. Idempotent.

    Raises
    ------
    ValueError
        If the rank is wrong or the window does not fit.

    Notes
    -----
    Two FFTs; exact. Cuts white sampling noise by the factor p / sqrt(H W). THEORY section 5.

    Example
    -------
    >>> noisy = jax.random.normal(jax.random.key(0), (8, 8, 1, 1))
    >>> once = project_symbol(noisy, 3)
    >>> bool(jnp.allclose(project_symbol(once, 3), once, atol=1e-6))
    True
    """
    check_rank("symbol", symbol, "H W C C")
    return _project_symbol(symbol, size=check_window(size))


@program(static_argnames="size")
def _project_symbol(symbol: Array, *, size: int) -> Array:
    return kernel_to_symbol(symbol_to_kernel(symbol, size), symbol.shape[:2])
