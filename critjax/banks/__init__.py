"""Banks: the finite sets of patches or images over which an exact patch score takes its posterior.

A bank is a pytree whose arrays may carry leading batch axes, so that banks can be stacked, mapped over with
`jax.vmap` and differentiated. Constructors validate; unflattening a pytree does not (THEORY section 2).
"""

from critjax.banks._banks import POSITIONS, ImageBank, PatchBank, select
from critjax.banks._presets import extract_patches, random_pattern_bank, stripe_bank, two_pattern_bank

__all__ = [
    "POSITIONS",
    "ImageBank",
    "PatchBank",
    "extract_patches",
    "random_pattern_bank",
    "select",
    "stripe_bank",
    "two_pattern_bank",
]
