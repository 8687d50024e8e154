"""Signals that end a command: the first as an exception does, the second at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

#: Ctrl-C, and how schedulers tell a job to end.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED, TERMINATED = (128 + number for number in SIGNALS)  # exit statuses, as a shell has them


@contextlib.contextmanager
def obeyed() -> Iterator[Callable[[], None]]:
    """Let a signal raise KeyboardInterrupt or SystemExit, so that what is open is closed and what is held set free.

    A second signal ends the process where it stands, also within a compiled program, to which Python's own handlers
    wait; files are whole or not there. Yields a function for places where a run may end: it raises again what
    something in between has swallowed.

    Example
    -------
    >>> with obeyed() as safe_point:
    ...     safe_point()  # nothing came
    """
    came: list[int] = []

    def safe_point() -> None:
        if came:
            end(came[0])

    def obey(number: int, frame: Any) -> None:
        came.append(number)
        end(number)

    try:
        handlers = {number: signal.signal(number, obey) for number in SIGNALS}
    except ValueError:  # outside of the main thread, which alone gets signals
        yield safe_point
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    threading.Thread(target=_end_at_the_second, args=(read,), daemon=True).start()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield safe_point
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def end(number: int) -> NoReturn:
    """Raise what stands for a signal."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(TERMINATED)


def _end_at_the_second(pipe: int) -> None:
    """Read the numbers of signals as the system tells them, until nobody writes any more."""
    seen = 0
    while byte := os.read(pipe, 1):
        seen += byte[0] in SIGNALS
        if seen == 2:
            os._exit(128 + byte[0])
    os.close(pipe)
