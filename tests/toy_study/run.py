from __future__ import annotations

import numpy as np
import xarray as xr

from critjax.studies._engine.results import attributes
from critjax.studies._engine.run import Run
from toy_study.settings import ResolvedToy


def walk(settings: ResolvedToy, block: int) -> dict[str, np.ndarray]:
    """Square displacements of one block."""
    draws = np.random.default_rng([settings.seed, block]).normal(
        size=(settings.num_walks, max(settings.times))
    )
    steps = settings.step * draws if settings.kind == "walk" else np.ones_like(draws)
    return {"squares": np.mean(np.cumsum(steps, 1)[:, np.array(settings.times) - 1] ** 2, 0)}


def run(settings, *, progress=None, on_checkpoint=None, saved=None) -> xr.Dataset:
    settings = settings.resolved()
    run = Run(progress, on_checkpoint, saved)
    with run.stage("theory"):
        expected = np.array(settings.times) * settings.step**2
    names = [f"block-{block}" for block in range(settings.num_blocks)]
    blocks = [part["squares"] for part in run.parts("simulation", names, lambda block: walk(settings, block))]
    data = xr.Dataset(
        {
            "predicted": ("time", expected),
            "displacement": ("time", np.mean(blocks, 0)),
            "displacement_error": ("time", np.std(blocks, 0) / np.sqrt(len(blocks))),
        },
        {"time": list(settings.times)},
    )
    data.attrs = attributes("toy", settings.title, settings, run.seconds)
    return data


def estimate_cost(settings) -> dict[str, float]:
    blocks = float(settings.num_blocks)
    return {
        "seconds": 2.0,
        "seconds_per_evaluation": 0.001,
        "evaluations": blocks,
        "bytes": 2.0**20,
        "overhead": 1.0,
    }
