"""The output folder of a run: what may be written, parts saved as they come, and resuming."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from critjax import __version__
from critjax._checks import check, message
from critjax._stored import json_object
from critjax.store import digest, locked, make_folder, says, seal, unseal, visible, without_stamp, write_file
from critjax.studies._engine.results import check_schema

RESULT, REPORT, PARTIAL, SUFFIX = "results.nc", "report.html", "partial", ".part"


@runtime_checkable
class Settings(Protocol):
    """What a store needs of a study's settings."""

    def to_json(self) -> str:
        """Return the settings as JSON."""
        ...


def read_settings(path: Path, kind: Any) -> tuple[Any, dict[str, Any]]:
    """Read the settings, of this ``kind``, of a stored result, and the digests of the files that they name.

    Raises
    ------
    ValueError, FileNotFoundError
        If there is no file, it is no netCDF or damaged, or carries no settings of this kind.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(message("--from", "a results.nc", f"no file {path}", "check the path"))
    import h5netcdf

    try:
        with h5netcdf.File(io.BytesIO(without_stamp(path.read_bytes())), "r") as file:
            text, inputs = file.attrs.get("settings"), file.attrs.get("inputs", "{}")
            schema_version = file.attrs.get("schema_version")
    except (OSError, KeyError, RuntimeError, ValueError) as error:
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
    check_schema("--from", schema_version)
    return kind.from_json(str(text)), json_object(str(inputs), "--from", "pass another file")


class Store:
    """Finished parts of one run in ``folder/partial``, one file each; `open_store` makes them.

    A part is a dataset, or a dictionary of arrays such as the sums of one batch. Its file tells of which run it is, and
    from its digest damage can be seen.
    """

    def __init__(self, folder: Path, run: str, num_saved: int) -> None:
        self.folder, self.run, self.num_saved = folder, run, num_saved

    @property
    def _partial(self) -> Path:
        return self.folder / PARTIAL

    def save(self, name: str, part: Any) -> None:
        """Save one part; the file appears complete or not at all."""
        is_table = hasattr(part, "to_netcdf")  # a dataset is a mapping, too
        content = bytes(part.to_netcdf(engine="h5netcdf")) if is_table else _packed(part)
        write_file(self._partial / f"{name}{SUFFIX}", seal(content, run=self.run, name=name))

    def load(self) -> dict[str, Any]:
        """Read the parts that are there; one that is damaged, or of another run, is computed again."""
        import xarray as xr

        found: dict[str, Any] = {}
        for path in _parts(self._partial):
            try:
                content = unseal(path.read_bytes(), run=self.run, name=path.stem)
            except (OSError, ValueError) as error:
                print(f"critjax: {path}: {error}", file=sys.stderr)
                continue
            if content.startswith(b"PK"):  # a zip file, as of NumPy
                with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                    found[path.stem] = dict(arrays)
            else:
                part = xr.load_dataset(io.BytesIO(content), engine="h5netcdf")
                found[path.stem] = part.drop_encoding()  # which would cut longer texts of other parts
        return found

    def count(self) -> int:
        """Return the number of parts in the folder."""
        return len(_parts(self._partial))

    def discard(self) -> None:
        """Undo the preparation of the folder if no part came of it."""
        if not self.count():
            self.clear()

    def clear(self) -> None:
        """Remove the saved parts: the result holds everything."""
        shutil.rmtree(self._partial, ignore_errors=True)


def _parts(partial: Path) -> list[Path]:
    return sorted(partial / name for name in visible(partial) if name.endswith(SUFFIX))


def _packed(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _identity(settings: Settings) -> str:
    """Return the digest of what must be equal for two runs to share parts."""
    from importlib.metadata import version

    identity = {
        "settings": json.loads(settings.to_json()),
        # Files that the settings only name.
        "inputs": getattr(settings, "inputs", {}),
        "versions": {"critjax": __version__, **{name: version(name) for name in ("jax", "numpy")}},
    }
    return digest(json.dumps(identity, sort_keys=True).encode())


@contextlib.contextmanager
def open_store(folder: Path, settings: Settings, *, overwrite: bool, resume: bool) -> Iterator[Store]:
    """Prepare the output folder before anything heavy runs, and keep other runs out of it.

    An empty or new folder is used; one with parts of an identical, interrupted run is gone on with; any other content
    is an error unless ``overwrite``. What is prepared disappears if nothing came of it.

    Raises
    ------
    ValueError, OSError
        If the folder cannot be written, holds something else, another run writes to it, or there is nothing to resume.
    """
    check(not (overwrite and resume), "--overwrite", "no --resume beside it", "both", "choose one")
    try:
        with locked(folder, "--out", (PARTIAL, "figures")):
            store = _prepared(folder, _identity(settings), overwrite=overwrite, resume=resume)
            try:
                yield store
            finally:
                store.discard()
    finally:
        with contextlib.suppress(OSError):  # not empty: something came of it
            folder.rmdir()


def _prepared(folder: Path, run: str, *, overwrite: bool, resume: bool) -> Store:
    partial = folder / PARTIAL
    parts = _parts(partial)
    own = [path for path in parts if says(path, run=run)]
    same, content = bool(own), visible(folder)
    if content == [PARTIAL] and not visible(partial):
        content = []  # a run was killed before it had saved anything
    if resume and not same:
        what = "parts of other settings or versions" if parts else "no interrupted run"
        raise ValueError(
            message("--resume", f"an interrupted run in {folder}", what, "repeat its very options")
        )
    if content and not same and not overwrite:
        shown = ", ".join(content[:4]) + (" ..." if len(content) > 4 else "")
        got = f"{folder} with {shown}"
        raise ValueError(message("--out", "a new or empty folder", got, "pass --overwrite or another --out"))
    if overwrite:
        # Only what a run writes is removed; anything else in the folder is not ours.
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(folder / "figures", ignore_errors=True)
        for name in (RESULT, REPORT):
            (folder / name).unlink(missing_ok=True)
        own = []
    make_folder(partial)
    return Store(folder, run, len(own))
