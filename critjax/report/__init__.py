"""Building blocks of reports: numbers with errors, the result table, one self-contained HTML page.

Nothing here knows of a study: each chooses its sentences in its own folder.
"""

from critjax.report.files import save_dataset
from critjax.report.numbers import in_units, noise
from critjax.report.page import Content, figure_png, labels, render
from critjax.report.table import Row, format_table

__all__ = [
    "Content",
    "Row",
    "figure_png",
    "format_table",
    "in_units",
    "labels",
    "noise",
    "render",
    "save_dataset",
]
