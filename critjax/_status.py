"""Status codes: integers that arrays can hold, each with a message."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """Base of status codes; a member is written ``NAME = number, "message"``.

    Example
    -------
    >>> class Light(Status):
    ...     RED = 0, "stop"
    >>> Light(0).message
    'stop'
    """

    message: str

    def __new__(cls, value: int, message: str) -> Status:
        """Make a member with its message."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.message = message
        return member
