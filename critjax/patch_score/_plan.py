"""What is fixed before any number is known: the variant, the route, the blocking, and the noisy image's layout."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from critjax._typing import Array


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything static about one evaluation: the variant, the route and the blocking."""

    kind: str  # "patches" | "images"
    positions: str | None
    boundary: str
    readout: str
    method: str
    size: int
    block: int  # patches or images a block
    derivative_block: int  # the same for derivatives, fewer of images: they need several arrays of that size
    split_limit: float  # scores are accurate, not plain, below sigma^2 = split_limit * max|phi|^2
    strip: int  # columns of the strips into which training images are cut: ``size``, or fewer with "box" on a CPU
    num_rows: int = 0  # rows of windows that a training image has
    mesh: Any = None
    axis: str | None = None
    #: Values, not their derivatives, as suits a CPU: those of a batch one after the other, accurate scores by one
    #: product in float64 instead of two in float32, and products over few numbers instead of few additions.
    on_cpu: bool = False

    @property
    def query_pad(self) -> str:
        """Padding of the noisy image."""
        if self.boundary == "periodic":
            return "wrap"
        return "none" if self.readout == "average" else "zero"

    @property
    def bank_pad(self) -> str:
        """Padding of the training images."""
        return "none" if self.positions == "interior" else self.query_pad


class Query(NamedTuple):
    """The noisy image, laid out once for all blocks."""

    x: Array  # (H, W, C)
    sigma: Array  # ()
    layout: Any  # what `lay_out` made of it
    fixed: Any  # arrays that a reduction reads at each window, leading axes (H, W)
    grid: Any  # `Grid` of the compensated sums, None where sums are not compensated
    wide: bool = False  # x is float64, and so are the scores


def query_shape(plan: Plan, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many windows the noisy image has along each axis."""
    lost = plan.size - 1 if plan.query_pad == "none" else 0
    return shape[0] - lost, shape[1] - lost
