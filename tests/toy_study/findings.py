import xarray as xr

from critjax.report import Content, Row, labels


def content(dataset: xr.Dataset) -> Content:
    last = dataset.isel(time=-1)
    theory, found, error = (float(last[n]) for n in ("predicted", "displacement", "displacement_error"))
    far = "farther than" if found > theory + 3 * error else "as far as"
    return Content(
        "Walks",
        [f"Walks come {far} theory says."],
        1,
        [Row("mean square displacement", f"{theory:.2f}", f"{found:.2f}", f"{error:.2f}")],
        "In steps.",
        labels(dataset),
    )
