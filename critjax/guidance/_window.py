"""A recommended guidance window: where softening alone predicts the largest response to a push."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import (
    as_sigmas,
    check,
    check_count,
    check_eta,
    check_finite,
    check_option,
    check_rank,
    is_concrete,
)
from critjax._programs import as_argument, as_pytree, program
from critjax._status import Status
from critjax._typing import Array, ArrayLike, DenoiseFn, Float, Int, PRNGKey
from critjax.guidance._budget import SOLVERS
from critjax.observables import interior_minimum
from critjax.sampling import sample


class WindowStatus(Status):
    """What `guidance_window` found.

    Example
    -------
    >>> WindowStatus(0).message
    'found'
    """

    FOUND = 0, "found"
    OPEN = 1, "found, but the window runs into an end of the ladder"
    AT_END = 2, "largest at an end of the ladder"
    INDISTINCT = 3, "not distinguishable from noise"
    NON_FINITE = 4, "not finite"


_KEPT = 0.75  # of the largest level of the response, at the edges of a window
_WIDEST = 4.0  # factor in sigma that the bootstrap interval of a centre may span
_INTERVAL = (2.5, 97.5)  # per cent


class GuidanceWindow(NamedTuple):
    """Result of `guidance_window`; edges, centre and their errors are NaN unless the status says found."""

    sigma_low: Float[Array, ""]
    """Lower edge, a standard deviation of noise; the arguments of `pulse` and `describe_window`."""
    sigma_high: Float[Array, ""]
    """Upper edge."""
    centre: Float[Array, ""]
    """Noise level of the largest predicted response: where a short pulse belongs."""
    sigma_low_error: Float[Array, ""]
    """Standard error over trajectories, by bootstrap; likewise for the next two."""
    sigma_high_error: Float[Array, ""]
    centre_error: Float[Array, ""]
    centre_interval: Float[Array, " 2"]
    """Central 95 per cent of the bootstrap centres, also where no window was found."""
    status: Int[Array, ""]
    """Code of a `WindowStatus`; see `window_status`."""
    softest: Float[Array, ""]
    """Noise level of the smallest gap; NaN where that is an end of the ladder. For comparison only."""
    softest_error: Float[Array, ""]
    """Its standard error over those bootstrap samples that have one inside the ladder."""
    sigma: Float[Array, " levels"]
    """The ladder."""
    gap: Float[Array, " levels"]
    """1 - lambda on the ladder, mean over trajectories; between probes interpolated."""
    gap_error: Float[Array, " levels"]
    """Its standard error over trajectories."""
    response: Float[Array, " levels"]
    """Predicted response on the ladder, largest value 1; zero everywhere where lambda is nowhere positive."""
    evaluations: Any
    """Denoiser evaluations spent on the trajectories."""
    jacobian_products: Any
    """Jacobian-vector products spent, each about two evaluations."""


def guidance_window(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    shape: tuple[int, int, int],
    sigmas: Float[ArrayLike, " levels"],
    *,
    num_samples: int = 8,
    num_probes: int | None = None,
    direction: Float[ArrayLike, "*image"] | None = None,
    num_resamples: int = 200,
    eta: Any = 0.0,
    solver: str = "heun",
    batch_size: int = 2,
) -> GuidanceWindow:
    r"""Recommend a window of noise levels for guidance from a denoiser's softening alone.

    .. math:: \lambda(\sigma) = \Big\langle \frac{v^T J v}{v^T v} \Big\rangle, \qquad
              J = \partial D/\partial x \text{ on the denoiser's own trajectories}

    .. math:: \chi_\lambda(\sigma) \propto \sigma \sqrt{\lambda(\sigma)}\,
              \exp\Big( (1+\eta) \int_\tau^{\tau_{end}} [\lambda(\tau') - 1]\, d\tau' \Big), \qquad \tau = -\ln \sigma

    A prediction, not a theorem, of what a push changes in the final v.x, per unit of weight and of tau. Derived: the
    exponential is what becomes of a push until the end (`linear_response`), if v is a left eigenvector of J with the
    same lambda on all trajectories. Bounded: the factor before it stands for the push. For a posterior mean, sigma^2 J
    is the posterior covariance (Tweedie, second order), to which the differences between classes contribute only one
    part. With unit v, and pi_c the posterior probability of class c,

    .. math:: \sum_c \pi_c\, [v \cdot (D_c - D_u)]^2 \le \sigma^2\, v^T J v

    at every x, with equality where the class fixes v.x0. Guessed: that the push of a class is a constant part of this
    bound. J of a network need be neither symmetric nor a covariance; the bound is then a guess, too, and only the
    symmetric part of J enters.

    The softest noise level is in general not where a push works best: a mode that is soft late is decided already, and
    little is left to push. No labels, no guided samples and no response enter. Exactly:

    1. lambda is averaged over trajectories level by level, without smoothing; where it is negative, it counts as zero
       under the root. The integral is trapezoidal in ln sigma.
    2. The centre is the vertex of the parabola in ln sigma through the largest level of chi_lambda and its neighbours.
    3. The window is the connected part of the ladder around it with chi_lambda at least three quarters of its largest
       level, interpolated linearly in ln sigma. To linear order, a constant weight there has about nine tenths of
       the response of a short pulse of equal budget at the centre, by a weaker push. A window that does not end
       on the ladder ends with it, and the status says so.
    4. Whole trajectories are resampled and steps 1 to 3 repeated, with the standard errors of the full sample.
    5. No window is given if lambda is nowhere positive, if the largest level is the first or the last, or if the
       bootstrap interval of the centre spans more than a factor 4 in sigma or reaches an end of the ladder. Edges are
       then NaN.

    Closed forms: Gaussian data of variance S have the centre at sigma^2 = S/(1+eta). There a class that shifts the mean
    a little responds most at twice that sigma^2; at the centre it has 92 (eta = 0) or 89 (eta = 1) per cent of its
    largest response. The linearised two-pattern model, lambda = P/sigma^2, has the centre at its critical noise
    sigma^2 = P for every eta.

    Parameters
    ----------
    denoise_fn : DenoiseFn
        Any callable ``(x, sigma) -> (H, W, C)`` with forward derivatives, such as the unconditional model.
    key, shape, sigmas, eta, solver
        As in `sample`; the ladder, at least three levels, bounds and resolves the window.
    num_samples : int
        Trajectories, at least 2.
    num_probes : int, optional
        Levels at which lambda is measured, at least 3, spread evenly over the ladder's indices with both ends; between
        them it is interpolated linearly in ln sigma. Default: every level. Four trajectories with twelve probes cost 48
        Jacobian-vector products.
    direction : float array (H, W, C), optional
        v, any norm: a class difference for example. Default: the uniform mode k = 0.
    num_resamples : int
        Bootstrap resamples, at least 2.
    batch_size : int
        Trajectories run together.

    Returns
    -------
    GuidanceWindow
        ``describe_window(window.sigma_low, window.sigma_high)`` tells it in timesteps.

    Raises
    ------
    ValueError
        On bad input of `sample`, a direction of wrong shape or zero, or too few samples or resamples.

    Notes
    -----
    num_samples times (2 num + 1 evaluations with Heun, num + 1 with Euler, and num_probes Jacobian-vector products).
    Memory: batch_size trajectories. Works under `jax.jit`. The softening of J along trajectories is that of the mean
    Jacobian, whose gap need not cross zero where the regression symbol's does. THEORY sections 5, 6 and 8.

    Example
    -------
    Gaussian data of variance 4:

    >>> denoise = gaussian_denoiser(jnp.zeros((4, 4, 1)), jnp.full((4, 4), 4.0))
    >>> window = guidance_window(denoise, jax.random.key(0), (4, 4, 1), geometric_sigmas(40.0, 0.05, 90))
    >>> print(f"{window.centre:.2f}, {window.sigma_low:.2f} to {window.sigma_high:.2f}; {window_status(window)}")
    2.00, 0.90 to 4.43; found
    """
    sigmas = as_sigmas("sigmas", sigmas, minimum=3)
    eta = check_eta(eta)
    check_option("solver", solver, SOLVERS)
    advice = "one trajectory has no standard error"
    num_samples = check_count("num_samples", num_samples, least=2, advice=advice)
    num_resamples = check_count("num_resamples", num_resamples, least=2, advice=advice)
    batch_size = check_count("batch_size", batch_size, least=1, advice="2 suits most memories")
    levels = sigmas.shape[0]
    if num_probes is not None:
        good = isinstance(num_probes, (int, np.integer)) and 3 <= num_probes <= levels
        expected = f"an integer of 3 ... {levels}, the levels of the ladder"
        check(good, "num_probes", expected, repr(num_probes), "leave it out for every level")
        num_probes = int(num_probes)
    if direction is not None:
        direction = as_argument(direction)
        _check_direction(direction, tuple(shape))
    window = _guidance_window(
        as_pytree("denoise_fn", denoise_fn),
        key,
        sigmas,
        direction,
        eta,
        tuple(shape),
        num_samples,
        num_probes or levels,
        num_resamples,
        solver,
        min(batch_size, num_samples),
        is_concrete(eta) and float(eta) == 0,
    )
    per_step = {"heun": 2, "euler": 1}[solver]
    products = num_samples * len(_probed(levels, num_probes or levels))
    return window._replace(
        evaluations=num_samples * (per_step * (levels - 1) + 1), jacobian_products=products
    )


def _probed(levels: int, num_probes: int) -> np.ndarray:
    """Return the indices of the levels at which lambda is measured."""
    return np.unique(np.round(np.linspace(0, levels - 1, num_probes)).astype(int))


@program(static_argnums=(5, 6, 7, 8, 9, 10, 11))
def _guidance_window(
    denoise_fn: Any,
    key: PRNGKey,
    sigmas: Array,
    direction: Any,
    eta: Any,
    shape: tuple[int, int, int],
    num_samples: int,
    num_probes: int,
    num_resamples: int,
    solver: str,
    batch_size: int,
    still: bool,
) -> GuidanceWindow:
    probed = _probed(sigmas.shape[0], num_probes)
    probe = jnp.ones(shape, sigmas.dtype) if direction is None else jnp.asarray(direction)
    sample_key, bootstrap_key = jax.random.split(key)
    keys = jax.random.split(sample_key, num_samples)

    def measure(key: PRNGKey) -> Array:
        path = sample(denoise_fn, key, shape, sigmas, eta=0.0 if still else eta, solver=solver)
        v = probe.astype(path.x.dtype)

        def softening(level: tuple[Array, Array]) -> Array:
            x, sigma = level
            product = jax.jvp(lambda y: denoise_fn(y, sigma), (x,), (v,))[1]
            return jnp.sum(v * product) / jnp.sum(v * v)

        return jax.lax.map(softening, (path.x[probed], path.sigma[probed]))

    measured = jax.lax.map(measure, keys, batch_size=batch_size)
    depth = -jnp.log(sigmas).astype(measured.dtype)
    softenings = jax.vmap(lambda values: jnp.interp(depth, depth[probed], values))(measured)
    return judge(softenings, sigmas, eta, bootstrap_key, num_resamples)


def _check_direction(direction: Any, shape: tuple[int, ...]) -> None:
    check_rank("direction", direction, "H W C")
    got = f"shape {direction.shape}"
    check(tuple(direction.shape) == shape, "direction", f"shape {shape}", got, "pass one image")
    check_finite("direction", direction)
    if is_concrete(direction):
        check(
            bool(np.any(np.asarray(direction) != 0)), "direction", "a nonzero image", "zeros", "leave it out"
        )


class _Place(NamedTuple):
    """Logarithms of centre and edges, what bounded them, and the predicted response."""

    low: Array
    high: Array
    centre: Array
    at_end: Array
    open: Array
    softest: Array
    response: Array


def _locate(softening: Array, log_sigma: Array, eta: Any) -> _Place:
    """Predict the response from one mean lambda, and find its centre and its edges."""
    num = softening.shape[0]
    index = jnp.arange(num)
    # The root needs lambda itself: rounding of a gap near one would pass for a small lambda.
    gap = 1 - softening
    steps = log_sigma[:-1] - log_sigma[1:]
    # Integral of the gap from the first level on; to the end it is a constant less, which is a common factor.
    decay = jnp.concatenate([jnp.zeros(1, gap.dtype), jnp.cumsum(steps * (gap[1:] + gap[:-1]) / 2)])
    rate = 1 + jnp.asarray(eta, gap.dtype)
    log_response = log_sigma + jnp.log(jnp.maximum(softening, 0)) / 2 + rate * decay
    largest = jnp.max(log_response)
    response = jnp.exp(log_response - jnp.where(largest == -jnp.inf, 0, largest))

    highest = jnp.argmax(response)
    vertex = interior_minimum(log_sigma, -response)[0]
    at_end = (highest == 0) | (highest == num - 1)
    outside = response < _KEPT
    # Last level outside towards high noise, first level outside towards low noise.
    upper = jnp.max(jnp.where(outside & (index < highest), index, -1))
    lower = jnp.min(jnp.where(outside & (index > highest), index, num))

    def edge(a: Array, b: Array) -> Array:
        """Interpolate between neighbouring levels a and b."""
        fraction = (_KEPT - response[a]) / (response[b] - response[a])
        return log_sigma[a] + fraction * (log_sigma[b] - log_sigma[a])

    top, bottom = jnp.maximum(upper, 0), jnp.minimum(lower, num - 1)
    high = jnp.where(upper < 0, log_sigma[0], edge(top, top + 1))
    low = jnp.where(lower == num, log_sigma[-1], edge(bottom - 1, bottom))
    centre = jnp.where(at_end, log_sigma[highest], vertex)
    softest = interior_minimum(log_sigma, -softening)[0]
    return _Place(low, high, centre, at_end, (upper < 0) | (lower == num), softest, response)


@program(static_argnums=4)
def judge(softenings: Array, sigmas: Array, eta: Any, key: PRNGKey, num_resamples: int) -> GuidanceWindow:
    """Turn lambda (num_samples, levels) of single trajectories into a window and its status; count no evaluations."""
    count = softenings.shape[0]
    log_sigma = jnp.log(sigmas).astype(softenings.dtype)
    mean = jnp.mean(softenings, axis=0)
    place = _locate(mean, log_sigma, eta)
    draws = jax.random.randint(key, (num_resamples, count), 0, count)
    others = jax.vmap(lambda draw: _locate(jnp.mean(softenings[draw], axis=0), log_sigma, eta))(draws)
    ends = jnp.percentile(others.centre, jnp.asarray(_INTERVAL), method="nearest")

    vague = (ends[1] - ends[0] > np.log(_WIDEST)) | (ends[0] <= log_sigma[-1]) | (ends[1] >= log_sigma[0])
    finite = jnp.all(jnp.isfinite(softenings))
    status = jnp.where(place.open, int(WindowStatus.OPEN), int(WindowStatus.FOUND))
    status = jnp.where(vague, int(WindowStatus.INDISTINCT), status)
    status = jnp.where(place.at_end, int(WindowStatus.AT_END), status)
    status = jnp.where(jnp.any(mean > 0), status, int(WindowStatus.INDISTINCT))  # nothing responds at all
    status = jnp.where(finite, status, int(WindowStatus.NON_FINITE))
    told = status <= int(WindowStatus.OPEN)

    def shown(value: Array) -> Array:
        return jnp.where(told, value, jnp.nan)

    def spread(values: Array) -> Array:
        return shown(jnp.std(jnp.exp(values), ddof=1))

    return GuidanceWindow(
        sigma_low=shown(jnp.exp(place.low)),
        sigma_high=shown(jnp.exp(place.high)),
        centre=shown(jnp.exp(place.centre)),
        sigma_low_error=spread(others.low),
        sigma_high_error=spread(others.high),
        centre_error=spread(others.centre),
        centre_interval=jnp.exp(ends),
        status=status,
        softest=jnp.exp(place.softest),
        softest_error=jnp.nanstd(jnp.exp(others.softest), ddof=1),
        sigma=sigmas,
        gap=1 - mean,
        gap_error=jnp.std(softenings, axis=0, ddof=1) / np.sqrt(count),
        response=place.response,
        evaluations=0,
        jacobian_products=0,
    )


def window_status(window: GuidanceWindow) -> str:
    """Name the status of a recommended window in words.

    Parameters
    ----------
    window : GuidanceWindow
        Concrete result of one `guidance_window`, outside ``jit`` and not batched.

    Returns
    -------
    str
        The message of its `WindowStatus`.

    Raises
    ------
    ValueError
        For a traced or batched window.

    Example
    -------
    >>> denoise = gaussian_denoiser(jnp.zeros((4, 4, 1)), jnp.ones((4, 4)))
    >>> window_status(guidance_window(denoise, jax.random.key(0), (4, 4, 1), geometric_sigmas(0.9, 0.1, 9)))
    'largest at an end of the ladder'
    """
    concrete = is_concrete(window.status)
    check(concrete, "window", "a concrete result", "a traced one", "call window_status outside jit")
    shape = tuple(np.shape(window.status))
    check(shape == (), "window", "one window", f"a batch of shape {shape}", "index the batch first")
    return WindowStatus(int(window.status)).message
