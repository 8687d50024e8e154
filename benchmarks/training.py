"""One training step of the local network: critjax, the same network in stock Flax, and in PyTorch.

Batch 64, 28 x 28, 32 channels, five blocks, Karras et al.'s loss, Adam; float32, all threads. Stock Flax means
``nnx.Conv`` and ``nnx.Linear`` with the gradients that XLA derives. Needs the ``benchmark`` and ``networks`` extras.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from _timing import interleaved, machine, table
from flax import nnx
from torch import nn
from torch.nn import functional

from critjax.networks import NetworkConfig, TrainingConfig
from critjax.networks._step import make_step, start_training

BATCH, SIDE, WIDTH, BLOCKS, FREQUENCIES = 64, 28, 32, 5, 16
REPEATS = 9


def critjax_step():
    """Return a call that does one step of `critjax.networks.train`."""
    config = NetworkConfig(width=WIDTH, stem=1, norms=2, dilations=(1,) * BLOCKS)
    training = TrainingConfig(batch_size=BATCH)
    step, state = make_step(config, training), start_training(config, training)
    images = jnp.zeros((BATCH, SIDE, SIDE, 1))

    def run() -> None:
        nonlocal state
        state, value = step(state, images, None)
        jax.block_until_ready((state, value))

    return run, sum(a.size for a in jax.tree.leaves(state.params))


def pixel_norm(x):
    """Divide every pixel by the root mean square of its channels."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


class FlaxBlock(nnx.Module):
    """The residual block of the local network, from Flax's own layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.spread = nnx.Conv(WIDTH, WIDTH, (3, 3), rngs=rngs)
        self.condition = nnx.Linear(2 * WIDTH, 2 * WIDTH, rngs=rngs)
        self.expand = nnx.Conv(WIDTH, 2 * WIDTH, (1, 1), rngs=rngs)
        self.contract = nnx.Conv(2 * WIDTH, WIDTH, (1, 1), rngs=rngs)

    def __call__(self, x, vector):
        """Add the branch to its input."""
        h = pixel_norm(self.spread(pixel_norm(x)))
        scale, shift = jnp.split(self.condition(vector)[:, None, None], 2, axis=-1)
        return x + self.contract(jax.nn.silu(self.expand(jax.nn.silu(h * (1 + scale) + shift))))


class FlaxNetwork(nnx.Module):
    """The local network, from Flax's own layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(2 * FREQUENCIES + 1, 2 * WIDTH, rngs=rngs)
        self.second = nnx.Linear(2 * WIDTH, 2 * WIDTH, rngs=rngs)
        self.stem = nnx.Conv(1, WIDTH, (1, 1), rngs=rngs)
        self.blocks = nnx.List([FlaxBlock(rngs) for _ in range(BLOCKS)])
        self.head = nnx.Conv(WIDTH, 1, (1, 1), rngs=rngs)

    def __call__(self, x, log_noise):
        """Return the raw output, before preconditioning."""
        angles = log_noise[:, None] * jnp.geomspace(0.5, 8.0, FREQUENCIES)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles), log_noise[:, None]], axis=-1)
        vector = jax.nn.silu(self.second(jax.nn.silu(self.first(waves))))
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, vector)
        return self.head(jax.nn.silu(pixel_norm(h)))


def flax_step():
    """Return a call that does the same step with Flax's own layers and XLA's gradients."""
    graph, params = nnx.split(FlaxNetwork(nnx.Rngs(0)), nnx.Param)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    images, data = jnp.zeros((BATCH, SIDE, SIDE, 1)), 0.5

    @jax.jit
    def step(params, average, memory, key):
        level_key, noise_key = jax.random.split(key)
        sigma = jnp.exp(1.4 * jax.random.normal(level_key, (BATCH, 1, 1, 1)) - 0.6)
        noise = jax.random.normal(noise_key, images.shape)

        def loss(params):
            total, x = jnp.sqrt(sigma**2 + data**2), images + sigma * noise
            inner = nnx.merge(graph, params)(x / total, jnp.log(sigma[:, 0, 0, 0]) / 4)
            denoised = x * (data / total) ** 2 + inner * sigma * data / total
            return jnp.mean((total / (sigma * data)) ** 2 * (denoised - images) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, memory = optimiser.update(gradient, memory, params)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: 0.999 * a + 0.001 * p, average, params)
        return params, average, memory, value

    state = (params, params, optimiser.init(params))

    def run() -> None:
        nonlocal state
        *state, value = step(*state, jax.random.key(0))
        jax.block_until_ready((state, value))

    return run, sum(a.size for a in jax.tree.leaves(params))


class TorchBlock(nn.Module):
    """The residual block of the local network, in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.condition = nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.expand = nn.Conv2d(WIDTH, 2 * WIDTH, 1)
        self.contract = nn.Conv2d(2 * WIDTH, WIDTH, 1)

    @staticmethod
    def norm(x):
        """Divide every pixel by the root mean square of its channels."""
        return x * torch.rsqrt((x**2).mean(1, keepdim=True) + 1e-6)

    def forward(self, x, vector):
        """Add the branch to its input."""
        h = self.norm(self.spread(self.norm(x)))
        scale, shift = self.condition(vector)[:, :, None, None].chunk(2, 1)
        return x + self.contract(functional.silu(self.expand(functional.silu(h * (1 + scale) + shift))))


class TorchNetwork(nn.Module):
    """The local network, in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2 * FREQUENCIES + 1, 2 * WIDTH)
        self.second = nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.stem = nn.Conv2d(1, WIDTH, 1)
        self.blocks = nn.ModuleList([TorchBlock() for _ in range(BLOCKS)])
        self.head = nn.Conv2d(WIDTH, 1, 1)
        self.register_buffer(
            "scales", torch.from_numpy(np.geomspace(0.5, 8.0, FREQUENCIES).astype(np.float32))
        )

    def forward(self, x, log_noise):
        """Return the raw output, before preconditioning."""
        angles = log_noise[:, None] * self.scales
        waves = torch.cat([angles.sin(), angles.cos(), log_noise[:, None]], 1)
        vector = functional.silu(self.second(functional.silu(self.first(waves))))
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, vector)
        return self.head(functional.silu(TorchBlock.norm(h)))


def torch_step(memory_format):
    """Return a call that does the same step in PyTorch."""
    network = TorchNetwork().to(memory_format=memory_format)
    average = [p.detach().clone() for p in network.parameters()]
    optimiser = torch.optim.Adam(network.parameters(), 1e-3, foreach=True)
    images, data = torch.zeros(BATCH, 1, SIDE, SIDE).to(memory_format=memory_format), 0.5

    def run() -> None:
        sigma = torch.exp(1.4 * torch.randn(BATCH, 1, 1, 1) - 0.6)
        total, x = torch.sqrt(sigma**2 + data**2), images + sigma * torch.randn_like(images)
        denoised = (
            x * (data / total) ** 2 + network(x / total, sigma[:, 0, 0, 0].log() / 4) * sigma * data / total
        )
        loss = ((total / (sigma * data)) ** 2 * (denoised - images) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 0.001)

    return run, sum(p.numel() for p in network.parameters())


def main() -> None:
    """Time the three and print the ratios."""
    makers = {
        "critjax": critjax_step,
        "stock Flax": flax_step,
        "PyTorch": lambda: torch_step(torch.contiguous_format),
        "PyTorch, channels last": lambda: torch_step(torch.channels_last),
    }
    made = {name: make() for name, make in makers.items()}
    # In turn, not interleaved: the thread pools of the two libraries disturb each other.
    seconds = {name: interleaved({name: run}, REPEATS)[name] for name, (run, _) in made.items()}
    own = seconds["critjax"]
    rows = [
        [name, f"{made[name][1]:,}", f"{1e3 * value:.0f}", f"{value / own:.2f}"]
        for name, value in seconds.items()
    ]
    print(machine())
    table(["step", "parameters", "ms", "time / critjax"], rows)
    print(f"stock Flax / critjax: {seconds['stock Flax'] / own:.2f} (bar 2.0)")
    fastest = min(value for name, value in seconds.items() if name.startswith("PyTorch"))
    print(f"critjax / PyTorch: {own / fastest:.2f} (bar 2.5)")


if __name__ == "__main__":
    main()
