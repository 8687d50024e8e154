"""Dataclasses of settings that travel as JSON, in the attributes of results and the headers of files."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, ClassVar

from critjax._checks import check, message


class Stored:
    """Base of dataclasses that are written as JSON and read back; ``_called`` and ``_advice`` word the errors."""

    _called: ClassVar[str] = "settings"
    _advice: ClassVar[str] = "use results.nc"

    @property
    def unused(self) -> dict[str, str]:
        """Values without any effect beside the others, and what would use them."""
        return {}

    def to_json(self) -> str:
        """Return the values as JSON, for the attributes of a result or the header of a file."""
        return json.dumps(dataclasses.asdict(self))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, text: str) -> Any:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is no JSON object, holds unknown option names, or illegal values.
        """
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            got = f"unreadable text ({error})"
            raise ValueError(message(cls._called, "a JSON object", got, cls._advice)) from None
        check(isinstance(values, dict), cls._called, "a JSON object", type(values).__name__, cls._advice)
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})  # type: ignore[arg-type]
        advice = "was this written by something else, or another version?"
        check(not unknown, cls._called, "known option names", unknown, advice)
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
