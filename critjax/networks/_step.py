r"""One step of training: settings, state, the loss and noise distribution of Karras et al. 2022, its gradient, optax.

.. math:: E\left[\frac{\sigma^2 + \sigma_d^2}{(\sigma \sigma_d)^2} |D(x_0 + \sigma \epsilon, \sigma) - x_0|^2\right],
          \qquad \ln \sigma \sim N(m, s^2)

Every step draws images, noise and labels from its own number and the seed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from critjax._checks import check
from critjax._programs import program
from critjax._stored import SEED, check_options, option
from critjax._typing import Array, PRNGKey
from critjax.networks._architectures import NetworkConfig, Parameters, apply, init
from critjax.networks._weights import load_network

#: Images whose gradient is computed at once on CPUs.
_CPU_PART = 4


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
    seed: int = option(0, **SEED)
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
        return drawn_state(config, jax.random.key(training.seed))
    stored = load_network(training.start)
    got = stored.config.to_json()
    check(stored.config == config, "start", f"a network with {config.to_json()}", got, "take its config")
    return _state(stored.params)


@program(static_argnames="config")
def drawn_state(config: NetworkConfig, key: PRNGKey) -> TrainingState:
    return _state(init(config, jax.random.fold_in(key, 2**31 - 1)))


@program
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
    part = next(n for n in range(min(_CPU_PART, count), 0, -1) if count % n == 0)

    def whole(params: Parameters, batch: Any) -> tuple[Array, Parameters]:
        return jax.value_and_grad(lambda p: loss_fn(p, *batch))(params)

    def in_parts(params: Parameters, batch: Any) -> tuple[Array, Parameters]:
        parts = jax.tree.map(lambda a: a.reshape(-1, part, *a.shape[1:]), batch)

        def add(total: Any, batch: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, whole(params, batch)), None

        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(whole, params, batch))
        return jax.tree.map(lambda a: a * (part / count), jax.lax.scan(add, zero, parts)[0])

    if part == count:
        return whole(params, batch)
    return jax.lax.platform_dependent(params, batch, cpu=in_parts, default=whole)


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


@program(static_argnums=(0, 1, 2), donate_argnums=5)
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
