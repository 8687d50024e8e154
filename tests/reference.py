"""Brute-force float64 numpy patch scores: the oracle that the tests compare the library with.

Every window is visited by a plain loop, its candidates are written out in full and compared pixel by pixel;
nothing is imported from the library. Only the definitions of THEORY section 2 are used. Images are
(N, H, W, C), patches (M, p, p, C); ``positions=None`` means that ``data`` is an explicit list of patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """One window of the noisy image together with everything it is compared with."""

    anchor: tuple[int, int]  # the pixel at offset zero
    pixels: list[tuple[int, int]]  # noisy-image pixels that enter the norm
    candidates: np.ndarray  # (K, len(pixels), C)
    log_prior: np.ndarray  # (K,)
    centre: int  # where the anchor stands in ``pixels``


class Reference(NamedTuple):
    """What the oracle returns."""

    denoised: np.ndarray  # (H, W, C)
    effective: np.ndarray  # (H, W): exp(entropy) of the window anchored there, NaN without window
    weights: dict[tuple[int, int], np.ndarray]  # anchor -> (K,)


def _offsets(size: int) -> range:
    """Offsets of a window: (p-1)//2 before the anchor, p//2 after it."""
    return range(-((size - 1) // 2), size // 2 + 1)


def _allowed_rows(row: int, length: int, size: int) -> list[int]:
    """Rows of the training patches that a pixel of this row meets when padding is noiseless."""
    d = (size - 1) // 2
    if row < d or row >= length - d:
        return [row]
    return list(range(d, length - d))


def _training_patch(image: np.ndarray, anchor: tuple[int, int], offsets: list[tuple[int, int]]) -> np.ndarray:
    """Values of one image at the wrapped positions anchor + offsets, (len(offsets), C)."""
    height, width, _ = image.shape
    return np.array([image[(anchor[0] + a) % height, (anchor[1] + b) % width] for a, b in offsets])


def _common_candidates(data, log_prior, size, positions):
    """Candidates of a bank that is the same at every pixel, as ((K, P, C), (K,))."""
    square = [(a, b) for a in _offsets(size) for b in _offsets(size)]
    if positions is None:
        return data.reshape(len(data), size * size, data.shape[-1]), log_prior
    count, height, width, _ = data.shape
    before, after = (size - 1) // 2, size // 2
    rows = range(height) if positions == "all" else range(before, height - after)
    columns = range(width) if positions == "all" else range(before, width - after)
    where = [(n, i, j) for n in range(count) for i in rows for j in columns]
    values = np.array([_training_patch(data[n], (i, j), square) for n, i, j in where])
    return values, np.array([log_prior[n] for n, _, _ in where])


def windows(
    grid: tuple[int, int],
    data: np.ndarray,
    log_prior: np.ndarray | None = None,
    *,
    size: int,
    positions: str | None,
    boundary: str,
    readout: str,
    anchors: Iterable[tuple[int, int]] | None = None,
) -> Iterator[Window]:
    """Yield every window of a noisy image of shape ``grid`` (or those of the given anchors)."""
    data = np.asarray(data, np.float64)
    log_prior = np.zeros(len(data)) if log_prior is None else np.asarray(log_prior, np.float64)
    height, width = grid
    before, after = (size - 1) // 2, size // 2
    square = [(a, b) for a in _offsets(size) for b in _offsets(size)]
    common = None
    if boundary == "periodic" and positions != "same":
        common = _common_candidates(data, log_prior, size, positions)
    if anchors is None:
        anchors = [(i, j) for i in range(height) for j in range(width)]
    for i, j in anchors:
        if boundary == "periodic":
            pixels = [((i + a) % height, (j + b) % width) for a, b in square]
            if common is not None:
                candidates, prior = common
            else:
                candidates = np.array([_training_patch(image, (i, j), square) for image in data])
                prior = log_prior
            yield Window((i, j), pixels, candidates, prior, square.index((0, 0)))
            continue
        if readout == "average":  # fully contained windows only
            if not (before <= i < height - after and before <= j < width - after):
                continue
            inside = square
        else:
            inside = [(a, b) for a, b in square if 0 <= i + a < height and 0 <= j + b < width]
        if positions == "same":
            rows, columns = [i], [j]
        else:
            rows, columns = _allowed_rows(i, height, size), _allowed_rows(j, width, size)
        where = [(n, r, c) for n in range(len(data)) for r in rows for c in columns]
        # Nothing wraps here: offsets that leave the noisy image also leave the training image, and are gone.
        candidates = np.array([_training_patch(data[n], (r, c), inside) for n, r, c in where])
        prior = np.array([log_prior[n] for n, _, _ in where])
        yield Window((i, j), [(i + a, j + b) for a, b in inside], candidates, prior, inside.index((0, 0)))


def softmax_weights(window: Window, x: np.ndarray, sigma: float) -> np.ndarray:
    """Posterior weights of the candidates of one window, (K,)."""
    seen = np.array([x[i, j] for i, j in window.pixels])
    distance = np.sum((seen - window.candidates) ** 2, axis=(1, 2))
    logits = window.log_prior - distance / (2 * sigma**2)
    weights = np.exp(logits - np.max(logits))
    return weights / np.sum(weights)


def perplexity(weights: np.ndarray) -> float:
    """Return exp(entropy), the effective number of candidates."""
    positive = weights[weights > 0]
    return float(np.exp(-np.sum(positive * np.log(positive))))


def denoise(x, sigma, data, log_prior=None, *, size, positions, boundary, readout, anchors=None) -> Reference:
    """Posterior mean, effective number of patches and all weights of a patch score model."""
    x = np.asarray(x, np.float64)
    sigma = float(sigma)
    total, count = np.zeros_like(x), np.zeros(x.shape[:2])
    effective = np.full(x.shape[:2], np.nan)
    all_weights = {}
    options = dict(size=size, positions=positions, boundary=boundary, readout=readout, anchors=anchors)
    for window in windows(x.shape[:2], data, log_prior, **options):
        weights = softmax_weights(window, x, sigma)
        mean = np.einsum("k,knc->nc", weights, window.candidates)
        all_weights[window.anchor] = weights
        effective[window.anchor] = perplexity(weights)
        if readout == "centre":
            total[window.anchor] += mean[window.centre]
            count[window.anchor] += 1
        else:
            for pixel, value in zip(window.pixels, mean, strict=True):
                total[pixel] += value
                count[pixel] += 1
    with np.errstate(invalid="ignore"):
        return Reference(total / count[..., None], effective, all_weights)


def jacobian(x, sigma, data, log_prior=None, *, size, positions, boundary, readout) -> np.ndarray:
    """Jacobian dD_ia/dx_jb as covariances under the weights, (H, W, C, H, W, C)."""
    x = np.asarray(x, np.float64)
    sigma = float(sigma)
    result, count = np.zeros(x.shape + x.shape), np.zeros(x.shape[:2])
    options = dict(size=size, positions=positions, boundary=boundary, readout=readout)
    for window in windows(x.shape[:2], data, log_prior, **options):
        weights = softmax_weights(window, x, sigma)
        centred = window.candidates - np.einsum("k,knc->nc", weights, window.candidates)
        covariance = np.einsum("k,kna,kmb->namb", weights, centred, centred) / sigma**2
        if readout == "centre":
            rows = [(window.anchor, covariance[window.centre])]
        else:
            rows = list(zip(window.pixels, covariance, strict=True))
        for pixel, block in rows:
            count[pixel] += 1
            for m, other in enumerate(window.pixels):
                result[pixel][:, other[0], other[1], :] += block[:, m, :]
    return result / count[..., None, None, None, None]


def prior_mean(grid, data, log_prior=None, **options) -> np.ndarray:
    """Limit sigma -> infinity: the prior mean of what each pixel reads out, (H, W, C)."""
    channels = np.asarray(data).shape[-1]
    return denoise(np.zeros((*grid, channels)), 1e9, data, log_prior, **options).denoised


def central_difference(fn, point: np.ndarray, direction: np.ndarray, step: float = 1e-4):
    """Fourth-order central difference of ``fn`` along ``direction``."""
    far = fn(point + 2 * step * direction) - fn(point - 2 * step * direction)
    near = fn(point + step * direction) - fn(point - step * direction)
    return (8 * near - far) / (12 * step)


def numerical_gradient(fn, point: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Gradient of a scalar function by central differences in every coordinate that is finite."""
    point = np.asarray(point, np.float64)
    gradient = np.zeros(point.shape)
    for index in np.ndindex(point.shape):
        if not np.isfinite(point[index]):
            continue
        direction = np.zeros(point.shape)
        direction[index] = 1.0
        gradient[index] = central_difference(fn, point, direction, step)
    return gradient


def denoise_large(x, sigma, candidates, log_prior=None) -> np.ndarray:
    """Periodic centre readout of many patches (K, p, p, C) by one float64 matrix product, for larger images.

    Expanding the square loses about 1e-16 |phi|^2 / sigma^2 in the exponent: below 1e-9 for sigma >= 0.02,
    p <= 15.
    """
    x, candidates = np.asarray(x, np.float64), np.asarray(candidates, np.float64)
    sigma, size = float(sigma), candidates.shape[1]
    before, after = (size - 1) // 2, size // 2
    seen = np.stack(
        [np.roll(x, (-a, -b), (0, 1)) for a in range(-before, after + 1) for b in range(-before, after + 1)],
        axis=2,
    ).reshape(x.shape[0] * x.shape[1], -1)
    flat = candidates.reshape(len(candidates), -1)
    logits = (seen @ flat.T - np.sum(flat**2, 1) / 2) / sigma**2
    if log_prior is not None:
        logits += log_prior
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights @ candidates[:, before, before]).reshape(x.shape)


def image_patches(images, size, positions) -> tuple[np.ndarray, np.ndarray]:
    """All patches (K, p, p, C) of training images for "all" or "interior", and each one's image (K,)."""
    images = np.asarray(images)
    count, height, width, channels = images.shape
    before, after = (size - 1) // 2, size // 2
    rows = np.arange(height) if positions == "all" else np.arange(before, height - after)
    columns = np.arange(width) if positions == "all" else np.arange(before, width - after)
    offsets = np.array(_offsets(size))
    i = (rows[:, None] + offsets) % height
    j = (columns[:, None] + offsets) % width
    patches = images[:, i[:, None, :, None], j[None, :, None, :]]
    owner = np.repeat(np.arange(count), len(rows) * len(columns))
    return patches.reshape(-1, size, size, channels), owner
