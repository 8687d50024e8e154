"""What every closed-form denoiser asks of its input, in one place."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, check_floating, check_rank, is_concrete, on_host, widened
from critjax._typing import Array

EXACT = jax.lax.Precision.HIGHEST  # accelerators would otherwise round products to ten bits


def check_sigma(sigma: Any) -> None:
    """Raise `ValueError` unless ``sigma`` is a scalar and, where its value is known, positive and finite."""
    got = tuple(jnp.shape(sigma))
    check(got == (), "sigma", "a scalar standard deviation", f"shape {got}", "map over them with jax.vmap")
    if is_concrete(sigma):
        value = float(sigma)
        check(0 < value < np.inf, "sigma", "a finite number > 0", value, "pass a standard deviation")


def check_inputs(x: Any, sigma: Any, shape: tuple[int, ...] | None) -> Any:
    """Validate a denoiser's input on the host and return sigma in the dtype of the computation."""
    check_floating("x", x)
    check_rank("x", x, "H W C")
    if shape is not None:
        got = tuple(x.shape)
        check(got == shape, "x", f"shape {shape}, that of the prior", f"shape {got}", "resize or rebuild it")
    check_sigma(sigma)
    return on_host(sigma, widened(x.dtype))


def prepare(x: Any, sigma: Any, shape: tuple[int, ...] | None) -> tuple[Array, Array]:
    """Validate a denoiser's input and return it, with sigma, in the dtype of the computation."""
    noise = jnp.asarray(check_inputs(x, sigma, shape))
    return jnp.asarray(x, noise.dtype), noise
