"""All window sizes in one pass against one denoiser a size: faster, at high and at low noise.

Zero padding, 200 training images of 28 x 28 pixels, seven windows. Prints the seconds per query and noise level of
`patch_denoisers`, alone and in a batch by `jax.vmap`, of the calls of `patch_denoiser` that it replaces, the ratio,
and the memory of the program. With ``--by-window`` instead: one size at a time, periodic, to see how the cost depends
on the window, and with zero padding also three Jacobian-vector products by either.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
from _timing import compiled, interleaved, machine, table

from critjax import ImageBank, patch_denoiser, patch_denoisers

SIZES = (3, 5, 7, 9, 11, 15, 19)


def one_a_size(positions: str):
    """Return the baseline: one denoiser after the other, in one program."""

    def denoise(images, x, sigma):
        banks = [ImageBank(images, size, positions=positions) for size in SIZES]
        return [patch_denoiser(bank, boundary="zero")(x, sigma) for bank in banks]

    return denoise


def nested(positions: str):
    """Return the same by one pass."""

    def denoise(images, x, sigma):
        bank = ImageBank(images, SIZES[0], positions=positions)
        return patch_denoisers(bank, SIZES, boundary="zero")(x, sigma)

    return denoise


def by_window(images: np.ndarray, x: np.ndarray, repeats: int) -> None:
    """Print what one window size costs by window sums of squared differences, and by strips and products."""
    sigma = np.float32(0.2)
    directions = np.stack([np.ones_like(x), x, -np.flip(x, 0)])

    def sums(size: int, boundary: str):
        def denoise(images, x, sigma):
            return patch_denoisers(ImageBank(images, size), (size,), boundary=boundary)(x, sigma)[0]

        return denoise

    def single(size: int, boundary: str):
        return lambda images, x, sigma: patch_denoiser(ImageBank(images, size), boundary=boundary)(x, sigma)

    def products(denoise):
        def along(images, x, sigma, v):
            return jax.jvp(lambda y: denoise(images, y, sigma), (x,), (v,))[1]

        return jax.vmap(along, (None, None, None, 0))

    rows = []
    names = [f"{model}, {what}" for model in ("sums", "single") for what in ("periodic", "zero", "jvp")]
    for size in (3, 7, 9, 11, 15, 19, 23):
        functions = []
        for model in (sums, single):
            functions += [compiled(model(size, pad), images, x, sigma) for pad in ("periodic", "zero")]
            functions.append(compiled(products(model(size, "zero")), images, x, sigma, directions))
        seconds = interleaved(dict(zip(names, functions, strict=True)), repeats)
        rows.append([str(size), *(f"{seconds[name]:.2f}" for name in names)])
    table(["p", *names], rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[2.0, 0.2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--by-window", action="store_true")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (arguments.num_images, 28, 28, 1)).astype(np.float32)
    x = rng.normal(size=(arguments.batch, 28, 28, 1)).astype(np.float32)
    print(machine())
    if arguments.by_window:
        by_window(images, x[0], arguments.repeats)
        return
    rows = []
    for positions in ("all", "same"):
        many = jax.vmap(nested(positions), (None, 0, None))
        lowered = jax.jit(nested(positions)).lower(images, x[0], np.float32(1))
        memory = lowered.compile().memory_analysis().temp_size_in_bytes / 1e6
        for sigma in map(np.float32, arguments.sigmas):
            functions = {
                "each": compiled(one_a_size(positions), images, x[0], sigma),
                "nested": compiled(nested(positions), images, x[0], sigma),
                "batch": compiled(many, images, x, sigma),
            }
            seconds = interleaved(functions, arguments.repeats)
            rows.append(
                [
                    positions,
                    f"{sigma:g}",
                    f"{seconds['each']:.3f}",
                    f"{seconds['nested']:.3f}",
                    f"{seconds['batch'] / arguments.batch:.3f}",
                    f"{seconds['nested'] / seconds['each']:.2f}",
                    f"{memory:.0f}",
                ]
            )
    table(
        ["positions", "sigma", "one a size, s", "one pass, s", "in a batch, s a query", "ratio", "MB"], rows
    )


if __name__ == "__main__":
    main()
