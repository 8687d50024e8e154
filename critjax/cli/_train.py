"""``critjax train``: data in, a trained network with its log, held-out losses and samples out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from critjax._checks import check
from critjax._stored import option
from critjax.cli._options import add_options, pick

WEIGHTS, LOG, PICTURE = "network.safetensors", "training.json", "samples.png"
NUM_SAMPLES = 36
#: Largest and smallest sigma of the samples, in image units.
SAMPLE_RANGE = (80.0, 0.02)


#: What `critjax train` gives a network unless it is told otherwise.
ARCHITECTURE_DEFAULTS: dict[str, dict[str, Any]] = {
    "local": {"width": 48, "stem": 5, "norms": 1, "dilations": (1, 1, 1)},
    "unet": {"width": 32, "multipliers": (1, 2, 2), "blocks": 2, "attention": False},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command takes beside the values of `NetworkConfig` and `TrainingConfig`."""

    conditional: bool = option(False, "train with the labels of the images")
    data: str = option("fashion-mnist", "fashion-mnist or your images", metavar="NAME|PATH", shown="it")
    num_images: int | None = option(None, "images taken, a tenth of them held out", metavar="N", shown="all")
    num_held_out: int = option(500, "images of the held-out loss", metavar="N")
    sample_eta: float = option(
        0.0,
        "of the samples: 0, probability flow; above, reverse SDE, whose longer relaxation makes the parts of a "
        "local network's images fit",
        metavar="E",
    )
    sample_steps: int = option(64, "steps of the samples; 64 (1 + eta) will do", metavar="N")
    sample_guidance: float = option(
        1.0,
        "of the samples of a network with classes: weight of the class, 1 without guidance",
        metavar="W",
    )
    log_every: int = option(100, "steps between entries of the log", metavar="N")
    checkpoint_seconds: float = option(300.0, "a killed run loses no more", metavar="S", above=0.0)
    out: Path = option(dataclasses.MISSING, "folder to write; a killed run goes on from there", metavar="DIR")
    no_progress: bool = option(False, "no progress line")


def _shown(name: str) -> str:
    """Write the default of an option of the architecture, for each architecture where they differ."""
    found = {kind: values[name] for kind, values in ARCHITECTURE_DEFAULTS.items() if name in values}
    texts = {
        kind: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for kind, value in found.items()
    }
    return (
        ", ".join(f"{kind} {text}" for kind, text in texts.items()) if len(texts) > 1 else texts.popitem()[1]
    )


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``critjax train``."""
    from critjax.networks import NetworkConfig, TrainingConfig

    parser.description = (
        "Train a denoising network with the loss of Karras et al. 2022; a killed run goes on."
    )
    names = {name for known in ARCHITECTURE_DEFAULTS.values() for name in known} - {"attention"}
    add_options(parser, NetworkConfig, group="architecture", shown={name: _shown(name) for name in names})
    add_options(parser, TrainingConfig, group="training")
    add_options(parser, Options, group="data, samples and output", filled=True)


def load_training_data(options: argparse.Namespace) -> tuple[Any, Any]:
    """Load training and held-out images; without a test split the last tenth is held out."""
    from critjax.data import load_dataset, load_fashion_mnist

    if options.data == "fashion-mnist" and options.num_images is None:
        # Not load_dataset, which would be content with the embedded thousand.
        return load_fashion_mnist(split="train"), load_fashion_mnist(split="test")
    found = load_dataset(options.data, num_images=options.num_images)
    count = len(found.images)
    check(count >= 20, "--num-images", "at least 20 images", count, "a tenth of them is held out")
    cut = count - count // 10
    labels = found.labels
    return (
        found._replace(images=found.images[:cut], labels=None if labels is None else labels[:cut]),
        found._replace(images=found.images[cut:], labels=None if labels is None else labels[cut:]),
    )


def show_steps(
    shown: bool = True, safe_point: Callable[[], None] = lambda: None
) -> Callable[[int, int, float, float], None]:
    """Say that the step is being compiled, and return what then rewrites that line on the standard error stream.

    At each of its calls the run may end.
    """

    def show(step: int, steps: int, loss: float, left: float) -> None:
        safe_point()
        if not shown:
            return
        remaining = "" if math.isnan(left) else f", {left / 60:.1f} min left"
        text = f"\rstep {step} of {steps}, loss {loss:.4f}{remaining}   "
        print(text, end="", file=sys.stderr, flush=True)

    if shown:
        print("compiling the training step", end="", file=sys.stderr, flush=True)
    return show


def run_train(
    options: argparse.Namespace, command: str, safe_point: Callable[[], None] = lambda: None
) -> int:
    """Train or go on training, then evaluate, sample and store everything in the output folder."""
    import numpy as np

    from critjax.networks import (
        EVALUATION_SIGMAS,
        NetworkConfig,
        TrainingConfig,
        apply,
        held_out_loss,
        load_network,
        save_network,
        train,
    )
    from critjax.store import write_file

    steps, eta, guidance = options.sample_steps, options.sample_eta, options.sample_guidance
    check(steps >= 1, "--sample-steps", "a number of steps >= 1", steps, "use 64")
    check(0 <= eta < math.inf, "--sample-eta", "a finite number >= 0", eta, "use 0, the probability flow")
    check(math.isfinite(guidance), "--sample-guidance", "a finite number", guidance, "use 1, no guidance")
    num_held_out = options.num_held_out
    check(
        num_held_out >= 2,
        "--num-held-out",
        "two images or more",
        num_held_out,
        "use 500; the error needs two",
    )
    given = dict(vars(options))
    training = pick(TrainingConfig, given)
    names = [field.name for field in dataclasses.fields(NetworkConfig)]
    shape = {name: given[name] for name in names if name in given}
    stored = None if training.start is None else load_network(training.start)
    start = None if stored is None else stored.config
    chosen = [f"--{name}" for name in (*shape, *(("conditional",) if options.conditional else ()))]
    advice = "leave them out: the architecture is that of the network"
    expected = "no options of the architecture"
    check(start is None or not chosen, "--from", expected, ", ".join(chosen), advice)
    architecture = shape.get("architecture", NetworkConfig.architecture)
    defaults = ARCHITECTURE_DEFAULTS[architecture]
    every = {name for known in ARCHITECTURE_DEFAULTS.values() for name in known}
    foreign = ", ".join(f"--{name}" for name in shape if name in every and name not in defaults)
    expected = f"options of the {architecture} architecture"
    check(not foreign, "critjax train", expected, foreign, "leave them out")
    conditional = options.conditional if start is None else start.num_classes > 0
    check(
        guidance == 1 or (conditional and training.label_dropout > 0),
        "--sample-guidance",
        "a network with classes that is trained without them, too",
        "--label-dropout 0" if conditional else "none",
        "add --conditional and a label dropout, or leave the guidance out",
    )
    training_set, held_out = load_training_data(options)
    labels = training_set.labels if conditional else None
    check(
        not conditional or labels is not None,
        "--conditional",
        "images with labels",
        "none",
        "leave it out",
    )
    config = start or NetworkConfig(
        **{**defaults, **shape},
        channels=training_set.images.shape[-1],
        num_classes=0 if labels is None else int(np.max(labels)) + 1,
        sigma_data=round(float(np.std(training_set.images)), 4),
    )
    if conditional:
        largest = int(np.max(held_out.labels[:num_held_out]))
        expected = f"held-out labels below {config.num_classes}"
        advice = "shuffle images that are sorted by class: the last tenth is held out"
        check(largest < config.num_classes, "--data", expected, largest, advice)
    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    check(
        not (folder / WEIGHTS).exists(),
        "--out",
        "a folder without a finished network",
        folder,
        "choose another",
    )

    started = time.perf_counter()
    result = train(
        config,
        training,
        training_set.images,
        labels,
        folder=folder,
        checkpoint_seconds=options.checkpoint_seconds,
        log_every=options.log_every,
        progress=show_steps(not options.no_progress, safe_point),
    )
    print(file=sys.stderr)
    images = held_out.images[:num_held_out]
    losses = {"held_out_loss": held_out_loss(lambda x, s: apply(config, result.params, x, s), images)}
    if conditional:
        losses["held_out_loss_with_class"] = held_out_loss(
            lambda x, s, y: apply(config, result.params, x, s, y),
            images,
            labels=held_out.labels[:num_held_out],
        )
    info = {
        "command": command,
        "training": dataclasses.asdict(training),
        "data": f"{training_set.name}, {len(training_set.images)} images",
        "held_out_images": len(images),
        **{
            name: [[s, *row] for s, row in zip(EVALUATION_SIGMAS, rows.tolist(), strict=True)]
            for name, rows in losses.items()
        },
        "seconds": round(time.perf_counter() - started, 1),
        "losses": result.losses.tolist(),
    }
    if stored is not None:  # what the run started from has its own command, settings and log
        info["earlier"] = stored.info
    log = {**info, "config": json.loads(config.to_json())}
    write_file(folder / LOG, json.dumps(log, indent=1))
    seed = training.seed + 1
    how = {"num_steps": steps, "eta": eta, "guidance": guidance}
    samples = draw_samples(config, result.params, images.shape[1:], seed, **how)
    write_file(folder / PICTURE, picture(samples))
    # Last: weights in the folder say that the run is finished, and a finished run is not gone on with.
    save_network(folder / WEIGHTS, config, result.params, info)
    columns = ", then told the class" if conditional else ""
    print(f"held-out loss per pixel, {len(images)} images{columns}:")
    for sigma, *rows in zip(EVALUATION_SIGMAS, *losses.values(), strict=True):
        cells = "   ".join(f"{mean:.5f} ± {error:.5f}" for mean, error in rows)
        print(f"  sigma {sigma:<6g} {cells}")
    print(f"{info['seconds']:.0f} s; weights {folder / WEIGHTS}, samples {folder / PICTURE}")
    return 0


def draw_samples(
    config: Any,
    params: Any,
    shape: tuple[int, ...],
    seed: int,
    *,
    num_steps: int,
    eta: float,
    guidance: float = 1.0,
    count: int = NUM_SAMPLES,
) -> Any:
    """Draw images (count, H, W, C) from a network, of all classes in turn; eta as of `critjax.sample`.

    ``guidance`` is the weight of the class, `critjax.guided`'s w, at every noise.

    Heun steps down Karras' ladder; what is shown is the denoised end, D(x, sigma) at the last noise.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from critjax.guidance import constant, guided
    from critjax.networks import network_denoiser
    from critjax.noise import karras_sigmas
    from critjax.sampling import sample

    sigmas, size = karras_sigmas(*SAMPLE_RANGE, num_steps), (shape[0], shape[1], shape[2])

    def draw(pair: tuple[Any, Any]) -> Any:
        key, label = pair
        denoise = network_denoiser(config, params, label if config.num_classes else None)
        if config.num_classes:
            denoise = guided(network_denoiser(config, params), denoise, constant(guidance))
        return sample(denoise, key, size, sigmas, eta=eta, save_every=len(sigmas) - 1).denoised[-1]

    keys = jax.random.split(jax.random.key(seed), count)
    classes = jnp.arange(count) % max(config.num_classes, 1)
    return np.asarray(jax.jit(lambda pairs: jax.lax.map(draw, pairs, batch_size=12))((keys, classes)))


def picture(samples: Any) -> bytes:
    """Draw a grid of images (N, H, W, C) in [-1, 1] as PNG."""
    import io

    import numpy as np
    from PIL import Image

    count = int(np.ceil(np.sqrt(len(samples))))
    height, width, channels = samples.shape[1:]
    padded = np.full((count * count, height + 2, width + 2, channels), 1.0)
    padded[: len(samples), 1:-1, 1:-1] = np.clip(samples, -1, 1)
    grid = padded.reshape(count, count, height + 2, width + 2, channels).swapaxes(1, 2)
    grid = grid.reshape(count * (height + 2), count * (width + 2), channels)
    pixels = np.rint(127.5 * (grid + 1)).astype(np.uint8)
    image, found = Image.fromarray(pixels[..., 0] if channels == 1 else pixels), io.BytesIO()
    image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST).save(found, "PNG")
    return found.getvalue()
