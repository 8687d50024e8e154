r"""Structure factors and radial averages of an ensemble of fields."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from critjax._checks import check, check_finite, check_rank
from critjax._programs import as_argument, program
from critjax._typing import Array, ArrayLike, Complex, Float
from critjax.fourier import fft2, shells_on_host


def check_ensemble(x: Any, centre: bool) -> Any:
    """Return samples as the argument of a program, or raise `ValueError`."""
    x = as_argument(x)
    check_rank("x", x, "B H W C")
    check_finite("x", x)
    if centre:
        check(x.shape[0] >= 2, "x", "two samples or more to centre", x.shape[0], "pass more, or centre=False")
    return x


def modes(x: Any, centre: bool) -> Complex[Array, "B H W C"]:
    """Transform every sample, after taking off the ensemble mean if asked."""
    x = jnp.asarray(x)
    return jax.vmap(fft2)(x - x.mean(axis=0) if centre else x)


def structure_factor(
    x: Float[ArrayLike, "B H W C"], *, centre: bool = True, ddof: int = 0
) -> Complex[Array, "H W C C"]:
    r"""Estimate the cross spectrum of an ensemble, ``S_ab(k) = <x_a(k) conj(x_b(k))> / N``.

    Parameters
    ----------
    x : array (B, H, W, C)
        Samples.
    centre : bool
        Subtract the ensemble mean of every pixel first; needs B >= 2.
    ddof : int
        Divide the sum over samples by ``B - ddof``: 0 is the mean, 1 removes the bias ``-S/B`` of centring.

    Returns
    -------
    complex array (H, W, C, C)
        Hermitian for every k, FFT order, N = H W: white noise of standard deviation sigma has S = sigma^2.
        Parseval: the mean of ``S_aa`` over k is the variance of a pixel.

    Raises
    ------
    ValueError
        If ``x`` has not four axes, too few samples, or values that are not finite.

    Notes
    -----
    O(B C N log N + B C^2 N). THEORY section 5.

    Example
    -------
    >>> x = jax.random.normal(jax.random.key(0), (500, 8, 8, 1))
    >>> print(f"{structure_factor(x).real.mean():.2f}")
    1.00
    """
    x = check_ensemble(x, centre)
    num = x.shape[0]
    check(ddof < num, "ddof", f"fewer than the {num} samples", ddof, "pass more samples")
    return _structure_factor(x, bool(centre), ddof)


@program(static_argnums=1)
def _structure_factor(x: Any, centre: bool, ddof: Any) -> Array:
    x_hat = modes(x, centre)
    num, height, width, _ = x_hat.shape
    total = jnp.einsum("bhwa,bhwc->hwac", x_hat, x_hat.conj(), precision="highest")
    return total / ((num - ddof) * height * width)


def sample_spectra(x: Float[ArrayLike, "B H W C"], *, centre: bool = True) -> Float[Array, "B H W C"]:
    r"""Give the power spectrum of each sample, ``|x_a(k)|^2 / N``, whose mean over B is the diagonal of S.

    Parameters
    ----------
    x, centre
        As in `structure_factor`.

    Returns
    -------
    array (B, H, W, C)
        FFT order. Average low modes before quoting errors: a single mode scatters by its own size.

    Example
    -------
    >>> sample_spectra(jnp.ones((1, 2, 3, 1)), centre=False)[0, 0, 0, 0].item()
    6.0
    """
    return _sample_spectra(check_ensemble(x, centre), bool(centre))


@program(static_argnums=1)
def _sample_spectra(x: Any, centre: bool) -> Array:
    x_hat = modes(x, centre)
    return (x_hat.real**2 + x_hat.imag**2) / (x_hat.shape[1] * x_hat.shape[2])


def bin_average(values: Array, index: np.ndarray, weights: np.ndarray) -> Array:
    """Average the two leading axes over the bins ``index`` (-1: in no bin) with ``weights``."""
    num_bins = int(index.max()) + 1
    flat_index = np.where(index < 0, num_bins, index).ravel()
    norm = np.bincount(flat_index, weights.ravel(), num_bins + 1)[:num_bins]
    rest = (1,) * (values.ndim - 2)
    weighted = values * jnp.asarray(weights.reshape(*weights.shape, *rest), values.real.dtype)
    sums = jax.ops.segment_sum(weighted.reshape(-1, *values.shape[2:]), flat_index, num_bins + 1)[:num_bins]
    return sums / jnp.asarray(norm.reshape(-1, *rest), values.real.dtype)


def radial_average(
    values: Inexact[ArrayLike, "H W ..."], *, rfft_width: int | None = None
) -> Inexact[Array, "S ..."]:
    r"""Average a function of k over the shells of `critjax.fourier.radial_shells`.

    Parameters
    ----------
    values : array (H, W, ...)
        FFT order; or (H, W//2 + 1, ...) as ``rfft2`` gives it, with ``rfft_width = W``.
    rfft_width : int, optional
        Width W of the image behind a half spectrum: modes that stand for two count twice.

    Returns
    -------
    array (S, ...)
        Shell means; shell 0 is k = 0, and modes with |k| > pi take no part.

    Raises
    ------
    ValueError
        If ``rfft_width`` does not fit the shape.

    Example
    -------
    >>> from critjax.fourier import radial_shells, wavevectors
    >>> k = jnp.linalg.norm(wavevectors((8, 8)), axis=-1)
    >>> bool(jnp.allclose(radial_average(k), radial_shells((8, 8)).wavenumber))
    True
    """
    values = as_argument(values)
    if rfft_width is not None:
        columns = values.shape[1]
        expected = f"a width whose half spectrum has {columns} columns"
        check(columns == rfft_width // 2 + 1, "rfft_width", expected, rfft_width, "pass the image's width")
        rfft_width = int(rfft_width)
    return _radial_average(values, rfft_width)


@program(static_argnums=1)
def _radial_average(values: Any, rfft_width: int | None) -> Array:
    height, columns = values.shape[:2]
    width = columns if rfft_width is None else rfft_width
    weights = np.ones((height, columns))
    if rfft_width is not None:
        weights[:, 1 : (width + 1) // 2] = 2.0  # all but the self-conjugate columns k_x = 0 and pi
    return bin_average(jnp.asarray(values), shells_on_host(height, width)[0][:, :columns], weights)
