"""The command line: one command a study, and its help. Thin: settings in, study, report out.

A study is imported when its command is named, and no other. JAX is configured (precision, compilation cache) before
anything is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critjax._checks import check, message, printable
from critjax.cli._options import option_name, pick
from critjax.cli._parser import TRAINING, Output, build_parser, fail
from critjax.cli._signals import INTERRUPTED, TERMINATED, obeyed
from critjax.studies import study

if TYPE_CHECKING:
    from critjax.studies._engine.storage import Store
    from critjax.studies._engine.study import Study

__all__ = ["build_parser", "configure_jax", "main"]

#: Exit status of a process whose output nobody reads, as a shell has it.
CLOSED_PIPE = 141


def _settings(kind: Any, options: dict[str, Any], source: Path | None) -> Any:
    """Build the settings from the options given, all of which must have an effect, on top of a stored result if any."""
    from critjax.studies._engine.storage import read_settings

    options = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
    if source is None:
        settings = kind(**options)
    elif "quick" in options:
        raise ValueError("--quick: expected no --from beside it, got both; a stored run has its own sizes")
    else:
        settings, known = read_settings(source, kind)
        settings = dataclasses.replace(settings, **options)
        now = settings.resolved().inputs if known else {}
        changed = sorted(name for name in known.keys() - options.keys() if known[name] != now.get(name))
        shown = ", ".join(option_name(kind, name) for name in changed)
        advice = "restore them, or give that option"
        check(not changed, "--from", "the files of that run", f"others of {shown}", advice)
    advice = "leave it out, or choose what uses it"
    for name in sorted(options.keys() & settings.unused.keys()):
        raise ValueError(message(option_name(kind, name), settings.unused[name], "another", advice))
    return settings


@contextlib.contextmanager
def _naming_extra(extra: str) -> Iterator[None]:
    """Tell what to install where what is imported inside is missing; "" is no extra."""
    try:
        yield
    except ImportError as error:
        if not extra:
            raise
        raise ImportError(f"{error}; {extra} need pip install 'critjax[{extra}]'") from None


def configure_jax(precision: str) -> None:
    """Set precision and compilation cache; a cache that cannot be written is done without.

    Example
    -------
    >>> import jax
    >>> configure_jax("float32")
    >>> jax.config.jax_enable_x64
    False
    """
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
    """One progress bar per stage, at each step of which the run may end."""

    def __init__(self, shown: bool, safe_point: Callable[[], None] = lambda: None) -> None:
        self._shown, self._stage, self._bar, self._safe_point = shown, "", None, safe_point

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._safe_point()
        if not self._shown:
            return
        try:
            self._show(stage, done, total)
        except (OSError, ValueError):  # nobody looks: no reason to end the run
            self._shown = False

    def _show(self, stage: str, done: int, total: int) -> None:
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
            with contextlib.suppress(OSError, ValueError):
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


def _run(study: Study, options: dict[str, Any], command: str, safe_point: Callable[[], None]) -> int:
    from critjax.report import format_table
    from critjax.studies._engine.runner import execute

    output = pick(Output, options)
    bar = _Bar(not output.no_progress, safe_point)
    stores: list[Store] = []
    settings = _settings(study.settings, options, output.source)
    folder = output.out or Path("critjax-runs") / f"{study.name}-{settings.label}"
    configure_jax(settings.precision)
    if output.dry_run:
        _print_estimate(study, settings)
        return 0

    def say_what_is_there(store: Store) -> None:
        stores.append(store)
        if store.num_saved:
            what = f"{store.num_saved} {study.parts} of an interrupted run in {folder}"
            print(f"going on with {what}", file=sys.stderr)

    try:
        found = execute(
            study,
            settings,
            folder,
            overwrite=output.overwrite,
            resume=output.resume,
            progress=bar,
            on_open=say_what_is_there,
            command=command,
        )
    except (KeyboardInterrupt, SystemExit) as stop:
        kept = sum(store.count() for store in stores)
        going_on = f"{kept} {study.parts} are kept, the same command goes on from there"
        stop.add_note(going_on if kept else "nothing was saved yet")
        raise
    finally:
        bar.close()
    content = study.content(found.dataset)
    lines = [f"* {text}" for text in (*content.labels, *content.sentences)]
    lines += ["", f"{found.seconds:.0f} s; data {found.result}, figures {folder / 'figures'}"]
    try:
        print(
            "",
            format_table(content.rows),
            "",
            *lines,
            f"report {found.report.resolve()}",
            sep="\n",
            flush=True,
        )
    except OSError:  # everything is saved
        return CLOSED_PIPE
    return 0


def _obey(words: list[str], safe_point: Callable[[], None]) -> int:
    """Run the command that is the first word."""
    options = build_parser().parse_args(words)
    name, command = options.__dict__.pop("command"), shlex.join(["critjax", *words])
    if name not in TRAINING:
        found = study(name)
        with _naming_extra(found.extra):
            return _run(found, vars(options), command, safe_point)
    _, module, function = TRAINING[name]
    configure_jax("float32")
    return getattr(importlib.import_module(module), function)(options, command, safe_point)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Returns
    -------
    int
        0 done, 2 wrong input (one line on standard error says what), 130 interrupted, 141 nobody reads the output (the
        run is finished and saved), 143 terminated. What was saved stays, and the same command goes on.

    Example
    -------
    >>> main(["criticality", "--size", "4", "--no-progress"])
    2
    """
    nowhere = None if sys.stdout and sys.stderr else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere  # closed streams
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters must not end the run
    words = sys.argv[1:] if arguments is None else list(arguments)
    with obeyed() as safe_point, warnings.catch_warnings():
        warnings.showwarning = _show_warning
        status = _status(words, safe_point)
    return CLOSED_PIPE if _closed(sys.stdout) | _closed(sys.stderr) else status


def _show_warning(message: Warning | str, *where: Any) -> None:
    print(f"critjax: {printable(message)}", file=sys.stderr)


def _closed(stream: Any) -> bool:
    """Write out what is still to be; tell whether nobody reads it any more, and drop it then."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False


def _status(words: list[str], safe_point: Callable[[], None]) -> int:
    """Run the command and return its exit status, whatever ends it."""
    try:
        with _naming_extra("networks" if words and words[0] in TRAINING else ""):
            return _obey(words, safe_point)
    except SystemExit as stop:
        if stop.code == TERMINATED:
            _say_what_ended("terminated", stop)
        return int(stop.code or 0)
    except (ValueError, TypeError, OSError, ImportError) as error:
        return fail(str(error))
    except KeyboardInterrupt as stop:
        _say_what_ended("interrupted", stop)
        return INTERRUPTED


def _say_what_ended(how: str, stop: BaseException) -> None:
    kept = getattr(stop, "__notes__", ["repeat the command to go on with what was saved"])
    print(f"critjax: {how}; {kept[0]}", file=sys.stderr)
