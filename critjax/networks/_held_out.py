"""Denoising loss of any batch denoiser on images that it was not trained on, noise level by noise level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, check_count, check_seed
from critjax._programs import as_pytree, program
from critjax._typing import Array, PRNGKey

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
        If the labels are not one integer for every image, or the batch size is no positive integer.

    Notes
    -----
    A function that is a pytree, such as `jax.tree_util.Partial`, shares its program with others of its shapes; any
    other is compiled once.

    Example
    -------
    Black images, and a denoiser that returns a tenth of what it gets, have the loss ``(sigma/10)^2``:

    >>> losses = held_out_loss(lambda x, sigma: x / 10, np.zeros((64, 8, 8, 1)), (1.0, 2.0))
    >>> print(losses[:, 0].round(3))
    [0.01 0.04]
    """
    images = np.asarray(images, np.float32)
    if labels is not None:
        labels = np.asarray(labels)
        good = labels.shape == (len(images),) and np.issubdtype(labels.dtype, np.integer)
        expected, got = f"{len(images)} integers", f"{labels.dtype} of shape {labels.shape}"
        check(good, "labels", expected, got, "give the class of every image")
    denoise, key = as_pytree("denoise_batch", denoise_batch), jax.random.key(check_seed(seed))
    size = min(check_count("batch_size", batch_size, least=1, advice="use 64"), len(images))
    result = []
    for index, sigma in enumerate(np.asarray(sigmas, np.float32)):
        errors = []
        for first in range(0, len(images), size):
            # The last batch is filled up, for one program, with images that are then left out.
            rows = np.minimum(np.arange(first, first + size), len(images) - 1)
            x0, told = images[rows], None if labels is None else labels[rows].astype(np.int32)
            denoised = _denoised(denoise, key, x0, sigma, told, np.int32(index), np.int32(first))
            errors.append(np.mean((np.asarray(denoised, np.float64) - x0) ** 2, axis=(1, 2, 3)))
        errors = np.concatenate(errors)[: len(images)]
        result.append([errors.mean(), errors.std(ddof=1) / np.sqrt(len(errors))])
    return np.array(result)


@program
def _denoised(
    denoise: Any, key: PRNGKey, x0: Array, sigma: Array, labels: Array | None, index: Array, first: Array
) -> Array:
    """Denoise a batch of images in the noise of their level and place."""
    key = jax.random.fold_in(jax.random.fold_in(key, index), first)
    x = x0 + sigma * jax.random.normal(key, x0.shape, x0.dtype)
    return denoise(x, jnp.full(x0.shape[0], sigma), *(() if labels is None else (labels,)))
