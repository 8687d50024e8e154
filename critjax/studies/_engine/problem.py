"""A bank on a grid: what a study of exact patch models is about, and the pattern banks that come by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check
from critjax._typing import Array
from critjax.banks import ImageBank, PatchBank, random_pattern_bank, stripe_bank, two_pattern_bank
from critjax.spectra import homogeneous_state


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
    def mean(self) -> Any:
        """Mean (C,) of the patches' centres, the homogeneous state at infinite noise; zero for symmetric banks."""
        if self.symmetric:
            return np.zeros(self.channels)
        return homogeneous_state(self.bank, np.ones(1))[0]

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


def pattern_problem(
    name: str,
    grid: tuple[int, int],
    *,
    size: int,
    num_random: int,
    wavelength: float,
    seed: int,
    precision: str,
) -> Problem:
    """Build one of `PATTERN_BANKS`: ``num_random``, ``seed`` and ``wavelength`` are of the one that needs them."""
    dtype = jnp.dtype(precision)
    if name == "random-pattern":
        bank = random_pattern_bank(bank_key(seed), size, num_random, dtype=dtype)
        text = f"{num_random} random +-1 patterns, their negatives and the pair +-1, p = {size}"
    elif name == "two-pattern":
        bank, text = two_pattern_bank(size, dtype=dtype), f"the two constant patches +1 and -1, p = {size}"
    else:
        bank = stripe_bank(size, wavelength, dtype=dtype)
        text = f"stripes of wavelength {wavelength:g}, p = {size}"
    return Problem(bank, grid, 1, True, None, text)


def check_precision(precision: str) -> None:
    """Raise `ValueError` for float64 where JAX has it disabled: it would be float32 without a word."""
    enabled = precision != "float64" or jax.config.jax_enable_x64
    advice = "call jax.config.update('jax_enable_x64', True) first"
    check(enabled, "precision", "float64 enabled in JAX", "it disabled", advice)


def largest_sigma(problem: Problem) -> float:
    """Bound the bare critical noise: sum_r |Cov(phi(0), phi(r))| <= P C max |phi - centre|^2."""
    data = np.asarray(problem.bank.images if isinstance(problem.bank, ImageBank) else problem.bank.patches)
    centre = 0.0 if problem.symmetric else data.mean((0, 1, 2))
    bound = problem.bank.size * np.sqrt(problem.channels) * np.abs(data - centre).max()
    return float(1.2 * bound) or 1.0
