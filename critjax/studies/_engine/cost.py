"""What a run will cost, from one timed evaluation."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._typing import DenoiseFn

#: Python, JAX, its compiler and matplotlib, before any array.
RUNTIME_BYTES = 450 * 2**20


def time_evaluation(denoise_fn: DenoiseFn, shape: tuple[int, ...], dtype: Any) -> float:
    """Return the seconds that one compiled batch (B, H, W, C) takes, median of three."""
    x = jax.random.normal(jax.random.key(0), shape, dtype)
    evaluate = jax.jit(lambda x: jax.vmap(denoise_fn, (0, None))(x, jnp.asarray(1.0, dtype)))
    evaluate(x).block_until_ready()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        evaluate(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
