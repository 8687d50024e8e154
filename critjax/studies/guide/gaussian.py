r"""Responses to a push of Gaussian models of images: of whole images, and of the patches that a local model sees.

Both are linear in x, so that means evolve by themselves and a push by the same matrix A = dD/dx:

.. math:: \chi(\tau) = (1+\eta)\, v \cdot P(\tau_{end}, \tau)\, [D_c(\bar x) - D_u(\bar x)], \qquad
          \partial_\tau P = (1+\eta)(A - 1) P
"""

from __future__ import annotations

import numpy as np

from critjax.guidance import linear_response


def gaussian_response(
    images: np.ndarray, labels: np.ndarray, direction: np.ndarray, sigmas: np.ndarray, eta: float
) -> np.ndarray:
    """Return chi (levels,) of Gaussian models with the covariances of all images and of each class, class average.

    The mean of x under the unconditional Gaussian model stays the mean of the images, where
    ``D_c - D_u = (1 - A_c)(mean_c - mean)``, ``A_c = C_c (C_c + sigma^2)^{-1}``; a push then evolves with A of all.
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(flat.T, bias=True)))
    symbol = np.maximum(values, 0) / (np.maximum(values, 0) + sigmas[:, None] ** 2)
    kept = np.asarray(linear_response(symbol, np.ones_like(symbol), sigmas, eta=eta)) / (1 + eta)
    result = np.zeros(len(sigmas))
    for label, v in enumerate(direction.reshape(len(direction), -1).astype(np.float64)):
        own = flat[labels == label]
        shift = own.mean(0) - flat.mean(0)
        size, modes = np.linalg.eigh(np.atleast_2d(np.cov(own.T, bias=True)))
        rest = sigmas[:, None] ** 2 / (np.maximum(size, 0) + sigmas[:, None] ** 2)
        push = (rest * (shift @ modes)) @ modes.T  # level, pixel
        result += (1 + eta) * ((push @ vectors) * kept * (v @ vectors)).sum(1) / len(direction)
    return result


def _patch_models(
    images: np.ndarray, size: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Return pixels (n,), their windows (n, p^2) in the padded image, mean and covariance of each kind of pixel.

    Pixels are of one kind if the exact model compares them: all inside, and those of equal distances to the border.
    """
    count, height, width = images.shape
    reach = size // 2
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)))
    index = np.arange(padded[0].size).reshape(padded[0].shape)
    windows = np.lib.stride_tricks.sliding_window_view(index, (size, size)).reshape(height * width, -1)

    def kinds(length: int) -> np.ndarray:
        place = np.arange(length)
        return np.where((place >= reach) & (place < length - reach), reach, place)

    kind = (kinds(height)[:, None] * width + kinds(width)).reshape(-1)
    flat, found = padded.reshape(count, -1), []
    for one in np.unique(kind):
        pixels = np.flatnonzero(kind == one)
        patches = flat[:, windows[pixels]].reshape(-1, size * size)
        found.append((pixels, windows[pixels], patches.mean(0), np.cov(patches.T, bias=True)))
    return found


def _affine(
    models: list[tuple[np.ndarray, ...]], shape: tuple[int, int], size: int, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return A and b of D(x) = A x + b, the best linear estimate of every pixel from its window."""
    height, width = shape
    reach, middle = size // 2, size * size // 2
    inside = np.pad(np.arange(height * width).reshape(shape), reach, constant_values=-1).reshape(-1)
    matrix, shift = np.zeros((height * width, height * width)), np.zeros(height * width)
    for pixels, windows, mean, covariance in models:
        weights = np.linalg.solve(covariance + sigma**2 * np.eye(size * size), covariance[:, middle])
        places = inside[windows]
        rows = np.broadcast_to(pixels[:, None], places.shape)
        kept = places >= 0
        matrix[rows[kept], places[kept]] = np.broadcast_to(weights, places.shape)[kept]
        shift[pixels] = mean[middle] - weights @ mean
    return matrix, shift


def gaussian_patch_response(
    images: np.ndarray, labels: np.ndarray, direction: np.ndarray, sigmas: np.ndarray, eta: float, size: int
) -> np.ndarray:
    """Return chi (levels,) of models that estimate each pixel linearly from its window, class average.

    Means and covariances of windows are those over all positions that the exact model compares, zero padding. The mean
    of x begins at zero and follows the unconditional model. Images of one channel.
    """
    shape, gray = images.shape[1:3], images[..., 0].astype(np.float64)
    flow = 1 + eta
    pooled = _patch_models(gray, size)
    everything = [_affine(pooled, shape, size, s) for s in sigmas]
    steps = np.log(sigmas[:-1] / sigmas[1:])
    mean, means, jumps = np.zeros(gray[0].size), [], []
    for n, (matrix, shift) in enumerate(everything):
        means.append(mean)
        if n == len(steps):
            break
        now, then = (flow * (m - np.eye(len(mean))) for m in (matrix, everything[n + 1][0]))
        # One Heun step, of a difference of two states and of the mean.
        jumps.append(np.eye(len(mean)) + steps[n] / 2 * (now + then + steps[n] * then @ now))
        first = now @ mean + flow * shift
        second = then @ (mean + steps[n] * first) + flow * everything[n + 1][1]
        mean = mean + steps[n] / 2 * (first + second)
    result = np.zeros(len(sigmas))
    for label, v in enumerate(direction.reshape(len(direction), -1).astype(np.float64)):
        models = _patch_models(gray[labels == label], size)
        kept = v
        for n in reversed(range(len(sigmas))):
            matrix, shift = _affine(models, shape, size, sigmas[n])
            push = (matrix - everything[n][0]) @ means[n] + shift - everything[n][1]
            result[n] += flow * (kept @ push) / len(direction)
            if n:
                kept = jumps[n - 1].T @ kept
    return result
