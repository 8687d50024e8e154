"""Settings of the criticality study: defaults, validation and storage, nothing heavy imported."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path

from critjax._checks import check, check_eta, check_grid
from critjax._stored import SEED, Stored, option, required
from critjax.studies._engine.options import PATTERN_BANKS, PRECISIONS, check_fits, check_patterns

IMAGE_BANKS = ("fashion-mnist",)
SOLVERS = ("heun", "euler")
FRAMES = ("ve", "vp")
POSITIONS = ("all", "interior")

# Defaults that depend on the kind of bank; the second column of each pair is what `quick` uses.
_PATTERN_DEFAULTS = {
    "size": (9, 9),
    "grid": ((64, 64), (32, 32)),
    "num_samples": (512, 64),
    "num_levels": (64, 24),
    "batch_size": (32, 16),
    "num_banks": (256, 64),
    "closure_samples": (16, 8),
    "probe_samples": (16, 4),
}
DEFAULT_NUM_IMAGES = 100
_IMAGE_DEFAULTS = {
    "size": (7, 7),
    "num_images": (DEFAULT_NUM_IMAGES, 20),
    "num_samples": (24, 8),
    "num_levels": (40, 16),
    "batch_size": (2, 2),
    "closure_samples": (24, 10),
    "probe_samples": (6, 4),
}


def _shown(name: str, what: str = "") -> str:
    """Write the defaults of patterns and of images, as the help shows them."""
    patterns, images = _PATTERN_DEFAULTS[name][0], _IMAGE_DEFAULTS.get(name, (what,))[0]
    return f"{patterns}; images: {images}"


_bank = functools.partial(option, group="bank of patches")
_run = functools.partial(option, group="simulation")
_measure = functools.partial(option, group="theory and measurement")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CriticalitySettings(Stored):
    r"""Everything that decides the numbers of a criticality study.

    ``None`` stands for a default that depends on the bank; `resolved` fills it in. Two runs of equal resolved
    settings with the same versions on the same machine give the same numbers.

    Parameters
    ----------
    bank : str
        ``"random-pattern"``, ``"two-pattern"``, ``"stripe"``, ``"fashion-mnist"``, or a path to your own
        images.
    size : int, optional
        Window size p in pixels, odd. Default 9 for patterns, 7 for images.
    num_random : int
        M, random patterns of the random-pattern bank.
    wavelength : float
        Period of the stripes in pixels.
    num_images, classes, positions, value_range
        Training images taken (default: the first 100, or all if your own are fewer), their classes (default
        all), which of their patches count (``"interior"``: only those that fit; ``"all"``: images wrap, as
        the samples do), and for your own files the values that become -1 and 1 (default: from the dtype, see
        `critjax.data.load_images`).
    grid : (H, W), optional
        Sample size in pixels. Default 64 x 64 for patterns, the size of the images otherwise.
    num_samples : int, optional
        Trajectories; rounded up to whole batches. Default 512 for patterns, 24 for images.
    num_levels : int, optional
        Noise levels of the geometric ladder. Default 64 for patterns, 40 for images.
    sigma_max, sigma_min : float, optional
        Ends of the ladder. Default from the predicted critical noise, see `ladder_ends`.
    seed : int
        Seed of the random bank, the choice of images, the samples and the probes.
    eta : float
        Stochasticity: 0 probability flow, 1 reverse SDE.
    solver : "heun" or "euler"
        Heun by default: second order, so that 40 to 64 levels follow the linear theory to well under a per
        cent.
    frame : "ve" or "vp"
        Frame in which a mode is called critical. "ve" is the criterion Dhat = 1 (zero curvature of ln p).
    precision : "float32" or "float64"
    batch_size : int, optional
        Trajectories simulated at once, and the unit of the jackknife errors.
    num_banks : int
        Random banks drawn to see this one within its distribution (random-pattern only; 0 skips).
    closure_samples, probe_samples : int, optional
        Fields per level for the Gaussian closure, and samples whose Jacobian is probed at 12 levels (0
        skips).
    quick : bool
        Small defaults, for a look rather than a result; the report says so.

    Raises
    ------
    ValueError
        If a value is illegal, naming it.

    Example
    -------
    >>> CriticalitySettings(bank="two-pattern").resolved().num_samples
    512
    """

    bank: str = _bank(
        "random-pattern", f"{', '.join((*PATTERN_BANKS, *IMAGE_BANKS))}, or your images", metavar="NAME|PATH"
    )
    size: int | None = _bank(None, "window size, odd", metavar="P", shown=_shown("size"), least=1)
    num_random: int = _bank(8, "random patterns of random-pattern", metavar="M", least=0)
    wavelength: float = _bank(6.0, "period of the stripes", metavar="PX")
    num_images: int | None = _bank(
        None, "training images taken", metavar="N", shown=f"{DEFAULT_NUM_IMAGES}", least=2
    )
    classes: tuple[int | str, ...] | None = _bank(
        None, "only these classes, by number or name", metavar="A,B"
    )
    positions: str = _bank(
        "interior", "patches of the images that count: all (images wrap) or interior", choices=POSITIONS
    )
    value_range: tuple[float, float] | None = _bank(
        None,
        "values of your images that become -1 and 1",
        metavar=("BLACK", "WHITE"),
        shown="from the dtype",
    )
    grid: tuple[int, int] | None = _run(
        None, "sample size", metavar="N|HxW", shown=f"{_PATTERN_DEFAULTS['grid'][0][0]}; images: theirs"
    )
    num_samples: int | None = _run(None, "trajectories", metavar="N", shown=_shown("num_samples"), least=2)
    num_levels: int | None = _run(None, "noise levels", metavar="N", shown=_shown("num_levels"), least=3)
    sigma_max: float | None = _run(
        None, "first noise", metavar="S", shown="sqrt(6) x predicted sigma_c", above=0
    )
    sigma_min: float | None = _run(
        None, "last noise", metavar="S", shown="0.1 sigma_c; images: 0.05", above=0
    )
    seed: int = _run(0, "random bank and samples", **SEED)
    eta: float = _run(0.0, "0: probability flow, 1: reverse SDE", metavar="E")
    solver: str = _run("heun", "second or first order steps", choices=SOLVERS)
    frame: str = _measure("ve", "frame in which a mode is called critical", choices=FRAMES)
    precision: str = _run("float32", choices=PRECISIONS)
    batch_size: int | None = _run(
        None, "trajectories at once", metavar="N", shown=_shown("batch_size"), least=1
    )
    num_banks: int | None = _measure(
        None,
        "random banks drawn for comparison",
        metavar="N",
        shown=f"{_PATTERN_DEFAULTS['num_banks'][0]}",
        least=0,
    )
    closure_samples: int | None = _measure(
        None,
        "fields per level of the closure; 0: none",
        metavar="N",
        shown=_shown("closure_samples"),
        least=0,
    )
    probe_samples: int | None = _measure(
        None, "samples with probed Jacobian; 0: none", metavar="N", shown=_shown("probe_samples"), least=0
    )
    quick: bool = _measure(False, "small defaults; the report says so")

    def __post_init__(self) -> None:
        """Validate what can be validated without loading anything."""
        super().__post_init__()
        check_eta(self.eta)
        if self.bank not in PATTERN_BANKS + IMAGE_BANKS:
            expected = ", ".join(map(repr, PATTERN_BANKS + IMAGE_BANKS)) + " or the path of a file or folder"
            check(
                Path(self.bank).exists(), "bank", expected, repr(self.bank), "check the spelling or the path"
            )
        check_patterns(self)
        for name in ("closure_samples", "probe_samples"):
            check(getattr(self, name) != 1, name, "0 or at least 2", 1, "one sample gives no error estimate")
        if self.sigma_max is not None and self.sigma_min is not None:
            got = f"{self.sigma_min} >= {self.sigma_max}"
            check(
                self.sigma_min < self.sigma_max, "sigma_min", "less than sigma_max", got, "exchange the two"
            )
        if self.grid is not None:
            object.__setattr__(self, "grid", check_grid(self.grid))
            check(
                not self.uses_images,
                "grid",
                "none: samples have the images' size",
                self.grid,
                "leave --grid out",
            )
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
            advice = "leave --classes out"
            check(self.uses_images, "classes", "an image bank", f"bank {self.bank!r}", advice)
        if self.value_range is not None:
            low, high = (float(v) for v in self.value_range)
            object.__setattr__(self, "value_range", (low, high))
            own = self.uses_images and self.bank not in IMAGE_BANKS
            advice = "leave --value-range out"
            check(own, "value_range", "an image bank of your own", f"bank {self.bank!r}", advice)
            good = math.isfinite(low) and math.isfinite(high) and low < high
            check(good, "value_range", "two finite numbers, low < high", (low, high), "pass e.g. 0 1")

    @property
    def uses_images(self) -> bool:
        """Tell whether the bank consists of the patches of training images."""
        return self.bank not in PATTERN_BANKS

    @property
    def unused(self) -> dict[str, str]:
        """Values without any effect on this bank, and what would use them."""
        users = {"num_images": "an image bank", "positions": "an image bank"} if not self.uses_images else {}
        if self.bank != "random-pattern":
            users |= dict.fromkeys(("num_random", "num_banks"), "the random-pattern bank")
        return users | ({} if self.bank == "stripe" else {"wavelength": "the stripe bank"})

    @property
    def label(self) -> str:
        """Short name of the bank for folders and titles."""
        return Path(self.bank).stem or "images" if self.bank not in PATTERN_BANKS + IMAGE_BANKS else self.bank

    @property
    def inputs(self) -> dict[str, str | None]:
        """Tell by digest which images a run is about: their path may come to hold others."""
        if not self.uses_images:
            return {}
        from critjax.data._files import images_digest

        return {"bank": images_digest(self.bank)}

    def resolved(self) -> ResolvedCriticality:
        """Return a copy with every default filled in (except the ladder's ends and an image bank's grid).

        ``num_samples`` is rounded up to whole batches, so that every batch compiles to the same program.

        Raises
        ------
        ValueError
            If the window does not fit the grid.
        """
        defaults = _IMAGE_DEFAULTS if self.uses_images else _PATTERN_DEFAULTS
        new = {n: pair[self.quick] for n, pair in defaults.items() if getattr(self, n) is None}
        if self.bank != "random-pattern":
            new["num_banks"] = 0
        if self.uses_images and self.bank not in IMAGE_BANKS:
            # Of one's own images all, but not more than the default: see the loading.
            new.pop("num_images", None)
        full = self.filled(ResolvedCriticality, **new)
        if full.grid is not None:
            check_fits(full.size, full.grid)
        # At least two batches, or there would be no errors.
        batch = min(full.batch_size, max(1, full.num_samples // 2))
        num_samples = -(-full.num_samples // batch) * batch
        return dataclasses.replace(full, batch_size=batch, num_samples=num_samples)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedCriticality(CriticalitySettings):
    """Settings with every default filled in; open are the ladder's ends, and the grid and number of images.

    Patterns have no images; those of an image bank are as large and as many as the files say.
    """

    size: int = required()
    num_samples: int = required()
    num_levels: int = required()
    batch_size: int = required()
    num_banks: int = required()
    closure_samples: int = required()
    probe_samples: int = required()


def ladder_ends(
    settings: CriticalitySettings,
    critical_sigma: float,
    largest_sigma: float,
    *,
    frame_sigma: float = math.nan,
) -> tuple[float, float]:
    """Choose the ends of the noise ladder from the predicted critical noise.

    The ladder starts at sqrt(6) times the bare critical noise (sigma^2 = 6 sigma_c^2, so that the linear
    regime down to 4 sigma_c^2 is on it), above ``frame_sigma``, the critical noise in the chosen frame, or at
    ``largest_sigma`` if nothing turns critical. It ends at a tenth of the critical noise, at 0.05 for images.

    Example
    -------
    >>> high, low = ladder_ends(CriticalitySettings(bank="two-pattern"), 5.0, 20.0)
    >>> print(f"{high / 5:.4f} {low / 5:.4f}")  # sqrt(6) and a tenth
    2.4495 0.1000
    """
    found = math.isfinite(critical_sigma) and critical_sigma > 0
    top = math.sqrt(6) * critical_sigma if found else largest_sigma
    if math.isfinite(frame_sigma):
        top = max(top, 1.3 * frame_sigma)
    high = settings.sigma_max if settings.sigma_max is not None else top
    low = 0.05 if settings.uses_images else (0.1 * critical_sigma if found else 0.04 * largest_sigma)
    low = settings.sigma_min if settings.sigma_min is not None else min(low, high / 4)
    check(low < high, "sigma_min", f"less than sigma_max = {high:.4g}", low, "choose a wider ladder")
    return high, low
