"""Figures of the Landau study: exact and reduced dynamics side by side, bank by bank."""

from __future__ import annotations

import functools

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter

from critjax.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    FigureKind,
    falling_axis,
    heading,
    level_title,
    named_level,
    picture_panel,
    plain_ticks,
    styled,
)

_COMPARISONS = {
    "bare": (RED, "o", "-", "bare coefficients"),
    "renormalised": (BLUE, "s", "--", "renormalised by the fast modes"),
    "slow": (GREEN, "^", (0, (1, 1.2)), "bare, against an exact run without fast modes"),
}


def _panels(dataset: xr.Dataset, height: float, nrows: int = 1) -> tuple[Figure, np.ndarray]:
    count = dataset.sizes["bank"]
    figure = Figure(figsize=(max(4.6, 3.2 * count), height), layout="constrained")
    return figure, figure.subplots(nrows, count, squeeze=False, sharex="col")


def _ratio_axis(axes: Axes, ratio: np.ndarray) -> None:
    """Noise in units of the critical noise, generation to the right."""
    falling_axis(axes, ratio)
    axes.axvline(1.0, color=GREY, linestyle="-.", linewidth=1.0, zorder=0.5)


def _of(dataset: xr.Dataset, index: int) -> tuple[xr.Dataset, np.ndarray, str]:
    part = dataset.isel(bank=index)
    critical = float(part["critical_sigma"])
    sigma = part["sigma"].values
    scale = critical if np.isfinite(critical) else sigma[0] / np.sqrt(6)
    return part, sigma / scale, str(dataset["bank"].values[index])


@styled
def reduction_error_figure(dataset: xr.Dataset) -> Figure:
    """Draw the relative error of the reduced slow field against noise."""
    figure, grid = _panels(dataset, 4.0)
    for i, axes in enumerate(grid[0]):
        part, ratio, name = _of(dataset, i)
        for kind, (colour, marker, style, label) in _COMPARISONS.items():
            one = part.sel(comparison=kind)
            axes.errorbar(
                ratio[1:],
                one["field_error"].values[1:],
                one["field_error_error"].values[1:],
                color=colour,
                marker=marker,
                markersize=3.5,
                linestyle=style,
                linewidth=1.2,
                markevery=max(1, len(ratio) // 12),
                errorevery=max(1, len(ratio) // 12),
                label=label if i == 0 else None,
            )
        axes.set_yscale("log")
        axes.set_ylim(2e-3, 3.0)
        for limit in dataset["error_limit"].values:
            named_level(axes, float(limit), f"{100 * limit:g} %", side="left")
        _ratio_axis(axes, ratio)
        axes.set_title(name, fontweight="normal")
        axes.set_xlabel(r"$\sigma/\sigma_c$ (bare)")
    grid[0, 0].set_ylabel("relative error of the slow field")
    heading(figure, "How far down the reduced equation holds")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def slow_structure_factor_figure(dataset: xr.Dataset) -> Figure:
    """Draw the structure factor of the slow shells against noise, exact and reduced."""
    figure, grid = _panels(dataset, 4.2)
    shells = dataset["slow_wavenumber"].values
    shown = np.unique(np.rint(np.linspace(0, len(shells) - 1, min(3, len(shells)))).astype(int))
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.8, len(shown)))
    for i, axes in enumerate(grid[0]):
        part, ratio, name = _of(dataset, i)
        variance = part["sigma"].values ** 2
        tops = []
        for colour, shell, marker in zip(colours, shown, "osD", strict=False):
            every = max(1, len(ratio) // 14)
            exact = part["structure_factor_exact"].values[:, shell] / variance
            tops.append(exact)
            axes.plot(ratio[::every], exact[::every], marker, color=colour, markersize=4, label=(
                rf"exact, $|k| = {shells[shell]:.2g}$" if i == 0 else None
            ))  # fmt: skip
            for kind, style in (("bare", "-"), ("renormalised", "--")):
                curve = part[f"structure_factor_{kind}"].values[:, shell] / variance
                axes.plot(ratio, curve, color=colour, linestyle=style, linewidth=1.3)
        axes.set_yscale("log")
        top = float(np.nanmax(tops))
        axes.set_ylim(min(0.5, float(np.nanmin(tops)) / 2), 6 * top)
        named_level(axes, 1.0, "white noise", below=True)
        _ratio_axis(axes, ratio)
        axes.set_title(name, fontweight="normal")
        axes.set_xlabel(r"$\sigma/\sigma_c$ (bare)")
    for style, label in (("-", "reduced, bare"), ("--", "reduced, renormalised")):
        grid[0, 0].plot([], [], color=BLACK, linestyle=style, label=label)
    grid[0, 0].set_ylabel(r"structure factor $S(k)/\sigma^2$")
    heading(figure, "Slow modes: exact dynamics (points), reduced (lines)")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


@styled
def coefficients_figure(dataset: xr.Dataset) -> Figure:
    """Draw linear and cubic coefficient against noise, bare and renormalised."""
    figure, grid = _panels(dataset, 5.2, nrows=2)
    for i in range(dataset.sizes["bank"]):
        part, ratio, name = _of(dataset, i)
        for kind, colour, style in (("bare", RED, "-"), ("renormalised", BLUE, "--")):
            growth, cubic = -part[f"r_{kind}"].values, part[f"u_{kind}"].values
            grid[0, i].plot(ratio, growth, color=colour, linestyle=style, label=kind if i == 0 else None)
            grid[1, i].plot(ratio, cubic, color=colour, linestyle=style)
        named_level(grid[0, i], 0.0, "marginal", colour=BLACK)
        grid[0, i].set_ylim(top=4)
        grid[1, i].set_yscale("symlog", linthresh=0.1)
        grid[1, i].yaxis.set_major_locator(FixedLocator([-1e4, -1e2, -1, 0, 1, 1e2, 1e4]))
        grid[1, i].yaxis.set_minor_formatter(NullFormatter())
        named_level(grid[1, i], 0.0, "no saturation below", colour=BLACK, below=True)
        _ratio_axis(grid[0, i], ratio)
        _ratio_axis(grid[1, i], ratio)
        grid[0, i].set_title(name, fontweight="normal")
        grid[1, i].set_xlabel(r"$\sigma/\sigma_c$ (bare)")
    grid[0, 0].set_ylabel(r"growth of $k = 0$: $-r$")
    grid[1, 0].set_ylabel("cubic coefficient u")
    heading(figure, "Coefficients of the reduced equation")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def ordered_states_figure(dataset: xr.Dataset) -> Figure:
    """Draw plateau and wall width of relaxed states over their reduced values."""
    figure = Figure(figsize=(7.8, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    marks = (("o", RED), ("s", BLUE), ("D", GREEN), ("^", ORANGE))
    for i, (marker, colour) in zip(range(dataset.sizes["bank"]), marks, strict=False):
        part, _, name = _of(dataset, i)
        depth = part["depth"].values
        for axes, quantity in ((left, "plateau_squared"), (right, "wall_width")):
            ratio = part[quantity].values / part[f"{quantity}_reduced"].values
            if np.any(np.isfinite(ratio)):
                axes.plot(
                    depth, ratio, marker=marker, color=colour, label=name, linestyle=":", markersize=4.5
                )
    for axes, text in (
        (left, r"squared amplitude over $-r/u$"),
        (right, r"wall width over $\sqrt{2K/|r|}$"),
    ):
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)
        axes.set_xlabel(r"distance below the critical noise, $-r$")
        axes.set_ylabel(text)
        named_level(axes, 1.0, "reduced equation")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="best")
    heading(figure, "Ordered states of the exact model at frozen noise")
    return figure


@styled
def reduced_film_figure(dataset: xr.Dataset) -> Figure:
    """Show one trajectory of one bank: denoised field, its slow part, and both reduced runs."""
    film, sigma = dataset["film"].values, dataset["film_sigma"].values
    figure = Figure(figsize=(9.2, 5.0), layout="constrained")
    axes = figure.subplots(len(film), len(sigma), squeeze=False)
    rows = ("exact: D(x)", "exact:\nslow modes", "reduced,\nbare", "reduced,\nrenormalised")
    for row, name in enumerate(rows):
        for column in range(len(sigma)):
            panel, picture = axes[row, column], film[row, column]
            scale = 1.0 if row == 0 else max(float(np.nanmax(np.abs(film[1, column]))), 1e-6)
            lost = not np.abs(picture).max() < 1e3 * scale  # on its way to infinity, or there
            picture_panel(panel, (np.full_like(picture, np.nan) if lost else picture)[..., None], scale)
            if column == 0:
                panel.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8.5)
            if row == 0:
                level_title(panel, sigma[column])
    name = str(dataset["bank"].values)
    heading(figure, f"{name}: the same noise, exact and reduced")
    return figure


def figures(dataset: xr.Dataset) -> dict[str, FigureKind]:
    """Return the figures of a Landau study, one film for every bank."""
    kinds = {
        "reduction-error": FigureKind(
            reduction_error_figure,
            ("field_error",),
            "Root-mean-square difference of exact and reduced slow fields (|k| ≤ π/p) over the size of the exact one, "
            "from the same noise. Where a curve ends the reduced field has left for infinity.",
        ),
        "slow-structure-factor": FigureKind(
            slow_structure_factor_figure,
            ("structure_factor_exact",),
            "Structure factor of the slow modes of the same runs. Bare coefficients ignore the modes left out, "
            "renormalised ones average over them.",
        ),
        "coefficients": FigureKind(
            coefficients_figure,
            ("r_bare",),
            "Growth of the uniform mode and cubic coefficient: at the homogeneous state (bare), and averaged over the "
            "fast modes (renormalised).",
        ),
        "ordered-states": FigureKind(
            ordered_states_figure,
            ("plateau_squared_reduced",),
            "Relaxed at frozen noise without fluctuations. Uniform modes: plateau of a domain and width of the wall "
            "between two; finite wavelengths: squared amplitude of one wave.",
        ),
    }
    for i, name in enumerate(dataset["bank"].values):
        draw = functools.partial(_film_of, number=i)
        caption = f"{name}: generation runs to the right; grey scales of the slow fields are those of the exact one."
        kinds[f"film-{name}"] = FigureKind(draw, ("film",), caption)
    return kinds


def _film_of(dataset: xr.Dataset, number: int) -> Figure:
    return reduced_film_figure(dataset.isel(bank=number))
