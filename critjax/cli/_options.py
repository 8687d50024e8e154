"""Options of the command line from dataclasses: name and type of a field, and what `critjax._stored.option` says."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from critjax._stored import Option, option_of

_Kind = TypeVar("_Kind")
_WORDS = {
    int: ("an integer", "7"),
    float: ("a number", "0.5"),
    str: ("text", "a name"),
    Path: ("a path", "./run"),
}


def add_options(
    parser: argparse.ArgumentParser,
    kind: type,
    *,
    group: str = "",
    shown: Mapping[str, str] | None = None,
    filled: bool = False,
) -> None:
    """Add one option for every field of a dataclass that has one.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    kind : dataclass
    group : str
        Heading of the fields that name none.
    shown : mapping, optional
        Defaults that the help states instead of those of the class, by name of the field.
    filled : bool
        Options that are not given have their default in the result; else they stay out of it.
    """
    hints = typing.get_type_hints(kind)
    groups = {found.title: found for found in parser._action_groups}
    for field in dataclasses.fields(kind):
        said = option_of(field)
        if said is None:
            continue
        heading = said.group or group
        if heading and heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        target = groups[heading] if heading else parser
        told = dict(shown or {}).get(field.name, said.shown)
        how = _reading(_not_none(hints[field.name]), said, field.default)
        if said.choices is not None:
            how["choices"] = said.choices
        if said.metavar is not None:
            how["metavar"] = said.metavar
        how["help"] = _help(said.help, _default(field.default) if told is None else told)
        how["default"] = field.default if filled else argparse.SUPPRESS
        if said.positional:
            target.add_argument(field.name, nargs="?", **how)
            continue
        if field.default is dataclasses.MISSING:
            how |= {"required": True, "default": None}
        target.add_argument(option_name(kind, field.name), dest=field.name, **how)


def option_name(kind: type, name: str) -> str:
    """Return the option that sets a field."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    said = option_of(field)
    return (said.flag if said else None) or f"--{name.replace('_', '-')}"


def pick(kind: type[_Kind], values: dict[str, Any]) -> _Kind:
    """Take the values of a dataclass's fields out of ``values`` and return the dataclass."""
    names = [field.name for field in dataclasses.fields(kind) if field.name in values]  # type: ignore[arg-type]
    return kind(**{name: values.pop(name) for name in names})


def _help(text: str, default: str) -> str:
    """Return a line of help, its default at its end."""
    text = f"{text} (default: {default})" if default else text
    return text.strip().replace("%", "%%")


def _default(value: Any) -> str:
    """Write a default that the value itself tells."""
    if value is None or value is False or value is dataclasses.MISSING:
        return ""
    if value is True:
        return "yes"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _not_none(hint: Any) -> Any:
    """Take None out of a union."""
    if not _is_union(hint):
        return hint
    left = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return left[0] if len(left) == 1 else typing.Union[tuple(left)]  # noqa: UP007


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _reading(hint: Any, said: Option, default: Any) -> dict[str, Any]:
    """Tell argparse how values of a type are read."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction if default is True else "store_true"}
    inside = typing.get_args(hint)
    if _is_union(hint) or not inside:
        return {"type": _one(hint)}
    if said.repeated:
        return {"action": "append", "type": _one(inside[0])}
    if hint == tuple[int, int]:
        return {"type": _grid}
    if len(inside) == 2 and inside[1] is not Ellipsis:
        return {"type": _one(inside[0]), "nargs": 2}
    return {"type": _several(inside[0])}


def _one(hint: Any) -> Callable[[str], Any]:
    """Return what reads one value: the first type of a union that takes the word does."""
    kinds = typing.get_args(hint) if _is_union(hint) else (hint,)

    def read(text: str) -> Any:
        for kind in kinds if text.strip() else ():
            try:
                return kind(text)
            except ValueError:
                continue
        words, example = _WORDS[kinds[0]]
        raise argparse.ArgumentTypeError(f"expected {words}, got {text!r}; pass e.g. {example}")

    return read


def _several(hint: Any) -> Callable[[str], tuple[Any, ...]]:
    """Return what reads values with commas between them; the word none is no value at all."""
    read = _one(hint)
    words, example = {int: ("integers", "1,2,2"), float: ("numbers", "0.5,1")}.get(hint, ("values", "a,b"))

    def read_all(text: str) -> tuple[Any, ...]:
        try:
            return () if text.strip() == "none" else tuple(read(part.strip()) for part in text.split(","))
        except argparse.ArgumentTypeError:
            message = f"expected {words} with commas, got {text!r}; pass e.g. {example}"
            raise argparse.ArgumentTypeError(message) from None

    return read_all


def _grid(text: str) -> tuple[int, int]:
    """Read N or HxW."""
    try:
        sides = [int(part) for part in text.lower().replace(",", "x").split("x")]
        height, width = sides * 2 if len(sides) == 1 else sides
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected N or HxW, got {text!r}; pass e.g. 64 or 64x48") from None
    return height, width
