r"""Exact response kernels and Fourier symbols of banks at a homogeneous state.

At a constant image x* = m, with periodic boundary and one bank for all pixels, the Jacobian of the patch
denoiser is a correlation with a kernel, and plane waves are its eigenvectors (THEORY section 3):

``g_ab(r) = (1/sigma^2) Cov_w(phi_a(0), phi_b(r))``,   ``Dhat_ab(k) = sum_r g_ab(r) exp(i k.r)``,
``J e_k = Dhat(k) e_k`` for ``e_k(j) = exp(i k.j)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from critjax._checks import check, check_grid, check_rank
from critjax._programs import program
from critjax._typing import Array, ArrayLike, Complex, Float, Scalar
from critjax.banks import ImageBank, PatchBank
from critjax.fourier import kernel_to_symbol
from critjax.spectra._blocks import check_block_size
from critjax.spectra._inputs import as_sigma
from critjax.spectra.eigenvalues import leading_eigenvalue
from critjax.spectra.posterior import (
    check_bank,
    check_state,
    posterior_moments,
    working_dtype,
)

Bank = PatchBank | ImageBank


def _kernel_from_covariance(covariance: Array, size: int, channels: int, readout: str) -> Array:
    """Sort a covariance of features with entries by offsets, output channel before input channel."""
    if readout == "centre":
        return jnp.moveaxis(covariance.reshape(channels, size, size, channels), 0, -2)
    # Average readout: pixel i reads offset r of every window that covers it, which sees pixel j at offset s;
    # all pairs with s - r = j - i add up, and each of the P windows has weight 1/P.
    pairs = covariance.reshape(size, size, channels, size, size, channels)
    kernel = jnp.zeros((2 * size - 1, 2 * size - 1, channels, channels), covariance.dtype)
    offsets = np.arange(size)
    difference = offsets[None, :] - offsets[:, None] + size - 1  # s - r, shifted to start at zero
    rows = difference[:, None, :, None]
    columns = difference[None, :, None, :]
    kernel = kernel.at[rows, columns].add(pairs.transpose(0, 1, 3, 4, 2, 5))
    return kernel / size**2


def response_kernel(
    bank: Bank,
    sigma: Scalar,
    *,
    state: Float[ArrayLike, " C"] | None = None,
    readout: str = "centre",
    block_size: int | None = None,
) -> Float[Array, "p q C C"]:
    r"""Compute the response kernel of a bank at a homogeneous state.

    .. math:: g_{ab}(r) = \frac{1}{\sigma^2} \mathrm{Cov}_w(\phi_a(0), \phi_b(r)), \qquad
              w_\mu \propto \pi_\mu e^{-|\phi_\mu - m|^2 / 2 \sigma^2}

    With the average readout, :math:`g_{ab}(d) = \frac{1}{P \sigma^2} \sum_{r, r+d \in \Omega}
    \mathrm{Cov}_w(\phi_a(r), \phi_b(r + d))`.

    Parameters
    ----------
    bank : PatchBank or ImageBank
        Positions "all" or "interior"; "same" has no kernel common to all pixels and is refused.
    sigma : scalar > 0
        Standard deviation of the noise.
    state : float array (C,), optional
        The homogeneous state m, e.g. a row of `homogeneous_state`. Default zero.
    readout : "centre" or "average"
        What the denoiser reads out of the posterior patch.
    block_size : int, optional
        Patches or images per block; the default bounds memory. The result does not depend on it.

    Returns
    -------
    float array (p, p, C, C), or (2p-1, 2p-1, C, C) for the average readout
        Change of pixel i per change of pixel i + r; offsets as `kernel_offsets`, output channel first.
        Dimensionless. In the bank's dtype, at least float32. NaN if every candidate has zero weight.

    Raises
    ------
    ValueError, TypeError
        For a bank without a common kernel, a wrong state shape, an unknown readout or a concrete sigma <= 0.

    Notes
    -----
    Exact up to rounding; float32 is accurate because weights and covariances come from centred differences.
    One pass: per candidate one exponential and O(P C^2) multiplications (P^2 C^2 for the average readout),
    memory of one block. Under `jax.vmap` over ``(sigma, state)`` the pass is shared by all noise levels.
    Differentiable with respect to patches, images, priors, state and sigma. Ambrogioni 2026,
    arXiv:2603.20092; THEORY sections 2 and 3.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> g = response_kernel(two_pattern_bank(3), 2.0)
    >>> g.shape, float(g.sum())  # P / sigma^2 = 9/4
    ((3, 3, 1, 1), 2.25)
    """
    inputs, options = _inputs(bank, sigma, state, readout, block_size)
    return _response_kernel(*inputs, **options)


def _inputs(
    bank: Any, sigma: Any, state: Any, readout: str, block_size: Any
) -> tuple[tuple[Bank, Any, Any], dict[str, Any]]:
    """Check what all programs of a bank take; return their arguments and static options."""
    check_bank(bank, readout)
    inputs = (bank, as_sigma(sigma), check_state(bank, state))
    return inputs, {"readout": readout, "block_size": check_block_size(block_size)}


@program(static_argnames=("readout", "block_size"))
def _response_kernel(bank: Bank, sigma: Any, state: Array, *, readout: str, block_size: int | None) -> Array:
    moments = posterior_moments(bank, sigma, state, readout=readout, block_size=block_size)
    variance = jnp.asarray(sigma).astype(working_dtype(bank)) ** 2
    return _kernel_from_covariance(moments.covariance / variance, bank.size, bank.channels, readout)


def symbol(
    bank: Bank,
    sigma: Scalar,
    grid: Sequence[int],
    *,
    state: Float[ArrayLike, " C"] | None = None,
    readout: str = "centre",
    block_size: int | None = None,
) -> Complex[Array, "H W C C"]:
    r"""Compute the Fourier symbol of a bank's denoiser at a homogeneous state.

    .. math:: \hat D_{ab}(k) = \sum_{r} g_{ab}(r) e^{i k \cdot r}, \qquad J e_k = \hat D(k) e_k

    Parameters
    ----------
    bank, sigma, state, readout, block_size
        As for `response_kernel`.
    grid : (H, W)
        Static size of the noisy image, periodic; need not be that of the bank's images. A window larger than
        the grid wraps around it.

    Returns
    -------
    complex array (H, W, C, C)
        FFT order; ``e_k(j) = exp(+i k.j)``, the sign opposite to numpy's forward FFT. Hermitian for the
        average readout, not in general for the centre readout.

    Raises
    ------
    ValueError, TypeError
        As `response_kernel`, and for a bad grid.

    Notes
    -----
    Cost of `response_kernel` plus one FFT. The *bare* symbol: it is linear theory about m, not what a noisy
    sample or a network's probe sees, and not quantitative for banks of unequal norm. THEORY sections 3 and 5.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> round(float(symbol(two_pattern_bank(3), 3.0, (8, 6))[0, 0, 0, 0].real), 6)  # critical at sigma^2 = P
    1.0
    """
    inputs, options = _inputs(bank, sigma, state, readout, block_size)
    return _symbol(*inputs, grid=check_grid(grid), **options)


@program(static_argnames=("grid", "readout", "block_size"))
def _symbol(bank: Bank, sigma: Any, state: Array, *, grid: tuple[int, int], **options: Any) -> Array:
    return kernel_to_symbol(_response_kernel(bank, sigma, state, **options), grid)


def uniform_symbol(
    bank: Bank,
    sigma: Scalar,
    *,
    state: Float[ArrayLike, " C"] | None = None,
    readout: str = "centre",
    block_size: int | None = None,
) -> Float[Array, "C C"]:
    r"""Compute the symbol at k = 0 alone, without forming correlations.

    .. math:: \hat D_{ab}(0) = \frac{1}{\sigma^2} \mathrm{Cov}_w\Big(\phi_a(0), \sum_r \phi_b(r)\Big)

    Parameters
    ----------
    bank, sigma, state, readout, block_size
        As for `response_kernel`; the average readout replaces phi(0) by the window mean.

    Returns
    -------
    float array (C, C)
        Real; ``dD(m)/dm`` of the denoiser restricted to constant images. Eigenvalues with real part above one
        mean that the homogeneous state is unstable against uniform changes.

    Raises
    ------
    ValueError, TypeError
        As `response_kernel`.

    Notes
    -----
    One exponential and O(C) further operations per candidate: the cheap part of `symbol`. THEORY section 3.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> float(uniform_symbol(two_pattern_bank(5), 5.0)[0, 0])
    1.0
    """
    inputs, options = _inputs(bank, sigma, state, readout, block_size)
    return uniform_response(*inputs, **options).jacobian


class UniformResponse(NamedTuple):
    """What one pass over a bank tells about the dynamics of constant images."""

    value: Array
    """D(m), (C,)."""
    jacobian: Array
    """dD/dm, (C, C)."""
    drift: Array
    """dD/dtau at fixed m, tau = -ln sigma, (C,)."""
    scales: tuple[Array, Array]
    """Sizes (C,) of the terms whose averages are ``value`` and ``drift``; rounding errors are proportional."""


@program(static_argnames=("readout", "block_size"))
def uniform_response(
    bank: Bank, sigma: Any, state: Array, *, readout: str, block_size: int | None
) -> UniformResponse:
    """Compute value and derivatives of the denoiser on constant images from one pass over the bank."""
    moments = posterior_moments(bank, sigma, state, readout=readout, uniform=True, block_size=block_size)
    variance = jnp.asarray(sigma).astype(moments.first.dtype) ** 2
    channels = bank.channels
    sums, distance, features = jnp.split(moments.covariance, [channels, channels + 1], axis=1)
    scale = jnp.sqrt(jnp.maximum(jax.lax.stop_gradient(jnp.diagonal(features) + moments.first**2), 0))
    scales = (scale, scale * moments.second[channels] / variance)
    return UniformResponse(moments.first, sums / variance, -distance[:, 0] / variance, scales)


def mean_field_critical_sigma(
    bank: Bank, grid: Sequence[int], *, readout: str = "centre", block_size: int | None = None
) -> Float[Array, "H W"]:
    r"""Compute the critical noise of every mode for patches of equal norm.

    .. math:: \sigma_c(k)^2 = \max \mathrm{Re\,eig} \sum_r C(r) e^{i k \cdot r}, \qquad
              C_{ab}(r) = \mathrm{Cov}_\pi(\phi_a(0), \phi_b(r))

    Parameters
    ----------
    bank, readout, block_size
        As for `response_kernel`; covariances are taken under the prior weights pi.
    grid : (H, W)
        Static size of the noisy image.

    Returns
    -------
    float array (H, W)
        FFT order; standard deviations, image units. Zero where the sum is not positive: such a mode is stable
        at every noise level. The largest entry is the mean-field sigma_c (VE frame, Dhat = 1).

    Raises
    ------
    ValueError, TypeError
        As `symbol`.

    Notes
    -----
    Exact for patches of equal norm and a state equal to zero; otherwise the large-noise limit of ``sigma^2
    Dhat(k)``, in which the weights' preference for low contrast is left out. One pass over the bank. THEORY
    section 3.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> float(mean_field_critical_sigma(two_pattern_bank(7), (16, 16)).max())
    7.0
    """
    check_bank(bank, readout)
    block_size = check_block_size(block_size)
    return _mean_field_critical_sigma(bank, grid=check_grid(grid), readout=readout, block_size=block_size)


@program(static_argnames=("grid", "readout", "block_size"))
def _mean_field_critical_sigma(
    bank: Bank, *, grid: tuple[int, int], readout: str, block_size: int | None
) -> Array:
    state = jnp.zeros((bank.channels,), working_dtype(bank))
    moments = posterior_moments(bank, 1.0, state, readout=readout, prior_only=True, block_size=block_size)
    kernel = _kernel_from_covariance(moments.covariance, bank.size, bank.channels, readout)
    variance = leading_eigenvalue(kernel_to_symbol(kernel, grid)).real
    positive = variance > 0
    # The inner where keeps the derivative of the square root finite at modes that are never critical.
    return jnp.where(
        positive, jnp.sqrt(jnp.where(positive, variance, 1)), jnp.where(jnp.isnan(variance), jnp.nan, 0)
    )


def nonreciprocal_fraction(kernel_or_symbol: Inexact[ArrayLike, "H W C C"]) -> Float[Array, ""]:
    r"""Measure how far a translation-invariant Jacobian is from a gradient's.

    .. math:: \| (J - J^T)/2 \|_F / \| J \|_F \in [0, 1]

    Parameters
    ----------
    kernel_or_symbol : array (p, q, C, C), real, or (H, W, C, C), complex
        A real array is read as a response kernel (offsets as `kernel_offsets`), a complex one as a symbol in
        FFT order.

    Returns
    -------
    float array ()
        0 for a symmetric Jacobian (a gradient), 1 for an antisymmetric one; NaN for a Jacobian that vanishes.

    Raises
    ------
    ValueError
        If there are not four axes or the last two differ.

    Notes
    -----
    O(N C^2). Both forms agree (Parseval) unless the window wraps around the grid. THEORY section 3.

    Example
    -------
    >>> shift = jnp.zeros((3, 3, 1, 1)).at[1, 2].set(1.0)  # J v = v(i + x): J^T is the other shift
    >>> round(float(nonreciprocal_fraction(shift)), 6)
    0.707107
    """
    check_rank("kernel_or_symbol", kernel_or_symbol, "H W C C")
    shape = tuple(kernel_or_symbol.shape)
    check(
        shape[2] == shape[3],
        "kernel_or_symbol",
        "as many outputs as inputs",
        f"shape {shape}",
        "pass (H, W, C, C)",
    )
    return _nonreciprocal_fraction(kernel_or_symbol)


@program
def _nonreciprocal_fraction(a: Array) -> Array:
    if jnp.iscomplexobj(a):
        transposed = jnp.conj(jnp.swapaxes(a, 2, 3))
    else:
        # Even windows reach one pixel further on one side; a border of zeros centres them.
        a = jnp.pad(a, [(1 - n % 2, 0) for n in a.shape[:2]] + [(0, 0), (0, 0)])
        transposed = jnp.swapaxes(a[::-1, ::-1], 2, 3)
    scale = jnp.max(jnp.abs(a))  # a common factor guards the squares against overflow and underflow
    part, whole = (jnp.sqrt(jnp.sum(jnp.abs(b / scale) ** 2)) for b in ((a - transposed) / 2, a))
    return part / whole
