"""One ELS evaluation against the bare product: at most 2.0 times at p = 7, 3.0 at low noise; 1.0 at p = 15.

Prints medians of five, the ratio, the speed as a fraction of this machine's matrix product, and, with
``--memory``, the peak resident memory above the imports in a fresh process.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
from _timing import (
    bare_product,
    compiled,
    interleaved,
    machine,
    matmul_speed,
    memory_of,
    peak_megabytes,
    table,
    windows,
)

from critjax import ImageBank, patch_denoiser

#: Side, channels, window, bars where scores are plain and where they are accurate.
CASES = [(28, 1, 7, (2.0, 3.0)), (28, 1, 15, (1.0, 1.0)), (32, 3, 15, (1.0, 1.0))]
#: Random images have accurate scores from here on.
LOW_NOISE = 0.5


def data(side: int, channels: int, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random images in [-1, 1] and one noisy image."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (num_images, side, side, channels)).astype(np.float32)
    return images, rng.normal(size=images.shape[1:]).astype(np.float32)


def evaluation(images, x, size: int, sigma: float, method: str = "auto"):
    """Compile one evaluation with the bank as an argument."""
    return compiled(
        lambda im, x, s: patch_denoiser(ImageBank(im, size), method=method)(x, s),
        images,
        x,
        np.float32(sigma),
    )


def memory(case: int, num_images: int) -> None:
    """Print the peak memory of one evaluation above the imports (run in a fresh process)."""
    side, channels, size, _ = CASES[case]
    before = peak_megabytes()
    images, x = data(side, channels, num_images)
    jax.block_until_ready(evaluation(images, x, size, 0.05)())
    print(f"{peak_megabytes() - before:.0f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-images", type=int, default=400)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[2.0, 0.5, 0.05])
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory is not None:
        memory(arguments.memory, arguments.num_images)
        return
    speed = matmul_speed()
    print(f"{machine()}; matrix product {speed / 1e9:.0f} GFLOP/s")
    rows = []
    for number, (side, channels, size, bars) in enumerate(CASES):
        images, x = data(side, channels, arguments.num_images)
        queries, candidates = windows(x[None], size), windows(images, size)
        functions = {"bare": bare_product(queries, candidates)}
        for sigma in arguments.sigmas:
            functions[str(sigma)] = evaluation(images, x, size, sigma)
        seconds = interleaved(functions)
        peak = memory_of(__file__, "--memory", number, "--num-images", arguments.num_images)
        work = 2 * len(queries) * candidates.size
        for sigma in arguments.sigmas:
            taken = seconds[str(sigma)]
            rows.append(
                [
                    f"{side} x {side} x {channels}",
                    size,
                    sigma,
                    f"{seconds['bare']:.3f}",
                    f"{taken:.3f}",
                    f"{taken / seconds['bare']:.2f}",
                    bars[sigma <= LOW_NOISE],
                    f"{work / taken / speed:.2f}",
                    peak,
                ]
            )
        del images, candidates, functions
    table(
        [
            "image",
            "p",
            "sigma",
            "bare product, s",
            "critjax, s",
            "ratio",
            "bar",
            "of peak",
            "MB above imports",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
