# ruff: noqa: RUF001  (Greek letters belong in a report)
"""The self-contained HTML page of a study: findings, table, figures, settings, how to repeat."""

from __future__ import annotations

import base64
import functools
import importlib.resources
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jinja2
import xarray as xr
from matplotlib.figure import Figure

from critjax.plotting import own_style
from critjax.report.table import Row

TEMPLATE = "report.html.j2"


def figure_png(figure: Figure, dpi: int = 130) -> bytes:
    """Render a figure as PNG, whatever the user's matplotlibrc says.

    Example
    -------
    >>> figure_png(Figure(figsize=(1, 1)), dpi=10)[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    with own_style():
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


class Content(NamedTuple):
    """What a page says, whichever study it is of."""

    description: str
    """The run in one line."""
    sentences: list[str]
    headlines: int
    """So many of the sentences come first, marked."""
    rows: list[Row]
    legend: str
    labels: list[str]
    """What a reader must know before the numbers, see `labels`."""


UNITS = (
    "σ is the standard deviation of the noise in image units, data in [-1, 1]; t_ou = ½ ln(1+σ²), ᾱ = 1/(1+σ²), "
    "log-SNR = -2 ln σ."
)


def labels(dataset: xr.Dataset) -> list[str]:
    """Say what a reader must know before the numbers: that settings were quick.

    Example
    -------
    >>> labels(xr.Dataset(attrs={"settings": '{"quick": true}'}))
    ['Quick run: few samples and levels on a small grid. A look, not a result.']
    """
    quick = json.loads(dataset.attrs.get("settings", "{}")).get("quick")
    return ["Quick run: few samples and levels on a small grid. A look, not a result."] if quick else []


def _prose(sentence: str) -> str:
    """Keep numbers with their units on one line."""
    return sentence.replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")


def _kinds(rows: list[Row]) -> Iterator[tuple[str, Row]]:
    """Yield every line with its class: units belong to the number above them, with no rule between."""
    for row, below in itertools.zip_longest(rows, rows[1:]):
        names = ("unit" if _is_unit(row) else "", "group" if _is_unit(below) else "")
        yield " ".join(filter(None, names)), row


def _is_unit(row: Row | None) -> bool:
    return row is not None and row.quantity.startswith(" ")


@functools.cache
def _template() -> jinja2.Template:
    """Return the page, in which everything is escaped and nothing may be missing."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"prose": _prose, "base64": lambda data: base64.b64encode(data).decode("ascii")}
    text = importlib.resources.files("critjax.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text)


def render(
    dataset: xr.Dataset,
    page: Content,
    pictures: Mapping[str, tuple[bytes, str]],
    *,
    result_name: str = "results.nc",
) -> str:
    """Build the page as one string without external references.

    Parameters
    ----------
    dataset : xarray.Dataset
        Result of a study, for its attributes: title, settings, versions, seconds.
    page : Content
        What is said about it.
    pictures : mapping of name to (PNG bytes, caption)
        Figures in their order.
    result_name : str
        File name of the stored dataset, for the line that repeats the run.

    Returns
    -------
    str
        HTML.

    Example
    -------
    >>> page = Content("two patterns", ["Order appears at 5."], 1, [Row("noise", "5", "5.1", "0.1")], "", [])
    >>> html = render(xr.Dataset(attrs={"study": "criticality", "title": "A look"}), page, {})
    >>> "<title>A look" in html, "Order appears at 5." in html, "http" in html
    (True, True, False)
    """
    settings, seconds, versions = (
        json.loads(dataset.attrs.get(n, "{}")) for n in ("settings", "seconds", "versions")
    )
    command = str(dataset.attrs.get("study", ""))
    return _template().render(
        title=str(dataset.attrs.get("title", f"critjax {command}")),
        page=page,
        rows=_kinds(page.rows),
        pictures=pictures,
        command=command,
        module=command.replace("-", "_"),
        result_name=result_name,
        settings=settings,
        versions=versions,
        seconds=seconds,
        created=str(dataset.attrs.get("created", "")),
    )
