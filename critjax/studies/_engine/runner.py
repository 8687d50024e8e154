"""One runner for every study: folder, saved parts, resumption, result and report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from critjax.report import save_dataset
from critjax.studies._engine.run import Progress
from critjax.studies._engine.storage import RESULT, Store, open_store
from critjax.studies._engine.study import Study


class Finished(NamedTuple):
    """What a run has left behind."""

    dataset: xr.Dataset
    result: Path
    report: Path
    seconds: float


def execute(
    study: Study,
    settings: Any,
    folder: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    on_open: Callable[[Store], None] | None = None,
    command: str = "",
) -> Finished:
    """Run a study into a folder: ``results.nc``, ``figures/*.png`` and ``report.html``.

    Parameters
    ----------
    study : Study
        What to run.
    settings : settings of the study
        Not resolved, or resolved.
    folder : pathlib.Path
        New or empty, or that of an identical run that was interrupted: the run goes on from its saved parts.
    overwrite : bool
        Replace what a run has left in the folder.
    resume : bool
        Insist on going on with an interrupted run.
    progress : callable, optional
        ``(stage, done, total)``.
    on_open : callable, optional
        Called with the store once the folder is known to be right, before anything is computed.
    command : str
        The command line of the run, kept with its result; "" from Python.

    Returns
    -------
    Finished
        Result, files and seconds. Whatever ends a run before, its parts stay in the folder, and the same call goes
        on from them.

    Raises
    ------
    ValueError, OSError
        If the folder holds something else or cannot be written, or a setting is illegal.
    """
    started = time.perf_counter()
    with open_store(folder, settings.resolved(), overwrite=overwrite, resume=resume) as store:
        if on_open is not None:
            on_open(store)
        dataset = study.run(settings, progress=progress, on_checkpoint=store.save, saved=store.load())
        dataset.attrs["command"] = command
        result = save_dataset(dataset, folder / RESULT)
        report = study.write_report(dataset, folder, progress=progress)
        store.clear()
        return Finished(dataset, result, report, time.perf_counter() - started)
