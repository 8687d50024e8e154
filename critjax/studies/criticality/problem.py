"""The bank of a study on its grid."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check
from critjax._typing import Array
from critjax.banks import ImageBank, PatchBank, random_pattern_bank, stripe_bank, two_pattern_bank
from critjax.spectra import homogeneous_state
from critjax.studies.criticality.settings import DEFAULT_NUM_IMAGES, CriticalitySettings


class Problem(NamedTuple):
    """A bank on a grid."""

    bank: PatchBank | ImageBank
    grid: tuple[int, int]
    channels: int
    symmetric: bool
    """The bank equals its negative, so that zero is its homogeneous state."""
    images: Any
    """Training images (N, H, W, C), or None."""
    description: str

    @property
    def mean(self) -> Array:
        """Mean (C,) of the patches' centres, the homogeneous state at infinite noise; zero for symmetric banks."""
        if self.symmetric:
            return jnp.zeros(self.channels)
        return jax.jit(homogeneous_state)(self.bank, jnp.ones(1))[0]

    @property
    def num_patches(self) -> int:
        """Number of patches that compete in the posterior."""
        if isinstance(self.bank, PatchBank):
            return self.bank.patches.shape[0]
        count, height, width, _ = self.bank.images.shape
        lost = 0 if self.bank.positions == "all" else self.bank.size - 1
        return count * (height - lost) * (width - lost)


def bank_key(seed: int) -> Array:
    """Return the key of the random bank, that of the seed itself: ``jax.random.key(seed)``."""
    return jax.random.key(seed)


def check_precision(precision: str) -> None:
    """Raise `ValueError` for float64 where JAX has it disabled: it would be float32 without a word."""
    enabled = precision != "float64" or jnp.zeros(0, float).dtype == np.float64
    advice = "call jax.config.update('jax_enable_x64', True) first"
    check(enabled, "precision", "float64 enabled in JAX", "it disabled", advice)


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
    dtype = jnp.dtype(settings.precision)
    size = settings.size or 1
    if settings.uses_images:
        found = _load_images(settings)
        images = np.asarray(found.images, dtype)
        bank = ImageBank(images, size, positions=settings.positions)
        count, height, width, channels = images.shape
        # The closure needs as many fluctuations as channels, beside the mean.
        fields, least = settings.closure_samples, channels + 1
        expected = f"0 or at least {least} with {channels} channels"
        check(not fields or fields >= least, "closure_samples", expected, fields, "use 16, or 0 to skip")
        text = f"patches of {count} images ({height} x {width} x {channels}) of {found.name}, p = {size}"
        return Problem(bank, (height, width), channels, False, images, text)
    grid = settings.grid or (64, 64)
    if settings.bank == "random-pattern":
        bank = random_pattern_bank(bank_key(settings.seed), size, settings.num_random, dtype=dtype)
        text = f"{settings.num_random} random +-1 patterns, their negatives and the pair +-1, p = {size}"
    elif settings.bank == "two-pattern":
        bank, text = two_pattern_bank(size, dtype=dtype), f"the two constant patches +1 and -1, p = {size}"
    else:
        bank = stripe_bank(size, settings.wavelength, dtype=dtype)
        text = f"stripes of wavelength {settings.wavelength:g}, p = {size}"
    return Problem(bank, grid, 1, True, None, text)


def largest_sigma(problem: Problem) -> float:
    """Bound the bare critical noise: sum_r |Cov(phi(0), phi(r))| <= P C max |phi - centre|^2."""
    data = np.asarray(problem.bank.images if isinstance(problem.bank, ImageBank) else problem.bank.patches)
    centre = 0.0 if problem.symmetric else data.mean((0, 1, 2))
    bound = problem.bank.size * np.sqrt(problem.channels) * np.abs(data - centre).max()
    return float(1.2 * bound) or 1.0
