"""Queries of a batch one after the other, where that is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def in_turn(fn: Callable[..., Any], always: bool, scalar: int) -> Callable[..., Any]:
    """Let `jax.vmap` call ``fn``, a function of arrays, for one member of the batch after the other.

    ``always``, because one query keeps the machine busy, or only where argument number ``scalar`` differs from member
    to member, because a choice is made by it: batched, both sides of it would be evaluated.

    `jax.custom_batching.sequential_vmap` is the former, but fails where only tangents are batched.
    """
    mapped = jax.custom_batching.custom_vmap(fn)

    @mapped.def_vmap
    def rule(axis_size: int, batched: list[bool], *arguments: Any) -> tuple[Any, Any]:
        if not any(batched):
            return fn(*arguments), False
        if not always and not batched[scalar]:
            axes = [0 if b else None for b in batched]
            out = in_turn(jax.vmap(fn, axes, axis_size=axis_size), always, scalar)(*arguments)
            return out, jax.tree.map(lambda _: True, out)

        def one(inner: list[Any]) -> Any:
            rest = iter(inner)
            return mapped(*[next(rest) if b else a for a, b in zip(arguments, batched, strict=True)])

        out = lax.map(one, [a for a, b in zip(arguments, batched, strict=True) if b])
        return out, jax.tree.map(lambda _: True, out)

    return mapped
