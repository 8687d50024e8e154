"""What a run will cost, from one timed evaluation."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from critjax._programs import as_pytree, program
from critjax._typing import Array, DenoiseFn

#: Python, JAX, its compiler and matplotlib, before any array.
RUNTIME_BYTES = 450 * 2**20


def time_evaluation(denoise_fn: DenoiseFn, shape: tuple[int, ...], dtype: Any) -> float:
    """Return the seconds that one compiled batch (B, H, W, C) takes, median of three."""
    denoise_fn = as_pytree("denoise_fn", denoise_fn)
    x, sigma = np.random.default_rng(0).normal(size=shape).astype(dtype), np.ones((), dtype)
    _evaluate(denoise_fn, x, sigma).block_until_ready()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        _evaluate(denoise_fn, x, sigma).block_until_ready()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


@program
def _evaluate(denoise_fn: DenoiseFn, x: Array, sigma: Array) -> Array:
    return jax.vmap(denoise_fn, (0, None))(x, sigma)
