"""Settings of the Landau study: defaults, validation and storage, nothing heavy imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from critjax._checks import check, check_eta, check_grid, check_option
from critjax._stored import SEED, Stored, option, required
from critjax.studies._engine.options import PATTERN_BANKS, PRECISIONS, check_fits, check_patterns

# What ``None`` stands for; the second column is what `quick` uses.
_DEFAULTS: dict[str, tuple[Any, Any]] = {
    "grid": ((64, 64), (32, 32)),
    "num_samples": (32, 8),
    "num_levels": (80, 24),
    "closure_samples": (16, 4),
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LandauSettings(Stored):
    """Everything that decides the numbers of a Landau study; ``None`` stands for a default that `resolved` fills in.

    Parameters
    ----------
    banks : sequence of str, or one
        Among ``"two-pattern"``, ``"random-pattern"``, ``"stripe"``; one after the other.
    size, num_random, wavelength
        Window p, random patterns M and period of the stripes in pixels, for the banks that have them.
    grid : (H, W)
        Sample size in pixels.
    num_samples : int, optional
        Trajectories per bank.
    num_levels : int, optional
        Noise levels, from sigma^2 = 6 to sigma^2 = 0.1 times the squared bare critical noise.
    closure_samples : int, optional
        Fields per level, for the closure whose fast modes renormalise and for the average over them.
    eta : float
        Stochasticity; exact and reduced runs share the noise.
    seed : int
        Seed of the random bank and of the samples.
    precision : "float32" or "float64"
    quick : bool
        Small defaults; the report says so.

    Raises
    ------
    ValueError
        If a value is illegal, naming it.

    Example
    -------
    >>> LandauSettings().resolved().num_samples
    32
    """

    banks: Sequence[str] = option(
        PATTERN_BANKS,
        f"one of {', '.join(PATTERN_BANKS)}; may be repeated",
        flag="--bank",
        repeated=True,
        metavar="NAME",
        shown="all three",
    )
    size: int = option(9, "window size, odd", metavar="P", least=1)
    num_random: int = option(8, "random patterns of random-pattern", metavar="M", least=0)
    wavelength: float = option(6.0, "period of the stripes", metavar="PX")
    grid: tuple[int, int] | None = option(
        None, "sample size", metavar="N|HxW", shown=f"{_DEFAULTS['grid'][0][0]}"
    )
    num_samples: int | None = option(
        None, "trajectories a bank", metavar="N", shown=f"{_DEFAULTS['num_samples'][0]}", least=2
    )
    num_levels: int | None = option(
        None, "noise levels", metavar="N", shown=f"{_DEFAULTS['num_levels'][0]}", least=3
    )
    closure_samples: int | None = option(
        None,
        "fields per level that renormalised coefficients average over",
        metavar="N",
        shown=f"{_DEFAULTS['closure_samples'][0]}",
        least=2,
    )
    eta: float = option(0.0, "0: probability flow, 1: reverse SDE", metavar="E")
    seed: int = option(0, "random bank and samples", **SEED)
    precision: str = option("float32", choices=PRECISIONS)
    quick: bool = option(False, "small defaults; the report says so")

    def __post_init__(self) -> None:
        """Validate what can be validated at once."""
        super().__post_init__()
        object.__setattr__(self, "banks", (self.banks,) if isinstance(self.banks, str) else tuple(self.banks))
        check(len(self.banks) > 0, "banks", "at least one bank", "none", f"choose among {PATTERN_BANKS}")
        for name in self.banks:
            check_option("banks", name, PATTERN_BANKS)
        check(
            len(set(self.banks)) == len(self.banks), "banks", "each bank once", self.banks, "drop the repeat"
        )
        check_eta(self.eta)
        if self.grid is not None:
            object.__setattr__(self, "grid", check_grid(self.grid))
        check_patterns(self)
        check_fits(self.size, self.grid or _DEFAULTS["grid"][self.quick])

    @property
    def unused(self) -> dict[str, str]:
        """Values without any effect on the banks, and what would use them."""
        users = {"num_random": "random-pattern", "wavelength": "stripe"}
        return {name: f"the {bank} bank" for name, bank in users.items() if bank not in self.banks}

    def resolved(self) -> ResolvedLandau:
        """Return a copy with every default filled in."""
        new = {n: pair[self.quick] for n, pair in _DEFAULTS.items() if getattr(self, n) is None}
        return self.filled(ResolvedLandau, **new)

    @property
    def label(self) -> str:
        """Name for folders and titles."""
        return "-".join(self.banks) if len(self.banks) < len(PATTERN_BANKS) else "all"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedLandau(LandauSettings):
    """Settings with every default filled in."""

    banks: tuple[str, ...] = required()
    grid: tuple[int, int] = required()
    num_samples: int = required()
    num_levels: int = required()
    closure_samples: int = required()
