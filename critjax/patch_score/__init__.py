"""Exact patch score models: every pixel's denoiser is a posterior mean over a bank of training patches.

``_denoiser`` holds the public functions and the table of legal variants, ``_nested`` all window sizes in one pass,
``_schedule`` denoisers that change with the noise, ``_plan`` what is static about an evaluation,
``_posterior`` the streaming softmax and its derivative, ``_routes`` the ways to compute scores, ``_images`` the one for
all patches of training images, ``_scores`` and ``_split`` plain and accurate products, ``_turns`` batches one query
after the other, ``_windows`` the geometry.
"""

from critjax.patch_score._denoiser import LEGAL, available_methods, effective_patches, patch_denoiser
from critjax.patch_score._nested import patch_denoisers
from critjax.patch_score._schedule import scheduled_denoiser

__all__ = [
    "LEGAL",
    "available_methods",
    "effective_patches",
    "patch_denoiser",
    "patch_denoisers",
    "scheduled_denoiser",
]
