"""Training of denoisers: steps until the end, a log, and checkpoints from which a run that was killed goes on."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from critjax._checks import as_scalar, check, check_count, check_rank
from critjax.networks._architectures import NetworkConfig, Parameters
from critjax.networks._checkpoints import (
    checkpoint_arrays,
    digests,
    newest_checkpoint,
    save_checkpoint,
)
from critjax.networks._step import TrainingConfig, make_step, start_training
from critjax.store import locked

#: ``(step, steps, loss, seconds left)``; the seconds are nan after a run's first step, most of which is compilation.
Progress = Callable[[int, int, float, float], None]


class TrainedNetwork(NamedTuple):
    """Result of `train`."""

    params: Parameters
    """Averaged parameters."""
    losses: np.ndarray
    """(num_logged, 2): step and training loss, means over the steps in between."""


def check_finite(recent: list[float], params: Parameters, step: int) -> None:
    """Stop a run that has lost its way after ``step``, whose losses end with ``recent``, before that is kept."""
    advice = "lower the learning rate"
    for number, value in enumerate(recent, step - len(recent) + 1):
        check(math.isfinite(value), "training", "a finite loss", f"{value} at step {number}", advice)
    good = all(bool(np.isfinite(np.asarray(a)).all()) for a in jax.tree.leaves(params))
    check(good, "training", "finite parameters", f"others after step {step}", advice)


def seconds_left(began: float, done: int, left: int) -> float:
    """Extrapolate from ``done`` steps since ``began``, which do not count the compilation; nan if there are none."""
    if left == 0:
        return 0.0
    return (time.perf_counter() - began) / done * left if done else math.nan


def train(
    config: NetworkConfig,
    training: TrainingConfig,
    images: Any,
    labels: Any = None,
    *,
    folder: str | Path | None = None,
    checkpoint_every: int = 500,
    checkpoint_seconds: float = 300.0,
    log_every: int = 100,
    progress: Progress | None = None,
) -> TrainedNetwork:
    """Train a network; with a folder, go on from its checkpoint if there is one.

    Parameters
    ----------
    config, training
        What is trained, and how.
    images : (N, H, W, C) array
        In [-1, 1], kept on the device.
    labels : (N,) integer array, optional
        For a conditional network.
    folder : path, optional
        Where ``checkpoint.safetensors`` and the one before are kept, also when the run is interrupted or terminated; a
        run goes on only with the images, labels and starting weights that it began with. One run at a time.
    checkpoint_every, log_every : int
        Steps between checkpoints, and between entries of the log.
    checkpoint_seconds : float
        A checkpoint is due after that time, too, whatever the steps.
    progress : callable, optional
        ``(step, steps, loss, seconds left)`` at every entry of the log, and after the first step, whose own loss it
        gets, with nan seconds.

    Returns
    -------
    TrainedNetwork
        Averaged parameters and the log; those of a run that was killed and went on are the same.

    Raises
    ------
    ValueError, FileNotFoundError
        If images, labels or a checkpoint do not fit, another run uses the folder, or the loss or a parameter is no
        longer finite, which is noticed at every entry of the log and before every checkpoint.

    Notes
    -----
    The step is compiled once for a configuration, batch size, number of steps and shape of the images: another rate,
    seed or noise distribution needs no other program.

    Example
    -------
    >>> config, training = NetworkConfig(width=2, dilations=(1,)), TrainingConfig(num_steps=20, batch_size=4)
    >>> result = train(config, training, np.zeros((8, 6, 6, 1)), log_every=10)
    >>> result.losses[:, 0].tolist()
    [10.0, 20.0]
    """
    for name, value in (("checkpoint_every", checkpoint_every), ("log_every", log_every)):
        check_count(name, value, least=1, advice="it is a number of steps: use 100")
    check_rank("images", images, "N H W C")
    images = np.asarray(images, np.float32)
    got = f"{images.shape[-1]} channels"
    check(
        images.shape[-1] == config.channels, "images", f"{config.channels} channels", got, "match the config"
    )
    conditional = config.num_classes > 0
    expected = (
        f"labels of {config.num_classes} classes" if conditional else "none for an unconditional network"
    )
    got = "none" if labels is None else "labels"
    check((labels is not None) == conditional, "labels", expected, got, "match num_classes of the config")
    if labels is not None:
        labels = np.asarray(labels, np.int32)
        span = f"{int(labels.min())} ... {int(labels.max())}"
        good = (
            labels.shape == images.shape[:1]
            and int(labels.min()) >= 0
            and int(labels.max()) < config.num_classes
        )
        check(good, "labels", f"one of 0 ... {config.num_classes - 1} for every image", span, "correct them")
    seconds = as_scalar(
        "checkpoint_seconds", checkpoint_seconds, "a finite time above 0", "use 300", good=lambda s: s > 0
    )
    path = None if folder is None else Path(folder)
    with contextlib.nullcontext() if path is None else locked(path, "folder"):
        return _run(config, training, images, labels, path, checkpoint_every, seconds, log_every, progress)


def _run(
    config: NetworkConfig,
    training: TrainingConfig,
    images: Any,
    labels: Any,
    folder: Path | None,
    checkpoint_every: int,
    checkpoint_seconds: float,
    log_every: int,
    progress: Any,
) -> TrainedNetwork:
    data = {} if folder is None else digests(images, labels, training.start)
    found = None if folder is None else newest_checkpoint(folder, config, training, data)
    # All that the run needs to go on, replaced as a whole: wherever a signal ends the run, it is of one step.
    kept = found or (start_training(config, training), [], [])
    images, labels = jax.device_put((images, labels))
    step_fn, steps = make_step(config, training), training.num_steps
    first, began = int(kept[0].step) + 1, time.perf_counter()
    last_saved = began
    try:
        for step in range(first, steps + 1):
            state, losses, recent = kept
            state, value = step_fn(state, images, labels)
            recent = [*recent, value]
            logged = step % log_every == 0 or step == steps
            late = time.perf_counter() - last_saved >= checkpoint_seconds
            saved = late or step % checkpoint_every == 0 or step == steps
            if logged or saved:  # only then is the device waited for
                recent = [float(loss) for loss in recent]
                check_finite(recent, state.params, step)
            if logged:
                losses, recent = [*losses, [step, float(np.mean(recent))]], []
            kept = state, losses, recent
            if step == first:
                jax.block_until_ready(value)
                began = time.perf_counter()
            if progress is not None and (logged or step == first):
                shown = losses[-1][1] if logged else float(value)
                progress(step, steps, shown, seconds_left(began, step - first, steps - step))
            if folder is not None and saved:
                save_checkpoint(folder, config, training, checkpoint_arrays(*kept), data)
                last_saved = time.perf_counter()
    except (KeyboardInterrupt, SystemExit):
        lost = any(leaf.is_deleted() for leaf in jax.tree.leaves(kept[0]) if isinstance(leaf, jax.Array))
        if folder is not None and not lost:  # given away to a step that was not finished
            save_checkpoint(folder, config, training, checkpoint_arrays(*kept), data)
        raise
    state, losses, _ = kept
    return TrainedNetwork(state.average, np.asarray(losses, np.float64).reshape(-1, 2))
