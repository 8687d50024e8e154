"""Mixtures: isotropic Gaussians, whole images, and the two constant patches of a ferromagnet."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from critjax._checks import (
    as_floating,
    as_log_prior,
    check,
    check_floating,
    check_window,
    is_concrete,
    on_host,
    widened,
)
from critjax._programs import Static, as_pytree, program
from critjax._typing import Array, ArrayLike, DenoiseFn, Float
from critjax.closed_form._inputs import EXACT, check_inputs, check_sigma


def score(denoise_fn: DenoiseFn, x: ArrayLike, sigma: Any) -> Float[Array, "H W C"]:
    r"""Turn a denoiser into the score of the noisy density.

    .. math:: \nabla_x \ln p(x; \sigma) = (D(x, \sigma) - x) / \sigma^2

    Parameters
    ----------
    denoise_fn : DenoiseFn
        Posterior mean D(x, sigma).
    x : float array (H, W, C)
        Noisy image.
    sigma : scalar > 0
        Standard deviation of the noise.

    Returns
    -------
    float array (H, W, C)
        The gradient of the log density; exact whenever ``denoise_fn`` is.

    Notes
    -----
    Tweedie's formula; THEORY section 0. One call of ``denoise_fn``.

    Example
    -------
    >>> images = np.array([1.0, -1.0]).reshape(2, 1, 1, 1)
    >>> float(score(ideal_denoiser(images), np.zeros((1, 1, 1)), 1.0)[0, 0, 0])
    0.0
    """
    check_sigma(sigma)
    check_floating("x", x)
    return _score(as_pytree("denoise_fn", denoise_fn), x, on_host(sigma, widened(x.dtype)))


@program
def _score(denoise_fn: DenoiseFn, x: Array, sigma: Array) -> Array:
    return (denoise_fn(x, sigma) - x) / sigma.astype(x.dtype) ** 2


def mixture_denoiser(means: ArrayLike, std: Any, *, log_prior: Any = None) -> DenoiseFn:
    r"""Denoise under a mixture of isotropic Gaussians N(m_k, s^2 I) with weights pi_k.

    .. math:: w_k \propto \pi_k e^{-|x - m_k|^2 / 2(s^2 + \sigma^2)}, \qquad
              D = \frac{s^2 x + \sigma^2 \sum_k w_k m_k}{s^2 + \sigma^2}

    Parameters
    ----------
    means : float array (K, H, W, C)
        Centres m_k, image range [-1, 1] by convention.
    std : scalar >= 0
        Common standard deviation s of every component; zero gives `ideal_denoiser`.
    log_prior : float array (K,), optional
        Logarithms of pi_k, need not be normalised; -inf excludes a component. Default uniform.

    Returns
    -------
    DenoiseFn
        ``(x (H, W, C), sigma) -> (H, W, C)``, the exact posterior mean; NaN if every ``log_prior`` is -inf.

    Raises
    ------
    ValueError, TypeError
        If a shape, dtype or (outside tracing) a value is wrong.

    Notes
    -----
    O(K H W C) per call. For two components at +m and -m of equal weight
    D = (s^2 x + sigma^2 m tanh(m.x/(s^2 + sigma^2)))/(s^2 + sigma^2), whose mode along m turns critical at
    sigma_c^2 = |m|^2 - s^2. Biroli, Bonnaire, de Bortoli and Mezard 2024, arXiv:2402.18491; THEORY section 3.

    Example
    -------
    >>> denoise = mixture_denoiser(np.array([1.0, -1.0]).reshape(2, 1, 1, 1), 0.6)
    >>> slope = jax.grad(lambda a: denoise(jnp.full((1, 1, 1), a), 0.8)[0, 0, 0])(0.0)  # 0.8^2 = 1 - 0.6^2
    >>> round(float(slope), 4)
    1.0
    """
    means = as_floating("means", means, "K H W C")
    log_prior = as_log_prior(log_prior, means.shape[0], means.dtype)
    shape = tuple(jnp.shape(std))
    check(shape == (), "std", "one scalar for all components", f"shape {shape}", "use a common width")
    if is_concrete(std):
        value = float(std)
        check(0 <= value < np.inf, "std", "a finite number >= 0", value, "0 is the ideal denoiser")
        std = np.asarray(value)
    return Partial(_denoise_mixture, means, log_prior, std)


def _denoise_mixture(means: ArrayLike, log_prior: ArrayLike, std: Any, x: Any, sigma: Any) -> Array:
    return _mixture_mean(means, log_prior, std, x, check_inputs(x, sigma, tuple(means.shape[1:])))


@program
def _mixture_mean(means: Array, log_prior: Array, std: Array, x: Array, sigma: Array) -> Array:
    y, centres, prior_variance = (
        x.astype(sigma.dtype),
        means.astype(sigma.dtype),
        std.astype(sigma.dtype) ** 2,
    )
    variance = prior_variance + sigma**2
    weights = jax.nn.softmax(_log_weights(centres, log_prior, y, variance))
    centre = jnp.tensordot(weights, centres, 1, precision=EXACT)
    return ((prior_variance * y + sigma**2 * centre) / variance).astype(x.dtype)


def _log_weights(centres: Array, log_prior: Array, y: Array, variance: Array) -> Array:
    # Differences first, then squares: expanding the square loses every digit once sigma is far below |m|.
    distance = jnp.sum((y - centres) ** 2, axis=(1, 2, 3))
    return log_prior.astype(y.dtype) - distance / (2 * variance)


def ideal_denoiser(images: ArrayLike, *, log_prior: Any = None) -> DenoiseFn:
    r"""Denoise under the empirical distribution of whole images: the denoiser that memorises.

    .. math:: D(x, \sigma) = \sum_\mu w_\mu \phi_\mu, \qquad
              w_\mu \propto \pi_\mu e^{-|x - \phi_\mu|^2 / 2\sigma^2}

    Parameters
    ----------
    images : float array (N, H, W, C)
        Training images phi_mu in [-1, 1].
    log_prior : float array (N,), optional
        Logarithms of pi_mu, need not be normalised; -inf excludes an image. Default uniform.

    Returns
    -------
    DenoiseFn
        ``(x (H, W, C), sigma) -> (H, W, C)``, exact.

    Raises
    ------
    ValueError, TypeError
        If a shape, dtype or (outside tracing) a value is wrong.

    Notes
    -----
    O(N H W C) per call. The weights themselves: `ideal_log_weights`. Biroli et al. 2024, arXiv:2402.18491;
    Scarvelis et al. 2023, arXiv:2310.12395; THEORY section 2, row "ideal".

    Example
    -------
    >>> denoise = ideal_denoiser(np.array([1.0, -1.0]).reshape(2, 1, 1, 1))
    >>> round(float(denoise(np.full((1, 1, 1), 0.5), 1.0)[0, 0, 0]), 4)  # tanh(1/2)
    0.4621
    """
    images = as_floating("images", images, "N H W C")
    return mixture_denoiser(images, 0.0, log_prior=log_prior)


def ideal_log_weights(
    images: ArrayLike, x: ArrayLike, sigma: Any, *, log_prior: Any = None
) -> Float[Array, " N"]:
    r"""Compute the logarithms of the posterior weights that `ideal_denoiser` gives to whole images.

    .. math:: \ln w_\mu = \ln \pi_\mu - |x - \phi_\mu|^2 / 2\sigma^2 - \ln Z

    Parameters
    ----------
    images : float array (N, H, W, C)
        Training images phi_mu.
    x : float array (H, W, C)
        Noisy image.
    sigma : scalar > 0
        Standard deviation of the noise.
    log_prior : float array (N,), optional
        As for `ideal_denoiser`.

    Returns
    -------
    float array (N,)
        Normalised; -inf for what the prior excludes. exp of the entropy counts the images that share the posterior;
        sums over the images of a class are its posterior.

    Raises
    ------
    ValueError, TypeError
        As `ideal_denoiser`.

    Notes
    -----
    Exact, by differences, O(N H W C). Biroli et al. 2024, arXiv:2402.18491; THEORY section 3.

    Example
    -------
    >>> images = np.array([1.0, -1.0], np.float32).reshape(2, 1, 1, 1)
    >>> np.exp(ideal_log_weights(images, np.zeros((1, 1, 1), np.float32), 1.0)).tolist()
    [0.5, 0.5]
    """
    images = as_floating("images", images, "N H W C")
    log_prior = as_log_prior(log_prior, images.shape[0], images.dtype)
    return _normalised(images, log_prior, x, check_inputs(x, sigma, tuple(images.shape[1:])))


@program
def _normalised(images: Array, log_prior: Array, x: Array, sigma: Array) -> Array:
    logits = _log_weights(images.astype(sigma.dtype), log_prior, x.astype(sigma.dtype), sigma**2)
    return jax.nn.log_softmax(logits).astype(x.dtype)


def two_pattern_denoiser(size: int) -> DenoiseFn:
    r"""Denoise with the bank of the two constant patches +1 and -1, periodic boundary.

    .. math:: D_i = \tanh\Big( \sum_{r \in \Omega, a} x_{i+r, a} / \sigma^2 \Big)
              = \tanh(P C \bar m_i / \sigma^2)

    Parameters
    ----------
    size : int
        Window size p >= 1, P = p^2; the window reaches (p-1)//2 pixels back and p//2 ahead, and wraps as
        often as it must when it exceeds the image.

    Returns
    -------
    DenoiseFn
        ``(x (H, W, C), sigma) -> (H, W, C)``, exact; all channels of the result are equal. Its uniform mode
        turns critical at sigma_c^2 = P C.

    Raises
    ------
    ValueError
        If ``size`` is no positive integer.

    Notes
    -----
    O(H W C p) per call. Ambrogioni 2026, arXiv:2603.20092; THEORY section 3.

    Example
    -------
    >>> denoise = two_pattern_denoiser(3)
    >>> round(float(denoise(np.full((8, 8, 1), 0.1), 3.0)[0, 0, 0]), 6)  # tanh(9 * 0.1 / 9)
    0.099668
    """
    size = check_window(size)
    return Partial(Static(_denoise_two_patterns, size))


def _denoise_two_patterns(size: int, x: Any, sigma: Any) -> Array:
    return _tanh_of_windows(size, x, check_inputs(x, sigma, None))


@program(static_argnums=0)
def _tanh_of_windows(size: int, x: Array, sigma: Array) -> Array:
    y = x.astype(sigma.dtype)
    window = jnp.sum(y, axis=-1)
    for axis in (0, 1):
        widths = [(0, 0), (0, 0)]
        widths[axis] = ((size - 1) // 2, size // 2)
        extent = [1, 1]
        extent[axis] = size
        padded, zero = jnp.pad(window, widths, mode="wrap"), np.zeros((), y.dtype)
        window = jax.lax.reduce_window(padded, zero, jax.lax.add, extent, (1, 1), "VALID")
    return jnp.broadcast_to(jnp.tanh(window / sigma**2)[..., None], y.shape).astype(x.dtype)
