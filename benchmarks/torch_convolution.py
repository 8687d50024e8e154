"""One ELS evaluation against convolution filters in PyTorch, the way published scripts compute patch scores.

The baseline pads the noisy image, correlates it with blocks of training patches as filters, and folds each block
into a running softmax; float32, all threads. Its unfolded patches are made beforehand and not timed. Each runs untimed
for a second before every timed run: right after PyTorch, which frees gigabytes, critjax took up to a third longer.
Prints medians of five, both speeds as fractions of this machine's matrix product, and the peak resident memory of each
above the imports in fresh processes. Needs the ``benchmark`` extra.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
import torch
from _timing import interleaved, machine, matmul_speed, memory_of, peak_megabytes, table, windows
from patch_scores import CASES, data, evaluation
from torch.nn import functional


def torch_evaluation(images: np.ndarray, x: np.ndarray, size: int, sigma: float, filters: int):
    """Return a call that evaluates the denoiser of all patches of ``images`` at ``x`` in PyTorch."""
    channels = x.shape[-1]
    patches = windows(images, size).reshape(-1, size, size, channels)
    patches = torch.from_numpy(np.ascontiguousarray(np.moveaxis(patches, -1, 1)))
    norms = 0.5 * (patches**2).sum((1, 2, 3))
    centres = patches[:, :, size // 2, size // 2]
    image = torch.from_numpy(np.moveaxis(x, -1, 0))[None]

    @torch.no_grad()
    def run() -> np.ndarray:
        padded = functional.pad(image, (size // 2,) * 4, mode="circular")
        top = torch.full(x.shape[:2], -torch.inf)
        total, weighted = torch.zeros(x.shape[:2]), torch.zeros((channels, *x.shape[:2]))
        for first in range(0, len(patches), filters):
            part = slice(first, first + filters)
            logits = functional.conv2d(padded, patches[part])[0] - norms[part, None, None]
            logits /= sigma**2
            new = torch.maximum(top, logits.amax(0))
            weights = torch.exp(logits - new)
            shrink = torch.exp(top - new)
            total = total * shrink + weights.sum(0)
            weighted = weighted * shrink + torch.einsum("mhw,mc->chw", weights, centres[part])
            top = new
        return np.moveaxis((weighted / total).numpy(), 0, -1)

    return run


def memory(case: int, filters: int, options: argparse.Namespace) -> None:
    """Print the peak memory of one evaluation above the imports, in a fresh process; filters < 0: that of critjax."""
    side, channels, size, _ = CASES[case]
    before = peak_megabytes()
    images, x = data(side, channels, options.num_images)
    if filters < 0:
        jax.block_until_ready(evaluation(images, x, size, options.sigma)())
    else:
        torch_evaluation(images, x, size, options.sigma, filters)()
    print(f"{peak_megabytes() - before:.0f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-images", type=int, default=400)
    parser.add_argument("--filters", type=int, nargs="+", default=[784, 3136, 0], help="a block; 0: all")
    parser.add_argument("--sigma", type=float, default=2.0)
    parser.add_argument("--memory", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory is not None:
        memory(*options.memory, options)
        return
    speed = matmul_speed()
    threads = f"torch {torch.__version__} with {torch.get_num_threads()} threads"
    print(f"{machine()}, {threads}; matrix product {speed / 1e9:.0f} GFLOP/s")
    common = ("--num-images", options.num_images, "--sigma", options.sigma)
    rows = []
    for case, (side, channels, size, _) in enumerate(CASES):
        images, x = data(side, channels, options.num_images)
        ours = evaluation(images, x, size, options.sigma)
        work = 2 * x.size * size**2 * images.shape[0] * side**2
        own = memory_of(__file__, "--memory", case, -1, *common)
        for filters in options.filters:
            filters = filters or images.shape[0] * side**2
            baseline = torch_evaluation(images, x, size, options.sigma, filters)
            difference = np.abs(np.asarray(ours()) - baseline()).max()
            taken, seconds = interleaved({"torch": baseline, "critjax": ours}, settle=1.0).values()
            name = f"{side} x {side} x {channels}"
            row = [name, size, filters, f"{taken:.2f}", f"{seconds:.3f}", f"{taken / seconds:.1f}", 8]
            row += [f"{difference:.0e}", *(f"{work / t / speed:.2f}" for t in (taken, seconds))]
            rows.append([*row, memory_of(__file__, "--memory", case, filters, *common), own])
    header = [
        "image",
        "p",
        "filters a block",
        "PyTorch, s",
        "critjax, s",
        "times faster",
        "bar",
        "difference",
    ]
    fractions = ["PyTorch of peak", "critjax of peak"]
    table([*header, *fractions, "PyTorch, MB above imports", "critjax, MB above imports"], rows)


if __name__ == "__main__":
    main()
