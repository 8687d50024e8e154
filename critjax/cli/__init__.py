"""The command line: one command a study, and its help. Thin: settings in, study, report out.

Nothing heavy is imported before the options are known to be right, so that mistakes are told at once; JAX is
configured (precision, compilation cache) before the study is imported.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from critjax._checks import message
from critjax.cli._parser import build_parser, fail
from critjax.studies import _storage
from critjax.studies._compare_settings import CompareSettings
from critjax.studies._guide_settings import GuideSettings
from critjax.studies._landau_settings import LandauSettings
from critjax.studies._settings import CriticalitySettings

__all__ = ["build_parser", "configure_jax", "main"]


class _Study(NamedTuple):
    """What a command needs to know of its study."""

    settings: type
    part: str
    """What is saved as it comes, in the plural."""


_STUDIES = {
    "criticality": _Study(CriticalitySettings, "batches"),
    "landau": _Study(LandauSettings, "banks"),
    "compare": _Study(CompareSettings, "parts"),
    "guide": _Study(GuideSettings, "parts"),
}


def _settings(kind: Any, options: dict[str, Any]) -> Any:
    """Build the settings from the options given, all of which must have an effect, on top of a stored result if any."""
    source = options.pop("source", None)
    if source is None:
        settings = kind(**options)
    elif "quick" in options:
        raise ValueError("--quick: expected no --from beside it, got both; a stored run has its own sizes")
    else:
        settings = dataclasses.replace(_storage.read_settings(source, kind), **options)
    advice = "leave it out, or choose what uses it"
    for name in sorted(options.keys() & settings.unused.keys()):
        option = f"--{name.replace('_', '-')}"
        raise ValueError(message(option, settings.unused[name], "another", advice))
    return settings


def configure_jax(precision: str) -> None:
    """Set precision and compilation cache; a cache that cannot be written is done without."""
    import jax
    from platformdirs import user_cache_dir

    jax.config.update("jax_enable_x64", precision == "float64")
    cache = Path(user_cache_dir("critjax")) / "compiled"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # one chosen by the user stays
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


class _Bar:
    """One progress bar per stage."""

    def __init__(self, shown: bool) -> None:
        self._shown, self._stage, self._bar = shown, "", None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if not self._shown:
            return
        from tqdm import tqdm

        if stage != self._stage:
            self.close()
            unit = {"simulation": "batch", "probes": "level", "figures": "figure"}.get(stage, "step")
            self._stage = stage
            self._bar = tqdm(total=total, desc=f"{stage:<11}", unit=unit, leave=total > 1, dynamic_ncols=True)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _study(command: str) -> Any:
    """Import the study of a command, which imports JAX."""
    return importlib.import_module(f"critjax.studies.{command}")


def _describe(command: str, full: Any) -> str:
    """Tell in two lines what a run would do, from resolved settings."""
    if command == "landau":
        return (
            f"banks               {', '.join(full.banks)}, p = {full.size}\n"
            f"samples             {full.num_samples} a bank, {full.num_levels} noise levels"
        )
    if command == "compare":
        return (
            f"network             {full.network}\n"
            f"patch models        {full.num_images} images, windows {', '.join(map(str, full.sizes))}"
        )
    if command == "guide":
        return (
            f"model               {full.model}\n"
            f"images              {full.num_samples} a schedule, budgets {', '.join(map(str, full.budgets))}"
        )
    return (
        f"bank                {full.label}, p = {full.size}\n"
        f"samples             {full.num_samples} in batches of {full.batch_size}, {full.num_levels} noise levels"
    )


def _print_estimate(command: str, settings: Any) -> None:
    cost = _study(command).estimate_cost(settings)
    print(_describe(command, settings.resolved()))
    print(f"one evaluation      {1e3 * cost['seconds_per_evaluation']:.1f} ms a batch, measured now")
    print(f"evaluations         {cost['evaluations']:.0f} batches")
    print(
        f"predicted time      {cost['seconds']:.0f} s, of which {cost['overhead']:.0f} s theory, "
        "compilation, figures"
    )
    print(f"predicted memory    {cost['bytes'] / 2**20:.0f} MiB")


def _launch(command: str, settings: Any, store: _storage.Store, bar: _Bar) -> Any:
    """Run the study of a command, saving as it goes: batches of one simulation, or parts that are datasets."""
    save, load = (store.save, store.load) if command == "criticality" else (store.save_part, store.load_parts)
    return _study(command).run(settings, progress=bar, on_checkpoint=save, saved=load())


def _run(options: argparse.Namespace) -> int:
    values = vars(options)
    command = values.pop("command")
    study = _STUDIES[command]
    out, overwrite, resume = values.pop("out"), values.pop("overwrite"), values.pop("resume")
    dry_run, bar = values.pop("dry_run"), _Bar(not values.pop("no_progress"))
    settings = _settings(study.settings, values)
    folder = out if out is not None else Path("critjax-runs") / f"{command}-{settings.label}"
    if dry_run:
        configure_jax(settings.precision)
        _print_estimate(command, settings)
        return 0
    store = _storage.open_store(folder, settings.resolved(), overwrite=overwrite, resume=resume)
    if store.num_saved:
        print(
            f"going on with {store.num_saved} {study.part} of an interrupted run in {folder}", file=sys.stderr
        )
    started = time.perf_counter()
    configure_jax(settings.precision)
    from critjax import report

    try:
        dataset = _launch(command, settings, store, bar)
    except KeyboardInterrupt:
        bar.close()
        count = store.count()
        kept = f"{count} {study.part} are kept, the same command goes on from there"
        print(f"critjax: interrupted; {kept if count else 'nothing to report'}", file=sys.stderr)
        store.discard()
        return 130
    except Exception:
        store.discard()
        raise
    finally:
        bar.close()
    complete = dataset.attrs["status"] == "complete"
    result = report.save_dataset(dataset, folder / "results.nc")
    page = report.write_report(dataset, folder, progress=bar)
    bar.close()
    if complete:
        store.clear()
    content = report.content(dataset)
    print("\n" + report.format_table(content.rows) + "\n")
    for text in (*report.labels(dataset), *content.sentences):
        print(f"* {text}")
    print(f"\n{time.perf_counter() - started:.0f} s; data {result}, figures {folder / 'figures'}")
    print(f"report {page.resolve()}")
    return 0 if complete else 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Returns
    -------
    int
        0 done, 2 wrong input (one line on standard error says what), 130 interrupted.

    Example
    -------
    >>> main(["criticality", "--size", "4", "--no-progress"])
    2
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters must not end the run
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    command = options.command
    try:
        if command in ("train", "train-classifier"):
            if command == "train":
                from critjax.cli._train import run_train as run
            else:
                from critjax.cli._train_classifier import run_train_classifier as run
            configure_jax("float32")
            words = sys.argv[1:] if arguments is None else list(arguments)
            return run(options, shlex.join(["critjax", *words]))
        return _run(options)
    except (ValueError, TypeError, OSError) as error:
        return fail(str(error))
    except ImportError as error:
        needed = command in ("train", "train-classifier", "compare", "guide")
        return fail(f"{error}; networks need pip install 'critjax[networks]'" if needed else str(error))
    except KeyboardInterrupt:
        print("critjax: interrupted", file=sys.stderr)
        return 130
