"""Array aliases and the two function types that every module passes around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jax import Array
from jaxtyping import Complex, Float, Int

ArrayLike: TypeAlias = Array | np.ndarray
Scalar: TypeAlias = Float[ArrayLike, ""] | float | int
PRNGKey: TypeAlias = Any  # a new-style key array or legacy uint32 pair

#: A noisy image in, its posterior mean out: ``(x (H, W, C), sigma ()) -> (H, W, C)``; batch with `jax.vmap`.
DenoiseFn: TypeAlias = Callable[..., Array]
#: A noise level in, the Fourier symbol of the mean Jacobian out: ``(sigma ()) -> (H, W, C, C)`` complex.
SymbolFn: TypeAlias = Callable[..., Array]

__all__ = ["Array", "ArrayLike", "Complex", "DenoiseFn", "Float", "Int", "PRNGKey", "Scalar", "SymbolFn"]
