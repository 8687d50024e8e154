"""Gaussian closure against the simulation that it predicts, on the ladder of the default study.

The closure must cost less: 16 fields per level in place of 512 trajectories (patterns), 24 in place of 24 (images).
"""

from __future__ import annotations

import jax
import numpy as np
from _timing import compiled, interleaved, machine, table

from critjax import ImageBank, gaussian_closure, geometric_sigmas, patch_denoiser, random_pattern_bank, sample
from critjax.data import embedded_fashion_mnist

#: Levels, fields per level of the closure, trajectories and how many of them are timed.
CASES = {"random patterns, 64 x 64": (64, 16, 512, 32), "100 images, 28 x 28, p = 7": (40, 24, 24, 2)}


def main() -> None:
    """Print the table."""
    rows = []
    for name, (levels, fields, samples, timed) in CASES.items():
        if name.startswith("random"):
            bank, grid = random_pattern_bank(jax.random.key(0), 9, 8), (64, 64)
        else:
            images = np.asarray(embedded_fashion_mnist().images[:100], np.float32)
            bank, grid = ImageBank(images, 7, positions="interior"), (28, 28)
        sigmas = geometric_sigmas(8.0, 0.4, levels - 1).astype(np.float32)
        key, keys = jax.random.key(1), jax.random.split(jax.random.key(2), timed)

        def closure(bank, key, sigmas=sigmas, grid=grid, fields=fields):
            denoise = patch_denoiser(bank)
            return gaussian_closure(
                denoise, key, sigmas, grid, num_samples=fields, num_replicas=4, size=bank.size
            ).symbol[-1]

        def simulation(bank, keys, sigmas=sigmas, grid=grid, levels=levels):
            denoise = patch_denoiser(bank)
            return jax.vmap(lambda k: sample(denoise, k, (*grid, 1), sigmas, save_every=levels - 1).x[-1])(
                keys
            )

        functions = {"closure": compiled(closure, bank, key), "simulation": compiled(simulation, bank, keys)}
        seconds = interleaved(functions)
        whole = seconds["simulation"] * samples / timed
        rows.append(
            [name, f"{seconds['closure']:.1f}", f"{whole:.1f}", f"{whole / seconds['closure']:.1f}", 1.0]
        )
    print(f"{machine()}; Heun steps; trajectories timed in part and scaled to their number")
    table(["bank", "closure, s", "simulation, s", "times cheaper", "bar"], rows)


if __name__ == "__main__":
    main()
