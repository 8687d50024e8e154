r"""Any denoiser measured with the instruments of the theory: symbols, kernels, gaps, lengths, critical noises.

Two ensembles that must not be confused: ``trajectories``, the fields of the denoiser's own sampler, and
``noised data``, images plus white noise. They agree only for a denoiser that is the posterior mean of those images.

THEORY sections 5 to 7.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np
import xarray as xr

from critjax._checks import as_array, check, check_rank, check_seed, check_sigmas
from critjax._programs import as_pytree, program
from critjax._typing import Array, ArrayLike, DenoiseFn, Float
from critjax.fourier import shells_on_host
from critjax.sampling import sample
from critjax.spectra import measured_symbol
from critjax.spectra.measured import jacobian_products
from critjax.studies._engine.run import Progress
from critjax.studies.measure.instruments import (
    jacobian_row,
    kernel_columns,
    lowest_eigenvalues,
    lowest_tangents,
    num_lowest_tangents,
    regression_and_resamples,
    regression_row,
)
from critjax.studies.measure.ladder import REPLICAS, closure, collect

__all__ = ["ENSEMBLES", "SIGMAS", "measure"]

ENSEMBLES = ("trajectories", "noised data")
#: Default ladder, image units.
SIGMAS = np.geomspace(20.0, 0.05, 21)
#: Fields evaluated together.
_BATCH = 8
#: Columns of the Jacobian for one random-phase probe, and fields of the lowest modes for one that is probed.
_COLUMNS, _LOWEST_FIELDS = 2, 2


def measure(
    denoise_fn: DenoiseFn,
    images: Float[ArrayLike, "Q H W C"],
    *,
    sigmas: Any = SIGMAS,
    num_samples: int = 64,
    probe_samples: int = 8,
    num_probes: int = 2,
    closure_samples: int = 16,
    size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    r"""Measure a denoiser along its own trajectories and on noised images.

    Parameters
    ----------
    denoise_fn : DenoiseFn
        Any callable ``(x (H, W, C), sigma) -> (H, W, C)`` with forward derivatives: a network, a patch model, an
        adapted PyTorch module.
    images : float array (Q, H, W, C)
        Clean images for the second ensemble, best ones that were not trained on; repeated with new noise if there are
        fewer than ``num_samples``.
    sigmas : float array (num,)
        Strictly decreasing ladder, image units, of the sampler and of all measurements.
    num_samples : int
        Trajectories, and noised images, for the regression symbol; at least 3 (C + 1), lest a resample have fewer
        different fields than the symbol has channels.
    probe_samples : int
        Fields of each ensemble whose Jacobian is probed, at least 3 and at most half of ``num_samples``; twice as many
        for the lowest modes.
    num_probes : int
        Random-phase probes a field, at least 2, for the symbol; twice as many columns of the Jacobian, for the kernel.
    closure_samples : int
        Fields a level of the Gaussian closure, a multiple of 4; 0 leaves it out.
    size : int, optional
        Side of the receptive field, odd, if it is known to be smaller than the image: the closure's symbols are
        projected on kernels of this size, which cuts sampling noise. Default: none.
    seed : int
    progress : callable, optional
        ``(stage, done, total)``.

    Returns
    -------
    xarray.Dataset
        Axes ``ensemble``, ``sigma``, ``wavenumber`` (shells, rad per pixel), ``kernel_y``, ``kernel_x`` and ``window``
        (pixels). With standard errors as ``*_error``:

        ``mean_jacobian``, ``mean_jacobian_uniform``
            Symbol of the mean Jacobian, k = 0 and the lowest shell exactly, the others by random-phase probes; the
            error is over fields.
        ``regression``, ``regression_uniform``
            Symbol of the regression of D on x, which drives the structure factor; bootstrap over fields.
        ``gap``, ``stiffness``, ``xi_eq``
            1 - lambda(0), K from there to the lowest shell, and sqrt(K/abs(gap)), all of the mean Jacobian; xi NaN if
            K <= 0, jackknife errors over fields.
        ``receptive_radius``
            Effective receptive field radius of the mean kernel, pixels; entries within 3 standard errors of zero do not
            count, jackknife error.
        ``weight_outside``
            Share of the absolute weight of the Jacobian's columns, averaged over pixels and fields before anything
            cancels, at input pixels outside a centred ``window`` (axis; 1, 3, ... pixels); jackknife error over fields.
            A patch model of that window has none. NaN where the Jacobian is zero.
        ``nonreciprocal``
            ||(J - J^T)/2|| / ||J|| of the mean kernel, free of noise bias; 0 with the error of an upper bound where its
            estimated square is negative.
        ``kernel``
            Mean kernel, averaged over channels.
        ``critical_sigma_regression``
            First sigma at which ``regression_uniform`` rises through one, NaN if none; bootstrap over fields.
        ``minimal_gap``, ``minimal_gap_sigma``
            Smallest gap of the mean Jacobian at k = 0 and where; bootstrap over fields.
        ``regression_closure``, ``regression_uniform_closure``, ``critical_sigma_closure``
            The Gaussian closure's prediction from the denoiser alone: a translation-invariant theory, in which the
            symbol of the regression and that of the mean Jacobian are one.
        ``gap_closure``, ``xi_eq_closure``
            ``gap`` and ``xi_eq`` of the closure's symbol; errors over its replicas.

        ``attrs`` hold the cost: ``evaluations``, ``jacobian_products``, ``seconds``.

    Raises
    ------
    ValueError, TypeError
        For illegal ladders, counts or images.

    Notes
    -----
    ``2 num_samples num`` denoiser evaluations for the trajectories (Heun), ``num_samples num`` on noised images,
    ``closure_samples num`` for the closure, eight fields at once, and ``(6 num_probes + 36) probe_samples C num``
    Jacobian-vector products on square images. Resamples take the same fields at all levels, so that errors of
    crossings and minima know that levels err together; repeated images count as independent fields. THEORY sections
    5 to 7.

    Example
    -------
    >>> from critjax.closed_form import gaussian_denoiser
    >>> images = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)
    >>> denoise = gaussian_denoiser(np.zeros((8, 8, 1), np.float32), np.full((8, 8), 3.0, np.float32))
    >>> found = measure(denoise, images, sigmas=np.array([4.0, 2.0, 1.0]), num_samples=16)
    >>> [round(float(v), 3) for v in found["mean_jacobian_uniform"].sel(ensemble="noised data")]  # 3/(3 + sigma^2)
    [0.158, 0.429, 0.75]
    """
    denoise_fn = as_pytree("denoise_fn", denoise_fn)
    check_rank("images", images, "Q H W C")
    check(bool(np.isfinite(images).all()), "images", "finite numbers", "NaN or infinity", "clean the data")
    images = as_array(images)
    sigmas = as_array(np.asarray(sigmas), images.dtype)
    check_sigmas("sigmas", sigmas)
    count, height, width, channels = images.shape
    check(count >= 1, "images", "one or more", count, "pass images that were not trained on")
    fewest = 3 * (channels + 1)
    check(num_samples >= fewest, "num_samples", f"at least {fewest}", num_samples, "use 64")
    most = num_samples // _LOWEST_FIELDS
    enough = 3 <= probe_samples <= most
    check(enough, "probe_samples", f"3 to {most}, half of num_samples", probe_samples, "use 8")
    check(num_probes >= 2, "num_probes", "an integer >= 2", num_probes, "use 2")
    least = REPLICAS * (channels + 1)  # each replica has as many fluctuations as channels, beside the mean
    good = closure_samples == 0 or (closure_samples >= least and closure_samples % REPLICAS == 0)
    expected = f"0 or a multiple of {REPLICAS} from {least} on"
    check(good, "closure_samples", expected, closure_samples, f"use {max(16, least)}, or 0 to skip")
    report = progress or (lambda stage, done, total: None)
    started = time.perf_counter()
    keys = jax.random.split(jax.random.key(check_seed(seed)), 4)
    levels, shape = np.asarray(sigmas), (height, width, channels)
    ladder = levels.astype(np.float64)

    sample_keys, parts = jax.random.split(keys[0], num_samples), []
    for first in range(0, num_samples, _BATCH):
        report("trajectories", first, num_samples)
        batch = _trajectories(denoise_fn, sample_keys[first : first + _BATCH], sigmas, shape)
        parts.append(jax.tree.map(np.asarray, batch))
    report("trajectories", num_samples, num_samples)
    own = [np.concatenate(p).swapaxes(0, 1) for p in zip(*parts, strict=True)]

    clean = np.asarray(images)[np.arange(num_samples) % count]
    rows: dict[str, dict[str, list[Any]]] = {name: {} for name in ENSEMBLES}
    total = len(ladder) * len(ENSEMBLES)
    for level, sigma in enumerate(levels):
        at = (sigma, keys[1], level)
        fields = {
            "trajectories": (own[0][level], own[1][level]),
            "noised data": _noised(denoise_fn, clean, *at),
        }
        for number, (name, (x, denoised)) in enumerate(fields.items()):
            report("measurement", level * len(ENSEMBLES) + number, total)
            # The same key at all levels: their errors are not independent, the fields are the same.
            values, resampled = map(np.asarray, regression_and_resamples(x, denoised, keys[2]))
            found = _jacobian(denoise_fn, x[:probe_samples], *at, num_probes)
            symbols, kernels, weights = map(np.asarray, found)
            kernels, weights = kernels.astype(np.float64), weights.astype(np.float64)
            modes = np.asarray(_lowest(denoise_fn, x[: _LOWEST_FIELDS * probe_samples], sigma), np.float64)
            row = regression_row(values, resampled) | jacobian_row(symbols, kernels, weights, modes)
            for key, value in row.items():
                rows[name].setdefault(key, []).append(value)
    report("measurement", total, total)
    variables = collect(rows, ladder, keys[2])
    if closure_samples:
        report("closure", 0, 1)
        variables.update(closure(denoise_fn, keys[3], sigmas, shape, closure_samples, size))
        report("closure", 1, 1)
    shells = shells_on_host(height, width)[1]
    coordinates = {"ensemble": list(ENSEMBLES), "sigma": ladder, "wavenumber": shells}
    windows = 1 + 2 * np.arange(np.shape(variables["weight_outside"][1])[-1])
    result = xr.Dataset(variables, {**coordinates, "window": windows})
    result["sigma"].attrs["units"] = "image units (data in [-1, 1])"
    result["wavenumber"].attrs["units"] = "rad per pixel"
    for name in ("xi_eq", "receptive_radius"):
        result[name].attrs["units"] = "pixels"
    num = len(ladder)
    result.attrs = {
        "evaluations": num_samples * (2 * num - 1) + num_samples * num + closure_samples * (num + 2),
        "jacobian_products": 2
        * ((1 + _COLUMNS) * num_probes + _LOWEST_FIELDS * num_lowest_tangents((height, width)))
        * probe_samples
        * channels
        * num,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return result


@program(static_argnames="shape")
def _trajectories(
    denoise_fn: DenoiseFn, keys: Array, sigmas: Array, shape: tuple[int, int, int]
) -> tuple[Array, Array]:
    """Return states and denoised images (batch, levels, H, W, C)."""

    def one(key: Array) -> tuple[Array, Array]:
        found = sample(denoise_fn, key, shape, sigmas)
        return found.x, found.denoised

    return jax.vmap(one)(keys)


@program
def _noised(
    denoise_fn: DenoiseFn, clean: Array, sigma: Array, key: Array, level: Array
) -> tuple[Array, Array]:
    """Return images with the noise of a level, and what the denoiser makes of them."""
    noise_key = jax.random.split(jax.random.fold_in(key, level))[0]
    x = clean + sigma * jax.random.normal(noise_key, clean.shape, clean.dtype)
    return x, jax.lax.map(lambda one: denoise_fn(one, sigma), x, batch_size=_BATCH)


@program(static_argnames="num_probes")
def _jacobian(
    denoise_fn: DenoiseFn, x: Array, sigma: Array, key: Array, level: Array, num_probes: int
) -> tuple[Array, Array, Array]:
    """Return symbols, kernels and absolute weights of single fields."""
    key = jax.random.split(jax.random.fold_in(key, level))[1]

    def one(pair: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        probe_key, column_key = jax.random.split(pair[1])
        symbol = measured_symbol(denoise_fn, probe_key, pair[0], sigma, num_probes=num_probes).value
        columns = kernel_columns(denoise_fn, pair[0], sigma, column_key, _COLUMNS * num_probes)
        return symbol, *columns

    return jax.lax.map(one, (x, jax.random.split(key, len(x))))


@program
def _lowest(denoise_fn: DenoiseFn, x: Array, sigma: Array) -> Array:
    """Return the eigenvalues of the lowest modes at single fields."""

    def one(field: Array) -> Array:
        return lowest_eigenvalues(jacobian_products(denoise_fn, field, sigma, lowest_tangents(field)))

    return jax.lax.map(one, x)  # the tangents of one field are batch enough
