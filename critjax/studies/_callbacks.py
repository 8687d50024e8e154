"""What studies call while they run."""

from __future__ import annotations

from collections.abc import Callable

import xarray as xr

#: ``(stage, done, total)``, for a progress bar.
Progress = Callable[[str, int, int], None]
#: ``(part, its dataset)``; called after every part of a study that is saved part by part.
Checkpoint = Callable[[str, xr.Dataset], None]
