"""Figures in wavenumber and noise: growth rates, symbols, structure factors."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from critjax.plotting.style import (
    BLACK,
    GREEN,
    GREY,
    ORANGE,
    POINTS,
    RED,
    figure_with_axes,
    limits,
    line,
    named_level,
    noise_axis,
    plain_ticks,
    points,
    styled,
    value,
)
from critjax.studies.criticality.marks import THEORY, mark_critical, mark_unstable, title, unstable_spans


@styled
def growth_rate_figure(dataset: xr.Dataset) -> Figure:
    """Draw the growth rate over wavenumber and noise, the theoretical zero line and the measured one."""
    figure, axes = figure_with_axes()
    rate = dataset["growth_rate"]
    sigma, wavenumber = rate["sigma"].values, rate["wavenumber"].values
    values = rate.values.T
    limit = 1.0
    mesh = axes.pcolormesh(
        sigma,
        wavenumber,
        np.clip(values, -limit, limit),
        cmap="cividis",
        vmin=-limit,
        vmax=limit,
        shading="nearest",
    )
    bar = figure.colorbar(mesh, ax=axes, extend="both", pad=0.02)
    bar.set_label(r"growth rate $\Gamma$ per e-fold of $\sigma$")
    if values.min() < 0 < values.max():
        axes.contour(sigma, wavenumber, values, levels=[0.0], colors="white", linewidths=3.6)
        axes.contour(sigma, wavenumber, values, levels=[0.0], colors="black", linewidths=2.0)
        axes.plot([], [], color="black", label=r"theory: $\Gamma = 0$ (bare)")
        bar.ax.axhline(0.0, color="black", linewidth=2.0)
    if "lambda_closure_fastest" in dataset:
        offset = (dataset["lambda_closure_fastest"] - dataset["threshold"]).values.T
        if offset.min() < 0 < offset.max():
            axes.contour(
                sigma, wavenumber, offset, levels=[0.0], colors="white", linewidths=1.8, linestyles="--"
            )
            axes.plot([], [], color="white", linestyle="--", label="closure: marginal")
    if "lambda_reg_crossing" in dataset and np.any(np.isfinite(dataset["lambda_reg_crossing"])):
        axes.errorbar(
            dataset["lambda_reg_crossing"].values,
            dataset["wavenumber"].values,
            xerr=dataset["lambda_reg_crossing_error"].values,
            marker="o",
            color="white",
            ecolor="white",
            markeredgecolor="black",
            label=r"measured: $\lambda_{reg}$ marginal",
            **POINTS,
        )
    noise_axis(axes, sigma)
    mark_unstable(axes, dataset, facecolor="none", edgecolor="#FFFFFF60", hatch="//", linewidth=0, zorder=1.5)
    axes.set_ylim(0, float(wavenumber.max()))
    axes.set_ylabel(r"wavenumber $|k|$ (rad per pixel)")
    point = value(dataset, "critical_sigma_bare"), value(dataset, "critical_wavenumber_bare")
    if np.isfinite(point[0]):
        star = {
            "marker": "*",
            "markersize": 15,
            "color": ORANGE,
            "markeredgecolor": "black",
            "linestyle": "none",
        }
        axes.plot(*point, **star, label=r"$\sigma_c$, $k_c$ (bare)", clip_on=False, zorder=6)
    axes.set_title("Which wavelengths grow, and at which noise")
    if axes.get_legend_handles_labels()[1]:
        legend = axes.legend(
            loc="upper left", facecolor="#B8B8B8", framealpha=0.95, frameon=True, edgecolor="none"
        )
        legend.set_zorder(5)
    return figure


@styled
def softest_mode_figure(dataset: xr.Dataset) -> Figure:
    """Draw bare symbol, closure, regression symbol and mean Jacobian of the softest mode against noise."""
    figure, axes = figure_with_axes()
    fitted = []
    for kind in ("bare", "closure", "null"):
        if line(axes, dataset, f"lambda_{kind}_softest", **THEORY[kind]) and kind != "bare":
            fitted.append(dataset[f"lambda_{kind}_softest"].values)
    if points(
        axes,
        dataset,
        "lambda_reg_softest",
        marker="o",
        color=RED,
        label=r"$\lambda_{reg}$, simulated (drives $S$)",
    ):
        fitted.append(dataset["lambda_reg_softest"].values)
    if points(
        axes,
        dataset,
        "mean_jacobian_softest",
        marker="s",
        color=GREEN,
        markerfacecolor="white",
        label=r"mean Jacobian $\langle J\rangle$, simulated",
    ):
        fitted.append(dataset["mean_jacobian_softest"].values)
    threshold = dataset["threshold"].values
    axes.plot(dataset["sigma"].values, threshold, color=GREY, linewidth=1.0)
    axes.annotate(
        "marginal",
        (float(dataset["sigma"][0]), float(threshold[0])),
        xytext=(3, 2),
        textcoords="offset points",
        fontsize=8.5,
        color=GREY,
    )
    limits(axes, [*fitted, [0.0, 1.35]], low=-0.4, high=2.2)
    noise_axis(axes, dataset["sigma"].values)
    mark_critical(axes, dataset)
    mark_unstable(axes, dataset)
    axes.set_ylabel("symbol of the softest mode (real part)")
    title(axes, f"The softest mode, {_mode_name(dataset)}: when it stops decaying")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _mode_name(dataset: xr.Dataset) -> str:
    wavenumber = value(dataset, "critical_wavenumber_bare")
    return "k = 0" if not wavenumber > 1e-9 else f"|k| = {wavenumber:.3g} rad/px"


@styled
def structure_factor_figure(dataset: xr.Dataset) -> Figure:
    """Draw the structure factor at several noise levels with linear theory and the Gaussian closure."""
    figure, axes = figure_with_axes()
    sigma = dataset["sigma"].values
    critical = value(dataset, "critical_sigma_bare")
    reference = critical if np.isfinite(critical) else sigma[0] / np.sqrt(6)
    ratios = [r for r in (4.0, 2.0, 1.0, 0.5, 0.2) if sigma[-1] <= np.sqrt(r) * reference <= sigma[0]]
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.82, max(len(ratios), 1)))
    markers = "osD^v"
    wavenumber = dataset["wavenumber"].values
    shown = []
    closure, spans, left = dataset.get("structure_factor_closure"), unstable_spans(dataset), []
    for i, ratio in enumerate(ratios):
        level = int(np.argmin(np.abs(np.log(sigma / (np.sqrt(ratio) * reference)))))
        scale = sigma[level] ** 2
        label = rf"$\sigma^2/\sigma_c^2 = {(sigma[level] / reference) ** 2:.2g}$"
        left.append(any(high >= sigma[level] >= low for high, low in spans))
        axes.plot(
            wavenumber,
            dataset["structure_factor_linear"].values[level] / scale,
            color=colours[i],
            linewidth=1.5,
            linestyle=":" if left[-1] else "-",
        )
        if closure is not None:
            curve = closure.values[level] / scale
            axes.plot(wavenumber, curve, color=colours[i], linewidth=1.5, linestyle="--")
        if "structure_factor_cleaned" in dataset:
            values = dataset["structure_factor_cleaned"].values[level] / scale
            error = dataset["structure_factor_cleaned_error"].values[level] / scale
            axes.errorbar(
                wavenumber, values, error, marker=markers[i], color=colours[i], label=label, **POINTS,
                markerfacecolor="white" if i % 2 else colours[i],
            )  # fmt: skip
            shown.append(values)
    if shown:
        top, bottom = max(float(np.nanmax(v)) for v in shown), min(float(np.nanmin(v)) for v in shown)
        axes.set_ylim(max(bottom, 1e-4) / 1.6, top * 1.6)
    axes.set_yscale("log")
    named_level(axes, 1.0, "white noise", below=True)
    axes.set_xlabel(r"wavenumber $|k|$ (rad per pixel)")
    axes.set_ylabel(r"structure factor $S(k)/\sigma^2$")
    axes.set_title("Structure factor: what grows, and what theory says")
    axes.plot([], [], color=GREY, linewidth=1.5, label="linear theory")
    if any(left):
        axes.plot([], [], color=GREY, linewidth=1.5, linestyle=":", label="the same, uniform state unstable")
    if closure is not None:
        axes.plot([], [], color=GREY, linewidth=1.5, linestyle="--", label="Gaussian closure")
    figure.legend(loc="outside lower center", ncols=3, title="points: simulation" if shown else None)
    return figure


@styled
def linear_check_figure(dataset: xr.Dataset) -> Figure:
    """Draw the structure factor of simulation and closure over linear theory for the ten wavenumbers checked."""
    figure, axes = figure_with_axes()
    sigma = dataset["sigma"].values
    ratio, error = dataset["linear_ratio"].values, dataset["linear_ratio_error"].values
    wavenumber = dataset["checked_wavenumber"].values
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(wavenumber)))
    for i in range(len(wavenumber)):
        label = (
            rf"$|k| = {wavenumber[i]:.2g}$" if i in (0, len(wavenumber) // 2, len(wavenumber) - 1) else None
        )
        axes.errorbar(sigma, ratio[:, i], error[:, i], marker="o", color=colours[i], label=label, **POINTS)
        if "closure_ratio" in dataset:
            curve = dataset["closure_ratio"].values[:, i]
            axes.plot(sigma, curve, color=colours[i], linewidth=1.2, linestyle="--")
    if "closure_ratio" in dataset:
        axes.plot([], [], color=GREY, linewidth=1.2, linestyle="--", label="Gaussian closure")
    axes.axhspan(0.95, 1.05, color="#DDDDDD", zorder=0, label="5 per cent")
    axes.axhline(1.0, color=BLACK, linewidth=1.4, label="linear theory")
    axes.set_yscale("log")
    low, high = np.nanmin(ratio[np.isfinite(ratio) & (ratio > 0)]), np.nanmax(ratio[np.isfinite(ratio)])
    axes.set_ylim(min(max(low, 0.04) / 1.15, 0.6), max(1.2, min(high, 10) * 1.15))
    plain_ticks(axes.yaxis)
    noise_axis(axes, sigma)
    mark_critical(axes, dataset)
    mark_unstable(axes, dataset)
    axes.set_ylabel("S(k) / linear theory")
    near = "smallest wavenumbers" if wavenumber[0] == 0 else "wavenumbers nearest to $k_c$"
    title(axes, f"Where linear theory holds: the ten {near}")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
