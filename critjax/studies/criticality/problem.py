"""The bank of a criticality study on its grid: patterns by name, or the patches of training images."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from critjax._checks import check
from critjax.banks import ImageBank
from critjax.studies._engine.problem import Problem, pattern_problem
from critjax.studies.criticality.settings import DEFAULT_NUM_IMAGES, CriticalitySettings


def _load_images(settings: CriticalitySettings) -> Any:
    """Load the training images; without a number given, the first hundred or all there are."""
    from critjax.data import load_dataset  # brings the embedded images: only when images are asked for

    options: dict[str, Any] = {"classes": settings.classes, "value_range": settings.value_range}
    if settings.num_images is not None:
        return load_dataset(settings.bank, num_images=settings.num_images, **options)
    try:
        return load_dataset(settings.bank, num_images=DEFAULT_NUM_IMAGES, **options)
    except ValueError as error:
        if not str(error).startswith("num_images"):
            raise
        return load_dataset(settings.bank, **options)  # there are fewer


def build_problem(settings: CriticalitySettings) -> Problem:
    """Build or load the bank of resolved settings.

    Raises
    ------
    ValueError, FileNotFoundError
        If images cannot be read or are smaller than the window, or the closure has fewer fields than they need.
    """
    size = settings.size or 1
    if not settings.uses_images:
        return pattern_problem(
            settings.bank,
            settings.grid or (64, 64),
            size=size,
            num_random=settings.num_random,
            wavelength=settings.wavelength,
            seed=settings.seed,
            precision=settings.precision,
        )
    found = _load_images(settings)
    images = np.asarray(found.images, jnp.dtype(settings.precision))
    bank = ImageBank(images, size, positions=settings.positions)
    count, height, width, channels = images.shape
    # The closure needs as many fluctuations as channels, beside the mean.
    fields, least = settings.closure_samples, channels + 1
    expected = f"0 or at least {least} with {channels} channels"
    check(not fields or fields >= least, "closure_samples", expected, fields, "use 16, or 0 to skip")
    text = f"patches of {count} images ({height} x {width} x {channels}) of {found.name}, p = {size}"
    return Problem(bank, (height, width), channels, False, images, text)
