"""Files that are whole or not there, that tell whose they are, in folders that one run at a time writes to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from critjax._checks import check, message

__all__ = [
    "digest",
    "locked",
    "make_folder",
    "says",
    "seal",
    "stamp",
    "unseal",
    "visible",
    "without_stamp",
    "write_file",
]

LOCK = ".critjax.lock"
#: What the names of files begin with that are being written; a killed writer leaves one behind.
TEMPORARY = ".critjax-"


def write_file(path: str | os.PathLike[str], content: bytes | str, *, sync: bool = True) -> Path:
    """Write a file in one step: a reader, a crash or a power cut finds the old one or the new one, never a part.

    Parameters
    ----------
    path : path
        In a folder that is there.
    content : bytes or str
        Text is written as UTF-8.
    sync : bool
        Wait until the disk has it, about a millisecond. Without, a power cut may take the file, or leave a damaged one:
        for what tells that it is whole (`seal`) and can be computed again.

    Raises
    ------
    OSError
        If it cannot be written, with its name and size; the old file stays.

    Example
    -------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(f"{folder}/a.txt", "done").read_text()
    'done'
    """
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        # A fresh name, which follows no link.
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp is for its owner only; a result is a file like any other
        os.replace(temporary, path)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        raise _no_place(path, f"a place for {len(content):,} bytes", error) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    return path


def make_folder(path: Path) -> None:
    """Make a folder that may be there.

    Raises
    ------
    OSError
        If it cannot be made, with its name.

    Example
    -------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     make_folder(Path(folder) / "figures")
    ...     visible(Path(folder))
    ['figures']
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise _no_place(path, "a place for a folder", error) from None


def _no_place(path: Path, expected: str, error: OSError) -> OSError:
    advice = "make room, or correct the path, and repeat the command: what was saved before stays"
    return OSError(error.errno, message(str(path), expected, error.strerror or error, advice))


def _sync_folder(folder: Path) -> None:
    """Let the name of a new file survive a power cut, where folders can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def visible(folder: Path) -> list[str]:
    """Name what is in a folder, other than what this module leaves there.

    Example
    -------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_file(f"{folder}/a.txt", "done")
    ...     with locked(Path(folder), "--out"):
    ...         visible(Path(folder))
    ['a.txt']
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if name != LOCK and not name.startswith(TEMPORARY)]


@contextlib.contextmanager
def locked(folder: Path, option: str, inside: Sequence[str] = ()) -> Iterator[None]:
    """Keep every other run out of a folder, and remove what killed ones were writing there and in folders ``inside``.

    The system drops the lock of a process that ends, however it ends.

    Raises
    ------
    ValueError
        If another run holds the folder, it is a file, or it cannot be written.

    Example
    -------
    >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder), "--out"):
    ...     with locked(Path(folder), "--out"):  # doctest: +ELLIPSIS
    ...         pass
    Traceback (most recent call last):
    ValueError: --out: expected a folder that no other run uses, got ..., where one is writing; wait for it, or ...
    """
    from filelock import FileLock, Timeout

    is_file = folder.exists() and not folder.is_dir()
    check(not is_file, option, "a folder", f"the file {folder}", "choose another folder")
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        got, advice = f"{folder}, where one is writing", "wait for it, or choose another folder"
        raise ValueError(message(option, "a folder that no other run uses", got, advice)) from None
    except OSError as error:
        got = f"{folder} ({error.strerror or error})"
        raise ValueError(
            message(option, "a folder that can be written", got, "choose another folder")
        ) from None
    try:
        for place in (folder, *(folder / name for name in inside)):
            for path in place.glob(f"{TEMPORARY}*"):
                path.unlink(missing_ok=True)
        yield
    finally:
        with contextlib.suppress(
            OSError
        ):  # of what could not be used, and where open files cannot be removed
            (folder / LOCK).unlink()
        lock.release()


def digest(content: bytes | memoryview) -> str:
    """Return a digest of bytes.

    Example
    -------
    >>> digest(b"numbers")
    'b344c266e6fb3847b7b605a0f856f7bd'
    """
    return hashlib.blake2b(content, digest_size=16).hexdigest()


#: Ends a file of a format that does not mind, such as netCDF, with a digest of all that comes before.
STAMP = b"\ncritjax digest "


def stamp(content: bytes) -> bytes:
    """Append a digest to what a file of results holds.

    Example
    -------
    >>> without_stamp(stamp(b"numbers"))
    b'numbers'
    """
    return content + STAMP + digest(content).encode() + b"\n"


def without_stamp(stamped: bytes) -> bytes:
    """Return what `stamp` got, or all of a file that has no stamp, such as one that another program has changed.

    Raises
    ------
    ValueError
        If the stamp is of something else.

    Example
    -------
    >>> without_stamp(stamp(b"numbers").replace(b"n", b"m", 1))
    Traceback (most recent call last):
    ValueError: digest: expected that of the content, got another; a part of the file is damaged: take a copy of it
    """
    content, mark, told = stamped.rpartition(STAMP)
    if not mark or len(told) != 33:
        return stamped
    advice = "a part of the file is damaged: take a copy of it"
    check(told.strip() == digest(content).encode(), "digest", "that of the content", "another", advice)
    return content


def seal(content: bytes, **header: Any) -> bytes:
    """Put a line before bytes that tells what they are, and from which damage can be seen.

    Example
    -------
    >>> sealed = seal(b"numbers", owner="a run")
    >>> unseal(sealed, owner="a run")
    b'numbers'
    """
    line = json.dumps({**header, "digest": digest(content)}, sort_keys=True)
    return f"{line}\n".encode() + content


def says(path: Path, **header: Any) -> bool:
    """Tell whether a file that `seal` made says so in its first line; the rest is not read.

    Example
    -------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     says(write_file(f"{folder}/a.part", seal(b"numbers", owner="a run")), owner="a run")
    True
    """
    try:
        with path.open("rb") as file:
            found = dict(json.loads(file.readline(10_000)))
    except (OSError, TypeError, ValueError):
        return False
    return all(found.get(name) == value for name, value in header.items())


def unseal(sealed: bytes, **header: Any) -> bytes:
    """Return what `seal` got.

    Raises
    ------
    ValueError
        If it is damaged, or tells something else than ``header``.

    Example
    -------
    >>> unseal(seal(b"numbers", owner="a run"), owner="another")
    Traceback (most recent call last):
    ValueError: part: expected one of this run, got another owner; it is computed again
    """
    line, _, content = sealed.partition(b"\n")
    try:
        found = dict(json.loads(line))
    except (TypeError, ValueError):
        found = {}
    advice = "it is computed again"
    check(found.pop("digest", None) == digest(content), "part", "what was saved", "damaged bytes", advice)
    differing = ", ".join(sorted(k for k in {*found, *header} if found.get(k) != header.get(k)))
    check(not differing, "part", "one of this run", f"another {differing}", advice)
    return content
