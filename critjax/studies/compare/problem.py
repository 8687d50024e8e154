"""What a comparison compares: a denoiser, the images of the patch models, and images to be noised."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from critjax._checks import check
from critjax._programs import as_pytree
from critjax._typing import Array, DenoiseFn
from critjax.data import load_dataset
from critjax.studies.compare.settings import ResolvedCompare


class Problem(NamedTuple):
    """Everything that the parts of a comparison work on."""

    denoise: DenoiseFn
    bank: Array
    """Training images of the patch models."""
    queries: np.ndarray
    """Images that are noised."""
    size: int | None
    """Side of the receptive field, if it is known to be smaller than the image."""
    description: str
    seen: bool = False
    """Whether the denoiser is known to have been trained on the images that are noised."""


def _images(data: str, wanted: int, label: int | None) -> tuple[np.ndarray, str]:
    """Load the first images, of one class if it is given, and tell which; of a user's own there may be fewer.

    Those of Fashion-MNIST are the ones that come with the package unless more are wanted.
    """
    if data == "fashion-mnist":
        classes, there = (None, "1,000") if label is None else ([label], "100 of a class")
        try:
            found = load_dataset(data, num_images=wanted, classes=classes)
        except FileNotFoundError as error:
            advice = f"lower num_images: {there} come with the package, some of which are noised"
            raise FileNotFoundError(f"{error}; or {advice}") from None
    else:
        found = load_dataset(data)
    images = found.images
    if label is None:
        return np.asarray(images[:wanted]), ""
    advice = "leave it out, or pass labelled images"
    check(found.labels is not None, "class_label", "images with labels", f"{data} without", advice)
    images = images[np.asarray(found.labels) == label]
    name = found.class_names[label] if label < len(found.class_names) else str(label)
    which = f"class {label}" + (f" ({name})" if name != str(label) else "")
    return np.asarray(images[:wanted]), which


def load(settings: ResolvedCompare, denoise_fn: DenoiseFn | None = None, size: int | None = None) -> Problem:
    """Load network and images."""
    count, fewest = settings.num_images, settings.num_queries
    wanted = count + max(fewest, settings.num_samples)
    images, which = _images(settings.data, wanted, settings.class_label)
    least = count + fewest
    advice = "lower num_images or pass more images"
    expected = f"at least {least} images" + (f" of {which}" if which else "")
    check(len(images) >= least, "data", expected, len(images), advice)
    expected = f"windows up to {min(images.shape[1:3])}"
    check(
        max(settings.sizes) <= min(images.shape[1:3]),
        "sizes",
        expected,
        max(settings.sizes),
        "use smaller ones",
    )
    description, seen = "a denoiser that was passed", False
    check(size is None or denoise_fn is not None, "size", "a denoiser beside it", "none", "leave it out")
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
        size = reach if reach and reach <= min(images.shape[1:3]) else None
        description = f"{config.architecture} network, receptive field {reach or 'unbounded'}"
        seen = str(stored.info.get("data", "")).startswith(f"{settings.data}-train,")
    description += f"; network and images of {which}" if which else ""
    bank = jnp.asarray(images[:count])
    return Problem(as_pytree("denoise_fn", denoise_fn), bank, images[count:], size, description, seen)
