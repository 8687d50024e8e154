"""Exact patch score models: every pixel's denoiser is a posterior mean over a bank of training patches.

``_denoiser`` holds the public functions, ``_schedule`` denoisers that change with the noise. ``_plan`` has the table of
legal variants and chooses route and blocks, ``_parts`` puts a picture together, ``_posterior`` computes mean, entropy
and derivatives by the streaming softmax of ``softmax``. Scores come from ``_products`` or ``_window_sums``, in the
arithmetic of ``_scores``; ``_windows`` and ``_blocks`` are geometry, ``_turns`` takes a batch query after query.
"""

from critjax.patch_score._denoiser import (
    available_methods,
    effective_patches,
    patch_denoiser,
    patch_denoisers,
)
from critjax.patch_score._plan import LEGAL
from critjax.patch_score._schedule import scheduled_denoiser

__all__ = [
    "LEGAL",
    "available_methods",
    "effective_patches",
    "patch_denoiser",
    "patch_denoisers",
    "scheduled_denoiser",
]
