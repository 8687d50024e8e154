"""The options of the commands about networks: ``train``, ``train-classifier``, ``compare`` and ``guide``."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

#: What `critjax train` gives a network unless it is told otherwise.
ARCHITECTURE_DEFAULTS: dict[str, dict[str, Any]] = {
    "local": {"width": 48, "stem": 5, "norms": 1, "dilations": (1, 1, 1)},
    "unet": {"width": 32, "multipliers": (1, 2, 2), "blocks": 2, "attention": False},
}

COMPARE_DESCRIPTION = """\
Measure a trained network with the instruments of the theory, and set it beside the models that theory knows.

The command
  1. measures: symbols of the mean Jacobian and of the regression, gap, lengths, receptive field and eigenmodes, along
     the network's own trajectories and on noised images, with the Gaussian closure computed from the network alone;
  2. puts the same noised images through LS and ELS patch models of every window size and through the ideal denoiser:
     relative errors, the best size at every noise level, losses;
  3. follows network, best patch models and ideal denoiser from the same noise;
  4. reports: a table here; report.html, figures/*.png and results.nc in the output folder.
"""

COMPARE_EPILOG = """\
examples:
  critjax compare local-11                           a shipped network beside 200 embedded images (some minutes)
  critjax compare local-11 --quick                   the same, small
  critjax compare my/network.safetensors --data photos/ --sizes 3,5,7,11
                                                     a network that `critjax train` wrote, with your own images

Other denoisers, in JAX or PyTorch: critjax.studies.compare.run(settings, denoise_fn) in Python.
"""


def add_compare_settings(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting of the comparison."""
    add = functools.partial(parser.add_argument, default=argparse.SUPPRESS)
    add("network", nargs="?", metavar="NETWORK", help="shipped name or file of weights (default: local-11)")
    add(
        "--class-label",
        type=int,
        metavar="N",
        help="class of a conditional network and of images (default: none)",
    )
    add("--data", metavar="NAME|PATH", help="fashion-mnist or your images (default: it)")
    add("--num-images", type=int, metavar="N", help="training images of the patch models (default: 200)")
    add("--sizes", type=_numbers, metavar="P,Q,...", help="windows, odd (default: 3,5,7,9,11,15,19)")
    add("--num-levels", type=int, metavar="N", help="noise levels of the comparison (default: 8)")
    add("--num-queries", type=int, metavar="N", help="noised images a level (default: 8)")
    add("--num-samples", type=int, metavar="N", help="trajectories that are measured (default: 48)")
    add("--probe-samples", type=int, metavar="N", help="fields with probed Jacobian (default: 8)")
    add("--closure-samples", type=int, metavar="N", help="fields of the closure; 0: none (default: 16)")
    add("--num-films", type=int, metavar="N", help="trajectories from the same noise (default: 4)")
    add("--num-modes", type=int, metavar="N", help="eigenmodes shown; 0: none (default: 6)")
    add("--seed", type=int, metavar="N", help="(default: 0)")
    add("--quick", action="store_true", help="small defaults; the report says so")


GUIDE_DESCRIPTION = """\
Ask whether a push is best spent where modes soften: guidance schedules of one budget, the same seeds for all.

The command
  1. writes down every schedule, seed and the primary statistic, before anything is sampled;
  2. measures the softening of the uniform mode on the model's own trajectories and recommends from it alone a pulse,
     the critical pulse, and a window;
  3. predicts the response to a pulse: linear theory, Gaussian closure, regression; differentiates the sampler;
  4. samples: no guidance, constant, pulses along the ladder, random positions, the best interval of a search on other
     seeds, critical pulse and window; judges response, diversity and distance to real images;
  5. reports: a table here; report.html, figures/*.png and results.nc in the output folder.
"""

GUIDE_EPILOG = """\
examples:
  critjax guide                              plus and minus domains, where everything is known (a minute or two)
  critjax guide ideal --eta 1                classes of Fashion-MNIST under the reverse SDE, exact posterior
  critjax guide els                          the same by patches
  critjax guide unet-classes                 a shipped class-conditional network, judged by a shipped classifier
  critjax guide unet-classes --num-samples 500 --num-search 100 --num-levels 18 --budgets 0.5,1,2 \\
      --susceptibility-samples 32            the full experiment (over an hour); a killed run goes on
"""


def add_guide_settings(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting of the guidance study."""
    add = functools.partial(parser.add_argument, default=argparse.SUPPRESS)
    add("model", nargs="?", metavar="MODEL", help="patterns, ideal, els, or a network (default: patterns)")
    add("--budgets", type=_floats, metavar="A,B", help="of (w - baseline) d tau (default: by model)")
    add("--baseline", type=float, metavar="W", help="0: unconditional, 1: conditional (default: 0)")
    add("--num-samples", type=int, metavar="N", help="images of every schedule (default: by model)")
    add("--num-search", type=int, metavar="N", help="images of every searched interval (default: by model)")
    add("--num-positions", type=int, metavar="N", help="pulses along the ladder (default: 13)")
    add("--pulse-width", type=float, metavar="T", help="in tau = -ln sigma (default: 0.5)")
    add("--num-levels", type=int, metavar="N", help="steps of the sampler (default: by model)")
    add("--sigma-max", type=float, metavar="S", help="first noise (default: by model)")
    add("--sigma-min", type=float, metavar="S", help="last noise (default: by model)")
    add("--window-samples", type=int, metavar="N", help="trajectories of the recommendation (default: 16)")
    add(
        "--susceptibility-samples",
        type=int,
        metavar="N",
        help="images differentiated; 0: none (default: 32; networks none)",
    )
    add("--size", type=int, metavar="P", help="window of patch models, odd (default: 5)")
    add("--grid", type=int, metavar="N", help="side of pattern samples (default: 32)")
    add("--num-images", type=int, metavar="N", help="training images of ideal and els (default: 1000; 60)")
    add("--pool", type=int, metavar="N", help="average blocks of N x N pixels (default: ideal 1, els 2)")
    add("--eta", type=float, metavar="E", help="0: probability flow, 1: reverse SDE (default: 0)")
    add("--solver", choices=("heun", "euler"), help="(default: heun)")
    add("--batch-size", type=int, metavar="N", help="images sampled together (default: by model)")
    add("--seed", type=int, metavar="N", help="(default: 0)")
    add("--quick", action="store_true", help="small defaults; the report says so")


def _floats(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        message = f"expected numbers with commas, got {text!r}; pass e.g. 0.5,1"
        raise argparse.ArgumentTypeError(message) from None


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        message = f"expected integers with commas, got {text!r}; pass e.g. 1,2,2"
        raise argparse.ArgumentTypeError(message) from None


def _joined(numbers: Any) -> str:
    return ",".join(map(str, numbers))


def _add_training_config(parser: argparse.ArgumentParser) -> None:
    """Add one option per value of `TrainingConfig` but its start; what is not given is left to its defaults."""
    add = functools.partial(parser.add_argument, default=argparse.SUPPRESS)
    add("--num-steps", type=int, metavar="N", help="(default: 10000)")
    add("--batch-size", type=int, metavar="N", help="(default: 32)")
    add(
        "--learning-rate",
        type=float,
        metavar="R",
        help="peak of Adam's, from which it falls to zero by a cosine (default: 0.001)",
    )
    add(
        "--warmup-steps",
        type=int,
        metavar="N",
        help="steps in which the learning rate rises from zero (default: 500)",
    )
    add(
        "--clip-norm",
        type=float,
        metavar="R",
        help="bound on the gradient's norm; smaller where the loss jumps (default: 1.0)",
    )
    add(
        "--ema-decay",
        type=float,
        metavar="R",
        help="of the average of weights that is kept; it forgets after 1/(1 - R) steps (default: 0.999)",
    )
    add(
        "--log-noise-mean",
        type=float,
        metavar="M",
        help="mean of ln sigma in training; larger for form, smaller for texture (default: -0.6)",
    )
    add("--log-noise-std", type=float, metavar="S", help="standard deviation of ln sigma (default: 1.4)")
    add(
        "--label-dropout",
        type=float,
        metavar="P",
        help="probability of training without the label, which guidance needs (default: 0.1)",
    )
    add("--flip", action="store_true", help="mirror images at random")
    add("--seed", type=int, metavar="N", help="(default: 0)")


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``critjax train``."""
    add = parser.add_argument
    add("--architecture", choices=("local", "unet"), default="local", help="(default: %(default)s)")
    local, unet = ARCHITECTURE_DEFAULTS["local"], ARCHITECTURE_DEFAULTS["unet"]
    widths = f"(default: local {local['width']}, unet {unet['width']})"
    add("--width", type=int, metavar="N", help=f"channels inside {widths}")
    add(
        "--stem",
        type=int,
        metavar="N",
        help="local: side of the first convolution, odd; above 1 it sees where the image ends, too "
        f"(default: {local['stem']})",
    )
    add(
        "--norms",
        type=int,
        choices=(1, 2),
        help="local: 1, pixelwise norm after the convolution of a block; 2, before it, too "
        f"(default: {local['norms']})",
    )
    add(
        "--dilations",
        type=_numbers,
        metavar="A,B,...",
        help="local: a block each; receptive field stem + 2 sum "
        f"(default: {_joined(local['dilations'])}, which is 11 pixels)",
    )
    add(
        "--multipliers",
        type=_numbers,
        metavar="A,B,...",
        help=f"unet: a resolution each (default: {_joined(unet['multipliers'])})",
    )
    add(
        "--blocks",
        type=int,
        metavar="N",
        help=f"unet: blocks per resolution (default: {unet['blocks']})",
    )
    add("--attention", action="store_true", default=None, help="unet: attention at the coarsest resolution")
    add("--padding", choices=("zero", "periodic"), default="zero", help="(default: %(default)s)")
    add("--conditional", action="store_true", help="train with the labels of the images")
    add(
        "--from",
        dest="start",
        metavar="NETWORK",
        help="go on from a stored network, by name or file: its architecture, its weights",
    )
    shape = (
        "architecture",
        "width",
        "stem",
        "norms",
        "dilations",
        "multipliers",
        "blocks",
        "attention",
        "padding",
        "conditional",
    )
    parser.set_defaults(architecture_defaults={name: parser.get_default(name) for name in shape})
    add(
        "--data",
        default="fashion-mnist",
        metavar="NAME|PATH",
        help="fashion-mnist or your images (default: it)",
    )
    add("--num-images", type=int, metavar="N", help="images taken, a tenth of them held out (default: all)")
    _add_training_config(parser)
    add(
        "--num-held-out",
        type=int,
        default=500,
        metavar="N",
        help="images of the held-out loss (default: %(default)s)",
    )
    add(
        "--sample-eta",
        type=float,
        default=0.0,
        metavar="E",
        help="of the samples: 0, probability flow; above, reverse SDE, whose longer relaxation makes the parts of a "
        "local network's images fit (default: %(default)g)",
    )
    add(
        "--sample-steps",
        type=int,
        default=64,
        metavar="N",
        help="steps of the samples; 64 (1 + eta) will do (default: %(default)s)",
    )
    add(
        "--sample-guidance",
        type=float,
        default=1.0,
        metavar="W",
        help="of the samples of a network with classes: weight of the class, 1 without guidance "
        "(default: %(default)g)",
    )
    add(
        "--log-every",
        type=int,
        default=100,
        metavar="N",
        help="steps between entries of the log (default: %(default)s)",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write; a killed run goes on from there",
    )
    add("--no-progress", action="store_true", help="no progress line")


def add_classifier_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``critjax train-classifier``."""
    add, shown = parser.add_argument, "(default: %(default)s)"
    add(
        "--data",
        default="fashion-mnist",
        metavar="NAME|PATH",
        help="fashion-mnist or your labelled images (default: it)",
    )
    add(
        "--num-images",
        type=int,
        metavar="N",
        help="images taken, a tenth of them for the test (default: all)",
    )
    add("--num-held-out", type=int, metavar="N", help="training images that calibrate (default: a twelfth)")
    add(
        "--widths",
        type=_numbers,
        default=(32, 64, 128),
        metavar="A,B,...",
        help="channels of each stage (default: 32,64,128)",
    )
    add("--num-steps", type=int, default=4500, metavar="N", help=shown)
    add("--batch-size", type=int, default=128, metavar="N", help=shown)
    add("--learning-rate", type=float, default=4e-3, metavar="R", help="peak of AdamW's " + shown)
    add("--warmup-steps", type=int, default=300, metavar="N", help=shown)
    add("--weight-decay", type=float, default=0.01, metavar="R", help=shown)
    add("--clip-norm", type=float, default=1.0, metavar="R", help="bound on the gradient " + shown)
    add("--ema-decay", type=float, default=0.995, metavar="R", help="of the average of weights " + shown)
    add("--label-smoothing", type=float, default=0.0, metavar="S", help=shown)
    add(
        "--flip", action=argparse.BooleanOptionalAction, default=True, help="mirror images at random " + shown
    )
    add("--shift", type=int, default=1, metavar="N", help="move images by up to so many pixels " + shown)
    add("--noise-std", type=float, default=0.0, metavar="S", help="largest white noise added " + shown)
    add("--seed", type=int, default=0, metavar="N", help=shown)
    add("--log-every", type=int, default=100, metavar="N", help="steps between entries of the log " + shown)
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    add("--no-progress", action="store_true", help="no progress line")
