"""What is fixed before any number is known: the variant, its parts, the route and the blocking on each platform."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from critjax.patch_score._blocks import least_overlap

#: Every legal variant: (kind of bank, positions, boundary, readout) -> methods, the preferred one of many last.
LEGAL: dict[tuple[str, str | None, str, str], tuple[str, ...]] = {
    ("patches", None, "periodic", "centre"): ("convolution", "product"),
    ("patches", None, "periodic", "average"): ("convolution", "product"),
    ("images", "all", "periodic", "centre"): ("product", "box"),
    ("images", "all", "periodic", "average"): ("product", "box"),
    ("images", "all", "zero", "centre"): ("product",),
    ("images", "interior", "periodic", "centre"): ("product", "box"),
    ("images", "interior", "periodic", "average"): ("product", "box"),
    ("images", "same", "periodic", "centre"): ("box",),
    ("images", "same", "periodic", "average"): ("box",),
    ("images", "same", "zero", "centre"): ("box",),
    ("images", "same", "zero", "average"): ("box",),
}
#: Bytes that one block may need: on a CPU what stays in its cache, elsewhere what keeps it busy.
CPU_BUDGET, BUDGET = 16_000_000, 256_000_000
#: Up to this many patches, convolution; with the default budget a CPU takes so many in a block (benchmarks/README.md).
FEW_PATCHES = 512
#: In float32 scores are accurate below sigma^2 = factor * p^2 C * (range / 2)^2. Above, plain sums err on noised images
#: by at most some 1e-5 of the range, with colour 2e-5 (benchmarks/README.md). "box" also rounds the sums it carries.
FACTORS = {"convolution": 3e-3, "product": 3e-3, "box": 5.5e-3}
#: The same for float64, where plain sums then err by at most some 1e-9.
FACTOR_64 = 4e-8


class Route(NamedTuple):
    """How one platform goes through the bank."""

    method: str
    images: int  # patches or images a block
    rows: int  # rows of training windows a block


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything static about one evaluation."""

    kind: str  # "patches" | "images"
    positions: str | None
    boundary: str
    readout: str
    size: int
    method: str = "auto"
    budget: int | None = None  # bytes a block
    mesh: Any = None
    axis: Any = None  # str
    with_entropy: bool = False
    #: Which pixels: "all", or with zero padding and positions "all" those "inside" and those of the border "rows" and
    #: "columns". A border row meets itself alone, so each of the three is a problem of its own.
    part: str = "all"

    @property
    def has_parts(self) -> bool:
        """Tell whether the pixels fall into parts."""
        return self.part == "all" and self.boundary == "zero" and self.positions == "all"

    @property
    def is_border(self) -> bool:
        """Tell whether this part is rows, or columns, that meet themselves alone."""
        return self.part in ("rows", "columns")

    @property
    def always_accurate(self) -> bool:
        """Tell whether plain scores would save next to nothing."""
        return self.positions == "same" or self.part != "all"

    @property
    def query_pad(self) -> str:
        """Padding of the noisy image."""
        if self.boundary == "periodic":
            return "wrap"
        return "none" if self.readout == "average" or self.part == "inside" else "zero"

    @property
    def bank_pad(self) -> str:
        """Padding of the training images."""
        return "none" if self.positions == "interior" else self.query_pad

    def border(self, length: int) -> np.ndarray:
        """Return which of ``length`` rows a window of noiseless padding reaches."""
        reach, index = (self.size - 1) // 2, np.arange(length)
        return index[(index < reach) | (index >= length - reach)]

    def query_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return how many windows the noisy image has along each axis; border columns come as rows."""
        if self.is_border:
            height, width = shape[:2] if self.part == "rows" else shape[1::-1]
            return len(self.border(height)), width
        lost = self.size - 1 if self.query_pad == "none" else 0
        return shape[0] - lost, shape[1] - lost

    def bank_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return how many rows and columns of windows a training image has, from the shape of the candidates."""
        if self.kind == "patches":
            return 1, 1
        if self.is_border:
            return 1, shape[2] if self.part == "rows" else shape[1]
        lost = self.size - 1 if self.bank_pad == "none" else 0
        return shape[1] - lost, shape[2] - lost

    def factor(self, method: str, dtype: Any) -> float:
        """Return below which sigma^2, in units of the largest candidate squared, a window's scores are accurate."""
        return (FACTORS[method] if np.finfo(dtype).bits <= 32 else FACTOR_64) * self.size**2

    def route(self, x_shape, candidates_shape, dtype, platform: str, derivative: bool = False) -> Route:
        """Choose method and blocks on a ``"cpu"`` or another platform; derivatives know no sums along rows."""
        count, channels = candidates_shape[0], x_shape[-1]
        if self.mesh is not None:
            count = -(-count // self.mesh.shape[self.axis])
        method = self._method(count, platform, derivative)
        budget = self.budget or (CPU_BUDGET if platform == "cpu" else BUDGET)
        budget = budget // 2 if derivative else budget
        shape = self.query_shape(x_shape)
        numbers = self.size**2 * channels
        if self.positions == "same":  # every window has its own candidates
            read = numbers if self.readout == "average" else channels
            images = max(1, budget // (np.finfo(dtype).bits // 8 * math.prod(shape) * (4 + read)))
            return Route(method, least_overlap(count, images), 1)
        if self.is_border:
            numbers = shape[0] * self.size * channels
        one = np.finfo(dtype).bits // 8 * (4 * math.prod(shape) + 3 * numbers)
        candidates = max(1, budget // one)
        if self.kind == "patches":
            if self.budget is None and platform == "cpu":
                candidates = FEW_PATCHES
            return Route(method, least_overlap(count, candidates), 1)
        rows, columns = self.bank_shape(candidates_shape)
        if method == "box":  # one training row at a time; products of sixteenths are fastest
            images = max(1, candidates // columns)
            return Route(method, min(count, images - images % 4 if images > 4 else images), rows)
        if candidates >= rows * columns:
            return Route(method, least_overlap(count, candidates // (rows * columns)), rows)
        blocks = -(-rows // max(1, candidates // columns))
        return Route(method, 1, -(-rows // blocks))

    def _method(self, count: int, platform: str, derivative: bool) -> str:
        """Pick the fastest method by the measured crossovers of benchmarks/routes.py."""
        if self.positions == "same":
            return "box"
        if self.method != "auto" and not (derivative and self.method == "box"):
            return self.method
        if self.kind == "patches":
            return "convolution" if count <= FEW_PATCHES else "product"
        sums = self.boundary == "periodic" and self.size > 1 and platform == "cpu" and not derivative
        return "box" if sums else "product"
