"""What figures of a criticality study mark on the noise axis: critical points, and where bare theory has no state."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from critjax.plotting.style import BLACK, BLUE, GREY, RED, value

_RAISED = 15  # points above the axes for a name in the second row

THEORY: dict[str, dict[str, Any]] = {
    "bare": {"color": BLACK, "linestyle": "-", "label": "bare theory"},
    "closure": {"color": BLUE, "linestyle": "--", "label": "Gaussian closure"},
    "null": {"color": GREY, "linestyle": (0, (1, 1.2)), "label": "Gaussian null model"},
}


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
