"""A recommended guidance window: where a denoiser's own trajectories are softest."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, check_finite, check_rank, check_sigmas, is_concrete
from critjax._typing import Array, ArrayLike, DenoiseFn, Float, Int, PRNGKey
from critjax.observables import first_crossing, interior_minimum
from critjax.sampling import sample

FOUND, OPEN, AT_END, INDISTINCT, NON_FINITE = range(5)
WINDOW_STATUS = {
    FOUND: "found",
    OPEN: "found, but the window runs into an end of the ladder",
    AT_END: "softest at an end of the ladder",
    INDISTINCT: "not distinguishable from noise",
    NON_FINITE: "not finite",
}
"""Meaning of `GuidanceWindow.status`."""

_SIGNIFICANT = 3.0  # standard errors
_WIDEST = 4.0  # factor in sigma that the bootstrap interval of a centre may span
_INTERVAL = (2.5, 97.5)  # per cent


class GuidanceWindow(NamedTuple):
    """Result of `guidance_window`; edges, centre and their errors are NaN unless the status says found."""

    sigma_low: Float[Array, ""]
    """Lower edge, a standard deviation of noise; the arguments of `pulse` and `describe_window`."""
    sigma_high: Float[Array, ""]
    """Upper edge."""
    centre: Float[Array, ""]
    """Noise level at which the gap is smallest or, if lambda passes one, first passes zero."""
    sigma_low_error: Float[Array, ""]
    """Standard error over trajectories, by bootstrap; likewise for the next two."""
    sigma_high_error: Float[Array, ""]
    centre_error: Float[Array, ""]
    centre_interval: Float[Array, " 2"]
    """Central 95 per cent of the bootstrap centres, also where no window was found."""
    status: Int[Array, ""]
    """Code, see `WINDOW_STATUS` and `window_status`."""
    crosses: Any
    """Boolean: the gap falls significantly below zero, and the centre is its crossing."""
    sigma: Float[Array, " levels"]
    """The ladder."""
    gap: Float[Array, " levels"]
    """1 - lambda on the ladder, mean over trajectories."""
    gap_error: Float[Array, " levels"]
    """Its standard error over trajectories."""
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
    direction: Float[ArrayLike, "*image"] | None = None,
    num_resamples: int = 200,
    eta: Any = 0.0,
    solver: str = "heun",
    batch_size: int = 2,
) -> GuidanceWindow:
    r"""Recommend a window of noise levels for guidance from a denoiser's softening alone.

    .. math:: \lambda(\sigma) = \Big\langle \frac{v^T J v}{v^T v} \Big\rangle, \qquad
              J = \partial D/\partial x \text{ on the denoiser's own trajectories}, \qquad g = 1 - \lambda

    The quasi-static response of a mode to a small push is proportional to 1/g, so that the centre of the window is
    where g is smallest. If lambda passes one, the response to a push at tau, proportional to
    exp(int_tau (1+eta)(lambda - 1)), is largest where g first falls through zero, and that is the centre. No labels,
    no guided samples and no response enter. Exactly:

    1. lambda is averaged over trajectories level by level, without smoothing.
    2. *Minimum.* The centre is the vertex of the parabola in ln sigma through the lowest level and its neighbours; g_c
       is its value. The window is the connected part of the ladder around it with g <= (1 + g_c)/2, halfway between
       the minimum and the value 1 without softening.
    3. *Crossing.* If g lies more than 3 standard errors below zero somewhere, the centre is the zero of g on the way
       from high noise to the first such level (the last one before it), and g_c = 0. The window is the connected part
       around it with ``|g| <= 1/2``, the same rule with the response 1/``|g|`` on both sides.
    4. Edges are interpolated linearly in ln sigma. A window that does not end on the ladder ends with it, and the
       status says so.
    5. Whole trajectories are resampled and steps 1 to 4 repeated, with the standard errors of the full sample.
    6. No window is given if the lowest level is the first or the last, or the ladder starts with g below zero
       significantly; if the bootstrap interval of the centre spans more than a factor 4 in sigma; or if the dip, the
       smaller of the rises from the lowest level to the highest on either side, is below 3 of its standard errors
       (those of the two levels, in quadrature). Edges are then NaN. The root of machine epsilon, rounding, is never
       significant.

    Parameters
    ----------
    denoise_fn : DenoiseFn
        Any callable ``(x, sigma) -> (H, W, C)`` with forward derivatives, such as the unconditional model.
    key, shape, sigmas, eta, solver
        As in `sample`; the ladder, at least three levels, bounds and resolves the window.
    num_samples : int
        Trajectories, at least 2.
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
    num_samples times (2 num + 1 evaluations with Heun, num + 1 with Euler, and num + 1 Jacobian-vector products).
    Memory: batch_size trajectories. Works under `jax.jit`. The softening of J along trajectories is that of the mean
    Jacobian, whose gap need not cross zero where the regression symbol's does. THEORY sections 5, 6 and 8.

    Example
    -------
    A denoiser with a prescribed softening, lambda = 0.8 at sigma = 1:

    >>> denoise = lambda x, sigma: 0.8 * jnp.exp(-jnp.log(sigma) ** 2) * x
    >>> window = guidance_window(denoise, jax.random.key(0), (4, 4, 1), geometric_sigmas(20.0, 0.05, 60))
    >>> print(f"{window.centre:.2f}, {window.sigma_low:.2f} to {window.sigma_high:.2f}; {window_status(window)}")
    1.00, 0.43 to 2.30; found
    """
    sigmas = jnp.asarray(sigmas)
    check_sigmas("sigmas", sigmas, minimum=3)
    for name, value, low in (
        ("num_samples", num_samples, 2),
        ("num_resamples", num_resamples, 2),
        ("batch_size", batch_size, 1),
    ):
        good = isinstance(value, (int, np.integer)) and value >= low
        check(good, name, f"an integer >= {low}", repr(value), "one trajectory has no standard error")
    probe = jnp.ones(tuple(shape), sigmas.dtype) if direction is None else jnp.asarray(direction)
    _check_direction(probe, tuple(shape))
    sample_key, bootstrap_key = jax.random.split(key)
    keys = jax.random.split(sample_key, num_samples)

    def measure(key: PRNGKey) -> Array:
        path = sample(denoise_fn, key, shape, sigmas, eta=eta, solver=solver)
        v = probe.astype(path.x.dtype)

        def gap(level: tuple[Array, Array]) -> Array:
            x, sigma = level
            product = jax.jvp(lambda y: denoise_fn(y, sigma), (x,), (v,))[1]
            return 1 - jnp.sum(v * product) / jnp.sum(v * v)

        return jax.lax.map(gap, (path.x, path.sigma))

    gaps = jax.lax.map(measure, keys, batch_size=min(batch_size, num_samples))
    per_step = {"heun": 2, "euler": 1}[solver]
    steps = sigmas.shape[0] - 1
    evaluations = num_samples * (per_step * steps + 1)
    return _judge(gaps, sigmas, bootstrap_key, num_resamples, evaluations)


def _check_direction(direction: Array, shape: tuple[int, ...]) -> None:
    check_rank("direction", direction, "H W C")
    got = f"shape {direction.shape}"
    check(direction.shape == shape, "direction", f"shape {shape}", got, "pass one image")
    check_finite("direction", direction)
    if is_concrete(direction):
        check(bool(jnp.any(direction != 0)), "direction", "a nonzero image", "zeros", "leave it out")


class _Place(NamedTuple):
    """Logarithms of centre and edges, and what bounded them."""

    low: Array
    high: Array
    centre: Array
    crosses: Array
    at_end: Array
    open: Array


def _locate(gap: Array, log_sigma: Array, unstable: Array) -> _Place:
    """Find centre and edges of one mean gap; ``unstable`` marks the levels that count as below zero."""
    crosses = jnp.any(unstable)
    num = gap.shape[0]
    index = jnp.arange(num)
    first_unstable = jnp.argmax(unstable)
    before = (index < first_unstable) & (gap > 0)
    above = jnp.max(jnp.where(before, index, -1))  # the last level above zero before the first unstable one
    lowest = jnp.argmin(gap)

    # The two levels around the crossing, from high to low noise.
    pair = jnp.clip(above, 0, num - 2) + jnp.arange(2)
    zero = first_crossing(log_sigma[pair], gap[pair], 0.0)
    vertex, depth = interior_minimum(log_sigma, gap)

    at_end = jnp.where(crosses, above < 0, (lowest == 0) | (lowest == num - 1))
    centre = jnp.where(crosses, zero, vertex)
    centre = jnp.where(at_end, log_sigma[jnp.where(crosses, 0, lowest)], centre)
    level = jnp.where(crosses, 0.5, (1 + depth) / 2)
    outside = (gap > level) | (crosses & (gap < -level))
    left, right = jnp.where(crosses, above, lowest), jnp.where(crosses, above + 1, lowest)
    # Last level outside towards high noise, first level outside towards low noise.
    upper = jnp.max(jnp.where(outside & (index <= left), index, -1))
    lower = jnp.min(jnp.where(outside & (index >= right), index, num))

    def edge(a: Array, b: Array, value: Array) -> Array:
        """Interpolate between neighbouring levels a and b."""
        fraction = (value - gap[a]) / (gap[b] - gap[a])
        return log_sigma[a] + fraction * (log_sigma[b] - log_sigma[a])

    top, bottom = jnp.maximum(upper, 0), jnp.minimum(lower, num - 1)
    high = jnp.where(upper < 0, log_sigma[0], edge(top, top + 1, level))
    sign = jnp.where(gap[bottom] > 0, 1, -1)
    low = jnp.where(lower == num, log_sigma[-1], edge(bottom - 1, bottom, sign * level))
    return _Place(low, high, centre, crosses, at_end, (upper < 0) | (lower == num))


def _judge(gaps: Array, sigmas: Array, key: PRNGKey, num_resamples: int, evaluations: int) -> GuidanceWindow:
    """Turn the gaps (num_samples, levels) of single trajectories into a window and its status."""
    count, num = gaps.shape
    log_sigma = jnp.log(sigmas).astype(gaps.dtype)
    mean = jnp.mean(gaps, axis=0)
    error = jnp.std(gaps, axis=0, ddof=1) / np.sqrt(count)

    def least(noise: Array) -> Array:
        """Return what is significant: rounding is not, where trajectories agree to the last digit."""
        return jnp.maximum(_SIGNIFICANT * noise, float(jnp.finfo(mean.dtype).eps) ** 0.5)

    def locate(gap: Array) -> _Place:
        return _locate(gap, log_sigma, gap < -least(error))

    place = locate(mean)
    draws = jax.random.randint(key, (num_resamples, count), 0, count)
    others = jax.vmap(lambda draw: locate(jnp.mean(gaps[draw], axis=0)))(draws)
    interval = jnp.exp(jnp.percentile(others.centre, jnp.asarray(_INTERVAL), method="nearest"))

    lowest = jnp.argmin(mean)
    index = jnp.arange(num)

    def rises(side: Array) -> Array:
        """Tell whether the gap rises significantly from its lowest level to its highest on one side."""
        highest = jnp.argmax(jnp.where(side, mean, -jnp.inf))
        return mean[highest] - mean[lowest] > least(jnp.hypot(error[lowest], error[highest]))

    dips = rises(index < lowest) & rises(index > lowest)
    vague = (interval[1] > _WIDEST * interval[0]) | ~(place.crosses | dips)
    finite = jnp.all(jnp.isfinite(gaps))
    status = jnp.where(vague, INDISTINCT, jnp.where(place.open, OPEN, FOUND))
    status = jnp.where(place.at_end, AT_END, status)
    status = jnp.where(finite, status, NON_FINITE)
    told = status <= OPEN

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
        centre_interval=interval,
        status=status,
        crosses=place.crosses,
        sigma=sigmas,
        gap=mean,
        gap_error=error,
        evaluations=evaluations,
        jacobian_products=gaps.size,
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
        One of the values of `WINDOW_STATUS`.

    Raises
    ------
    ValueError
        For a traced or batched window.

    Example
    -------
    >>> denoise = gaussian_denoiser(jnp.zeros((4, 4, 1)), jnp.ones((4, 4)))  # its gap falls for ever
    >>> window_status(guidance_window(denoise, jax.random.key(0), (4, 4, 1), geometric_sigmas(9.0, 0.1, 9)))
    'softest at an end of the ladder'
    """
    concrete = is_concrete(window.status)
    check(concrete, "window", "a concrete result", "a traced one", "call window_status outside jit")
    shape = tuple(np.shape(window.status))
    check(shape == (), "window", "one window", f"a batch of shape {shape}", "index the batch first")
    return WINDOW_STATUS[int(window.status)]
