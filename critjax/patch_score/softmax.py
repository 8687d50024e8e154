r"""The streaming softmax: weights relative to the largest logit so far, with sums that follow when it rises.

Scores come in an exact part and a small rest (`Scores`), and the largest one is kept in the same two parts (`Top`), so
that the difference of two scores is right to within the rounding of the rest, however small it is. A block of
candidates is handled by `advance`, a second device by `join`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from critjax._typing import Array

#: The exponential of this logit is zero in any arithmetic.
NEVER = -1e4


class Scores(NamedTuple):
    """Scores of the candidates on the last axis; logits are scores times ``inverse`` squared."""

    high: Array  # (..., B); exact, or the whole score where ``low`` is None
    low: Any = None  # an array, or None


class Top(NamedTuple):
    """The largest score: ``reference + rest``."""

    reference: Array
    rest: Array


def lowest(dtype) -> float:
    """Stand for a score of -inf where the arithmetic needs a finite number; no allowed score comes near it."""
    return -0.25 * float(jnp.finfo(dtype).max)


def start(shape: tuple[int, ...], dtype) -> Top:
    """Return the top of no candidates."""
    return Top(jnp.full(shape, lowest(dtype), dtype), jnp.zeros(shape, dtype))


def below(top: Top, scores: Scores) -> Array:
    """Return scores relative to the top: at most zero if the top covers them."""
    relative = scores.high - top.reference[..., None]
    return relative if scores.low is None else (relative + scores.low) - top.rest[..., None]


def logits_of(relative: Array, inverse: Array | None) -> Array:
    """Return the logits of relative scores; an ``inverse`` of None stands for one."""
    return relative if inverse is None else relative * inverse * inverse


def advance(top: Top, scores: Scores, inverse: Array | None = None) -> tuple[Top, Array, Array]:
    """Take in one block: return the new top, the logarithm by which old sums change, and logits relative to it.

    The top is a constant for differentiation.
    """
    reference = jnp.maximum(top.reference, lax.stop_gradient(jnp.max(scores.high, axis=-1)))
    rest = top.rest
    if scores.low is not None:
        relative = lax.stop_gradient((scores.high - reference[..., None]) + scores.low)
        rest = jnp.maximum(top.rest + (top.reference - reference), jnp.max(relative, axis=-1))
    new = Top(reference, rest)
    return new, _change(top, new, inverse), logits_of(below(new, scores), inverse)


def join(top: Top, axis: str, inverse: Array | None) -> tuple[Top, Array]:
    """Return the top of all devices of a mesh axis, and the logarithm by which this device's sums change."""
    reference = lax.pmax(top.reference, axis)
    new = Top(reference, lax.pmax(top.rest + (top.reference - reference), axis))
    return new, _change(top, new, inverse)


def _change(old: Top, new: Top, inverse: Array | None) -> Array:
    change = (old.reference - new.reference) + (old.rest - new.rest)
    return jnp.maximum(
        logits_of(change, inverse), NEVER
    )  # its exponential is zero, and finite times zero is zero
