"""Files appear whole or not at all, damage is seen, and a folder has one writer, whatever ends the others."""

import os
import signal
import subprocess
import sys
import time

import pytest

from critjax.store import LOCK, locked, seal, unseal, visible, write_file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_old_file_is_replaced_whole(tmp_path):
    path = write_file(tmp_path / "a.txt", "old")
    assert write_file(path, b"new").read_bytes() == b"new" and names(tmp_path) == ["a.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "chmod"])
def test_whatever_fails_the_old_file_stays_and_nothing_else(tmp_path, monkeypatch, call):
    path = write_file(tmp_path / "a.txt", "old")
    with monkeypatch.context() as patch:

        def fails(*arguments, **options):
            raise OSError(28, "No space left on device")

        if call == "write":
            real = os.fdopen

            class Full:
                def __init__(self, handle, mode):
                    self.file = real(handle, mode)

                def __enter__(self):
                    return self

                def __exit__(self, *reason):
                    self.file.close()

                write = fails

            patch.setattr(os, "fdopen", Full)
        else:
            patch.setattr(os, call, fails)
        expected = r"a.txt: expected a place for 1,500 bytes, got No space left on device; make room"
        with pytest.raises(OSError, match=expected) as caught:
            write_file(path, b"n" * 1500)
    assert caught.value.errno == 28 and path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_file_larger_than_the_system_allows_is_refused_in_one_line(tmp_path):
    """The real thing: a process that may write 4,096 bytes."""
    program = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "import xarray, numpy\n"
        "from critjax.report import save_dataset\n"
        f"save_dataset(xarray.Dataset({{'a': ('x', numpy.arange(9999.))}}), {str(tmp_path / 'r.nc')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "r.nc: expected a place for" in done.stderr.splitlines()[-1]
    assert names(tmp_path) == []


def test_links_are_replaced_and_not_followed(tmp_path):
    target = write_file(tmp_path / "precious.txt", "precious")
    (tmp_path / "link.txt").symlink_to(target)
    write_file(tmp_path / "link.txt", "new")
    assert target.read_text() == "precious" and not (tmp_path / "link.txt").is_symlink()


def test_every_flipped_bit_is_seen():
    sealed = seal(b"some numbers", run="a", number=3)
    assert unseal(sealed, run="a", number=3) == b"some numbers"
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="part: expected"):
            unseal(bytes(damaged), run="a", number=3)
    for length in range(len(sealed)):
        with pytest.raises(ValueError, match="part: expected what was saved, got damaged bytes"):
            unseal(sealed[:length], run="a", number=3)


@pytest.mark.parametrize(
    "other", [{"run": "b", "number": 3}, {"run": "a"}, {"run": "a", "number": 3, "more": 1}]
)
def test_what_belongs_to_others_is_refused(other):
    with pytest.raises(ValueError, match="part: expected one of this run, got another"):
        unseal(seal(b"", **other), run="a", number=3)


HOLDER = """
import pathlib, sys, time
from critjax.store import locked
with locked(pathlib.Path(sys.argv[1]), "--out"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_folder_is_free_once_its_run_is_dead(tmp_path, end):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        with (
            pytest.raises(ValueError, match="--out: expected a folder that no other run uses"),
            locked(tmp_path, "--out"),
        ):
            pass
        assert time.monotonic() - began < 5
    finally:
        holder.send_signal(end)
        holder.communicate()
    (tmp_path / ".critjax-half.npz").write_bytes(b"what it was writing")
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / ".critjax-half.part").write_bytes(b"and there")
    (tmp_path / "notes.txt").write_text("mine")
    with locked(tmp_path, "--out", ("partial",)):
        assert visible(tmp_path) == ["notes.txt", "partial"] and (tmp_path / LOCK).exists()
    assert names(tmp_path) == ["notes.txt", "partial"] and names(tmp_path / "partial") == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match="--out: expected a folder that can be written"),
        locked(tmp_path / "file" / "b", "--out"),
    ):
        pass
