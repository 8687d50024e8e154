"""Tell whether a network's regression symbol misses the Gaussian closure because fields are not Gaussian.

The closure replaces trajectories by Gaussian fields whose spectrum it predicts itself. Here the fields are Gaussian,
too, but mean image and covariance are those of the network's own trajectories: what is left of the difference is owed
to their statistics alone. Prints lambda_reg(0) of

- the trajectories,
- Gaussian fields with their mean image and their full sample covariance,
- Gaussian fields with their mean image and their spectrum, averaged over positions as in the closure.

Errors are bootstrap over fields::

    python tools/gaussian_fields.py local-11 [--num 96]
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from critjax.networks import load_network, network_denoiser
from critjax.sampling import sample

LEVELS = np.geomspace(20.0, 0.05, 21)
SHOWN, BATCH, FIELDS, SHAPE = slice(4, 21, 2), 16, 4, (28, 28, 1)


def uniform_regression(x: np.ndarray, denoised: np.ndarray) -> tuple[float, float]:
    """Slope of the mean of D on the mean of x over fields, which is lambda_reg(0), and its bootstrap error."""
    pair = np.stack([a.astype(np.float64).mean((1, 2, 3)) for a in (x, denoised)])

    def slope(pair: np.ndarray) -> float:
        covariance = np.cov(pair)
        return covariance[0, 1] / covariance[0, 0]

    draws = np.random.default_rng(0).integers(0, len(x), (300, len(x)))
    return slope(pair), float(np.std([slope(pair[:, draw]) for draw in draws], ddof=1))


def main() -> None:
    """Print one line a noise level."""
    parser = argparse.ArgumentParser(description="Regression symbols of trajectories and of Gaussian fields.")
    parser.add_argument("network")
    parser.add_argument("--num", type=int, default=96, help="trajectories (default: %(default)s)")
    options = parser.parse_args()
    stored = load_network(options.network)
    denoise = network_denoiser(stored.config, stored.params)
    sigmas = jnp.asarray(LEVELS, jnp.float32)
    run = jax.jit(jax.vmap(lambda key: sample(denoise, key, SHAPE, sigmas).x))
    through = jax.jit(jax.vmap(denoise, (0, None)))
    keys, rng = jax.random.split(jax.random.key(5), options.num), np.random.default_rng(1)
    paths = np.concatenate([np.asarray(run(keys[i : i + BATCH])) for i in range(0, options.num, BATCH)])
    count = FIELDS * options.num
    print("sigma   trajectories     full covariance   spectrum")
    for level in range(len(LEVELS))[SHOWN]:
        x = paths[:, level].astype(np.float64)
        mean = x.mean(0)
        apart = (x - mean) / np.sqrt(options.num - 1)
        covariance = mean + np.tensordot(rng.normal(size=(count, options.num)), apart, 1)
        spectrum = (np.abs(np.fft.fft2(apart, axes=(1, 2))) ** 2).sum(0) / (SHAPE[0] * SHAPE[1])
        white = np.fft.fft2(rng.normal(size=(count, *SHAPE)), axes=(1, 2))
        invariant = mean + np.fft.ifft2(white * np.sqrt(spectrum), axes=(1, 2)).real
        found = []
        for fields in (x, covariance, invariant):
            parts = [
                np.asarray(through(jnp.asarray(fields[i : i + BATCH], jnp.float32), sigmas[level]))
                for i in range(0, len(fields), BATCH)
            ]
            found.append("{:.4f} +- {:.4f}".format(*uniform_regression(fields, np.concatenate(parts))))
        print(f"{LEVELS[level]:<7.3g} {'  '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
