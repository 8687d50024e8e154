"""Symbols of a whole training set at 16 noise levels: under 30 s given the states, 90 s with them, two cores.

Images are Fashion-MNIST (60,000 of 28 x 28), windows 7 x 7 at all positions, float32. Two baselines see the same
patches: explicitly unfolded ones in blocks, all levels at once by matrix products, and critjax level by level.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from _timing import compiled, interleaved, machine, matmul_speed, peak_megabytes, table
from jax import lax

from critjax import ImageBank, geometric_sigmas, homogeneous_state, symbol
from critjax.data import load_fashion_mnist


def unfolded_moments(images: jax.Array, sigmas: jax.Array, states: jax.Array, size: int) -> jax.Array:
    """Sum weights, patches and their products with the centre over unfolded patches, without any shift of scale."""
    block = 16
    count, height, width, _ = images.shape
    before, after = (size - 1) // 2, size // 2
    scale = 1 / (2 * sigmas[:, None] ** 2)

    def add(total: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
        x = jnp.pad(x[..., 0], ((0, 0), (before, after), (before, after)), mode="wrap")
        shifts = [x[:, a : a + height, b : b + width] for a in range(size) for b in range(size)]
        patches = jnp.stack(shifts, -1).reshape(-1, size * size)
        norms, sums = jnp.sum(patches**2, -1), jnp.sum(patches, -1)
        distance = norms - 2 * states * sums + size**2 * states**2
        weights = jnp.exp(-scale * distance)
        rows = jnp.concatenate([weights, weights * patches[:, size * size // 2]])
        return total + rows @ patches, None

    start = jnp.zeros((2 * sigmas.shape[0], size * size), images.dtype)
    usable = count // block * block
    blocks = images[:usable].reshape(-1, block, height, width, 1)
    return lax.scan(add, start, blocks)[0]


def main() -> None:
    """Print seconds, ratios and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60_000, help="training images")
    parser.add_argument("--baseline-images", type=int, default=6_000, help="images for the baselines")
    parser.add_argument("--levels", type=int, default=16)
    parser.add_argument("--size", type=int, default=7, help="window")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--root", default=None, help="folder of the IDX files; default: the usual places")
    options = parser.parse_args()

    images = load_fashion_mnist("train", root=options.root, num_images=options.images).images
    bank = ImageBank(images, options.size)
    few = ImageBank(images[: options.baseline_images], options.size)
    grid = images.shape[1:3]
    sigmas = geometric_sigmas(10.0, 0.3, options.levels - 1).astype(jnp.float32)
    zeros = jnp.zeros((options.levels, 1), jnp.float32)

    def symbols(bank, sigmas, states):
        return jax.vmap(lambda s, m: symbol(bank, s, grid, state=m))(sigmas, states)

    def one_by_one(bank, sigmas, states):
        return lax.map(lambda pair: symbol(bank, pair[0], grid, state=pair[1]), (sigmas, states))

    small = {
        "critjax": compiled(symbols, few, sigmas, zeros),
        "level by level": compiled(one_by_one, few, sigmas, zeros),
        "unfolded": compiled(
            lambda x, s, m: unfolded_moments(x, s, m, options.size), few.images, sigmas, zeros
        ),
    }
    seconds = interleaved(small, options.repeats)
    speed = matmul_speed()
    print(f"{machine()}; matrix product {speed / 1e9:.0f} GFLOP/s")
    positions = few.images.shape[0] * np.prod(grid)
    work = 2 * (2 * options.levels) * options.size**2 * positions
    rows = [
        [name, f"{taken:.2f}", f"{seconds['unfolded'] / taken:.2f}", f"{work / taken / speed:.2f}"]
        for name, taken in seconds.items()
    ]
    print(f"{options.baseline_images} images, {options.levels} levels:")
    table(["route", "s", "times faster than unfolded", "of peak"], rows)

    find_states = compiled(homogeneous_state, bank, sigmas)
    states = find_states()
    whole = {"states": find_states, "symbols given the states": compiled(symbols, bank, sigmas, states)}
    taken = interleaved(whole, 1)
    given, total = taken["symbols given the states"], sum(taken.values())
    print(f"{options.images} images, {options.levels} levels:")
    rows = [["symbols given the states", f"{given:.1f}", 30], ["with the states", f"{total:.1f}", 90]]
    table(["task", "s", "bar (60,000 images)"], rows)
    print(f"peak memory {peak_megabytes():.0f} MB, of which the images are {images.nbytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
