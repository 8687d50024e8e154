"""The style that all figures share, and what they draw in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

BLACK, ORANGE, BLUE, GREEN, RED, PURPLE = "#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7"
GREY = "#767676"

STYLE: Any = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "errorbar.capsize": 2.0,
    "savefig.dpi": 130,
    "figure.dpi": 100,
}

POINTS: dict[str, Any] = {"linestyle": "none", "markersize": 4.5, "elinewidth": 1.0}


class FigureKind(NamedTuple):
    """A figure, what it needs and what it says."""

    draw: Callable[[xr.Dataset], Figure]
    needs: tuple[str, ...]
    caption: str


def available(kinds: Mapping[str, FigureKind], dataset: xr.Dataset) -> dict[str, FigureKind]:
    """Return the figures whose variables the dataset has, with at least one finite number each.

    Example
    -------
    >>> kinds = {name: FigureKind(lambda dataset: Figure(), (name,), "") for name in ("xi", "order", "gap")}
    >>> list(available(kinds, xr.Dataset({"xi": 2.0, "order": np.nan})))
    ['xi']
    """

    def ready(name: str) -> bool:
        return name in dataset and bool(np.any(np.isfinite(dataset[name].values)))

    return {name: kind for name, kind in kinds.items() if all(map(ready, kind.needs))}


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Draw in the style of all figures, on top of matplotlib's defaults: no matplotlibrc has a say.

    Example
    -------
    >>> with mpl.rc_context({"image.origin": "lower"}), own_style():
    ...     mpl.rcParams["image.origin"]
    'upper'
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def styled(build: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let a function of a dataset draw in the style of all figures, whatever the user's matplotlibrc says.

    Example
    -------
    >>> @styled
    ... def empty_figure(dataset):
    ...     return Figure(figsize=(3, 2))
    >>> empty_figure(xr.Dataset()).dpi  # 100 in this style
    100.0
    """

    def wrapped(dataset: xr.Dataset) -> Figure:
        with own_style():
            return build(dataset)

    wrapped.__doc__ = build.__doc__
    wrapped.__name__ = build.__name__
    return wrapped


def figure_with_axes(width: float = 7.2, height: float = 4.2, **subplots: Any) -> tuple[Figure, Any]:
    """Return a figure of this size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def heading(figure: Figure, text: str) -> None:
    """Write the title of a figure of several panels."""
    figure.suptitle(text, fontsize=11, fontweight="bold", x=0.01, ha="left")


def level_title(panel: Axes, sigma: Any) -> None:
    """Name the noise level of one picture above it."""
    panel.set_title(rf"$\sigma={sigma:.2g}$", fontsize=9, fontweight="normal", loc="center")


def legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Write the legend of the axes below the whole figure."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=8.5)


def plain(value: float, _: Any = None) -> str:
    """Write a tick without exponents or trailing zeros."""
    return f"{value:g}"


def plain_ticks(axis: Axis) -> None:
    """Write the ticks 1, 2 and 5 of every decade of a logarithmic axis as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(plain))
    axis.set_minor_formatter(NullFormatter())


def falling_axis(axes: Axes, levels: np.ndarray, label: str = "") -> None:
    """Make x a logarithmic axis that falls to the right, the way generation runs."""
    axes.set_xscale("log")
    axes.set_xlim(float(np.max(levels)) * 1.03, float(np.min(levels)) / 1.03)
    plain_ticks(axes.xaxis)
    if label:
        axes.set_xlabel(label)


def noise_axis(axes: Axes, sigma: np.ndarray) -> None:
    """Make x the noise axis: logarithmic, generation to the right."""
    falling_axis(
        axes, sigma, r"noise standard deviation $\sigma$ (image units; generation runs to the right)"
    )


def value(dataset: xr.Dataset, name: str) -> float:
    """Return a scalar variable; NaN where it is missing."""
    return float(dataset[name]) if name in dataset else float("nan")


def points(axes: Axes, dataset: xr.Dataset, name: str, *, every: int = 1, **style: Any) -> bool:
    """Plot a measured curve with the errors stored beside it; tell whether there was one."""
    if name not in dataset or not np.any(np.isfinite(dataset[name])):
        return False
    values = dataset[name]
    x = values[values.dims[0]].values[::every]
    error = dataset[f"{name}_error"].values[::every] if f"{name}_error" in dataset else None
    axes.errorbar(x, values.values[::every], error, **{**POINTS, **style})
    return True


def line(axes: Axes, dataset: xr.Dataset, name: str, **style: Any) -> bool:
    """Plot a theoretical curve; tell whether there was one."""
    if name not in dataset or not np.any(np.isfinite(dataset[name])):
        return False
    axes.plot(dataset[name][dataset[name].dims[0]].values, dataset[name].values, **style)
    return True


def limits(axes: Axes, arrays: list[Any], *, low: float, high: float, pad: float = 0.08) -> None:
    """Fit the y axis to what matters, but inside [low, high]."""
    values = (
        np.concatenate([np.ravel(np.asarray(a, float)) for a in arrays]) if arrays else np.array([0.0, 1.0])
    )
    values = values[np.isfinite(values)]
    if values.size:
        bottom, top = max(low, float(values.min())), min(high, float(values.max()))
        margin = pad * max(top - bottom, 1e-6)
        axes.set_ylim(bottom - margin, top + margin)


def named_level(
    axes: Axes,
    height: float,
    text: str,
    *,
    colour: str = GREY,
    side: str = "right",
    below: bool = False,
    gap: float = 2.0,
    **style: Any,
) -> None:
    """Draw a horizontal line across the axes and write its name at one end, ``gap`` points away from it."""
    axes.axhline(height, **{"color": colour, "linewidth": 1.0, "linestyle": (0, (1, 2)), **style})
    axes.annotate(
        text,
        (0.99 if side == "right" else 0.01, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, -gap if below else gap - 1),
        textcoords="offset points",
        ha=side,
        va="top" if below else "bottom",
        fontsize=8.5,
        color=colour,
    )


def picture_panel(panel: Axes, picture: np.ndarray, width: float) -> None:
    """Show one field (H, W, C) on a grey or colour scale from -width to width; say so where there is none."""
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
    if not np.all(np.isfinite(picture)):
        panel.set_facecolor("#F0F0F0")
        panel.set_box_aspect(picture.shape[0] / picture.shape[1])
        middle = {"ha": "center", "va": "center", "fontsize": 8.5, "color": GREY}
        panel.text(0.5, 0.5, "diverged", transform=panel.transAxes, **middle)
        return
    show = picture[..., 0] if picture.shape[-1] != 3 else np.clip((picture / width + 1) / 2, 0, 1)
    panel.imshow(show, cmap="gray", vmin=-width, vmax=width, interpolation="nearest")
