"""Studies: each joins primitives into one experiment and returns a labelled `xarray.Dataset`.

A study is one folder: ``settings``, ``problem``, ``run``, ``figures``, ``findings``, and a `Study` record named
``STUDY``. The registry below has one line for each; the command line, the runner and the reports know nothing else of
it. Nothing is imported until a study is asked for: ``from critjax.studies import criticality``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from critjax._checks import check, check_option

if TYPE_CHECKING:
    import xarray as xr

    from critjax.report import Content
    from critjax.studies._engine.study import Study

__all__ = ["REGISTRY", "Entry", "content", "figures", "study", "study_of", "write_report"]


class Entry(NamedTuple):
    """One line of the registry: what a study is about, and the package whose ``STUDY`` it is."""

    summary: str
    package: str


#: Studies by name, which is also the name of the command.
REGISTRY: dict[str, Entry] = {
    "criticality": Entry(
        "predict, simulate and measure the onset of structure for one bank of patches",
        "critjax.studies.criticality",
    ),
    "landau": Entry(
        "replace the exact dynamics of pattern banks by a Ginzburg-Landau equation, and see where that holds",
        "critjax.studies.landau",
    ),
    "freeze-out": Entry(
        "sweep the rate at which noise is lowered, and see which length the field is left with",
        "critjax.studies.freeze_out",
    ),
    "compare": Entry(
        "measure a trained network and set it beside patch models, Gaussian model and closure",
        "critjax.studies.compare",
    ),
    "guide": Entry(
        "ask whether guidance works best where modes soften, for an exact model or a network",
        "critjax.studies.guide",
    ),
}


def study(name: str) -> Study:
    """Return the record of a registered study.

    Raises
    ------
    ValueError
        If there is no study of that name.

    Example
    -------
    >>> study("landau").settings.__name__
    'LandauSettings'
    """
    check_option("study", name, REGISTRY)
    return importlib.import_module(REGISTRY[name].package).STUDY


def study_of(dataset: xr.Dataset) -> Study:
    """Return the record of the study that a result is of.

    Raises
    ------
    ValueError
        If the dataset does not say, or the study is not registered.

    Example
    -------
    >>> import xarray as xr
    >>> study_of(xr.Dataset(attrs={"study": "freeze-out"})).settings.__name__
    'FreezeOutSettings'
    """
    name = str(dataset.attrs.get("study", ""))
    check(
        name in REGISTRY,
        "dataset",
        f"a result of {', '.join(REGISTRY)}",
        f"study {name!r}",
        "pass what a study returned",
    )
    return study(name)


def content(dataset: xr.Dataset) -> Content:
    """Return the sentences and the table of a result, see `critjax.report.Content`.

    Example
    -------
    >>> import xarray as xr
    >>> made = {"critical_sigma_bare": 5.0, "critical_wavenumber": 0.0, "checked_wavenumber": ("mode", [0.0])}
    >>> result = xr.Dataset(made, attrs={"study": "criticality", "settings": '{"precision": "float32"}'})
    >>> content(result).rows[0].theory
    '5.000'
    """
    return study_of(dataset).content(dataset)


def figures(dataset: xr.Dataset) -> dict[str, Any]:
    """Return the figures that a result has the numbers for, by name; ``figures(result)[name].draw(result)``.

    Example
    -------
    >>> import xarray as xr
    >>> list(figures(xr.Dataset({"binder": 0.61, "wall_density": 0.1}, attrs={"study": "criticality"})))
    ['order']
    """
    from critjax.plotting import available

    return available(study_of(dataset).figures(dataset), dataset)


def write_report(
    dataset: xr.Dataset, folder: str | Path, *, progress: Callable[[str, int, int], None] | None = None
) -> Path:
    """Write ``report.html`` and ``figures/*.png`` of any result into an existing folder; return the report's path.

    Example
    -------
    >>> import tempfile
    >>> import xarray as xr
    >>> made = {"critical_sigma_bare": 5.0, "critical_wavenumber": 0.0, "checked_wavenumber": ("mode", [0.0])}
    >>> result = xr.Dataset(made, attrs={"study": "criticality", "settings": '{"precision": "float32"}'})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     "critical noise" in write_report(result, folder).read_text(encoding="utf-8")
    True
    """
    return study_of(dataset).write_report(dataset, folder, progress=progress)
