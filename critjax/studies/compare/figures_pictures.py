"""Pictures of the comparison study: trajectories from the same noise, eigenmodes, mean kernels."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from critjax.plotting.style import GREY, picture_panel, styled

_FILM_COLUMNS = 9
#: Imaginary part of an eigenvalue that is shown.
_TURNING = 0.005


def _bare(panel: Axes) -> None:
    """Take ticks off, and draw a thin frame: kernels and modes fade to white at the edge."""
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)
        spine.set_color(GREY)


@styled
def film_figure(dataset: xr.Dataset) -> Figure:
    """Show one trajectory of each denoiser from the same noise, as denoised fields."""
    film, sigma = dataset["film"].values[:, 0], dataset["film_sigma"].values
    columns = np.unique(np.rint(np.linspace(0, len(sigma) - 1, _FILM_COLUMNS)).astype(int))
    figure = Figure(figsize=(9.2, 0.98 * len(film) + 0.5), layout="constrained")
    axes = figure.subplots(len(film), len(columns), squeeze=False)
    for row, name in enumerate(dataset["film_row"].values):
        for column, level in enumerate(columns):
            picture_panel(axes[row, column], film[row, level], 1.0)
            if row == 0:
                axes[row, column].set_title(
                    rf"$\sigma={sigma[level]:.2g}$", fontsize=9, fontweight="normal", loc="center"
                )
        axes[row, 0].set_ylabel(str(name), rotation=0, ha="right", va="center")
    figure.suptitle("Denoised fields from the same noise", fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure


@styled
def modes_figure(dataset: xr.Dataset) -> Figure:
    """Show the leading eigenmodes of the Jacobian at one noised image."""
    modes, sigma = dataset["mode"].values, dataset["mode_sigma"].values
    figure = Figure(figsize=(1.25 * modes.shape[1] + 1.2, 1.5 * len(modes) + 0.5), layout="constrained")
    axes = figure.subplots(*modes.shape[:2], squeeze=False)
    for row in range(len(modes)):
        for column in range(modes.shape[1]):
            panel, mode = axes[row, column], modes[row, column]
            width = float(np.abs(mode).max()) or 1.0
            panel.imshow(mode, cmap="RdBu_r", vmin=-width, vmax=width, interpolation="nearest")
            _bare(panel)
            value, frequency = (
                float(dataset[name].values[row, column]) for name in ("mode_eigenvalue", "mode_frequency")
            )
            # Both modes of a complex pair have the same real part.
            turning = f"{frequency:+.2f}i" if abs(frequency) >= _TURNING else ""
            title = rf"$\lambda={value:.2f}{turning}$"
            panel.set_title(title, fontsize=8.5, fontweight="normal", loc="center")
        axes[row, 0].set_ylabel(rf"$\sigma={sigma[row]:.2g}$", rotation=0, ha="right", va="center")
    text = "Leading eigenmodes of the Jacobian at one noised image"
    figure.suptitle(text, fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure


@styled
def kernel_figure(dataset: xr.Dataset) -> Figure:
    """Show the mean kernel at several noise levels."""
    part = dataset.sel(ensemble="noised data")
    levels = np.unique(np.rint(np.linspace(0, part.sizes["sigma"] - 1, 7)).astype(int))
    figure = Figure(figsize=(9.2, 1.9), layout="constrained")
    axes = figure.subplots(1, len(levels), squeeze=False)[0]
    for panel, level in zip(axes, levels, strict=True):
        kernel = part["kernel"].values[level]
        width = float(np.abs(kernel).max()) or 1.0
        panel.imshow(kernel, cmap="RdBu_r", vmin=-width, vmax=width, interpolation="nearest")
        _bare(panel)
        panel.set_title(
            rf"$\sigma={part['sigma'].values[level]:.2g}$", fontsize=9, fontweight="normal", loc="center"
        )
    text = "Mean kernel of the Jacobian, each on its own scale"
    figure.suptitle(text, fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure
