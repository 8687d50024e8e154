# ruff: noqa: RUF001  (Greek letters belong in a report)
"""The self-contained HTML page of a study: findings, table, figures, settings, how to repeat."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from typing import NamedTuple

import xarray as xr
from matplotlib.figure import Figure

from critjax.report.table import Row

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; color: #1b1b1b; background:
#fff;
  max-width: 62rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
.subtitle { color: #555; margin: 0 0 1.4rem; }
.label { border-left: .35rem solid #D55E00; background: #fdf1e9; padding: .6rem .9rem; margin: 1rem 0;
font-weight: 600; } .headline { border-left: .35rem solid #0072B2; background: #eef5fa; padding: .7rem 1rem;
margin: 0 0 1rem; font-size: 1.05rem; } .headline p { margin: .3rem 0; }
ul.findings { padding-left: 1.1rem; } ul.findings li { margin: .35rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; width: 100%; }
th { text-align: left; border-bottom: 2px solid #1b1b1b; padding: .25rem .6rem; }
td { padding: .2rem .6rem; border-bottom: 1px solid #eee; vertical-align: top; }
th.n, td.n { text-align: right; white-space: nowrap; }
tr.group td { border-bottom: none; } tr.unit td { color: #555; padding-top: 0; padding-bottom: .1rem; }
tr.unit td:first-child { padding-left: 2rem; } td.note { color: #555; font-size: .85rem; }
figure { margin: 1.4rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #444; font-size: .92rem; max-width: 52rem; margin-top: .3rem; }
code, pre { font: .88rem ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: #f5f5f5; }
pre { padding: .7rem .9rem; overflow-x: auto; } code { padding: .1rem .25rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
"""


def figure_png(figure: Figure, dpi: int = 130) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
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


def labels(dataset: xr.Dataset, done: object, asked: object, what: str) -> list[str]:
    """Say what a reader must know before the numbers: quick settings, an interrupted run and how far it came."""
    found = []
    if json.loads(dataset.attrs.get("settings", "{}")).get("quick"):
        found.append("Quick run: few samples and levels on a small grid. A look, not a result.")
    if dataset.attrs.get("status") != "complete":
        found.append(
            f"Interrupted: {done} of {asked} {what} were done, and what follows them may be missing."
        )
    return found


def _prose(sentence: str) -> str:
    """Escape a sentence and keep numbers with their units on one line."""
    return html.escape(sentence).replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")


def _table_html(rows: list[Row]) -> str:
    lines = [
        "<tr><th>quantity</th><th class=n>theory</th><th class=n>measured</th><th "
        "class=n>error</th><th></th></tr>"
    ]
    for i, row in enumerate(rows):
        cells = [html.escape(cell.strip()) for cell in row]
        # Units belong to the number above them: no rule between.
        inside = i + 1 < len(rows) and rows[i + 1].quantity.startswith(" ")
        names = ("unit " if row.quantity.startswith(" ") else "") + ("group" if inside else "")
        kind = f' class="{names.strip()}"' if names else ""
        numbers = "".join(f"<td class=n>{cell}</td>" for cell in cells[1:4])
        lines.append(f"<tr{kind}><td>{cells[0]}</td>{numbers}<td class=note>{cells[4]}</td></tr>")
    return f"<div class=scroll><table>{''.join(lines)}</table></div>"


def _pairs_html(pairs: Mapping[str, object]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>" for k, v in pairs.items()
    )
    return f"<div class=scroll><table>{rows}</table></div>"


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
    """
    settings, seconds, versions = (
        json.loads(dataset.attrs.get(n, "{}")) for n in ("settings", "seconds", "versions")
    )
    command = str(dataset.attrs.get("study", ""))
    module = command.replace("-", "_")
    title = html.escape(str(dataset.attrs.get("title", f"critjax {command}")))
    headline = "".join(f"<p>{_prose(s)}</p>" for s in page.sentences[: page.headlines])
    others = "".join(f"<li>{_prose(s)}</li>" for s in page.sentences[page.headlines :])
    warnings = "".join(f"<p class=label>{html.escape(text)}</p>" for text in page.labels)
    images = "".join(
        f'<figure id="{name}"><img alt="{html.escape(caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for name, (png, caption) in pictures.items()
    )
    cost = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,
initial-scale=1"> <title>{title}</title><style>{_CSS}</style></head><body>
<h1>{title}</h1><p class=subtitle>{html.escape(page.description)}</p>
{warnings}<div class=headline>{headline}</div><ul class=findings>{others}</ul>
<h2>Theory and measurement</h2>{_table_html(page.rows)}
<p class=subtitle>{html.escape(page.legend)}</p> <h2>Figures</h2>{images}
<h2>Repeat this run</h2><pre>critjax {command} --from {html.escape(result_name)} --out another-folder</pre>
<p>or, in Python:</p><pre>import xarray as xr
from critjax.studies import {module}
old = xr.load_dataset("{html.escape(result_name)}", engine="h5netcdf")
new = {module}.run({module}.settings_of(old))</pre>
<details><summary>Settings</summary>{_pairs_html(settings)}</details>
<details><summary>Versions</summary>{_pairs_html(versions)}</details>
<details><summary>Cost</summary><p>{html.escape(cost)}; finished {
        html.escape(str(dataset.attrs.get("created", "")))
    }.</p></details> </body></html>
"""
