r"""Coefficients of slow fields among fluctuations: the modes that the reduced equation leaves out, averaged over.

The noisy image is a slow field plus fast modes. Bare coefficients expand the denoiser at the homogeneous state, as if
the fast modes were not there; here the denoiser is first averaged over them, as Gaussian fields of a given spectrum,
and then expanded in the slow field (THEORY section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_sigmas, check, check_grid, check_rank
from critjax._typing import Array, ArrayLike, Complex, DenoiseFn, Float, PRNGKey, Scalar
from critjax.closed_form import gaussian_fields
from critjax.fourier import kernel_to_symbol, symbol_to_kernel, wavevectors
from critjax.landau._coefficients import LandauCoefficients, assemble, expand_kernel
from critjax.landau._model import ReducedModel, steady
from critjax.spectra import measured_symbol

_EXACT = jax.lax.Precision.HIGHEST


def fast_fields(key: PRNGKey, structure_factor: Array, cutoff: Any, num_samples: int) -> Array:
    """Draw Gaussian fields of the modes that a slow field leaves out.

    Parameters
    ----------
    key : PRNG key
    structure_factor : complex array (H, W, C, C)
        S(k) in FFT order.
    cutoff : scalar
        Modes with ``|k| > cutoff`` rad per pixel are drawn.
    num_samples : int

    Returns
    -------
    float array (num_samples, H, W, C)
        Mean zero, structure factor S above the cutoff and nothing below.
    """
    grid, channels = structure_factor.shape[:2], structure_factor.shape[-1]
    dtype = structure_factor.real.dtype
    fast = jnp.sum(wavevectors(grid, dtype=dtype) ** 2, axis=-1) > cutoff**2
    white = jnp.fft.fft2(jax.random.normal(key, (num_samples, *grid, channels), dtype), axes=(1, 2))
    return gaussian_fields(jnp.where(fast[..., None], white, 0), structure_factor)


def _derivative(function: Callable[[Array], Array], order: int) -> Callable[[Array], Array]:
    """Differentiate a function of a scalar ``order`` times, forward."""
    if order == 0:
        return function
    return _derivative(lambda s: jax.jvp(function, (s,), (jnp.ones_like(s),))[1], order - 1)


def renormalised_coefficients(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    sigma: Scalar,
    structure_factor: Complex[ArrayLike, "H W C C"],
    *,
    size: int,
    state: Float[ArrayLike, " C"] | None = None,
    cutoff: float | None = None,
    num_samples: int = 8,
) -> tuple[LandauCoefficients, Array, Array]:
    r"""Expand a denoiser for slow fields, averaged over Gaussian fast modes.

    .. math::
        \lambda(k) = \langle J \rangle_k, \quad h = \tfrac12 \partial^2 f(0), \quad u = -\tfrac16 \partial^3 f(0),
        \qquad f(\psi) = \langle l \cdot D(m + \psi e + \xi) \rangle, \quad \xi \sim N(0, S_{|k| > k_c})

    Parameters
    ----------
    denoise_fn : DenoiseFn
        Translation invariant and three times differentiable in forward mode, e.g. of `patch_denoiser`.
    key : PRNG key
        Of the fast fields and of the probes; the same key at all noise levels gives smooth curves.
    sigma : scalar > 0
        Standard deviation of the noise.
    structure_factor : complex array (H, W, C, C)
        S(k) at this sigma in FFT order, e.g. of `gaussian_closure`; only modes above the cutoff are used.
    size : int
        Window p: the mean kernel is projected on it, which cuts nothing but sampling noise (centre readout).
    state : float array (C,), optional
        Uniform mean m. Default zero.
    cutoff : float, optional
        k_c in rad per pixel; default pi/p, the low pass of `landau_sample`.
    num_samples : int
        Fields averaged over.

    Returns
    -------
    (LandauCoefficients, symbol (H, W), target (C,))
        The coefficients, the projected symbol of the mean Jacobian, and <D> at psi = 0, to which the mean moves.

    Raises
    ------
    ValueError
        If shapes do not match or ``num_samples`` is below two.

    Notes
    -----
    Exact but for the sampling of fast fields, whose error falls as the inverse square root of samples times pixels.
    ``14 num_samples`` denoiser evaluations, or the time of so many. THEORY section 4.

    Example
    -------
    >>> from critjax.closed_form import two_pattern_denoiser
    >>> white = jnp.full((32, 32, 1, 1), 36.0 + 0j)
    >>> found, _, _ = renormalised_coefficients(two_pattern_denoiser(5), jax.random.key(0), 6.0, white, size=5)
    >>> bool(found.r > 1 - 25 / 36)  # fluctuations weaken the response
    True
    """
    structure_factor = jnp.asarray(structure_factor)
    check_rank("structure_factor", structure_factor, "H W C C")
    check(num_samples >= 2, "num_samples", "an integer >= 2", num_samples, "8 suits a 64 x 64 grid")
    grid, channels = structure_factor.shape[:2], structure_factor.shape[-1]
    dtype = structure_factor.real.dtype
    sigma = jnp.asarray(sigma, dtype)
    state = jnp.zeros((channels,), dtype) if state is None else jnp.asarray(state, dtype)
    advice = "pass one value a channel"
    check(state.shape == (channels,), "state", f"shape ({channels},)", f"shape {state.shape}", advice)
    field_key, probe_key = jax.random.split(key)
    cutoff = np.pi / size if cutoff is None else cutoff
    fields = state + fast_fields(field_key, structure_factor, cutoff, num_samples)

    measured = measured_symbol(denoise_fn, fields, sigma, probe_key, num_probes=1).symbol
    kernel = symbol_to_kernel(measured, min(size, *grid)).real.astype(dtype)
    expansion = expand_kernel(kernel)
    right, left = expansion.right.real.astype(dtype), expansion.left.real.astype(dtype)

    def response(shift: Array) -> Array:
        return jax.lax.map(lambda x: denoise_fn(x + shift * right, sigma).mean((0, 1)), fields).mean(0)

    zero = jnp.zeros((), dtype)
    second, third = (left @ _derivative(response, order)(zero) for order in (2, 3))
    symbol = kernel_to_symbol(kernel, grid)
    projected = jnp.einsum("a,hwab,b->hw", left, symbol, right, precision=_EXACT)
    return assemble(expansion, second / 2, -third / 6), projected, response(zero)


def renormalised_model(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    sigmas: Float[ArrayLike, " num"],
    mean: Float[ArrayLike, "levels C"],
    structure_factor: Complex[ArrayLike, "spectra H W C C"],
    *,
    size: int,
    cutoff: float | None = None,
    num_samples: int = 8,
) -> ReducedModel:
    r"""Collect what the reduced dynamics need on a ladder, with coefficients renormalised by the fast modes.

    Parameters
    ----------
    denoise_fn, key, size, cutoff, num_samples
        As for `renormalised_coefficients`.
    sigmas : float array (num,)
        Strictly decreasing standard deviations.
    mean, structure_factor : arrays (num, C) and (num, H, W, C, C)
        Uniform mean and S at these levels, usually ``gaussian_closure(...).mean`` and ``.structure_factor``.

    Returns
    -------
    ReducedModel
        For `integrate`, in place of that of `reduced_model`; the linear part is the projected symbol.

    Raises
    ------
    ValueError
        If shapes do not match, the ladder is illegal, or the uniform mode of several channels oscillates (NaN under
        tracing).

    Notes
    -----
    As many times the cost of `renormalised_coefficients` as there are levels, one level in memory. THEORY section 4.

    Example
    -------
    >>> from critjax.closed_form import two_pattern_denoiser
    >>> denoise, key = two_pattern_denoiser(5), jax.random.key(0)
    >>> sigmas, mean = jnp.array([8.0, 6.0]), jnp.zeros((2, 1))
    >>> white = (sigmas**2)[:, None, None, None, None] * jnp.ones((16, 16, 1, 1), complex)
    >>> renormalised_model(denoise, key, sigmas, mean, white, size=5).symbol.shape
    (2, 16, 16)
    """
    sigmas, mean = as_sigmas("sigmas", sigmas), jnp.asarray(mean)
    spectra = jnp.asarray(structure_factor)
    check_rank("structure_factor", spectra, "num H W C C")
    grid = check_grid(spectra.shape[1:3])
    channels = mean.shape[-1]
    got = f"shapes {mean.shape} and {spectra.shape}"
    expected = f"one of each for {sigmas.shape[0]} levels"
    fits = mean.shape == (len(sigmas), channels)
    fits = fits and spectra.shape == (len(sigmas), *grid, channels, channels)
    check(fits, "mean, structure_factor", expected, got, "pass those of one closure")

    def level(inputs: Sequence[Array]) -> tuple[LandauCoefficients, Array, Array]:
        sigma, state, spectrum = inputs
        return renormalised_coefficients(
            denoise_fn,
            key,
            sigma,
            spectrum,
            size=size,
            state=state,
            cutoff=cutoff,
            num_samples=num_samples,
        )

    found, symbols, targets = jax.lax.map(level, (sigmas, mean, spectra))
    return ReducedModel(sigmas, mean, targets, symbols, steady(found))
