"""Files of results: each appears complete or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import xarray as xr


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
    """Save a dataset as netCDF, compressed and atomically.

    Example
    -------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_dataset(xr.Dataset({"xi": 2.5}), f"{folder}/results.nc")
    ...     float(xr.load_dataset(path, engine="h5netcdf")["xi"])
    2.5
    """
    encoding = {n: {"zlib": True, "complevel": 4} for n, v in dataset.data_vars.items() if v.ndim >= 2}
    return write_atomically(path, lambda p: dataset.to_netcdf(p, engine="h5netcdf", encoding=encoding))
