"""Settings of the guidance study: defaults, validation and storage, nothing heavy imported."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from critjax._checks import check, check_eta
from critjax._stored import SEED, Stored, option, required

#: Exact models; anything else is a network.
EXACT = ("patterns", "ideal", "els")
SOLVERS = ("heun", "euler")

# Defaults by kind of model; the second column of each pair is what `quick` uses.
_DEFAULTS: dict[str, dict[str, tuple[Any, Any]]] = {
    "patterns": {
        "size": (5, 5),
        "grid": (32, 16),
        "num_samples": (256, 32),
        "num_levels": (40, 20),
        "sigma_max": (18.0, 18.0),
        "sigma_min": (0.1, 0.1),
        "budgets": ((0.25, 1.0), (0.5,)),
        "num_search": (64, 16),
        "susceptibility_samples": (32, 32),
        "batch_size": (64, 32),
    },
    "ideal": {
        "num_images": (1000, 200),
        "num_samples": (500, 60),
        "num_levels": (40, 20),
        "sigma_max": (80.0, 80.0),
        "sigma_min": (0.1, 0.1),
        "budgets": ((0.25,), (0.25,)),
        "num_search": (60, 30),
        "susceptibility_samples": (32, 32),
        "batch_size": (100, 30),
    },
    "els": {
        "size": (5, 5),
        "num_images": (60, 20),
        "pool": (2, 2),
        "num_samples": (40, 20),
        "num_levels": (18, 15),
        "sigma_max": (20.0, 20.0),
        "sigma_min": (0.1, 0.1),
        "budgets": ((2.0,), (2.0,)),
        "num_search": (10, 10),
        "susceptibility_samples": (16, 16),
        "batch_size": (20, 10),
    },
    "network": {
        "num_samples": (30, 10),
        "num_levels": (15, 15),
        "sigma_max": (80.0, 80.0),
        "sigma_min": (0.05, 0.05),
        "budgets": ((1.0,), (1.0,)),
        "num_search": (6, 4),
        "susceptibility_samples": (0, 0),
        "batch_size": (10, 10),
    },
}


def _default(name: str, model: str) -> str:
    """Write the default that a model has, as the help shows it."""
    return f"{_DEFAULTS[model][name][0]}"


_by_model = functools.partial(option, None, shown="by model")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GuideSettings(Stored):
    """Everything that decides the numbers of a guidance study; ``None`` is a default that `resolved` fills in.

    Parameters
    ----------
    model : str
        ``"patterns"`` (a bank of plus and minus domains among distractors), ``"ideal"`` or ``"els"`` (models of the
        classes of Fashion-MNIST), or a class-conditional network: a shipped name or a file of weights.
    budgets : sequence of float, optional
        Of (w - baseline) d tau, tau = -ln sigma, each shared by all schedules that are compared; the primary statistic
        is of the first.
    baseline : float
        w_0: 0 the unconditional, 1 the conditional model.
    num_samples : int, optional
        Images of every schedule, from the same seeds.
    num_search : int, optional
        Images, from other seeds, of every interval of the grid search.
    num_positions : int
        Pulses along the ladder, all of them searched as intervals, too, beside wider ones with edges at about every
        fourth of them.
    pulse_width : float
        Width of every pulse in tau.
    num_levels, sigma_max, sigma_min : optional
        The sampler's geometric ladder.
    window_samples : int
        Trajectories from which the window is recommended.
    susceptibility_samples : int, optional
        Images through which derivatives are taken; 0, the default of networks, leaves them out.
    size : int, optional
        Window p of patch models.
    grid : int, optional
        Side of pattern samples in pixels.
    num_images : int, optional
        Training images of exact image models, the same number from every class.
    pool : int, optional
        Exact image models: blocks of so many pixels a side are averaged, so that ELS models take minutes.
    eta : float
    solver : "heun" or "euler"
    batch_size : int, optional
        Images sampled together.
    seed : int
    quick : bool
        Small defaults; the report says so.

    Raises
    ------
    ValueError
        If a value is illegal, naming it.

    Example
    -------
    >>> GuideSettings(model="patterns").resolved().size
    5
    """

    model: str = option("patterns", "patterns, ideal, els, or a network", metavar="MODEL", positional=True)
    budgets: Sequence[float] | None = _by_model("of (w - baseline) d tau", metavar="A,B")
    baseline: float = option(0.0, "0: unconditional, 1: conditional", metavar="W")
    num_samples: int | None = _by_model("images of every schedule", metavar="N", least=4)
    num_search: int | None = _by_model("images of every searched interval", metavar="N", least=4)
    num_positions: int = option(13, "pulses along the ladder", metavar="N", least=4)
    pulse_width: float = option(0.5, "in tau = -ln sigma", metavar="T", above=0)
    num_levels: int | None = _by_model("steps of the sampler", metavar="N", least=4)
    sigma_max: float | None = _by_model("first noise", metavar="S", above=0)
    sigma_min: float | None = _by_model("last noise", metavar="S", above=0)
    window_samples: int = option(16, "trajectories of the recommendation", metavar="N", least=2)
    susceptibility_samples: int | None = option(
        None, "images differentiated; 0: none", metavar="N", shown="32; els: 16; networks: none", least=0
    )
    size: int | None = option(
        None, "window of patch models, odd", metavar="P", shown=_default("size", "patterns"), least=1
    )
    grid: int | None = option(
        None, "side of pattern samples", metavar="N", shown=_default("grid", "patterns"), least=4
    )
    num_images: int | None = option(
        None,
        "training images of ideal and els",
        metavar="N",
        shown=f"{_default('num_images', 'ideal')}; els: {_default('num_images', 'els')}",
        least=10,
    )
    pool: int | None = option(
        None,
        "average blocks of N x N pixels",
        metavar="N",
        shown=f"1; els: {_default('pool', 'els')}",
        least=1,
    )
    eta: float = option(0.0, "0: probability flow, 1: reverse SDE", metavar="E")
    solver: str = option("heun", choices=SOLVERS)
    batch_size: int | None = _by_model("images sampled together", metavar="N", least=1)
    seed: int = option(0, **SEED)
    quick: bool = option(False, "small defaults; the report says so")

    def __post_init__(self) -> None:
        """Validate what can be validated at once."""
        super().__post_init__()
        check_eta(self.eta)
        check(self.size is None or self.size % 2 == 1, "size", "an odd window", self.size, "use 5")
        check(math.isfinite(self.baseline), "baseline", "a finite weight", self.baseline, "use 0 or 1")
        if self.budgets is not None:
            budgets = tuple(float(b) for b in self.budgets)
            object.__setattr__(self, "budgets", budgets)
            good = len(budgets) > 0 and all(math.isfinite(b) and b > 0 for b in budgets)
            good = good and len(set(budgets)) == len(budgets)
            check(good, "budgets", "one or more different numbers > 0", budgets, "pass e.g. 0.5,1")
        for name, kinds in (
            ("size", ("patterns", "els")),
            ("grid", ("patterns",)),
            ("num_images", ("ideal", "els")),
            ("pool", ("ideal", "els")),
        ):
            told = getattr(self, name)
            fits = told is None or self.kind in kinds
            check(fits, name, f"a model of {', '.join(kinds)}", f"model {self.model!r}", "leave it out")

    @property
    def kind(self) -> str:
        """Tell the exact model, or "network"."""
        return self.model if self.model in EXACT else "network"

    @property
    def label(self) -> str:
        """Name for folders and titles."""
        return Path(self.model).stem

    @property
    def inputs(self) -> dict[str, str | None]:
        """Tell by digest which weights a run is about: their name may come to mean others."""
        if self.kind != "network":  # exact models need no network library
            return {}
        from critjax.networks._weights import weights_digest

        return {"model": weights_digest(self.model)}

    @property
    def precision(self) -> str:
        """Networks and images are float32, and so is the laboratory."""
        return "float32"

    def resolved(self) -> ResolvedGuide:
        """Return a copy with every default filled in.

        Raises
        ------
        ValueError
            If the ladder is empty.
        """
        defaults = _DEFAULTS[self.kind]
        new = {n: pair[self.quick] for n, pair in defaults.items() if getattr(self, n) is None}
        if self.kind == "ideal" and self.pool is None:
            new["pool"] = 1
        full = self.filled(ResolvedGuide, **new)
        high, low = full.sigma_max, full.sigma_min
        check(low < high, "sigma_min", f"less than sigma_max = {high:g}", low, "exchange the two")
        step = math.log(high / low) / full.num_levels
        expected = f"at least one step of the ladder, {step:.3g}"
        check(full.pulse_width >= step, "pulse_width", expected, full.pulse_width, "widen it or add levels")
        most = 1 + math.floor((step * full.num_levels - full.pulse_width) / step + 1e-9)
        expected = f"at most {most}, a step of the ladder apart"
        check(full.num_positions <= most, "num_positions", expected, full.num_positions, "add levels")
        return full


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedGuide(GuideSettings):
    """Settings with every default filled in; open is what the kind of model does not have."""

    budgets: tuple[float, ...] = required()
    num_samples: int = required()
    num_search: int = required()
    num_levels: int = required()
    sigma_max: float = required()
    sigma_min: float = required()
    susceptibility_samples: int = required()
    batch_size: int = required()
