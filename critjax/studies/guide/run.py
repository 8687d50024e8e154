r"""The guidance study: schedules of one budget compared, to see whether a push is best spent where modes soften.

The same seeds for all schedules (`critjax.guidance`): none, constant, pulses along the ladder, random pulse positions,
the best interval of a grid search on other seeds, the critical pulse and the window recommended from lambda(k) alone,
and the window of linear response. Exact models (``patterns``, ``ideal``, ``els``), where theory predicts the response
curve, and class-conditional networks, judged by a classifier that is not the generator. Parts are saved one by one; the
plan, with every schedule, seed and the primary statistic, before anything is sampled.

>>> GuideSettings(model="patterns", budgets=[0.5]).resolved().budgets
(0.5,)

THEORY section 8; Kynkaanniemi et al. 2024, arXiv:2404.07724, for the searched interval.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from critjax._typing import Array
from critjax.guidance import guidance_window, guided, susceptibility, weights_on, window_status
from critjax.sampling import initial_state, sample
from critjax.studies._engine.cost import RUNTIME_BYTES, time_evaluation
from critjax.studies._engine.results import attributes
from critjax.studies._engine.run import Checkpoint, Progress
from critjax.studies.guide.arms import (
    PRIMARY,
    Arm,
    first_step,
    fixed_arms,
    ladder,
    num_evaluations,
    plan,
    pulse_arm,
    resolved_edges,
    response_window,
    sample_seeds,
    searched_arms,
    window_arm,
)
from critjax.studies.guide.settings import GuideSettings
from critjax.studies.guide.summary import summarise
from critjax.studies.guide.systems import System, load_system
from critjax.studies.guide.theory import (
    baseline_denoiser,
    final_image,
    num_small_pushes,
    num_trajectories,
    predict,
)

__all__ = ["PRIMARY", "GuideSettings", "run"]

#: Images of every schedule that are kept, for pictures.
_KEPT = 20
#: Images that are differentiated together: one at a time leaves products of a network small, more gain little.
_DIFFERENTIATED = 4


def run(
    settings: GuideSettings | None = None,
    *,
    progress: Progress | None = None,
    on_checkpoint: Checkpoint | None = None,
    saved: Mapping[str, xr.Dataset] | None = None,
) -> xr.Dataset:
    """Run the study and return everything as one labelled dataset.

    Parameters
    ----------
    settings : GuideSettings, optional
        What to do.
    progress : callable, optional
        ``(stage, done, total)``, for a progress bar.
    on_checkpoint : callable, optional
        ``(part, dataset)`` after every part, for saving.
    saved : mapping, optional
        Parts of an earlier, identical run; they are not run again.

    Returns
    -------
    xarray.Dataset
        See `critjax.studies.guide.summary.summarise`: responses, accuracy, diversity and distances with errors,
        on the axes ``budget`` and ``arm``; on ``sigma`` the measured gap, the susceptibility and its predictions.

    Raises
    ------
    ValueError, FileNotFoundError
        If a setting is illegal or a file is missing.
    KeyboardInterrupt
        If interrupted; finished parts have gone to ``on_checkpoint``.

    Notes
    -----
    THEORY section 8.
    """
    settings = (settings or GuideSettings()).resolved()
    report = progress or (lambda stage, done, total: None)
    started = time.perf_counter()
    known, parts = dict(saved or {}), {}

    def once(name: str, step: Callable[[], xr.Dataset]) -> xr.Dataset:
        if name not in parts:
            parts[name] = known[name] if name in known else step()
            if name not in known and on_checkpoint is not None:
                on_checkpoint(name, parts[name])
        return parts[name]

    once("plan", lambda: xr.Dataset(attrs={"plan": json.dumps(plan(settings))}))
    system = load_system(settings)
    window = once("window", lambda: _window(system, settings, report))
    theory = once("theory", lambda: predict(system, settings, report))
    if settings.susceptibility_samples:
        once("susceptibility", lambda: _susceptibilities(system, settings, report))
    play = _player(system, settings)
    for number, budget in enumerate(settings.budgets or ()):
        _compare(number, budget, once, play, settings, window, theory, report)
    result = summarise(parts, system, settings)
    result.attrs = attributes(
        "guide",
        settings.label,
        settings,
        "complete",
        {"all": round(time.perf_counter() - started, 1)},
        plan=parts["plan"].attrs["plan"],
        primary_statistic=PRIMARY,
        response=system.response_name,
        references=system.reference_name,
        classes=json.dumps(system.class_names),
        window_status=window.attrs["status"],
        # Numbers that were read from a file are numpy's.
        cost=json.dumps({n: int(window.attrs[n]) for n in ("evaluations", "jacobian_products")}),
    )
    return result


def _compare(
    number: int,
    budget: float,
    once: Callable[..., xr.Dataset],
    play: Callable[[Arm, str], xr.Dataset],
    settings: GuideSettings,
    window: xr.Dataset,
    theory: xr.Dataset,
    report: Progress,
) -> None:
    """Run all schedules of one budget: search first, then the test seeds."""
    arms = fixed_arms(settings, budget)
    searched = searched_arms(settings, budget)
    stage = f"budget {budget:g}"
    total = len(arms) + len(searched) + 3
    scores = []
    for done, arm in enumerate(searched):
        report(stage, done, total)
        found = once(f"{number}-search-{done:02d}", lambda arm=arm: play(arm, "search"))
        scores.append(float(found["response"].mean()))
    best = searched[int(np.argmax(scores))]
    arms.append(best._replace(name="best interval"))
    if np.isfinite(float(window["centre"])):
        arms.append(pulse_arm("critical pulse", float(window["centre"]), settings, budget))
    sigma = np.asarray(ladder(settings), np.float64)
    for kind, span in (("window", window), ("response window", response_window(theory))):
        edges = resolved_edges(float(span["sigma_low"]), float(span["sigma_high"]), sigma)
        if edges is not None:
            arms.append(window_arm(kind, *edges, settings, budget))
    played: dict[bytes, xr.Dataset] = {}

    def tested(arm: Arm) -> xr.Dataset:
        # A chosen schedule is often one of the pulses: its images are theirs.
        same = played.get(arm.table.tobytes())
        return play(arm, "test") if same is None else same.assign_attrs(_attributes(arm))

    for done, arm in enumerate(arms):
        report(stage, len(searched) + done, total)
        # Without guidance all budgets are one.
        first = 0 if arm.kind == "none" else number
        found = once(f"{first}-{arm.name.replace(' ', '-')}", lambda arm=arm: tested(arm))
        played[arm.table.tobytes()] = found
    report(stage, total, total)


def _attributes(arm: Arm) -> dict[str, Any]:
    return {"name": arm.name, "kind": arm.kind, "low": arm.low, "high": arm.high}


def _player(system: System, settings: GuideSettings) -> Callable[[Arm, str], xr.Dataset]:
    """Return the function that samples the images of a purpose under a schedule and judges them.

    Compiled once for all schedules. Up to where a schedule begins its images are those without guidance, of the same
    seeds: these are sampled first, once, and every schedule goes on from their states.
    """
    sigmas, size = ladder(settings), settings.batch_size or 1
    free = fixed_arms(settings, 1.0)[0]
    paths: dict[str, list[np.ndarray]] = {}

    @jax.jit
    def sampled(table: Array, step: Array, keys: Array, labels: Array, states: Array) -> Any:
        weight_fn = weights_on(sigmas, table)

        def one(key: Array, label: Array, state: Array) -> Any:
            path = sample(
                guided(system.unconditional, system.conditional(label), weight_fn),
                key,
                system.shape,
                sigmas,
                eta=settings.eta,
                solver=settings.solver,
                x_init=state,
                first_step=step,
            )
            x = path.x[-1]
            image = final_image(system, settings, x, sigmas[-1], label)
            amplitude = jnp.vdot(system.direction[label], x)
            judged = (system.respond(image, label), amplitude, system.classify(image), system.features(image))
            return (*judged, image), path.x

        return jax.vmap(one)(keys, labels, states)

    def play(arm: Arm, purpose: str) -> xr.Dataset:
        count = (settings.num_samples if purpose == "test" else settings.num_search) or 0
        keys, labels = sample_seeds(settings, purpose, count), np.arange(count) % len(system.class_names)
        whole = arm.kind == "none"
        if whole:
            paths[purpose] = []
        elif purpose not in paths:
            play(free, purpose)
        step, parts = 0 if whole else first_step(arm, settings), []
        for number, first in enumerate(range(0, count, size)):
            part = slice(first, first + size)
            if whole:
                states = jax.vmap(lambda key: initial_state(key, system.shape, sigmas[0]))(keys[part])
            else:
                states = jnp.asarray(paths[purpose][number][:, step])
            found, path = sampled(jnp.asarray(arm.table), step, keys[part], jnp.asarray(labels[part]), states)
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
            attrs=_attributes(arm),
        )

    return play


def _window(system: System, settings: GuideSettings, report: Progress) -> xr.Dataset:
    """Recommend a pulse and a window from the softening of the uniform mode alone, on seeds of its own."""
    report("window", 0, 1)
    sigmas = ladder(settings)
    key = sample_seeds(settings, "window", 1)[0]
    denoise = baseline_denoiser(system, settings, 0)
    found = jax.jit(
        lambda key: guidance_window(
            denoise,
            key,
            system.shape,
            sigmas,
            num_samples=settings.window_samples,
            eta=settings.eta,
            solver=settings.solver,
        )
    )(key)
    report("window", 1, 1)
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


def _susceptibilities(system: System, settings: GuideSettings, report: Progress) -> xr.Dataset:
    """Differentiate the response of single images with respect to the weight at every level, on the test seeds."""
    sigmas = ladder(settings)
    count = min(settings.susceptibility_samples or 0, settings.num_samples or 0)
    keys = sample_seeds(settings, "test", settings.num_samples or 0)[:count]
    labels = jnp.arange(count) % len(system.class_names)

    def one(key: Array, label: Array) -> Array:
        def responses(x: Array) -> Array:
            image = final_image(system, settings, x, sigmas[-1], label)
            return jnp.stack([system.respond(image, label), jnp.vdot(system.direction[label], x)])

        return susceptibility(
            system.unconditional,
            system.conditional(label),
            responses,
            key,
            system.shape,
            sigmas,
            weights=settings.baseline,
            eta=settings.eta,
            solver=settings.solver,
        ).value

    several, rows = jax.jit(jax.vmap(one)), []
    size = min(_DIFFERENTIATED, count)
    for first in range(0, count, size):
        report("derivatives", first, count)
        part = np.arange(first, first + size) % count  # batches of one shape: begun again at the end
        rows.append(np.asarray(several(keys[part], labels[part]), np.float64))
    report("derivatives", count, count)
    response, amplitude = np.moveaxis(np.concatenate(rows)[:count], 1, 0)
    dims = ("differentiated", "sigma")
    return xr.Dataset(
        {"chi_response": (dims, response), "chi_amplitude": (dims, amplitude)},
        {"sigma": np.asarray(sigmas, np.float64)},
    )


def estimate_cost(settings: GuideSettings) -> dict[str, float]:
    """Predict wall time and memory of a run by timing one batch of the model.

    Returns
    -------
    dict
        ``seconds`` in all, ``seconds_per_evaluation`` of a batch, ``evaluations`` (of batches), ``bytes`` resident at
        most, ``overhead`` seconds (compilation, theory, figures), the last from experience.
    """
    settings = settings.resolved()
    system, size = load_system(settings), settings.batch_size or 1
    seconds = time_evaluation(system.unconditional, (size, *system.shape), np.dtype(np.float32))
    per_image = (settings.num_levels or 0) * (2 if settings.solver == "heun" else 1) + 1
    num_samples, num_search = settings.num_samples or 0, settings.num_search or 0
    total, evaluations = num_samples + num_search, 0.0
    for budget in settings.budgets or ():
        fixed = sum(num_evaluations(arm, settings) for arm in fixed_arms(settings, budget)[1:])
        searched = [num_evaluations(arm, settings) for arm in searched_arms(settings, budget)]
        # Best interval, critical pulse and two windows are chosen during the run: at most what four searched ones cost.
        fixed += 4 * sum(searched) / len(searched)
        evaluations += num_samples * fixed + num_search * sum(searched)
    # No guidance, once for each purpose; theory, which asks the other model at every level, too. A reverse pass for two
    # responses costs six samples of two models, a trajectory of small pushes as much again in moments of the bank.
    passes = total + 1.5 * num_trajectories(settings) + 2 * num_small_pushes(settings)
    passes += 12 * (settings.susceptibility_samples or 0) + 4 * settings.window_samples
    evaluations = (evaluations + passes * per_image) / size
    path = (settings.num_levels or 0) * float(np.prod(system.shape)) * np.dtype(np.float32).itemsize
    overhead = 100.0 if settings.kind == "els" else 60.0
    if settings.kind == "network":
        overhead = 120.0 + (60.0 if settings.susceptibility_samples else 0.0)
    return {
        "seconds": overhead + evaluations * seconds,
        "seconds_per_evaluation": seconds,
        "evaluations": evaluations,
        "bytes": RUNTIME_BYTES + 400 * 2**20 + total * path,
        "overhead": overhead,
    }
