"""Settings of the freeze-out study: defaults and validation, nothing heavy imported."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from critjax._checks import check, check_window
from critjax._stored import SEED, Stored, option, required

# What ``None`` stands for; the second column is what `quick` uses.
_DEFAULTS: dict[str, tuple[Any, Any]] = {
    "steps_per_tau": ((10, 30, 100, 300, 1000, 3000, 10000), (10, 30, 100, 300)),
    "grid": (64, 32),
    "num_samples": (64, 64),
    "max_samples": (1024, 256),
    "binder_grids": ((32, 64, 128), (16, 32)),
    "binder_steps_per_tau": (20000, 3000),
    "binder_samples": (64, 64),
}


def _shown(name: str) -> str:
    """Write a default as the help shows it."""
    value = _DEFAULTS[name][0]
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


_quench = functools.partial(option, group="quenches")
_binder = functools.partial(option, group="Binder cumulant, on several grids")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FreezeOutSettings(Stored):
    r"""Everything that decides the numbers of a freeze-out study.

    ``None`` stands for a default; `resolved` fills it in.

    Parameters
    ----------
    size : int
        Window p of the two-pattern bank, odd; sigma_c = p.
    grid : int, optional
        Side of the square samples. Default 64.
    steps_per_tau : tuple of int, optional
        n, Langevin steps per unit of ln sigma, increasing. Default 10 to 10,000 in half decades.
    step_size : float
        e, dimensionless; the rate is a = n e.
    steps_per_level : int
        Steps between two changes of the noise. More than one coarsens the ladder; where it then fails to resolve
        freeze-out, `ladder_resolved` of the result is False.
    noise_ratios : tuple of float
        sigma/sigma_c at which fields are measured, decreasing: the bare critical noise, near the transition of the
        samples, and the end of the quench.
    num_samples, max_samples : int, optional
        Samples at the largest n, and at most; between them as many as cost the same. Rounded up to whole blocks.
    num_blocks : int
        Blocks of samples left out in turn for the jackknife errors.
    fit_from : int, optional
        Smallest n in the fits of exponents. Default: the last decade.
    binder_grids : tuple of int, optional
        Sides of the grids of the Binder cumulant; none skips it. Default 32, 64, 128.
    binder_steps_per_tau, binder_samples : int, optional
        n of these, and samples on the largest grid; smaller ones take more in inverse proportion to their sides.
    binder_step_size : float
        e of these: large, because grids of different size can only be compared where they have had the time to order.
        The discretisation shifts their transition a little.
    binder_range : pair of float
        First and last sigma/sigma_c.
    binder_levels : int
        Noise levels at which the cumulant is measured.
    seed : int
        Seed of all samples.
    quick : bool
        Small defaults, for a look rather than a result.

    Raises
    ------
    ValueError
        If a value is illegal, naming it.

    Example
    -------
    >>> FreezeOutSettings(quick=True).resolved().steps_per_tau
    (10, 30, 100, 300)
    """

    size: int = _quench(3, "window size, odd; the critical noise is as large", metavar="P")
    grid: int | None = _quench(None, "side of the samples", metavar="N", shown=_shown("grid"), least=4)
    steps_per_tau: tuple[int, ...] | None = _quench(
        None,
        "steps per e-fold of the noise, one quench each",
        metavar="A,B,...",
        shown=_shown("steps_per_tau"),
    )
    step_size: float = _quench(0.1, "of a Langevin step, in (0, 1)", metavar="E")
    steps_per_level: int = _quench(
        1, "steps between two changes of the noise; more coarsens the ladder", metavar="N", least=1
    )
    noise_ratios: tuple[float, ...] = _quench(
        (1.0, 0.34, 0.28), "noises, in units of the critical one, that fields are measured at", metavar="A,B"
    )
    num_samples: int | None = _quench(
        None, "samples of the slowest quench", metavar="N", shown=_shown("num_samples"), least=2
    )
    max_samples: int | None = _quench(
        None,
        "samples of a quench at most; fast ones take as many as cost the same",
        metavar="N",
        shown=_shown("max_samples"),
        least=2,
    )
    num_blocks: int = _quench(16, "blocks of samples, for the errors", metavar="N", least=2)
    fit_from: int | None = _quench(
        None,
        "smallest number of steps in the fits of exponents",
        metavar="N",
        shown="the last decade",
        least=1,
    )
    binder_grids: tuple[int, ...] | None = _binder(
        None, "sides of the grids; none: no cumulant", metavar="A,B", shown=_shown("binder_grids")
    )
    binder_steps_per_tau: int | None = _binder(
        None, "steps per e-fold of the noise", metavar="N", shown=_shown("binder_steps_per_tau"), least=1
    )
    binder_samples: int | None = _binder(
        None,
        "samples of the largest grid; smaller ones take more",
        metavar="N",
        shown=_shown("binder_samples"),
        least=2,
    )
    binder_step_size: float = _binder(0.5, "of a Langevin step, in (0, 1)", metavar="E")
    binder_range: tuple[float, ...] = _binder(
        (0.45, 0.26), "first and last noise, in units of the critical one", metavar="A,B"
    )
    binder_levels: int = _binder(16, "noises at which it is measured", metavar="N", least=2)
    seed: int = _quench(0, **SEED)
    quick: bool = _quench(False, "small defaults")

    def __post_init__(self) -> None:
        """Validate every value that is given."""
        super().__post_init__()
        check_window(self.size)
        check(self.size % 2 == 1, "size", "an odd window", self.size, "use 3 or 5")
        for name, advice in (("step_size", "use 0.1"), ("binder_step_size", "use 0.5")):
            value = getattr(self, name)
            check(math.isfinite(value) and 0 < value < 1, name, "a number in (0, 1)", value, advice)
        for name, sign, words in (
            ("steps_per_tau", 1, "increasing integers >= 1"),
            ("binder_grids", 1, "increasing integers >= 1"),
            ("noise_ratios", -1, "decreasing numbers > 0"),
            ("binder_range", -1, "decreasing numbers > 0"),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            object.__setattr__(self, name, tuple(value))
            ordered = bool(np.all(sign * np.diff(value) > 0)) and all(v > 0 for v in value)
            whole = sign < 0 or all(isinstance(v, (int, np.integer)) for v in value)
            enough = len(value) >= 1 or name == "binder_grids"
            check(ordered and whole and enough, name, words, value, "sort them")
        check(
            len(self.binder_range) == 2, "binder_range", "two ratios", self.binder_range, "pass (0.45, 0.26)"
        )
        for side in (*(self.binder_grids or ()), *((self.grid,) if self.grid else ())):
            advice = "choose larger grids or a smaller size"
            check(side > self.size, "grid", f"more pixels than the window's {self.size}", side, advice)

    @property
    def label(self) -> str:
        """Name for folders and titles."""
        return f"{self.size}"

    @property
    def precision(self) -> str:
        """Signs and lengths need no more than float32."""
        return "float32"

    def resolved(self) -> ResolvedFreezeOut:
        """Return a copy with every default filled in.

        Raises
        ------
        ValueError
            If fewer samples are allowed than asked for.
        """
        new = {n: pair[self.quick] for n, pair in _DEFAULTS.items() if getattr(self, n) is None}
        if self.fit_from is None:
            steps = new.get("steps_per_tau", self.steps_per_tau)
            new["fit_from"] = max(1, max(steps) // 10)
        full = self.filled(ResolvedFreezeOut, **new)
        expected, advice = f"at least num_samples = {full.num_samples}", "raise it or lower the other"
        good = full.num_samples <= full.max_samples
        check(good, "max_samples", expected, full.max_samples, advice)
        return full


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedFreezeOut(FreezeOutSettings):
    """Settings with every default filled in."""

    grid: int = required()
    steps_per_tau: tuple[int, ...] = required()
    num_samples: int = required()
    max_samples: int = required()
    fit_from: int = required()
    binder_grids: tuple[int, ...] = required()
    binder_steps_per_tau: int = required()
    binder_samples: int = required()
