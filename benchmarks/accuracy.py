"""Float32 error of patch scores against float64 on the same inputs, with accurate scores at low noise and without.

Noised images: maximum over pixels of images that are not in the bank.
Half-way: windows set half-way between two bank patches with different centres,
where the posterior is a coin toss and rounding of the scores shows most. Errors are in units of the data range 2.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from critjax.banks import ImageBank  # noqa: E402
from critjax.data import embedded_fashion_mnist  # noqa: E402
from critjax.patch_score import _plan, patch_denoiser  # noqa: E402


def halfway_inputs(images: np.ndarray, size: int, num_pairs: int, seed: int = 0) -> np.ndarray:
    """Return windows half-way between two interior patches whose centres differ."""
    rng = np.random.default_rng(seed)
    height = images.shape[1]
    pairs = []
    while len(pairs) < num_pairs:
        (n, m), rows, columns = rng.integers(len(images), size=2), *rng.integers(0, height - size + 1, (2, 2))
        first = images[n, rows[0] : rows[0] + size, columns[0] : columns[0] + size]
        second = images[m, rows[1] : rows[1] + size, columns[1] : columns[1] + size]
        middle = size // 2
        if abs(float(first[middle, middle, 0] - second[middle, middle, 0])) > 0.2:
            pairs.append((first + second) / 2)
    return np.stack(pairs).astype(np.float32)


def cloth_images(count: int, colour: bool) -> np.ndarray:
    """Return images of clothes; in colour, the other channels are the mirrored and the transposed image."""
    images = embedded_fashion_mnist(count).images
    return np.concatenate([images, images[:, :, ::-1], images.swapaxes(1, 2)], -1) if colour else images


def errors(
    size: int, method: str, data: np.ndarray, num_held_out: int, num_pairs: int, sigmas: list[float]
) -> dict[float, tuple]:
    """Return the largest error on noised images and on half-way windows at each noise level."""
    images, held_out = np.split(data, [len(data) - num_held_out])
    centre = images.shape[1] // 2
    first, last = centre - size // 2, centre + size // 2 + 1
    exact = jax.jit(patch_denoiser(ImageBank(images.astype(np.float64), size), method=method))
    rounded = jax.jit(patch_denoiser(ImageBank(images, size), method=method))
    rng = np.random.default_rng(1)
    found = {}
    for sigma in sigmas:
        noised = held_out + np.float32(sigma) * rng.normal(size=held_out.shape).astype(np.float32)
        level = np.float32(sigma)  # the same noise level in both precisions
        error = max(
            np.abs(rounded(x, level) - exact(x.astype(np.float64), np.float64(level))).max() for x in noised
        )
        worst = 0.0
        for window in halfway_inputs(images, size, num_pairs):
            x = images[0].copy()
            x[first:last, first:last] = window
            pixel = (centre, centre)
            worst = max(
                worst,
                abs(float(rounded(x, level)[pixel][0] - exact(x.astype(float), np.float64(level))[pixel][0])),
            )
        found[sigma] = (float(error) / 2, worst / 2)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=20)
    parser.add_argument("--num-held-out", type=int, default=12)
    parser.add_argument("--colour", action="store_true", help="three channels")
    parser.add_argument("--num-pairs", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="+", default=[7, 15])
    arguments = parser.parse_args()
    data = cloth_images(arguments.num_images + arguments.num_held_out, arguments.colour)
    sigmas = [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]
    chosen = dict(_plan.FACTORS)
    for size in arguments.sizes:
        for method in ("product", "box"):
            for factor in (0.0, chosen[method]):
                _plan.FACTORS[method] = factor
                jax.clear_caches()  # programs depend on it
                limit = (chosen[method] * data.shape[-1]) ** 0.5 * size
                name = f"accurate below sigma = {limit:.2f}" if factor else "plain"
                print(f"p = {size}, {method}, {name}\n  sigma   noised images   half-way")
                # Where plain sums have to do, down to just above the limit, and below it.
                levels = [round(limit * ratio, 3) for ratio in (2.0, 1.6, 1.3, 1.15, 1.01)] + sigmas
                table = errors(size, method, data, arguments.num_held_out, arguments.num_pairs, levels)
                for sigma, (noised, halfway) in table.items():
                    print(f"  {sigma:<6g}  {noised:.1e}         {halfway:.1e}")


if __name__ == "__main__":
    main()
