import json

import xarray as xr

from critjax.report import Content, Measured, labels
from critjax.report.table import table_row


def content(dataset: xr.Dataset) -> Content:
    settings = json.loads(dataset.attrs["settings"])
    last = dataset.isel(time=-1)
    found, theory = Measured(float(last.displacement), float(last.displacement_error)), float(last.predicted)
    far = "farther than" if found.value > theory + 3 * found.error else "as far as"
    return Content(
        "Walks",
        [f"Walks come {far} theory says."],
        1,
        [table_row("mean square displacement", theory, found)],
        "In steps.",
        labels(dataset, dataset.attrs["num_done"], settings["num_blocks"], "blocks"),
    )
