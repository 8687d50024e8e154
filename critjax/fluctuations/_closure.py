"""The Gaussian closure: at every noise level the field is taken for a Gaussian one of the same spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_sigmas, check, check_count, check_eta, check_grid, check_option
from critjax._programs import as_argument, as_pytree, program
from critjax._typing import Array, ArrayLike, Complex, DenoiseFn, Float, PRNGKey
from critjax.closed_form import gaussian_fields
from critjax.fluctuations._linear import NODES, adjoint, is_quiet, magnus_step
from critjax.spectra import regression_symbol
from critjax.spectra.regression import CENTRES


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
    kurtosis: Float[Array, " num"]
    """<psi^4>/<psi^2>^2 of the field psi of soft modes, to first order beyond Gaussian: 3 where the closure is
    consistent with itself. NaN where it is not computed."""
    kurtosis_error: Float[Array, " num"]
    """Its standard error; NaN for one replica."""


def soft_modes(grid: Sequence[int], size: int | None = None) -> np.ndarray:
    """Mark the soft modes (H, W), FFT order: ``|k| <= 2 pi/size``, k = 0 among them.

    Their field psi is the one whose kurtosis `gaussian_closure` predicts.

    Parameters
    ----------
    grid : (H, W)
    size : int, optional
        Side p of a window. Without one, as for networks, the soft modes are the two lowest shells,
        ``|k| <= 4 pi/max(H, W)``.

    Returns
    -------
    bool array (H, W)

    Example
    -------
    >>> int(soft_modes((12, 12), 12).sum())  # k = 0 and its four neighbours
    5
    """
    n_y, n_x = (np.fft.fftfreq(n) for n in grid)
    cutoff = 1 / size if size else 2 / max(grid)
    return n_y[:, None] ** 2 + n_x**2 <= cutoff**2 * (1 + 1e-9)  # modes at the cutoff itself are in


def gaussian_closure(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    sigmas: Float[ArrayLike, " num"],
    grid: Sequence[int],
    *,
    eta: Any = 0.0,
    num_samples: int,
    num_replicas: int = 1,
    size: int | None = None,
    centre: str = "spatial",
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
    size : int, optional
        Project the symbol on kernels of a window of this side: p for centre readout, 2p - 1 for average readout, where
        the support is exact and the projection only cuts sampling noise. Default: none (networks). Soft modes, whose
        kurtosis is predicted, are those of `soft_modes`: |k| <= 2 pi/size.
    centre : "spatial" or "ensemble"
        What the regression subtracts from D, see `regression_symbol`: the mean over fields and pixels, or, for a
        denoiser that is not quite translation invariant, such as a network on images, that over fields at every pixel.
    mean : float array (C,), optional
        Mean at the first level; default zero.
    channels : int
        Number of channels, if ``mean`` is not given.

    Returns
    -------
    GaussianClosure
        ``sigma``, ``mean``, ``structure_factor`` and ``symbol`` at every level, standard errors of the last two, and
        the kurtosis of the soft modes, which tells where the field can no longer be Gaussian.

    Raises
    ------
    ValueError
        If the ladder, ``eta``, ``num_samples``, ``num_replicas`` or the grid is illegal, or ``centre`` is neither
        "spatial" nor "ensemble".

    Notes
    -----
    ``(num + 2) num_samples`` denoiser evaluations, all samples of a level at once in memory. Second order in the
    ladder spacing, apart from sampling noise. An approximation: the true field becomes non-Gaussian near the
    effective critical noise. For Gaussian x the symbol equals that of the mean Jacobian (Stein). With v = <psi^2> and
    c the fourth cumulant of the soft field, one channel or the mean of several, averages over the Gaussian field:
    ``dc/dtau = 4 (1+eta) [<psi^3 D_psi> - 3 v <psi D_psi> + (<psi D_psi>/v - 1) c]``. THEORY section 5.

    Example
    -------
    >>> from critjax.closed_form import two_pattern_denoiser
    >>> from critjax.noise import geometric_sigmas
    >>> ladder = geometric_sigmas(14.0, 4.0, 12)
    >>> denoise, key = two_pattern_denoiser(9), jax.random.key(0)
    >>> closure = gaussian_closure(denoise, key, ladder, (32, 32), num_samples=8, size=9)
    >>> bool(closure.symbol[-1, 0, 0, 0, 0].real < 81 / 16)  # well below the bare symbol
    True
    """
    sigmas = as_sigmas("sigmas", sigmas)
    eta = check_eta(eta)
    height, width = check_grid(grid)
    check_option("centre", centre, CENTRES)
    begin = np.zeros(channels, sigmas.dtype) if mean is None else as_argument(mean)
    advice = "16 suits a 64 x 64 grid"
    whole = isinstance(num_samples, (int, np.integer)) and not isinstance(num_samples, bool)
    check(whole, "num_samples", "an integer", repr(num_samples), advice)
    good = isinstance(num_replicas, (int, np.integer)) and num_replicas >= 1
    good = bool(good and num_samples % num_replicas == 0)
    divisor = f"a divisor of num_samples = {num_samples}"
    check(good, "num_replicas", divisor, repr(num_replicas), "choose a divisor, e.g. 4 of 16")
    least = num_replicas * (begin.shape[0] + 1)  # each has as many fluctuations as channels, beside the mean
    check(num_samples >= least, "num_samples", f"at least {least}", num_samples, advice)
    if size is not None:
        size = check_count("size", size, least=1, advice="p for centre readout, 2p - 1 for average readout")
    return _gaussian_closure(
        as_pytree("denoise_fn", denoise_fn),
        key,
        sigmas,
        begin,
        eta,
        (height, width),
        int(num_samples),
        int(num_replicas),
        size,
        centre,
        is_quiet(eta),
    )


@program(static_argnums=(5, 6, 7, 8, 9, 10))
def _gaussian_closure(
    denoise_fn: Any,
    key: PRNGKey,
    sigmas: Array,
    mean: Any,
    eta: Any,
    grid: tuple[int, int],
    num_samples: int,
    num_replicas: int,
    size: int | None,
    centre: str,
    quiet: bool,
) -> GaussianClosure:
    eta = 0.0 if quiet else eta
    mean = jnp.asarray(mean, sigmas.dtype)
    channels = mean.shape[0]
    shape = (num_samples // num_replicas, *grid, channels)
    dtype = jnp.promote_types(sigmas.dtype, jnp.complex64)
    start = jnp.broadcast_to(sigmas[0] ** 2 * jnp.eye(channels, dtype=dtype), (*grid, channels, channels))

    soft = soft_modes(grid, size)

    def soft_field(x: Array) -> Array:
        field = x.mean(-1)
        return jnp.fft.ifft2(jnp.where(soft, jnp.fft.fft2(field - field.mean()), 0)).real

    def replica(key: PRNGKey) -> tuple[Array, ...]:
        white_hat = jnp.fft.fft2(jax.random.normal(key, shape, sigmas.dtype), axes=(1, 2))

        def measure(mean: Array, spectrum: Array, sigma: Array) -> tuple[Array, Array, Array]:
            x = mean + gaussian_fields(white_hat, spectrum)
            denoised = jax.vmap(denoise_fn, (0, None))(x, sigma)
            symbol = regression_symbol(x, denoised, centre=centre, size=size)
            psi, target = soft_field(x), soft_field(denoised)
            moments = [jnp.mean(psi**2), jnp.mean(psi * target), jnp.mean(psi**4), jnp.mean(psi**3 * target)]
            return symbol.astype(dtype), denoised.mean((0, 1, 2)), jnp.stack(moments)

        means, spectra, symbols, moments = close(measure, sigmas, mean, start, eta)
        return means, spectra, symbols, _kurtosis(sigmas, moments, eta)

    if num_replicas == 1:
        means, spectra, symbols, kurtosis = replica(key)
        unknown = jnp.full(spectra.shape, jnp.nan, sigmas.dtype)
        return GaussianClosure(
            sigmas, means, spectra, symbols, unknown, unknown, kurtosis, unknown[:, 0, 0, 0, 0]
        )
    means, spectra, symbols, kurtosis = jax.lax.map(replica, jax.random.split(key, num_replicas))

    def error(values: Array) -> Array:
        spread = jnp.sum(jnp.abs(values - values.mean(0)) ** 2, axis=0) / (num_replicas - 1)
        return jnp.sqrt(spread / num_replicas)

    average = (means.mean(0), spectra.mean(0), symbols.mean(0))
    errors = (error(spectra), error(symbols))
    return GaussianClosure(sigmas, *average, *errors, kurtosis.mean(0), error(kurtosis))


def _kurtosis(sigmas: Array, moments: Array, eta: Any) -> Array:
    """Integrate the fourth cumulant of the soft field that Gaussian moments (num, 4) feed; return its kurtosis."""
    variance, drive, fourth, cross = moments.T
    # The fourth moment of a finite sample is not 3 v^2: what it lacks is taken off the source in proportion.
    source = cross - drive * fourth / variance
    gain = 4 * (1 + eta) * (drive / variance - 1)

    def step(cumulant: Array, level: tuple[Array, ...]) -> tuple[Array, Array]:
        span, fed, fed_next, grown, grown_next = level
        growth = jnp.exp(0.5 * span * (grown + grown_next))
        later = growth * (cumulant + 0.5 * span * fed) + 0.5 * span * fed_next
        return later, later

    fed = 4 * (1 + eta) * source
    spans = -jnp.diff(jnp.log(sigmas))
    levels = (spans, fed[:-1], fed[1:], gain[:-1], gain[1:])
    start = jnp.zeros((), moments.dtype)
    cumulants = jnp.concatenate([start[None], jax.lax.scan(step, start, levels)[1]])
    return 3 + cumulants / variance**2


def close(measure, sigmas: Array, mean: Array, start: Array, eta: Any) -> tuple[Array, Array, Array, Any]:
    """Carry mean and spectrum down the ladder, ``measure(mean, spectrum, sigma) -> (symbol, target, more)``.

    The mean relaxes to the target. Returns mean, spectrum, symbol and whatever more was measured at every level.
    """

    def advance(mean, spectrum, sigma, span, symbol, slope, target, target_slope) -> tuple[Array, Array]:
        """Advance mean and spectrum with symbol and target that change by their slopes over the step."""
        nodes = symbol + jnp.asarray(NODES, sigmas.dtype)[:, None, None, None, None] * slope
        advanced = magnus_step(spectrum, nodes, sigma, span, eta)
        decay = jnp.exp(-(1 + eta) * span)
        moved = decay * mean + (1 - decay) * (target + 0.5 * target_slope)
        return moved, (advanced + adjoint(advanced)) / 2

    def level(carry, step):
        mean, spectrum, old_symbol, old_target, old_span = carry
        sigma, span = step
        symbol, target, more = measure(mean, spectrum, sigma)
        # Extrapolate linearly into the step (Adams-Bashforth).
        ratio = span / old_span
        moved, advanced = advance(
            mean,
            spectrum,
            sigma,
            span,
            symbol,
            ratio * (symbol - old_symbol),
            target,
            ratio * (target - old_target),
        )
        return (moved, advanced, symbol, target, span), (mean, spectrum, symbol, more)

    spans = jnp.concatenate([-jnp.diff(jnp.log(sigmas)), jnp.zeros((1,), sigmas.dtype)])
    # The first step has no past; its slopes are found by trying it (Heun), and continued backwards.
    symbol, target, _ = measure(mean, start, sigmas[0])
    tried = advance(mean, start, sigmas[0], spans[0], symbol, 0 * symbol, target, 0 * target)
    ahead, target_ahead, _ = measure(*tried, sigmas[min(1, sigmas.shape[0] - 1)])
    first = (mean, start, 2 * symbol - ahead, 2 * target - target_ahead, jnp.maximum(spans[0], 1e-30))
    return jax.lax.scan(level, first, (sigmas, spans))[1]
