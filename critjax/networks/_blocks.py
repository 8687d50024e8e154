"""Building blocks of the networks: convolutions, norms and conditioning, as nnx modules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from critjax._typing import Array
from critjax.networks._convolution import convolved, product

_LECUN = nnx.initializers.lecun_normal()


class Convolution(nnx.Module):
    """Convolution with bias; ``zero`` starts it at zero, so that a residual branch begins as nothing."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        rngs: nnx.Rngs,
        padding: str,
        dilation: int = 1,
        zero: bool = False,
    ) -> None:
        shape = (size, size, inputs, outputs)
        self.kernel = nnx.Param(jnp.zeros(shape) if zero else _LECUN(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros((outputs,)))
        self.padding, self.dilation = padding, dilation

    def __call__(self, x: Array) -> Array:
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        if kernel.shape[0] == 1:
            return product(x, kernel[0, 0]) + bias
        return convolved(x, kernel, padding=self.padding, dilation=self.dilation) + bias


class Dense(nnx.Module):
    """Affine map of the last axis."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, zero: bool = False) -> None:
        shape = (inputs, outputs)
        self.kernel = nnx.Param(jnp.zeros(shape) if zero else _LECUN(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros((outputs,)))

    def __call__(self, x: Array) -> Array:
        return product(x, self.kernel[...].astype(x.dtype)) + self.bias[...].astype(x.dtype)


def pixel_norm(x: Array) -> Array:
    """Divide every pixel by the root mean square of its own channels: no sum over space, hence local."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def group_norm(x: Array, groups: int) -> Array:
    """Standardise groups of channels over the whole image; not local."""
    batch, height, width, channels = x.shape
    parts = x.reshape(batch, height, width, groups, channels // groups)
    centred = parts - parts.mean((1, 2, 4), keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.mean(centred**2, (1, 2, 4), keepdims=True) + 1e-6)).reshape(x.shape)


class Conditioning(nnx.Module):
    """Vector (B, E) that tells all blocks the noise level and, optionally, the class."""

    def __init__(self, width: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.frequencies = 16
        self.first = Dense(2 * self.frequencies + 1, width, rngs=rngs)
        self.second = Dense(width, width, rngs=rngs)
        # One row more: no class.
        shape = (num_classes + 1, width)
        self.classes = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape)) if num_classes else None

    def __call__(self, log_noise: Array, label: Array | None) -> Array:
        scales = jnp.exp(jnp.linspace(jnp.log(0.5), jnp.log(8.0), self.frequencies)).astype(log_noise.dtype)
        angles = log_noise[:, None] * scales
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles), log_noise[:, None]], axis=-1)
        vector = self.second(jax.nn.silu(self.first(waves)))
        if self.classes is not None:
            rows = self.classes[...].astype(vector.dtype)
            none = rows.shape[0] - 1
            index = jnp.full(vector.shape[:1], none) if label is None else jnp.where(label < 0, none, label)
            vector = vector + rows[index]
        return jax.nn.silu(vector)


def modulate(x: Array, parameters: Array) -> Array:
    """Scale and shift the channels (B, H, W, C) by parameters (B, 2 C)."""
    scale, shift = jnp.split(parameters[:, None, None, :], 2, axis=-1)
    return x * (1 + scale) + shift


class LocalBlock(nnx.Module):
    """Residual block that sees as far as its one convolution: everything else acts on single pixels."""

    def __init__(
        self, width: int, embedding: int, padding: str, dilation: int, norms: int, *, rngs: nnx.Rngs
    ) -> None:
        self.norms = norms
        self.spread = Convolution(width, width, 3, rngs=rngs, padding=padding, dilation=dilation)
        self.condition = Dense(embedding, 2 * width, rngs=rngs, zero=True)
        self.expand = Convolution(width, 2 * width, 1, rngs=rngs, padding=padding)
        self.contract = Convolution(2 * width, width, 1, rngs=rngs, padding=padding, zero=True)

    def __call__(self, x: Array, vector: Array) -> Array:
        h = self.spread(pixel_norm(x) if self.norms == 2 else x)
        h = jax.nn.silu(modulate(pixel_norm(h), self.condition(vector)))
        return x + self.contract(jax.nn.silu(self.expand(h)))


class GlobalBlock(nnx.Module):
    """Residual block of the U-Net: two convolutions, standardised over the image."""

    def __init__(self, inputs: int, width: int, embedding: int, padding: str, *, rngs: nnx.Rngs) -> None:
        self.groups = next(n for n in (8, 4, 2, 1) if inputs % n == 0 and width % n == 0)
        self.first = Convolution(inputs, width, 3, rngs=rngs, padding=padding)
        self.condition = Dense(embedding, 2 * width, rngs=rngs, zero=True)
        self.second = Convolution(width, width, 3, rngs=rngs, padding=padding, zero=True)
        self.skip = None if inputs == width else Convolution(inputs, width, 1, rngs=rngs, padding=padding)

    def __call__(self, x: Array, vector: Array) -> Array:
        h = self.first(jax.nn.silu(group_norm(x, self.groups)))
        h = jax.nn.silu(modulate(group_norm(h, self.groups), self.condition(vector)))
        straight = x if self.skip is None else self.skip(x)
        return straight + self.second(h)


class Attention(nnx.Module):
    """Self-attention over all pixels, one head, residual."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.project = Dense(width, 3 * width, rngs=rngs)
        self.merge = Dense(width, width, rngs=rngs, zero=True)

    def __call__(self, x: Array) -> Array:
        batch, channels = x.shape[0], x.shape[-1]
        query, key, value = jnp.split(self.project(group_norm(x, 1).reshape(batch, -1, channels)), 3, axis=-1)
        scores = jnp.einsum("bqc,bkc->bqk", query, key) / jnp.sqrt(jnp.asarray(channels, x.dtype))
        mixed = jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(scores, axis=-1), value)
        return x + self.merge(mixed).reshape(x.shape)
