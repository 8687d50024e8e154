"""One small run of each study a session: reports, figures, the command line and resumption read it.

Each is a result, and its parts by name as they were saved.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax

from critjax.studies import criticality, freeze_out, landau

CRITICALITY = criticality.CriticalitySettings(
    bank="two-pattern",
    size=3,
    grid=(8, 10),
    num_samples=48,
    batch_size=8,
    num_levels=9,
    closure_samples=2,
    probe_samples=3,
    precision="float64",
)
LANDAU = landau.LandauSettings(
    banks=("two-pattern", "stripe"),
    size=5,
    wavelength=4.0,
    grid=(12, 16),
    num_samples=3,
    num_levels=10,
    closure_samples=2,
    precision="float64",
)
FREEZE_OUT = freeze_out.FreezeOutSettings(
    steps_per_tau=(10, 40),
    grid=24,
    num_samples=64,
    max_samples=256,
    num_blocks=16,
    fit_from=10,
    binder_grids=(8, 16),
    binder_steps_per_tau=60,
    binder_range=(0.6, 0.2),
    binder_levels=8,
)


class StudyRun(NamedTuple):
    """A finished run."""

    settings: Any
    result: Any
    parts: dict[str, Any]


def _finish(study: Any, settings: Any) -> StudyRun:
    parts: dict[str, Any] = {}
    return StudyRun(settings, study.run(settings, on_checkpoint=parts.__setitem__), parts)


@functools.cache
def criticality_run() -> StudyRun:
    """Two patterns in double precision."""
    return _finish(criticality, CRITICALITY)


@functools.cache
def landau_run() -> StudyRun:
    """Two banks: one softest at k = 0, one at a finite wavelength."""
    return _finish(landau, LANDAU)


@functools.cache
def freeze_out_run() -> StudyRun:
    """Two quenches and two grids."""
    with jax.enable_x64(False):
        return _finish(freeze_out, FREEZE_OUT)
