"""Print the held-out losses of shipped networks beside those of the ideal, LS and ELS denoisers on the same images.

All denoisers see the same test images of Fashion-MNIST with the same noise. LS and ELS models take the best of their
windows at every noise level, chosen on these images, which favours them. Takes some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np

from critjax import ideal_denoiser, patch_denoisers
from critjax.data import load_fashion_mnist
from critjax.networks import EVALUATION_SIGMAS, load_network, network_denoiser, shipped_networks

SIZES = (3, 5, 7, 9, 11, 15, 19)


def main(arguments: list[str] | None = None) -> int:
    """Evaluate every denoiser and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-held-out", type=int, default=24, help="test images (default: %(default)s)")
    parser.add_argument(
        "--num-els", type=int, default=500, help="training images of ELS (default: %(default)s)"
    )
    parser.add_argument(
        "--num-ls", type=int, default=10_000, help="training images of LS (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    training = load_fashion_mnist(split="train").images
    clean = load_fashion_mnist(split="test").images[: options.num_held_out]
    models = {}
    for name in shipped_networks():
        stored = load_network(name)
        models[name] = network_denoiser(stored.config, stored.params)
    models["ideal, 60,000 images"] = ideal_denoiser(training)
    ls, els = (training[:count] for count in (options.num_ls, options.num_els))
    models[f"LS, {len(ls):,} images"] = patch_denoisers(ls, SIZES, positions="same", boundary="zero")
    models[f"ELS, {len(els):,} images"] = patch_denoisers(els, SIZES, positions="all", boundary="zero")
    print("| denoiser | " + " | ".join(f"{sigma:g}" for sigma in EVALUATION_SIGMAS) + " |")
    print("|" + "---|" * (1 + len(EVALUATION_SIGMAS)))
    for name, denoise in models.items():
        evaluate, cells = jax.jit(denoise), []
        for index, sigma in enumerate(EVALUATION_SIGMAS):
            noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), index), clean.shape)
            losses = []
            for x0, xi in zip(clean, np.asarray(noise), strict=True):
                found = np.asarray(evaluate(jnp.asarray(x0 + sigma * xi), jnp.float32(sigma)), np.float64)
                losses.append(((found - x0) ** 2).mean(axis=(-3, -2, -1)))
            losses = np.array(losses)  # image, or image and window
            best = losses if losses.ndim == 1 else losses[:, losses.mean(0).argmin()]
            cells.append(f"{best.mean():.4f} ± {best.std(ddof=1) / np.sqrt(len(best)):.4f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
