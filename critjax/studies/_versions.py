"""The versions that decide a study's numbers."""

from __future__ import annotations

import platform
from importlib.metadata import version

import jax
import numpy as np
import xarray as xr

from critjax import __version__


def versions() -> dict[str, str]:
    """Return the versions that decide the numbers."""
    return {
        "critjax": __version__,
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "numpy": np.__version__,
        "xarray": xr.__version__,
        "python": platform.python_version(),
        "backend": jax.default_backend(),
    }
