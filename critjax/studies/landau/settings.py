"""Settings of the Landau study: defaults, validation and storage, nothing heavy imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from critjax._checks import check, check_eta, check_grid, check_integer, check_option
from critjax._stored import Stored
from critjax.studies.criticality.settings import PATTERN_BANKS, PRECISIONS, CriticalitySettings


@dataclasses.dataclass(frozen=True)
class LandauSettings(Stored):
    """Everything that decides the numbers of a Landau study; ``None`` stands for a default that `resolved` fills in.

    Parameters
    ----------
    banks : sequence of str, or one
        Among ``"two-pattern"``, ``"random-pattern"``, ``"stripe"``; one after the other.
    size, num_random, wavelength
        Window p, random patterns M and period of the stripes, as in `CriticalitySettings`.
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

    banks: Sequence[str] = PATTERN_BANKS
    size: int = 9
    num_random: int = 8
    wavelength: float = 6.0
    grid: tuple[int, int] | None = None
    num_samples: int | None = None
    num_levels: int | None = None
    closure_samples: int | None = None
    eta: float = 0.0
    seed: int = 0
    precision: str = "float32"
    quick: bool = False

    def __post_init__(self) -> None:
        """Validate what can be validated at once."""
        object.__setattr__(self, "banks", (self.banks,) if isinstance(self.banks, str) else tuple(self.banks))
        check(len(self.banks) > 0, "banks", "at least one bank", "none", f"choose among {PATTERN_BANKS}")
        for name in self.banks:
            check_option("banks", name, PATTERN_BANKS)
        check(
            len(set(self.banks)) == len(self.banks), "banks", "each bank once", self.banks, "drop the repeat"
        )
        check_option("precision", self.precision, PRECISIONS)
        check_eta(self.eta)
        if self.grid is not None:
            object.__setattr__(self, "grid", check_grid(self.grid))
        for name, low in (("num_samples", 2), ("num_levels", 3), ("closure_samples", 2), ("seed", 0)):
            check_integer(self, name, low, "leave it out for the default")
        for name in self.banks:
            self.of_bank(name)  # the remaining settings are checked there

    @property
    def unused(self) -> dict[str, str]:
        """Values without any effect on the banks, and what would use them."""
        users = {"num_random": "random-pattern", "wavelength": "stripe"}
        return {name: f"the {bank} bank" for name, bank in users.items() if bank not in self.banks}

    def of_bank(self, name: str) -> CriticalitySettings:
        """Return the settings that build one of the banks."""
        return CriticalitySettings(
            bank=name,
            size=self.size,
            num_random=self.num_random,
            wavelength=self.wavelength,
            grid=self.grid,
            seed=self.seed,
            eta=self.eta,
            precision=self.precision,
            quick=self.quick,
        ).resolved()

    def resolved(self) -> LandauSettings:
        """Return a copy with every default filled in."""
        quick = self.quick
        return dataclasses.replace(
            self,
            grid=self.grid or ((32, 32) if quick else (64, 64)),
            num_samples=self.num_samples or (8 if quick else 32),
            num_levels=self.num_levels or (24 if quick else 80),
            closure_samples=self.closure_samples or (4 if quick else 16),
        )

    @property
    def label(self) -> str:
        """Name for folders and titles."""
        return "-".join(self.banks) if len(self.banks) < len(PATTERN_BANKS) else "all"
