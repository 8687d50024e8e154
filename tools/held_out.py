"""Print the held-out losses of shipped networks beside those of the ideal, LS and ELS denoisers on the same images.

All denoisers see the same test images of Fashion-MNIST with the same noise. LS and ELS models take the best of their
windows at every noise level, chosen on these images, which favours them; beside a network that sees less than the
largest window they also stand with windows up to its receptive field. The last rows count the images on which the
ideal denoiser rests: exp(entropy of its posterior), averaged over the test images. Networks with classes stand
twice, the second time told the class of every image, which the others do not know. Takes tens of minutes on two cores,
nearly all of them for ELS; ``--num-ls 0 --num-els 0`` leaves patch models out.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax import ImageBank, ideal_denoiser, patch_denoisers
from critjax.data import load_fashion_mnist
from critjax.networks import EVALUATION_SIGMAS, load_network, network_denoiser, shipped_networks

SIZES = (3, 5, 7, 9, 11, 15, 19)


def noised(clean: np.ndarray, index: int) -> np.ndarray:
    """Add the noise of one level to the clean images; all denoisers see the same."""
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), index), clean.shape)
    return clean + EVALUATION_SIGMAS[index] * np.asarray(noise)


def per_image_losses(
    denoise: Any, clean: np.ndarray, levels: list[int], labels: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the loss of every image (N,), or image and window (N, sizes), at every level.

    With labels, ``denoise`` takes that of the image third.
    """
    evaluate, found = jax.jit(denoise), []
    told = [()] * len(clean) if labels is None else [(label,) for label in labels]
    for index in levels:
        sigma, losses = EVALUATION_SIGMAS[index], []
        for x0, x, label in zip(clean, noised(clean, index), told, strict=True):
            denoised = np.asarray(evaluate(jnp.asarray(x), jnp.float32(sigma), *label), np.float64)
            losses.append(((denoised - x0) ** 2).mean(axis=(-3, -2, -1)))
        found.append(np.array(losses))
    return found


def best(levels: list[np.ndarray], largest: int = SIZES[-1]) -> list[np.ndarray]:
    """Keep of several windows, up to the largest one allowed, the one that is best at each level."""
    allowed = sum(size <= largest for size in SIZES)
    return [x if x.ndim == 1 else x[:, x[:, :allowed].mean(0).argmin()] for x in levels]


def with_error(values: np.ndarray) -> str:
    """Write mean and standard error of one number an image."""
    return f"{values.mean():.5f} ± {values.std(ddof=1) / np.sqrt(len(values)):.5f}"


def print_row(name: str, cells: list[str]) -> None:
    """Print one row of a Markdown table."""
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def print_header(name: str, levels: list[int]) -> None:
    """Print the head of a Markdown table with one column a noise level."""
    print_row(name, [f"{EVALUATION_SIGMAS[index]:g}" for index in levels])
    print("|" + "---|" * (1 + len(levels)))


def effective_images(training: np.ndarray, x: np.ndarray, sigma: float) -> float:
    """Return exp(entropy) of the posterior over training images (N, H, W, C) given a noisy one (H, W, C)."""
    logits = -((training - x) ** 2).sum(axis=(1, 2, 3), dtype=np.float64) / (2 * sigma**2)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    return float(np.exp(-(weights * np.log(np.where(weights > 0, weights, 1.0))).sum()))


def main(arguments: list[str] | None = None) -> int:
    """Evaluate every denoiser and print Markdown tables: losses, and differences of losses image by image."""
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
    parser.add_argument(
        "--sigmas",
        type=float,
        nargs="+",
        default=EVALUATION_SIGMAS,
        choices=EVALUATION_SIGMAS,
        help="noise levels (default: all)",
    )
    options = parser.parse_args(arguments)
    levels = [EVALUATION_SIGMAS.index(sigma) for sigma in options.sigmas]
    training = load_fashion_mnist(split="train").images
    test = load_fashion_mnist(split="test")
    clean, classes = (part[: options.num_held_out] for part in (test.images, test.labels))
    models, reach, told = {}, {}, {}
    for name in shipped_networks():
        stored = load_network(name)
        own = [name]
        models[name] = network_denoiser(stored.config, stored.params)
        if stored.config.num_classes:
            own.append(f"{name}, told the class")
            told[own[-1]] = classes
            models[own[-1]] = lambda x, sigma, label, stored=stored: network_denoiser(
                stored.config, stored.params, label
            )(x, sigma)
        reach.update(dict.fromkeys(own, stored.config.receptive_field or SIZES[-1]))
    models["ideal, 60,000 images"] = ideal_denoiser(training)
    ls, els = (training[:count] for count in (options.num_ls, options.num_els))
    for kind, images, positions in (("LS", ls, "same"), ("ELS", els, "all")):
        if len(images):
            denoise = patch_denoisers(
                ImageBank(images, SIZES[0], positions=positions), SIZES, boundary="zero"
            )
            models[f"{kind}, {len(images):,} images"] = denoise
    rivals = [name for name in models if name not in reach]
    found = {}
    print_header("denoiser", levels)
    for name, denoise in models.items():
        found[name] = per_image_losses(denoise, clean, levels, told.get(name))
        print_row(name, [with_error(level) for level in best(found[name])])
    counts = [
        [effective_images(training, x, EVALUATION_SIGMAS[index]) for x in noised(clean, index)]
        for index in levels
    ]
    print_row("effective images, mean", [f"{np.mean(level):.3g}" for level in counts])
    print_row(
        "effective images, geometric mean", [f"{np.exp(np.mean(np.log(level))):.3g}" for level in counts]
    )
    print("\nLoss minus that of the network on the same noisy images:\n")
    print_header("rival; network", levels)
    for name, field in reach.items():
        for rival in rivals:
            rows = {f"{rival}; {name}": SIZES[-1]}
            if found[rival][0].ndim == 2 and field < SIZES[-1]:
                rows[f"{rival}, windows up to {field}; {name}"] = field
            for row, largest in rows.items():
                pairs = zip(best(found[rival], largest), found[name], strict=True)
                print_row(row, [with_error(a - b) for a, b in pairs])
    return 0


if __name__ == "__main__":
    sys.exit(main())
