"""Closures of the two-pattern bank, whose denoiser depends on one number per pixel, without sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from critjax._checks import check, check_eta, check_grid, check_sigmas
from critjax._typing import Array, ArrayLike, Float
from critjax.fluctuations._closure import GaussianClosure, close
from critjax.fourier import kernel_to_symbol


def mean_slope(variance: Array, num_nodes: int = 2001) -> Array:
    """Average sech^2 u, the derivative of tanh, over u ~ N(0, variance): a uniform grid of nodes from 0 to 30."""
    nodes = jnp.linspace(0, 30, num_nodes, dtype=variance.dtype)
    slope = 1 / jnp.cosh(nodes) ** 2
    weights = jnp.exp(-(nodes**2) / (2 * variance))
    # A narrow distribution is normalised by the same rule, a wide one, which the nodes do not hold, in closed form.
    wide = jnp.sqrt(jnp.pi * variance / 2) / (nodes[1] - nodes[0])
    return (jnp.sum(weights * slope) - 0.5) / jnp.where(variance > 1, wide, jnp.sum(weights) - 0.5)


def two_pattern_closure(
    size: int,
    sigmas: Float[ArrayLike, " num"],
    grid: Sequence[int],
    *,
    eta: Any = 0.0,
    num_nodes: int = 2001,
) -> GaussianClosure:
    r"""Compute the Gaussian closure of the bank {+1, -1} of constant patches without sampling.

    .. math:: \lambda_{reg}(k) = \frac{c_k}{\sigma^2}\, E[\mathrm{sech}^2 u], \quad
              u \sim N\!\left(0, \frac{1}{N\sigma^4}\sum_k c_k^2 S(k)\right), \quad
              c_k = \sum_{r \in \Omega} \cos k \cdot r

    Parameters
    ----------
    size : int
        Window, odd.
    sigmas : float array (num,)
        Strictly decreasing ladder; the field starts as white noise at the first level.
    grid : (H, W)
        Static grid.
    eta : scalar >= 0
        Stochasticity.
    num_nodes : int
        Nodes of the uniform grid in u, from 0 to 30.

    Returns
    -------
    GaussianClosure
        One channel; the mean is zero by symmetry.

    Raises
    ------
    ValueError
        If the window is even, or the ladder, ``eta`` or the grid is illegal.

    Notes
    -----
    Deterministic; second order in the ladder spacing. u is the argument of the hyperbolic tangent that the denoiser is,
    and sech^2 is narrow where its variance is large: a uniform grid integrates it to machine precision, Gauss-Hermite
    rules do not. THEORY section 5.

    Example
    -------
    >>> from critjax.noise import geometric_sigmas
    >>> closure = two_pattern_closure(9, geometric_sigmas(14.0, 8.0, 40), (32, 32))
    >>> bool(closure.symbol[-1, 0, 0, 0, 0].real < 81 / 64)  # below the bare symbol
    True
    """
    check(size % 2 == 1 and size >= 1, "size", "an odd window", size, "the bank's patches have a centre")
    sigmas = jnp.asarray(sigmas)
    check_sigmas("sigmas", sigmas)
    check_eta(eta)
    height, width = check_grid(grid)
    kernel = jnp.ones((size, size, 1, 1), sigmas.dtype)
    window = kernel_to_symbol(kernel, (height, width))

    def measure(mean: Array, spectrum: Array, sigma: Array) -> tuple[Array, Array]:
        variance = jnp.sum(window.real**2 * spectrum.real) / (height * width * sigma**4)
        return window / sigma**2 * mean_slope(variance, num_nodes), mean

    start = jnp.broadcast_to(sigmas[0] ** 2 + jnp.zeros((), window.dtype), (height, width, 1, 1))
    means, spectra, symbols = close(measure, sigmas, jnp.zeros((1,), sigmas.dtype), start, eta)
    exact = jnp.zeros(spectra.shape, sigmas.dtype)
    return GaussianClosure(sigmas, means, spectra, symbols, exact, exact)
