"""Words that the settings of several studies choose from; nothing heavy is imported."""

from __future__ import annotations

from typing import Any

from critjax._checks import check

#: Banks that are drawn or written down rather than cut from images, see `critjax.studies._engine.problem`.
PATTERN_BANKS = ("random-pattern", "two-pattern", "stripe")
PRECISIONS = ("float32", "float64")


def check_patterns(settings: Any) -> None:
    """Check what settings say of pattern banks: an odd ``size``, and a ``wavelength`` that the grid resolves.

    Raises
    ------
    ValueError
        If a value is illegal, naming it.
    """
    size, wavelength = settings.size, settings.wavelength
    check(size is None or size % 2 == 1, "size", "an odd window", size, "use 7 or 9")
    check(wavelength > 2, "wavelength", "a period > 2 pixels", wavelength, "shorter waves alias")


def check_fits(size: int, grid: tuple[int, int]) -> None:
    """Check that a window fits a grid.

    Raises
    ------
    ValueError
        If it does not.
    """
    height, width = grid
    advice = "choose a larger --grid or a smaller --size"
    check(size <= min(grid), "size", f"a window that fits the {height} x {width} grid", size, advice)
