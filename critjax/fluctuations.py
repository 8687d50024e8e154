r"""Fluctuations about the homogeneous state: linear structure factor and Gaussian closure.

While a field is small its modes evolve alone, and the structure factor obeys a linear equation per
wavevector,

``dS/dtau = (1+eta) [(Dhat - 1) S + S (Dhat - 1)^dagger] + 2 eta sigma^2 1,   tau = -ln sigma``

(THEORY section 5). With the bare symbol this is linear theory; with the regression symbol of a Gaussian field
of the same spectrum it is the Gaussian closure. Both share one step, exact for a constant symbol and of
fourth order or better in the ladder spacing otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, check_eta, check_grid, check_rank, check_sigmas, is_concrete
from critjax._typing import Array, ArrayLike, Complex, DenoiseFn, Float, PRNGKey, SymbolFn
from critjax.fourier import kernel_to_symbol
from critjax.spectra import regression_symbol

_EXACT = jax.lax.Precision.HIGHEST

# Gauss-Legendre nodes and weights on [0, 1], and the integrals from node j to 1 of the three Lagrange
# polynomials through the nodes: together they integrate the symbol over a step, and over what is left of it,
# to sixth order.
_NODES = 0.5 + np.sqrt(0.15) * np.array([-1.0, 0.0, 1.0])
_WEIGHTS = np.array([5.0, 8.0, 5.0]) / 18.0


def _tail_weights() -> np.ndarray:
    rows = []
    for start in _NODES:
        powers = np.array([(1 - start ** (n + 1)) / (n + 1) for n in range(3)])
        rows.append(np.linalg.solve(np.vander(_NODES, 3, increasing=True).T, powers))
    return np.array(rows)


_TAILS = _tail_weights()


class GaussianClosure(NamedTuple):
    """Result of `gaussian_closure`."""

    sigma: Float[Array, " num"]
    """Noise levels, decreasing."""
    mean: Float[Array, "num C"]
    """Uniform mean m(sigma)."""
    structure_factor: Complex[Array, "num H W C C"]
    """S(k, sigma), FFT order."""
    symbol: Complex[Array, "num H W C C"]
    """lambda_reg(k, sigma) of the Gaussian field N(m, S)."""
    structure_factor_error: Float[Array, "num H W C C"]
    """Standard error of S from the sampling of fields; NaN for one replica, zero where nothing is sampled."""
    symbol_error: Float[Array, "num H W C C"]
    """Standard error of lambda_reg, likewise."""


def _adjoint(a: Array) -> Array:
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def _propagator(exponent: Array) -> Array:
    if exponent.shape[-1] == 1:
        return jnp.exp(exponent)
    return jax.scipy.linalg.expm(exponent)


def _product(a: Array, b: Array) -> Array:
    return a * b if a.shape[-1] == 1 else jnp.matmul(a, b, precision=_EXACT)


def _step(factor: Array, symbols: Array, sigma: Array, span: Array, eta: Any) -> Array:
    """Advance S by ``span`` in tau, given the symbol at the three Gauss nodes (3, H, W, C, C).

    Magnus expansion to fourth order: exponent ``int A - (h^3/12) [A_mid, A']``; for one channel the
    commutator vanishes and only the quadrature of the symbol is left.
    """
    channels = symbols.shape[-1]
    drift = (1 + eta) * (symbols - jnp.eye(channels, dtype=symbols.dtype))
    weights = jnp.asarray(_WEIGHTS, drift.real.dtype)
    slope = (drift[2] - drift[0]) / float(_NODES[2] - _NODES[0])

    def exponent(integral: Array, length: Any) -> Array:
        if channels == 1:
            return span * integral
        # Over a fraction l of the step: integral / l is the mean drift there, slope / span its derivative.
        middle = integral / length
        commutator = _product(middle, slope) - _product(slope, middle)
        return span * integral - (span**2 * length**3 / 12) * commutator

    full = _propagator(exponent(jnp.tensordot(weights, drift, 1, precision=_EXACT), 1.0))
    advanced = _product(_product(full, factor), _adjoint(full))
    if is_concrete(eta) and float(eta) == 0.0:
        return advanced
    noise = jnp.zeros_like(advanced)
    for node, weight, tail in zip(_NODES, _WEIGHTS, _TAILS, strict=True):
        integral = jnp.tensordot(jnp.asarray(tail, drift.real.dtype), drift, 1, precision=_EXACT)
        rest = _propagator(exponent(integral, float(1 - node)))
        strength = 2 * eta * (sigma * jnp.exp(-float(node) * span)) ** 2
        noise = noise + float(weight) * strength * _product(rest, _adjoint(rest))
    return advanced + span * noise


def linear_structure_factor(
    symbol_fn: SymbolFn, sigmas: Float[ArrayLike, " num"], *, eta: Any = 0.0, num_substeps: int = 2
) -> Complex[Array, "num H W C C"]:
    r"""Integrate the structure factor of linear theory down a ladder of noise levels.

    .. math:: dS/d\tau = (1+\eta)[(\hat D - 1) S + S (\hat D - 1)^\dagger] + 2 \eta \sigma^2,
              \qquad S(\sigma_0) = \sigma_0^2, \quad \tau = -\ln \sigma

    Parameters
    ----------
    symbol_fn : SymbolFn
        ``(sigma) -> (H, W, C, C)``: the bare symbol for linear theory, or any other symbol that drives S.
    sigmas : float array (num,)
        Strictly decreasing standard deviations; the field starts as white noise at the first.
    eta : scalar >= 0
        Stochasticity: 0 probability flow, 1 reverse SDE.
    num_substeps : int
        Integration steps between neighbouring levels, three evaluations of ``symbol_fn`` each.

    Returns
    -------
    complex array (num, H, W, C, C)
        S(k, sigma) = <x_k x_k^dagger>/N_pixels in FFT order, Hermitian; white noise of std s has S = s^2.

    Raises
    ------
    ValueError
        If ``sigmas`` does not decrease, ``eta`` is negative or ``num_substeps`` is not positive.

    Notes
    -----
    ``3 num num_substeps`` symbols and matrix exponentials per mode; the error per step is of sixth order in
    the spacing of ln sigma for one channel, of fourth order for several. Exact for fields that stay small;
    THEORY section 5 (linear stability with noise: Hohenberg & Halperin 1977).

    Example
    -------
    Without structure in the data the symbol is zero, and white noise stays white noise of standard deviation
    sigma:

    >>> s = linear_structure_factor(lambda sigma: jnp.zeros((4, 4, 1, 1), "complex64"), jnp.array([2.0, 0.5]))
    >>> round(float(s[1, 0, 0, 0, 0].real), 5)
    0.25
    """
    sigmas = jnp.asarray(sigmas)
    check_sigmas("sigmas", sigmas)
    check_eta(eta)
    good = isinstance(num_substeps, (int, np.integer)) and num_substeps >= 1
    check(good, "num_substeps", "an integer >= 1", repr(num_substeps), "2 suits ladders of 40 levels or more")
    shape = jax.eval_shape(symbol_fn, sigmas[0])
    check_rank("symbol_fn(sigma)", shape, "H W C C")
    dtype = jnp.promote_types(shape.dtype, jnp.complex64)
    identity = jnp.eye(shape.shape[-1], dtype=dtype)
    start = jnp.broadcast_to(sigmas[0] ** 2 * identity, shape.shape).astype(dtype)
    tau = -jnp.log(sigmas)

    def substep(carry: tuple[Array, Array], span: Array) -> tuple[tuple[Array, Array], None]:
        spectrum, level = carry
        nodes = level * jnp.exp(-jnp.asarray(_NODES, sigmas.dtype) * span)
        symbols = jax.lax.map(symbol_fn, nodes).astype(dtype)
        return (_step(spectrum, symbols, level, span, eta), level * jnp.exp(-span)), None

    def between(spectrum: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        level, span = step
        spans = jnp.full((num_substeps,), span / num_substeps)
        spectrum = jax.lax.scan(substep, (spectrum, level), spans)[0][0]
        return spectrum, spectrum

    _, later = jax.lax.scan(between, start, (sigmas[:-1], jnp.diff(tau)))
    return jnp.concatenate([start[None], later])


def _gaussian_field(white_hat: Array, spectrum: Array, mean: Array) -> Array:
    """Colour the transform of real white noise (B, H, W, C) with the spectrum S and add the mean."""
    if spectrum.shape[-1] == 1:
        root = jnp.sqrt(jnp.maximum(spectrum.real, 0))[..., 0]
        coloured = root * white_hat
    else:
        # The Cholesky factor is unique, hence its conjugate at -k: the field stays real.
        coloured = jnp.einsum("hwab,nhwb->nhwa", jnp.linalg.cholesky(spectrum), white_hat, precision=_EXACT)
    return mean + jnp.fft.ifft2(coloured, axes=(1, 2)).real


def gaussian_closure(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    sigmas: Float[ArrayLike, " num"],
    grid: Sequence[int],
    *,
    eta: Any = 0.0,
    num_samples: int,
    num_replicas: int = 1,
    window: int | None = None,
    mean: Float[ArrayLike, " C"] | None = None,
    channels: int = 1,
) -> GaussianClosure:
    r"""Predict S(k, sigma) beyond linear theory by treating the field as Gaussian at every noise level.

    .. math:: \lambda_{reg} = \langle D_k x_k^\dagger \rangle \langle x_k x_k^\dagger \rangle^{-1},
              \quad x \sim N(m, S); \qquad
              \frac{dS}{d\tau} = (1+\eta)[(\lambda_{reg} - 1) S + h.c.] + 2 \eta \sigma^2, \quad
              \frac{dm}{d\tau} = (1+\eta)(\langle D \rangle - m)

    Parameters
    ----------
    denoise_fn : DenoiseFn
        Any translation-invariant denoiser ``(x (H, W, C), sigma) -> (H, W, C)``.
    key : PRNG key
        One draw of white noise serves all levels, so that the curves are smooth in sigma.
    sigmas : float array (num,)
        Strictly decreasing ladder; the field starts as white noise at the first level.
    grid : (H, W)
        Static grid.
    eta : scalar >= 0
        Stochasticity.
    num_samples : int
        Fields drawn per level, more than channels; errors fall as the inverse square root of samples times
        pixels.
    num_replicas : int
        Split the samples into so many independent closures: results are their averages, standard errors come from
        their spread. At least 4 for errors worth the name; the cost stays.
    window : int, optional
        Project the symbol on kernels of this size: p for centre readout, 2p - 1 for average readout, where
        the support is exact and the projection only cuts sampling noise. Default: none (networks).
    mean : float array (C,), optional
        Mean at the first level; default zero.
    channels : int
        Number of channels, if ``mean`` is not given.

    Returns
    -------
    GaussianClosure
        ``sigma``, ``mean``, ``structure_factor`` and ``symbol`` at every level, and standard errors of the last two.

    Raises
    ------
    ValueError
        If the ladder, ``eta``, ``num_samples``, ``num_replicas`` or the grid is illegal.

    Notes
    -----
    ``num num_samples`` denoiser evaluations, all samples of a level at once in memory. Second order in the
    ladder spacing, apart from sampling noise. An approximation: the true field becomes non-Gaussian near the
    effective critical noise. For Gaussian x the symbol equals that of the mean Jacobian (Stein). THEORY
    section 5.

    Example
    -------
    >>> from critjax.closed_form import two_pattern_denoiser
    >>> from critjax.noise import geometric_sigmas
    >>> ladder = geometric_sigmas(14.0, 4.0, 12)
    >>> denoise, key = two_pattern_denoiser(9), jax.random.key(0)
    >>> closure = gaussian_closure(denoise, key, ladder, (32, 32), num_samples=8, window=9)
    >>> bool(closure.symbol[-1, 0, 0, 0, 0].real < 81 / 16)  # well below the bare symbol
    True
    """
    sigmas = jnp.asarray(sigmas)
    check_sigmas("sigmas", sigmas)
    check_eta(eta)
    height, width = check_grid(grid)
    mean = jnp.zeros((channels,), sigmas.dtype) if mean is None else jnp.asarray(mean, sigmas.dtype)
    good = (
        isinstance(num_replicas, (int, np.integer)) and num_replicas >= 1 and num_samples % num_replicas == 0
    )
    advice = "choose a divisor, e.g. 4 of 16"
    check(good, "num_replicas", f"a divisor of num_samples = {num_samples}", repr(num_replicas), advice)
    least = num_replicas * (mean.shape[0] + 1)  # each has as many fluctuations as channels, beside the mean
    check(num_samples >= least, "num_samples", f"at least {least}", num_samples, "16 suits a 64 x 64 grid")
    shape = (num_samples // num_replicas, height, width, mean.shape[0])
    dtype = jnp.promote_types(sigmas.dtype, jnp.complex64)
    start = jnp.broadcast_to(
        sigmas[0] ** 2 * jnp.eye(mean.shape[0], dtype=dtype), (height, width, mean.shape[0], mean.shape[0])
    )

    def replica(key: PRNGKey) -> tuple[Array, Array, Array]:
        white_hat = jnp.fft.fft2(jax.random.normal(key, shape, sigmas.dtype), axes=(1, 2))

        def measure(mean: Array, spectrum: Array, sigma: Array) -> tuple[Array, Array]:
            x = _gaussian_field(white_hat, spectrum, mean)
            denoised = jax.vmap(denoise_fn, (0, None))(x, sigma)
            symbol = regression_symbol(x, denoised, centre="spatial", window=window)
            return symbol.astype(dtype), denoised.mean((0, 1, 2))

        return _close(measure, sigmas, mean, start, eta)

    if num_replicas == 1:
        means, spectra, symbols = replica(key)
        unknown = jnp.full(spectra.shape, jnp.nan, sigmas.dtype)
        return GaussianClosure(sigmas, means, spectra, symbols, unknown, unknown)
    means, spectra, symbols = jax.lax.map(replica, jax.random.split(key, num_replicas))

    def error(values: Array) -> Array:
        spread = jnp.sum(jnp.abs(values - values.mean(0)) ** 2, axis=0) / (num_replicas - 1)
        return jnp.sqrt(spread / num_replicas)

    average = (means.mean(0), spectra.mean(0), symbols.mean(0))
    return GaussianClosure(sigmas, average[0], average[1], average[2], error(spectra), error(symbols))


def _close(measure, sigmas: Array, mean: Array, start: Array, eta: Any) -> tuple[Array, Array, Array]:
    """Carry mean and spectrum down the ladder, ``measure(mean, spectrum, sigma) -> (symbol, target of the mean)``.

    Returns mean, spectrum and symbol at every level.
    """

    def level(carry, step):
        mean, spectrum, old_symbol, old_target, old_span = carry
        sigma, span = step
        symbol, target = measure(mean, spectrum, sigma)
        # Extrapolate linearly into the step (Adams-Bashforth); the first step has no past and stays constant.
        ratio = jnp.where(old_span > 0, span / jnp.where(old_span > 0, old_span, 1), 0)
        slope = ratio * (symbol - old_symbol)
        nodes = symbol + jnp.asarray(_NODES, sigmas.dtype)[:, None, None, None, None] * slope
        advanced = _step(spectrum, nodes, sigma, span, eta)
        advanced = (advanced + _adjoint(advanced)) / 2
        decay = jnp.exp(-(1 + eta) * span)
        moved = decay * mean + (1 - decay) * (target + 0.5 * ratio * (target - old_target))
        return (moved, advanced, symbol, target, span), (mean, spectrum, symbol)

    spans = jnp.concatenate([-jnp.diff(jnp.log(sigmas)), jnp.zeros((1,), sigmas.dtype)])
    first = (mean, start, jnp.zeros_like(start), jnp.zeros_like(mean), jnp.zeros((), sigmas.dtype))
    return jax.lax.scan(level, first, (sigmas, spans))[1]


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
    nodes = jnp.linspace(0, 30, num_nodes, dtype=sigmas.dtype)
    slope = 1 / jnp.cosh(nodes) ** 2

    def measure(mean: Array, spectrum: Array, sigma: Array) -> tuple[Array, Array]:
        variance = jnp.sum(window.real**2 * spectrum.real) / (height * width * sigma**4)
        weights = jnp.exp(-(nodes**2) / (2 * variance))
        # A narrow distribution is normalised by the same rule, a wide one, which the nodes do not hold, in closed form.
        wide = jnp.sqrt(jnp.pi * variance / 2) / (nodes[1] - nodes[0])
        average = (jnp.sum(weights * slope) - 0.5) / jnp.where(variance > 1, wide, jnp.sum(weights) - 0.5)
        return window / sigma**2 * average, mean

    start = jnp.broadcast_to(sigmas[0] ** 2 + jnp.zeros((), window.dtype), (height, width, 1, 1))
    means, spectra, symbols = _close(measure, sigmas, jnp.zeros((1,), sigmas.dtype), start, eta)
    exact = jnp.zeros(spectra.shape, sigmas.dtype)
    return GaussianClosure(sigmas, means, spectra, symbols, exact, exact)
