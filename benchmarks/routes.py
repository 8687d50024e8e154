"""Time every evaluation method over window sizes and bank sizes: the crossovers that method="auto" follows on a CPU."""

from __future__ import annotations

import jax
import numpy as np
from _timing import compiled, interleaved, machine, table

from critjax import ImageBank, PatchBank, available_methods, patch_denoiser
from critjax.patch_score._denoiser import _make_plan


def compare(bank, x, sigma: float = 1.0) -> list[object]:
    """Return the milliseconds of every method, with the automatic choice marked."""
    names = available_methods(bank)
    functions = {
        m: compiled(lambda b, x, m=m: jax.vmap(lambda x: patch_denoiser(b, method=m)(x, sigma))(x), bank, x)
        for m in names
    }
    seconds = interleaved(functions)
    candidates = bank.patches if isinstance(bank, PatchBank) else bank.images
    plan = _make_plan(bank, "periodic", "centre", "auto", None)
    chosen = plan.route(x.shape[1:], candidates.shape, x.dtype, "cpu").method
    return [", ".join(f"{m} {1e3 * seconds[m]:.1f}{' (auto)' if m == chosen else ''}" for m in names)]


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    rows = []
    for size, count in [(5, 18), (9, 18), (15, 18), (9, 64), (15, 64), (9, 200), (15, 200), (9, 1000)]:
        bank = PatchBank(rng.choice([-1.0, 1.0], (count, size, size, 1)).astype(np.float32))
        x = rng.normal(size=(4, 64, 64, 1)).astype(np.float32)
        rows.append([f"{count} patches", size, 1, *compare(bank, x)])
    for channels in (1, 3):
        for size in (3, 5, 7, 9, 11, 15, 21):
            bank = ImageBank(rng.uniform(-1, 1, (40, 28, 28, channels)).astype(np.float32), size)
            x = rng.normal(size=(1, 28, 28, channels)).astype(np.float32)
            rows.append(["40 images 28 x 28", size, channels, *compare(bank, x)])
    print(machine())
    table(["bank", "p", "C", "ms"], rows)


if __name__ == "__main__":
    main()
