"""Words that the settings of several studies choose from; nothing heavy is imported."""

from __future__ import annotations

#: Banks that are drawn or written down rather than cut from images, see `critjax.studies._engine.problem`.
PATTERN_BANKS = ("random-pattern", "two-pattern", "stripe")
PRECISIONS = ("float32", "float64")
