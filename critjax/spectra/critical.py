r"""Critical noise levels: where, going down in noise, a symbol's fastest mode starts to grow.

``sigma_c = sup {sigma : max_k Gamma(k, sigma) >= 0}`` over a scanned range (THEORY section 3). What depends
on traced values comes back as a status code, not as an exception.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_sigmas, check, check_count, check_option, check_rank, is_concrete
from critjax._programs import as_pytree, program
from critjax._status import Status
from critjax._typing import Array, ArrayLike, Complex, Float, Int, Scalar, SymbolFn
from critjax.fourier import wavevectors
from critjax.noise import FRAMES
from critjax.spectra._inputs import as_eta
from critjax.spectra.eigenvalues import dispersion, leading_eigenvalue, rate_of_eigenvalue, right_eigenvector
from critjax.spectra.roots import bracketed_root, interpolated_root


class CriticalStatus(Status):
    """Meaning of `CriticalPoint.status`.

    Example
    -------
    >>> CriticalStatus(2).name, CriticalStatus(2).message
    ('UNSTABLE_AT_MAX', 'unstable at sigma_max')
    """

    CROSSING = 0, "crossing"
    STABLE = 1, "stable"
    UNSTABLE_AT_MAX = 2, "unstable at sigma_max"
    NOT_FINITE = 3, "not finite"
    ALWAYS_GROWING = 4, "grows at every noise level"


# Plain integers for arithmetic on arrays.
_CROSSING, _STABLE, _UNSTABLE_AT_MAX, _NOT_FINITE, _ALWAYS_GROWING = map(int, CriticalStatus)


class CriticalPoint(NamedTuple):
    """Result of `critical_point`; without a crossing the first four fields are NaN and ``modes`` is False."""

    sigma: Float[Array, ""]
    """Critical noise, a standard deviation: the largest of the scanned range at which a mode grows."""
    wavevector: Float[Array, " 2"]
    """(k_y, k_x) in rad per pixel of the first critical mode in FFT order."""
    frequency: Float[Array, ""]
    """(1+eta) Im Dhat(k_c), rad per unit tau = -ln sigma: the mode is exp(i(k.j + frequency tau))."""
    eigenvector: Complex[Array, " C"]
    """Polarisation of that mode over channels, norm one, largest component real and positive."""
    status: Int[Array, ""]
    """Code; ``CriticalStatus(int(point.status)).message`` says it in words."""
    modes: Any
    """Boolean (H, W) in FFT order: all modes critical at ``sigma``: k, -k and symmetry partners."""
    crossings: Float[Array, " max_crossings"]
    """All levels where max_k Gamma changes sign, decreasing, re-entrant ones included; padded with NaN."""
    num_crossings: Int[Array, ""]
    """Number of sign changes on the ladder, also if larger than the length of ``crossings``."""


def _scan(
    symbol_fn: SymbolFn, sigmas: Array, eta: Any, frame: str, batch_size: int | None
) -> tuple[Array, Array]:
    """Return growth rate and leading eigenvalue (num, H, W) on the ladder."""
    table = dispersion(symbol_fn, sigmas, batch_size=batch_size)
    leading = leading_eigenvalue(table)
    rate = jax.vmap(lambda value, sigma: rate_of_eigenvalue(value, sigma, eta, frame))(leading, sigmas)
    return rate, leading


def critical_point(
    symbol_fn: SymbolFn,
    sigmas: Float[ArrayLike, " num"],
    *,
    eta: Scalar = 0.0,
    frame: str = "ve",
    max_crossings: int = 4,
    tolerance: float | None = None,
    batch_size: int | None = None,
) -> CriticalPoint:
    r"""Find the critical noise level of a symbol.

    .. math:: \sigma_c = \sup \{\sigma : \max_k \Gamma(k, \sigma) \ge 0\}, \qquad
              k_c = \arg\max_k \Gamma(k, \sigma_c)

    Parameters
    ----------
    symbol_fn : SymbolFn
        ``(sigma) -> (H, W, C, C)``, differentiable in sigma.
    sigmas : float array (num,)
        Strictly decreasing ladder, at least two levels. Brackets are the neighbours between which max_k Gamma
        changes sign: two crossings between neighbours are not seen.
    eta : scalar >= 0
        Stochasticity; in the VE frame the critical noise does not depend on it.
    frame : "ve" or "vp"
        Frame of the growth rate, see `growth_rate`. "ve" is the criterion Dhat = 1.
    max_crossings : int
        How many sign changes to refine.
    tolerance : float, optional
        Modes whose rate is that close to the largest, relative to 1 + eta, count as critical. Default: a
        tenth of the root of machine epsilon (3.5e-5 in float32).
    batch_size : int, optional
        Levels evaluated together while scanning, see `dispersion`.

    Returns
    -------
    CriticalPoint
        With an integer ``status``: crossing; stable on the whole range; unstable already at sigmas[0] (raise
        it); not finite (a non-finite symbol comes before any crossing); grows at every noise level: in the VP
        frame with eta = 0 a mode with ``sigma^2 Dhat >= 1`` at sigmas[0] that grows on the whole ladder. Such
        a mode (Dhat = c/sigma^2, c >= 1) has no critical point, however large the noise.

    Raises
    ------
    ValueError
        For a bad ladder, frame, eta or static option, or a symbol of the wrong rank.

    Notes
    -----
    Scans all levels, then refines each bracket by Chandrupatla's method (inverse quadratic interpolation
    safeguarded by bisection) to rounding error, typically 6 to 10 symbols per crossing, all crossings
    together. Works under ``jit`` and ``vmap``. ``sigma`` is differentiable with respect to whatever
    ``symbol_fn`` closes over, by the implicit function theorem at the representative critical mode,
    ``dsigma_c = -dGamma / (dGamma/dsigma)``; at degenerate modes of one symmetry orbit that is the derivative
    for perturbations that keep the symmetry. THEORY section 3; Chandrupatla 1997, Adv. Eng. Softw. 28, 145.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> from critjax.spectra import bank_symbol_fn
    >>> point = critical_point(bank_symbol_fn(two_pattern_bank(3), (8, 8)), jnp.array([6.0, 4.0, 2.0, 1.0]))
    >>> print(round(float(point.sigma), 5), point.wavevector, CriticalStatus(int(point.status)).message)
    3.0 [0. 0.] crossing
    """
    fn, ladder, eta, options = _inputs(symbol_fn, sigmas, eta, frame, batch_size, least=2)
    advice = "4 is plenty for most banks"
    max_crossings = check_count("max_crossings", max_crossings, least=1, advice=advice)
    tolerance = None if tolerance is None else float(tolerance)
    return _critical_point(fn, ladder, eta, tolerance, max_crossings=max_crossings, **options)


def _inputs(
    symbol_fn: Any, sigmas: Any, eta: Any, frame: str, batch_size: Any, *, least: int
) -> tuple[SymbolFn, Array, Any, dict[str, Any]]:
    """Check what both programs take; return their arguments and static options."""
    ladder, eta = as_sigmas("sigmas", sigmas, minimum=least), as_eta(eta)
    check_option("frame", frame, FRAMES)
    if batch_size is not None:
        advice = "count noise levels evaluated together"
        batch_size = check_count("batch_size", batch_size, least=1, advice=advice)
    return as_pytree("symbol_fn", symbol_fn), ladder, eta, {"frame": frame, "batch_size": batch_size}


def _check_symbol(symbol_fn: SymbolFn, level: Array) -> None:
    """Raise unless the symbol has four axes; a function that is a pytree of tracers cannot be hashed, a lambda can."""
    check_rank("symbol_fn", jax.eval_shape(lambda sigma: symbol_fn(sigma), level), "H W C C")


@program(static_argnames=("frame", "max_crossings", "batch_size"))
def _critical_point(
    symbol_fn: SymbolFn,
    ladder: Array,
    eta: Any,
    tolerance: Any,
    *,
    frame: str,
    max_crossings: int,
    batch_size: int | None,
) -> CriticalPoint:
    level, eta = ladder[0], jnp.asarray(eta)
    _check_symbol(symbol_fn, level)
    # The search sees constants, also for what a function of the caller's closes over; only the implicit step at the
    # end carries derivatives.
    converted, captured = jax.closure_convert(lambda sigma: symbol_fn(sigma), level)
    frozen, ladder, still = jax.lax.stop_gradient((captured, ladder, eta))

    def frozen_fn(sigma: Array) -> Array:
        return converted(sigma, *frozen)

    def worst(sigma: Array) -> Array:
        return jnp.max(rate_of_eigenvalue(leading_eigenvalue(frozen_fn(sigma)), sigma, still, frame))

    rates, leading = _scan(frozen_fn, ladder, still, frame, batch_size)
    dtype = rates.dtype
    ladder = ladder.astype(dtype)
    highest = jnp.max(rates, axis=(1, 2))
    found = _classify(highest, leading[0], ladder, still, frame, max_crossings)
    roots = bracketed_root(worst, ladder[found.bracket + 1], ladder[found.bracket], *found.ends)
    crossings = jnp.where(found.valid, roots, jnp.nan)
    lost = (found.status == _CROSSING) & ~jnp.isfinite(roots[0])
    status = jnp.where(lost, _NOT_FINITE, found.status)
    crossed = status == _CROSSING
    root = jnp.where(crossed, crossings[0], ladder[0])

    rate = rate_of_eigenvalue(leading_eigenvalue(frozen_fn(root)), root, still, frame)
    width_of_tie = 0.1 * jnp.finfo(dtype).eps ** 0.5 if tolerance is None else tolerance
    modes = crossed & (rate >= jnp.max(rate) - width_of_tie * (1 + still.astype(dtype)))
    index = jnp.argmax(modes)  # the first in FFT order
    sigma = _implicit_root(symbol_fn, root, index, eta, frame)
    table = symbol_fn(sigma)
    matrix = table.reshape(-1, *table.shape[2:])[index]
    value = leading_eigenvalue(matrix)
    vector = right_eigenvector(matrix, value)

    def only(a: Array) -> Array:
        return jnp.where(crossed, a, jnp.nan)

    return CriticalPoint(
        sigma=only(sigma),
        wavevector=only(wavevectors(table.shape[:2], dtype=dtype).reshape(-1, 2)[index]),
        frequency=only((1 + eta.astype(dtype)) * value.imag),
        eigenvector=only(vector),
        status=status,
        modes=modes,
        crossings=crossings,
        num_crossings=found.count,
    )


class _Brackets(NamedTuple):
    status: Array
    bracket: Array
    """Index of the upper level of each sign change (max_crossings,); 0 where there is none."""
    ends: tuple[Array, Array]
    """Growth rates at the lower and the upper level."""
    valid: Array
    count: Array


def _classify(
    highest: Array, top_eigenvalues: Array, ladder: Array, eta: Any, frame: str, max_crossings: int
) -> _Brackets:
    """Read status and brackets off the largest growth rate (num,) on the ladder."""
    finite = jnp.isfinite(highest)
    # What lies below the first non-finite level cannot be trusted to be connected to what lies above.
    reached = jnp.cumprod(finite.astype(jnp.int32)).astype(bool)
    unstable = highest >= 0
    changes = (unstable[1:] != unstable[:-1]) & reached[1:]
    count = jnp.sum(changes, dtype=jnp.int32)
    valid = jnp.arange(max_crossings) < count
    bracket = jnp.nonzero(changes, size=max_crossings, fill_value=0)[0]
    always = jnp.all(unstable) & (jnp.max(top_eigenvalues.real) * ladder[0] ** 2 >= 1)
    always &= (frame == "vp") & (jnp.asarray(eta) == 0)
    status = jnp.where(
        ~finite[0],
        _NOT_FINITE,
        jnp.where(
            unstable[0],
            jnp.where(always, _ALWAYS_GROWING, _UNSTABLE_AT_MAX),
            jnp.where(count > 0, _CROSSING, jnp.where(jnp.all(finite), _STABLE, _NOT_FINITE)),
        ),
    ).astype(jnp.int32)
    return _Brackets(status, bracket, (highest[bracket + 1], highest[bracket]), valid, count)


def _implicit_root(symbol_fn: SymbolFn, root: Array, index: Array, eta: Any, frame: str) -> Array:
    """Attach to a root of Gamma(k_c, sigma; theta) its derivative in theta, leaving the value alone."""

    def rate(sigma: Array) -> Array:
        table = symbol_fn(sigma)
        matrix = table.reshape(-1, *table.shape[2:])[index]
        return rate_of_eigenvalue(leading_eigenvalue(matrix), sigma, eta, frame)

    value, slope = jax.jvp(rate, (root,), (jnp.ones_like(root),))
    value = value - jax.lax.stop_gradient(value)
    return root - value / jax.lax.stop_gradient(slope)


def critical_sigmas(
    symbol_fn: SymbolFn,
    sigmas: Float[ArrayLike, " num"],
    *,
    eta: Scalar = 0.0,
    frame: str = "ve",
    batch_size: int | None = None,
) -> Float[Array, "H W"]:
    r"""Map the critical noise of every mode.

    .. math:: \sigma_c(k) = \sup \{\sigma : \Gamma(k, \sigma) \ge 0\}

    Parameters
    ----------
    symbol_fn, eta, frame, batch_size
        As for `critical_point`.
    sigmas : float array (num,)
        Strictly decreasing ladder, at least four levels.

    Returns
    -------
    float array (H, W)
        FFT order; standard deviations. Zero for a mode that is stable at every level (the supremum of no
        levels), ``inf`` for one unstable already at sigmas[0], NaN if a non-finite rate comes before any
        crossing.

    Raises
    ------
    ValueError
        As `critical_point`.

    Notes
    -----
    The symbol is evaluated on the ladder only. Within a mode's bracket sigma^2 Gamma is the cubic in sigma^2
    through the four nearest levels: exact for patches of equal norm in the VE frame, else with an error of
    fourth order in the ladder spacing (`critical_point` refines with the symbol itself). Not differentiable.
    THEORY section 3.

    Example
    -------
    >>> from critjax.closed_form import gaussian_symbol
    >>> symbol_fn = gaussian_symbol(jnp.full((4, 4), 3.0))  # Gaussian data: never unstable
    >>> float(critical_sigmas(symbol_fn, jnp.array([8.0, 4.0, 2.0, 1.0])).max())
    0.0
    """
    fn, ladder, eta, options = _inputs(symbol_fn, sigmas, eta, frame, batch_size, least=4)
    return _critical_sigmas(fn, ladder, eta, **options)


@program(static_argnames=("frame", "batch_size"))
def _critical_sigmas(
    symbol_fn: SymbolFn, ladder: Array, eta: Any, *, frame: str, batch_size: int | None
) -> Array:
    _check_symbol(symbol_fn, ladder[0])
    rates, _ = jax.lax.stop_gradient(_scan(symbol_fn, ladder, eta, frame, batch_size))
    finite = jnp.isfinite(rates)
    reached = jnp.cumprod(finite.astype(jnp.int32), axis=0).astype(bool)
    grows = (rates >= 0) & reached
    first = jnp.argmax(grows, axis=0)
    # sigma^2 Gamma is linear in sigma^2 for patches of equal norm, and nearly so wherever noise dominates.
    variances = (ladder**2).astype(rates.dtype)
    root = interpolated_root(variances, variances[:, None, None] * rates, jnp.maximum(first, 1))
    never = jnp.where(jnp.all(finite, axis=0), 0, jnp.nan).astype(rates.dtype)
    result = jnp.where(first == 0, jnp.inf, jnp.sqrt(root))
    return jnp.where(jnp.any(grows, axis=0), result, never)


def instability_kind(point: CriticalPoint, *, frequency_tolerance: float | None = None) -> str:
    r"""Name the kind of instability in words.

    Parameters
    ----------
    point : CriticalPoint
        Concrete result of one `critical_point`, outside ``jit`` and not batched.
    frequency_tolerance : float, optional
        Smaller absolute frequencies count as zero. Default: the square root of machine epsilon.

    Returns
    -------
    str
        ``"uniform"`` (k_c = 0), ``"finite wavelength"``, ``"travelling"`` (k_c != 0 with a frequency),
        ``"oscillatory"`` (k_c = 0 with a frequency, two channels or more), or without a crossing
        ``"stable"``, ``"unstable at sigma_max"``, ``"not finite"``, ``"grows at every noise level"``.

    Raises
    ------
    ValueError
        For a traced or batched point.

    Notes
    -----
    If k = 0 is among degenerate critical modes the kind is that of k = 0. THEORY section 3; Cross & Hohenberg
    1993.

    Example
    -------
    >>> from critjax.banks import stripe_bank
    >>> from critjax.spectra import bank_symbol_fn
    >>> symbol_fn = bank_symbol_fn(stripe_bank(9, 6.0), (24, 24))
    >>> instability_kind(critical_point(symbol_fn, jnp.geomspace(20.0, 1.0, 12)))
    'finite wavelength'
    """
    check(
        is_concrete(point.status),
        "point",
        "a concrete result",
        "a traced one",
        "call instability_kind outside jit",
    )
    shape = tuple(np.shape(point.status))
    check(shape == (), "point", "one critical point", f"a batch of shape {shape}", "index the batch first")
    status = CriticalStatus(int(point.status))
    if status is not CriticalStatus.CROSSING:
        return status.message
    least = (
        float(jnp.finfo(point.sigma.dtype).eps) ** 0.5 if frequency_tolerance is None else frequency_tolerance
    )
    uniform = not np.any(np.asarray(point.wavevector))
    moving = abs(float(point.frequency)) > least
    if uniform:
        return "oscillatory" if moving else "uniform"
    return "travelling" if moving else "finite wavelength"
