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
    as_array,
    as_floating,
    as_log_prior,
    check,
    check_option,
    check_window,
    is_concrete,
    message,
)
from critjax._programs import program
from critjax._typing import ArrayLike

POSITIONS = ("all", "interior", "same")


def _as_labels(labels: Any, count: int) -> jax.Array | None:
    if labels is None:
        return None
    labels = as_array(labels if hasattr(labels, "dtype") else np.asarray(labels))
    advice = "pass one class index per candidate"
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(message("labels", "integers", f"dtype {labels.dtype}", advice))
    check(labels.shape == (count,), "labels", f"shape ({count},)", f"shape {labels.shape}", advice)
    return labels


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
        patches = as_floating("patches", patches, "M p p C")
        shape = tuple(patches.shape)
        square = shape[1] == shape[2]
        check(square, "patches", "square patches (M, p, p, C)", f"shape {shape}", "crop to p x p")
        self._store(
            patches=patches,
            log_prior=as_log_prior(log_prior, shape[0], patches.dtype),
            labels=_as_labels(labels, shape[0]),
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
        images = as_floating("images", images, "N H W C")
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
            log_prior=as_log_prior(log_prior, count, images.dtype),
            labels=_as_labels(labels, count),
            size=size,
            positions=positions,
        )

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.images.shape[-1]


@program
def _take(bank: Any, kept: ArrayLike) -> Any:
    return jax.tree.map(lambda a: a[kept], bank)


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
    TypeError
        If the label is no integer.

    Example
    -------
    >>> bank = PatchBank(np.ones((4, 3, 3, 1), np.float32), labels=[0, 0, 1, 2])
    >>> select(bank, 0).patches.shape
    (2, 3, 3, 1)
    """
    labels = bank.labels
    whole = jnp.issubdtype(getattr(label, "dtype", type(label)), jnp.integer) and jnp.ndim(label) == 0
    if not whole:
        raise TypeError(message("label", "one integer", repr(label), "pass the index of the class"))
    if labels is None:
        advice = "pass labels= when you build it"
        raise ValueError(message("labels", "a bank with labels", "a bank without", advice))
    got = f"a stack of shape {tuple(labels.shape)}"
    check(labels.ndim == 1, "labels", "one bank", got, "map over the stack with jax.vmap")
    if is_concrete(label) and is_concrete(labels):
        kept = np.flatnonzero(np.asarray(labels) == int(label))
        present = np.unique(np.asarray(labels)).tolist()
        check(kept.size > 0, "label", f"one of {present}", int(label), "choose a class that occurs")
        return _take(bank, kept)
    return bank.replace(log_prior=jnp.where(labels == label, bank.log_prior, -jnp.inf))
