from __future__ import annotations

import dataclasses

from critjax._checks import check
from critjax._stored import Stored, option, required

KINDS = ("walk", "drift")
_DEFAULTS = {"num_walks": (40, 8)}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ToySettings(Stored):
    kind: str = option("walk", "steps at random, or all alike", choices=KINDS)
    num_walks: int | None = option(
        None, "walks a block", metavar="N", shown=f"{_DEFAULTS['num_walks'][0]}", least=2
    )
    num_blocks: int = option(3, "blocks, for the errors", metavar="N")
    times: tuple[int, ...] = option((1, 2, 4), "steps after which they are measured", metavar="A,B")
    step: float = option(
        1.0, "length of a random step", metavar="L", above=0, group="physics of 100 % of the walks"
    )
    centre: tuple[float, float] | None = option(None, "where they start", metavar=("X", "Y"), shown="0 0")
    box: tuple[int, int] | None = option(None, "where they stay", metavar="N|HxW", shown="everywhere")
    starts: tuple[str, ...] = option((), "names of the walks", flag="--start", repeated=True, metavar="NAME")
    title: str = option("walks", "in the report", metavar="TEXT", positional=True)
    seed: int = option(0, metavar="N")
    mirrored: bool = option(True, "count walks to the left, too")
    quick: bool = option(False, "small defaults")
    hidden: int = 5  # a plain field has no option

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "starts", tuple(self.starts))
        good = all(a < b for a, b in zip(self.times, self.times[1:], strict=False))
        check(good, "times", "increasing integers", self.times, "sort them")

    @property
    def unused(self) -> dict[str, str]:
        return {} if self.kind == "walk" else {"step": "the kind walk", "starts": "the kind walk"}

    @property
    def label(self) -> str:
        return self.kind

    @property
    def precision(self) -> str:
        return "float32"

    def resolved(self) -> ResolvedToy:
        new = {n: pair[self.quick] for n, pair in _DEFAULTS.items() if getattr(self, n) is None}
        return self.filled(ResolvedToy, **new)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedToy(ToySettings):
    num_walks: int = required()
