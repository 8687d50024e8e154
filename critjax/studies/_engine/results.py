"""What the result of every study carries: settings, versions and times; and the way back to the settings."""

from __future__ import annotations

import datetime
import json
import platform
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import xarray as xr

from critjax import __version__
from critjax._checks import check

#: Of names, axes and attributes of a result; what reads one compares it.
SCHEMA_VERSION = 1


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


def attributes(
    study: str, subject: str, settings: Any, seconds: dict[str, float], **more: Any
) -> dict[str, Any]:
    """Return the attributes of a result.

    Parameters
    ----------
    study : str
        Name of the study.
    subject : str
        What was studied, for the title.
    settings : dataclass with ``to_json``
        Resolved: enough to repeat the run.
    seconds : dict
        Wall time of every stage.
    **more
        Attributes of this study alone.

    Returns
    -------
    dict
        Of text and numbers, as netCDF wants them.
    """
    return {
        "study": study,
        "schema_version": SCHEMA_VERSION,
        "title": f"critjax {study}: {subject}",
        "settings": settings.to_json(),
        "inputs": json.dumps(getattr(settings, "inputs", {})),  # digests of files that the settings only name
        **more,
        "versions": json.dumps(versions()),
        "seconds": json.dumps(seconds),
        "platform": f"{platform.system()} {platform.machine()}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def check_schema(name: str, found: Any) -> None:
    """Raise `ValueError` if a result is of a later version of names, axes and attributes."""
    good = found is None or int(found) <= SCHEMA_VERSION
    check(good, name, f"schema version {SCHEMA_VERSION} or earlier", found, "use the critjax that made it")


def stored_settings(dataset: xr.Dataset, kind: Any, study: str) -> Any:
    """Read the settings, a dataclass of this kind, back from the result of a study.

    Raises
    ------
    ValueError
        If the dataset is no result of this study, or its settings have unknown names or illegal values.
    """
    good = dataset.attrs.get("study") == study and "settings" in dataset.attrs
    expected = f"a result of the {study} study"
    check(good, "dataset", expected, sorted(dataset.attrs), "pass its results.nc")
    check_schema("dataset", dataset.attrs.get("schema_version"))
    return kind.from_json(str(dataset.attrs["settings"]))


def stored_values(dataset: xr.Dataset) -> dict[str, Any]:
    """Return the settings stored with a result as a plain dictionary."""
    return json.loads(dataset.attrs.get("settings", "{}"))
