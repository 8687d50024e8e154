"""Validation with one message format: ``name: expected X, got Y; do Z``.

Static facts (shapes, ranks, option names) are checked always, also while tracing. Facts about values are
checked only on concrete arrays: under ``jit``, ``vmap`` or ``grad`` they cannot be known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def printable(text: Any) -> str:
    """Return a text on one line that a terminal can show: no control characters, no half of a file name's bytes."""
    line = re.sub(r"\s*\n\s*", " ", str(text))
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def message(name: str, expected: str, got: Any, advice: str) -> str:
    """Return the one sentence that every error of the library uses."""
    return printable(f"{name}: expected {expected}, got {got}; {advice}")


def is_concrete(array: Any) -> bool:
    """Tell whether the values of ``array`` can be read now (it is no tracer)."""
    return not isinstance(array, Tracer)


def on_host(value: Any, dtype: Any) -> Any:
    """Convert concrete numbers to a dtype without a program; a tracer is converted in the program that it is of."""
    return np.asarray(value).astype(dtype) if is_concrete(value) else value.astype(dtype)


def check_seed(seed: Any) -> int:
    """Return a seed as an ``int``, or raise `ValueError`: larger ones would be others modulo 2^32."""
    return check_count("seed", seed, most=MOST_SEED, advice="take a smaller one")


def widened(dtype: Any) -> Any:
    """Return a floating dtype, float32 for half precision; the rules of promotion have no say."""
    return dtype if jnp.finfo(dtype).bits >= 32 else np.dtype(np.float32)


def as_array(value: Any, dtype: Any = None) -> jax.Array:
    """Return an array on the device, without a program where the value is concrete, as ``jnp.asarray`` would need."""
    value = value if hasattr(value, "dtype") else np.asarray(value)
    dtype = jax.dtypes.canonicalize_dtype(value.dtype if dtype is None else dtype)
    if value.dtype != dtype:
        value = on_host(value, dtype)
    return value if isinstance(value, jax.Array) else jax.device_put(value)


def check(condition: bool, name: str, expected: str, got: Any, advice: str) -> None:
    """Raise `ValueError` in the standard format unless ``condition`` holds."""
    if not condition:
        raise ValueError(message(name, expected, got, advice))


def check_option(name: str, value: Any, options: Iterable[Any]) -> None:
    """Raise `ValueError` unless ``value`` is one of the ``options``."""
    options = tuple(options)
    check(value in options, name, " or ".join(map(repr, options)), repr(value), "choose one of these")


def check_floating(name: str, array: Any) -> None:
    """Raise `TypeError` unless ``array`` has a real floating dtype."""
    dtype = getattr(array, "dtype", None)
    if dtype is None or not jax.numpy.issubdtype(dtype, jax.numpy.floating):
        got = type(array).__name__ if dtype is None else f"dtype {dtype}"
        raise TypeError(
            message(name, "a floating-point array", got, "convert it, e.g. to float32 in [-1, 1]")
        )


def check_rank(name: str, array: Any, shape: str) -> None:
    """Raise `ValueError` unless ``array`` has as many axes as ``shape`` names, e.g. ``"H W C"``."""
    wanted = shape.split()
    got = tuple(array.shape)
    described = ", ".join(wanted)
    check(
        len(got) == len(wanted),
        name,
        f"shape ({described})",
        f"shape {got}",
        "add or drop axes; batch with jax.vmap",
    )


def check_finite(name: str, array: Any) -> None:
    """Raise `ValueError` if a concrete ``array`` holds NaN or infinity; do nothing while tracing."""
    if not is_concrete(array):
        return
    values = np.asarray(array)
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    check(
        bad == 0,
        name,
        "finite values",
        f"{bad} non-finite of {values.size}",
        "remove or repair those entries",
    )


def check_sigmas(name: str, sigmas: Any, *, minimum: int = 1) -> None:
    """Raise unless a concrete ``sigmas`` is one-dimensional, positive, finite and strictly decreasing."""
    check_rank(name, sigmas, "num")
    check(
        sigmas.shape[0] >= minimum,
        name,
        f"at least {minimum} noise levels",
        sigmas.shape[0],
        "use a longer grid",
    )
    if is_concrete(sigmas):
        values = np.asarray(sigmas)
        good = bool(np.all(np.isfinite(values)) and np.all(values > 0) and np.all(np.diff(values) < 0))
        shown = np.array2string(values, threshold=6, precision=4)
        check(
            good,
            name,
            "positive, strictly decreasing noise levels",
            shown,
            "build the grid with geometric_sigmas",
        )


def as_sigmas(name: str, sigmas: Any, *, minimum: int = 1) -> jax.Array:
    """Return a ladder that passes `check_sigmas` as a floating-point array; integers and lists are converted."""
    sigmas = sigmas if hasattr(sigmas, "shape") else np.asarray(sigmas)
    check_sigmas(name, sigmas, minimum=minimum)
    floating = jnp.issubdtype(sigmas.dtype, jnp.floating)
    return as_array(sigmas, sigmas.dtype if floating else jnp.result_type(float))


def check_eta(eta: Any) -> Any:
    """Return a stochasticity ``eta`` as `as_scalar` does, or raise `ValueError` if it is negative or not finite."""
    return as_scalar(
        "eta", eta, "a finite number >= 0", "0 is the ODE, 1 the reverse SDE", good=lambda value: value >= 0
    )


def check_grid(grid: Any) -> tuple[int, int]:
    """Return ``grid`` as two positive integers ``(H, W)`` or raise `ValueError`."""
    try:
        height, width = (int(n) for n in grid)
    except (TypeError, ValueError):
        raise ValueError(message("grid", "two integers (H, W)", repr(grid), "pass e.g. (64, 64)")) from None
    check(height > 0 and width > 0, "grid", "positive (H, W)", (height, width), "pass e.g. (64, 64)")
    return height, width


def check_window(size: Any) -> int:
    """Return a window size as an ``int`` >= 1 or raise `ValueError`."""
    good = isinstance(size, (int, np.integer)) and not isinstance(size, bool) and bool(size >= 1)
    check(good, "size", "an integer window size >= 1", repr(size), "pass e.g. 7")
    return int(size)


def as_floating(name: str, array: Any, shape: str) -> jax.Array:
    """Return a non-empty, finite, real array of the rank that ``shape`` names, or raise."""
    if not hasattr(array, "dtype"):
        array = np.asarray(array)
    check_floating(name, array)
    check_rank(name, array, shape)
    got = f"shape {tuple(array.shape)}"
    check(0 not in array.shape, name, "no empty axis", got, "give at least one entry")
    check_finite(name, array)
    return as_array(array)


def as_log_prior(log_prior: Any, count: int, dtype: Any) -> jax.Array:
    """Return log weights of ``count`` candidates, uniform by default, or raise."""
    if log_prior is None:
        return as_array(np.full((count,), -np.log(count), dtype))
    log_prior = as_array(log_prior, dtype)
    check(
        log_prior.shape == (count,),
        "log_prior",
        f"shape ({count},), one entry per candidate",
        f"shape {log_prior.shape}",
        "pass the logarithm of the prior weights or None for a uniform prior",
    )
    if is_concrete(log_prior):
        values = np.asarray(log_prior)
        good = not np.any(np.isnan(values) | (values == np.inf)) and np.any(np.isfinite(values))
        check(bool(good), "log_prior", "numbers or -inf, not all -inf", values, "pass logarithms of weights")
    return log_prior


def size_of(number: Any) -> str:
    """Write an integer, a long one by its size: Python refuses to write more than 4,300 digits."""
    bits = int(number).bit_length()
    return f"about 2^{bits}" if bits > 64 else str(number)


MOST_SEED = 2**32 - 1
#: Counts are at most this, unless a function says otherwise: what JAX takes for a size or an index.
MOST = 2**31 - 1


def check_count(name: str, value: Any, *, least: int = 0, most: int = MOST, advice: str) -> int:
    """Return a static integer from ``least`` to ``most`` as an ``int`` or raise `ValueError`; True is none."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    got = size_of(value) if whole else repr(value)
    check(whole and bool(value >= least), name, f"an integer >= {least}", got, advice)
    check(bool(value <= most), name, f"an integer <= {most}", got, advice)
    return int(value)


def check_counts(name: str, values: Any, most: int, *, advice: str) -> tuple[int, ...]:
    """Return from one to ``most`` integers >= 1 as a tuple, or raise `ValueError`."""
    values = tuple(values) if isinstance(values, (tuple, list)) else ()
    whole = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v >= 1 for v in values)
    check(len(values) > 0 and whole, name, "one or more integers >= 1", values or "none", advice)
    check(len(values) <= most, name, f"at most {most} integers", len(values), advice)
    return tuple(int(v) for v in values)


def is_real(array: np.ndarray) -> bool:
    """Tell whether an array on the host holds real numbers, those of half precision among them; True is none."""
    return array.dtype.kind in "iuf" or jnp.issubdtype(array.dtype, jnp.floating)


def as_scalar(
    name: str, value: Any, expected: str, advice: str, *, good: Callable[[float], bool] | None = None
) -> Any:
    """Return a real number as a host scalar that no JAX operation made, or a tracer as it is.

    A concrete value must be a finite real number for which ``good`` holds. A tracer must be a real scalar. The result
    is an argument of a program: of one dtype whether the caller passed 1, 1.0 or an array.
    """
    if not is_concrete(value):
        check(value.shape == (), name, expected, f"shape {value.shape}", advice)
        return value
    number = np.asarray(value)
    check(is_real(number) and number.ndim == 0, name, expected, repr(value), advice)
    check(bool(np.isfinite(number)) and (good is None or good(float(number))), name, expected, value, advice)
    if number.dtype.kind == "f" and hasattr(value, "dtype"):
        return number
    return float(number)
