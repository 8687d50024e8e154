"""Faults of a disk and of a process, at every operation on files in turn."""

import contextlib
import errno
import gc
import os


class Killed(BaseException):
    """The process is dead from here on: nothing that it would still do has an effect."""


#: What changes files; `write` is that of the file that `os.fdopen` returns.
OPERATIONS = ("open", "fdopen", "fsync", "chmod", "replace", "unlink", "mkdir", "rmdir")
#: What needs room on a disk.
NEEDING_ROOM = ("open", "write", "fsync", "mkdir")


class _File:
    """A file that writes only half of what it is given when the fault comes."""

    def __init__(self, file, step):
        self._file, self._step = file, step

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *reason):
        return self._file.__exit__(*reason)

    def write(self, content):
        try:
            self._step("write")
        except BaseException:
            self._file.write(content[: len(content) // 2])
            raise
        return self._file.write(content)

    def __getattr__(self, name):
        return getattr(self._file, name)


class Faults:
    """Counts operations on files; from the one numbered ``first`` on, all of them fail.

    ``kind``: "kill", or "full" for a disk on which nothing finds room any more.
    """

    def __init__(self, kind="kill", first=None):
        self.kind, self.first, self.count, self.struck = kind, first, 0, False

    def step(self, name, *arguments):
        if (
            name == "open"
            and len(arguments) > 1
            and not arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            return  # reads only
        if self.kind == "full" and name not in NEEDING_ROOM:
            return
        if self.first is not None and self.count >= self.first:
            self.struck = True
            if self.kind == "kill":
                raise Killed
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.count += 1

    @contextlib.contextmanager
    def on(self, monkeypatch):
        """Let the operations of this process count, and fail."""
        with monkeypatch.context() as patch:
            for name in OPERATIONS:
                real = getattr(os, name)

                def operation(*arguments, name=name, real=real, **options):
                    self.step("open" if name == "fdopen" else name, *(arguments if name == "open" else ()))
                    found = real(*arguments, **options)
                    return _File(found, self.step) if name == "fdopen" else found

                patch.setattr(os, name, operation)
            yield self


def strike(kind, monkeypatch, begin, go_on):
    """Let operation after operation on files fail, and return how many there were.

    ``begin(number)`` is what the fault meets, in a place of its own each time; ``go_on(number, error)`` is what comes
    after it, with the text of the error that ended `begin`, None where it was killed, "" where it came through.
    """
    number = 0
    while True:
        faults, error = Faults(kind, number), ""
        try:
            with faults.on(monkeypatch):
                begin(number)
        except Killed:
            error = None
        except (OSError, ValueError) as raised:
            error = str(raised)
        if not faults.struck:
            return number
        gc.collect()  # a dead process holds no lock
        go_on(number, error)
        number += 1
