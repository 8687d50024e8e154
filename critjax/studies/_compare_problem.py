"""What a comparison compares: a denoiser, the images of the patch models, and images to be noised."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from critjax._checks import check
from critjax._typing import Array, DenoiseFn
from critjax.data import load_dataset
from critjax.studies._compare_settings import CompareSettings


class Problem(NamedTuple):
    """Everything that the parts of a comparison work on."""

    denoise: DenoiseFn
    bank: Array
    """Training images of the patch models."""
    queries: Array
    """Images that are noised."""
    window: int | None
    """Receptive field, if it is known to be smaller than the image."""
    description: str
    seen: bool = False
    """Whether the denoiser is known to have been trained on the images that are noised."""


def _images(data: str, wanted: int) -> np.ndarray:
    """Load the first images; of a user's own there may be fewer, of Fashion-MNIST those that come with the package."""
    if data != "fashion-mnist":
        return np.asarray(load_dataset(data).images[:wanted])
    try:
        return np.asarray(load_dataset(data, num_images=wanted).images)
    except FileNotFoundError as error:
        advice = "lower num_images: 1,000 come with the package, some of which are noised"
        raise FileNotFoundError(f"{error}; or {advice}") from None


def load(
    settings: CompareSettings, denoise_fn: DenoiseFn | None = None, window: int | None = None
) -> Problem:
    """Load network and images."""
    count, fewest = settings.num_images or 0, settings.num_queries or 0
    images = _images(settings.data, count + max(fewest, settings.num_samples or 0))
    least = count + fewest
    advice = "lower num_images or pass more images"
    check(len(images) >= least, "data", f"at least {least} images", len(images), advice)
    expected = f"windows up to {min(images.shape[1:3])}"
    check(
        max(settings.sizes) <= min(images.shape[1:3]),
        "sizes",
        expected,
        max(settings.sizes),
        "use smaller ones",
    )
    description, seen = "a denoiser that was passed", False
    check(window is None or denoise_fn is not None, "window", "a denoiser beside it", "none", "leave it out")
    if denoise_fn is None:
        from critjax.networks import load_network, network_denoiser

        stored = load_network(settings.network)
        config = stored.config
        check(
            images.shape[-1] == config.channels,
            "data",
            f"{config.channels} channels, those of the network",
            images.shape[-1],
            "pass images like those of training",
        )
        denoise_fn = network_denoiser(config, stored.params, settings.class_label)
        reach = config.receptive_field
        window = reach if reach and reach <= min(images.shape[1:3]) else None
        description = f"{config.architecture} network, receptive field {reach or 'unbounded'}"
        seen = str(stored.info.get("data", "")).startswith(f"{settings.data}-train,")
    bank, queries = jnp.asarray(images[:count]), jnp.asarray(images[count:])
    return Problem(denoise_fn, bank, queries, window, description, seen)
