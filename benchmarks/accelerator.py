"""What this device takes, and what a roofline allows it: evaluations, derivatives, batches, a job, a sweep, memory.

Made for accelerators, runs on a CPU too. Prints a Markdown table and writes it to results/accelerator-DEVICE.csv. The
operations and bytes beside each time are counted here from shapes, as the library's own route does them; a roofline
allows the larger of operations / peak and bytes / bandwidth. Peaks are known for the accelerators below, else give
--peak and --bandwidth. With --quick a try of under two minutes on a CPU. With --plan nothing is measured: the table of
docs/accelerators.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _timing import interleaved, machine, table

from critjax import ImageBank, PatchBank, patch_denoiser, random_pattern_bank
from critjax.patch_score._plan import BUDGET, Plan
from critjax.sweeps import sweep


class Peak(NamedTuple):
    """What a data sheet promises of one device, for float32 as the library asks for it (Precision.HIGHEST)."""

    operations: float  # a second
    bandwidth: float  # bytes a second
    kinds: tuple[str, ...] = ()  # how JAX calls it


#: NVIDIA H200 Tensor Core GPU, data sheet (SXM): FP32 67 TFLOP/s, 4.8 TB/s; full float32 uses no tensor cores.
#: Google Cloud, "TPU v5e": 197 TFLOP/s bfloat16, 819 GB/s a chip; "highest" makes six such products of one of float32.
PEAKS = {
    "NVIDIA H200": Peak(67e12, 4.8e12, ("NVIDIA H200",)),
    "TPU v5e": Peak(197e12 / 6, 819e9, ("TPU v5 lite", "TPU v5e")),
}
CASES = [(28, 1, 7), (28, 1, 15), (32, 3, 15)]
SIGMAS = (2.0, 0.5, 0.05)
BUDGETS = (64_000_000, BUDGET, 1_000_000_000, 4_000_000_000)


# ---- what there is to do
class Work(NamedTuple):
    """What one evaluation does, counted from shapes."""

    method: str
    steps: int  # that wait for each other
    operations: float
    bytes: float

    def times(self, count: int) -> Work:
        """Do it so many times, one after the other."""
        return Work(self.method, self.steps * count, self.operations * count, self.bytes * count)

    def seconds(self, peak: Peak) -> float:
        """Return what a roofline allows."""
        return max(self.operations / peak.operations, self.bytes / peak.bandwidth)


def is_accurate(plan: Plan, method: str, channels: int, sigma: float) -> bool:
    """Tell which arithmetic serves a noise level, for a bank whose largest value is one."""
    return plan.always_accurate or sigma**2 < plan.factor(method, np.float32) * channels


def count(
    plan: Plan, x_shape, bank_shape, sigma: float, platform: str, directions: int | None = None
) -> Work:
    """Count a value, or with ``directions`` its derivatives: so many forward ones, or none for a gradient.

    A pair is a noisy window and a training window. Exponentials count as one operation. Scores of a block are written
    by matrix products and read by what follows; so are weights. Layouts of windows are written and read. A compiler
    that fuses products with what follows needs fewer bytes.
    """
    derivative = directions is not None
    route = plan.route(x_shape, bank_shape, np.float32, platform, derivative)
    accurate = derivative or is_accurate(plan, route.method, x_shape[-1], sigma)
    channels, numbers = x_shape[-1], plan.size**2 * x_shape[-1]
    rows, columns = plan.bank_shape(bank_shape)
    queries, candidates = math.prod(plan.query_shape(x_shape)), bank_shape[0] * rows * columns
    blocks = -(-bank_shape[0] // route.images)
    if route.method == "box":
        steps = blocks * rows
        segment = rows if accurate else -(-rows // -(-rows // (2 * plan.size + 2)))
        terms = 2 * plan.size * channels + numbers / segment
        carried = (2 if accurate else 1, 4 if accurate else 2)  # additions, passes
    else:
        steps = blocks * -(-rows // route.rows)
        terms, carried = numbers, (0, 0)
    # Operations a pair: products with heads, tails and the rest, or one; the softmax; the readout of values and weight.
    products = 6 * terms + 5 if accurate else 2 * terms + 2
    first = products + carried[0] + (9 if accurate else 3) + 2 * (1 + channels)
    # Numbers a pair that pass through memory: scores written, read for the largest and for the weights; weights twice.
    moved = (3 + 1 + 3 + 3 + 2 if accurate else 1 + 1 + 1 + 2) + carried[1]
    laid_out = 2 * (3 if accurate else 1) * (candidates * (numbers + 1) + steps * queries * (numbers + 1))
    passes = 1
    operations = first
    if derivative:
        second = products + 9 + 3 * channels
        along = 2 * numbers + 5 + 2 * channels
        if directions:  # the second pass, and its tangents
            passes, operations, moved = 2, first + second + directions * along, 2 * moved + 5 * directions
        else:  # the second pass, once more, and backwards
            passes, operations, moved = 3, first + 2 * second + along, 3 * moved + 5
    bank = 4 * math.prod(bank_shape)
    total = 4 * (queries * candidates * moved + passes * laid_out) + passes * bank
    return Work(route.method, passes * steps, queries * candidates * operations, total)


def of_images(
    side: int,
    channels: int,
    size: int,
    num_images: int,
    sigma: float,
    platform: str,
    directions=None,
    budget=None,
) -> Work:
    """Return the work on every patch of training images."""
    plan = Plan("images", "all", "periodic", "centre", size, budget=budget)
    shape = (side, side, channels)
    return count(plan, shape, (num_images, *shape), sigma, platform, directions)


def arithmetic(size: int, channels: int, sigma: float, method: str) -> str:
    """Name the arithmetic of a noise level."""
    plan = Plan("images", "all", "periodic", "centre", size)
    return "accurate" if is_accurate(plan, method, channels, sigma) else "plain"


def print_plan(num_images: int = 400) -> None:
    """Print what one evaluation does on each platform."""
    print(f"{num_images} training images, one noisy image, default memory_budget; counted, not measured.\n")
    rows = []
    for side, channels, size in CASES:
        for platform, peaks in (("CPU", ()), ("CUDA", ("NVIDIA H200",)), ("TPU", ("TPU v5e",))):
            for sigma in (SIGMAS[0], SIGMAS[-1]):
                work = of_images(side, channels, size, num_images, sigma, platform.lower())
                allowed = [
                    f"{1e3 * work.seconds(peak):.1f}" if name in peaks else "" for name, peak in PEAKS.items()
                ]
                rows.append(
                    [
                        f"{side} x {side} x {channels}",
                        size,
                        platform,
                        arithmetic(size, channels, sigma, work.method),
                        work.method,
                        work.steps,
                        f"{work.operations / 1e9:.0f}",
                        f"{work.bytes / 1e9:.1f}",
                        *allowed,
                    ]
                )
    header = ["image", "p", "platform", "arithmetic", "method", "steps", "10^9 operations", "GB moved"]
    table([*header, *(f"{name} allows, ms" for name in PEAKS)], rows)
    print(
        "\nCUDA and TPU: the noise below which the arithmetic is accurate, and steps of one value by memory_budget.\n"
    )
    rows = []
    for side, channels, size in CASES:
        steps = [of_images(side, channels, size, num_images, 2.0, "other", budget=b).steps for b in BUDGETS]
        limit = (
            Plan("images", "all", "periodic", "centre", size).factor("product", np.float32) * channels
        ) ** 0.5
        rows.append([f"{side} x {side} x {channels}", size, f"{limit:.2f}", *steps])
    table(["image", "p", "accurate below sigma", *(f"{b / 1e6:.0f} MB" for b in BUDGETS)], rows)


# ---- what it takes
class Job(NamedTuple):
    """One line of the table: a call, how often it is timed, and what it does."""

    name: str
    call: Callable[[], object]
    arithmetic: str = ""
    work: Work | None = None
    megabytes: float | None = None  # that the program needs besides its arguments


def job(name: str, function: Callable, *arguments, arithmetic: str = "", work: Work | None = None) -> Job:
    """Compile a function for arguments that are on the device already."""
    arguments = jax.device_put(arguments)
    program = jax.jit(function).lower(*arguments).compile()
    analysis = program.memory_analysis()
    megabytes = None if analysis is None else analysis.temp_size_in_bytes / 1e6
    return Job(name, lambda: program(*arguments), arithmetic, work, megabytes)


def random_images(side: int, channels: int, num_images: int, batch: int):
    """Return training images in [-1, 1] and noisy ones."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (num_images, side, side, channels)).astype(np.float32)
    return images, rng.normal(size=(batch, side, side, channels)).astype(np.float32)


def jobs(quick: bool, platform: str) -> Iterator[Job]:
    """Yield everything that is timed warm."""
    num_images, batch, points = (40, 4, 4) if quick else (400, 64, 16)
    for side, channels, size in CASES:
        images, xs = random_images(side, channels, num_images, 1)

        def denoise(images, x, sigma, size=size):
            return patch_denoiser(ImageBank(images, size))(x, sigma)

        for sigma in SIGMAS:
            work = of_images(side, channels, size, num_images, sigma, platform)
            kind = arithmetic(size, channels, sigma, work.method)
            name = f"{num_images} images {side} x {side} x {channels}, p = {size}, sigma = {sigma}"
            yield job(name, denoise, images, xs[0], np.float32(sigma), arithmetic=kind, work=work)

    images, xs = random_images(28, 1, num_images, batch)
    sigma, case = np.float32(0.5), (28, 1, 7, num_images, 0.5, platform)

    def value(images, x, sigma):
        return patch_denoiser(ImageBank(images, 7))(x, sigma)

    def along(images, x, sigma, directions):
        return jax.vmap(lambda v: jax.jvp(lambda y: value(images, y, sigma), (x,), (v,))[1])(directions)

    def gradient(images, x, sigma):
        return jax.grad(lambda y: jnp.sum(value(images, y, sigma) ** 2))(x)

    one, kind = of_images(*case), {"arithmetic": "accurate"}
    directions = np.random.default_rng(1).normal(size=(8, 28, 28, 1)).astype(np.float32)
    forward = of_images(*case, directions=8)
    yield job(
        "8 Jacobian-vector products, p = 7", along, images, xs[0], sigma, directions, work=forward, **kind
    )
    yield job("gradient, p = 7", gradient, images, xs[0], sigma, work=of_images(*case, directions=0), **kind)
    many = jax.vmap(value, (None, 0, None))
    yield job(f"batch of {batch} images, p = 7", many, images, xs, sigma, work=one.times(batch), **kind)

    bank = random_pattern_bank(jax.random.key(0), 9, 8)
    samples = np.random.default_rng(0).normal(size=(batch, 64, 64, 1)).astype(np.float32) * 5
    plan = Plan("patches", None, "periodic", "centre", 9)
    work = count(plan, (64, 64, 1), bank.patches.shape, 4.0, platform)
    work = work._replace(operations=work.operations * batch, bytes=work.bytes * batch)  # all at once
    yield job(
        f"default bank, {batch} samples 64 x 64, sigma = 4",
        lambda patches, x, sigma: jax.vmap(patch_denoiser(PatchBank(patches)), (0, None))(x, sigma),
        bank.patches, samples, np.float32(4.0), arithmetic="plain", work=work,
    )  # fmt: skip

    few, grid = jax.device_put((images[: num_images // 4], xs[0])), np.geomspace(2.0, 0.05, points)
    works = [of_images(28, 1, 7, num_images // 4, level, platform) for level in grid]
    total = Work(works[0].method, *(sum(column) for column in list(zip(*works, strict=True))[1:]))

    def at(point):
        return jnp.mean(value(*few, point["sigma"]))

    yield Job(
        f"sweep over {points} noise levels, {num_images // 4} images, p = 7",
        lambda: sweep(at, {"sigma": grid.astype(np.float32)}),
        "both",
        total,
    )


def cold_job() -> float:
    """Run ``critjax criticality --quick`` from a cold start, compilation and report included; return the seconds."""
    from critjax.cli import main

    with tempfile.TemporaryDirectory() as folder:
        # Compiled programs of earlier runs would make it a warm start.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        jax.config.update("jax_compilation_cache_dir", folder)
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            status = main(["criticality", "--quick", "--no-progress", "--out", f"{folder}/run"])
        jax.config.update("jax_compilation_cache_dir", None)
        if status:
            raise RuntimeError(f"critjax criticality --quick: exit status {status}")
        return time.perf_counter() - began


def peak_of(device, options) -> Peak | None:
    """Return the peaks from the command line or the list, if any."""
    if options.peak and options.bandwidth:
        return Peak(options.peak * 1e12, options.bandwidth * 1e9)
    return next((p for p in PEAKS.values() if any(device.device_kind.startswith(k) for k in p.kinds)), None)


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", action="store_true", help="count what one evaluation does, measure nothing")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the images, small batches, two repeats"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="of float32, with --bandwidth")
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="of the device's memory")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.plan:
        print_plan()
        return
    device = jax.devices()[0]
    platform = jax.default_backend()
    peak = peak_of(device, options)
    rows = []
    for one in jobs(options.quick, platform):
        seconds = interleaved({one.name: one.call}, 2 if options.quick else options.repeats)[one.name]
        allowed = one.work.seconds(peak) if peak and one.work else None
        rows.append(
            [
                one.name,
                one.arithmetic,
                *((one.work.method, one.work.steps) if one.work else ("", "")),
                f"{one.work.operations / 1e9:.1f}" if one.work else "",
                f"{one.work.bytes / 1e9:.2f}" if one.work else "",
                "" if one.megabytes is None else f"{one.megabytes:.0f}",
                f"{1e3 * seconds:.2f}",
                "" if allowed is None else f"{1e3 * allowed:.2f}",
                "" if allowed is None else f"{seconds / allowed:.1f}",
            ]
        )
        del one
    stats = device.memory_stats()  # before the job, which has its own
    rows.append(["critjax criticality --quick, cold", *[""] * 6, f"{1e3 * cold_job():.0f}", "", ""])
    print(f"{device.device_kind}; {machine()}{'; --quick' if options.quick else ''}")
    if peak:
        print(f"Roofline: {peak.operations / 1e12:.1f} TFLOP/s, {peak.bandwidth / 1e9:.0f} GB/s")
    if stats and "peak_bytes_in_use" in stats:
        print(
            f"Most memory in use on the device, all lines but the last: {stats['peak_bytes_in_use'] / 1e6:.0f} MB"
        )
    header = ["what", "arithmetic", "method", "steps", "10^9 operations", "GB moved", "program, MB", "ms"]
    header += ["roofline allows, ms", "ratio"]
    table(header, rows)
    slug = re.sub(r"[^a-z0-9]+", "-", device.device_kind.lower()).strip("-") + (
        "-quick" if options.quick else ""
    )
    options.results.mkdir(parents=True, exist_ok=True)
    with (options.results / f"accelerator-{slug}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["device", "jax", *header])
        writer.writerows([device.device_kind, jax.__version__, *row] for row in rows)


if __name__ == "__main__":
    main()
