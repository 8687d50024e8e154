r"""What theory says of the response to a push: linear theory, the Gaussian closure, regression, small pushes.

Every prediction is a susceptibility chi(tau) of the amplitude a = v.x of the mode v of a class, unless it says
otherwise:

.. math:: \chi(\tau) = (1+\eta)\,s(\tau)\,\exp\Big((1+\eta)\int_\tau^{\tau_{end}} [\lambda(\tau') - 1]\,d\tau'\Big),
          \qquad s = \langle v \cdot (D_c - D_u) \rangle

with lambda and s of the homogeneous state or a Gaussian model (*linear*), of a Gaussian field (*closure*), or of the
model's own trajectories (*regression*).

For the posterior mean D over given images small pushes have an exact response (*small pushes*). Noised images x are
distributed as p(x; sigma), and so are the trajectories of any eta, so that integration by parts moves the derivative of
a final value F, a class probability or an amplitude, off the trajectory: with u = D_c - D_u and any m(x, sigma),

.. math:: \chi(\tau) = (1+\eta)\,\Big\langle u\cdot\nabla m - (F - m)
          \Big(\nabla\!\cdot u + u\cdot\frac{D_u - x}{\sigma^2}\Big) \Big\rangle

Here m is what the noised image tells of F. For the amplitude that is v.D_u and what will be left of the noise,

.. math:: m = v\cdot[D_u + r (x - D_u)], \qquad r = (\sigma_{end}/\sigma)^{1+\eta}, \qquad
          u\cdot\nabla m = v\cdot[J u + r (u - J u)]

for the class its posterior probability pi_c, of gradient pi_c u/sigma^2. Where that has decided, F = m and the second
term vanishes. Under the reverse SDE (eta = 1) both m are martingales, the second term is zero on average, and the first
of the class is

.. math:: \chi_P(\tau) = \frac{1+\eta}{\sigma^2} \Big\langle \pi_c\,|D_c - D_u|^2 \Big\rangle
                       = (1+\eta)\,P_c\,\frac{d}{d\tau} KL(p_c\,\|\,p)

the rate at which noise uncovers the class (I-MMSE relation, Guo, Shamai & Verdu 2005). THEORY section 8.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.tree_util import Partial

from critjax._checks import message
from critjax._programs import Static, program
from critjax._typing import Array
from critjax.closed_form import ideal_log_weights
from critjax.fluctuations import gaussian_closure
from critjax.guidance import linear_response
from critjax.observables import bootstrap_means, bootstrap_values
from critjax.sampling import sample
from critjax.spectra import regression_ratio
from critjax.studies._engine.run import Progress
from critjax.studies.guide.arms import ladder, sample_seeds
from critjax.studies.guide.gaussian import gaussian_patch_response, gaussian_response
from critjax.studies.guide.settings import ResolvedGuide
from critjax.studies.guide.systems import Model, System

_NUM_RESAMPLES = 200
#: Fields a level of the closure.
_CLOSURE_FIELDS = 64
#: Pairs of opposite Gaussian fields over which D_c - D_u is averaged: of one class, and of each of several, whose
#: average needs fewer.
_PUSH_PAIRS = 32, 8
#: Trajectories of the exact response to small pushes, for each one of the regression.
_SMALL_PUSHES = 4


def num_trajectories(settings: ResolvedGuide) -> int:
    """Return how many of the model's own trajectories the regression takes."""
    return max(4, min(settings.num_samples, 256))


def num_small_pushes(settings: ResolvedGuide) -> int:
    """Return how many trajectories the exact response to small pushes takes; none where it is not known."""
    known = settings.kind == "ideal" and settings.baseline == 0
    return _SMALL_PUSHES * num_trajectories(settings) if known else 0


def projections(
    system: System, settings: ResolvedGuide, keys: Array, labels: np.ndarray, report: Progress
) -> np.ndarray:
    """Follow the model's own trajectories: v.x, v.D, v.(D_c - D_u) and |D_c - D_u|^2 (4, images, levels)."""
    sigmas, parts, size = ladder(settings), [], settings.batch_size
    for first in range(0, len(keys), size):
        report("theory", first, len(keys))
        part = slice(first, first + size)
        found = _follow(system.model, keys[part], labels[part], sigmas, settings.eta, settings.solver)
        parts.append(np.asarray(found, np.float64))
    report("theory", len(keys), len(keys))
    return np.concatenate(parts, axis=1)


@program(static_argnames=("eta", "solver"))
def _follow(model: Model, keys: Array, labels: Array, sigmas: Array, eta: float, solver: str) -> Array:
    def one(key: Array, label: Array) -> Array:
        path = sample(model.at_baseline(label), key, model.shape, sigmas, eta=eta, solver=solver)
        conditional, v = model.conditional(label), model.direction[label]

        def level(state: tuple[Array, Array, Array]) -> Array:
            x, own, sigma = state
            # At the baseline of 0 or 1 one of the two is the model's own.
            guide = own if model.baseline == 1 else conditional(x, sigma)
            push = guide - (own if model.baseline == 0 else model.unconditional(x, sigma))
            return jnp.stack([jnp.vdot(v, x), jnp.vdot(v, own), jnp.vdot(v, push), jnp.vdot(push, push)])

        return jax.lax.map(level, (path.x, path.denoised, path.sigma))

    return jnp.moveaxis(jax.vmap(one)(keys, labels), 2, 0)


def _regression(found: Array, labels: Array, num_classes: int) -> tuple[Array, Array]:
    """Regress v.D on v.x within classes; return lambda and the mean push (levels,) of found (images, levels, 3)."""
    member = jax.nn.one_hot(labels, num_classes, dtype=found.dtype)
    count = jnp.maximum(member.sum(0), 1)[:, None, None]
    means = jnp.einsum("ic,ilq->clq", member, found) / count
    x, d = jnp.moveaxis((found - jnp.einsum("ic,clq->ilq", member, means))[..., :2], -1, 0)
    cross, power = ((a * x).sum(0)[:, None, None] for a in (d, x))
    return regression_ratio(cross, power)[:, 0, 0], found[..., 2].mean(0)


def regression_response(
    found: np.ndarray, labels: np.ndarray, num_classes: int, sigmas: Array, settings: ResolvedGuide
) -> dict[str, np.ndarray]:
    """Return lambda, push and chi of the regression on own trajectories, with bootstrap errors over trajectories."""
    data, key = np.moveaxis(found[:3], 0, -1), jax.random.key(settings.seed)
    values, errors, resampled = _with_errors(data, labels, sigmas, key, num_classes, settings.eta)
    names = ("lambda_regression", "push_regression", "chi_regression")
    result = {n: np.asarray(v) for n, v in zip(names, values, strict=True)}
    result |= {f"{n}_error": np.asarray(e) for n, e in zip(names, errors, strict=True)}
    return result | {"chi_regression_resampled": np.asarray(resampled[:, 2])}


def _statistic(options: tuple[int, float], sigmas: Array, pair: tuple[Array, Array]) -> Array:
    symbol, push = _regression(*pair, options[0])
    chi = linear_response(symbol, push, sigmas.astype(symbol.dtype), eta=options[1])
    return jnp.stack([symbol, push, chi])


@program(static_argnames=("num_classes", "eta"))
def _with_errors(
    data: Array, labels: Array, sigmas: Array, key: Array, num_classes: int, eta: float
) -> tuple[Array, Array, Array]:
    """Return lambda, push and chi (3, levels), their errors, and resamples of all (R, 3, levels)."""
    statistic = Partial(Static(_statistic, (num_classes, eta)), sigmas)
    resampled = bootstrap_values(statistic, key, (data, labels), num_resamples=_NUM_RESAMPLES)
    return statistic((data, labels)), jnp.std(resampled, axis=0, ddof=1), resampled


def resampled_means(samples: np.ndarray, seed: int) -> np.ndarray:
    """Return means over bootstrap resamples (num, ...) of samples (count, ...)."""
    return bootstrap_means(np.random.default_rng([seed, 12]), samples, num_resamples=_NUM_RESAMPLES)


def homogeneous_response(system: System, settings: ResolvedGuide, other: dict[str, np.ndarray]) -> dict:
    """Return linear theory about x = 0, with lambda_reg and its push below the bare critical noise."""
    sigmas = ladder(settings)
    symbol, push = (np.asarray(a, np.float64) for a in _bare(system.model, sigmas))
    below = np.cumsum(symbol >= 1) > 0
    mixed_symbol = np.where(below, other["lambda_regression"], symbol)
    mixed_push = np.where(below, other["push_regression"], push)
    chi = linear_response(mixed_symbol, mixed_push, np.asarray(sigmas, np.float64), eta=settings.eta)
    return {"lambda_linear": symbol, "push_linear": push, "chi_linear": np.asarray(chi)}


@program
def _bare(model: Model, sigmas: Array) -> tuple[Array, Array]:
    """Return lambda and push of the first class at the state x = 0."""
    state, v = jnp.zeros(model.shape, sigmas.dtype), model.direction[0]
    conditional = model.conditional(0)

    def level(sigma: Array) -> tuple[Array, Array]:
        own, response = jax.jvp(lambda x: model.unconditional(x, sigma), (state,), (v,))
        return jnp.vdot(v, response), jnp.vdot(v, conditional(state, sigma) - own)

    return jax.lax.map(level, sigmas)


def closure_response(system: System, settings: ResolvedGuide) -> dict[str, np.ndarray]:
    """Return lambda, push and chi of the class modes on Gaussian fields, without simulating the model; class average.

    Every wavevector of a mode relaxes with its own lambda. Where the closure diverges, values are not finite.
    """
    sigmas, (height, width, _) = ladder(settings), system.model.shape
    # Classes of a symmetric bank, whose mean is zero, respond alike: one will do.
    num_classes = 1 if system.homogeneous else len(system.class_names)
    size = system.size if system.homogeneous else None
    key = jax.random.key(settings.seed)
    found = _closure(system.model, key, sigmas, settings.eta, size, num_classes, system.homogeneous)
    symbols, shifts = (np.asarray(a, np.complex128) for a in found)
    modes = np.fft.fft2(np.asarray(system.model.direction, np.float64)[:num_classes, ..., 0])
    source = shifts * modes.conj() / (height * width)  # level, class, H, W
    symbol = np.broadcast_to(symbols.real[:, None], source.shape)
    weight = np.abs(modes) ** 2 / (height * width)
    chi = np.asarray(linear_response(symbol, source, np.asarray(sigmas, np.float64), eta=settings.eta))

    def total(values: np.ndarray) -> np.ndarray:
        return np.real(values).sum((2, 3)).mean(1)

    return {
        "lambda_closure": total(symbol * weight),
        "push_closure": total(source),
        "chi_closure": total(chi),
    }


@program(static_argnames=("eta", "size", "num_classes", "homogeneous"))
def _closure(
    model: Model,
    key: Array,
    sigmas: Array,
    eta: float,
    size: int | None,
    num_classes: int,
    homogeneous: bool,
) -> tuple[Array, Array]:
    """Return the symbol (levels, H, W) of the first channel, and transforms of the push (levels, classes, H, W)."""
    height, width, channels = model.shape
    key, field_key = jax.random.split(jax.random.fold_in(key, 6))
    found = gaussian_closure(
        model.unconditional,
        key,
        sigmas,
        (height, width),
        eta=eta,
        num_samples=_CLOSURE_FIELDS,
        size=size,
        centre="spatial" if homogeneous else "ensemble",
        channels=channels,
    )
    labels = jnp.arange(num_classes)
    means = jnp.zeros_like(found.mean) if homogeneous else found.mean
    pairs = _PUSH_PAIRS[0 if homogeneous else 1]
    white = jnp.fft.fft2(jax.random.normal(field_key, (pairs, height, width), jnp.float32))

    def push(level: tuple[Array, ...]) -> Array:
        mean, spectrum, sigma = level
        field = jnp.fft.ifft2(white * jnp.sqrt(jnp.maximum(spectrum, 0))).real[..., None].astype(jnp.float32)
        both = mean.astype(field.dtype) + jnp.concatenate([field, -field])  # odd noise cancels

        def differences(x: Array) -> Array:
            own = jax.lax.map(lambda label: model.conditional(label)(x, sigma), labels)
            return own - model.unconditional(x, sigma)

        return jnp.fft.fft2(jax.lax.map(differences, both).mean(0)[..., 0])

    shifts = jax.lax.map(push, (means, found.structure_factor[..., 0, 0].real, sigmas))
    return found.symbol[..., 0, 0], shifts


def small_push_samples(system: System, settings: ResolvedGuide, count: int, report: Progress) -> np.ndarray:
    """Sample what the response to small pushes is the mean of: class probability and amplitude (count, levels, 2).

    The model must be the posterior mean over the images of its bank. One noised image and one class in turn each, with
    its trajectory. ValueError for a system without a bank.
    """
    if system.bank is None:
        raise ValueError(message("system", "an exact model with its images", "none", "use the ideal model"))
    images, of = (np.asarray(a, dtype) for a, dtype in zip(system.bank, (np.float32, np.int32), strict=True))
    root = jax.random.fold_in(jax.random.key(settings.seed), 8)
    chosen = np.random.default_rng([settings.seed, 10]).integers(0, len(of), count)
    items = images[chosen], np.arange(count) % len(system.class_names), jax.random.split(root, count)
    sigmas, parts, size = ladder(settings), [], settings.batch_size
    for first in range(0, count, size):
        report("small pushes", first, count)
        part = (a[first : first + size] for a in items)
        found = _small_pushes(system.model, images, of, sigmas, *part, settings.eta, settings.solver)
        parts.append(np.asarray(found, np.float64))
    report("small pushes", count, count)
    return np.concatenate(parts)


@program(static_argnames=("eta", "solver"))
def _small_pushes(
    model: Model,
    images: Array,
    of: Array,
    sigmas: Array,
    clean: Array,
    labels: Array,
    keys: Array,
    eta: float,
    solver: str,
) -> Array:
    """Return what images contribute (image, level, 2), see `small_push_samples`."""
    flat = images.reshape(len(of), -1)
    squares = (flat * flat).sum(1)
    only = jnp.where(of == jnp.arange(len(model.direction))[:, None], 0.0, -jnp.inf)  # class, image
    dot = functools.partial(jnp.matmul, precision="highest")

    def samples(x0: Array, label: Array, key: Array) -> Array:
        noise_key, key = jax.random.split(key)
        start = x0 + sigmas[0] * jax.random.normal(noise_key, x0.shape)
        path = sample(model.unconditional, key, model.shape, sigmas, eta=eta, solver=solver, x_init=start)
        end = path.x[-1]
        v = model.direction[label].reshape(-1)
        judged = model.respond(model.final_image(end, sigmas[-1], label), label)
        ends = jnp.stack([judged, dot(v, end.reshape(-1))])

        def level(state: tuple[Array, Array]) -> Array:
            x, sigma = state[0].reshape(-1), state[1]
            weights, own_weights = (
                jnp.exp(ideal_log_weights(images, state[0], sigma, log_prior=p)) for p in (None, only[label])
            )
            probability = jnp.where(of == label, weights, 0).sum()
            free, own = dot(weights, flat), dot(own_weights, flat)
            push = own - free
            # sigma^2 v.J u
            response = dot(weights, (dot(flat, v) - dot(v, free)) * (dot(flat, push) - dot(free, push)))
            left = (sigmas[-1] / sigma) ** (1 + eta)
            amplitude = response + left * (sigma**2 * dot(v, push) - response)
            rise = jnp.stack([probability * dot(push, push), amplitude])
            if eta == 1:
                return rise / sigma**2
            spread = dot(weights, squares) - dot(free, free)
            divergence = dot(own_weights, squares) - dot(own, own) - spread
            known = jnp.stack([probability, dot(v, free + left * (x - free))])
            return (rise - (ends - known) * (divergence + dot(push, free - x))) / sigma**2

        return (1 + eta) * jax.lax.map(level, (path.x, path.sigma))

    return jax.vmap(samples)(clean, labels, keys)


def predict(system: System, settings: ResolvedGuide, report: Progress) -> xr.Dataset:
    """Compute every prediction that applies; dimension ``sigma``, and ``resample`` for bootstrap resamples of chi."""
    sigmas = ladder(settings)
    levels = np.asarray(sigmas, np.float64)
    count = num_trajectories(settings)
    num_classes = len(system.class_names)
    labels = np.arange(count) % num_classes
    keys = sample_seeds(settings, "theory", count)
    found = projections(system, settings, keys, labels, report)
    values: dict[str, Any] = regression_response(found, labels, num_classes, sigmas, settings)
    if system.homogeneous and settings.baseline == 0:
        values |= homogeneous_response(system, settings, values) | closure_response(system, settings)
    elif system.bank is not None and settings.baseline == 0:
        bank, directions, eta = system.bank, np.asarray(system.model.direction), float(settings.eta)
        if system.size is None:
            values["chi_linear"] = gaussian_response(*bank, directions, levels, eta)
        else:
            values["chi_linear"] = gaussian_patch_response(*bank, directions, levels, eta, system.size)
        values |= closure_response(system, settings)
    if num_small_pushes(settings):
        found = small_push_samples(system, settings, num_small_pushes(settings), report)
        means, errors = found.mean(0), found.std(0, ddof=1) / np.sqrt(len(found))
        resampled = resampled_means(found, settings.seed)
        for i, name in enumerate(("chi_class", "chi_image")):
            values |= {name: means[:, i], f"{name}_error": errors[:, i]}
            values[f"{name}_resampled"] = resampled[..., i]
    dims = {n: ("resample", "sigma") if n.endswith("_resampled") else ("sigma",) for n in values}
    return xr.Dataset({n: (dims[n], np.asarray(v)) for n, v in values.items()}, {"sigma": levels})
