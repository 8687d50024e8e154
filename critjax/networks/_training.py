r"""Training of denoisers: the loss and noise distribution of Karras et al. 2022, optax, checkpoints that resume.

.. math:: E\left[\frac{\sigma^2 + \sigma_d^2}{(\sigma \sigma_d)^2} |D(x_0 + \sigma \epsilon, \sigma) - x_0|^2\right],
          \qquad \ln \sigma \sim N(m, s^2)

Every step draws images, noise and labels from its own number and the seed: a run that was killed goes on to bitwise the
same parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from critjax._checks import check, check_count, check_rank
from critjax._stored import check_options, option
from critjax._typing import Array, PRNGKey
from critjax.networks._architectures import NetworkConfig, Parameters, apply, init
from critjax.networks._weights import flatten, load_network, read, unflatten, weights_digest, write

CHECKPOINT = "checkpoint.safetensors"
#: Images whose gradient is computed at once on CPUs.
_CPU_PART = 4

#: ``(step, steps, loss, seconds left)``; the seconds are nan after a run's first step, most of which is compilation.
Progress = Callable[[int, int, float, float], None]


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Parameters
    ----------
    num_steps, batch_size : int
    learning_rate : float
        Peak of Adam's, after ``warmup_steps``; it falls to zero by a cosine.
    warmup_steps : int
    clip_norm : float
        Bound on the gradient's norm.
    ema_decay : float
        Of the average of parameters that is kept as the result; it starts faster, as ``(1 + n)/(10 + n)``.
    log_noise_mean, log_noise_std : float
        Of ln sigma.
    label_dropout : float
        Probability of training a conditional network without the label.
    flip : bool
        Mirror images at random; off, because clothes and the theory both know left from right.
    seed : int
    start : str, optional
        Stored network, by name or file, whose parameters the run starts from; without it they are random.

    Raises
    ------
    ValueError
        If a value is illegal, naming it.
    """

    num_steps: int = option(10_000, metavar="N", least=1)
    batch_size: int = option(32, metavar="N", least=1)
    learning_rate: float = option(
        1e-3, "peak of Adam's, from which it falls to zero by a cosine", metavar="R", above=0
    )
    warmup_steps: int = option(500, "steps in which the learning rate rises from zero", metavar="N", least=0)
    clip_norm: float = option(
        1.0, "bound on the gradient's norm; smaller where the loss jumps", metavar="R", above=0
    )
    ema_decay: float = option(
        0.999, "of the average of weights that is kept; it forgets after 1/(1 - R) steps", metavar="R"
    )
    log_noise_mean: float = option(
        -0.6, "mean of ln sigma in training; larger for form, smaller for texture", metavar="M"
    )
    log_noise_std: float = option(1.4, "standard deviation of ln sigma", metavar="S", above=0)
    label_dropout: float = option(
        0.1, "probability of training without the label, which guidance needs", metavar="P"
    )
    flip: bool = option(False, "mirror images at random")
    seed: int = option(0, metavar="N", least=0)
    start: str | None = option(
        None,
        "go on from a stored network, by name or file: its architecture, its weights",
        flag="--from",
        metavar="NETWORK",
    )

    def __post_init__(self) -> None:
        """Validate every value."""
        check_options(self)
        check(
            math.isfinite(self.log_noise_mean),
            "log_noise_mean",
            "a finite number",
            self.log_noise_mean,
            "it is the mean of ln sigma",
        )
        check(0 <= self.ema_decay < 1, "ema_decay", "a number in [0, 1)", self.ema_decay, "use 0.999")
        check(0 <= self.label_dropout <= 1, "label_dropout", "a probability", self.label_dropout, "use 0.1")


class TrainingState(NamedTuple):
    """Everything that a run needs to go on."""

    step: Array
    params: Parameters
    average: Parameters
    optimiser: Any


class TrainedNetwork(NamedTuple):
    """Result of `train`."""

    params: Parameters
    """Averaged parameters."""
    losses: np.ndarray
    """(num_logged, 2): step and training loss, means over the steps in between."""


#: Values that the compiled step takes as arguments; what else it depends on is compiled in.
_NUMBERS = ("learning_rate", "clip_norm", "ema_decay", "log_noise_mean", "log_noise_std", "label_dropout")


class Program(NamedTuple):
    """What of the training settings is part of the compiled step."""

    num_steps: int
    warmup_steps: int
    batch_size: int
    flip: bool


def rates(
    program: Any, learning_rate: Any, optimiser: Callable[..., optax.GradientTransformation], clip_norm: Any
) -> optax.GradientTransformation:
    """Return an optimiser of clipped gradients, whose rate rises by a line and falls by a cosine."""
    unit = optax.warmup_cosine_decay_schedule(
        0.0, 1.0, program.warmup_steps, max(program.num_steps, program.warmup_steps + 1)
    )
    return optax.chain(
        optax.clip_by_global_norm(clip_norm), optimiser(lambda count: learning_rate * unit(count))
    )


def first_state(params: Parameters, optimiser: optax.GradientTransformation) -> TrainingState:
    """Return the state before the first step."""
    average = jax.tree.map(jnp.array, params)  # a copy: the step gives its state away
    return TrainingState(jnp.zeros((), jnp.int32), params, average, optimiser.init(params))


def start_training(config: NetworkConfig, training: TrainingConfig) -> TrainingState:
    """Return the state before the first step."""
    if training.start is None:
        return _drawn_state(config, jax.random.key(training.seed))
    stored = load_network(training.start)
    got = stored.config.to_json()
    check(stored.config == config, "start", f"a network with {config.to_json()}", got, "take its config")
    return _state(stored.params)


@functools.partial(jax.jit, static_argnames="config")
def _drawn_state(config: NetworkConfig, key: PRNGKey) -> TrainingState:
    return _state(init(config, jax.random.fold_in(key, 2**31 - 1)))


@jax.jit
def _state(params: Parameters) -> TrainingState:
    return first_state(params, rates(Program(1, 0, 1, False), 1.0, optax.adam, 1.0))  # of any values


def loss(
    config: NetworkConfig, params: Parameters, x0: Array, sigma: Array, noise: Array, label: Array | None
) -> Array:
    """Weighted denoising loss of a batch, see the module."""
    level = sigma[:, None, None, None]
    denoised = apply(config, params, x0 + level * noise, sigma, label)
    weight = (level**2 + config.sigma_data**2) / (level * config.sigma_data) ** 2
    return jnp.mean(weight * (denoised - x0) ** 2)


def summed_gradient(
    loss_fn: Callable[..., Array], params: Parameters, batch: Any
) -> tuple[Array, Parameters]:
    """Mean loss ``loss_fn(params, *batch)`` and its gradient, on CPUs summed over parts that fit into the cache."""
    count = batch[0].shape[0]
    small = jax.default_backend() == "cpu"
    part = next(n for n in range(min(_CPU_PART, count), 0, -1) if count % n == 0) if small else count

    def one(batch: Any) -> tuple[Array, Parameters]:
        return jax.value_and_grad(lambda p: loss_fn(p, *batch))(params)

    if part == count:
        return one(batch)
    parts = jax.tree.map(lambda a: a.reshape(-1, part, *a.shape[1:]), batch)
    zero = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params))
    total, _ = jax.lax.scan(
        lambda total, batch: (jax.tree.map(jnp.add, total, one(batch)), None), zero, parts
    )
    return jax.tree.map(lambda a: a * (part / count), total)


def _gradient(config: NetworkConfig, params: Parameters, batch: Any) -> tuple[Array, Parameters]:
    return summed_gradient(functools.partial(loss, config), params, batch)


def moved_average(average: Parameters, params: Parameters, step: Array, ema_decay: Any) -> Any:
    """Move the average of parameters after a step; the first steps are forgotten faster, as ``(1 + n)/(10 + n)``."""
    decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))
    return optax.incremental_update(params, average, 1 - decay)


def make_step(
    config: NetworkConfig, training: TrainingConfig
) -> Callable[[TrainingState, Array, Array | None], tuple[TrainingState, Array]]:
    """Return a compiled ``(state, images, labels) -> (state, loss)``; the state is given away."""
    program = Program(training.num_steps, training.warmup_steps, training.batch_size, training.flip)
    numbers = {name: float(getattr(training, name)) for name in _NUMBERS}
    key = jax.random.key(training.seed)
    return functools.partial(_step, config, program, _gradient, key, numbers)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=5)
def _step(
    config: NetworkConfig,
    program: Program,
    gradient_fn: Callable[..., tuple[Array, Parameters]],
    key: PRNGKey,
    numbers: dict[str, Any],
    state: TrainingState,
    images: Array,
    labels: Array | None,
) -> tuple[TrainingState, Any]:
    keys = jax.random.split(jax.random.fold_in(key, state.step), 5)
    chosen = jax.random.randint(keys[0], (program.batch_size,), 0, images.shape[0])
    x0 = images[chosen]
    if program.flip:
        mirrored = jax.random.bernoulli(keys[4], 0.5, (program.batch_size, 1, 1, 1))
        x0 = jnp.where(mirrored, x0[:, :, ::-1], x0)
    normal = jax.random.normal(keys[1], chosen.shape)
    sigma = jnp.exp(numbers["log_noise_mean"] + numbers["log_noise_std"] * normal)
    noise = jax.random.normal(keys[2], x0.shape)
    label = None
    if labels is not None:
        dropped = jax.random.bernoulli(keys[3], numbers["label_dropout"], chosen.shape)
        label = jnp.where(dropped, -1, labels[chosen])
    value, gradient = gradient_fn(config, state.params, (x0, sigma, noise, label))
    optimiser = rates(program, numbers["learning_rate"], optax.adam, numbers["clip_norm"])
    updates, memory = optimiser.update(gradient, state.optimiser, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    average = moved_average(state.average, params, state.step, numbers["ema_decay"])
    return TrainingState(state.step + 1, params, average, memory), value


def checkpoint_arrays(state: TrainingState, losses: list, recent: list) -> dict[str, np.ndarray]:
    """Name all that a run needs to go on; ``recent`` are the losses since the last entry of the log."""
    memory = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state.optimiser))}
    log = {"losses": np.asarray(losses, np.float64).reshape(-1, 2), "recent": np.asarray(recent, np.float64)}
    return flatten({**state._asdict(), "optimiser": memory, **log})


def _checkpoint_names(template: TrainingState) -> set[str]:
    """Name the arrays of a checkpoint of a run whose state has the shape of ``template``."""
    state = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), template)
    return set(checkpoint_arrays(state, [], []))


def digests(images: Any, labels: Any, start: str | None) -> dict[str, str]:
    """Tell what a run learns from, images, labels and starting weights, from anything else of the same shape."""
    arrays = {"images": images} | ({} if labels is None else {"labels": labels})
    found = {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        found[name] = hashlib.blake2b(array.data, key=str(array.shape).encode(), digest_size=16).hexdigest()
    weights = None if start is None else weights_digest(start)
    return found | ({} if weights is None else {"starting weights": weights})


def save_checkpoint(
    path: Path,
    config: NetworkConfig,
    training: TrainingConfig,
    arrays: dict[str, np.ndarray],
    data: dict[str, str],
) -> None:
    """Write everything that the run needs to go on, ``data`` as of `digests`; the file appears whole or not at all."""
    header = {"training": json.dumps(dataclasses.asdict(training)), "data": json.dumps(data)}
    write(path, arrays, {"config": config.to_json(), **header})


def load_checkpoint(
    path: Path, config: NetworkConfig, training: TrainingConfig, data: dict[str, str] | None = None
) -> tuple[TrainingState, list, list]:
    """Read a checkpoint of the very same run; its data are compared with ``data``, as of `digests`, if both are known.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, it is corrupt or of another version, or it belongs to other settings or data.
    """
    arrays, header = read(path, "checkpoint")
    advice = "repeat the settings, or choose another folder"
    for name, own in (("config", config), ("training", training)):
        check(name in header, "checkpoint", f"a header with its {name}", "none", advice)
        defaults, mine = (json.loads(json.dumps(dataclasses.asdict(s))) for s in (type(own)(), own))
        # What was not yet an option when the checkpoint was written has its default.
        stored = defaults | json.loads(header[name])
        # Longer or shorter runs share what came first only if their schedules do; they do not.
        differing = sorted(k for k in {*stored, *mine} if stored.get(k) != mine.get(k))
        shown = ", ".join(f"{k} = {stored.get(k)!r}" for k in differing)
        check(not differing, "checkpoint", "one of the same settings", f"one with {shown}", advice)
    if data is not None and "data" in header:  # older checkpoints do not tell
        stored = json.loads(header["data"])
        differing = sorted(k for k in {*stored, *data} if stored.get(k) != data.get(k))
        got = f"one of other {' and '.join(differing)}"
        advice = "go on with those of its start, or choose another folder"
        check(not differing, "checkpoint", "one of the same data", got, advice)
    template = jax.eval_shape(lambda: _drawn_state(config, jax.random.key(0)))
    differing = sorted(set(arrays) ^ _checkpoint_names(template))
    got = f"{path}, which differs in {', '.join(differing)}"
    advice = "it is of another version or damaged: remove it to train anew"
    check(not differing, "checkpoint", "exactly the arrays of the run", got, advice)
    tree = unflatten(arrays)
    structure = jax.tree.structure(template.optimiser)
    memory = structure.unflatten([tree["optimiser"][str(i)] for i in range(structure.num_leaves)])
    state = TrainingState(tree["step"], tree["params"], tree["average"], memory)
    return jax.device_put(state), arrays["losses"].tolist(), arrays["recent"].tolist()


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
        Where ``checkpoint.safetensors`` is kept; a run goes on only with the images, labels and starting weights
        that it began with.
    checkpoint_every, log_every : int
        Steps between checkpoints, and between entries of the log.
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
        If images, labels or a checkpoint do not fit, or the loss or a parameter is no longer finite, which is noticed
        at every entry of the log and before every checkpoint.

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
    path = None if folder is None else Path(folder) / CHECKPOINT
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    data = {} if path is None else digests(images, labels, training.start)
    if path is not None and path.exists():
        state, losses, recent = load_checkpoint(path, config, training, data)
    else:
        state, losses, recent = start_training(config, training), [], []
    images, labels = jax.device_put((images, labels))
    step_fn, steps = make_step(config, training), training.num_steps
    first, began = int(state.step) + 1, time.perf_counter()
    for step in range(first, steps + 1):
        state, value = step_fn(state, images, labels)
        recent.append(value)
        logged = step % log_every == 0 or step == steps
        saved = step % checkpoint_every == 0 or step == steps
        if logged or saved:  # only then is the device waited for
            recent[:] = map(float, recent)
            check_finite(recent, state.params, step)
        if logged:
            losses.append([step, float(np.mean(recent))])
            recent = []
        if step == first:
            jax.block_until_ready(value)
            began = time.perf_counter()
        if progress is not None and (logged or step == first):
            shown = losses[-1][1] if logged else float(value)
            progress(step, steps, shown, seconds_left(began, step - first, steps - step))
        if path is not None and saved:
            save_checkpoint(path, config, training, checkpoint_arrays(state, losses, recent), data)
    return TrainedNetwork(state.average, np.asarray(losses, np.float64).reshape(-1, 2))
