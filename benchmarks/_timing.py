"""Shared by the benchmark scripts: fair timing, the machine's own speed, and the bare matrix product."""

from __future__ import annotations

import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

#: Columns of one block of the bare product.
BARE_COLUMNS = 3136


def interleaved(
    functions: dict[str, Callable[[], object]], repeats: int = 5, *, settle: float = 0.0
) -> dict[str, float]:
    """Time several functions in turn, warmed up, and return the median seconds of each.

    Each also runs untimed for at least ``settle`` seconds right before it is timed, so that it does not pay for what
    the one before left in caches, memory and idle threads.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            began = time.perf_counter()
            while time.perf_counter() - began < settle:
                jax.block_until_ready(function())
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compiled(function: Callable, *arguments) -> Callable[[], object]:
    """Compile a function for its arguments and return it as a call without arguments."""
    program = jax.jit(function).lower(*arguments).compile()
    return lambda: program(*arguments)


def matmul_speed(size: int = 2048) -> float:
    """Measure this machine's float32 matrix product, in floating-point operations a second."""
    a = jnp.ones((size, size), jnp.float32)
    seconds = interleaved({"product": compiled(jnp.matmul, a, a)})["product"]
    return 2 * size**3 / seconds


def windows(images: np.ndarray, size: int) -> np.ndarray:
    """Unfold every periodic window of images (N, H, W, C) into rows (N H W, p p C)."""
    before, after = (size - 1) // 2, size // 2
    padded = np.pad(images, ((0, 0), (before, after), (before, after), (0, 0)), mode="wrap")
    view = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    return np.moveaxis(view, 3, -1).reshape(images.shape[0] * images.shape[1] * images.shape[2], -1)


def bare_product(queries: np.ndarray, candidates: np.ndarray) -> Callable[[], object]:
    """Multiply the same queries with the same unfolded patches in blocks, inside one scan, down to one number."""
    columns = min(BARE_COLUMNS, len(candidates))
    whole = len(candidates) // columns * columns
    blocks = jnp.asarray(candidates[:whole].reshape(-1, columns, candidates.shape[1]).swapaxes(1, 2))
    queries = jnp.asarray(queries)

    def run(queries, blocks):
        return lax.scan(
            lambda total, block: (total + jnp.sum(queries @ block), None), jnp.float32(0), blocks
        )[0]

    return compiled(run, queries, blocks)


def peak_megabytes() -> float:
    """Return the peak resident memory of this process, in MB.

    Linux's VmHWM starts afresh at exec; getrusage would report the parent's peak where that is larger.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text()).group(1)) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of(script: str, *arguments: object) -> str:
    """Run a benchmark script in a fresh process and return what it prints: its own peak memory."""
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> str:
    """Name the machine in one line."""
    devices = f"{len(jax.devices())} JAX device(s)"
    return f"{platform.machine()}, {devices}, jax {jax.__version__}, Python {platform.python_version()}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(entry) for entry in row) + " |")
