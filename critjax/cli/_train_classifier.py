"""``critjax train-classifier``: labelled images in, a calibrated classifier and what it is worth out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from critjax._checks import check
from critjax._stored import option
from critjax.cli._options import add_options, pick
from critjax.cli._train import load_training_data, show_steps

WEIGHTS, LOG = "classifier.safetensors", "classifier.json"
#: White noise on the test images, standard deviations in image units: samplers leave some.
NOISE_LEVELS = (0.05, 0.1, 0.2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command takes beside the values of `ClassifierConfig` and `ClassifierTraining`."""

    data: str = option(
        "fashion-mnist", "fashion-mnist or your labelled images", metavar="NAME|PATH", shown="it"
    )
    num_images: int | None = option(
        None, "images taken, a tenth of them for the test", metavar="N", shown="all"
    )
    num_held_out: int | None = option(None, "training images that calibrate", metavar="N", shown="a twelfth")
    log_every: int = option(100, "steps between entries of the log", metavar="N")
    out: Path = option(dataclasses.MISSING, "folder to write", metavar="DIR")
    no_progress: bool = option(False, "no progress line")


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``critjax train-classifier``."""
    from critjax.networks import ClassifierConfig, ClassifierTraining

    parser.description = (
        "Train a classifier of labelled images, fit its temperature on images held out, test it."
    )
    add_options(parser, ClassifierConfig, group="classifier")
    add_options(parser, ClassifierTraining, group="training")
    add_options(parser, Options, group="data and output", filled=True)


def _round(value: float) -> float:
    return round(value, 6)


def _worth(
    bare: Any, judged: Any, sets: dict[str, tuple[Any, Any]], seed: int
) -> tuple[dict[str, Any], list[list[float]]]:
    """Measure a classifier before and after calibration on sets of images, and on the last of them in noise."""
    import numpy as np

    from critjax.networks import evaluate_classifier

    values: dict[str, Any] = {}
    for name, (images, labels) in sets.items():
        before, after = (evaluate_classifier(c, images, labels) for c in (bare, judged))
        values[name] = {
            "images": len(images),
            "accuracy": _round(after.accuracy),
            "accuracy_error": _round(after.accuracy_error),
            "negative_log_likelihood_before": _round(before.negative_log_likelihood),
            "negative_log_likelihood": _round(after.negative_log_likelihood),
            "negative_log_likelihood_error": _round(after.negative_log_likelihood_error),
            "calibration_error_before": _round(before.calibration_error),
            "calibration_error": _round(after.calibration_error),
            "confusion": np.asarray(after.confusion).tolist(),
        }
    noise = np.random.default_rng(seed).normal(size=images.shape).astype(np.float32)
    in_noise = [(s, evaluate_classifier(judged, images + s * noise, labels)) for s in NOISE_LEVELS]
    return values, [[s, _round(r.accuracy), _round(r.accuracy_error)] for s, r in in_noise]


def run_train_classifier(
    options: argparse.Namespace, command: str, safe_point: Callable[[], None] = lambda: None
) -> int:
    """Train, calibrate on images held out from training, judge on the test images, store everything."""
    from critjax.networks import (
        Classifier,
        ClassifierConfig,
        ClassifierTraining,
        classifier_logits,
        fit_temperature,
        save_classifier,
        train_classifier,
    )
    from critjax.store import locked, write_file

    given = dict(vars(options))
    found, test = load_training_data(options)
    check(found.labels is not None, "--data", "images with labels", "none", "use class folders or an .npz")
    count = len(found.images)
    held_out = count // 12 if options.num_held_out is None else options.num_held_out
    expected = f"from 1 to {count - 1} of the {count} training images"
    check(0 < held_out < count, "--num-held-out", expected, held_out, "calibration needs some")
    cut = count - held_out
    config = ClassifierConfig(
        image_shape=found.images.shape[1:],
        num_classes=len(found.class_names),
        **{name: given.pop(name) for name in ("widths",) if name in given},
    )
    training = pick(ClassifierTraining, given)
    folder = options.out
    with locked(folder, "--out"):
        free = not (folder / WEIGHTS).exists()
        check(free, "--out", "a folder without a finished classifier", folder, "choose another")
        started = time.perf_counter()
        result = train_classifier(
            config,
            training,
            found.images[:cut],
            found.labels[:cut],
            log_every=options.log_every,
            progress=show_steps(not options.no_progress, safe_point),
        )
        if not options.no_progress:
            print(file=sys.stderr)
        bare = Classifier(config, result.params, 1.0, {})
        calibration = (found.images[cut:], found.labels[cut:])
        temperature = fit_temperature(classifier_logits(bare, calibration[0]), calibration[1])
        judged = bare._replace(temperature=temperature)
        sets = {"held_out": calibration, "test": (test.images, test.labels)}
        values, in_noise = _worth(bare, judged, sets, training.seed)
        info = {
            "command": command,
            "training": dataclasses.asdict(training),
            "data": f"{found.name}, the first {cut} of {count} images",
            "calibrated_on": f"{found.name}, the last {held_out} of {count} images",
            "temperature": temperature,
            "class_names": list(found.class_names),
            **values,
            "test_accuracy_in_noise": in_noise,
            "seconds": round(time.perf_counter() - started, 1),
        }
        log = {**info, "config": json.loads(config.to_json()), "losses": result.losses.tolist()}
        write_file(folder / LOG, json.dumps(log, indent=1))
        # Last: weights in the folder say that the run is finished.
        save_classifier(folder / WEIGHTS, judged._replace(info=info))
    for name, row in values.items():
        print(
            f"{name:<9} {row['images']} images: accuracy {row['accuracy']:.4f} ± {row['accuracy_error']:.4f}, "
            f"calibration error {row['calibration_error_before']:.4f} -> {row['calibration_error']:.4f}"
        )
    print(f"{info['seconds']:.0f} s; temperature {temperature:.3f}; weights {folder / WEIGHTS}")
    return 0
