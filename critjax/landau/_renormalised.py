r"""Coefficients of slow fields among fluctuations: the modes that the reduced equation leaves out, averaged over.

The noisy image is a slow field plus fast modes. Bare coefficients expand the denoiser at the homogeneous state, as if
the fast modes were not there; here the denoiser is first averaged over them, as Gaussian fields of a given spectrum,
and then expanded in the slow field (THEORY section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_sigmas, check, check_count, check_grid, check_rank, check_window, is_concrete
from critjax._programs import as_pytree, program
from critjax._typing import Array, ArrayLike, Complex, DenoiseFn, Float, PRNGKey, Scalar
from critjax.closed_form import gaussian_fields
from critjax.fourier import kernel_to_symbol, symbol_to_kernel, wavevectors
from critjax.landau._coefficients import LandauCoefficients, assemble, expand_kernel
from critjax.landau._model import ReducedModel, check_steady, steady
from critjax.spectra import measured_symbol
from critjax.spectra._inputs import as_sigma

_EXACT = jax.lax.Precision.HIGHEST


class RenormalisedCoefficients(NamedTuple):
    """Result of `renormalised_coefficients`."""

    coefficients: LandauCoefficients
    symbol: Complex[Array, "H W"]
    """Symbol of the mean Jacobian, projected on the uniform mode, FFT order."""
    target: Float[Array, " C"]
    """<D> at psi = 0, to which the mean moves."""


def fast_fields(key: PRNGKey, structure_factor: ArrayLike, cutoff: Any, num_samples: int) -> Array:
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

    Example
    -------
    >>> fields = fast_fields(jax.random.key(0), jnp.ones((8, 8, 1, 1), complex), 1.0, 2)
    >>> fields.shape, bool(np.max(np.abs(np.mean(fields, axis=(1, 2)))) < 1e-6)  # k = 0 is slow
    ((2, 8, 8, 1), True)
    """
    advice = "pass the number of fields"
    num_samples = check_count("num_samples", num_samples, least=1, advice=advice)
    return _fast_fields(key, structure_factor, squared(cutoff), num_samples=num_samples)


def squared(cutoff: Any) -> Any:
    """Return the square of a cutoff, of a concrete one in double precision on the host."""
    return float(cutoff) ** 2 if is_concrete(cutoff) else cutoff**2


@program(static_argnames="num_samples")
def _fast_fields(key: PRNGKey, structure_factor: Array, squared_cutoff: Any, *, num_samples: int) -> Array:
    grid, channels = structure_factor.shape[:2], structure_factor.shape[-1]
    dtype = structure_factor.real.dtype
    fast = jnp.sum(wavevectors(grid, dtype=dtype) ** 2, axis=-1) > squared_cutoff
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
    structure_factor: Complex[ArrayLike, "H W C C"],
    sigma: Scalar,
    *,
    size: int,
    state: Float[ArrayLike, " C"] | None = None,
    cutoff: float | None = None,
    num_samples: int = 8,
) -> RenormalisedCoefficients:
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
    structure_factor : complex array (H, W, C, C)
        S(k) at this sigma in FFT order, e.g. of `gaussian_closure`; only modes above the cutoff are used.
    sigma : scalar > 0
        Standard deviation of the noise.
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
    RenormalisedCoefficients
        ``coefficients``, the projected ``symbol`` (H, W) of the mean Jacobian, and ``target`` (C,), <D> at psi = 0.

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
    >>> found = renormalised_coefficients(two_pattern_denoiser(5), jax.random.key(0), white, 6.0, size=5)
    >>> bool(found.coefficients.r > 1 - 25 / 36)  # fluctuations weaken the response
    True
    """
    check_rank("structure_factor", structure_factor, "H W C C")
    channels = structure_factor.shape[-1]
    state = np.zeros((channels,), np.finfo(structure_factor.dtype).dtype) if state is None else state
    advice = "pass one value a channel"
    got = f"shape {tuple(state.shape)}"
    check(tuple(state.shape) == (channels,), "state", f"shape ({channels},)", got, advice)
    denoise, options = _options(denoise_fn, size, cutoff, num_samples)
    return _renormalised_coefficients(denoise, key, structure_factor, as_sigma(sigma), state, **options)


def _options(
    denoise_fn: DenoiseFn, size: int, cutoff: Any, num_samples: int
) -> tuple[DenoiseFn, dict[str, Any]]:
    """Check what both programs take beside their arrays."""
    num_samples = check_count("num_samples", num_samples, least=2, advice="8 suits a 64 x 64 grid")
    size = check_window(size)
    cutoff = squared(np.pi / size if cutoff is None else cutoff)
    return as_pytree("denoise_fn", denoise_fn), {
        "squared_cutoff": cutoff,
        "size": size,
        "num_samples": num_samples,
    }


@program(static_argnames=("size", "num_samples"))
def _renormalised_coefficients(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    structure_factor: Array,
    sigma: Any,
    state: Array,
    *,
    squared_cutoff: Any,
    size: int,
    num_samples: int,
) -> RenormalisedCoefficients:
    grid, dtype = structure_factor.shape[:2], structure_factor.real.dtype
    sigma, state = jnp.asarray(sigma).astype(dtype), state.astype(dtype)
    field_key, probe_key = jax.random.split(key)
    fields = state + _fast_fields(field_key, structure_factor, squared_cutoff, num_samples=num_samples)

    measured = measured_symbol(denoise_fn, probe_key, fields, sigma, num_probes=1).value
    kernel = symbol_to_kernel(measured, min(size, *grid)).real.astype(dtype)
    expansion = expand_kernel(kernel)
    right, left = expansion.right.real.astype(dtype), expansion.left.real.astype(dtype)

    def response(shift: Array) -> Array:
        return jax.lax.map(lambda x: denoise_fn(x + shift * right, sigma).mean((0, 1)), fields).mean(0)

    zero = jnp.zeros((), dtype)
    second, third = (left @ _derivative(response, order)(zero) for order in (2, 3))
    symbol = kernel_to_symbol(kernel, grid)
    projected = jnp.einsum("a,hwab,b->hw", left, symbol, right, precision=_EXACT)
    coefficients = assemble(expansion, second / 2, -third / 6)
    return RenormalisedCoefficients(coefficients, projected, response(zero))


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
    sigmas, spectra = as_sigmas("sigmas", sigmas), structure_factor
    check_rank("structure_factor", spectra, "num H W C C")
    num, grid, channels = sigmas.shape[0], check_grid(spectra.shape[1:3]), mean.shape[-1]
    shapes = tuple(mean.shape), tuple(spectra.shape)
    fits = shapes == ((num, channels), (num, *grid, channels, channels))
    got = f"shapes {shapes[0]} and {shapes[1]}"
    expected = f"one of each for {num} levels"
    check(fits, "mean, structure_factor", expected, got, "pass those of one closure")
    denoise, options = _options(denoise_fn, size, cutoff, num_samples)
    model, still = _renormalised_model(denoise, key, sigmas, mean, spectra, **options)
    check_steady(still)
    return model


@program(static_argnames=("size", "num_samples"))
def _renormalised_model(
    denoise_fn: DenoiseFn, key: PRNGKey, sigmas: Array, mean: Array, spectra: Array, **options: Any
) -> tuple[ReducedModel, Array]:
    def level(inputs: Sequence[Array]) -> RenormalisedCoefficients:
        sigma, state, spectrum = inputs
        same = jax.random.clone(key)  # so that curves of the noise are smooth
        return _renormalised_coefficients(denoise_fn, same, spectrum, sigma, state, **options)

    found, symbols, targets = jax.lax.map(level, (sigmas, mean, spectra))
    coefficients, still = steady(found)
    return ReducedModel(sigmas, mean, targets, symbols, coefficients), still
