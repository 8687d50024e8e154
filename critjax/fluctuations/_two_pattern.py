"""Closures of the two-pattern bank, whose denoiser depends on one number per pixel, without sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_sigmas, check, check_count, check_eta, check_grid
from critjax._programs import program
from critjax._typing import Array, ArrayLike, Complex, Float
from critjax.fluctuations._closure import GaussianClosure, close
from critjax.fluctuations._linear import EXACT, is_quiet
from critjax.fourier import kernel_to_symbol


class TransformedClosure(NamedTuple):
    """Result of `transformed_closure`."""

    sigma: Float[Array, " num"]
    """Noise levels, decreasing."""
    structure_factor: Complex[Array, "num H W C C"]
    """S(k, sigma), FFT order."""
    symbol: Complex[Array, "num H W C C"]
    """lambda_reg(k, sigma), which drives S."""
    mean_jacobian: Complex[Array, "num H W C C"]
    """Symbol of the mean Jacobian, what a probe of the denoiser sees."""
    kurtosis: Float[Array, " num"]
    """<u^4>/<u^2>^2 of the argument u of the hyperbolic tangent; 3 for a Gaussian field."""


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
    size, sigmas, grid = _checked(size, sigmas, grid)
    eta = check_eta(eta)
    num_nodes = check_count("num_nodes", num_nodes, least=2, advice="2001 suits every noise level")
    return _two_pattern_closure(sigmas, eta, size, grid, num_nodes, is_quiet(eta))


@program(static_argnums=(2, 3, 4, 5))
def _two_pattern_closure(
    sigmas: Array, eta: Any, size: int, grid: tuple[int, int], num_nodes: int, quiet: bool
) -> GaussianClosure:
    eta = 0.0 if quiet else eta
    window, start = _prepare(size, sigmas, grid)

    def measure(mean: Array, spectrum: Array, sigma: Array) -> tuple[Array, Array, None]:
        variance = _covariance(window, spectrum, sigma)[0, 0]
        return window / sigma**2 * mean_slope(variance, num_nodes), mean, None

    mean = jnp.zeros((1,), sigmas.dtype)
    means, spectra, symbols, _ = close(measure, sigmas, mean, start, eta)
    exact = jnp.zeros(spectra.shape, sigmas.dtype)
    unknown = jnp.full(sigmas.shape, jnp.nan, sigmas.dtype)
    return GaussianClosure(sigmas, means, spectra, symbols, exact, exact, unknown, unknown)


def _checked(size: Any, sigmas: Any, grid: Sequence[int]) -> tuple[int, Array, tuple[int, int]]:
    check(size % 2 == 1 and size >= 1, "size", "an odd window", size, "the bank's patches have a centre")
    return int(size), as_sigmas("sigmas", sigmas), check_grid(grid)


def _prepare(size: int, sigmas: Array, grid: tuple[int, int]) -> tuple[Array, Array]:
    """Return the window's transform c_k (H, W, 1, 1) and the initial spectrum."""
    window = kernel_to_symbol(jnp.ones((size, size, 1, 1), sigmas.dtype), grid)
    return window, jnp.broadcast_to(sigmas[0] ** 2 + jnp.zeros((), window.dtype), (*grid, 1, 1))


def _covariance(window: Array, spectrum: Array, sigma: Array) -> Array:
    """Covariance (H, W) of u = (window sum of x)/sigma^2 at all distances."""
    return jnp.fft.ifft2((window.real**2 * spectrum.real)[..., 0, 0]).real / sigma**4


#: Correlations at which the covariance of a transformed field is tabulated, denser towards one.
_CORRELATIONS = np.concatenate([np.linspace(-0.9, 0.9, 37), 1 - np.geomspace(0.1, 1e-5, 40)[1:], [1.0]])


def transformed_closure(
    size: int, sigmas: Float[ArrayLike, " num"], grid: Sequence[int], *, num_nodes: int = 241
) -> TransformedClosure:
    r"""Close the two-pattern bank beyond Gaussian: u is a monotone function of a Gaussian field.

    .. math:: u_i = f(g_i, \sigma), \qquad u = \frac{P \bar m}{\sigma^2}, \qquad
              \frac{d \bar m(g)}{d\tau} = -\bar m(g)
              + \frac{1}{P}\sum_{r \in \Omega} E[\tanh f(g_r) \mid g_0 = g]

    with :math:`\bar m` the window mean of x and g a Gaussian field whose correlations are those that give u its
    covariance. The symbol that drives S is :math:`(c_k/\sigma^2)\, E[u \tanh u]/E[u^2]`, that of the mean Jacobian
    :math:`(c_k/\sigma^2)\, E[\mathrm{sech}^2 u]`: equal for Gaussian u (Stein), apart once u turns bimodal.

    Parameters
    ----------
    size : int
        Window, odd.
    sigmas : float array (num,)
        Strictly decreasing ladder; the field starts as white noise at the first level. Probability flow (eta = 0): a
        deterministic flow in one dimension keeps the order of its points, so that f stays a function.
    grid : (H, W)
        Static grid.
    num_nodes : int
        Values of g, from -6 to 6.

    Returns
    -------
    TransformedClosure
        Spectra, both symbols and the kurtosis of u at every level.

    Raises
    ------
    ValueError
        If the window is even, or the ladder or the grid is illegal.

    Notes
    -----
    Deterministic; second order in the ladder spacing; ``num num_nodes^2 p^2`` operations. Exact for one pixel's
    distribution, given what the pixels around it do on average; that average is taken as for a function of a Gaussian
    field, the auxiliary field of phase-ordering theory (Mazenko 1989; Bray 1994, Adv. Phys. 43, 357). S itself drifts
    off once domains have formed: its symbol keeps the shape c_k.

    Example
    -------
    >>> from critjax.noise import geometric_sigmas
    >>> result = transformed_closure(9, geometric_sigmas(14.0, 4.5, 60), (32, 32))
    >>> reg, jacobian = (a[-1, 0, 0, 0, 0].real for a in (result.symbol, result.mean_jacobian))
    >>> bool(jacobian < 0.9 < reg)  # a probe sees less than what drives the structure factor
    True
    """
    size, sigmas, grid = _checked(size, sigmas, grid)
    num_nodes = check_count("num_nodes", num_nodes, least=2, advice="241 suits every noise level")
    return _transformed_closure(sigmas, size, grid, num_nodes)


@program(static_argnums=(1, 2, 3))
def _transformed_closure(
    sigmas: Array, size: int, grid: tuple[int, int], num_nodes: int
) -> TransformedClosure:
    window, start = _prepare(size, sigmas, grid)
    dtype, area = sigmas.dtype, size * size
    g = jnp.linspace(-6, 6, num_nodes, dtype=dtype)
    weights = jnp.exp(-(g**2) / 2)
    weights = weights / weights.sum()
    reach = size // 2
    offsets = [(a, b) for a in range(reach + 1) for b in range(reach + 1)]
    counts = [(1 + (a > 0)) * (1 + (b > 0)) for a, b in offsets]
    rows, columns = np.array(offsets).T

    def conditional(correlation: Array) -> Array:
        """Distribution of g at one point given g at another: (num_nodes, num_nodes), rows sum to one."""
        spread = jnp.maximum(1 - correlation**2, 1e-9)
        log_weights = -((g - correlation * g[:, None]) ** 2) / (2 * spread)
        return jax.nn.softmax(log_weights, axis=-1)

    correlations = jnp.asarray(_CORRELATIONS, dtype)
    table = jax.vmap(conditional)(correlations)

    def distribution(mean: Array, spectrum: Array, sigma: Array) -> tuple[Array, Array]:
        """Values of u at the nodes, with the variance that S gives it, and its covariance."""
        covariance = _covariance(window, spectrum, sigma)
        return mean * jnp.sqrt(covariance[0, 0] / jnp.sum(weights * mean**2)), covariance

    def measure(mean: Array, spectrum: Array, sigma: Array) -> tuple[Array, Array, tuple[Array, Array]]:
        u, covariance = distribution(mean, spectrum, sigma)
        variance = covariance[0, 0]
        denoised = jnp.tanh(u)
        given = jnp.matmul(jnp.matmul(table, u, precision=EXACT), weights * u, precision=EXACT) / variance
        near = jnp.interp(covariance[rows, columns] / variance, given.at[-1].set(1.0), correlations)
        around = jax.vmap(lambda c: jnp.matmul(conditional(c), denoised, precision=EXACT))(near)
        target = jnp.matmul(jnp.asarray(counts, dtype), around, precision=EXACT) / area
        gain = jnp.sum(weights * u * denoised) / variance
        more = (
            window / sigma**2 * jnp.sum(weights / jnp.cosh(u) ** 2),
            jnp.sum(weights * u**4) / variance**2,
        )
        return window / sigma**2 * gain, target, more

    mean = g * sigmas[0] / size  # window means of white noise
    _, spectra, symbols, (jacobians, kurtosis) = close(measure, sigmas, mean, start, 0.0)
    return TransformedClosure(sigmas, spectra, symbols, jacobians, kurtosis)
