r"""The symbol of the regression of D on x over an ensemble, which drives the structure factor (THEORY section 5).

It is neither the bare symbol at a homogeneous state (`symbol`) nor that of the mean Jacobian (`measured_symbol`).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Inexact

from critjax._checks import (
    check,
    check_finite,
    check_floating,
    check_option,
    check_rank,
    check_window,
)
from critjax._programs import program
from critjax._typing import Array, ArrayLike, Complex, Float
from critjax.spectra._blocks import EXACT
from critjax.spectra.measured import project_symbol

CENTRES = ("ensemble", "spatial")


def regression_symbol(
    x: Float[ArrayLike, "B H W C"],
    denoised: Float[ArrayLike, "B H W C"],
    *,
    centre: str = "ensemble",
    size: int | None = None,
) -> Complex[Array, "H W C C"]:
    r"""Estimate the symbol that drives the structure factor, by regression of D on x.

    .. math:: \lambda(k) = \langle D_k x_k^\dagger \rangle \langle x_k x_k^\dagger \rangle^{-1}

    Parameters
    ----------
    x, denoised : float arrays (B, H, W, C)
        Noisy images of one noise level and their denoised images; B > C samples.
    centre : "ensemble" or "spatial"
        Subtract the mean over samples at every pixel, or over samples and pixels (less noisy, for
        translation-invariant ensembles). Never the mean of each sample, which would remove k = 0.
    size : int, optional
        Project on kernels of this size: p for a patch model with centre readout, 2p - 1 with average readout,
        where it only cuts sampling noise. Default: none, as for networks and whenever an identity is tested.

    Returns
    -------
    complex array (H, W, C, C)
        FFT order; a ratio of means, not a mean of ratios.

    Raises
    ------
    ValueError, TypeError
        For wrong or unequal shapes, too few samples, values that are not finite, an unknown centre, or a window that
        does not fit.

    Notes
    -----
    B FFTs; consistent, with bias of order 1/B. For Gaussian x equal to the mean Jacobian's symbol (Stein);
    beyond, a different quantity. THEORY section 5.

    Example
    -------
    >>> x = jax.random.normal(jax.random.key(0), (5, 4, 6, 1))
    >>> print(round(float(regression_symbol(x, 0.5 * x)[1, 2, 0, 0].real), 6))
    0.5
    """
    for name, value in (("x", x), ("denoised", denoised)):
        check_floating(name, value)
        check_rank(name, value, "B H W C")
        check_finite(name, value)
    same = tuple(x.shape) == tuple(denoised.shape)
    check(
        same,
        "denoised",
        f"shape {tuple(x.shape)}, that of x",
        f"shape {tuple(denoised.shape)}",
        "pair them up",
    )
    check_option("centre", centre, CENTRES)
    count, channels = x.shape[0], x.shape[-1]
    # C channels need C independent fluctuations per mode, and the mean has used up one sample.
    check(count > channels, "x", f"at least {channels + 1} samples", count, "draw more samples")
    if size is not None:
        size = check_window(size)
    return _regression_symbol(x, denoised, centre=centre, size=size)


@program(static_argnames=("centre", "size"))
def _regression_symbol(x: Array, denoised: Array, *, centre: str, size: int | None) -> Array:
    axes = 0 if centre == "ensemble" else (0, 1, 2)

    def transform(field: Array) -> Array:
        field = field.astype(jnp.promote_types(field.dtype, jnp.float32))
        return jnp.fft.fft2(field - jnp.mean(field, axis=axes), axes=(1, 2))

    x_hat, d_hat = transform(x), transform(denoised)
    cross = jnp.einsum("nhwa,nhwb->hwab", d_hat, jnp.conj(x_hat), precision=EXACT)
    power = jnp.einsum("nhwa,nhwb->hwab", x_hat, jnp.conj(x_hat), precision=EXACT)
    result = regression_ratio(cross, power)
    return result if size is None else project_symbol(result, size)


def regression_ratio(
    cross: Inexact[ArrayLike, "*modes C C"], power: Inexact[ArrayLike, "*modes C C"]
) -> Inexact[Array, "*modes C C"]:
    r"""Divide means over an ensemble: the regression of D on x, mode by mode.

    .. math:: \lambda(k) = \langle D_k x_k^\dagger \rangle \langle x_k x_k^\dagger \rangle^{-1}

    Parameters
    ----------
    cross : array (..., C, C)
        Sums or means of ``D_a conj(x_b)`` over samples.
    power : array (..., C, C)
        The same of ``x_a conj(x_b)``, positive definite; the normalisation cancels.

    Returns
    -------
    array (..., C, C)
        Not finite where the power is singular.

    Raises
    ------
    ValueError
        If the shapes differ or the last two axes do.

    Notes
    -----
    O(C^3) per mode; exact. A ratio of means, not a mean of ratios. THEORY section 5.

    Example
    -------
    >>> complex(regression_ratio(jnp.full((1, 1), 1.0 + 2.0j), jnp.full((1, 1), 2.0 + 0j))[0, 0])
    (0.5+1j)
    """
    shapes = tuple(cross.shape), tuple(power.shape)
    good = shapes[0] == shapes[1] and len(shapes[0]) >= 2 and shapes[0][-1] == shapes[0][-2]
    got = f"shapes {shapes[0]} and {shapes[1]}"
    check(good, "cross, power", "one shape (..., C, C)", got, "sum both over the same samples and modes")
    return _regression_ratio(cross, power)


@program
def _regression_ratio(cross: Array, power: Array) -> Array:
    if cross.shape[-1] == 1:
        return cross / power.real
    # L P = R is solved as P^T L^T = R^T.
    solved = jnp.linalg.solve(jnp.swapaxes(power, -1, -2), jnp.swapaxes(cross, -1, -2))
    return jnp.swapaxes(solved, -1, -2)
