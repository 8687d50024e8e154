"""Guidance: one reverse pass against finite differences, its memory, and the price of a pulse.

The reverse pass gives the derivative at every level; central differences need two samples a level. Its temporary
memory at 256 steps must be at most twice that at 64. A pulse evaluates the conditional model only where it acts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from _timing import compiled, interleaved, machine, table

from critjax import geometric_sigmas, guided, pulse, sample, susceptibility
from critjax.guidance import constant, guidance_window
from critjax.networks import load_network, network_denoiser
from critjax.studies.guide.settings import GuideSettings
from critjax.studies.guide.systems import pattern_system

LEVELS = 40


def models() -> dict[str, tuple]:
    """Return unconditional and conditional denoiser and image shape of a pattern bank and of a shipped network."""
    patterns = pattern_system(GuideSettings(model="patterns").resolved()).model
    stored = load_network("unet-classes")
    config, params = stored.config, stored.params
    network = (network_denoiser(config, params), network_denoiser(config, params, 3), (28, 28, 1))
    bank = (patterns.unconditional, patterns.conditional(0), patterns.shape)
    return {"pattern bank, 32 x 32": bank, "unet-classes": network}


def main() -> None:
    """Print the tables."""
    key, rows, prices = jax.random.key(0), [], []
    for name, (free, own, shape) in models().items():

        def reverse(key, levels, free=free, own=own, shape=shape):
            sigmas = geometric_sigmas(20.0, 0.1, levels, dtype=np.float32)
            return susceptibility(free, own, jnp.mean, key, shape, sigmas).value

        def run(key, weight_fn, free=free, own=own, shape=shape):
            sigmas = geometric_sigmas(20.0, 0.1, LEVELS, dtype=np.float32)
            return sample(guided(free, own, weight_fn), key, shape, sigmas, save_every=LEVELS).x[-1]

        memory = {
            count: jax.jit(lambda k, n=count, r=reverse: r(k, n)).lower(key).compile().memory_analysis()
            for count in (64, 256)
        }
        ratio = memory[256].temp_size_in_bytes / memory[64].temp_size_in_bytes
        functions = {
            "reverse": compiled(lambda k, r=reverse: r(k, LEVELS), key),
            "free": compiled(lambda k, r=run: r(k, constant(0.0)), key),
            "constant": compiled(lambda k, r=run: r(k, constant(0.5)), key),
            "pulse": compiled(lambda k, r=run: r(k, pulse(1.0, 2.0, 3.0)), key),
            "window": compiled(
                lambda k, d=free, s=shape: (
                    guidance_window(d, k, s, geometric_sigmas(20.0, 0.1, LEVELS, dtype=np.float32)).centre
                ),
                key,
            ),
        }
        seconds = interleaved(functions, repeats=3)
        differences = 2 * (LEVELS + 1) * seconds["constant"]
        rows.append(
            [name, f"{seconds['reverse']:.2f}", f"{seconds['reverse'] / seconds['constant']:.1f}",
             f"{differences / seconds['reverse']:.1f}", f"{ratio:.2f}", 2.0]
        )  # fmt: skip
        prices.append([name, *(f"{seconds[n]:.2f}" for n in ("free", "pulse", "constant", "window"))])
    print(f"{machine()}; {LEVELS} Heun steps, one image")
    table(
        ["model", "reverse pass, s", "of one guided sample", "times faster than differences",
         "memory, 256 / 64 steps", "bar"], rows,
    )  # fmt: skip
    print()
    table(
        ["model", "unguided, s", "pulse, s", "constant, s", "recommended window, 8 trajectories, s"], prices
    )


if __name__ == "__main__":
    main()
