"""Figures of fields and ensembles: correlation lengths, films, order, condensation, other banks."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from critjax.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    figure_with_axes,
    heading,
    level_title,
    limits,
    line,
    named_level,
    noise_axis,
    picture_panel,
    points,
    styled,
    value,
)
from critjax.studies.criticality.marks import mark_critical, mark_unstable, title

GAUSSIAN = 3.0  # kurtosis of a Gaussian field


@styled
def correlation_length_figure(dataset: xr.Dataset) -> Figure:
    """Draw the correlation lengths of raw, sign and denoised fields beside those of theory."""
    figure, axes = figure_with_axes()
    measured = (
        ("xi_raw", "o", RED, RED, "raw field, 1/e"),
        ("xi_sign", "^", ORANGE, "white", "sign field, 1/e"),
        ("xi_denoised", "s", GREEN, "white", "denoised field, 1/e"),
        ("xi_second_moment", "D", PURPLE, PURPLE, "second moment of S"),
    )
    heights = [np.zeros(1)]
    for name, marker, colour, face, label in measured:
        if points(axes, dataset, name, marker=marker, color=colour, markerfacecolor=face, label=label):
            heights.append(dataset[name].values)
    style = {"bare": {"color": BLACK, "linestyle": "-"}, "closure": {"color": BLUE, "linestyle": "--"}}
    line(axes, dataset, "xi_eq_bare", label=r"$\xi_{eq}=\sqrt{K/|r|}$, bare", **style["bare"])
    line(axes, dataset, "xi_eq_closure", label=r"$\xi_{eq}$, closure", **style["closure"])
    swept = {"color": PURPLE, "linestyle": (0, (3, 1.2)), "label": "second moment, closure"}
    line(axes, dataset, "xi_second_moment_closure", **swept)
    top = max(float(np.nanmax(h)) for h in heights if np.any(np.isfinite(h)))
    top = max(1.35 * top, 2.0)
    axes.set_ylim(0, top)
    if "xi_eq_measured" in dataset:  # it diverges: what is beyond the axis would leave its error bar there
        inside = dataset.assign(
            xi_eq_measured=dataset["xi_eq_measured"].where(dataset["xi_eq_measured"] < top)
        )
        name = r"$\xi_{eq}$ of $\lambda_{reg}$"
        points(axes, inside, "xi_eq_measured", marker="v", color=BLUE, markerfacecolor="white", label=name)
    noise_axis(axes, dataset["sigma"].values)
    mark_critical(axes, dataset)
    mark_unstable(axes, dataset)
    axes.set_ylabel("correlation length (pixels)")
    title(axes, "Correlation lengths: what swept fields show of the divergence")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def film_strip_figure(dataset: xr.Dataset) -> Figure:
    """Show samples, their denoised fields and reduced models from the first one's noise, as noise falls."""
    x, denoised = dataset["film_x"].values, dataset["film_denoised"].values
    sigma = dataset["film_sigma"].values
    count = min(2, len(x))
    reduced = [
        (f"reduced,\n{kind}", dataset[name].values)
        for kind, name in (("bare", "film_reduced"), ("closure", "film_closure"))
        if name in dataset
    ]
    # (name, one picture a level, half the range of the grey scale at each level)
    widening, rows = np.maximum(1.0, 2.0 * sigma), []
    for sample in range(count):
        rows.append(("x", x[sample], widening))
        rows.append(("D(x)", denoised[sample], np.ones_like(sigma)))
        for name, fields in reduced if sample == 0 else ():
            spread = np.sqrt((fields**2).mean((1, 2)))
            rows.append((name, fields[..., None], 2 * np.where(spread > 0, spread, 1.0)))
    figure = Figure(figsize=(9.2, 1.12 * len(rows) + 0.75), layout="constrained")
    axes = figure.subplots(len(rows), len(sigma), squeeze=False)
    for row, (name, pictures, widths) in enumerate(rows):
        for column, panel in enumerate(axes[row]):
            picture_panel(panel, pictures[column], float(widths[column]))
            if row == 0:
                level_title(panel, sigma[column])
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    heading(figure, "Samples x (grey scale widens with the noise) and denoised fields D(x)")
    return figure


@styled
def gaussianity_figure(dataset: xr.Dataset) -> Figure:
    """Draw the kurtosis of the soft modes beside the closure's own estimate of it."""
    figure, axes = figure_with_axes(7.2, 3.8)
    measured = dataset["soft_kurtosis"].values
    named_level(axes, GAUSSIAN, "Gaussian", colour=BLACK, linestyle="-", below=True)
    axes.axhspan(GAUSSIAN - 0.3, GAUSSIAN + 0.3, color="#DDDDDD", zorder=0, label=r"3 $\pm$ 0.3")
    if line(
        axes,
        dataset,
        "kurtosis_closure",
        color=BLUE,
        linestyle="--",
        label="closure, first order beyond Gaussian",
    ):
        curve, error = (dataset[f"kurtosis_closure{end}"].values for end in ("", "_error"))
        band = {"color": BLUE, "alpha": 0.2, "linewidth": 0}
        axes.fill_between(dataset["sigma"].values, curve - error, curve + error, **band)
    points(axes, dataset, "soft_kurtosis", marker="o", color=RED, label=r"simulated, modes $|k| \leq 2\pi/p$")
    limits(axes, [measured, [2.0, 4.0]], low=0.8, high=9.0)
    noise_axis(axes, dataset["sigma"].values)
    mark_critical(axes, dataset)
    axes.set_ylabel(r"kurtosis $\langle\psi^4\rangle/\langle\psi^2\rangle^2$")
    title(axes, "Gaussianity: where the premise of the closure fails")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def bank_spread_figure(dataset: xr.Dataset) -> Figure:
    """Show this random bank's critical noise within the distribution over banks of the same kind."""
    figure, axes = figure_with_axes(7.2, 3.4)
    uniform, softest = dataset["draw_critical_uniform"].values, dataset["draw_critical_softest"].values
    edges = np.linspace(min(0.0, uniform.min()), max(uniform.max(), softest.max()) * 1.02, 32)
    axes.hist(uniform, edges, color=BLUE, alpha=0.75, label="uniform mode, k = 0")
    axes.hist(
        softest, edges, histtype="step", color=ORANGE, hatch="///", linewidth=1.5, label="softest mode, any k"
    )
    axes.axvline(value(dataset, "mean_field_squared"), color=BLACK, label=r"mean field, $1 + (P-1)/(M+1)$")
    for name, style, label in (
        ("bank_critical_uniform_squared", (0, (1, 1)), "this bank, k = 0"),
        ("bank_critical_softest_squared", "--", "this bank, softest mode"),
    ):
        axes.axvline(value(dataset, name), color=RED, linestyle=style, label=label)
    axes.set_xlabel(r"bare critical noise $\sigma_c^2$ (image units squared)")
    axes.set_ylabel("random banks")
    axes.set_title(f"This bank among {uniform.size} random ones")
    axes.legend(loc="upper right")
    return figure


@styled
def order_figure(dataset: xr.Dataset) -> Figure:
    """Draw the Binder cumulant and the wall density as the noise falls."""
    figure, (top, bottom) = figure_with_axes(7.2, 4.6, nrows=2, sharex=True)
    points(top, dataset, "binder", marker="o", color=BLUE)
    named_level(top, 0.0, "Gaussian: no order", below=True, gap=14.0)
    named_level(top, 2 / 3, "two ordered states", linestyle=(0, (4, 2)))
    top.set_ylim(min(-0.25, float(np.nanmin(dataset["binder"])) - 0.05), 0.85)
    top.set_ylabel("Binder cumulant\nof the spatial mean")
    points(bottom, dataset, "wall_density", marker="s", color=GREEN, markerfacecolor="white")
    bottom.set_ylim(0, None)
    bottom.set_ylabel("wall density of D\n(fraction of bonds)")
    noise_axis(bottom, dataset["sigma"].values)
    mark_critical(top, dataset)
    mark_critical(bottom, dataset, labels=False)
    title(top, "Order: does the whole image choose one sign?")
    return figure


@styled
def condensation_figure(dataset: xr.Dataset) -> Figure:
    """Draw the effective number of patches that share the posterior along real trajectories."""
    figure, axes = figure_with_axes(7.2, 3.6)
    points(
        axes,
        dataset,
        "effective_patches",
        marker="o",
        color=PURPLE,
        label="simulated, geometric mean over pixels",
    )
    axes.set_yscale("log")
    number = value(dataset, "num_patches")
    if np.isfinite(number):
        named_level(axes, number, f"all {number:.0f} patches", colour=BLACK, linestyle="-")
        axes.set_ylim(0.8, 2.2 * number)
    named_level(axes, 1.0, "one patch")
    noise_axis(axes, dataset["sigma"].values)
    mark_critical(axes, dataset)
    axes.set_ylabel("effective number of patches")
    title(axes, "Condensation: how many patches still compete")
    return figure
