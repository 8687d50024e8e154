r"""Correlation lengths of ensembles of fields."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from critjax._checks import check, check_option
from critjax._programs import as_argument, program
from critjax._typing import Array, ArrayLike, Float
from critjax.fourier import ifft2
from critjax.observables.curves import first_crossing
from critjax.observables.structure import bin_average, check_ensemble, modes, structure_factor


def second_moment_length(spectrum: Inexact[ArrayLike, "H W *channels"]) -> Float[Array, ""]:
    r"""Give the second-moment correlation length, ``xi^2 = (S(0)/S(k1) - 1) / (4 sin^2(k1/2))``.

    Parameters
    ----------
    spectrum : array (H, W) or (H, W, C, C)
        Structure factor; its trace over channels is used.

    Returns
    -------
    scalar
        xi in pixels. S(k1) is averaged over the wavevectors of smallest modulus, ``k1 = 2 pi/max(H, W)``. NaN
        if ``S(k1) > S(0)``. Exact for a lattice Ornstein-Zernike spectrum.

    Raises
    ------
    ValueError
        If the shape is none of the two, or the grid has one pixel.

    Example
    -------
    >>> from critjax.fourier import wavevectors
    >>> k = wavevectors((16, 16))
    >>> ornstein_zernike = 1 / (1 + 3.0**2 * jnp.sum(4 * jnp.sin(k / 2) ** 2, axis=-1))
    >>> print(f"{second_moment_length(ornstein_zernike):.4f}")
    3.0000
    """
    spectrum = as_argument(spectrum)
    shape = tuple(spectrum.shape)
    good = len(shape) in (2, 4)
    check(good, "spectrum", "shape (H, W) or (H, W, C, C)", shape, "pass the S of one ensemble")
    large = max(shape[:2]) >= 2
    check(large, "spectrum", "a grid of two pixels or more", shape[:2], "use larger images")
    return _second_moment_length(spectrum)


@program
def _second_moment_length(spectrum: Any) -> Array:
    spectrum = jnp.asarray(spectrum)
    power = spectrum.real if spectrum.ndim == 2 else jnp.trace(spectrum, axis1=2, axis2=3).real
    height, width = power.shape
    longest = max(height, width)
    # On a rectangle only the long side carries k1; on a square both sides do.
    lowest = [power[1, 0], power[-1, 0]] if height == longest else []
    lowest += [power[0, 1], power[0, -1]] if width == longest else []
    ratio = power[0, 0] / jnp.stack(lowest).mean()
    return jnp.sqrt(ratio - 1) / (2 * math.sin(math.pi / longest))


class RadialAutocorrelation(NamedTuple):
    """Result of `radial_autocorrelation`."""

    radius: Float[Array, " R"]
    """Mean |r| of each ring in pixels."""
    correlation: Float[Array, " R"]
    """Autocorrelation, 1 at radius 0."""


def radial_autocorrelation(x: Float[ArrayLike, "B H W C"], *, centre: bool = True) -> RadialAutocorrelation:
    r"""Average the autocorrelation ``<x_j . x_{j+r}> / <x_j . x_j>`` over rings of |r| one pixel wide.

    Parameters
    ----------
    x, centre
        As in `structure_factor`.

    Returns
    -------
    RadialAutocorrelation
        ``radius`` (R,), the mean |r| of each ring in pixels (minimal image, up to half the shorter side; a side of one
        pixel does not count); ``correlation`` (R,), 1 at radius 0, NaN for an ensemble without variance.

    Example
    -------
    >>> radius, correlation = radial_autocorrelation(jnp.ones((1, 4, 4, 1)), centre=False)
    >>> print(correlation)
    [1. 1. 1.]
    """
    return _radial_autocorrelation(check_ensemble(x, centre), bool(centre))


@program(static_argnums=1)
def _radial_autocorrelation(x: Any, centre: bool) -> RadialAutocorrelation:
    x_hat = modes(x, centre)
    correlation = ifft2((x_hat.real**2 + x_hat.imag**2).sum(axis=(0, 3)), real=True)
    height, width = correlation.shape
    r_y, r_x = ((np.arange(n) + n // 2) % n - n // 2 for n in (height, width))
    squared = r_y[:, None] ** 2 + r_x**2
    # Beyond half of the shorter side a ring would meet its own periodic image.
    shorter = min((n for n in (height, width) if n > 1), default=1)
    index = np.where(4 * squared <= shorter**2, np.rint(np.sqrt(squared)).astype(int), -1)
    radius = bin_average(jnp.asarray(np.sqrt(squared), correlation.dtype), index, np.ones(index.shape))
    average = bin_average(correlation / correlation[0, 0], index, np.ones(index.shape))
    return RadialAutocorrelation(radius, average)


def correlation_length(
    x: Float[ArrayLike, "B H W C"], *, method: str = "second-moment", field: str = "raw", centre: bool = True
) -> Float[Array, ""]:
    r"""Measure the correlation length of an ensemble, in pixels.

    Parameters
    ----------
    x : array (B, H, W, C)
        Samples; noisy or denoised fields, the caller's choice.
    method : "second-moment" or "autocorrelation"
        `second_moment_length` of the structure factor, or the radius at which `radial_autocorrelation` first
        falls to 1/e. White noise gives 0 and 0.76 (its ring around radius one has correlation zero).
    field : "raw" or "sign"
        Measure x itself or its sign, which keeps domains and drops amplitudes.
    centre : bool
        Subtract the ensemble mean of the chosen field.

    Returns
    -------
    scalar
        xi; NaN if ``S(k1) > S(0)`` or if the autocorrelation stays above 1/e up to half the box.

    Raises
    ------
    ValueError
        If an option is unknown, or ``x`` has the wrong rank or values that are not finite.

    Example
    -------
    >>> x = np.random.default_rng(0).normal(size=(400, 16, 16, 1))
    >>> print(f"{correlation_length(x, method='autocorrelation'):.2f}")
    0.76
    """
    check_option("method", method, ("second-moment", "autocorrelation"))
    check_option("field", field, ("raw", "sign"))
    return _correlation_length(check_ensemble(x, centre), method, field, bool(centre))


@program(static_argnums=(1, 2, 3))
def _correlation_length(x: Any, method: str, field: str, centre: bool) -> Array:
    x = jnp.asarray(x)
    x = jnp.sign(x) if field == "sign" else x
    if method == "second-moment":
        return second_moment_length(structure_factor(x, centre=centre))
    radius, correlation = radial_autocorrelation(x, centre=centre)
    return first_crossing(radius, correlation, math.exp(-1))
