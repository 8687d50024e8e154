r"""The guidance study: schedules of one budget compared, to see whether a push is best spent where modes soften.

The same seeds for all schedules (`critjax.guidance`): none, constant, pulses along the ladder, random pulse positions,
the best interval of a grid search on other seeds, the critical pulse and the window recommended from lambda(k) alone,
and the window of linear response. Exact models (``patterns``, ``ideal``, ``els``), where theory predicts the response
curve, and class-conditional networks, judged by a classifier that is not the generator. Parts are saved one by one; the
plan, with every schedule, seed and the primary statistic, before anything is sampled.

THEORY section 8; Kynkaanniemi et al. 2024, arXiv:2404.07724, for the searched interval.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr

from critjax.studies._engine.cost import RUNTIME_BYTES, time_evaluation
from critjax.studies._engine.results import attributes
from critjax.studies._engine.run import Checkpoint, Progress, Run
from critjax.studies.guide.arms import (
    PRIMARY,
    Arm,
    fixed_arms,
    ladder,
    num_evaluations,
    plan,
    pulse_arm,
    resolved_edges,
    response_window,
    searched_arms,
    window_arm,
)
from critjax.studies.guide.sampled import arm_attributes, player, recommend, susceptibilities
from critjax.studies.guide.settings import GuideSettings, ResolvedGuide
from critjax.studies.guide.summary import summarise
from critjax.studies.guide.systems import load_system
from critjax.studies.guide.theory import num_small_pushes, num_trajectories, predict

__all__ = ["PRIMARY", "GuideSettings", "estimate_cost", "run"]


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

    Notes
    -----
    THEORY section 8.

    Example
    -------
    >>> settings = GuideSettings(model="patterns", budgets=[0.5])
    >>> settings.resolved().budgets  # those that ``run(settings)`` spends
    (0.5,)
    """
    full = (settings or GuideSettings()).resolved()
    run = Run(progress, on_checkpoint, saved)
    parts: dict[str, xr.Dataset] = {}

    def once(name: str, step: Callable[[], xr.Dataset]) -> xr.Dataset:
        if name not in parts:
            parts[name] = run.part(name, step)
        return parts[name]

    once("plan", lambda: xr.Dataset(attrs={"plan": json.dumps(plan(full))}))
    with run.stage("model"):
        system = load_system(full)
    with run.stage("window"):
        window = once("window", lambda: recommend(system.model, full))
    with run.stage("theory"):
        theory = once("theory", lambda: predict(system, full, run.report))
    if full.susceptibility_samples:
        with run.stage("derivatives"):
            once("susceptibility", lambda: susceptibilities(system, full, run.report))
    play = player(system, full)
    for number, budget in enumerate(full.budgets):
        with run.stage(f"budget {budget:g}"):
            _compare(number, budget, once, play, full, window, theory, run.report)
    with run.stage("statistics"):
        result = summarise(parts, system, full)
    result.attrs = attributes(
        "guide",
        full.label,
        full,
        run.seconds,
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
    settings: ResolvedGuide,
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
        return play(arm, "test") if same is None else same.assign_attrs(arm_attributes(arm))

    for done, arm in enumerate(arms):
        report(stage, len(searched) + done, total)
        # Without guidance all budgets are one.
        first = 0 if arm.kind == "none" else number
        found = once(f"{first}-{arm.name.replace(' ', '-')}", lambda arm=arm: tested(arm))
        played[arm.table.tobytes()] = found
    report(stage, total, total)


def estimate_cost(settings: GuideSettings) -> dict[str, float]:
    """Predict wall time and memory of a run by timing one batch of the model.

    Returns
    -------
    dict
        ``seconds`` in all, ``seconds_per_evaluation`` of a batch, ``evaluations`` (of batches), ``bytes`` resident at
        most, ``overhead`` seconds (compilation, theory, figures), the last from experience.

    Example
    -------
    >>> cost = estimate_cost(GuideSettings(model="patterns", grid=8, size=3, quick=True))
    >>> cost["seconds"] > cost["overhead"]
    True
    """
    full = settings.resolved()
    model, size = load_system(full).model, full.batch_size
    seconds = time_evaluation(model.unconditional, (size, *model.shape), np.dtype(np.float32))
    per_image = full.num_levels * (2 if full.solver == "heun" else 1) + 1
    num_samples, num_search = full.num_samples, full.num_search
    total, evaluations = num_samples + num_search, 0.0
    for budget in full.budgets:
        fixed = sum(num_evaluations(arm, full) for arm in fixed_arms(full, budget)[1:])
        searched = [num_evaluations(arm, full) for arm in searched_arms(full, budget)]
        # Best interval, critical pulse and two windows are chosen during the run: at most what four searched ones cost.
        fixed += 4 * sum(searched) / len(searched)
        evaluations += num_samples * fixed + num_search * sum(searched)
    # No guidance, once for each purpose; theory, which asks the other model at every level, too. A reverse pass for two
    # responses costs six samples of two models, a trajectory of small pushes as much again in moments of the bank.
    passes = total + 1.5 * num_trajectories(full) + 2 * num_small_pushes(full)
    passes += 12 * full.susceptibility_samples + 4 * full.window_samples
    evaluations = (evaluations + passes * per_image) / size
    path = full.num_levels * float(np.prod(model.shape)) * np.dtype(np.float32).itemsize
    overhead = 100.0 if full.kind == "els" else 60.0
    if full.kind == "network":
        overhead = 120.0 + (60.0 if full.susceptibility_samples else 0.0)
    return {
        "seconds": overhead + evaluations * seconds,
        "seconds_per_evaluation": seconds,
        "evaluations": evaluations,
        "bytes": RUNTIME_BYTES + 400 * 2**20 + total * path,
        "overhead": overhead,
    }
