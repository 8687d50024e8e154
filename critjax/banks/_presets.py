"""Banks with known critical points, and the patches of an image bank as an explicit list."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_array, check, check_option, check_window, is_concrete
from critjax._programs import program
from critjax._typing import Array, PRNGKey
from critjax.banks._banks import ImageBank, PatchBank


def two_pattern_bank(size: int, *, channels: int = 1, dtype: Any = None) -> PatchBank:
    """Build the bank of the two constant patches +1 and -1, the ferromagnet of patch scores.

    Its denoiser is ``tanh(P mbar / sigma^2)`` with ``mbar`` the window mean, and sigma_c^2 = P C.

    Parameters
    ----------
    size : int
        Window size p.
    channels : int
        Number of channels.
    dtype : optional
        Floating dtype; default JAX's.

    Returns
    -------
    PatchBank
        Two patches, equal prior. Source: Ambrogioni 2026; THEORY section 3.

    Example
    -------
    >>> two_pattern_bank(9).patches.shape
    (2, 9, 9, 1)
    """
    size = check_window(size)
    sign = np.asarray([1.0, -1.0]).astype(jnp.dtype(float) if dtype is None else dtype)
    return PatchBank(np.tile(sign[:, None, None, None], (1, size, size, channels)))


def random_pattern_bank(
    key: PRNGKey, size: int, num_random: int, *, channels: int = 1, dtype: Any = None
) -> PatchBank:
    """Build M random +-1 patterns, their negatives and the constant pair +-1 (2M + 2 patches, equal prior).

    Averaged over draws the uniform mode turns critical at sigma^2 = 1 + (P-1)/(M+1) for one channel, with
    standard deviation sqrt(M (P-1))/(M+1) between draws (THEORY section 3).

    Parameters
    ----------
    key : PRNG key
        Source of the signs.
    size : int
        Window size p.
    num_random : int
        M >= 0.
    channels : int
        Number of channels; each channel draws its own signs.
    dtype : optional
        Floating dtype; default JAX's.

    Example
    -------
    >>> random_pattern_bank(jax.random.key(0), 9, 8).patches.shape
    (18, 9, 9, 1)
    """
    size = check_window(size)
    check(num_random >= 0, "num_random", "a number >= 0", num_random, "0 gives the two-pattern bank")
    pair = two_pattern_bank(size, channels=channels, dtype=dtype)
    return PatchBank(_with_random_patterns(key, pair.patches, num_random))


@program(static_argnames="num_random")
def _with_random_patterns(key: PRNGKey, pair: Array, num_random: int) -> Array:
    signs = jax.random.rademacher(key, (num_random, *pair.shape[1:]), pair.dtype)
    return jnp.concatenate([pair, signs, -signs])


def stripe_bank(
    size: int,
    wavelength: float | int,
    *,
    num_phases: int = 8,
    orientations: Any = (0.0, 90.0),
    dtype: Any = None,
) -> PatchBank:
    """Build cosine stripes of one wavelength with equally spaced phases, amplitude one, one channel.

    ``phi(r) = cos(2 pi (r_y sin a + r_x cos a)/wavelength + phase)``, equal prior.

    Parameters
    ----------
    size : int
        Window size p.
    wavelength : float
        Period in pixels, > 2 (above the Nyquist limit).
    num_phases : int
        Equally spaced phases in [0, 2 pi); at least 2, even numbers give a bank symmetric under negation.
    orientations : sequence of float
        Angles a of the wavevector against the x axis, in degrees; 0 is vertical stripes (varying along x).
    dtype : optional
        Floating dtype; default JAX's.

    Returns
    -------
    PatchBank
        ``num_phases * len(orientations)`` patches.

    Example
    -------
    >>> stripe_bank(9, 6.0).patches.shape
    (16, 9, 9, 1)
    """
    size = check_window(size)
    check(wavelength > 2, "wavelength", "a period > 2 pixels", wavelength, "shorter waves alias")
    check(num_phases >= 2, "num_phases", "at least 2 phases", num_phases, "use 8")
    angles = np.deg2rad(np.atleast_1d(np.asarray(orientations, np.float64)))
    check(angles.size > 0, "orientations", "at least one angle", 0, "pass e.g. (0.0, 90.0)")
    offsets = np.arange(size) - (size - 1) / 2
    along = offsets[:, None] * np.sin(angles)[:, None, None] + offsets * np.cos(angles)[:, None, None]
    phases = 2 * np.pi * np.arange(num_phases) / num_phases
    patches = np.cos(2 * np.pi * along[:, None] / wavelength + phases[:, None, None])
    return PatchBank(as_array(patches.reshape(-1, size, size, 1), dtype))


def extract_patches(bank: ImageBank) -> PatchBank:
    """Collect the patches of an image bank, exact duplicates removed and counted into the prior.

    Parameters
    ----------
    bank : ImageBank
        Concrete bank with ``positions`` "all" or "interior" and an odd or even window.

    Returns
    -------
    PatchBank
        Distinct patches; ``log_prior`` is the logarithm of the summed weights of the copies. With labels,
        copies are merged within a class only.

    Raises
    ------
    ValueError
        For ``positions="same"`` (no bank common to all pixels) or under tracing (the count must be known).

    Notes
    -----
    Cost and memory O(N H W p^2 C): meant for small sets; the image bank itself never forms its patches.

    Example
    -------
    >>> extract_patches(ImageBank(np.ones((2, 5, 5, 1), np.float32), 3)).patches.shape
    (1, 3, 3, 1)
    """
    check_option("positions", bank.positions, ("all", "interior"))
    concrete = all(is_concrete(leaf) for leaf in jax.tree.leaves(bank))
    check(concrete, "bank", "concrete arrays", "a traced bank", "call outside jit")
    images, size = np.asarray(bank.images), bank.size
    if bank.positions == "all":
        before, after = (size - 1) // 2, size // 2
        images = np.pad(images, ((0, 0), (before, after), (before, after), (0, 0)), mode="wrap")
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1)  # (N, rows, columns, p, p, C)
    count, per_image = windows.shape[0], windows.shape[1] * windows.shape[2]
    rows = windows.reshape(count * per_image, -1) + 0.0  # turns -0.0 into 0.0: equal numbers, equal bytes
    log_weight = np.repeat(np.asarray(bank.log_prior, np.float64), per_image)
    owner = None if bank.labels is None else np.repeat(np.asarray(bank.labels), per_image)
    keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, group = np.unique(keys, return_inverse=True)
    if owner is not None:
        _, group = np.unique(np.stack([group.ravel(), owner]), axis=1, return_inverse=True)
    group = group.ravel()
    _, first = np.unique(group, return_index=True)
    top = log_weight.max()
    weight = np.bincount(group, weights=np.exp(log_weight - top))
    with np.errstate(divide="ignore"):
        log_prior = np.log(weight / weight.sum())
    channels = images.shape[-1]
    return PatchBank(
        rows[first].reshape(-1, size, size, channels),
        log_prior,
        None if owner is None else owner[first],
    )
