"""What every run of a study does: stages with a clock and progress, parts that are saved."""

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
    seconds : wall time of every stage.
    """

    def __init__(
        self,
        progress: Progress | None = None,
        on_checkpoint: Checkpoint | None = None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.report: Progress = progress or (lambda stage, done, total: None)
        self._save: Checkpoint = on_checkpoint or (lambda name, part: None)
        self._saved = dict(saved or {})

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and show that it has begun."""
        self.report(name, 0, 1)
        began = time.perf_counter()
        try:
            yield
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
        shown: bool = True,
    ) -> Iterator[Any]:
        """Yield part after part of a stage, saved ones or ``compute(index)``.

        Parameters
        ----------
        stage : str
            Name of the stage.
        names : sequence of str
            Names of its parts, by which they are saved.
        compute : callable
            Index of a part -> the part: a dataset, or a dictionary of arrays.
        shown : bool
            Whether to report the stage; False where each part reports for itself.
        """
        report: Progress = self.report if shown else lambda stage, done, total: None
        began = time.perf_counter()
        try:
            report(stage, 0, len(names))
            for index, name in enumerate(names):
                yield self.part(name, lambda index=index: compute(index))
                report(stage, index + 1, len(names))
        finally:  # also of a caller who counts parts and does not ask for one more
            self.seconds[stage] = round(time.perf_counter() - began, 2)
