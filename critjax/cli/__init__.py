"""The command line: ``critjax criticality`` and its help. Thin: settings in, study, report out.

Nothing heavy is imported before the options are known to be right, so that mistakes are told at once; JAX is
configured (precision, compilation cache) before the study is imported.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from critjax.cli._parser import build_parser, fail
from critjax.studies import _storage
from critjax.studies._settings import CriticalitySettings

__all__ = ["build_parser", "configure_jax", "main"]


def _settings(options: dict[str, Any]) -> CriticalitySettings:
    """Build the settings from the options given, on top of a stored result if one is named."""
    source = options.pop("source", None)
    if source is None:
        return CriticalitySettings(**options)
    if "quick" in options:
        raise ValueError("--quick: expected no --from beside it, got both; a stored run has its own sizes")
    import dataclasses

    return dataclasses.replace(_storage.read_settings(source), **options)


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


def _print_estimate(settings: CriticalitySettings) -> None:
    from critjax.studies.criticality import estimate_cost

    cost = estimate_cost(settings)
    full = settings.resolved()
    print(f"bank                {full.label}, p = {full.size}")
    print(
        f"samples             {full.num_samples} in batches of {full.batch_size}, {full.num_levels} noise "
        "levels"
    )
    print(f"one evaluation      {1e3 * cost['seconds_per_evaluation']:.1f} ms a batch, measured now")
    print(f"evaluations         {cost['evaluations']:.0f} batches")
    print(
        f"predicted time      {cost['seconds']:.0f} s, of which {cost['overhead']:.0f} s theory, "
        "compilation, figures"
    )
    print(f"predicted memory    {cost['bytes'] / 2**20:.0f} MiB")


def _criticality(options: argparse.Namespace) -> int:
    values = vars(options)
    out, overwrite, resume = values.pop("out"), values.pop("overwrite"), values.pop("resume")
    dry_run, bar = values.pop("dry_run"), _Bar(not values.pop("no_progress"))
    values.pop("command")
    settings = _settings(values)
    folder = out if out is not None else Path("critjax-runs") / f"criticality-{settings.label}"
    if dry_run:
        configure_jax(settings.precision)
        _print_estimate(settings)
        return 0
    store = _storage.open_store(folder, settings.resolved(), overwrite=overwrite, resume=resume)
    if store.num_saved:
        print(f"going on with {store.num_saved} batches of an interrupted run in {folder}", file=sys.stderr)
    started = time.perf_counter()
    configure_jax(settings.precision)
    from critjax import report
    from critjax.studies import criticality

    try:
        dataset = criticality.run(settings, progress=bar, on_checkpoint=store.save, saved=store.load())
    except KeyboardInterrupt:
        bar.close()
        count = store.count()
        kept = (
            f"{count} batches are kept, the same command goes on from there" if count else "nothing to report"
        )
        print(f"critjax: interrupted; {kept}", file=sys.stderr)
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
    print("\n" + report.format_table(report.table(dataset)) + "\n")
    for text in (*report.labels(dataset), *report.findings(dataset)):
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
    try:
        return _criticality(options)
    except (ValueError, TypeError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print("critjax: interrupted", file=sys.stderr)
        return 130
