r"""Lengths read off a response kernel or a symbol: receptive field, gap, stiffness, equilibrium length."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from critjax._checks import check, check_rank
from critjax._programs import as_argument, program
from critjax._typing import Array, ArrayLike, Float
from critjax.fourier import kernel_offsets, shells_on_host, symbol_to_kernel, wavevectors


class GapFit(NamedTuple):
    """Fit of ``Re lambda(k) = 1 - gap - stiffness |k|^2`` with standard errors; see `fit_gap`."""

    gap: Float[Array, ""]
    stiffness: Float[Array, ""]
    correlation_length: Float[Array, ""]
    gap_error: Float[Array, ""]
    stiffness_error: Float[Array, ""]
    correlation_length_error: Float[Array, ""]


def mean_kernel(symbol: Inexact[ArrayLike, "H W C C"]) -> Float[Array, "H W C C"]:
    r"""Give the mean response kernel behind a measured symbol, ``g(r) = (1/N) sum_k lambda(k) exp(-i k.r)``.

    Parameters
    ----------
    symbol : array (H, W, C, C)
        Complex lambda(k) of a real operator, FFT order; without Im lambda the kernel comes out symmetric.

    Returns
    -------
    array (H, W, C, C)
        Centred, minimal image; `critjax.fourier.symbol_to_kernel` can also cut out a window.

    Example
    -------
    >>> print(mean_kernel(jnp.ones((3, 3, 1, 1)))[1, :, 0, 0])
    [0. 1. 0.]
    """
    return symbol_to_kernel(symbol)


def receptive_field_radius(kernel: Inexact[ArrayLike, "p q C C"]) -> Float[Array, ""]:
    r"""Give the effective radius of a response kernel, ``sqrt(sum |g| r^2 / sum |g|)``, in pixels.

    Parameters
    ----------
    kernel : array (p, q, C, C)
        g(r), e.g. from `mean_kernel`, where r is the minimal image.

    Returns
    -------
    scalar
        Sums run over offsets and channel pairs. NaN for a kernel of zeros.

    Example
    -------
    >>> print(f"{receptive_field_radius(jnp.ones((3, 3, 1, 1))):.4f}")
    1.1547
    """
    kernel = as_argument(kernel)
    check_rank("kernel", kernel, "p q C C")
    return _receptive_field_radius(kernel)


@program
def _receptive_field_radius(kernel: Any) -> Array:
    weight = jnp.abs(jnp.asarray(kernel)).sum(axis=(2, 3))
    squared = (kernel_offsets(weight.shape, dtype=weight.dtype) ** 2).sum(axis=-1)
    return jnp.sqrt((weight * squared).sum() / weight.sum())


def _length(stiffness: Array, gap: Array) -> Array:
    """Return ``sqrt(K/|gap|)``, NaN for K <= 0; the square root never sees a negative number."""
    good = stiffness > 0
    return jnp.where(good, jnp.sqrt(jnp.where(good, stiffness, 1) / jnp.abs(gap)), jnp.nan)


def equilibrium_length(
    kernel: Float[ArrayLike, "p q C C"], *, polarisation: Float[ArrayLike, " C"] | None = None
) -> Float[Array, ""]:
    r"""Give the quasi-equilibrium length of a kernel, ``xi_eq = sqrt(K/|gap|)``.

    ``gap = 1 - sum_r g(r)``,   ``K = (1/2) sum_r g(r) r_x^2``

    Parameters
    ----------
    kernel : array (p, q, C, C)
        Response kernel of a real operator.
    polarisation : array (C,), optional
        Direction p in channel space, normalised here; g stands for ``p.g.p``. Required for C > 1.

    Returns
    -------
    scalar
        xi_eq in pixels; NaN if K <= 0. Above the critical noise it is the mean-field correlation length. On a
        noisy measured kernel the weight r_x^2 favours far noise: prefer `fit_gap`.

    Raises
    ------
    ValueError
        If C > 1 and no polarisation is given.

    Notes
    -----
    THEORY sections 5 and 6.

    Example
    -------
    The two-pattern bank at sigma^2 = 2P: g = 1/(2P), gap = 1/2, K = (p^2 - 1)/48.

    >>> print(f"{equilibrium_length(jnp.full((9, 9, 1, 1), 1 / 162)):.4f}")
    1.8257
    """
    kernel = as_argument(kernel)
    check_rank("kernel", kernel, "p q C C")
    channels = kernel.shape[2]
    given = polarisation is not None or channels == 1
    check(given, "polarisation", f"a direction in the {channels} channels", None, "pass an array (C,)")
    return _equilibrium_length(kernel, polarisation if polarisation is None else as_argument(polarisation))


@program
def _equilibrium_length(kernel: Any, polarisation: Any) -> Array:
    g = jnp.asarray(kernel)
    direction = jnp.ones(1, g.dtype) if polarisation is None else jnp.asarray(polarisation, g.dtype)
    direction = direction / jnp.linalg.norm(direction)
    g = jnp.einsum("a,pqab,b->pq", direction, g, direction, precision="highest")
    r_x = kernel_offsets(g.shape, dtype=g.dtype)[..., 1]
    return _length((g * r_x**2).sum() / 2, 1 - g.sum())


def fit_gap(
    symbol: Inexact[ArrayLike, "H W"],
    error: Float[ArrayLike, "H W"] | None = None,
    *,
    num_shells: int = 3,
    fit_uniform: bool = True,
) -> GapFit:
    r"""Fit gap and stiffness to the lowest shells of a measured symbol, ``Re lambda = 1 - gap - K |k|^2``.

    Parameters
    ----------
    symbol : array (H, W)
        lambda(k) of one channel or one polarisation, FFT order.
    error : array (H, W), optional
        Standard errors > 0 of Re lambda; they weight the fit and set its errors. Without them the scatter
        about the fit sets the errors, so a perfect fit has none.
    num_shells : int
        Highest shell of the fit, >= 1; shell 0 always takes part.
    fit_uniform : bool
        Whether the gap is that of the fitted parabola; else it is ``1 - Re lambda(0)``, and only K is fitted. Symbols
        that are no parabolas, such as those of natural images, need False: their parabola may miss k = 0 by far.

    Returns
    -------
    GapFit
        gap, K, xi = sqrt(K/abs(gap)) (NaN if K <= 0), and a standard error for each.

    Raises
    ------
    ValueError
        If the grid has not that many shells.

    Notes
    -----
    The modes k and -k of a real operator are one measurement: each gets half the weight, lest errors come out
    too small by sqrt 2. Terms of order k^4 are left out: keep the highest |k| well below the inverse range
    of the kernel.

    Example
    -------
    >>> k = wavevectors((16, 16))
    >>> fit = fit_gap(0.9 - 2.0 * jnp.sum(k**2, axis=-1))
    >>> print(f"{fit.gap:.3f} {fit.stiffness:.3f} {fit.correlation_length:.3f}")
    0.100 2.000 4.472
    """
    symbol = as_argument(symbol)
    check_rank("symbol", symbol, "H W")
    highest = int(shells_on_host(*symbol.shape)[0].max())
    good = isinstance(num_shells, (int, np.integer)) and 1 <= num_shells <= highest
    check(bool(good), "num_shells", f"1 to {highest} shells", num_shells, "fit fewer shells")
    error = error if error is None else as_argument(error)
    return _fit_gap(symbol, error, int(num_shells), bool(fit_uniform))


@program(static_argnums=(2, 3))
def _fit_gap(symbol: Any, error: Any, num_shells: int, fit_uniform: bool) -> GapFit:
    values = jnp.asarray(symbol).real
    height, width = values.shape
    index = shells_on_host(height, width)[0]
    rows, columns = np.nonzero((index >= 0) & (index <= num_shells))
    self_conjugate = (2 * rows % height == 0) & (2 * columns % width == 0)
    share = np.where(self_conjugate, 1.0, 0.5)
    dtype = values.dtype
    y, weight = 1 - values[rows, columns], jnp.asarray(share, dtype)
    squared = (wavevectors((height, width), dtype=dtype)[rows, columns] ** 2).sum(axis=-1)
    var_gap = jnp.zeros((), dtype)
    if error is not None:
        error = jnp.asarray(error, dtype)
        weight, var_gap = weight / error[rows, columns] ** 2, error[0, 0] ** 2
    # Weighted straight line y = gap + K k^2: about its centre of weight, where the two errors are independent, or
    # through the value at k = 0.
    total = weight.sum()
    if fit_uniform:
        centre, level = (weight * squared).sum() / total, (weight * y).sum() / total
    else:
        centre, level = jnp.zeros((), dtype), 1 - values[0, 0]
    spread = (weight * (squared - centre) ** 2).sum()
    stiffness = (weight * (squared - centre) * (y - level)).sum() / spread
    gap = level - stiffness * centre
    scale = jnp.ones((), dtype)
    if error is None:
        residual = (weight * (y - gap - stiffness * squared) ** 2).sum()
        scale = residual / max(float(share.sum()) - (2 if fit_uniform else 1), 1.0)
    var_k = scale / spread
    if fit_uniform:
        var_gap = scale / total + centre**2 * var_k
        covariance = -centre * var_k
    else:  # an error of the gap tilts the line
        tilt = (weight * squared).sum() / spread
        var_k, covariance = var_k + tilt**2 * var_gap, -tilt * var_gap
    length = _length(stiffness, gap)
    relative = var_k / stiffness**2 + var_gap / gap**2 - 2 * covariance / (stiffness * gap)
    return GapFit(gap, stiffness, length, jnp.sqrt(var_gap), jnp.sqrt(var_k), length * jnp.sqrt(relative) / 2)
