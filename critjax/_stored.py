"""Dataclasses of settings: what each value's option needs, and how they travel as JSON, in results and in files."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import numbers
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from critjax._checks import MOST, MOST_SEED, check, check_count, check_option, message, size_of

_Kind = TypeVar("_Kind")


class Option(NamedTuple):
    """What one value of a dataclass may be, and what the command line shows of it, see `option`."""

    default: Any
    help: str = ""
    metavar: str | tuple[str, ...] | None = None
    flag: str | None = None
    choices: Sequence[Any] | None = None
    least: int | None = None
    most: int = MOST
    above: float | None = None
    group: str = ""
    shown: str | None = None
    repeated: bool = False
    positional: bool = False


def option(default: Any, help: str = "", **more: Any) -> Any:
    """Return a field of a dataclass that knows its option of the command line.

    The option's name and type are those of the field: ``num_samples: int`` is ``--num-samples N``.

    Parameters
    ----------
    default : Any
        Value of the field when nothing is said; `dataclasses.MISSING` if something must be.
    help : str
        One line without the default, which is added.
    **more
        ``metavar``: placeholder of the value, one for each of a pair. ``flag``: name of the option where it is not the
        field's. ``choices``: legal values. ``least``, ``most``: smallest and largest legal integer. ``above``: a legal
        number is finite and larger. ``group``: heading in the help. ``shown``: text of the default where the value does
        not say it, ``""`` for none. ``repeated``: the option is given once a value. ``positional``: it has no name.

    Example
    -------
    >>> @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Settings:
    ...     size: int = option(9, "window size, odd", metavar="P")
    >>> Settings().size, option_of(dataclasses.fields(Settings)[0]).help
    (9, 'window size, odd')
    """
    return dataclasses.field(default=default, metadata={"option": Option(default, help, **more)})


#: Magnitude of any real number of a setting.
LARGEST = 1e9
#: Of an option that is a seed.
SEED: dict[str, Any] = {"metavar": "N", "least": 0, "most": MOST_SEED}


def option_of(field: dataclasses.Field[Any]) -> Option | None:
    """Return what `option` said of a field; a plain one has no option."""
    return field.metadata.get("option")


@functools.cache
def _options(kind: type[Any]) -> dict[str, Option]:
    """Return the options of a class and of its bases: resolved settings declare none of their own."""
    found: dict[str, Option] = {}
    for base in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        for field in dataclasses.fields(base):
            told = option_of(field)
            if told is not None:
                found[field.name] = told
    return found


def check_options(settings: Any) -> None:
    """Raise `ValueError` unless every value is one that its option allows; None is where it is the default."""
    for name, told in _options(type(settings)).items():
        if told.default is None and getattr(settings, name) is None:
            continue
        value: Any = getattr(settings, name)
        if told.choices is not None:
            check_option(name, value, told.choices)
        advice = "leave it out for the default"
        if told.least is not None:
            check_count(name, value, least=told.least, most=told.most, advice=advice)
        if told.above is not None:
            good = isinstance(value, numbers.Real) and told.above < float(value) < math.inf
            check(good, name, f"a finite number > {told.above}", value, advice)
        for number in value if isinstance(value, tuple) else (value,):
            _check_size(name, number, told.most)


def _check_size(name: str, value: Any, most: int) -> None:
    """Raise if a number is larger than anything that a run can use, or not finite; what is no number passes."""
    advice = "take a smaller one"
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        check(bool(abs(value) <= most), name, f"integers up to {most}", size_of(value), advice)
    elif isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
        good = bool(abs(float(value)) <= LARGEST)
        check(good, name, f"finite numbers up to {LARGEST:g}", value, advice)


def json_object(text: str, name: str, advice: str) -> dict[str, Any]:
    """Read a JSON object, or raise `ValueError` with the ``name`` of what holds it.

    Example
    -------
    >>> json_object('{"size": 7}', "settings", "use results.nc")
    {'size': 7}
    """
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(message(name, "a JSON object", f"unreadable text ({error})", advice)) from None
    check(isinstance(values, dict), name, "a JSON object", type(values).__name__, advice)
    return values


def required() -> Any:
    """Return a field without default: of resolved settings, which leave nothing open."""
    return dataclasses.field()


class Stored:
    """Base of dataclasses that are written as JSON and read back; ``_called`` and ``_advice`` word the errors.

    A class made with ``eq=False`` equals its subclasses where all values are equal: settings equal resolved ones.
    """

    _called: ClassVar[str] = "settings"
    _advice: ClassVar[str] = "use results.nc"

    def __post_init__(self) -> None:
        """Check every value that has an option."""
        check_options(self)

    def __eq__(self, other: object) -> bool:
        """Compare values; one class must be the other, or below it."""
        if not (
            isinstance(other, Stored) and (isinstance(other, type(self)) or isinstance(self, type(other)))
        ):
            return NotImplemented
        return self.values() == other.values()

    def __hash__(self) -> int:
        """Return the hash of the values, which equal settings share."""
        return hash(tuple(self.values().values()))

    @property
    def unused(self) -> dict[str, str]:
        """Values without any effect beside the others, and what would use them."""
        return {}

    def values(self) -> dict[str, Any]:
        """Return the values by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def filled(self, kind: type[_Kind], **new: Any) -> _Kind:
        """Return these values and the ``new`` ones as another class of the same fields."""
        return kind(**{**self.values(), **new})

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
        values = json_object(text, cls._called, cls._advice)
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})  # type: ignore[arg-type]
        advice = "was this written by something else, or another version?"
        check(not unknown, cls._called, "known option names", unknown, advice)
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
