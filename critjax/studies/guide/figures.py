"""Figures of the guidance study: response against the position of a pulse, schedules compared, images."""

from __future__ import annotations

import json

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
    PURPLE,
    RED,
    FigureKind,
    figure_with_axes,
    legend_below,
    named_level,
    noise_axis,
    picture_panel,
    styled,
)

_BUDGETS = ((RED, "o"), (PURPLE, "s"), (ORANGE, "^"), (GREEN, "D"))
_THEORY = {
    "linear": ("linear theory", {"color": BLACK, "linestyle": "-"}),
    "closure": ("Gaussian closure", {"color": BLUE, "linestyle": "--"}),
    "regression": ("regression on own trajectories", {"color": GREEN, "linestyle": "-."}),
    "image": ("exact for small pulses", {"color": ORANGE, "linestyle": "-"}),
    "amplitude": ("derivatives of single images", {"color": GREY, "linestyle": ":"}),
}
_RESPONSE_THEORY = {
    "class": ("exact for small pulses", {"color": BLACK, "linestyle": "-"}),
    "response": ("derivatives of single images", {"color": BLUE, "linestyle": "--"}),
}
_SHOWN = 10


def _window_band(axes: Axes, dataset: xr.Dataset) -> None:
    low, high = float(dataset["window_sigma_low"]), float(dataset["window_sigma_high"])
    if np.isfinite(low) and np.isfinite(high):
        axes.axvspan(high, low, color=BLUE, alpha=0.08, linewidth=0, label="recommended window")
        axes.axvline(float(dataset["window_centre"]), color=BLUE, linewidth=1.0, zorder=0.5)


@styled
def response_figure(dataset: xr.Dataset) -> Figure:
    """Draw response and diversity against the position of a pulse, with the gap below on the same axis."""
    figure, (top, middle, bottom) = figure_with_axes(7.6, 8.2, nrows=3, sharex=True)
    position = dataset["position_sigma"].values
    pulses = [str(a) for a in dataset["arm"].values if str(a).startswith("pulse")]
    for (colour, marker), budget in zip(_BUDGETS, dataset["budget"].values, strict=False):
        part = dataset.sel(budget=budget)
        style = {**POINTS, "color": colour, "marker": marker, "label": f"budget {budget:g}"}
        top.errorbar(position, part["pulse_response"], part["pulse_response_error"], **style)
        arms = part.sel(arm=pulses)
        middle.errorbar(position, arms["diversity"], arms["diversity_error"], **style)
    for name, (label, style) in _RESPONSE_THEORY.items():
        if f"predicted_{name}" in dataset:
            top.plot(position, dataset[f"predicted_{name}"].isel(budget=0), label=label, **style)
    top.axhline(0, color=GREY, linewidth=0.8)
    top.set_ylabel("response\nper unit of budget")
    none = dataset.isel(budget=0).sel(arm="none")
    if np.isfinite(float(none["diversity"])):
        named_level(middle, float(none["diversity"]), "no guidance", colour=BLACK)
    if "real_diversity" in dataset:
        named_level(middle, float(dataset["real_diversity"]), "real images", colour=GREEN, side="left")
    middle.set_ylabel("diversity\n(variance within classes)")
    style = {**POINTS, "color": RED, "marker": "o", "label": "unguided model"}
    bottom.errorbar(dataset["sigma"], dataset["gap"], dataset["gap_error"], **style)
    named_level(bottom, 0.0, "marginal", colour=BLACK)
    bottom.set_ylabel("gap of the uniform mode\n" + r"$1-\lambda(0)$, mean Jacobian")
    for axes in (top, middle, bottom):
        noise_axis(axes, dataset["sigma"].values)
        _window_band(axes, dataset)
        if axes is not bottom:
            axes.set_xlabel("")
    top.legend(fontsize=8.5)
    top.set_title(f"Where a pulse changes the {dataset.attrs['response']}", fontsize=10)
    return figure


@styled
def prediction_figure(dataset: xr.Dataset) -> Figure:
    """Draw the measured change of the class mode's amplitude beside its predictions."""
    figure, axes = figure_with_axes(7.6, 4.6)
    position = dataset["position_sigma"].values
    for (colour, marker), budget in zip(_BUDGETS, dataset["budget"].values, strict=False):
        part = dataset.sel(budget=budget)
        style = {**POINTS, "color": colour, "marker": marker, "label": f"pulses, budget {budget:g}"}
        axes.errorbar(position, part["pulse_amplitude"], part["pulse_amplitude_error"], **style)
    for name, (label, style) in _THEORY.items():
        if f"predicted_{name}" in dataset:
            # Predictions are per unit of budget, the same for all.
            curve = dataset[f"predicted_{name}"].isel(budget=0).values
            axes.plot(position, curve, label=label, **style)
    axes.axhline(0, color=GREY, linewidth=0.8)
    noise_axis(axes, dataset["sigma"].values)
    # Predictions may run far above the pulses.
    measured = float((dataset["pulse_amplitude"] + dataset["pulse_amplitude_error"]).max())
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.6 * measured))
    axes.set_ylabel("amplitude of the class mode per unit of budget")
    axes.set_title("Response of the class mode: pulses and theory", fontsize=10)
    legend_below(figure, axes)
    return figure


@styled
def susceptibility_figure(dataset: xr.Dataset) -> Figure:
    """Draw the derivative of the response with respect to the weight at every level, and the symbols below."""
    figure, (top, bottom) = figure_with_axes(7.6, 6.2, nrows=2, sharex=True)
    sigma = dataset["sigma"].values
    values, errors = dataset["chi_response"].values, dataset["chi_response_error"].values
    top.errorbar(
        sigma, values, errors, color=RED, marker="o", label="reverse mode, mean over images", **POINTS
    )
    if "chi_class" in dataset:
        top.plot(sigma, dataset["chi_class"], color=BLACK, label="exact for small pulses")
    top.axhline(0, color=GREY, linewidth=0.8)
    top.set_ylabel(r"$\chi$ = response per weight and $\tau$")
    top.legend(fontsize=8.5)
    bottom.errorbar(
        sigma,
        dataset["lambda_regression"],
        dataset["lambda_regression_error"],
        color=GREEN,
        marker="D",
        label="regression, class mode",
        **POINTS,
    )
    bottom.errorbar(
        sigma, 1 - dataset["gap"], dataset["gap_error"], color=RED, marker="o",
        label="mean Jacobian, uniform mode", **POINTS,
    )  # fmt: skip
    for name in ("linear", "closure"):
        if f"lambda_{name}" in dataset:
            label, style = _THEORY[name]
            bottom.plot(sigma, dataset[f"lambda_{name}"], label=label, **style)
    named_level(bottom, 1.0, "marginal", colour=BLACK)
    bottom.set_ylim(-0.1, min(2.0, max(1.1, bottom.get_ylim()[1])))
    bottom.set_ylabel(r"$\lambda$")
    bottom.legend(fontsize=8.5)
    for axes in (top, bottom):
        noise_axis(axes, sigma)
    top.set_xlabel("")
    top.set_title(f"Susceptibility of the {dataset.attrs['response']}", fontsize=10)
    return figure


@styled
def arms_figure(dataset: xr.Dataset) -> Figure:
    """Draw the response under every schedule of one budget, pulses left out."""
    names = [str(a) for a in dataset["arm"].values if not str(a).startswith("pulse")]
    figure, axes = figure_with_axes(10.0, 0.42 * len(names) + 1.6, ncols=2, sharey=True)
    for panel, quantity, label in (
        (axes[0], "response", dataset.attrs["response"]),
        (axes[1], "diversity", "diversity (variance within classes)"),
    ):
        for number, budget in enumerate(dataset["budget"].values):
            colour, marker = _BUDGETS[number % len(_BUDGETS)]
            part = dataset.sel(budget=budget, arm=names)
            height = np.arange(len(names)) + 0.18 * (number - (dataset.sizes["budget"] - 1) / 2)
            style = {**POINTS, "color": colour, "marker": marker, "label": f"budget {budget:g}"}
            panel.errorbar(part[quantity], height, xerr=part[f"{quantity}_error"], **style)
        panel.set_xlabel(label)
        panel.grid(axis="y", color="#e6e6e6")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=8.5)
    figure.suptitle("Schedules of one budget", fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure


@styled
def samples_figure(dataset: xr.Dataset) -> Figure:
    """Show images from the same seeds at the largest budget: no pulse, worst, best and critical pulse, constant."""
    part = dataset.isel(budget=int(np.argmax(dataset["budget"].values)))
    pulses = [str(a) for a in dataset["arm"].values if str(a).startswith("pulse")]
    order = np.argsort(part["response"].sel(arm=pulses).values)
    position = dataset["position_sigma"].values
    rows = [("none", "no pulse")]
    rows += [
        (pulses[i], f"{word} pulse,\n" + rf"$\sigma={position[i]:.2g}$")
        for i, word in ((order[0], "worst"), (order[-1], "best"))
    ]
    rows += [(a, a.replace(" ", "\n")) for a in ("critical pulse", "constant") if a in part["arm"].values]
    classes = json.loads(dataset.attrs["classes"])
    count = min(_SHOWN, dataset.sizes["shown"])
    figure = Figure(figsize=(0.95 * count + 1.4, 1.0 * len(rows) + 0.6), layout="constrained")
    panels = figure.subplots(len(rows), count, squeeze=False)
    for row, (arm, label) in zip(panels, rows, strict=True):
        pictures = part["kept"].sel(arm=arm).values
        for panel, picture in zip(row, pictures[:count], strict=True):
            picture_panel(panel, picture, 1.0)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    for index, panel in enumerate(panels[0]):
        panel.set_title(classes[index % len(classes)], fontsize=8.5)
    title = f"The same seeds, pushed towards a class with budget {float(part['budget']):g}"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure


FIGURES: dict[str, FigureKind] = {
    "guide-response": FigureKind(
        response_figure,
        ("pulse_response", "gap"),
        "Change of the response per unit of budget when guidance is spent in one pulse, paired with the same seeds "
        "without guidance, against the noise at which the pulse acts; lines: susceptibilities of the response itself, "
        "summed over the same pulses. Diversity of the features within classes; levels: without guidance, and that of "
        "real images. Gap of the uniform mode on the model's own trajectories. Shaded: the window recommended from the "
        "gap alone; vertical line: where the critical pulse is centred.",
    ),
    "guide-arms": FigureKind(
        arms_figure,
        ("response",),
        "All schedules spend the same budget of (w - w0) dτ on the same seeds. The best interval was chosen on other "
        "seeds.",
    ),
    "guide-prediction": FigureKind(
        prediction_figure,
        ("pulse_amplitude", "predicted_regression"),
        "Change of the amplitude of the class mode in the final state, per unit of budget. Lines: its "
        "susceptibilities, summed over the same pulses, no free parameter; each model has some of them.",
    ),
    "guide-susceptibility": FigureKind(
        susceptibility_figure,
        ("chi_response",),
        "Derivative of the response with respect to the guidance weight, by reverse mode through the sampler, and what "
        "softens meanwhile.",
    ),
    "guide-samples": FigureKind(
        samples_figure,
        ("kept",),
        "Images from the same seeds, with the class asked for above each column.",
    ),
}


def figures(dataset: xr.Dataset) -> dict[str, FigureKind]:
    """Return the figures of a guide study."""
    return FIGURES
