r"""Reduced dynamics of slow fields: a pseudo-spectral solver for the Ginzburg-Landau equation along a noise ladder.

One real field psi per image, ``x = m(sigma) + psi e``. Modes up to half the Nyquist wavenumber per axis are kept, so
that quadratic and cubic products computed on the grid are free of aliasing in every mode kept (the 1/2 rule); slow
fields live below pi/p, well inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_sigmas, check, check_count, check_rank, is_concrete
from critjax._programs import program
from critjax._typing import Array, ArrayLike, Float, PRNGKey
from critjax.fourier import wavevectors
from critjax.landau._model import Bank, ReducedModel, reduced_model
from critjax.landau._renormalised import squared
from critjax.sampling import Trajectory, saved_levels, scan_saved
from critjax.spectra._inputs import as_eta


def kept_modes(grid: Sequence[int]) -> np.ndarray:
    """Mark the modes (H, W), FFT order, below half the Nyquist wavenumber along both axes."""
    marks = [np.abs(np.fft.fftfreq(n)) < 0.25 for n in grid]
    return marks[0][:, None] & marks[1][None, :]


def low_pass(field: ArrayLike, cutoff: Any) -> Array:
    """Keep the slow modes of a field, those that the solver can carry.

    Parameters
    ----------
    field : real array (H, W)
    cutoff : scalar
        Modes with ``|k| <= cutoff`` rad per pixel stay, if they are in `kept_modes`.

    Returns
    -------
    real array (H, W)

    Example
    -------
    >>> stripes = jnp.cos(jnp.pi * jnp.arange(8) / 4) + jnp.zeros((8, 1))  # |k| = pi/4
    >>> [round(float(np.max(np.abs(low_pass(stripes, cutoff)))), 3) for cutoff in (1.0, 0.5)]
    [1.0, 0.0]
    """
    check_rank("field", field, "H W")
    return _low_pass(field, squared(cutoff))


@program
def _low_pass(field: Array, squared_cutoff: Any) -> Array:
    k = wavevectors(field.shape, dtype=field.dtype)
    keep = (jnp.sum(k**2, axis=-1) <= squared_cutoff) & kept_modes(field.shape)
    return jnp.fft.ifft2(jnp.where(keep, jnp.fft.fft2(field), 0)).real


def _phi(z: Array) -> tuple[Array, Array]:
    """Return ``(e^z - 1)/z`` and ``(e^z - 1 - z)/z^2``, by their series near zero."""
    small = jnp.abs(z) < 0.5
    safe = jnp.where(small, 1, z)
    series = jnp.zeros_like(z)
    for n in range(14, 1, -1):
        series = 1 / n * (1 + series * z) if n > 2 else 0.5 * (1 + series * z)
    second = jnp.where(small, series, (jnp.exp(safe) - 1 - safe) / safe**2)
    return 1 + z * second, second


def half_plane(modes: Any) -> Any:
    """Keep the columns (..., W//2 + 1) of a spectrum (..., H, W) that determine a real field."""
    return modes[..., : modes.shape[-1] // 2 + 1]


def _local(psi: Array, h: Any, u: Any) -> Array:
    """Transform of ``h psi^2 - u psi^3`` in the kept modes, half plane."""
    return jnp.where(half_plane(kept_modes(psi.shape)), jnp.fft.rfft2(h * psi**2 - u * psi**3), 0)


def exponential_step(
    psi_hat: Array, grid: tuple[int, ...], span: Any, rate: Array, ends: Any, strength: Any, kick: Any = 0.0
) -> Array:
    r"""Advance a real field, given by its half plane of modes, by one second-order exponential Runge-Kutta step.

    ``d psi_k/dtau = rate_k psi_k + strength (h psi^2 - u psi^3)_k`` over ``span``, with (h, u) given at both ``ends``
    (Cox & Matthews 2002, J. Comput. Phys. 176, 430, ETD2RK). The noise of the step, ``kick``, enters predictor and
    result alike: second order in the weak sense.
    """
    growth = jnp.exp(span * rate)
    first, second = _phi(span * rate)
    (h, u), (h_next, u_next) = ends
    before = strength * _local(jnp.fft.irfft2(psi_hat, grid), h, u)
    guess = growth * psi_hat + span * first * before + kick
    after = strength * _local(jnp.fft.irfft2(guess, grid), h_next, u_next)
    return guess + span * second * (after - before)


def stable_substeps(model: ReducedModel, *, eta: Any = 0.0, limit: int = 20_000) -> np.ndarray:
    """Count the substeps that keep the cubic term of a concrete model stable and accurate.

    On its plateau ``psi^2 = -r/u`` the explicit cubic term has the rate 3 |r|. The field lags behind its plateau,
    which shrinks as u grows, so that four times this rate is resolved: a choice from experience, as is that no step is
    longer than 1/16 of an e-fold.

    Parameters
    ----------
    model : ReducedModel
        Outside of any trace.
    eta : scalar >= 0
    limit : int
        Substeps that a run may take in all.

    Returns
    -------
    (num - 1,) integer array
        Substeps of every step of the ladder; 0, where `integrate` gives up with NaN, once the limit is passed.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> model = reduced_model(two_pattern_bank(3), jnp.array([6.0, 3.0, 2.0]), (16, 16))
    >>> stable_substeps(model).tolist()
    [12, 13]
    """
    spans = -np.diff(np.log(np.asarray(model.sigma, np.float64)))
    growth = np.maximum(-np.asarray(model.coefficients.r, np.float64), 0)[1:]
    counts = np.maximum(1, np.ceil((1 + float(eta)) * spans * (16 + 12 * growth))).astype(int)
    return np.where(np.cumsum(counts) <= limit, counts, 0)


def integrate(
    model: ReducedModel,
    key: PRNGKey,
    x_init: Float[ArrayLike, "H W C"],
    *,
    eta: Any = 0.0,
    cutoff: float,
    num_substeps: Any = 1,
    save_every: int = 1,
) -> Trajectory:
    """Run the reduced dynamics of `reduced_model` or `renormalised_model` from a noisy image.

    Parameters
    ----------
    model : ReducedModel
    key : PRNG key
        Of the noise at eta > 0: that of step n is the noise that `sample` adds in its step n for the same key.
    x_init : (H, W, C) array
        Noisy image at the first level.
    eta : scalar >= 0
    cutoff : float
        Modes of the start, and of the noise, with ``|k| <= cutoff`` rad per pixel.
    num_substeps : int or (num - 1,) integer array
        Divisions of every step, see `stable_substeps`. In between the symbol and the coefficients without their powers
        of sigma are interpolated, and the noise is drawn to add up to that of the whole step. An undivided step takes
        the mean of the symbols at its ends. Integers (num - 1,) may be traced; they are then taken as they are, and
        steps that are all undivided are interpolated, too.
    save_every : int
        Save every so many steps.

    Returns
    -------
    Trajectory
        As of `landau_sample`.

    Raises
    ------
    ValueError
        On wrong shapes, negative eta or illegal numbers of substeps.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> model = reduced_model(two_pattern_bank(3), jnp.array([6.0, 4.0]), (16, 16))
    >>> run = integrate(model, jax.random.key(0), jnp.ones((16, 16, 1)), cutoff=1.0)
    >>> bool(run.x[-1].mean() < 1)  # above the critical noise 3 the uniform mode decays
    True
    """
    check_rank("x_init", x_init, "H W C")
    eta = as_eta(eta)
    counts = num_substeps
    if is_concrete(num_substeps):
        counts = np.broadcast_to(np.asarray(num_substeps), (model.sigma.shape[0] - 1,))
        least = 1 if np.ndim(num_substeps) == 0 else 0
        good = np.issubdtype(counts.dtype, np.integer) and bool(np.all(counts >= least))
        expected = "an integer >= 1, or one >= 0 a step"
        check(good, "num_substeps", expected, repr(num_substeps), "use stable_substeps")
        counts = None if np.all(counts == 1) else counts
    return _integrate(
        model,
        key,
        x_init,
        eta,
        squared(cutoff),
        counts,
        noisy=not is_concrete(eta) or eta > 0,
        save_every=check_count("save_every", save_every, least=1, advice="1 saves every step"),
    )


@program(static_argnames=("noisy", "save_every"))
def _integrate(
    model: ReducedModel,
    key: PRNGKey,
    x_init: Array,
    eta: Any,
    squared_cutoff: Any,
    counts: Array | None,
    *,
    noisy: bool,
    save_every: int,
) -> Trajectory:
    grid, num_steps = x_init.shape[:2], model.sigma.shape[0] - 1
    k = wavevectors(grid, dtype=x_init.dtype)
    kept = half_plane(kept_modes(grid))
    slow = half_plane(jnp.sum(k**2, axis=-1) <= squared_cutoff) & kept
    symbols, c = half_plane(model.symbol), model.coefficients

    def project(field: Array, index: Any) -> Array:
        return jnp.where(slow, jnp.fft.rfft2(field @ c.left[index].astype(field.dtype)), 0)

    def advance(psi_hat: Array, index: Array) -> tuple[Array, None]:
        sigma, sigma_next = model.sigma[index], model.sigma[index + 1]
        span = jnp.log(sigma / sigma_next)
        step_key, within_key = jax.random.split(jax.random.fold_in(key, index))
        white = jax.random.normal(step_key, x_init.shape, x_init.dtype)  # unused without noise: compiled away

        def between(values: Array, power: int, share: Any) -> Array:
            # What is interpolated are cumulants, without their powers of sigma: constant for patches of equal norm.
            first, last = values[index] * sigma**power, values[index + 1] * sigma_next**power
            return (first + share * (last - first)) * jnp.exp(power * share * span) / sigma**power

        def kick(rate: Array, share: Any, part: Any, white: Array) -> Array:
            # Integral of 2 eta sigma^2 exp(2 rate (end - tau)) over the part, sigma falling as exp(-tau).
            decay, _ = _phi(-2 * part * (rate.real + 1))
            level = sigma * jnp.exp(-share * span)
            variance = 2 * eta * level**2 * part * jnp.exp(2 * part * rate.real) * decay
            return jnp.sqrt(variance) * project(white, index)

        if counts is None:
            rate = jnp.where(kept, (1 + eta) * (0.5 * (symbols[index] + symbols[index + 1]) - 1), 0)
            ends = ((c.h[index], c.u[index]), (c.h[index + 1], c.u[index + 1]))
            noise = kick(rate, 0.0, span, white) if noisy else 0.0
            return exponential_step(psi_hat, grid, span, rate, ends, 1 + eta, noise), None
        count = counts[index]
        total = jnp.maximum(count, 1).astype(span.dtype)

        def substep(number: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
            psi_hat, rest = carry
            before, after = number / total, (number + 1) / total
            rate = jnp.where(kept, (1 + eta) * (between(symbols, 2, 0.5 * (before + after)) - 1), 0)
            ends = tuple((between(c.h, 4, share), between(c.u, 6, share)) for share in (before, after))
            noise: Any = 0.0
            if noisy:
                # What is left of the step's noise is a sum of so many normal numbers; this is the next of them.
                left = total - number
                drawn = jax.random.normal(jax.random.fold_in(within_key, number), white.shape, white.dtype)
                part = rest / left + jnp.sqrt(1 - 1 / left) * drawn
                noise, rest = kick(rate, before, span / total, part), rest - part
            return exponential_step(psi_hat, grid, span / total, rate, ends, 1 + eta, noise), rest

        rest = jnp.sqrt(total) * white if noisy else jnp.zeros(())
        later, _ = jax.lax.fori_loop(0, count, substep, (psi_hat, rest))
        return jnp.where(count > 0, later, jnp.nan), None

    start = project(x_init - model.state[0], 0)
    (states, _), last = scan_saved(advance, start, num_steps, save_every)
    levels = np.asarray(saved_levels(num_steps, save_every))
    fields = jnp.concatenate([states, last[None]])

    def show(psi_hat: Array, index: Array) -> tuple[Array, Array]:
        psi = jnp.fft.irfft2(psi_hat, grid)
        estimate = jnp.fft.irfft2(symbols[index] * psi_hat + _local(psi, c.h[index], c.u[index]), grid)
        return (
            model.state[index] + psi[..., None] * c.right[index],
            model.target[index] + estimate[..., None] * c.right[index],
        )

    x, denoised = jax.vmap(show)(fields, jnp.asarray(levels))
    return Trajectory(model.sigma[levels], x, denoised)


def landau_sample(
    bank: Bank,
    key: PRNGKey,
    shape: tuple[int, int, int],
    sigmas: Float[ArrayLike, " num"],
    *,
    eta: Any = 0.0,
    linear: str = "exact",
    x_init: Float[ArrayLike, "H W C"] | None = None,
    num_substeps: int | np.ndarray | None = None,
    save_every: int = 1,
) -> Trajectory:
    r"""Generate a slow field by the Ginzburg-Landau equation in place of the exact denoiser.

    .. math::
        \frac{d\psi_k}{d\tau} = (1+\eta)\left[(\lambda(k, \sigma) - 1)\psi_k
        + (h\psi^2 - u\psi^3)_k\right] + \sqrt{2\eta}\,\sigma\,\xi_k, \qquad x = m(\sigma) + \psi e

    Parameters
    ----------
    bank, sigmas, eta, linear
        As for `reduced_model`.
    key : PRNG key
        Used like that of `sample`: the same key starts from the same noise, low-passed.
    shape : (H, W, C)
        Shape of the image.
    x_init : (H, W, C) array, optional
        Noisy image at ``sigmas[0]``; its modes with |k| <= pi/p start the field.
    num_substeps : int or (num - 1,) integer array, optional
        Divide the steps of the ladder. Default: as a stable run needs, see `stable_substeps`, where bank and ladder
        are concrete; one under tracing.
    save_every : int
        Save every so many steps (first and last level always).

    Returns
    -------
    Trajectory
        Slow fields and what the reduced denoiser makes of them, as `sample` returns the exact ones.

    Raises
    ------
    ValueError
        As `reduced_model`; if shapes do not match.

    Notes
    -----
    Second order in the ladder spacing, in the weak sense for eta > 0; the linear part and its noise are exact for a
    constant symbol. Four real FFTs a substep. Bare coefficients: fluctuations of the modes left out weaken growth and
    saturation, see `gaussian_closure`. THEORY section 4.

    Example
    -------
    >>> from critjax import geometric_sigmas, two_pattern_bank
    >>> ladder = geometric_sigmas(6.0, 1.0, 20)
    >>> run = landau_sample(two_pattern_bank(3), jax.random.key(0), (16, 16, 1), ladder, save_every=20)
    >>> run.x.shape
    (2, 16, 16, 1)
    """
    sigmas = as_sigmas("sigmas", sigmas, minimum=2)
    check(len(tuple(shape)) == 3, "shape", "three sizes (H, W, C)", repr(shape), "pass e.g. (64, 64, 1)")
    got = f"{shape[2]}"
    check(shape[2] == bank.channels, "shape", f"{bank.channels} channels, like the bank", got, "match them")
    if x_init is not None:
        check_rank("x_init", x_init, "H W C")
        got = f"shape {tuple(x_init.shape)}"
        check(tuple(x_init.shape) == tuple(shape), "x_init", f"shape {tuple(shape)}", got, "match them")
    model = reduced_model(bank, sigmas, shape[:2], eta=eta, linear=linear)
    noise_key, drawn = _start(key, sigmas, shape=tuple(int(n) for n in shape))
    start: Any = drawn if x_init is None else x_init
    if num_substeps is None:
        known = is_concrete(model.coefficients.r) and is_concrete(eta)
        num_substeps = stable_substeps(model, eta=eta) if known else 1
    return integrate(
        model,
        noise_key,
        start,
        eta=eta,
        cutoff=np.pi / bank.size,
        num_substeps=num_substeps,
        save_every=save_every,
    )


@program(static_argnames="shape")
def _start(key: PRNGKey, sigmas: Array, *, shape: tuple[int, int, int]) -> tuple[PRNGKey, Array]:
    """Return the key of the steps, and the noise that `sample` starts from."""
    start_key, noise_key = jax.random.split(key)
    return noise_key, sigmas[0] * jax.random.normal(start_key, shape, sigmas.dtype)


def free_energy(psi: Float[ArrayLike, "H W"], symbol: ArrayLike, h: Any, u: Any) -> Array:
    r"""Compute the free energy whose gradient flow the reduced equation is, for symmetric linear parts.

    .. math:: F = \frac{1}{2N}\sum_k (1 - \lambda(k))|\psi_k|^2 - \sum_j \left(\frac{h}{3}\psi_j^3
              - \frac{u}{4}\psi_j^4\right)

    Parameters
    ----------
    psi : (H, W) array
        Slow field, in the modes of `kept_modes`.
    symbol : (H, W) array
        lambda(k), FFT order; its imaginary part (drift, dispersion) derives from no energy and is ignored.
    h, u : scalars
        Coefficients of `landau_coefficients`.

    Returns
    -------
    array ()
        ``-dF/dpsi`` is the drift at eta = 0; the temperature is ``eta sigma^2/(1 + eta)``.

    Notes
    -----
    It falls along the flow at frozen sigma only; on a ladder it also changes with its coefficients. With the truncated
    symbol this is the functional of THEORY section 4.

    Example
    -------
    >>> float(free_energy(jnp.ones((4, 4)), jnp.full((4, 4), 2.0), 0.0, 1.0))  # 16 (-1/2 + 1/4)
    -4.0
    """
    return _free_energy(psi, symbol, h, u)


@program
def _free_energy(psi: Array, symbol: Array, h: Any, u: Any) -> Array:
    power = jnp.abs(jnp.fft.fft2(psi)) ** 2 / psi.size
    return 0.5 * jnp.sum((1 - symbol.real) * power) - jnp.sum(h / 3 * psi**3 - u / 4 * psi**4)
