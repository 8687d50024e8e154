r"""Generation: probability flow, reverse SDE and annealed Langevin dynamics along a ladder of noise levels.

In log-noise time tau = -ln sigma (variance-exploding frame) every sampler integrates

.. math:: dx = (1+\eta)(D - x)\,d\tau + \sqrt{2\eta}\,\sigma\,dW_\tau

and may add Langevin corrector steps at fixed noise (THEORY section 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from critjax._checks import (
    as_scalar,
    as_sigmas,
    check,
    check_count,
    check_eta,
    check_finite,
    check_floating,
    check_option,
    check_rank,
    is_concrete,
    on_host,
)
from critjax._programs import as_pytree, program
from critjax._typing import Array, ArrayLike, DenoiseFn, PRNGKey


class Trajectory(NamedTuple):
    """Saved states of one generated image.

    Attributes
    ----------
    sigma : (S,) noise levels of the saved states, the first and the last level always among them.
    x : (S, H, W, C) noisy images at those levels.
    denoised : (S, H, W, C) denoiser's output D(x, sigma) there.
    """

    sigma: Array
    x: Array
    denoised: Array


def saved_levels(num_steps: int, save_every: int) -> list[int]:
    """List the indices of the levels that `sample` saves: every ``save_every``-th, and the last.

    Example
    -------
    >>> saved_levels(7, 3)
    [0, 3, 6, 7]
    """
    levels = list(range(0, num_steps + 1, save_every))
    return levels if levels[-1] == num_steps else [*levels, num_steps]


def scan_saved(advance: Callable, start: Any, num_steps: int, save_every: int) -> tuple[Any, Any]:
    """Repeat ``advance(state, index) -> (state, output)``; keep state and output at the start of some steps.

    Returns ``(states, outputs)`` at the levels of `saved_levels` but the last, stacked, and the final state. Reverse
    mode stores the saved states and those of one block of ``save_every`` steps at a time, and recomputes the rest.
    """

    def block(state: Any, indices: Array) -> tuple[Any, Any]:
        empty = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(advance, state, indices[0])[1]
        )

        def inner(carry: tuple[Any, Any], index: Array) -> tuple[tuple[Any, Any], None]:
            state, kept = carry
            state, output = jax.checkpoint(advance)(state, index)
            # Only the first output of a block is wanted: stacking all of them would cost memory for every step.
            kept = jax.tree.map(lambda new, old: jnp.where(index == indices[0], new, old), output, kept)
            return (state, kept), None

        (end, output), _ = lax.scan(inner, (state, empty), indices)
        return end, (state, output)

    if save_every > 1:
        block = jax.checkpoint(block)  # else every step of every block would leave its state for reverse mode
    whole = num_steps // save_every
    indices = jnp.arange(num_steps)
    state, saved = lax.scan(block, start, indices[: whole * save_every].reshape(whole, save_every))
    if whole * save_every < num_steps:
        state, last = block(state, indices[whole * save_every :])
        saved = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), saved, last)
    return saved, state


def initial_state(key: PRNGKey, shape: tuple[int, int, int], sigma: Any) -> Array:
    """Draw the white noise (H, W, C) of standard deviation ``sigma`` that `sample` starts a key from.

    Example
    -------
    >>> initial_state(jax.random.key(0), (4, 4, 1), np.float32(2.0)).shape
    (4, 4, 1)
    """
    return _initial_state(key, sigma, shape=tuple(int(n) for n in shape))


@program(static_argnames="shape")
def _initial_state(key: PRNGKey, sigma: Array, *, shape: tuple[int, int, int]) -> Array:
    return _start(jax.random.split(key)[0], sigma, shape)


def _start(key: PRNGKey, sigma: Array, shape: tuple[int, ...]) -> Array:
    return sigma * jax.random.normal(key, shape, sigma.dtype)


def langevin_step(
    denoise_fn: DenoiseFn, key: PRNGKey, x: ArrayLike, sigma: Any, step_size: Any = 0.1
) -> Array:
    r"""Take one step of Langevin dynamics at fixed noise, ``x <- x + e (D - x) + sqrt(2 e) sigma z``.

    Parameters
    ----------
    denoise_fn : DenoiseFn
        ``(x, sigma ()) -> array like x``.
    key : PRNG key
        Source of z, standard normal.
    x : array
        Noisy image (H, W, C), or whatever else ``denoise_fn`` takes, such as a batch for a vmapped one.
    sigma : scalar
        Noise level.
    step_size : scalar
        e in (0, 2/gap), dimensionless.

    Returns
    -------
    array
        The new state, shaped like ``x``.

    Notes
    -----
    The corrector of `sample`; n steps per unit of tau = -ln sigma on a ladder that goes down are annealed Langevin
    dynamics. A linear mode with gap g becomes stationary at S = sigma^2/(g (1 - e g/2)). THEORY section 1.

    Example
    -------
    >>> langevin_step(lambda x, sigma: 0 * x, jax.random.key(0), np.ones((2, 2, 1)), 0.0, 0.25)[0, 0, 0].item()
    0.75
    """
    check_floating("x", x)
    step_size, sigma = (on_host(value, x.dtype) for value in (step_size, sigma))
    return _langevin_step(as_pytree("denoise_fn", denoise_fn), key, x, sigma, step_size)


@program
def _langevin_step(denoise_fn: DenoiseFn, key: PRNGKey, x: Array, sigma: Array, step_size: Array) -> Array:
    amplitude = jnp.sqrt(2 * step_size) * sigma
    return x + step_size * (denoise_fn(x, sigma) - x) + amplitude * jax.random.normal(key, x.shape, x.dtype)


def _first_step(value: Any, num_levels: int, given: bool) -> int:
    """Check the step to begin with."""
    number = np.asarray(value)
    good = number.ndim == 0 and number.dtype.kind in "iu" and 0 <= int(number) < num_levels
    expected = f"an integer from 0 to {num_levels - 1}"
    check(good, "first_step", expected, repr(value), "0 is the whole run")
    check(
        given or int(number) == 0, "first_step", "0 without x_init", repr(value), "pass the state as x_init"
    )
    return int(number)


def sample(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    shape: tuple[int, int, int],
    sigmas: Any,
    *,
    eta: Any = 0.0,
    solver: str = "heun",
    langevin_steps: int = 0,
    step_size: Any = 0.1,
    x_init: ArrayLike | None = None,
    first_step: Any = 0,
    save_every: int = 1,
) -> Trajectory:
    r"""Generate one image; batch with `jax.vmap` over keys.

    An Euler step from sigma to sigma' has the length ``h = 1 - sigma'/sigma``,

    .. math:: x' = x + (1+\eta)\,h\,(D - x) + \sqrt{\eta(\sigma^2 - \sigma'^2)}\; z,

    the noise having the variance of the integral of :math:`2\eta\sigma^2 d\tau`. Heun averages the drift
    ``(1+eta)(D - x)/sigma`` over both ends of the step, with the same single increment z added to predictor and
    result (additive noise). For eta = 0 these are the Euler and Heun steps of dx/dsigma = (x - D)/sigma.
    After each step ``langevin_steps`` corrections at the new level,
    ``x <- x + e (D - x) + sqrt(2 e) sigma' z``, e the dimensionless ``step_size``.

    Parameters
    ----------
    denoise_fn : DenoiseFn
        ``(x (H, W, C), sigma ()) -> (H, W, C)``.
    key : PRNG key
        Source of the initial and of all later noise; draws of one key never depend on a batch.
    shape : (H, W, C)
        Shape of the image.
    sigmas : (num + 1,) array
        Strictly decreasing noise levels, e.g. of `geometric_sigmas`.
    eta : float
        Stochasticity >= 0: 0 is the probability-flow ODE, 1 the reverse SDE.
    solver : "heun" or "euler"
        Two or one denoiser evaluations a step.
    langevin_steps : int
        Corrector steps at every level after the first.
    step_size : float
        Of the corrector, e in (0, 2/gap); a linear mode with gap g = 1 - Dhat has stationary
        S = sigma^2/(g (1 - e g/2)).
    x_init : (H, W, C) array, optional
        Noisy image at ``sigmas[first_step]``; default ``sigmas[0]`` times white noise.
    first_step : int
        Step to begin with, to go on from a saved state with the noise of the whole run; may be traced. Levels before
        it are skipped: there ``x`` is ``x_init`` and ``denoised`` is NaN.
    save_every : int
        Save every so many steps (first and last level always).

    Returns
    -------
    Trajectory
        States, denoised images and levels; differentiable end to end.

    Raises
    ------
    ValueError
        On noise levels that are not positive and decreasing, negative eta, an unknown solver, wrong shapes, a step
        that is none, or (outside tracing) a noisy image that is not finite.
    TypeError
        If ``x_init`` is no real floating-point array.

    Notes
    -----
    Memory: the saved states only. One `lax.scan`; reverse mode stores the saved states and those of the ``save_every``
    steps between two of them, least for ``save_every`` near the square root of the number of steps, and recomputes the
    rest. Source: Karras et al. 2022, arXiv:2206.00364; THEORY section 1.

    Example
    -------
    >>> from critjax import geometric_sigmas, patch_denoiser, two_pattern_bank
    >>> denoise = patch_denoiser(two_pattern_bank(3))
    >>> sample(denoise, jax.random.key(0), (8, 8, 1), geometric_sigmas(6.0, 0.1, 20), save_every=5).x.shape
    (5, 8, 8, 1)
    """
    sigmas = as_sigmas("sigmas", sigmas, minimum=2)
    check_eta(eta)
    check_option("solver", solver, ("heun", "euler"))
    langevin_steps = check_count("langevin_steps", langevin_steps, advice="0 switches the corrector off")
    step_size = as_scalar(
        "step_size", step_size, "a number in (0, 2)", "larger steps are unstable", good=lambda e: 0 < e < 2
    )
    save_every = check_count("save_every", save_every, least=1, advice="use 1")
    check(len(tuple(shape)) == 3, "shape", "three sizes (H, W, C)", repr(shape), "pass e.g. (64, 64, 1)")
    if x_init is not None:
        check_floating("x_init", x_init)
        check_finite("x_init", x_init)
        check_rank("x_init", x_init, "H W C")
        got = tuple(x_init.shape)
        check(got == tuple(shape), "x_init", f"shape {tuple(shape)}", f"shape {got}", "pass matching shapes")
    whole = is_concrete(first_step) and _first_step(first_step, sigmas.shape[0], x_init is not None) == 0
    noisy = not is_concrete(eta) or float(eta) > 0
    dtype = sigmas.dtype if x_init is None else x_init.dtype
    return _sample(
        as_pytree("denoise_fn", denoise_fn),
        key,
        sigmas,
        on_host(eta, dtype),
        on_host(step_size, dtype),
        x_init,
        0 if whole else on_host(first_step, int),
        shape=tuple(int(n) for n in shape),
        solver=solver,
        langevin_steps=langevin_steps,
        save_every=save_every,
        noisy=noisy,
        whole=whole,
    )


@program(static_argnames=("shape", "solver", "langevin_steps", "save_every", "noisy", "whole"))
def _sample(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    sigmas: Array,
    eta: Array,
    step_size: Array,
    x_init: Array | None,
    first_step: Any,
    *,
    shape: tuple[int, int, int],
    solver: str,
    langevin_steps: int,
    save_every: int,
    noisy: bool,
    whole: bool,
) -> Trajectory:
    sigmas = sigmas.astype(eta.dtype)
    start_key, noise_key = jax.random.split(key)
    if x_init is None:
        x_init = _start(start_key, sigmas[0], shape)
    num_steps, num_stages = sigmas.shape[0] - 1, 2 if solver == "heun" else 1

    def advance(x: Array, index: Array) -> tuple[Array, Array]:
        step_key, corrector_key = jax.random.split(jax.random.fold_in(noise_key, index))
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        width = sigma - sigma_next
        kick = jnp.zeros((), x.dtype)
        if noisy:
            kick = jnp.sqrt(eta * width * (sigma + sigma_next)) * jax.random.normal(
                step_key, x.shape, x.dtype
            )

        def stage(carry: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], Array]:
            point, total = carry
            level = sigmas[index + number]
            denoised = denoise_fn(point, level)
            # (1 + eta) * (D - x)/sigma is the drift per unit of decreasing sigma.
            total = total + (1 + eta) * (denoised - point) / level
            return (x + width * total / (number + 1) + kick, total), denoised

        # A loop, so that the model is compiled once.
        (x_next, _), denoised = lax.scan(stage, (x, jnp.zeros_like(x)), jnp.arange(num_stages))
        if langevin_steps:

            def correct(x: Array, number: Array) -> tuple[Array, None]:
                key = jax.random.fold_in(corrector_key, number)
                return langevin_step(denoise_fn, key, x, sigma_next, step_size), None

            x_next, _ = lax.scan(correct, x_next, jnp.arange(langevin_steps))
        return x_next, denoised[0]

    def advance_from(x: Array, index: Array) -> tuple[Array, Array]:
        return lax.cond(index < first_step, lambda: (x, jnp.full_like(x, jnp.nan)), lambda: advance(x, index))

    (states, denoised), x = scan_saved(advance if whole else advance_from, x_init, num_steps, save_every)
    last = denoise_fn(x, sigmas[-1])
    return Trajectory(
        sigmas[np.asarray(saved_levels(num_steps, save_every))],
        jnp.concatenate([states, x[None]]),
        jnp.concatenate([denoised, last[None]]),
    )
