r"""Training of classifiers: cross-entropy, optax's AdamW, an average of the weights, light augmentation.

.. math:: E\left[-\sum_c q_c \ln \mathrm{softmax}(z(x))_c\right], \qquad q_c = (1 - s) \delta_{c, label} + s / K

with label smoothing s over K classes. Every step draws images and augmentation from its own number and the seed.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from critjax._checks import check, check_integer, check_rank
from critjax._stored import option
from critjax._typing import Array, PRNGKey
from critjax.networks._architectures import Parameters
from critjax.networks._classifier import ClassifierConfig, apply_classifier, init_classifier
from critjax.networks._training import (
    Progress,
    TrainedNetwork,
    TrainingState,
    check_finite,
    moved_average,
    seconds_left,
    summed_gradient,
)


@dataclasses.dataclass(frozen=True)
class ClassifierTraining:
    """How a classifier is trained.

    Parameters
    ----------
    num_steps, batch_size : int
    learning_rate : float
        Peak of AdamW's, after ``warmup_steps``; it falls to zero by a cosine.
    warmup_steps : int
    weight_decay : float
        Per step and unit of learning rate.
    clip_norm : float
        Bound on the gradient's norm.
    ema_decay : float
        Of the average of parameters that is kept as the result; it starts faster, as ``(1 + n)/(10 + n)``.
    label_smoothing : float
        s of the module, in [0, 1).
    flip : bool
        Mirror images at random.
    shift : int
        Move images by up to so many pixels, each way; what comes in repeats the edge.
    noise_std : float
        Add white noise to every image, of a standard deviation drawn evenly from 0 to this, in image units.
    seed : int

    Raises
    ------
    ValueError
        If a value is illegal, naming it.
    """

    num_steps: int = option(4500, metavar="N")
    batch_size: int = option(128, metavar="N")
    learning_rate: float = option(4e-3, "peak of AdamW's", metavar="R")
    warmup_steps: int = option(300, metavar="N")
    weight_decay: float = option(0.01, metavar="R")
    clip_norm: float = option(1.0, "bound on the gradient", metavar="R")
    ema_decay: float = option(0.995, "of the average of weights", metavar="R")
    label_smoothing: float = option(0.0, metavar="S")
    flip: bool = option(True, "mirror images at random")
    shift: int = option(1, "move images by up to so many pixels", metavar="N")
    noise_std: float = option(0.0, "largest white noise added", metavar="S")
    seed: int = option(0, metavar="N")

    def __post_init__(self) -> None:
        """Validate every value."""
        for name, low in (
            ("num_steps", 1),
            ("batch_size", 1),
            ("warmup_steps", 0),
            ("shift", 0),
            ("seed", 0),
        ):
            check_integer(self, name, low, "correct it", optional=False)
        advice = "leave it out for the default"
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            check(value > 0, name, "a number > 0", value, advice)
        for name in ("weight_decay", "noise_std"):
            value = getattr(self, name)
            check(value >= 0, name, "a number >= 0", value, advice)
        for name in ("ema_decay", "label_smoothing"):
            value = getattr(self, name)
            check(0 <= value < 1, name, "a number in [0, 1)", value, advice)


def _optimiser(training: ClassifierTraining) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, training.warmup_steps, max(training.num_steps, training.warmup_steps + 1)
    )
    adam = optax.adamw(schedule, weight_decay=training.weight_decay)
    return optax.chain(optax.clip_by_global_norm(training.clip_norm), adam)


def augment(images: Array, key: PRNGKey, *, flip: bool, shift: int, noise_std: float) -> Array:
    """Mirror, move and make noisy a batch (B, H, W, C), every image by its own draw; see `ClassifierTraining`."""
    count, height, width, channels = images.shape
    keys = jax.random.split(key, 4)
    if flip:
        mirrored = jax.random.bernoulli(keys[0], 0.5, (count, 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if shift > 0:
        padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
        corners = jax.random.randint(keys[1], (count, 2), 0, 2 * shift + 1)
        size = (height, width, channels)
        images = jax.vmap(lambda x, c: jax.lax.dynamic_slice(x, (c[0], c[1], 0), size))(padded, corners)
    if noise_std > 0:
        levels = jax.random.uniform(keys[2], (count, 1, 1, 1), images.dtype, 0.0, noise_std)
        images = images + levels * jax.random.normal(keys[3], images.shape, images.dtype)
    return images


def classification_loss(
    config: ClassifierConfig, label_smoothing: float, params: Parameters, images: Array, labels: Array
) -> Array:
    """Mean cross-entropy of a batch with smoothed labels, see the module."""
    _, logits = apply_classifier(config, params, images)
    wanted = optax.smooth_labels(jax.nn.one_hot(labels, config.num_classes), label_smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits, wanted))


def _make_step(
    config: ClassifierConfig, training: ClassifierTraining
) -> Callable[[TrainingState, Array, Array], tuple[TrainingState, Array]]:
    """Return a compiled ``(state, images, labels) -> (state, loss)``; the state is given away."""
    optimiser = _optimiser(training)
    loss = functools.partial(classification_loss, config, training.label_smoothing)

    def step(state: TrainingState, images: Array, labels: Array) -> tuple[TrainingState, Array]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(training.seed), state.step))
        chosen = jax.random.randint(keys[0], (training.batch_size,), 0, images.shape[0])
        x = augment(
            images[chosen],
            keys[1],
            flip=training.flip,
            shift=training.shift,
            noise_std=training.noise_std,
        )
        value, gradient = summed_gradient(loss, state.params, (x, labels[chosen]))
        updates, memory = optimiser.update(gradient, state.optimiser, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        average = moved_average(state.average, params, state.step, training.ema_decay)
        return TrainingState(state.step + 1, params, average, memory), value

    return jax.jit(step, donate_argnums=0)


def train_classifier(
    config: ClassifierConfig,
    training: ClassifierTraining,
    images: Any,
    labels: Any,
    *,
    log_every: int = 100,
    progress: Progress | None = None,
) -> TrainedNetwork:
    """Train a classifier; the same settings and images give the same weights.

    Parameters
    ----------
    config, training
        What is trained, and how.
    images : (N, H, W, C) array
        In [-1, 1], kept on the device.
    labels : (N,) integer array
        0 ... num_classes - 1.
    log_every : int
        Steps between entries of the log.
    progress : callable, optional
        ``(step, steps, loss, seconds left)`` at every entry of the log, and after the first step, whose own loss it
        gets, with nan seconds.

    Returns
    -------
    TrainedNetwork
        Averaged parameters and the log.

    Raises
    ------
    ValueError
        If images or labels do not fit, or the loss or a parameter is no longer finite, which is noticed at every entry
        of the log.
    """
    check_rank("images", images, "N H W C")
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels, jnp.int32)
    good = labels.shape == images.shape[:1] and labels.size > 0
    good = good and int(labels.min()) >= 0 and int(labels.max()) < config.num_classes
    expected = f"one of 0 ... {config.num_classes - 1} for each of {len(images)} images"
    got = f"shape {labels.shape}" + (f" from {labels.min()} to {labels.max()}" if labels.size else "")
    check(good, "labels", expected, got, "match num_classes of the config")
    params = init_classifier(config, jax.random.fold_in(jax.random.key(training.seed), 2**31 - 1))
    average = jax.tree.map(jnp.array, params)  # a copy: the step gives its state away
    state = TrainingState(jnp.zeros((), jnp.int32), params, average, _optimiser(training).init(params))
    step_fn, steps, recent, losses = _make_step(config, training), training.num_steps, [], []
    began = time.perf_counter()
    for step in range(1, steps + 1):
        state, value = step_fn(state, images, labels)
        recent.append(value)
        logged = step % log_every == 0 or step == steps
        if logged:  # only then is the device waited for
            values = list(map(float, recent))
            check_finite(values, state.params, step)
            losses.append([step, float(np.mean(values))])
            recent = []
        if step == 1:
            jax.block_until_ready(value)
            began = time.perf_counter()
        if progress is not None and (logged or step == 1):
            shown = losses[-1][1] if logged else float(value)
            progress(step, steps, shown, seconds_left(began, step - 1, steps - step))
    return TrainedNetwork(state.average, np.asarray(losses, np.float64).reshape(-1, 2))
