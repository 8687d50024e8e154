r"""Denoising networks as pure functions: a local convolutional network and a U-Net, with EDM preconditioning.

.. math:: D(x, \sigma) = c_{skip} x + c_{out} F(c_{in} x, \tfrac14 \ln \sigma), \quad
          c_{skip} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \;
          c_{out} = \frac{\sigma \sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \;
          c_{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}

(Karras et al. 2022, arXiv:2206.00364).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from critjax._checks import (
    as_scalar,
    check,
    check_count,
    check_counts,
    check_floating,
    check_rank,
    is_concrete,
)
from critjax._programs import program
from critjax._stored import Stored, option
from critjax._typing import Array, ArrayLike, DenoiseFn, PRNGKey
from critjax.networks._blocks import (
    Attention,
    Conditioning,
    Convolution,
    GlobalBlock,
    LocalBlock,
    group_norm,
    pixel_norm,
)
from critjax.networks._convolution import PADDINGS

ARCHITECTURES = ("local", "unet")
#: Nested dictionary of arrays with string keys.
Parameters = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Stored):
    """What a network is, apart from its weights.

    Parameters
    ----------
    architecture : "local" or "unet"
        Local: a first convolution, residual blocks of one 3 x 3 convolution each and pixelwise maps, nothing that pools
        over space. U-Net: image-wide normalisation, two or more resolutions, optional attention at the coarsest.
    channels : int
        Of the image.
    width : int
        Channels inside; of the finest resolution in a U-Net.
    stem : int
        Local: odd side of the first convolution. Above one pixel it sees a plane of ones beside the image, which zero
        padding cuts off where the image ends.
    norms : 1 or 2
        Local: 1, every block divides each pixel by the norm of its channels after the convolution; 2, before it, too,
        which removes the magnitude of every pixel.
    dilations : tuple of int
        Local: one block each; the receptive field is ``stem + 2 sum(dilations)`` pixels wide.
    multipliers : tuple of int
        U-Net: one resolution each, widths are multiples of ``width``; every step down halves the image.
    blocks : int
        U-Net: blocks per resolution on the way down.
    attention : bool
        U-Net: attention at the coarsest resolution.
    padding : "zero" or "periodic"
    num_classes : int
        0 for an unconditional network; else labels 0 ... num_classes - 1, and none.
    sigma_data : float
        Standard deviation of the data about their mean, in image units, for the preconditioning.

    Raises
    ------
    ValueError
        If a value is illegal, naming it.

    Example
    -------
    >>> NetworkConfig(stem=5, dilations=(1, 1, 2)).receptive_field
    13
    """

    _called, _advice = "config", "use a file written by save_network"

    architecture: str = option("local", choices=ARCHITECTURES)
    channels: int = 1
    width: int = option(32, "channels inside", metavar="N", least=1, most=4096)
    #: Files without these two are of networks without the options; `critjax train` has other defaults.
    stem: int = option(
        1,
        "local: side of the first convolution, odd; above 1 it sees where the image ends, too",
        metavar="N",
        least=1,
        most=1023,
    )
    norms: int = option(
        2,
        "local: 1, pixelwise norm after the convolution of a block; 2, before it, too",
        choices=(1, 2),
        least=1,
    )
    dilations: tuple[int, ...] = option(
        (1, 1, 1, 1, 1), "local: a block each; receptive field stem + 2 sum pixels", metavar="A,B,..."
    )
    multipliers: tuple[int, ...] = option((1, 2, 2), "unet: a resolution each", metavar="A,B,...")
    blocks: int = option(2, "unet: blocks per resolution", metavar="N", least=1, most=16)
    attention: bool = option(False, "unet: attention at the coarsest resolution")
    padding: str = option("zero", choices=PADDINGS)
    num_classes: int = 0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        """Validate every value."""
        super().__post_init__()
        for name, (count, most) in {"dilations": (256, 4096), "multipliers": (8, 64)}.items():
            values = check_counts(name, getattr(self, name), count, advice="pass e.g. (1, 1, 2)")
            check(max(values) <= most, name, f"integers <= {most}", max(values), "pass smaller ones")
        for name, low, most in (("channels", 1, 4096), ("num_classes", 0, 2**16)):
            check_count(name, getattr(self, name), least=low, most=most, advice="correct it")
        check(self.stem % 2 == 1, "stem", "an odd side, which has a centre", self.stem, "use 5")
        expected, advice = "a finite standard deviation > 0", "use that of the data"
        as_scalar("sigma_data", self.sigma_data, expected, advice, good=lambda value: value > 0)

    @property
    def receptive_field(self) -> int | None:
        """Width of the square of pixels that one output pixel depends on; None if it has no bound."""
        return self.stem + 2 * sum(self.dilations) if self.architecture == "local" else None


class _Local(nnx.Module):
    def __init__(self, config: NetworkConfig, rngs: nnx.Rngs) -> None:
        width, embedding = config.width, 2 * config.width
        self.condition = Conditioning(embedding, config.num_classes, rngs=rngs)
        self.wide = config.stem > 1
        inputs = config.channels + self.wide
        self.stem = Convolution(inputs, width, config.stem, rngs=rngs, padding=config.padding)
        block = functools.partial(LocalBlock, width, embedding, config.padding, norms=config.norms, rngs=rngs)
        self.blocks = nnx.List([block(dilation) for dilation in config.dilations])
        self.head = Convolution(width, config.channels, 1, rngs=rngs, padding=config.padding, zero=True)

    def __call__(self, x: Array, log_noise: Array, label: Array | None) -> Array:
        vector = self.condition(log_noise, label)
        h = self.stem(jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1) if self.wide else x)
        for block in self.blocks:
            h = block(h, vector)
        return self.head(jax.nn.silu(pixel_norm(h)))


class _UNet(nnx.Module):
    def __init__(self, config: NetworkConfig, rngs: nnx.Rngs) -> None:
        padding, embedding = config.padding, 4 * config.width
        widths = [config.width * m for m in config.multipliers]
        make = functools.partial(GlobalBlock, embedding=embedding, padding=padding, rngs=rngs)
        self.condition = Conditioning(embedding, config.num_classes, rngs=rngs)
        self.stem = Convolution(config.channels, widths[0], 3, rngs=rngs, padding=padding)
        down, skips, here = [], [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                down.append(make(here, width))
                here = width
                skips.append(here)
            if level + 1 < len(widths):
                skips.append(here)
        self.down = nnx.List(down)
        self.middle = nnx.List([make(here, here), make(here, here)])
        self.attention = Attention(here, rngs=rngs) if config.attention else None
        up = []
        for width in reversed(widths):
            for _ in range(config.blocks + 1):
                up.append(make(here + skips.pop(), width))
                here = width
        self.up = nnx.List(up)
        self.head = Convolution(here, config.channels, 3, rngs=rngs, padding=padding, zero=True)
        self.levels, self.per_level = len(widths), config.blocks

    def __call__(self, x: Array, log_noise: Array, label: Array | None) -> Array:
        vector = self.condition(log_noise, label)
        h = self.stem(x)
        skips, blocks = [h], iter(self.down)
        for level in range(self.levels):
            for _ in range(self.per_level):
                h = next(blocks)(h, vector)
                skips.append(h)
            if level + 1 < self.levels:
                batch, height, width, channels = h.shape
                h = h.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
                skips.append(h)
        h = self.middle[0](h, vector)
        if self.attention is not None:
            h = self.attention(h)
        h = self.middle[1](h, vector)
        blocks = iter(self.up)
        for level in range(self.levels):
            for _ in range(self.per_level + 1):
                h = next(blocks)(jnp.concatenate([h, skips.pop()], axis=-1), vector)
            if level + 1 < self.levels:
                h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
        return self.head(jax.nn.silu(group_norm(h, 1)))


def _build(config: NetworkConfig, key: PRNGKey) -> nnx.Module:
    kind = _Local if config.architecture == "local" else _UNet
    return kind(config, nnx.Rngs(params=key))


@functools.lru_cache(maxsize=32)
def _skeleton(config: NetworkConfig) -> tuple[Any, Any]:
    """Return graph and abstract parameters of a network; no weights are drawn."""
    return nnx.split(nnx.eval_shape(lambda: _build(config, jax.random.key(0))), nnx.Param)


def named(tree: Any) -> Any:
    """Make every key a string, as files want them."""
    return {str(k): named(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def init(config: NetworkConfig, key: PRNGKey) -> Parameters:
    """Draw the weights of a network.

    Parameters
    ----------
    config : NetworkConfig
    key : PRNG key

    Returns
    -------
    dict
        Nested dictionary of float32 arrays. The last layer is zero: the untrained network is ``D = c_skip x``.

    Example
    -------
    >>> params = init(NetworkConfig(width=8, dilations=(1, 1)), jax.random.key(0))
    >>> sorted(params)
    ['blocks', 'condition', 'head', 'stem']
    """
    return _init(config, key)


@program(static_argnames="config")
def _init(config: NetworkConfig, key: PRNGKey) -> Parameters:
    state = nnx.state(_build(config, key), nnx.Param)
    return named(nnx.to_pure_dict(state))


def apply(
    config: NetworkConfig,
    params: Parameters,
    x: ArrayLike,
    sigma: ArrayLike,
    label: ArrayLike | None = None,
) -> Array:
    """Denoise a batch.

    Parameters
    ----------
    config, params
        As of `init`.
    x : (B, H, W, C) array
        Noisy images.
    sigma : (B,) array
        Standard deviations of the noise.
    label : (B,) integer array, optional
        Classes; -1 or None for no class.

    Returns
    -------
    (B, H, W, C) array
        Denoised images, in the dtype of ``x``.

    Raises
    ------
    ValueError
        If the image does not fit the network.

    Example
    -------
    Untrained, every image is multiplied by ``sigma_data^2/(sigma^2 + sigma_data^2)``:

    >>> config = NetworkConfig(width=8, dilations=(1,))
    >>> params = init(config, jax.random.key(0))
    >>> denoised = apply(config, params, np.ones((1, 6, 5, 1), np.float32), np.array([0.5]))
    >>> print(f"{np.mean(denoised):.3f}")
    0.500
    """
    return _apply(config, params, x, sigma, label)


@program(static_argnames="config")
def _apply(config: NetworkConfig, params: Parameters, x: Array, sigma: Array, label: Array | None) -> Array:
    """Compiled by itself, so that programs that evaluate a network in many places trace it once."""
    check_rank("x", x, "B H W C")
    got = f"{x.shape[-1]} channels"
    check(
        x.shape[-1] == config.channels,
        "x",
        f"{config.channels} channels",
        got,
        "pass images like those of training",
    )
    if config.architecture == "unet":
        factor = 2 ** (len(config.multipliers) - 1)
        fits = x.shape[1] % factor == 0 and x.shape[2] % factor == 0
        check(
            fits,
            "x",
            f"sides that {factor} divides",
            f"{x.shape[1]} x {x.shape[2]}",
            "pad or crop the images",
        )
    conditional = label is None or config.num_classes > 0
    check(conditional, "label", "none for an unconditional network", "labels", "leave it out")
    graph, state = _skeleton(config)
    filled = jax.tree.unflatten(
        jax.tree.structure(state), jax.tree.leaves(ordered(nnx.to_pure_dict(state), params))
    )
    model = nnx.merge(graph, filled)
    sigma = sigma.astype(x.dtype)[:, None, None, None]
    total = jnp.sqrt(sigma**2 + config.sigma_data**2)
    inner = model(x / total, jnp.log(sigma[:, 0, 0, 0]) / 4, label)
    return x * (config.sigma_data / total) ** 2 + inner * sigma * config.sigma_data / total


def ordered(template: Any, params: Any, path: str = "") -> Any:
    """Arrange parameters like the template, whose keys may be integers; check names and shapes."""
    if not isinstance(template, dict):
        got = getattr(params, "shape", type(params).__name__)
        expected = f"shape {tuple(template.shape)}"
        check(
            tuple(got) == tuple(template.shape), f"params{path}", expected, got, "pass weights of this config"
        )
        return params
    names = sorted(map(str, template))
    found = sorted(params) if isinstance(params, dict) else type(params).__name__
    check(names == found, f"params{path}", f"entries {names}", found, "pass weights of this config")
    return {k: ordered(v, params[str(k)], f"{path}[{k!r}]") for k, v in template.items()}


def network_denoiser(config: NetworkConfig, params: Parameters, label: Any = None) -> DenoiseFn:
    """Return a network as a denoiser of single images, to be batched with `jax.vmap`.

    Parameters
    ----------
    config, params
        As of `init` or of a stored network.
    label : integer, optional
        Class, 0 ... num_classes - 1; default none, which is a condition of its own.

    Returns
    -------
    DenoiseFn
        ``(x (H, W, C), sigma ()) -> (H, W, C)``, forward and reverse differentiable.

    Raises
    ------
    ValueError
        If the label is no class of the network; labels that are traced cannot be checked.

    Example
    -------
    >>> config = NetworkConfig(width=8, dilations=(1,))
    >>> denoise = network_denoiser(config, init(config, jax.random.key(0)))
    >>> print(f"{np.mean(denoise(np.ones((6, 5, 1)), 0.5)):.3f}")  # untrained, sigma = sigma_data: half
    0.500
    """
    if label is not None and is_concrete(label):
        value, classes = np.asarray(label), range(config.num_classes)
        known = value.ndim == 0 and value.dtype.kind in "iu" and int(value) in classes
        expected = f"an integer from 0 to {classes[-1]}" if classes else "none for an unconditional network"
        check(known, "label", expected, label, "leave it out for no class")
        label = np.int32(value)
    return _Denoiser(config, params, label)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params", "label"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True, eq=False)
class _Denoiser:
    """A network as a denoiser: one program for all weights and labels of a configuration."""

    config: Any
    params: Any
    label: Any

    def __call__(self, x: Any, sigma: Any) -> Array:
        """Denoise ``x (H, W, C)`` at the noise level ``sigma ()``."""
        check_floating("x", x)
        check_rank("x", x, "H W C")
        if is_concrete(sigma):
            sigma = np.asarray(sigma, x.dtype)  # one program, whatever kind of number it was
        return _denoise(self.config, self.params, x, sigma, self.label)


@program(static_argnames="config")
def _denoise(config: NetworkConfig, params: Parameters, x: Array, sigma: Array, label: Any) -> Array:
    labels = None if label is None else label[None]
    return _apply(config, params, x[None], sigma[None], labels)[0]
