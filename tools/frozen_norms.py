"""Ask whether image-wide norms soften the uniform mode of a U-Net: differentiate it with their statistics frozen.

Prints lambda(0) and the mean lambda of the four lowest waves along the axes, Rayleigh quotients of the Jacobian at
noised embedded images, of the network as it is and of the same network whose group norms keep the mean, the scale, or
both, of the image at which it is differentiated. Errors are standard errors over images. A minute on two cores::

    python tools/frozen_norms.py [unet-classes] [--num 32]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from critjax._checks import check
from critjax._typing import Array
from critjax.data import load_dataset
from critjax.networks import _architectures, _blocks, load_network

SIGMAS = (0.09, 0.3, 1.0, 3.0)
#: Statistics that are kept.
FROZEN = {"none": (), "mean": ("mean",), "scale": ("scale",), "both": ("mean", "scale")}


def norm_with(frozen: tuple[str, ...]) -> Callable[[Array, int], Array]:
    """Return the networks' group norm with some of its statistics constant under differentiation."""

    def group_norm(x: Array, groups: int) -> Array:
        batch, height, width, channels = x.shape
        parts = x.reshape(batch, height, width, groups, channels // groups)
        mean = parts.mean((1, 2, 4), keepdims=True)
        centred = parts - (lax.stop_gradient(mean) if "mean" in frozen else mean)
        scale = lax.rsqrt(jnp.mean(centred**2, (1, 2, 4), keepdims=True) + 1e-6)
        return (centred * (lax.stop_gradient(scale) if "scale" in frozen else scale)).reshape(x.shape)

    return group_norm


def directions(height: int, width: int) -> Array:
    """Return unit vectors (5, H, W, 1): the uniform one, then the lowest waves along the axes."""
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    phases = [2 * jnp.pi * rows / height, 2 * jnp.pi * columns / width]
    fields = [jnp.ones((height, width)), *(wave(phase) for phase in phases for wave in (jnp.cos, jnp.sin))]
    stack = jnp.stack(fields)[..., None]
    return stack / jnp.sqrt(jnp.sum(stack**2, axis=(1, 2, 3), keepdims=True))


def main(arguments: list[str] | None = None) -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", nargs="?", default="unet-classes")
    parser.add_argument("--num", type=int, default=32, help="noised images (default: %(default)s)")
    options = parser.parse_args(arguments)
    network = load_network(options.network)
    kind = network.config.architecture
    check(kind == "unet", "network", "a U-Net, which has group norms", f"a {kind} one", "use unet-classes")
    images = jnp.asarray(load_dataset("fashion-mnist", num_images=options.num).images)
    noise = jax.random.normal(jax.random.key(0), images.shape)
    vectors = directions(*images.shape[1:3])

    def quotients(sigma: float) -> np.ndarray:
        def denoise(x: Array) -> Array:
            return _architectures.apply(network.config, network.params, x, jnp.full(len(x), sigma))

        def along(v: Array) -> Array:
            _, change = jax.jvp(denoise, (images + sigma * noise,), (jnp.broadcast_to(v, images.shape),))
            return jnp.sum(change * v, axis=(1, 2, 3))

        return np.asarray(jax.jit(lambda: lax.map(along, vectors))(), np.float64)

    def with_error(values: np.ndarray) -> str:
        return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"

    print("| sigma | frozen | k = 0 | lowest waves |\n|---|---|---|---|")
    for sigma in SIGMAS:
        for name, frozen in FROZEN.items():
            _architectures.group_norm = _blocks.group_norm = norm_with(frozen)
            jax.clear_caches()  # the programs of networks have the norm that was there when they were traced
            found = quotients(sigma)
            cells = f"{sigma:g}", name, with_error(found[0]), with_error(found[1:].mean(0))
            print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
