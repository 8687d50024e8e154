"""One Euler step of the default random-pattern bank for 64 samples: at most 2 times its bare matrix product."""

from __future__ import annotations

import jax
import numpy as np
from _timing import bare_product, compiled, interleaved, machine, matmul_speed, table, windows

from critjax import patch_denoiser, random_pattern_bank


def main() -> None:
    """Print the ratios."""
    bank = random_pattern_bank(jax.random.key(0), 9, 8)
    x = np.random.default_rng(0).normal(size=(64, 64, 64, 1)).astype(np.float32) * 5
    patches = np.asarray(bank.patches).reshape(18, -1)

    def step(method: str):
        def run(x, sigma, sigma_next):
            denoise = patch_denoiser(bank, method=method)
            return jax.vmap(lambda x: x + (1 - sigma_next / sigma) * (denoise(x, sigma) - x))(x)

        return compiled(run, x, np.float32(4.0), np.float32(3.8))

    functions = {"bare": bare_product(windows(x, 9), patches)}
    seconds = interleaved(functions | {"automatic (convolution)": step("auto")})
    # Apart, because the product needs so much memory that what runs after it pays for new pages.
    seconds |= interleaved({"product": step("product")})
    speed = matmul_speed()
    work = 2 * x.size * patches.size
    print(f"{machine()}; matrix product {speed / 1e9:.0f} GFLOP/s")
    rows = [
        [name, f"{1e3 * taken:.1f}", f"{taken / seconds['bare']:.2f}", 2.0, f"{work / taken / speed:.2f}"]
        for name, taken in seconds.items()
    ]
    table(["method", "ms", "ratio to bare", "bar", "of peak"], rows)


if __name__ == "__main__":
    main()
