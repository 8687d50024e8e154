"""What every run of a study does: stages with a clock and progress, parts that are saved, interruption."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

#: ``(stage, done, total)``, for a progress bar.
Progress = Callable[[str, int, int], None]
#: ``(name, part)``, called after every part: a dataset, or a dictionary of arrays.
Checkpoint = Callable[[str, Any], None]


class Run:
    """One run while it goes on.

    Parameters
    ----------
    progress : callable, optional
        ``(stage, done, total)``.
    on_checkpoint : callable, optional
        ``(name, part)`` after every part that was computed, for saving.
    saved : mapping, optional
        Parts of an earlier, identical run by name; they are not computed again.

    Attributes
    ----------
    status : "complete", or "interrupted" once a KeyboardInterrupt ended `parts` or an `optional` stage.
    seconds : wall time of every stage.
    """

    def __init__(
        self,
        progress: Progress | None = None,
        on_checkpoint: Checkpoint | None = None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self.status = "complete"
        self.seconds: dict[str, float] = {}
        self.report: Progress = progress or (lambda stage, done, total: None)
        self._save: Checkpoint = on_checkpoint or (lambda name, part: None)
        self._saved = dict(saved or {})

    @property
    def complete(self) -> bool:
        """Tell whether nothing has been interrupted so far."""
        return self.status == "complete"

    @contextlib.contextmanager
    def stage(self, name: str, *, optional: bool = False) -> Iterator[None]:
        """Time a stage and show that it has begun.

        An ``optional`` stage may be interrupted: the run goes on without what it would have computed, and is called
        interrupted. Of any other stage the KeyboardInterrupt goes through.
        """
        self.report(name, 0, 1)
        began = time.perf_counter()
        try:
            yield
        except KeyboardInterrupt:
            if not optional:
                raise
            self.status = "interrupted"
        finally:
            self.seconds[name] = round(time.perf_counter() - began, 2)

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a saved part, or compute and save it."""
        if name not in self._saved:
            part = compute()
            self._save(name, part)
            return part
        return self._saved[name]

    def parts(
        self,
        stage: str,
        names: Sequence[str],
        compute: Callable[[int], Any],
        *,
        optional: bool = False,
        shown: bool = True,
    ) -> Iterator[Any]:
        """Yield part after part of a stage, saved ones or ``compute(index)``; end early when interrupted.

        Parameters
        ----------
        stage : str
            Name of the stage.
        names : sequence of str
            Names of its parts, by which they are saved.
        compute : callable
            Index of a part -> the part: a dataset, or a dictionary of arrays.
        optional : bool
            Whether the run has something to say without any part of this stage.
        shown : bool
            Whether to report the stage; False where each part reports for itself.

        Raises
        ------
        KeyboardInterrupt
            If interrupted before the first part was there, unless the stage is optional.
        """
        report: Progress = self.report if shown else lambda stage, done, total: None
        began, done = time.perf_counter(), 0
        try:
            report(stage, 0, len(names))
            for index, name in enumerate(names):
                part = self.part(name, lambda index=index: compute(index))
                done += 1
                yield part
                report(stage, done, len(names))
        except KeyboardInterrupt:
            if not done and not optional:
                raise
            self.status = "interrupted"
        finally:
            self.seconds[stage] = round(time.perf_counter() - began, 2)
