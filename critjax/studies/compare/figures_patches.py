"""Figures of the comparison study that set a denoiser beside patch models: errors, losses, what they miss."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from critjax.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    RED,
    figure_with_axes,
    legend_below,
    noise_axis,
    plain,
    styled,
)
from critjax.studies.compare.nearest import nearest_patch_models


@styled
def patch_error_figure(dataset: xr.Dataset) -> Figure:
    """Draw the relative error between denoiser and patch models of every size against noise."""
    figure, panels = figure_with_axes(10.0, 4.6, ncols=dataset.sizes["model"], sharey=True)
    sizes, sigma = dataset["size"].values, dataset["level_sigma"].values
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.9, len(sizes)))
    for axes, model in zip(panels, dataset["model"].values, strict=True):
        part = dataset.sel(model=model)
        for colour, size, marker in zip(colours, sizes, "osD^vP*X<>" * 3, strict=False):
            one = part.sel(size=size)
            axes.errorbar(
                sigma,
                one["relative_error"].values,
                one["relative_error_error"].values,
                color=colour,
                marker=marker,
                markersize=3.5,
                linewidth=1.1,
                label=f"p = {size}" if axes is panels[0] else None,
            )
        best = part["relative_error"].values.min(-1)
        ring = {"marker": "o", "markersize": 11, "fillstyle": "none", "color": BLACK, "linestyle": "none"}
        axes.plot(sigma, best, label="best size" if axes is panels[0] else None, **ring)
        ideal = part["relative_error_ideal"].values
        axes.plot(sigma, ideal, color=GREY, linestyle="--", label="ideal" if axes is panels[0] else None)
        axes.set_title(f"{model} models", fontsize=10)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(plain))
        axes.yaxis.set_minor_formatter(NullFormatter())
        noise_axis(axes, sigma)
        axes.set_xlabel(r"noise $\sigma$ (image units)")
    panels[0].set_ylabel("relative error to the network")
    figure.suptitle(
        "Which patch model explains the network", fontsize=11, fontweight="bold", x=0.01, ha="left"
    )
    legend_below(figure, panels[0], 5)
    return figure


@styled
def beyond_patches_figure(dataset: xr.Dataset) -> Figure:
    """Draw what the nearest patch model misses of the denoiser, as fractions, against noise."""
    figure, axes = figure_with_axes(7.6, 4.2)
    nearest = nearest_patch_models(dataset)
    sigma = nearest["level_sigma"].values
    curves = [
        (1 - nearest["explained"], "explained", "variance unexplained, $1-r^2$", RED, "o", "-"),
        (
            nearest["relative_advantage"],
            "relative_advantage",
            "loss saved against all patch models",
            BLUE,
            "s",
            "--",
        ),
    ]
    if "weight_outside" in nearest:
        curves.append(
            (nearest["weight_outside"], "weight_outside", "Jacobian outside the window", GREEN, "D", "-.")
        )
    for values, name, label, colour, marker, style in curves:
        axes.errorbar(
            sigma,
            values,
            nearest[f"{name}_error"].values,
            color=colour,
            marker=marker,
            markersize=4.5,
            linestyle=style,
            label=label,
        )
    axes.axhline(0.0, color=BLACK, linewidth=0.8)
    noise_axis(axes, sigma)
    axes.set_ylabel("fraction")
    axes.set_title("What the nearest patch model misses of the network")
    legend_below(figure, axes)
    return figure


@styled
def loss_figure(dataset: xr.Dataset) -> Figure:
    """Draw the denoising loss on the noised images against noise."""
    figure, axes = figure_with_axes(6.6, 4.4)
    sigma = dataset["level_sigma"].values
    for name, colour, marker, style, label in (
        ("loss_network", RED, "o", "-", "network"),
        ("loss_ideal", GREY, "x", "--", "ideal denoiser of the bank"),
    ):
        axes.errorbar(
            sigma,
            dataset[name],
            dataset[f"{name}_error"],
            color=colour,
            marker=marker,
            linestyle=style,
            label=label,
        )
    for model, colour, marker in (("ELS", GREEN, "D"), ("LS", PURPLE, "^")):
        part = dataset.sel(model=model)
        best = part["loss"].values.argmin(-1)
        pick = np.arange(len(sigma)), best
        axes.errorbar(
            sigma,
            part["loss"].values[pick],
            part["loss_error"].values[pick],
            color=colour,
            marker=marker,
            linestyle="-.",
            label=f"{model}, best size",
        )
    axes.set_yscale("log")
    noise_axis(axes, sigma)
    axes.set_ylabel("mean squared error per pixel")
    axes.set_title("Denoising loss on the noised images")
    axes.legend()
    return figure
