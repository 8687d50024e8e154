"""The command line: one command a study, and its help. Thin: settings in, study, report out.

Nothing heavy is imported before the options are known to be right, so that mistakes are told at once; JAX is
configured (precision, compilation cache) before the study is imported.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from critjax._checks import message
from critjax.cli._parser import build_parser, fail
from critjax.report import format_table
from critjax.studies import study
from critjax.studies._engine.runner import Interrupted, execute
from critjax.studies._engine.storage import Store, read_settings
from critjax.studies._engine.study import Study

__all__ = ["build_parser", "configure_jax", "main"]


def _settings(kind: Any, options: dict[str, Any]) -> Any:
    """Build the settings from the options given, all of which must have an effect, on top of a stored result if any."""
    source = options.pop("source", None)
    if source is None:
        settings = kind(**options)
    elif "quick" in options:
        raise ValueError("--quick: expected no --from beside it, got both; a stored run has its own sizes")
    else:
        settings = dataclasses.replace(read_settings(source, kind), **options)
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


def _print_estimate(study: Study, settings: Any) -> None:
    cost = study.estimate_cost(settings)
    for name, text in study.describe(settings.resolved()):
        print(f"{name:<20}{text}")
    print(f"one evaluation      {1e3 * cost['seconds_per_evaluation']:.1f} ms a batch, measured now")
    print(f"evaluations         {cost['evaluations']:.0f} batches")
    print(
        f"predicted time      {cost['seconds']:.0f} s, of which {cost['overhead']:.0f} s theory, "
        "compilation, figures"
    )
    print(f"predicted memory    {cost['bytes'] / 2**20:.0f} MiB")


def _run(study: Study, options: argparse.Namespace) -> int:
    values = vars(options)
    out, overwrite, resume = values.pop("out"), values.pop("overwrite"), values.pop("resume")
    dry_run, bar = values.pop("dry_run"), _Bar(not values.pop("no_progress"))
    settings = _settings(study.settings, values)
    folder = out if out is not None else Path("critjax-runs") / f"{study.name}-{settings.label}"
    configure_jax(settings.precision)
    if dry_run:
        _print_estimate(study, settings)
        return 0

    def say_what_is_there(store: Store) -> None:
        if store.num_saved:
            what = f"{store.num_saved} {study.parts} of an interrupted run in {folder}"
            print(f"going on with {what}", file=sys.stderr)

    try:
        found = execute(
            study,
            settings,
            folder,
            overwrite=overwrite,
            resume=resume,
            progress=bar,
            on_open=say_what_is_there,
        )
    except Interrupted as stop:
        bar.close()
        kept = f"{stop.num_parts} {study.parts} are kept, the same command goes on from there"
        print(f"critjax: interrupted; {kept if stop.num_parts else 'nothing to report'}", file=sys.stderr)
        return 130
    finally:
        bar.close()
    content = study.content(found.dataset)
    print("\n" + format_table(content.rows) + "\n")
    for text in (*content.labels, *content.sentences):
        print(f"* {text}")
    print(f"\n{found.seconds:.0f} s; data {found.result}, figures {folder / 'figures'}")
    print(f"report {found.report.resolve()}")
    return 0 if found.complete else 130


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
        return _run(study(options.__dict__.pop("command")), options)
    except (ValueError, TypeError, OSError) as error:
        return fail(str(error))
    except ImportError as error:
        needed = command in ("train", "train-classifier", "compare", "guide")
        return fail(f"{error}; networks need pip install 'critjax[networks]'" if needed else str(error))
    except KeyboardInterrupt:
        print("critjax: interrupted", file=sys.stderr)
        return 130
