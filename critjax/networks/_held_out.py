"""Denoising loss of any batch denoiser on images that it was not trained on, noise level by noise level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check
from critjax._typing import Array

#: Noise levels of the held-out loss, image units.
EVALUATION_SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def held_out_loss(
    denoise_batch: Callable[..., Array],
    images: Any,
    sigmas: Any = EVALUATION_SIGMAS,
    *,
    labels: Any = None,
    seed: int = 0,
    batch_size: int = 64,
) -> np.ndarray:
    """Measure the mean squared error per pixel of a denoiser at several noise levels.

    Parameters
    ----------
    denoise_batch : callable
        ``(x (B, H, W, C), sigma (B,)) -> (B, H, W, C)``; with ``labels`` those (B,) are its third argument.
    images : (N, H, W, C) array
        Images that were not trained on.
    sigmas : sequence of float
    labels : (N,) integers, optional
        Classes of the images, for a denoiser that is told them.
    seed : int
        Of the noise: the same for every denoiser that is compared.
    batch_size : int

    Returns
    -------
    (num_sigmas, 2) float64 array
        Mean over images, and its standard error.

    Raises
    ------
    ValueError
        If the labels are not one integer for every image.
    """
    images = np.asarray(images, np.float32)
    if labels is not None:
        labels = np.asarray(labels)
        good = labels.shape == (len(images),) and np.issubdtype(labels.dtype, np.integer)
        expected, got = f"{len(images)} integers", f"{labels.dtype} of shape {labels.shape}"
        check(good, "labels", expected, got, "give the class of every image")
    evaluate = jax.jit(denoise_batch)
    result = []
    for index, sigma in enumerate(sigmas):
        errors = []
        for first in range(0, len(images), batch_size):
            x0 = images[first : first + batch_size]
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), index), first)
            x = x0 + float(sigma) * jax.random.normal(key, x0.shape, jnp.float32)
            told = () if labels is None else (labels[first : first + batch_size].astype(np.int32),)
            denoised = evaluate(x, jnp.full(len(x0), sigma, jnp.float32), *told)
            errors.append(np.mean((np.asarray(denoised, np.float64) - x0) ** 2, axis=(1, 2, 3)))
        errors = np.concatenate(errors)
        result.append([errors.mean(), errors.std(ddof=1) / np.sqrt(len(errors))])
    return np.array(result)
