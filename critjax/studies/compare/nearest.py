"""Reading a comparison: at every noise level the patch model nearest to the denoiser, and what it misses."""

from __future__ import annotations

import numpy as np
import xarray as xr

#: The patch models among the rivals.
_PATCHES = ["ELS", "LS"]


def nearest_indices(relative_error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of model and size of the smallest error (levels, models, sizes) at every level."""
    flat = relative_error.reshape(len(relative_error), -1)
    return np.unravel_index(flat.argmin(1), relative_error.shape[1:])  # type: ignore[return-value]


def nearest_patch_models(dataset: xr.Dataset) -> xr.Dataset:
    """Pick the nearest patch model, of both kinds and all sizes, at every noise level of a comparison.

    Parameters
    ----------
    dataset : xarray.Dataset
        A result of `critjax.studies.compare.run` with its second part.

    Returns
    -------
    xarray.Dataset
        On the axis ``level_sigma``, with standard errors as ``*_error``: ``model`` and ``size`` (pixels) of the patch
        model with the smallest ``relative_error``, ``explained`` (1 minus its square: the share of the variance of the
        denoiser's output), ``weight_outside`` (share of the absolute weight of the denoiser's Jacobian on noised images
        outside that window, interpolated in ln sigma; missing from results without it), ``advantage`` (loss of the
        ``rival``, the patch model with the smallest loss, minus that of the denoiser; per pixel) and
        ``relative_advantage``, the same over the loss of the rival.

    Notes
    -----
    THEORY section 7.
    """
    levels = np.arange(dataset.sizes["level_sigma"])
    error = dataset["relative_error"].transpose("level_sigma", "model", "size").values
    spread = dataset["relative_error_error"].transpose("level_sigma", "model", "size").values
    model, size = nearest_indices(error)
    least, its_error = error[levels, model, size], spread[levels, model, size]
    sizes = dataset["size"].values[size]
    patches = dataset.sel(rival=_PATCHES)
    rival = patches["loss_advantage"].values.argmin(0)
    advantage, uncertain = (
        patches[name].values[rival, levels] for name in ("loss_advantage", "loss_advantage_error")
    )
    loss = dataset["loss_network"].values + advantage
    found = {
        "model": dataset["model"].values[model],
        "size": sizes,
        "relative_error": least,
        "relative_error_error": its_error,
        "explained": 1 - least**2,
        "explained_error": 2 * least * its_error,
        "rival": np.array(_PATCHES)[rival],
        "advantage": advantage,
        "advantage_error": uncertain,
        "relative_advantage": advantage / loss,
        "relative_advantage_error": uncertain / loss,
    }
    if "weight_outside" in dataset:
        ladder = -np.log(dataset["sigma"].values)
        at = -np.log(dataset["level_sigma"].values)
        for name in ("weight_outside", "weight_outside_error"):
            curves = dataset[name].sel(ensemble="noised data")
            pairs = zip(at, sizes, strict=True)
            found[name] = np.array([np.interp(x, ladder, curves.sel(window=p).values) for x, p in pairs])
    coordinates = {"level_sigma": dataset["level_sigma"].values}
    return xr.Dataset({name: (("level_sigma",), v) for name, v in found.items()}, coordinates)
