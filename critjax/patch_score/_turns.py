"""Queries of a batch one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def in_turn(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Let `jax.vmap` call ``fn``, a function of arrays, for one member of the batch after the other.

    Where one query fills the cache, a batch takes up to twice as long a member (benchmarks/README.md): differences and
    sums leave the cache, and products are transposed. So a batch costs what its members cost, and needs the memory of
    one.
    `jax.custom_batching.sequential_vmap` does the same, but fails where only tangents are batched.
    """
    mapped = jax.custom_batching.custom_vmap(fn)

    @mapped.def_vmap
    def rule(_axis_size: int, batched: list[bool], *arguments: Any) -> tuple[Any, Any]:
        outer = [a for a, is_batched in zip(arguments, batched, strict=True) if is_batched]

        def one(inner: list[Any]) -> Any:
            rest = iter(inner)
            return mapped(*[next(rest) if b else a for a, b in zip(arguments, batched, strict=True)])

        out = lax.map(one, outer) if outer else fn(*arguments)
        return out, jax.tree.map(lambda _: bool(outer), out)

    return mapped
