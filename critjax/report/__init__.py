"""Reports: findings chosen by the numbers, the result table, and one self-contained HTML page.

Everything is a function of the stored dataset, so that an old result gives its report again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from critjax.plotting import available_figures
from critjax.report._findings import compare, findings, linear_ratios
from critjax.report._html import Content, content, figure_png, labels, render
from critjax.report._numbers import Measured, in_units, noise
from critjax.report._table import Row, format_table, table

__all__ = [
    "Content",
    "Measured",
    "Row",
    "compare",
    "content",
    "findings",
    "format_table",
    "in_units",
    "labels",
    "linear_ratios",
    "noise",
    "render",
    "save_dataset",
    "table",
    "write_atomically",
    "write_report",
]


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it there in one step.

    A reader sees the old file or the new one, never half of one, and an interruption leaves the old one.

    Example
    -------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(f"{folder}/a.txt", lambda p: p.write_text("done")).read_text()
    'done'
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp is for its owner only; a result is a file like any other
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save_dataset(dataset: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Save a dataset as netCDF, compressed and atomically."""
    encoding = {n: {"zlib": True, "complevel": 4} for n, v in dataset.data_vars.items() if v.ndim >= 2}
    return write_atomically(path, lambda p: dataset.to_netcdf(p, engine="h5netcdf", encoding=encoding))


def write_report(
    dataset: xr.Dataset,
    folder: str | os.PathLike[str],
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write ``report.html`` and ``figures/*.png`` for a result.

    Parameters
    ----------
    dataset : xarray.Dataset
        Result of `critjax.studies.criticality.run` or `critjax.studies.landau.run`.
    folder : path
        Existing folder.
    progress : callable, optional
        ``(stage, done, total)``.

    Returns
    -------
    pathlib.Path
        The report.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(exist_ok=True)
    kinds, pictures = available_figures(dataset), {}
    for done, (name, kind) in enumerate(kinds.items()):
        if progress is not None:
            progress("figures", done, len(kinds))
        png = figure_png(kind.draw(dataset))
        write_atomically(folder / "figures" / f"{name}.png", lambda p, png=png: p.write_bytes(png))
        pictures[name] = (png, kind.caption)
    if progress is not None:
        progress("figures", len(kinds), len(kinds))
    page = render(dataset, pictures)
    return write_atomically(folder / "report.html", lambda p: p.write_text(page, encoding="utf-8"))
