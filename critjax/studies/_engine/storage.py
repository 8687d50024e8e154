"""The output folder of a run: what may be written, parts saved as they come, and resuming."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from critjax import __version__
from critjax._checks import check, message
from critjax.report.files import write_atomically

RESULT, REPORT, PARTIAL = "results.nc", "report.html", "partial"


@runtime_checkable
class Settings(Protocol):
    """What a store needs of a study's settings."""

    def to_json(self) -> str:
        """Return the settings as JSON."""
        ...


def read_settings(path: Path, kind: Any) -> Any:
    """Read the settings, of this ``kind``, of a stored result.

    Raises
    ------
    ValueError, FileNotFoundError
        If there is no file, it is no netCDF, or carries no settings of this kind.
    """
    if not path.exists():
        raise FileNotFoundError(message("--from", "a results.nc", f"no file {path}", "check the path"))
    import h5netcdf

    try:
        with h5netcdf.File(path, "r") as file:
            text = file.attrs.get("settings")
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            message("--from", "a readable results.nc", f"{path} ({error})", "pass another file")
        ) from None
    check(
        text is not None,
        "--from",
        "a result of this study",
        f"{path} without settings",
        "pass its results.nc",
    )
    return kind.from_json(str(text))


class Store:
    """Finished parts of one run in ``folder/partial``, one file each; `open_store` makes them.

    A part is a dataset, or a dictionary of arrays such as the sums of one batch.
    """

    def __init__(self, folder: Path, num_saved: int) -> None:
        self.folder, self.num_saved = folder, num_saved

    @property
    def _partial(self) -> Path:
        return self.folder / PARTIAL

    def save(self, name: str, part: Any) -> None:
        """Save one part; the file appears complete or not at all."""
        if hasattr(part, "to_netcdf"):  # a dataset is a mapping, too
            path = self._partial / f"{name}.nc"
            write_atomically(path, lambda path: part.to_netcdf(path, engine="h5netcdf"))
        else:
            write_atomically(self._partial / f"{name}.npz", lambda path: _write_arrays(path, part))

    def load(self) -> dict[str, Any]:
        """Read the parts that are there; one that cannot be read is computed again."""
        import xarray as xr

        found: dict[str, Any] = {}
        for path in _parts(self._partial):
            try:
                if path.suffix == ".npz":
                    with np.load(path, allow_pickle=False) as arrays:
                        found[path.stem] = dict(arrays)
                else:
                    found[path.stem] = xr.load_dataset(path, engine="h5netcdf")
            except (OSError, KeyError, ValueError, zipfile.BadZipFile, EOFError):
                print(f"critjax: {path} cannot be read; that part is computed again", file=sys.stderr)
        return found

    def count(self) -> int:
        """Return the number of parts in the folder."""
        return len(_parts(self._partial))

    def discard(self) -> None:
        """Undo the preparation of the folder if no part came of it."""
        if not self.count():
            self.clear()
            with contextlib.suppress(OSError):  # not empty: there is something else in it
                self.folder.rmdir()

    def clear(self) -> None:
        """Remove the saved parts: the result holds everything."""
        shutil.rmtree(self._partial, ignore_errors=True)


def _parts(partial: Path) -> list[Path]:
    found = [*partial.glob("*.npz"), *partial.glob("*.nc")]
    return sorted(path for path in found if not path.name.startswith("."))


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _identity(settings: Settings) -> dict[str, Any]:
    """Return what must be equal for two runs to share parts."""
    from importlib.metadata import version

    return {
        "settings": json.loads(settings.to_json()),
        # Files that the settings only name.
        "inputs": getattr(settings, "inputs", {}),
        "versions": {"critjax": __version__, **{name: version(name) for name in ("jax", "numpy")}},
    }


def open_store(folder: Path, settings: Settings, *, overwrite: bool, resume: bool) -> Store:
    """Prepare the output folder before anything heavy runs.

    An empty or new folder is used; one with batches of an identical, interrupted run is gone on with; any
    other content is an error unless ``overwrite``.

    Raises
    ------
    ValueError, OSError
        If the folder cannot be written, holds something else, or there is nothing to resume.
    """
    check(not (overwrite and resume), "--overwrite", "no --resume beside it", "both", "choose one")
    advice = "choose another --out"
    check(not folder.exists() or folder.is_dir(), "--out", "a folder", f"the file {folder}", advice)
    partial, identity = folder / PARTIAL, _identity(settings)
    stored = partial / "settings.json"
    content = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    same = False
    if stored.exists():
        try:
            same = json.loads(stored.read_text(encoding="utf-8")) == identity
        except (OSError, ValueError):
            same = False
    if resume and not same:
        what = "batches of other settings or versions" if stored.exists() else "no interrupted run"
        raise ValueError(
            message("--resume", f"an interrupted run in {folder}", what, "repeat its very options")
        )
    if content and not same and not overwrite:
        shown = ", ".join(content[:4]) + (" ..." if len(content) > 4 else "")
        got = f"{folder} with {shown}"
        raise ValueError(message("--out", "a new or empty folder", got, "pass --overwrite or another --out"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if overwrite:
            # Only what a run writes is removed; anything else in the folder is not ours.
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(folder / "figures", ignore_errors=True)
            for name in (RESULT, REPORT):
                (folder / name).unlink(missing_ok=True)
        partial.mkdir(exist_ok=True)
        stored.write_text(json.dumps(identity), encoding="utf-8")
    except OSError as error:
        got = f"{folder} ({error.strerror or error})"
        raise ValueError(message("--out", "a folder that can be written", got, advice)) from None
    return Store(folder, len(_parts(partial)) if same and not overwrite else 0)
