"""The record of a study: all that the command line, the runner and the reports know of it."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from critjax._checks import printable
from critjax._stored import Stored
from critjax.plotting import FigureKind, available
from critjax.report import Content, figure_png, render
from critjax.store import make_folder, write_file
from critjax.studies._engine.results import stored_settings
from critjax.studies._engine.run import Progress


@dataclasses.dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes
    ----------
    name : name of the study and of its command; its package is ``critjax.studies.NAME`` with underscores.
    settings : class of its settings, a frozen dataclass on `critjax._stored.Stored`.
    run : ``(settings, *, progress, on_checkpoint, saved) -> xarray.Dataset``.
    figures : dataset -> figures by name, in the order of the report.
    content : dataset -> sentences and table of the report.
    estimate_cost : settings -> ``seconds``, ``seconds_per_evaluation``, ``evaluations``, ``bytes``, ``overhead``.
    describe : resolved settings -> lines (name, value) that say what a run does.
    description, examples : of the command's help.
    folder : where results go unless told otherwise, for the help; ``label`` of the settings is the true one.
    parts : what is saved as it comes, in the plural.
    extra : optional dependencies that the study needs, e.g. "networks"; "" for none.
    """

    name: str
    settings: type[Stored]
    run: Callable[..., xr.Dataset]
    figures: Callable[[xr.Dataset], Mapping[str, FigureKind]]
    content: Callable[[xr.Dataset], Content]
    estimate_cost: Callable[[Any], dict[str, float]]
    describe: Callable[[Any], list[tuple[str, str]]]
    description: str
    examples: str = ""
    folder: str = ""
    parts: str = "parts"
    extra: str = ""

    def settings_of(self, dataset: xr.Dataset) -> Any:
        """Read the settings back from a result, to repeat its run.

        Raises
        ------
        ValueError
            If the dataset carries no settings of this study, or unknown ones.

        Example
        -------
        >>> from critjax.studies import landau
        >>> landau.settings_of(xr.Dataset(attrs={"study": "landau", "settings": '{"size": 5}'})).size
        5
        """
        return stored_settings(dataset, self.settings, self.name)

    def write_report(
        self, dataset: xr.Dataset, folder: str | Path, *, progress: Progress | None = None
    ) -> Path:
        """Write ``report.html`` and ``figures/*.png`` for a result of this study.

        Parameters
        ----------
        dataset : xarray.Dataset
            What `run` returned, or a stored one.
        folder : path
            Existing folder.
        progress : callable, optional
            ``(stage, done, total)``.

        Returns
        -------
        pathlib.Path
            The report. A figure that fails is missing, and the report and a line on standard error say so.
        """
        folder = Path(folder)
        make_folder(folder / "figures")
        kinds, pictures, lost = available(self.figures(dataset), dataset), {}, []
        for done, (name, kind) in enumerate(kinds.items()):
            if progress is not None:
                progress("figures", done, len(kinds))
            try:
                png = figure_png(kind.draw(dataset))
            except Exception as error:  # whatever it is, it must not cost the results
                text = f"The figure {name} could not be drawn: {type(error).__name__}: {error}"
                lost.append(printable(text))
                with contextlib.suppress(OSError, ValueError):  # nobody reads it: the report says it, too
                    print(f"critjax: {lost[-1]}", file=sys.stderr)
                continue
            write_file(folder / "figures" / f"{name}.png", png)
            pictures[name] = (png, kind.caption)
        if progress is not None:
            progress("figures", len(kinds), len(kinds))
        content = self.content(dataset)
        page = render(dataset, content._replace(labels=[*content.labels, *lost]), pictures)
        return write_file(folder / "report.html", page)
