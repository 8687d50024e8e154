"""Reduced against exact dynamics, same steps and batch.

At least 2.5 times faster for 18 patterns of 9 x 9, and 15 times for 200 of 15 x 15; the exact model takes Euler steps.
"""

from __future__ import annotations

import jax
import numpy as np
from _timing import compiled, interleaved, machine, table

from critjax import geometric_sigmas, patch_denoiser, random_pattern_bank, sample
from critjax.landau import integrate, reduced_model

#: Patches, window, bar.
CASES = [(18, 9, 2.5), (200, 15, 15.0)]


def main() -> None:
    """Print the table."""
    side, batch, num_steps = 128, 4, 32
    shape = (side, side, 1)
    rows = []
    for count, size, bar in CASES:
        bank = random_pattern_bank(jax.random.key(0), size, (count - 2) // 2)
        sigmas = geometric_sigmas(0.6 * size, 0.15 * size, num_steps).astype(np.float32)
        model = reduced_model(bank, sigmas, shape[:2])
        keys = jax.random.split(jax.random.key(1), batch)
        x = sigmas[0] * jax.random.normal(jax.random.key(2), (batch, *shape))

        def exact(keys, x, bank=bank, sigmas=sigmas):
            def run(key, x):
                denoise = patch_denoiser(bank)
                return sample(denoise, key, shape, sigmas, solver="euler", x_init=x, save_every=num_steps).x[
                    -1
                ]

            return jax.vmap(run)(keys, x)

        def reduced(keys, x, model=model, size=size):
            def run(key, x):
                return integrate(model, key, x, cutoff=np.pi / size, save_every=num_steps).x[-1]

            return jax.vmap(run)(keys, x)

        seconds = interleaved({"exact": compiled(exact, keys, x), "reduced": compiled(reduced, keys, x)})
        ratio = seconds["exact"] / seconds["reduced"]
        times = [f"{1e3 * seconds[name] / num_steps:.2f}" for name in ("exact", "reduced")]
        rows.append([f"{count} patterns {size} x {size}", *times, f"{ratio:.1f}", bar])
    print(f"{machine()}; {batch} samples of {side} x {side}, one denoiser evaluation a step")
    table(["bank", "exact, ms a step", "reduced, ms a step", "times faster", "bar"], rows)


if __name__ == "__main__":
    main()
