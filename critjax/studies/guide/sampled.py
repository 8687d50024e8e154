"""What a guidance study does with a model: images under a schedule, the recommended window, derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.tree_util import Partial

from critjax._programs import program
from critjax._typing import Array
from critjax.guidance import (
    GuidanceWindow,
    guidance_window,
    guided,
    susceptibility,
    weights_on,
    window_status,
)
from critjax.sampling import initial_state, sample
from critjax.studies._engine.run import Progress
from critjax.studies.guide.arms import Arm, first_step, fixed_arms, ladder, sample_seeds
from critjax.studies.guide.settings import ResolvedGuide
from critjax.studies.guide.systems import Model, System

#: Images of every schedule that are kept, for pictures.
_KEPT = 20
#: Images that are differentiated together: one at a time leaves products of a network small, more gain little.
_DIFFERENTIATED = 4


def arm_attributes(arm: Arm) -> dict[str, Any]:
    """Return what the images of a schedule are told by."""
    return {"name": arm.name, "kind": arm.kind, "low": arm.low, "high": arm.high}


def player(system: System, settings: ResolvedGuide) -> Callable[[Arm, str], xr.Dataset]:
    """Return the function that samples the images of a purpose under a schedule and judges them.

    Up to where a schedule begins its images are those without guidance, of the same seeds: these are sampled first,
    once, and every schedule goes on from their states.
    """
    sigmas, size, model = ladder(settings), settings.batch_size, system.model
    free = fixed_arms(settings, 1.0)[0]
    paths: dict[str, list[np.ndarray]] = {}

    def play(arm: Arm, purpose: str) -> xr.Dataset:
        count = settings.num_samples if purpose == "test" else settings.num_search
        keys, labels = sample_seeds(settings, purpose, count), np.arange(count) % len(system.class_names)
        whole = arm.kind == "none"
        if whole:
            paths[purpose] = []
        elif purpose not in paths:
            play(free, purpose)
        step, parts = 0 if whole else first_step(arm, settings), []
        for number, first in enumerate(range(0, count, size)):
            part = slice(first, first + size)
            states = _starts(keys[part], sigmas, model.shape) if whole else paths[purpose][number][:, step]
            batch = keys[part], labels[part], states
            found, path = _images(model, sigmas, arm.table, step, *batch, settings.eta, settings.solver)
            parts.append(jax.tree.map(np.asarray, found))
            if whole:
                paths[purpose].append(np.asarray(path))
        response, amplitude, label, features, images = map(np.concatenate, zip(*parts, strict=True))
        return xr.Dataset(
            {
                "response": (("image",), response.astype(np.float64)),
                "amplitude": (("image",), amplitude.astype(np.float64)),
                "correct": (("image",), label == labels),
                "label": (("image",), labels),
                "features": (("image", "feature"), features),
                "kept": (("shown", "y", "x", "channel"), images[:_KEPT]),
                "weight": (("level",), arm.table),
            },
            attrs=arm_attributes(arm),
        )

    return play


@program(static_argnames="shape")
def _starts(keys: Array, sigmas: Array, shape: tuple[int, int, int]) -> Array:
    return jax.vmap(lambda key: initial_state(key, shape, sigmas[0]))(keys)


@program(static_argnames=("eta", "solver"))
def _images(
    model: Model,
    sigmas: Array,
    table: Array,
    step: Any,
    keys: Array,
    labels: Array,
    states: Array,
    eta: float,
    solver: str,
) -> tuple[tuple[Array, ...], Array]:
    """Sample images from their states at a step; return what is judged, and the paths."""
    weight_fn = weights_on(sigmas, jnp.asarray(table))

    def one(key: Array, label: Array, state: Array) -> tuple[tuple[Array, ...], Array]:
        denoise = guided(model.unconditional, model.conditional(label), weight_fn)
        path = sample(
            denoise, key, model.shape, sigmas, eta=eta, solver=solver, x_init=state, first_step=step
        )
        x = path.x[-1]
        image = model.final_image(x, sigmas[-1], label)
        amplitude = jnp.vdot(model.direction[label], x)
        judged = model.respond(image, label), amplitude, model.classify(image), model.features(image), image
        return judged, path.x

    return jax.vmap(one)(keys, labels, states)


def recommend(model: Model, settings: ResolvedGuide) -> xr.Dataset:
    """Recommend a pulse and a window from the softening of the uniform mode alone, on seeds of its own."""
    sigmas = ladder(settings)
    key = sample_seeds(settings, "window", 1)[0]
    found = _window(model, key, sigmas, settings.window_samples, settings.eta, settings.solver)
    single = ("sigma_low", "sigma_high", "centre", "softest")
    values = {n: float(getattr(found, n)) for n in (*single, *(f"{n}_error" for n in single))}
    return xr.Dataset(
        {
            **values,
            "gap": (("sigma",), np.asarray(found.gap, np.float64)),
            "gap_error": (("sigma",), np.asarray(found.gap_error, np.float64)),
            "softening_response": (("sigma",), np.asarray(found.response, np.float64)),
        },
        {"sigma": np.asarray(sigmas, np.float64)},
        {
            "status": window_status(found),
            "evaluations": int(found.evaluations),
            "jacobian_products": int(found.jacobian_products),
        },
    )


@program(static_argnames=("num_samples", "eta", "solver"))
def _window(
    model: Model, key: Array, sigmas: Array, num_samples: int, eta: float, solver: str
) -> GuidanceWindow:
    denoise, shape = model.at_baseline(0), model.shape
    return guidance_window(denoise, key, shape, sigmas, num_samples=num_samples, eta=eta, solver=solver)


def susceptibilities(system: System, settings: ResolvedGuide, report: Progress) -> xr.Dataset:
    """Differentiate the response of single images with respect to the weight at every level, on the test seeds."""
    sigmas, rows = ladder(settings), []
    count = min(settings.susceptibility_samples, settings.num_samples)
    keys = sample_seeds(settings, "test", settings.num_samples)[:count]
    labels = np.arange(count) % len(system.class_names)
    size = min(_DIFFERENTIATED, count)
    for first in range(0, count, size):
        report("derivatives", first, count)
        part = np.arange(first, first + size) % count  # batches of one shape: begun again at the end
        found = _derivatives(system.model, sigmas, keys[part], labels[part], settings.eta, settings.solver)
        rows.append(np.asarray(found, np.float64))
    report("derivatives", count, count)
    response, amplitude = np.moveaxis(np.concatenate(rows)[:count], 1, 0)
    dims = ("differentiated", "sigma")
    return xr.Dataset(
        {"chi_response": (dims, response), "chi_amplitude": (dims, amplitude)},
        {"sigma": np.asarray(sigmas, np.float64)},
    )


@program(static_argnames=("eta", "solver"))
def _derivatives(model: Model, sigmas: Array, keys: Array, labels: Array, eta: float, solver: str) -> Array:
    """Return chi of response and amplitude (images, 2, levels)."""

    def one(key: Array, label: Array) -> Array:
        return susceptibility(
            model.unconditional,
            model.conditional(label),
            Partial(_responses, model, sigmas[-1], label),
            key,
            model.shape,
            sigmas,
            weights=model.baseline,
            eta=eta,
            solver=solver,
        ).value

    return jax.vmap(one)(keys, labels)


def _responses(model: Model, sigma: Array, label: Array, x: Array) -> Array:
    image = model.final_image(x, sigma, label)
    return jnp.stack([model.respond(image, label), jnp.vdot(model.direction[label], x)])
