"""Banks: the finite sets of patches or images over which an exact patch score takes its posterior.

A bank is a pytree whose arrays may carry leading batch axes, so that banks can be stacked, mapped over with
`jax.vmap` and differentiated. Constructors validate; unflattening a pytree does not (THEORY section 2).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import (
    check,
    check_finite,
    check_floating,
    check_option,
    check_rank,
    is_concrete,
    message,
)
from critjax._typing import ArrayLike, PRNGKey

POSITIONS = ("all", "interior", "same")


class _Bank:
    """Field storage and pytree plumbing shared by the two kinds of bank."""

    _data: tuple[str, ...] = ()
    _static: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_with_keys(cls, cls._flatten_with_keys, cls._unflatten, cls._flatten)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; use bank.replace({name}=...)")

    def _flatten(self):
        return tuple(getattr(self, n) for n in self._data), tuple(getattr(self, n) for n in self._static)

    def _flatten_with_keys(self):
        children, static = self._flatten()
        keys = (jax.tree_util.GetAttrKey(name) for name in self._data)
        return tuple(zip(keys, children, strict=True)), static

    @classmethod
    def _unflatten(cls, static, children):
        bank = object.__new__(cls)
        for name, value in zip(cls._data + cls._static, (*children, *static), strict=True):
            object.__setattr__(bank, name, value)
        return bank

    def _store(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def replace(self, **fields: Any):
        """Return a copy with some fields exchanged; nothing is validated.

        Example
        -------
        >>> two_pattern_bank(3).replace(log_prior=jnp.log(jnp.array([0.9, 0.1]))).log_prior.shape
        (2,)
        """
        unknown = set(fields) - set(self._data) - set(self._static)
        if unknown:
            expected = f"fields of {type(self).__name__}"
            raise TypeError(message("replace", expected, sorted(unknown), "check the names"))
        merged = {n: fields.get(n, getattr(self, n)) for n in self._data + self._static}
        return self._unflatten([merged[n] for n in self._static], [merged[n] for n in self._data])

    def __repr__(self) -> str:
        def show(value: Any) -> str:
            return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else repr(value)

        fields = ", ".join(f"{n}={show(getattr(self, n))}" for n in self._data + self._static)
        return f"{type(self).__name__}({fields})"


def _as_floating(name: str, array: Any, shape: str) -> jax.Array:
    if not hasattr(array, "dtype"):
        array = np.asarray(array)
    check_floating(name, array)
    check_rank(name, array, shape)
    got = f"shape {tuple(array.shape)}"
    check(0 not in array.shape, name, "no empty axis", got, "give at least one entry")
    check_finite(name, array)
    return jnp.asarray(array)


def _log_prior(log_prior: Any, count: int, dtype: Any) -> jax.Array:
    if log_prior is None:
        return jnp.full((count,), -np.log(count), dtype)
    log_prior = jnp.asarray(log_prior, dtype)
    check(
        log_prior.shape == (count,),
        "log_prior",
        f"shape ({count},), one entry per candidate",
        f"shape {log_prior.shape}",
        "pass the logarithm of the prior weights or None for a uniform prior",
    )
    if is_concrete(log_prior):
        values = np.asarray(log_prior)
        good = not np.any(np.isnan(values) | (values == np.inf)) and np.any(np.isfinite(values))
        check(bool(good), "log_prior", "numbers or -inf, not all -inf", values, "pass logarithms of weights")
    return log_prior


def _labels(labels: Any, count: int) -> jax.Array | None:
    if labels is None:
        return None
    labels = jnp.asarray(labels)
    advice = "pass one class index per candidate"
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(message("labels", "integers", f"dtype {labels.dtype}", advice))
    check(labels.shape == (count,), "labels", f"shape ({count},)", f"shape {labels.shape}", advice)
    return labels


def check_window(size: Any) -> int:
    """Return a window size as an ``int`` >= 1 or raise `ValueError`."""
    good = isinstance(size, (int, np.integer)) and not isinstance(size, bool) and bool(size >= 1)
    check(good, "size", "an integer window size >= 1", repr(size), "pass e.g. 7")
    return int(size)


class PatchBank(_Bank):
    r"""An explicit list of patches, the same at every pixel.

    Parameters
    ----------
    patches : float array (M, p, p, C)
        The patches phi_mu; image range is [-1, 1] by convention.
    log_prior : float array (M,), optional
        Logarithm of the prior weights pi_mu; need not be normalised, -inf excludes a patch. Default uniform.
    labels : integer array (M,), optional
        Class of each patch, for `select`.

    Raises
    ------
    ValueError, TypeError
        If a shape, dtype or (outside tracing) a value is wrong.

    Notes
    -----
    Source: Ambrogioni 2026, arXiv:2603.20092; THEORY section 2. A pytree with data ``patches``,
    ``log_prior``, ``labels``; stacks of banks (leading axes) arise from `jax.vmap` or `jax.tree.map`.

    Example
    -------
    >>> PatchBank(np.ones((4, 3, 3, 1), np.float32)).size
    3
    """

    patches: jax.Array
    log_prior: jax.Array
    labels: jax.Array | None
    _data = ("patches", "log_prior", "labels")

    def __init__(self, patches: ArrayLike, log_prior: Any = None, labels: Any = None):
        patches = _as_floating("patches", patches, "M p p C")
        shape = tuple(patches.shape)
        square = shape[1] == shape[2]
        check(square, "patches", "square patches (M, p, p, C)", f"shape {shape}", "crop to p x p")
        self._store(
            patches=patches,
            log_prior=_log_prior(log_prior, shape[0], patches.dtype),
            labels=_labels(labels, shape[0]),
        )

    @property
    def size(self) -> int:
        """Window size p."""
        return self.patches.shape[-3]

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.patches.shape[-1]


class ImageBank(_Bank):
    r"""All patches of a set of training images, never formed explicitly.

    Parameters
    ----------
    images : float array (N, H, W, C)
        Training images, range [-1, 1] by convention.
    size : int
        Window size p; at most ``min(H, W)``.
    positions : "all", "interior" or "same"
        ``"all"``: every patch of every image, images wrapping like the noisy one (ELS). ``"interior"``: only
        where the window fits. ``"same"``: at each pixel the patch at the same position of each image (LS).
    labels : integer array (N,), optional
        Class of each image, for `select`.
    log_prior : float array (N,), optional
        Logarithm of the weight of each image, shared by all its patches. Default uniform.

    Raises
    ------
    ValueError, TypeError
        If a shape, dtype, option or (outside tracing) a value is wrong.

    Notes
    -----
    Source: Kamb & Ganguli 2024, arXiv:2412.20292; THEORY section 2.

    Example
    -------
    >>> ImageBank(np.zeros((2, 8, 6, 1), np.float32), 3).positions
    'all'
    """

    images: jax.Array
    log_prior: jax.Array
    labels: jax.Array | None
    size: int
    positions: str
    _data = ("images", "log_prior", "labels")
    _static = ("size", "positions")

    def __init__(
        self,
        images: ArrayLike,
        size: int,
        *,
        positions: str = "all",
        labels: Any = None,
        log_prior: Any = None,
    ):
        images = _as_floating("images", images, "N H W C")
        count, height, width, _ = images.shape
        size = check_window(size)
        check(
            size <= min(height, width),
            "size",
            f"a window that fits the {height} x {width} images",
            size,
            "use a smaller window, or ideal_denoiser for window = image",
        )
        check_option("positions", positions, POSITIONS)
        self._store(
            images=images,
            log_prior=_log_prior(log_prior, count, images.dtype),
            labels=_labels(labels, count),
            size=size,
            positions=positions,
        )

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.images.shape[-1]


def select(bank: PatchBank | ImageBank, label: Any) -> PatchBank | ImageBank:
    """Restrict a bank to one class.

    A static label compresses the bank; a traced label (under ``jit`` or ``vmap``) keeps every candidate and
    sets ``log_prior`` to -inf outside the class, so that one compiled function serves all classes.

    Parameters
    ----------
    bank : PatchBank or ImageBank
        A bank with labels.
    label : int or traced integer ()
        The class to keep. A traced label that occurs nowhere gives a bank with no candidate, whose denoiser
        is NaN.

    Raises
    ------
    ValueError
        If the bank has no labels, or no candidate has the static label.

    Example
    -------
    >>> bank = PatchBank(np.ones((4, 3, 3, 1), np.float32), labels=[0, 0, 1, 2])
    >>> select(bank, 0).patches.shape
    (2, 3, 3, 1)
    """
    labels = bank.labels
    if labels is None:
        advice = "pass labels= when you build it"
        raise ValueError(message("labels", "a bank with labels", "a bank without", advice))
    got = f"a stack of shape {tuple(labels.shape)}"
    check(labels.ndim == 1, "labels", "one bank", got, "map over the stack with jax.vmap")
    if is_concrete(label) and is_concrete(labels):
        kept = np.flatnonzero(np.asarray(labels) == int(label))
        present = np.unique(np.asarray(labels)).tolist()
        check(kept.size > 0, "label", f"one of {present}", int(label), "choose a class that occurs")
        data = {n: getattr(bank, n)[kept] for n in bank._data}
        return bank.replace(**data)
    return bank.replace(log_prior=jnp.where(labels == label, bank.log_prior, -jnp.inf))


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
    sign = jnp.asarray([1.0, -1.0], dtype)
    return PatchBank(jnp.broadcast_to(sign[:, None, None, None], (2, size, size, channels)))


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
    pair = two_pattern_bank(size, channels=channels, dtype=dtype).patches
    signs = jax.random.rademacher(key, (num_random, size, size, channels), pair.dtype)
    return PatchBank(jnp.concatenate([pair, signs, -signs]))


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
    return PatchBank(jnp.asarray(patches.reshape(-1, size, size, 1), dtype))
