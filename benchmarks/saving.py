"""What it costs to save: a sweep of 1,000 small batches in memory and into a folder, milliseconds a batch.

The batches take about a millisecond each, less than any of a study. Pass ``--folder`` for a disk of your choice.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from _timing import machine, table

from critjax.sweeps import sweep

BATCHES, SIZE, REPEATS = 1000, 8, 5


def point(seed):
    """Draw fields and return a few numbers of them."""
    key = jax.random.key(seed)
    return {"sum": jnp.sum(jax.random.normal(key, (64, 64))) ** 2, "row": jax.random.normal(key, (50,))}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", help="where the sweeps are saved for a moment")
    options = parser.parse_args()
    points = np.arange(BATCHES * SIZE)
    sweep(point, points[:SIZE], batch_size=SIZE)
    seconds: dict[str, list[float]] = {"in memory": [], "saved": []}
    for _ in range(REPEATS):
        for name, taken in seconds.items():
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                began = time.perf_counter()
                sweep(point, points, batch_size=SIZE, folder=f"{folder}/sweep" if name == "saved" else None)
                taken.append(time.perf_counter() - began)
    print(machine())
    rows = [[name, f"{1e3 * float(np.median(taken)) / BATCHES:.2f}"] for name, taken in seconds.items()]
    table(["sweep", "ms a batch"], rows)


if __name__ == "__main__":
    main()
