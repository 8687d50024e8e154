"""Count the programs that a piece of code compiles."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


class Count:
    """Number of programs compiled, or read from the compilation cache, while `counting` is on."""

    def __init__(self) -> None:
        self.programs = 0


@contextlib.contextmanager
def counting() -> Iterator[Count]:
    """Count programs inside a ``with`` block."""
    count = Count()

    def listen(event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            count.programs += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield count
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
