"""Figures of the comparison study: a denoiser beside patch models, Gaussian model and closure; pictures."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from critjax.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    POINTS,
    RED,
    FigureKind,
    figure_with_axes,
    legend_below,
    limits,
    named_level,
    noise_axis,
    picture_panel,
    styled,
)
from critjax.studies.compare.figures_patches import beyond_patches_figure, loss_figure, patch_error_figure
from critjax.studies.compare.nearest import nearest_patch_models

_ENSEMBLES = {"trajectories": (RED, "o", RED), "noised data": (ORANGE, "s", "white")}
#: Noise levels side by side.
_COLUMNS = 4
#: Sampling error from which the closure's symbol is not drawn.
_KNOWN = 0.3
_FILM_COLUMNS = 9
#: Imaginary part of an eigenvalue that is shown.
_TURNING = 0.005


def window_radius(size: np.ndarray) -> np.ndarray:
    """Root mean square distance from the centre of a full p x p window: a window as an effective radius."""
    return np.sqrt((np.asarray(size, float) ** 2 - 1) / 6)


def _ensembles(axes: Axes, dataset: xr.Dataset, name: str, label: str) -> None:
    for ensemble, (colour, marker, face) in _ENSEMBLES.items():
        part = dataset.sel(ensemble=ensemble)
        axes.errorbar(
            part["sigma"].values,
            part[name].values,
            part[f"{name}_error"].values,
            color=colour,
            marker=marker,
            markerfacecolor=face,
            label=f"{label}, {ensemble}",
            **POINTS,
        )


def _patch(
    axes: Axes, sigma: np.ndarray, values: np.ndarray, errors: np.ndarray, gaussian: np.ndarray
) -> None:
    """Draw the nearest patch model and the Gaussian model."""
    style = {"color": GREEN, "marker": "D", "markersize": 4, "linestyle": "-.", "linewidth": 1.2}
    axes.errorbar(sigma, values, errors, label="nearest patch model", **style)
    axes.plot(sigma, gaussian, color=GREY, linestyle=(0, (1, 1.2)), label="Gaussian model")


@styled
def softening_figure(dataset: xr.Dataset) -> Figure:
    """Draw the uniform mode of the regression symbol and of the mean Jacobian against noise."""
    figure, (left, right) = figure_with_axes(10.0, 4.8, ncols=2)
    _ensembles(left, dataset, "regression_uniform", "network")
    if "regression_uniform_closure" in dataset:
        values = dataset["regression_uniform_closure"].values
        error = dataset["regression_uniform_closure_error"].values
        left.plot(dataset["sigma"].values, values, color=BLUE, linestyle="--", label="Gaussian closure")
        band = {"color": BLUE, "alpha": 0.15, "linewidth": 0}
        left.fill_between(dataset["sigma"].values, values - error, values + error, **band)
    named_level(left, 1.0, "marginal", colour=BLACK, side="left")
    left.set_ylabel(r"$\lambda_{reg}(k=0)$")
    left.set_title("What drives the structure factor", fontsize=10)
    _ensembles(right, dataset, "mean_jacobian_uniform", "network")
    if "mean_jacobian_patch" in dataset:
        uniform = dataset.isel(wavenumber=0)
        names = ("mean_jacobian_patch", "mean_jacobian_patch_error", "mean_jacobian_gaussian")
        _patch(right, dataset["level_sigma"].values, *(uniform[name].values for name in names))
    named_level(right, 1.0, "marginal", colour=BLACK, side="left")
    right.set_ylabel(r"$\lambda(k=0)$ of the mean Jacobian")
    right.set_title("Response to a uniform push", fontsize=10)
    for axes in (left, right):
        noise_axis(axes, dataset["sigma"].values)
        axes.set_xlabel(r"noise $\sigma$ (image units)")
    handles, names = right.get_legend_handles_labels()
    more = [pair for pair in zip(*left.get_legend_handles_labels(), strict=True) if pair[1] not in names]
    handles, names = handles + [h for h, _ in more], names + [n for _, n in more]
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8.5)
    figure.suptitle("Softening of the uniform mode", fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def reach_figure(dataset: xr.Dataset) -> Figure:
    """Draw how far the denoiser sees, and how far its response reaches, against noise."""
    figure, (left, right) = figure_with_axes(10.0, 4.6, ncols=2)
    _ensembles(left, dataset, "receptive_radius", "network")
    if "best_size" in dataset:
        part = dataset.sel(model="ELS")
        size, low, high = (window_radius(part[f"best_size{s}"].values) for s in ("", "_low", "_high"))
        left.errorbar(
            part["level_sigma"].values,
            size,
            np.stack([size - low, high - size]),
            color=GREEN,
            marker="D",
            markersize=4.5,
            linestyle="-.",
            linewidth=1.2,
            label=r"best window $p^*$ as a radius",
        )
        for sigma, radius, window in zip(
            part["level_sigma"].values, size, part["best_size"].values, strict=True
        ):
            left.annotate(
                f"{int(window)}",
                (sigma, radius),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=8,
                color=GREEN,
            )
    left.set_ylabel("radius (pixels)")
    left.set_ylim(bottom=0)
    left.set_title("Effective receptive field", fontsize=10)
    left.legend(fontsize=8.5)
    _ensembles(right, dataset, "xi_eq", "network")
    if "xi_eq_patch" in dataset:
        names = ("xi_eq_patch", "xi_eq_patch_error", "xi_eq_gaussian")
        _patch(right, dataset["level_sigma"].values, *(dataset[name].values for name in names))
    if "xi_eq_closure" in dataset:
        known = dataset["xi_eq_closure"].where(dataset["gap_closure_error"] < _KNOWN)
        right.plot(dataset["sigma"], known, color=BLUE, linestyle="--", label="Gaussian closure")
    right.set_ylabel(r"$\xi_{eq}=\sqrt{K/|gap|}$ (pixels)")
    right.set_title("Quasi-equilibrium correlation length", fontsize=10)
    lengths = dataset["xi_eq"].values
    clear = lengths[dataset["xi_eq_error"].values < 0.5 * lengths]
    others = dataset.get("xi_eq_gaussian", xr.DataArray(0.0)).values
    limits(right, [lengths, others], low=0.0, high=max(6.0, *clear))
    right.legend(fontsize=8.5, frameon=True, framealpha=0.85, edgecolor="none")
    for axes in (left, right):
        noise_axis(axes, dataset["sigma"].values)
        axes.set_xlabel(r"noise $\sigma$ (image units)")
    return figure


def _at(dataset: xr.Dataset, sigma: float) -> xr.Dataset:
    """Interpolate the network's symbols and those of the closure linearly in ln sigma."""
    names = ("mean_jacobian", "regression_closure")
    kept = [n for n in dataset.data_vars if str(n).removesuffix("_error") in names]
    on_logs = dataset[kept].assign_coords(sigma=np.log(dataset["sigma"].values))
    return on_logs.interp(sigma=np.log(sigma))


@styled
def comparison_dispersion_figure(dataset: xr.Dataset) -> Figure:
    """Draw lambda(k) of network, best patch model, Gaussian model and closure at several noise levels."""
    levels, nearest = dataset["level_sigma"].values, nearest_patch_models(dataset)
    columns = min(len(levels), _COLUMNS)
    rows = -(-len(levels) // columns)
    figure, panels = figure_with_axes(
        2.6 * columns + 0.6,
        2.8 * rows + 1.2,
        nrows=rows,
        ncols=columns,
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    k = dataset["wavenumber"].values
    for axes in panels.flat[len(levels) :]:
        axes.set_axis_off()
    for index, axes in enumerate(panels.flat[: len(levels)]):
        part = _at(dataset, float(levels[index])).sel(ensemble="noised data")
        model = nearest.isel(level_sigma=index)
        axes.errorbar(
            k,
            part["mean_jacobian"],
            part["mean_jacobian_error"],
            color=ORANGE,
            marker="s",
            label="network",
            **POINTS,
        )
        axes.errorbar(
            k,
            dataset["mean_jacobian_patch"].values[index],
            dataset["mean_jacobian_patch_error"].values[index],
            color=GREEN,
            marker="D",
            label="nearest patch model",
            **POINTS,
        )
        axes.plot(k, dataset["mean_jacobian_gaussian"].values[index], color=GREY, linestyle=(0, (1, 1.2)), label=(
            "Gaussian model"))  # fmt: skip
        if "regression_closure" in dataset:
            closure = part["regression_closure"].where(part["regression_closure_error"] < _KNOWN)
            axes.plot(k, closure, color=BLUE, linestyle="--", label="Gaussian closure")
        named_level(axes, 1.0, "marginal" if axes is panels[0, 0] else "", colour=BLACK)
        axes.set_title(
            rf"$\sigma={levels[index]:.2g}$: {model['model'].item()}, {int(model['size'])} px", fontsize=10
        )
        if index + columns >= len(levels):
            axes.set_xlabel(r"$|k|$ (rad per pixel)")
    for axes in panels[:, 0]:
        axes.set_ylabel(r"$\lambda(k)$ of the mean Jacobian")
    limits(panels[0, 0], [dataset["mean_jacobian"].values, [0.0, 1.0]], low=-0.3, high=1.6)
    legend_below(figure, panels[0, 0], 4)
    return figure


@styled
def film_correlation_figure(dataset: xr.Dataset) -> Figure:
    """Draw the pixelwise correlation between the trajectories against noise."""
    figure, axes = figure_with_axes(6.6, 3.8)
    for other, colour, marker in zip(dataset["film_other"].values, (GREEN, GREY), "Dx", strict=True):
        part = dataset.sel(film_other=other)
        axes.errorbar(
            part["film_sigma"].values,
            part["film_correlation"].values,
            part["film_correlation_error"].values,
            color=colour,
            marker=marker,
            markersize=4,
            label=f"network and {other}",
        )
    noise_axis(axes, dataset["film_sigma"].values)
    axes.set_ylim(top=1.02)
    axes.set_ylabel("pixelwise correlation of D(x)")
    axes.set_title("From the same noise: who follows the network")
    axes.legend()
    return figure


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


FIGURES: dict[str, FigureKind] = {
    "softening": FigureKind(
        softening_figure,
        ("regression_uniform",),
        "Left: symbol of the regression of D on x at k = 0, on the network's own trajectories and on noised images, "
        "with the Gaussian closure computed from the network alone. Right: symbol of the mean Jacobian at k = 0, whose "
        "distance to one is the gap, with the nearest patch model and the Gaussian model with the spectrum of the "
        "images.",
    ),
    "patch-errors": FigureKind(
        patch_error_figure,
        ("relative_error",),
        "Root-mean-square difference between the network and patch models on the same noised images, over the spread "
        "of the network's output. Its square is the part of the variance that is left unexplained.",
    ),
    "beyond-patches": FigureKind(
        beyond_patches_figure,
        ("relative_error",),
        "At every noise level, against the patch model of any kind and size that is nearest to the network: the share "
        "of the variance of the network's output that it leaves unexplained; the share of the absolute weight of the "
        "network's Jacobian outside its window; and the share of the smallest loss of a patch model that the network "
        "avoids (below zero: a patch model denoises better).",
    ),
    "reach": FigureKind(
        reach_figure,
        ("receptive_radius",),
        "Left: effective radius of the mean kernel; the window that explains the network best, as the root-mean-square "
        "radius of a full window (numbers: its size; bars: sizes that are best when one image is left out). Right: "
        "quasi-equilibrium length of a parabola through k = 0 and the lowest shell of the symbol, which need not be "
        "one.",
    ),
    "dispersion": FigureKind(
        comparison_dispersion_figure,
        ("mean_jacobian_patch",),
        "Symbol of the mean Jacobian on noised images, shell by shell, interpolated in ln sigma to the levels of the "
        "patch model that is nearest to the network, which saw the first of these images with other noise; the "
        "Gaussian model, and the symbol of the Gaussian closure where its sampling error is below 0.3.",
    ),
    "losses": FigureKind(
        loss_figure,
        ("loss_network",),
        "Mean squared error against the clean images, per pixel. The best sizes are chosen on these images.",
    ),
    "films": FigureKind(
        film_figure,
        ("film",),
        "Probability flow of network, ELS model of the best size at every noise, and ideal denoiser.",
    ),
    "film-correlation": FigureKind(
        film_correlation_figure,
        ("film_correlation",),
        "Correlation over pixels between denoised fields of trajectories that started from the same noise.",
    ),
    "kernels": FigureKind(
        kernel_figure, ("kernel",), "Mean of the Jacobian's columns at random pixels of noised images."
    ),
    "eigenmodes": FigureKind(
        modes_figure,
        ("mode",),
        "Modes with the largest real part of the eigenvalue, by Arnoldi's method; the real part is shown.",
    ),
}


def figures(dataset: xr.Dataset) -> dict[str, FigureKind]:
    """Return the figures of a compare study."""
    return FIGURES
