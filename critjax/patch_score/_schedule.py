"""Denoisers that change with the noise level, such as windows that shrink while an image forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from critjax._checks import check, is_concrete, message, on_host
from critjax._programs import as_pytree, program
from critjax._typing import Array, DenoiseFn


def scheduled_denoiser(denoise_fns: Sequence[Any], sigma_edges: Any) -> DenoiseFn:
    r"""Build the denoiser that hands over from one denoiser to the next as the noise falls.

    .. math:: D(x, \sigma) = D_i(x, \sigma) \quad\text{for}\quad s_i \le \sigma < s_{i-1},

    with ``s_i`` the edges, infinity before the first and 0 after the last: with patch denoisers of falling size, a
    window p(sigma).

    Parameters
    ----------
    denoise_fns : sequence of DenoiseFn
        ``(x, sigma ()) -> array like x``, for the highest noise first.
    sigma_edges : (len(denoise_fns) - 1,) array
        Strictly decreasing, positive noise levels. ``denoise_fns[i]`` serves ``sigma >= sigma_edges[i]``, the last one
        everything below the last edge.

    Returns
    -------
    DenoiseFn
        ``(x, sigma ()) -> array like x``; ready for `sample`.

    Raises
    ------
    ValueError, TypeError
        If there is no denoiser, one is not callable, or the edges are too few, too many, not positive or not
        decreasing.

    Notes
    -----
    Exact. One denoiser is evaluated a call, also under `jax.vmap` over images that share one sigma; under `jax.vmap`
    over sigma all are. Constant in sigma at the edges: derivatives with respect to sigma are those of the denoiser
    in charge and do not see the jump. Source: Kamb & Ganguli 2024, arXiv:2412.20292 (windows that follow the noise).

    Example
    -------
    >>> denoise = scheduled_denoiser([lambda x, sigma: 0 * x, lambda x, sigma: x], [0.5])
    >>> [denoise(jnp.ones((1, 1, 1)), sigma)[0, 0, 0].item() for sigma in (0.7, 0.5, 0.3)]
    [0.0, 0.0, 1.0]
    """
    denoise_fns = tuple(denoise_fns)
    advice = "pass one denoiser for every range of noise levels"
    check(len(denoise_fns) > 0, "denoise_fns", "at least one denoiser", "none", advice)
    for number, function in enumerate(denoise_fns):
        if not callable(function):
            name = f"denoise_fns[{number}]"
            raise TypeError(message(name, "a function (x, sigma) -> x", type(function).__name__, advice))
    edges = sigma_edges if hasattr(sigma_edges, "dtype") else np.asarray(sigma_edges, np.float64)
    wanted = (len(denoise_fns) - 1,)
    expected = f"shape {wanted}, one fewer than denoisers"
    check(tuple(edges.shape) == wanted, "sigma_edges", expected, f"shape {tuple(edges.shape)}", advice)
    if is_concrete(edges):
        values = np.asarray(edges)
        good = bool(np.all(np.isfinite(values)) and np.all(values > 0) and np.all(np.diff(values) < 0))
        shown = np.array2string(values, threshold=6, precision=4)
        check(good, "sigma_edges", "positive, strictly decreasing noise levels", shown, "sort them downwards")

    fns = tuple(as_pytree(f"denoise_fns[{number}]", function) for number, function in enumerate(denoise_fns))
    return Partial(_denoise, fns, edges)


def _denoise(denoise_fns: tuple[DenoiseFn, ...], edges: Any, x: Any, sigma: Any) -> Array:
    shape = tuple(jnp.shape(sigma))
    check(shape == (), "sigma", "a scalar", f"shape {shape}", "batch with jax.vmap")
    # In the precision of sigma: a level that was copied from the edges is at its edge.
    dtype = jnp.result_type(sigma, x.dtype)
    return _choose(denoise_fns, on_host(edges, dtype), x, on_host(sigma, dtype))


@program
def _choose(denoise_fns: tuple[DenoiseFn, ...], edges: Array, x: Array, sigma: Array) -> Array:
    return lax.switch(jnp.sum(sigma < jnp.asarray(edges)), denoise_fns, x, sigma)
