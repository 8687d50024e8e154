"""One Euler step of the default random-pattern bank for 64 samples: at most 2 times its bare matrix product.

Prints medians of five, the ratio, the speed as a fraction of this machine's matrix product, and the peak resident
memory above the imports of each method in a fresh process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

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

from critjax import patch_denoiser, random_pattern_bank

METHODS = {"bare": None, "automatic (convolution)": "auto", "product": "product"}


def workload(name: str) -> tuple[Callable[[], object], int]:
    """Return one method as a call, and the operations of its product."""
    bank = random_pattern_bank(jax.random.key(0), 9, 8)
    x = np.random.default_rng(0).normal(size=(64, 64, 64, 1)).astype(np.float32) * 5
    patches = np.asarray(bank.patches).reshape(18, -1)
    work = 2 * x.size * patches.size
    if name == "bare":
        return bare_product(windows(x, 9), patches), work

    def run(x, sigma, sigma_next):
        denoise = patch_denoiser(bank, method=METHODS[name])
        return jax.vmap(lambda x: x + (1 - sigma_next / sigma) * (denoise(x, sigma) - x))(x)

    return compiled(run, x, np.float32(4.0), np.float32(3.8)), work


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory is not None:
        before = peak_megabytes()
        jax.block_until_ready(workload(options.memory)[0]())
        print(f"{peak_megabytes() - before:.0f}")
        return
    *first, last = METHODS
    seconds = interleaved({name: workload(name)[0] for name in first})
    # Apart, because the product needs so much memory that what runs after it pays for new pages.
    seconds |= interleaved({last: workload(last)[0]})
    speed, work = matmul_speed(), workload("bare")[1]
    print(f"{machine()}; matrix product {speed / 1e9:.0f} GFLOP/s")
    rows = [
        [
            name,
            f"{1e3 * taken:.1f}",
            f"{taken / seconds['bare']:.2f}",
            2.0,
            f"{work / taken / speed:.2f}",
            memory_of(__file__, "--memory", name),
        ]
        for name, taken in seconds.items()
    ]
    table(["method", "ms", "ratio to bare", "bar", "of peak", "MB above imports"], rows)


if __name__ == "__main__":
    main()
