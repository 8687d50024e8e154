"""The commands, their help and their errors; what a command offers is asked for once the command is named."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from critjax import __version__
from critjax._checks import printable
from critjax._stored import option
from critjax.cli._options import add_options
from critjax.studies import REGISTRY, study

SHELLS = ("bash", "zsh", "fish")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """What the commands of all studies share: where results go, repeating and resuming."""

    out: Path | None = option(None, "folder to write", metavar="DIR")
    overwrite: bool = option(False, "replace what is in the folder")
    resume: bool = option(False, "insist on going on with an interrupted run (else done when it matches)")
    source: Path | None = option(
        None,
        "repeat the run of this result; further options change it",
        flag="--from",
        metavar="results.nc",
    )
    dry_run: bool = option(False, "print predicted time and memory, simulate nothing")
    no_progress: bool = option(False, "no progress bar")


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the nearest known word for unknown ones; options are added when first needed."""

    def __init__(self, *, fill: Callable[[_Parser], None] | None = None, **more: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **more)
        self._fill = fill

    def fill(self) -> None:
        """Add the options of this command, if that has not been done."""
        fill, self._fill = self._fill, None
        if fill is not None:
            fill(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse what is unknown here, where the options are known."""
        self.fill()
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            unknown = rest[0].split("=")[0]
            near = self._near(unknown, self._option_string_actions)
            self.error(f"{unknown}: expected a known option, got this one; {near}")
        if getattr(found, "command", "") is None:
            self.error(f"COMMAND: expected {_either(_commands(self))}, got none; see {self.prog} --help")
        return found, rest

    def _near(self, word: str, known: Any) -> str:
        names = {str(name).lstrip("-"): str(name) for name in known}
        near = difflib.get_close_matches(word.lstrip("-"), names, 1)
        return f"did you mean {names[near[0]]}?" if near else f"see {self.prog} --help"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = self._near(str(value), action.choices)
            expected = f"expected {_either(action.choices)}, got {str(value)!r}"
            raise argparse.ArgumentError(action, f"{expected}; {near}")

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, in the words of all other errors, and exit."""
        message = message.removeprefix("argument ")
        missing = "the following arguments are required: "
        if message.startswith(missing):
            message = f"{message.removeprefix(missing)}: expected a value, got none"
        elif "; " not in message and message.endswith(("argument", "arguments")):
            message += ", got fewer"
        raise SystemExit(fail(message if "; " in message else f"{message}; see {self.prog} --help"))


def _either(names: Iterable[Any]) -> str:
    """Join names by commas and a last or."""
    *first, last = map(str, names)
    return f"{', '.join(first)} or {last}" if first else last


class _PrintCompletion(argparse.Action):
    """Print what a shell reads to complete commands and options."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        import shtab

        for command in _commands(parser).values():
            with contextlib.suppress(ModuleNotFoundError):  # the networks may not be installed
                command.fill()
            for action in command._actions:
                words = action.metavar if isinstance(action.metavar, str) else ""
                if any(word in words for word in ("PATH", "DIR", "MODEL", "NETWORK", ".nc")):
                    action.complete = shtab.DIRECTORY if words == "DIR" else shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, values))
        parser.exit()


def _commands(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the parsers of the commands by name."""
    return next(dict(a.choices) for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def fail(message: str) -> int:
    """Print an error in one line and return the exit status for wrong input."""
    print(f"critjax: error: {printable(message)}", file=sys.stderr)
    return 2


def _fill_study(parser: _Parser, name: str) -> None:
    """Add what a study says of itself: description, examples, an option for every setting."""
    found = study(name)
    parser.description, parser.epilog = found.description, found.examples
    add_options(parser, found.settings)
    folder = f"critjax-runs/{found.folder or name}"
    add_options(parser, Output, group="output", shown={"out": folder})


#: Commands beside those of the studies: what they do, their module, whose ``fill`` adds the options, and its function.
TRAINING = {
    "train": (
        "train a denoising network, local or U-Net (needs critjax[networks])",
        "critjax.cli._train",
        "run_train",
    ),
    "train-classifier": (
        "train and calibrate a classifier that judges samples (needs critjax[networks])",
        "critjax.cli._train_classifier",
        "run_train_classifier",
    ),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; no study is imported before its command is named.

    Example
    -------
    >>> options = build_parser().parse_args(["landau", "--size", "5", "--dry-run"])
    >>> options.command, options.size, options.dry_run
    ('landau', 5, True)
    """
    parser = _Parser(
        prog="critjax",
        description="When and how does structure appear while a diffusion model generates an image?",
    )
    parser.add_argument("--version", action="version", version=f"critjax {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=SHELLS,
        default=argparse.SUPPRESS,
        help="print what the shell reads to complete commands and options",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, entry in REGISTRY.items():
        commands.add_parser(name, help=entry.summary, fill=lambda p, name=name: _fill_study(p, name))
    for name, (summary, module, _) in TRAINING.items():
        commands.add_parser(name, help=summary, fill=lambda p, m=module: importlib.import_module(m).fill(p))
    return parser
