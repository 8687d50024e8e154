import xarray as xr
from matplotlib.figure import Figure

from critjax.plotting.style import FigureKind, figure_with_axes, styled


@styled
def displacement(dataset: xr.Dataset) -> Figure:
    figure, axes = figure_with_axes()
    axes.plot(dataset.time, dataset.predicted, "k-")
    axes.errorbar(dataset.time, dataset.displacement, dataset.displacement_error, fmt="o")
    axes.set_xlabel("time (steps)")
    return figure


def figures(dataset: xr.Dataset) -> dict[str, FigureKind]:
    return {
        "displacement": FigureKind(displacement, ("displacement",), "How far walks come."),
        "absent": FigureKind(displacement, ("nothing",), "Never drawn."),
    }
