"""Figures of the freeze-out study: lengths and walls against the rate of the quench, Binder cumulant of each grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from critjax.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    POINTS,
    PURPLE,
    RED,
    FigureKind,
    figure_with_axes,
    heading,
    named_level,
    plain,
    styled,
)

# Colour, marker and face of each noise level (from high to low) and of each grid (from small to large).
_LEVELS = ((RED, "o", RED), (GREEN, "s", "white"), (PURPLE, "D", PURPLE), (ORANGE, "^", "white"))
_GRIDS = (
    (ORANGE, "^", "white", ":"),
    (BLUE, "s", BLUE, "--"),
    (BLACK, "o", "white", "-"),
    (RED, "D", RED, "-."),
)
_LINES = {
    "linear": {"color": BLACK, "linestyle": "-", "linewidth": 1.5},
    "closure": {"color": GREY, "linestyle": "--", "linewidth": 1.2},
}


def _level_name(ratio: float) -> str:
    return r"at bare $\sigma_c$" if abs(ratio - 1) < 1e-9 else rf"at ${ratio:.2g}\,\sigma_c$"


def _measured(axes: Axes, dataset: xr.Dataset, name: str, level: int, *, exponent: bool) -> None:
    """Draw one measured quantity at one noise level as points, its fitted power of n as a thin line with its name."""
    numbers = dataset["steps_per_tau"].values
    values, errors = dataset[name].values[:, level], dataset[f"{name}_error"].values[:, level]
    colour, marker, face = _LEVELS[level % len(_LEVELS)]
    axes.errorbar(numbers, values, errors, marker=marker, color=colour, markerfacecolor=face, **POINTS)
    slope = float(dataset[f"{name}_exponent"][level])
    good = np.isfinite(values) & np.isfinite(errors) & (numbers >= dataset.attrs["fit_from"])
    if not exponent or not np.isfinite(slope) or good.sum() < 2:
        return
    weights = (values[good] / errors[good]) ** 2
    middle = np.average(np.log(numbers[good]), weights=weights)
    height = np.average(np.log(values[good]), weights=weights)
    ends = numbers[good][[0, -1]]
    axes.plot(ends, np.exp(height + slope * (np.log(ends) - middle)), color=colour, linewidth=0.9, zorder=1)
    error = float(dataset[f"{name}_exponent_error"][level])
    digits = int(np.clip(np.ceil(-np.log10(max(error, 1e-4))), 2, 4))
    at = numbers[good][-1], np.exp(height + slope * (np.log(ends[1]) - middle))
    label = rf"$n^{{{slope:.{digits}f}\pm{error:.{digits}f}}}$"
    style: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(label, at, fontsize=9, color=colour, annotation_clip=False, **style)


def _theory(axes: Axes, dataset: xr.Dataset, name: str, level: int) -> None:
    for kind, style in _LINES.items():
        values = dataset[f"{kind}_{name}"].values[:, level]
        if np.any(np.isfinite(values)):
            colour = {"color": _LEVELS[level % len(_LEVELS)][0]} if kind == "closure" else {}
            axes.plot(dataset["steps_per_tau"].values, values, zorder=1, **{**style, **colour})


def _rate_axes(axes: Axes, dataset: xr.Dataset, heading: str, unit: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    ticks = [tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low < tick < high]
    axes.set_yticks(ticks)
    numbers = dataset["steps_per_tau"].values
    axes.set_xlim(numbers[0] / 1.4, numbers[-1] * 1.4)
    axes.set_xlabel(r"$n$ (Langevin steps per unit of $\ln\sigma$)")
    axes.set_ylabel(unit)
    axes.set_title(heading, fontsize=10)


@styled
def frozen_length_figure(dataset: xr.Dataset) -> Figure:
    """Draw frozen lengths and wall density against the rate of the quench, with theory and fitted exponents."""
    figure, (first, second, third) = figure_with_axes(11.0, 4.8, ncols=3)
    ratios, numbers = dataset["sigma_ratio"].values, dataset["steps_per_tau"].values
    bare = int(np.argmin(np.abs(ratios - 1)))
    _theory(first, dataset, "xi_fit", bare)
    grey = {"color": GREY, "linestyle": (0, (1, 1.2)), "linewidth": 1.5}
    first.plot(numbers, dataset["freeze_out_length"].values, **grey)
    first.annotate(
        r"$n^{1/4}$",
        (numbers[-1], float(dataset["freeze_out_length"][-1])),
        xytext=(6, -2),
        textcoords="offset points",
        fontsize=9,
        color=GREY,
        va="center",
        annotation_clip=False,
    )
    _measured(first, dataset, "xi_fit", bare, exponent=True)
    _rate_axes(
        first, dataset, f"{_level_name(ratios[bare])}: fit to S, |k| ≤ π/p", "correlation length (pixels)"
    )
    for axes, name in ((second, "xi_denoised_sign"), (third, "wall_density")):
        for level in range(len(ratios)):
            _theory(axes, dataset, name, level)
            _measured(axes, dataset, name, level, exponent=True)
    _rate_axes(second, dataset, "domains: sign of D", "1/e length of sign D (pixels)")
    _rate_axes(third, dataset, "domain walls of D", "wall density (fraction of bonds)")
    for axes in (first, second, third):
        flagged = numbers[~dataset["ladder_resolved"].values.astype(bool)]
        for number in flagged:
            axes.axvline(number, color=GREY, linewidth=6, alpha=0.25, zorder=0)
    for level, ratio in enumerate(ratios):
        colour, marker, face = _LEVELS[level % len(_LEVELS)]
        style = {
            "color": colour,
            "marker": marker,
            "markerfacecolor": face,
            "linestyle": "none",
            "markersize": 5,
        }
        third.plot([], [], label=f"simulated, {_level_name(ratio)}", **style)
    third.plot([], [], label=r"linear theory at $\sigma_c$, measured alike", **_LINES["linear"])
    third.plot([], [], label=r"$\sqrt{K}\,(2ne/\pi)^{1/4}$, its second moment", **grey)
    third.plot([], [], label="Gaussian closure, in the colour of its noise", **_LINES["closure"])
    heading(figure, "Freeze-out: what the rate of the quench leaves behind")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def binder_figure(dataset: xr.Dataset) -> Figure:
    """Draw the Binder cumulant of several grids as the noise falls, and where each passes the Ising value."""
    figure, axes = figure_with_axes(7.2, 4.8)
    ratios = dataset["binder_ratio"].values
    for index, side in enumerate(dataset["grid_side"].values):
        colour, marker, face, dashes = _GRIDS[index % len(_GRIDS)]
        values, errors = dataset["binder"].values[index], dataset["binder_error"].values[index]
        time = float(dataset["relaxation_tau"][index])
        label = rf"${side}\times{side}$ ($\Delta\ln\sigma={time:.2g}$ to diffuse across)"
        style = {**POINTS, "linestyle": dashes, "linewidth": 1.0, "marker": marker, "color": colour}
        axes.errorbar(ratios, values, errors, markerfacecolor=face, label=label, **style)
        crossing = float(dataset["binder_crossing"][index])
        if np.isfinite(crossing):
            mark = {"marker": "|", "markersize": 16, "color": colour, "zorder": 5}
            axes.plot([crossing], [dataset.attrs["ising_binder"]], **mark)
    named_level(axes, 0.0, "Gaussian: no order", below=True)
    named_level(axes, 2 / 3, "two ordered states", side="left")
    named_level(axes, dataset.attrs["ising_binder"], "Ising, critical", side="left", below=True)
    axes.set_xlim(ratios[0] * 1.02, ratios[-1] / 1.02)
    lowest = np.nanmin(dataset["binder"].values - dataset["binder_error"].values)
    axes.set_ylim(min(-0.2, float(lowest) - 0.05), 0.78)
    axes.set_xlabel(r"noise $\sigma/\sigma_c$ (bare critical noise is 1; generation runs to the right)")
    axes.set_ylabel("Binder cumulant\nof the spatial mean")
    axes.set_title("Binder cumulant: at which noise does a grid of each size order?")
    figure.legend(loc="outside lower center", ncols=1)
    return figure


#: Name of the file -> figure.
FIGURES: dict[str, FigureKind] = {
    "frozen-length": FigureKind(
        frozen_length_figure,
        ("xi_fit",),
        "Lengths and wall density against the Langevin steps per unit of ln sigma, at the noise levels that the quench "
        "passes; thin lines are fitted powers of n.",
    ),
    "binder": FigureKind(
        binder_figure,
        ("binder",),
        "Binder cumulant of the spatial mean; a bar marks where a grid passes the critical Ising value.",
    ),
}


def figures(dataset: xr.Dataset) -> dict[str, FigureKind]:
    """Return the figures of a freeze-out study."""
    return FIGURES
