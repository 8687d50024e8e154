"""The options of the command line, their help, and their errors."""

from __future__ import annotations

import argparse
import difflib
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from critjax import __version__
from critjax.cli._network_options import (
    COMPARE_DESCRIPTION,
    COMPARE_EPILOG,
    GUIDE_DESCRIPTION,
    GUIDE_EPILOG,
    add_classifier_training,
    add_compare_settings,
    add_guide_settings,
    add_training,
)
from critjax.studies.criticality.settings import (
    FRAMES,
    IMAGE_BANKS,
    PATTERN_BANKS,
    POSITIONS,
    PRECISIONS,
    SOLVERS,
)

_DESCRIPTION = """\
Predict, simulate and measure when structure appears while noise is turned into images.

For one bank of patches the command
  1. predicts: growth rates, the critical noise and wavelength, the structure factor (linear theory), and the
     effective critical noise (Gaussian closure);
  2. simulates: many samples from pure noise down a ladder of noise levels with the exact patch score;
  3. measures: structure factor, regression symbol, mean Jacobian, correlation lengths, order, with errors;
  4. reports: a table here; report.html (self-contained), figures/*.png and results.nc in the output folder.
"""

_EPILOG = """\
examples:
  critjax criticality                                   random patterns, p = 9, M = 8, 64 x 64 (a minute)
  critjax criticality --quick                           the same, small: a look within seconds
  critjax criticality --bank two-pattern --eta 1        the ferromagnet under the reverse SDE
  critjax criticality --bank fashion-mnist --size 7     patches of 100 real images (some minutes)
  critjax criticality --bank photos/ --size 5           your own images: a folder, .npy or .npz
  critjax criticality --bank fashion-mnist --dry-run    predicted time and memory, nothing else
  critjax criticality --from run/results.nc --out again repeat a run from its result

Noise levels are standard deviations in image units (data in [-1, 1]); the table gives every critical noise
also as t_ou, alpha-bar and log-SNR. Ctrl-C keeps what was done: it writes a report so labelled, and the same
command goes on from there. Exit status: 0 done, 2 wrong input, 130 interrupted.
"""


_LANDAU_DESCRIPTION = """\
Run exact dynamics and reduced Ginzburg-Landau equation side by side, from the same noise.

For each bank the command
  1. computes r, K, u, ... at every noise level: bare, and renormalised by the fast modes that the equation omits;
  2. runs the exact model and the reduced equation, and a second exact run that starts without fast modes;
  3. compares their slow modes: errors, overlaps, structure factors, and the noise down to which 5 and 20 % hold;
  4. relaxes ordered states at frozen noise: plateau against -r/u, wall width against sqrt(2K/-r);
  5. reports: a table here; report.html, figures/*.png and results.nc in the output folder.
"""

_LANDAU_EPILOG = """\
examples:
  critjax landau                             the three pattern banks, 64 x 64, 32 samples each (two to three minutes)
  critjax landau --quick                     the same, small
  critjax landau --bank two-pattern --eta 1  one bank under the reverse SDE, exact and reduced with the same noise
"""


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the nearest known option for unknown ones."""

    words: Sequence[str] = ()

    def parse_args(self, args=None, namespace=None):
        """Remember the arguments for the hints of `error`."""
        self.words = sys.argv[1:] if args is None else list(args)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            unknown = message[len(prefix) :].split()[0].split("=")[0]
            # The whole parser reports what a command left over; what was meant are that command's options.
            groups = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
            called = [name for group in groups for name in group.choices if name in self.words]
            command = called[0] if called else ""
            parser = groups[0].choices[command] if command else self
            known = [option for action in parser._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"see {parser.prog} --help"
            message = f"{unknown}: expected a known option, got this one; {hint}"
        raise SystemExit(fail(message))


def fail(message: str) -> int:
    """Print an error in one line and return the exit status for wrong input."""
    print(f"critjax: error: {message}", file=sys.stderr)
    return 2


def _grid(text: str) -> tuple[int, int]:
    parts = text.lower().replace(",", "x").split("x")
    try:
        sides = tuple(int(part) for part in parts)
    except ValueError:
        sides = ()
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2:
        raise argparse.ArgumentTypeError(f"expected N or HxW, got {text!r}; pass e.g. 64 or 64x48")
    return sides[0], sides[1]


def _classes(text: str) -> tuple[int | str, ...]:
    return tuple(int(part) if part.strip().isdigit() else part.strip() for part in text.split(","))


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting; options that are not given stay out of the result."""
    default = argparse.SUPPRESS
    bank = parser.add_argument_group("bank of patches")
    names = ", ".join((*PATTERN_BANKS, *IMAGE_BANKS))
    bank.add_argument(
        "--bank",
        default=default,
        metavar="NAME|PATH",
        help=f"{names}, or your images (default: random-pattern)",
    )
    bank.add_argument(
        "--size", type=int, default=default, metavar="P", help="window size, odd (default: 9; images: 7)"
    )
    bank.add_argument(
        "--num-random",
        type=int,
        default=default,
        metavar="M",
        help="random patterns of random-pattern (default: 8)",
    )
    bank.add_argument(
        "--wavelength", type=float, default=default, metavar="PX", help="period of the stripes (default: 6)"
    )
    bank.add_argument(
        "--num-images", type=int, default=default, metavar="N", help="training images taken (default: 100)"
    )
    bank.add_argument(
        "--classes",
        type=_classes,
        default=default,
        metavar="A,B",
        help="only these classes, by number or name",
    )
    bank.add_argument(
        "--positions",
        choices=POSITIONS,
        default=default,
        help="patches of the images that count: all (images wrap) or interior (default: interior)",
    )
    bank.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        default=default,
        metavar=("BLACK", "WHITE"),
        help="values of your images that become -1 and 1 (default: from the dtype)",
    )
    run = parser.add_argument_group("simulation")
    run.add_argument(
        "--grid",
        type=_grid,
        default=default,
        metavar="N|HxW",
        help="sample size (default: 64; images: theirs)",
    )
    run.add_argument(
        "--num-samples",
        type=int,
        default=default,
        metavar="N",
        help="trajectories (default: 512; images: 24)",
    )
    run.add_argument(
        "--num-levels", type=int, default=default, metavar="N", help="noise levels (default: 64; images: 40)"
    )
    run.add_argument(
        "--sigma-max",
        type=float,
        default=default,
        metavar="S",
        help="first noise (default: sqrt(6) x predicted sigma_c)",
    )
    run.add_argument(
        "--sigma-min",
        type=float,
        default=default,
        metavar="S",
        help="last noise (default: 0.1 sigma_c; images: 0.05)",
    )
    run.add_argument(
        "--eta",
        type=float,
        default=default,
        metavar="E",
        help="0: probability flow, 1: reverse SDE (default: 0)",
    )
    run.add_argument(
        "--solver", choices=SOLVERS, default=default, help="second or first order steps (default: heun)"
    )
    run.add_argument(
        "--seed", type=int, default=default, metavar="N", help="random bank and samples (default: 0)"
    )
    run.add_argument("--precision", choices=PRECISIONS, default=default, help="(default: float32)")
    run.add_argument(
        "--batch-size",
        type=int,
        default=default,
        metavar="N",
        help="trajectories at once (default: 32; images: 2)",
    )
    measure = parser.add_argument_group("theory and measurement")
    measure.add_argument(
        "--frame",
        choices=FRAMES,
        default=default,
        help="frame in which a mode is called critical (default: ve)",
    )
    measure.add_argument(
        "--num-banks",
        type=int,
        default=default,
        metavar="N",
        help="random banks drawn for comparison (default: 256)",
    )
    measure.add_argument(
        "--closure-samples",
        type=int,
        default=default,
        metavar="N",
        help="fields per level of the closure; 0: none (default: 16; images: 24)",
    )
    measure.add_argument(
        "--probe-samples",
        type=int,
        default=default,
        metavar="N",
        help="samples with probed Jacobian; 0: none (default: 16; images: 6)",
    )
    measure.add_argument(
        "--quick", action="store_true", default=default, help="small defaults; the report says so"
    )


def _add_landau_settings(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting of the Landau study."""
    add = functools.partial(parser.add_argument, default=argparse.SUPPRESS)
    names = ", ".join(PATTERN_BANKS)
    add(
        "--bank",
        dest="banks",
        action="append",
        metavar="NAME",
        help=f"one of {names}; may be repeated (default: all three)",
    )
    add("--size", type=int, metavar="P", help="window size, odd (default: 9)")
    add("--num-random", type=int, metavar="M", help="random patterns of random-pattern (default: 8)")
    add("--wavelength", type=float, metavar="PX", help="period of the stripes (default: 6)")
    add("--grid", type=_grid, metavar="N|HxW", help="sample size (default: 64)")
    add("--num-samples", type=int, metavar="N", help="trajectories a bank (default: 32)")
    add("--num-levels", type=int, metavar="N", help="noise levels (default: 80)")
    add(
        "--closure-samples",
        type=int,
        metavar="N",
        help="fields per level that renormalised coefficients average over (default: 16)",
    )
    add("--eta", type=float, metavar="E", help="0: probability flow, 1: reverse SDE (default: 0)")
    add("--seed", type=int, metavar="N", help="random bank and samples (default: 0)")
    add("--precision", choices=PRECISIONS, help="(default: float32)")
    add("--quick", action="store_true", help="small defaults; the report says so")


def _add_output(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add what all commands share: where results go, repeating and resuming."""
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, metavar="DIR", help=f"folder to write (default: {folder})")
    output.add_argument("--overwrite", action="store_true", help="replace what is in the folder")
    output.add_argument(
        "--resume",
        action="store_true",
        help="insist on going on with an interrupted run (else done when it matches)",
    )
    output.add_argument(
        "--from",
        dest="source",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="results.nc",
        help="repeat the run of this result; further options change it",
    )
    output.add_argument(
        "--dry-run", action="store_true", help="print predicted time and memory, simulate nothing"
    )
    output.add_argument("--no-progress", action="store_true", help="no progress bar")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(
        prog="critjax",
        description="When and how does structure appear while a diffusion model generates an image?",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"critjax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for command, help_line, description, epilog, add_settings, folder in (
        (
            "criticality",
            "predict, simulate and measure the onset of structure for one bank of patches",
            _DESCRIPTION,
            _EPILOG,
            _add_settings,
            "criticality-BANK",
        ),
        (
            "landau",
            "replace the exact dynamics of pattern banks by a Ginzburg-Landau equation, and see where that holds",
            _LANDAU_DESCRIPTION,
            _LANDAU_EPILOG,
            _add_landau_settings,
            "landau-BANKS",
        ),
        (
            "compare",
            "measure a trained network and set it beside patch models, Gaussian model and closure",
            COMPARE_DESCRIPTION,
            COMPARE_EPILOG,
            add_compare_settings,
            "compare-NETWORK",
        ),
        (
            "guide",
            "ask whether guidance works best where modes soften, for an exact model or a network",
            GUIDE_DESCRIPTION,
            GUIDE_EPILOG,
            add_guide_settings,
            "guide-MODEL",
        ),
    ):
        study = commands.add_parser(
            command,
            help=help_line,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_settings(study)
        _add_output(study, f"critjax-runs/{folder}")
    training = commands.add_parser(
        "train",
        help="train a denoising network, local or U-Net (needs critjax[networks])",
        description="Train a denoising network with the loss of Karras et al. 2022; a killed run goes on.",
        allow_abbrev=False,
    )
    add_training(training)
    classifier = commands.add_parser(
        "train-classifier",
        help="train and calibrate a classifier that judges samples (needs critjax[networks])",
        description="Train a classifier of labelled images, fit its temperature on images held out, test it.",
        allow_abbrev=False,
    )
    add_classifier_training(classifier)
    return parser
