r"""Training of classifiers: cross-entropy, optax's AdamW, an average of the weights, light augmentation.

.. math:: E\left[-\sum_c q_c \ln \mathrm{softmax}(z(x))_c\right], \qquad q_c = (1 - s) \delta_{c, label} + s / K

with label smoothing s over K classes. Every step draws images and augmentation from its own number and the seed.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from critjax._checks import check, check_count, check_rank, is_concrete
from critjax._programs import program
from critjax._stored import SEED, check_options, option
from critjax._typing import Array, PRNGKey
from critjax.networks._architectures import Parameters
from critjax.networks._classifier import ClassifierConfig, apply_classifier, init_classifier
from critjax.networks._step import TrainingState, first_state, moved_average, rates, summed_gradient
from critjax.networks._training import Progress, TrainedNetwork, check_finite, seconds_left


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

    num_steps: int = option(4500, metavar="N", least=1)
    batch_size: int = option(128, metavar="N", least=1)
    learning_rate: float = option(4e-3, "peak of AdamW's", metavar="R", above=0)
    warmup_steps: int = option(300, metavar="N", least=0)
    weight_decay: float = option(0.01, metavar="R")
    clip_norm: float = option(1.0, "bound on the gradient", metavar="R", above=0)
    ema_decay: float = option(0.995, "of the average of weights", metavar="R")
    label_smoothing: float = option(0.0, metavar="S")
    flip: bool = option(True, "mirror images at random")
    shift: int = option(1, "move images by up to so many pixels", metavar="N", least=0)
    noise_std: float = option(0.0, "largest white noise added", metavar="S")
    seed: int = option(0, **SEED)

    def __post_init__(self) -> None:
        """Validate every value."""
        check_options(self)
        advice = "leave it out for the default"
        for name in ("weight_decay", "noise_std"):
            value = getattr(self, name)
            check(value >= 0, name, "a number >= 0", value, advice)
        for name in ("ema_decay", "label_smoothing"):
            value = getattr(self, name)
            check(0 <= value < 1, name, "a number in [0, 1)", value, advice)


#: Values that the compiled step takes as arguments; what else it depends on is compiled in.
_NUMBERS = ("learning_rate", "weight_decay", "clip_norm", "ema_decay", "label_smoothing", "noise_std")


class Program(NamedTuple):
    """What of the training settings is part of the compiled step."""

    num_steps: int
    warmup_steps: int
    batch_size: int
    flip: bool
    shift: int
    noisy: bool


def _optimiser(program: Program, numbers: dict[str, Any]) -> optax.GradientTransformation:
    adamw = functools.partial(optax.adamw, weight_decay=numbers["weight_decay"])
    return rates(program, numbers["learning_rate"], adamw, numbers["clip_norm"])


@program(static_argnames=("config", "program"))
def _start(
    config: ClassifierConfig, program: Program, key: PRNGKey, numbers: dict[str, Any]
) -> TrainingState:
    params = init_classifier(config, jax.random.fold_in(key, 2**31 - 1))
    return first_state(params, _optimiser(program, numbers))


def augment(images: Array, key: PRNGKey, *, flip: bool, shift: int, noise_std: Any) -> Array:
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
    if not is_concrete(noise_std) or noise_std > 0:
        levels = jax.random.uniform(keys[2], (count, 1, 1, 1), images.dtype, 0.0, noise_std)
        images = images + levels * jax.random.normal(keys[3], images.shape, images.dtype)
    return images


def classification_loss(
    config: ClassifierConfig, label_smoothing: Any, params: Parameters, images: Array, labels: Array
) -> Array:
    """Mean cross-entropy of a batch with smoothed labels, see the module."""
    _, logits = apply_classifier(config, params, images)
    wanted = optax.smooth_labels(jax.nn.one_hot(labels, config.num_classes), label_smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits, wanted))


@program(static_argnames=("config", "program"), donate_argnames="state")
def _step(
    config: ClassifierConfig,
    program: Program,
    key: PRNGKey,
    numbers: dict[str, Any],
    state: TrainingState,
    images: Array,
    labels: Array,
) -> tuple[TrainingState, Array]:
    """Give the next state and the loss; the state is given away."""
    keys = jax.random.split(jax.random.fold_in(key, state.step))
    chosen = jax.random.randint(keys[0], (program.batch_size,), 0, images.shape[0])
    noise_std = numbers["noise_std"] if program.noisy else 0.0
    x = augment(images[chosen], keys[1], flip=program.flip, shift=program.shift, noise_std=noise_std)
    loss = functools.partial(classification_loss, config, numbers["label_smoothing"])
    value, gradient = summed_gradient(loss, state.params, (x, labels[chosen]))
    updates, memory = _optimiser(program, numbers).update(gradient, state.optimiser, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    average = moved_average(state.average, params, state.step, numbers["ema_decay"])
    return TrainingState(state.step + 1, params, average, memory), value


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

    Notes
    -----
    The step is compiled once for a configuration, batch size, number of steps, kind of augmentation and shape of the
    images: another rate or seed needs no other program.

    Example
    -------
    >>> config = ClassifierConfig(image_shape=(4, 4, 1), widths=(4,), num_classes=2)
    >>> training = ClassifierTraining(num_steps=20, batch_size=4)
    >>> images, labels = np.zeros((8, 4, 4, 1)), np.arange(8) % 2
    >>> train_classifier(config, training, images, labels, log_every=10).losses[:, 0].tolist()
    [10.0, 20.0]
    """
    check_count("log_every", log_every, least=1, advice="it is a number of steps: use 100")
    check_rank("images", images, "N H W C")
    images, labels = np.asarray(images, np.float32), np.asarray(labels, np.int32)
    good = labels.shape == images.shape[:1] and labels.size > 0
    good = good and int(labels.min()) >= 0 and int(labels.max()) < config.num_classes
    expected = f"one of 0 ... {config.num_classes - 1} for each of {len(images)} images"
    got = f"shape {labels.shape}" + (f" from {labels.min()} to {labels.max()}" if labels.size else "")
    check(good, "labels", expected, got, "match num_classes of the config")
    images, labels = jax.device_put((images, labels))
    program = Program(
        *(getattr(training, name) for name in Program._fields[:-1]), noisy=training.noise_std > 0
    )
    numbers = {name: float(getattr(training, name)) for name in _NUMBERS}
    key, steps, recent, losses = jax.random.key(training.seed), training.num_steps, [], []
    state = _start(config, program, key, numbers)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        state, value = _step(config, program, key, numbers, state, images, labels)
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
