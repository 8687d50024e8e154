"""The style that all figures share, and what they draw in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

BLACK, ORANGE, BLUE, GREEN, RED, PURPLE = "#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7"
GREY = "#767676"
_RAISED = 15  # points above the axes for a name in the second row

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

THEORY: dict[str, dict[str, Any]] = {
    "bare": {"color": BLACK, "linestyle": "-", "label": "bare theory"},
    "closure": {"color": BLUE, "linestyle": "--", "label": "Gaussian closure"},
    "null": {"color": GREY, "linestyle": (0, (1, 1.2)), "label": "Gaussian null model"},
}
POINTS: dict[str, Any] = {"linestyle": "none", "markersize": 4.5, "elinewidth": 1.0}


class FigureKind(NamedTuple):
    """A figure, what it needs and what it says."""

    draw: Callable[[xr.Dataset], Figure]
    needs: tuple[str, ...]
    caption: str


def available(kinds: Mapping[str, FigureKind], dataset: xr.Dataset) -> dict[str, FigureKind]:
    """Return the figures whose variables the dataset has, with at least one finite number each."""

    def ready(name: str) -> bool:
        return name in dataset and bool(np.any(np.isfinite(dataset[name].values)))

    return {name: kind for name, kind in kinds.items() if all(map(ready, kind.needs))}


def styled(build: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let a function of a dataset draw in the style of all figures, whatever the user's matplotlibrc says."""

    def wrapped(dataset: xr.Dataset) -> Figure:
        with mpl.rc_context(STYLE):
            return build(dataset)

    wrapped.__doc__ = build.__doc__
    wrapped.__name__ = build.__name__
    return wrapped


def figure_with_axes(width: float = 7.2, height: float = 4.2, **subplots: Any) -> tuple[Figure, Any]:
    """Return a figure of this size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Write the legend of the axes below the whole figure."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=8.5)


def plain(value: float, _: Any = None) -> str:
    """Write a tick without exponents or trailing zeros."""
    return f"{value:g}"


def noise_axis(axes: Axes, sigma: np.ndarray) -> None:
    """Make x the noise axis: logarithmic, generation to the right."""
    axes.set_xscale("log")
    axes.set_xlim(float(np.max(sigma)) * 1.03, float(np.min(sigma)) / 1.03)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(plain))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(r"noise standard deviation $\sigma$ (image units; generation runs to the right)")


def value(dataset: xr.Dataset, name: str) -> float:
    """Return a scalar variable; NaN where it is missing."""
    return float(dataset[name]) if name in dataset else float("nan")


def mark_critical(axes: Axes, dataset: xr.Dataset, *, labels: bool = True) -> None:
    """Mark the bare critical noise and the effective one of closure and simulation, named above the axes."""
    turned = r"$\lambda_{reg}=1$" if dataset.attrs.get("frame", "ve") == "ve" else r"$\lambda_{reg}$ marginal"
    marks = (
        ("critical_sigma_bare", r"bare $\sigma_c$", BLACK, "-."),
        ("critical_sigma_closure", f"{turned}, closure", BLUE, "--"),
        ("critical_sigma_measured", f"{turned}, simulated", RED, ":"),
    )
    found = [(value(dataset, name), *style) for name, *style in marks]
    found = sorted((mark for mark in found if np.isfinite(mark[0])), reverse=True)
    for i, (position, label, colour, style) in enumerate(found):
        axes.axvline(position, color=colour, linestyle=style, linewidth=1.2, zorder=0.5)
        if labels:
            # The first to the left of its line, the last to the right, one between them higher: they cannot meet.
            last = len(found) - 1
            side = "center" if 0 < i < last or last == 0 else ("right" if i == 0 else "left")
            raised = 0 < i < last
            axes.annotate(
                label,
                (position, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=({"right": 4, "left": -4, "center": 0}[side], _RAISED if raised else 3),
                gid="raised" if raised else None,
                textcoords="offset points",
                va="bottom",
                ha=side,
                fontsize=9,
                color=colour,
                annotation_clip=False,
            )


def unstable_spans(dataset: xr.Dataset) -> list[tuple[float, float]]:
    """Return the ranges of noise (high, low) in which the homogeneous state is unstable; none if not stored."""
    if "homogeneous_growth_rate" not in dataset:
        return []
    rate, sigma = dataset["homogeneous_growth_rate"].values, dataset["sigma"].values
    unstable = np.concatenate([[False], rate > 0, [False]])
    spans = []
    for first, last in np.flatnonzero(unstable[1:] != unstable[:-1]).reshape(-1, 2):
        ends = []
        for above, edge in ((first - 1, first), (last - 1, last - 1)):
            below = above + 1
            if above < 0 or below >= len(sigma) or not np.isfinite(rate[above] + rate[below]):
                ends.append(float(sigma[edge]))
                continue
            share = rate[above] / (rate[above] - rate[below])
            ends.append(float(sigma[above] * (sigma[below] / sigma[above]) ** share))
        spans.append((ends[0], ends[1]))
    return spans


def mark_unstable(axes: Axes, dataset: xr.Dataset, **style: Any) -> None:
    """Shade where the homogeneous state is unstable: bare theory there is about a state that generation has left."""
    for i, span in enumerate(unstable_spans(dataset)):
        label = "_again" if i else "uniform state unstable"
        axes.axvspan(
            *span, **{"facecolor": "#F0F0F0", "edgecolor": "none", "zorder": -1, "label": label, **style}
        )


def title(axes: Axes, text: str) -> None:
    """Set the title, clear of the names of critical points."""
    raised = any(label.get_gid() == "raised" for label in axes.texts)
    axes.set_title(text, pad=20 + (_RAISED - 3 if raised else 0))


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
