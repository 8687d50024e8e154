"""Settings of the comparison study: defaults, validation and storage, nothing heavy imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from critjax._checks import check, check_integer
from critjax._stored import Stored

#: Odd windows that one pass evaluates.
SIZES = (3, 5, 7, 9, 11, 15, 19)


@dataclasses.dataclass(frozen=True)
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

    network: str = "local-11"
    class_label: int | None = None
    data: str = "fashion-mnist"
    num_images: int | None = None
    sizes: Sequence[int] = SIZES
    num_levels: int | None = None
    num_queries: int | None = None
    num_samples: int | None = None
    probe_samples: int | None = None
    closure_samples: int = 16
    num_films: int | None = None
    num_modes: int = 6
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        """Validate what can be validated at once."""
        object.__setattr__(self, "sizes", tuple(self.sizes))
        odd = all(isinstance(size, int) and size >= 1 and size % 2 == 1 for size in self.sizes)
        good = odd and len(self.sizes) >= 2 and len(set(self.sizes)) == len(self.sizes)
        check(good, "sizes", "two or more different odd windows", self.sizes, "use e.g. 3, 5, 7, 11")
        object.__setattr__(self, "sizes", tuple(sorted(self.sizes)))
        for name, low in (
            ("class_label", 0),
            ("num_images", 2),
            ("num_levels", 3),
            ("num_queries", 3),
            ("num_samples", 6),
            ("probe_samples", 3),
            ("closure_samples", 0),
            ("num_films", 2),
            ("num_modes", 0),
            ("seed", 0),
        ):
            check_integer(self, name, low, "leave it out for the default")
        advice = "use 16"
        check(
            self.closure_samples % 4 == 0, "closure_samples", "a multiple of 4", self.closure_samples, advice
        )

    def resolved(self) -> CompareSettings:
        """Return a copy with every default filled in."""
        quick = self.quick
        return dataclasses.replace(
            self,
            num_images=self.num_images or (50 if quick else 200),
            num_levels=self.num_levels or (4 if quick else 8),
            num_queries=self.num_queries or (3 if quick else 8),
            num_samples=self.num_samples or (12 if quick else 48),
            probe_samples=self.probe_samples or (3 if quick else 8),
            num_films=self.num_films or (2 if quick else 4),
        )

    @property
    def label(self) -> str:
        """Name for folders and titles."""
        return Path(self.network).stem

    @property
    def inputs(self) -> dict[str, str | None]:
        """Tell by digest which weights and images a run is about: their names may come to mean others."""
        from critjax.data._files import images_digest
        from critjax.networks._weights import weights_digest

        return {"network": weights_digest(self.network), "images": images_digest(self.data)}

    @property
    def precision(self) -> str:
        """Networks and images are float32."""
        return "float32"
