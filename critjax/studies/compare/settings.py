"""Settings of the comparison study: defaults, validation and storage, nothing heavy imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from critjax._checks import check
from critjax._stored import SEED, Stored, option, required

#: Odd windows that one pass evaluates.
SIZES = (3, 5, 7, 9, 11, 15, 19)

# What ``None`` stands for; the second column is what `quick` uses.
_DEFAULTS = {
    "num_images": (200, 50),
    "num_levels": (8, 4),
    "num_queries": (8, 3),
    "num_samples": (48, 12),
    "probe_samples": (8, 3),
    "num_films": (4, 2),
}


def _filled(name: str, help: str, *, least: int) -> Any:
    """Return a field whose default `resolved` fills in."""
    return option(None, help, metavar="N", shown=f"{_DEFAULTS[name][0]}", least=least)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CompareSettings(Stored):
    """Everything that decides the numbers of a comparison; ``None`` stands for a default that `resolved` fills in.

    Parameters
    ----------
    network : str
        Name of a shipped network or path of a file written by `critjax.networks.save_network`.
    class_label : int, optional
        Class of a conditional network, from whose images alone bank and noised images are then taken; default none,
        and images of all classes.
    data : str
        ``"fashion-mnist"`` or a path, see `critjax.data.load_dataset`. The 1,000 images that come with the package
        are training images of the shipped networks, the noised ones among them; if more are needed, the whole training
        split is looked for.
    num_images : int, optional
        Training images of the patch models and of the ideal denoiser; the images after them are the noised ones.
    sizes : sequence of int
        Different odd windows of the patch models.
    num_levels : int, optional
        Noise levels of the comparison, from sigma 10 to 0.1.
    num_queries : int, optional
        Noised images a level.
    num_samples : int, optional
        Trajectories of the network, and noised images, that are measured.
    probe_samples : int, optional
        Fields whose Jacobian is probed.
    closure_samples : int
        Fields of the Gaussian closure, a multiple of 4; 0 leaves it out.
    num_films : int, optional
        Trajectories of the network, the patch models and the ideal denoiser from the same noise.
    num_modes : int
        Leading eigenmodes that are shown, at four noise levels; 0 leaves them out.
    seed : int
    quick : bool
        Small defaults; the report says so.

    Raises
    ------
    ValueError
        If a value is illegal, naming it.

    Example
    -------
    >>> CompareSettings(network="local-11").resolved().num_images
    200
    """

    network: str = option("local-11", "shipped name or file of weights", metavar="NETWORK", positional=True)
    class_label: int | None = option(
        None, "class of a conditional network and of images", metavar="N", shown="none", least=0
    )
    data: str = option("fashion-mnist", "fashion-mnist or your images", metavar="NAME|PATH", shown="it")
    num_images: int | None = _filled("num_images", "training images of the patch models", least=2)
    sizes: Sequence[int] = option(SIZES, "windows, odd", metavar="P,Q,...")
    num_levels: int | None = _filled("num_levels", "noise levels of the comparison", least=3)
    num_queries: int | None = _filled("num_queries", "noised images a level", least=3)
    num_samples: int | None = _filled("num_samples", "trajectories that are measured", least=6)
    probe_samples: int | None = _filled("probe_samples", "fields with probed Jacobian", least=3)
    closure_samples: int = option(16, "fields of the closure; 0: none", metavar="N", least=0)
    num_films: int | None = _filled("num_films", "trajectories from the same noise", least=2)
    num_modes: int = option(6, "eigenmodes shown; 0: none", metavar="N", least=0)
    seed: int = option(0, **SEED)
    quick: bool = option(False, "small defaults; the report says so")

    def __post_init__(self) -> None:
        """Validate what can be validated at once."""
        super().__post_init__()
        object.__setattr__(self, "sizes", tuple(self.sizes))
        odd = all(isinstance(size, int) and size >= 1 and size % 2 == 1 for size in self.sizes)
        good = odd and len(self.sizes) >= 2 and len(set(self.sizes)) == len(self.sizes)
        check(good, "sizes", "two or more different odd windows", self.sizes, "use e.g. 3, 5, 7, 11")
        object.__setattr__(self, "sizes", tuple(sorted(self.sizes)))
        advice = "use 16"
        check(
            self.closure_samples % 4 == 0, "closure_samples", "a multiple of 4", self.closure_samples, advice
        )

    def resolved(self) -> ResolvedCompare:
        """Return a copy with every default filled in."""
        new = {n: pair[self.quick] for n, pair in _DEFAULTS.items() if getattr(self, n) is None}
        return self.filled(ResolvedCompare, **new)

    @property
    def label(self) -> str:
        """Name for folders and titles."""
        return Path(self.network).stem

    @property
    def inputs(self) -> dict[str, str | None]:
        """Tell by digest which weights and images a run is about: their names may come to mean others."""
        from critjax.data._files import images_digest
        from critjax.networks._weights import weights_digest

        return {"network": weights_digest(self.network), "data": images_digest(self.data)}

    @property
    def precision(self) -> str:
        """Networks and images are float32."""
        return "float32"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedCompare(CompareSettings):
    """Settings with every default filled in; an unconditional network has no class."""

    sizes: tuple[int, ...] = required()
    num_images: int = required()
    num_levels: int = required()
    num_queries: int = required()
    num_samples: int = required()
    probe_samples: int = required()
    num_films: int = required()
