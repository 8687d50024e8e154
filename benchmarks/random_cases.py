"""Patch scores of random problems against float64 brute force: rounding, whatever the bank and the noise.

Every legal variant and every method of `patch_denoiser`, in float32 and, for a smaller share, in float64:
denoised images, effective numbers of patches, Jacobian-vector products J v and gradients u.J. The exact
answer is computed here in NumPy, in float64, from the same (rounded) inputs and from the definitions of THEORY
section 2 alone. Claimed, in units of the range of the images (2 for images in [-1, 1], 255 for images in
0..255), for noise from 1e-6 to 1e3 of it:

- all results are finite;
- denoised values err by at most 2e-5 for a picture, of the bank or held out, plus noise of that level; for
  pictures half-way between two candidates, a coin toss that rounding decides, by at most 1e-4 at noise of at
  least 0.05;
- effective numbers of patches err by at most 1e-3 of themselves at noise of at least 0.05;
- derivatives err by at most 2 per cent of the largest entry of the exact one, plus 1e-3, except for half-way
  pictures at noise below 0.05;
- where a window of a noised picture is a toss-up between two candidates by chance, at noise below 0.05, values err
  by at most what a change of logits by ten times the root mean square of their rounding moves them;
- of held-out pictures between near-ties, results below the least noise level that scores resolve (see
  `patch_denoiser`) are a coin toss, too, and only have to be finite;
- in float64 values err by at most 1e-9, effective numbers by 1e-8 of themselves, derivatives by 1e-8 of the
  largest entry plus 1e-9, with the same exceptions.

Prints a table of the largest error of a case (median over cases, and worst), every case that fails with what
it takes to run it again (``--case PROGRAM.CASE``), and a verdict; the exit code is 1 if any case fails.
Problems are small, because brute force is slow. Averages over windows of more than 15 pixels take minutes to
compile, and are left out without ``--all-windows``, except for one of 25.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _timing import machine, table

from critjax import ImageBank, PatchBank, effective_patches, patch_denoiser
from critjax.patch_score._plan import LEGAL, Plan

BANKS = ("uniform", "smooth", "ties", "near-ties", "prior")
PICTURES = ("member", "held-out", "half-way")
#: Effective numbers, and all at half-way pictures, are judged from this level on, in units of the range.
JUDGED_FROM = 0.05
#: Weights of less than exp(-60) of the largest one do not count.
NEGLIGIBLE = 60.0


# ---- which problems
class Program(NamedTuple):
    """What is compiled once and then called for many banks, pictures and noise levels."""

    number: int
    kind: str
    positions: str | None
    boundary: str
    readout: str
    method: str
    size: int
    channels: int
    grid: tuple[int, int]
    image_grid: tuple[int, int]  # of the training images
    count: int
    blocks: bool  # a memory budget that cuts the bank into several blocks
    dtype: str
    derivatives: bool
    cases: int
    quick: bool
    slow: bool  # to compile

    @property
    def name(self) -> str:
        """Say which problem this is."""
        where = f" {self.positions}" if self.positions else ""
        shape = "x".join(map(str, (*self.grid, self.channels)))
        other = "" if self.image_grid == self.grid else " of " + "x".join(map(str, self.image_grid))
        variant = f"{self.kind}{where} {self.boundary} {self.readout}"
        blocks = ", in blocks" if self.blocks else ""
        return f"{variant}, {self.method}, p = {self.size}, {shape}, {self.count} {self.kind}{other}{blocks}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one patch or training image."""
        grid = (self.size, self.size) if self.kind == "patches" else self.image_grid
        return (*grid, self.channels)

    @property
    def budget(self) -> int | None:
        """Bytes of a block: about a third of the bank, or everything."""
        if not self.blocks:
            return None
        pixels, numbers = self.grid[0] * self.grid[1], self.size**2 * self.channels
        one = 4 * pixels + 3 * numbers
        if self.positions == "same":
            one = pixels * (4 + (numbers if self.readout == "average" else self.channels))
        elif self.kind == "images":
            one *= self.image_grid[0] * self.image_grid[1]
        return max(1, np.dtype(self.dtype).itemsize * one * self.count // 3)

    def is_accurate(self, sigma: float, data: np.ndarray) -> bool:
        """Tell whether the library splits scores at this noise level; derivatives always do."""
        plan = Plan(self.kind, self.positions, self.boundary, self.readout, self.size)
        limit = plan.factor(self.method, data.dtype) * self.channels * reach(data) ** 2
        return plan.always_accurate or sigma**2 < limit

    def least_level(self, data: np.ndarray) -> float:
        """Return about which sigma accurate scores resolve; lower ones count as this (`patch_denoiser`)."""
        kind, terms = np.finfo(data.dtype), self.size**2 * self.channels
        bits = (kind.nmant - 1 - math.ceil(math.log2(terms))) // 2
        return float(reach(data) * np.sqrt(kind.eps * terms**0.75 / 8 * 2.0**-bits))


def reach(data: np.ndarray) -> float:
    """Return how far the data lie from the origin that the library gives them, about the middle of their range."""
    return float(np.max(data) - np.min(data)) / 2


def quick(dtype: str, index: int, entry: int, size: int) -> bool:
    """Tell whether a program is one of few: every variant and method at p = 3 and a few others."""
    if dtype == "float64":
        return index % 6 == 0
    return entry == 2 or (size == 15 and index == 1) or (entry == 0 and index in (4, 6))


def programs() -> Iterator[Program]:
    """Yield all programs; numbers do not depend on the options of this script."""
    # Window, picture, training images where they may differ, patches, images.
    common = [
        (1, (1, 1), (1, 1), 7, 5),
        (1, (6, 9), (7, 4), 12, 3),
        (3, (8, 5), (6, 10), 12, 4),
        (5, (7, 11), (7, 11), 9, 1),
        (7, (13, 9), (13, 9), 16, 4),
        (9, (9, 14), (10, 11), 12, 3),
        (15, (17, 15), (17, 15), 10, 2),
    ]
    centre = [(3, (9, 7), (9, 7), 600, 20), (25, (25, 29), (25, 29), 8, 2), (45, (47, 45), (47, 45), 5, 1)]
    average = [(2, (5, 8), (5, 8), 10, 4), (4, (9, 6), (9, 6), 12, 3)]
    average += [(25, (25, 27), (25, 27), 6, 2), (45, (45, 47), (45, 47), 3, 1)]
    number = 0
    rows = [(row, method) for row, methods in LEGAL.items() for method in methods]
    for dtype in ("float32", "float64"):
        for index, (row, method) in enumerate(rows):
            kind, positions, boundary, readout = row
            for entry, (size, grid, image_grid, patches, images) in enumerate(
                common + (centre if readout == "centre" else average)
            ):
                count = patches if kind == "patches" else images
                if positions == "same" and size in (5, 45):
                    count = 3
                fixed = kind == "patches" or positions == "same" or boundary == "zero"
                # Derivatives know neither "box" nor, with averages over large windows, short compilation.
                sizes = (1, 3, 7) if readout == "average" else (1, 3, 7, 9, 15, 45)
                if method == "box" and positions != "same":
                    sizes = (5,)
                if dtype == "float64" and size not in ((4,) if readout == "average" else (5,)):
                    continue
                number += 1
                yield Program(
                    number,
                    *row,
                    method,
                    size,
                    3 if (index + entry) % 2 and size < 45 else 1,
                    grid,
                    grid if fixed else image_grid,
                    count,
                    (index // 2 + entry) % 2 == 0,
                    dtype,
                    count < 100 and (size in sizes or dtype == "float64"),
                    4 if size == 45 else 12 if size >= 15 else 40,
                    quick(dtype, index, entry, size),
                    readout == "average" and size >= 25 and (size, boundary) != (25, "zero"),
                )


class Case(NamedTuple):
    """One bank, noisy image and noise level, in the dtype of the program."""

    bank_kind: str
    picture: str
    units: float  # the range of the images
    level: float  # sigma in units of it
    data: np.ndarray
    log_prior: np.ndarray | None
    x: np.ndarray
    sigma: np.ndarray
    u: np.ndarray
    v: np.ndarray


def smooth(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return low-pass pictures in [-1, 1]."""
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), indexing="ij"))
    noise = np.fft.fft2(rng.normal(size=(count, *shape)), axes=(1, 2))
    found = np.fft.ifft2(noise * np.exp(-((waves / 0.15) ** 2))[None, :, :, None], axes=(1, 2)).real
    return found / np.max(np.abs(found), axis=(1, 2, 3), keepdims=True)


def make_bank(
    rng: np.random.Generator, kind: str, count: int, more: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Return ``count`` pictures in [-1, 1] and ``more`` of the same kind that are not in the bank."""

    def fresh(number: int) -> np.ndarray:
        if kind == "smooth" or (kind != "uniform" and rng.integers(2)):
            return smooth(rng, number, shape)
        return rng.uniform(-1, 1, (number, *shape))

    if kind not in ("ties", "near-ties"):
        return fresh(count + more)
    distinct = max(1, count // 2)
    base = fresh(distinct)
    if count == 1:  # the ties of a single image lie within it
        base = base[:, np.arange(shape[0]) % -(-shape[0] // 2)]
    if kind == "ties":
        return np.concatenate([base[np.arange(count) % distinct], fresh(more)])
    return base[np.arange(count + more) % distinct] + 2e-3 * rng.normal(size=(count + more, *shape))


def clean_picture(
    rng: np.random.Generator, program: Program, picture: str, known: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Return what noise is added to: whole training images, or patches laid side by side."""

    def one() -> np.ndarray:
        if picture == "held-out":
            return held[rng.integers(len(held))]
        first = known[rng.integers(len(known))]
        if picture == "member":
            return first
        other = known[rng.integers(len(known))] if len(known) > 1 else np.roll(first, (1, 2), (0, 1))
        return (first + other) / 2

    (height, width), (rows, columns) = program.grid, program.shape[:2]
    if program.kind == "patches":
        tiles = [[one() for _ in range(-(-width // columns))] for _ in range(-(-height // rows))]
        return np.concatenate([np.concatenate(row, axis=1) for row in tiles])[:height, :width]
    return one()[np.ix_(np.arange(height) % rows, np.arange(width) % columns)]


def make_case(program: Program, number: int, seed: int) -> Case:
    """Draw one case."""
    rng = np.random.default_rng([seed, program.number, number])
    bank_kind, picture = rng.choice(BANKS), rng.choice(PICTURES)
    # Two ends; then two in three over all levels, and one where candidates compete and arithmetic changes.
    level = 10.0 ** rng.uniform(-6, 3)
    if number % 3 == 2:
        level = 10.0 ** rng.uniform(-2, 0) * program.size * program.channels**0.5
    level = {0: 1e-6, 1: 1e3}.get(number, level)
    more = 5 if program.kind == "patches" else 1
    drawn = make_bank(rng, bank_kind, program.count, more, program.shape)
    units = float(rng.choice([2.0, 255.0]))
    if units == 255.0:
        drawn = (drawn + 1) * 127.5
        drawn = np.round(drawn) if rng.integers(2) and bank_kind != "near-ties" else drawn
    data, held = np.split(drawn.astype(program.dtype), [program.count])
    log_prior = None
    if bank_kind == "prior":
        log_prior = rng.normal(size=program.count).astype(program.dtype)
        if program.count > 1:
            log_prior[rng.integers(program.count)] = -np.inf
    x = clean_picture(rng, program, picture, data.astype(np.float64), held.astype(np.float64))
    noise, u, v = rng.normal(size=(3, *x.shape))
    sigma = np.asarray(level * units, program.dtype)
    if picture != "half-way":
        x = x + float(sigma) * noise
    x, u, v = (a.astype(program.dtype) for a in (x, u, v))
    return Case(str(bank_kind), str(picture), units, level, data, log_prior, x, sigma, u, v)


# ---- brute force in float64
class Group(NamedTuple):
    """Windows that meet the same candidates: G groups of Q windows with K candidates each."""

    windows: np.ndarray  # (G, Q), flat indices
    table: np.ndarray  # (G, K, n)
    log_prior: np.ndarray  # (K,)


class Answer(NamedTuple):
    """What is compared."""

    denoised: np.ndarray  # (H, W, C)
    effective: np.ndarray  # (H, W), or one a window
    forward: np.ndarray | None  # J v
    reverse: np.ndarray | None  # u.J


def padding(program: Program, *, training: bool = False) -> str | None:
    """Return how pictures continue; None for windows inside only."""
    if program.boundary == "zero":
        return None if program.readout == "average" else "constant"
    return None if training and program.positions == "interior" else "wrap"


def unfold(images: np.ndarray, size: int, mode: str | None) -> np.ndarray:
    """Cut out all windows: (N, H, W, C) to (N, H', W', p p C)."""
    if mode is not None:
        around = ((size - 1) // 2, size // 2)
        images = np.pad(images, ((0, 0), around, around, (0, 0)), mode=mode)
    view = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    return np.moveaxis(view, 3, -1).reshape(*view.shape[:3], -1)


def fold(windows: np.ndarray, size: int, shape: tuple[int, ...], mode: str | None) -> np.ndarray:
    """Add windows (H', W', p p C) up where they lie on the image (H, W, C): the adjoint of `unfold`."""
    rows, columns = windows.shape[:2]
    windows = windows.reshape(rows, columns, size, size, -1)
    padded = np.zeros((rows + size - 1, columns + size - 1, shape[2]))
    for i, j in itertools.product(range(size), repeat=2):
        padded[i : i + rows, j : j + columns] += windows[:, :, i, j]
    if mode is None:
        return padded
    before = (size - 1) // 2
    if mode == "constant":
        return padded[before : before + shape[0], before : before + shape[1]]
    total = np.zeros(shape)
    i, j = ((np.arange(n) - before) % m for n, m in zip(padded.shape, shape[:2], strict=False))
    np.add.at(total, np.ix_(i, j), padded)
    return total


def groups(program: Program, data: np.ndarray, log_prior: np.ndarray) -> Iterator[Group]:
    """Yield which windows are compared with what."""
    height, width = program.grid
    if program.kind == "patches":
        yield Group(np.arange(height * width)[None], data.reshape(1, len(data), -1), log_prior)
        return
    bank = unfold(data, program.size, padding(program, training=True))  # (N, H', W', n)
    if program.positions == "same":
        places = bank.shape[1] * bank.shape[2]
        yield Group(
            np.arange(places)[:, None], np.moveaxis(bank, 0, 2).reshape(places, len(data), -1), log_prior
        )
        return
    every = slice(None)
    pairs = [(np.arange(height), np.arange(width), every, every)]
    if program.boundary == "zero":  # border rows and columns meet themselves, those inside one another
        reach = (program.size - 1) // 2
        split = [
            [np.arange(reach, n - reach), *(np.array([i]) for i in (*range(reach), *range(n - reach, n)))]
            for n in (height, width)
        ]
        pairs = [(i, j, i, j) for i, j in itertools.product(*split)]
    for i, j, rows, columns in pairs:
        met = bank[:, rows][:, :, columns]
        prior = np.repeat(log_prior, met.shape[1] * met.shape[2])
        windows = (i[:, None] * width + j).reshape(1, -1)
        yield Group(windows, met.reshape(1, -1, met.shape[-1]), prior)


def posterior(seen: np.ndarray, group: Group, sigma: float, tolerance: float) -> np.ndarray:
    """Return the weights (G, Q, K) of windows (G, Q, n).

    By products; where their rounding might change logits by more than the tolerance, pair by pair against the
    best.
    """
    bank, prior = group.table, group.log_prior
    mine, theirs = np.sum(seen**2, -1), np.sum(bank**2, -1)
    logits = seen @ bank.swapaxes(1, 2) - theirs[:, None] / 2
    logits = prior + (logits - mine[..., None] / 2) / sigma**2
    largest = np.max(mine) + np.max(theirs)
    doubt = np.finfo(np.float64).eps * np.sqrt(bank.shape[-1]) * largest / sigma**2
    if doubt > tolerance:
        best = np.argmax(logits, axis=-1)
        near = np.nonzero(logits >= np.max(logits, axis=-1, keepdims=True) - NEGLIGIBLE - 2 * doubt)
        logits = np.full(logits.shape, -np.inf)
        step = max(1, 4_000_000 // bank.shape[-1])
        for first in range(0, len(near[0]), step):
            g, q, k = (index[first : first + step] for index in near)
            one, other = bank[g, k], bank[g, best[g, q]]
            inner = np.sum((one - other) * (seen[g, q] - (one + other) / 2), axis=-1)
            logits[g, q, k] = prior[k] - prior[best[g, q]] + inner / sigma**2
    weights = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return weights / np.sum(weights, axis=-1, keepdims=True)


def covariance(weights: np.ndarray, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the covariance of one number a pair (G, Q, K) with values (G, K, R): (G, Q, R)."""
    tilted = weights * (numbers - np.sum(weights * numbers, axis=-1, keepdims=True))
    return tilted @ values - np.sum(tilted, axis=-1, keepdims=True) * (weights @ values)


def brute_force(program: Program, case: Case) -> tuple[Answer, np.ndarray]:
    """Compute everything in float64 from the definitions, and how far unit errors of logits move denoised values."""
    data, x, u, v = (np.asarray(a, np.float64) for a in (case.data, case.x, case.u, case.v))
    log_prior = np.zeros(len(data)) if case.log_prior is None else case.log_prior.astype(np.float64)
    sigma, size, mode = float(case.sigma), program.size, padding(program)
    whole = program.readout == "average"

    def cut(image: np.ndarray) -> np.ndarray:
        return unfold(image[None], size, mode)[0]

    seen = cut(x)
    shape, numbers = seen.shape[:2], seen.shape[2]
    centre = slice(size**2 // 2 * x.shape[2], (size**2 // 2 + 1) * x.shape[2])
    read = slice(None) if whole else centre
    cover = fold(np.ones(seen.shape), size, x.shape, mode) if whole else np.ones(x.shape)
    along, back = cut(v), cut(u / cover) if whole else u
    mean = np.empty((*shape, numbers if whole else x.shape[2]))
    moved = np.empty(mean.shape)
    forward, reverse, entropy = np.empty(mean.shape), np.empty(seen.shape), np.empty(shape)
    # Views with one axis of windows.
    flat = [
        a.reshape(shape[0] * shape[1], -1)
        for a in (seen, along, back, mean, forward, reverse, entropy, moved)
    ]
    tolerance = 1e-7 if program.dtype == "float32" else 1e-11
    for group in groups(program, data, log_prior):
        where, bank, values = group.windows, group.table, group.table[..., read]
        weights = posterior(flat[0][where], group, sigma, tolerance)
        flat[3][where] = centres = weights @ values
        spread = weights**2 @ values**2 - 2 * centres * (weights**2 @ values)
        spread += centres**2 * np.sum(weights**2, -1, keepdims=True)
        flat[7][where] = np.sqrt(np.maximum(spread, 0))
        logs = np.log(weights, where=weights > 0, out=np.zeros(weights.shape))
        flat[6][where] = -np.sum(weights * logs, axis=-1, keepdims=True)
        if program.derivatives:
            flat[4][where] = covariance(weights, flat[1][where] @ bank.swapaxes(1, 2), values) / sigma**2
            flat[5][where] = covariance(weights, flat[2][where] @ values.swapaxes(1, 2), bank) / sigma**2
    if whole:
        mean, moved = (fold(a, size, x.shape, mode) / cover for a in (mean, moved))
    if not program.derivatives:
        return Answer(mean, np.exp(entropy), None, None), moved
    if whole:
        forward = fold(forward, size, x.shape, mode) / cover
    return Answer(mean, np.exp(entropy), forward, fold(reverse, size, x.shape, mode)), moved


# ---- the library
def functions(program: Program) -> tuple[Any, Any]:
    """Return ``(bank, x, sigma) -> values`` and ``(bank, x, sigma, u, v) -> derivatives``."""
    options = {"boundary": program.boundary, "readout": program.readout}
    options |= {"method": program.method, "memory_budget": program.budget}

    def values(bank, x, sigma):
        return patch_denoiser(bank, **options)(x, sigma), effective_patches(bank, **options)(x, sigma)

    def derivatives(bank, x, sigma, u, v):
        def denoised(x):
            return patch_denoiser(bank, **options)(x, sigma)

        _, forward = jax.jvp(denoised, (x,), (v,))
        return forward, jax.grad(lambda x: jnp.sum(u * denoised(x)))(x)

    return jax.jit(values), jax.jit(derivatives)


def ask(program: Program, compiled: tuple[Any, Any], case: Case) -> Answer:
    """Let the library answer."""
    if program.kind == "patches":
        bank = PatchBank(case.data, case.log_prior)
    else:
        bank = ImageBank(case.data, program.size, positions=program.positions, log_prior=case.log_prior)
    found = compiled[0](bank, case.x, case.sigma)
    more = (None, None)
    if program.derivatives:
        more = compiled[1](bank, case.x, case.sigma, case.u, case.v)
    if any(a is not None and a.dtype != program.dtype for a in (*found, *more)):
        raise TypeError(f"results are not {program.dtype}")
    return Answer(*(None if a is None else np.asarray(a, np.float64) for a in (*found, *more)))


# ---- comparison
class Finding(NamedTuple):
    """The largest error of one quantity in one case."""

    program: Program
    number: int
    quantity: str
    picture: str  # "noised" | "half-way" | "half-way, low noise" | "low noise"
    entries: int
    error: float
    bar: float
    finite: bool
    told: str

    @property
    def failed(self) -> bool:
        """Tell whether a bar is missed."""
        return not self.finite or not self.error <= self.bar

    @property
    def place(self) -> str:
        """Say how to run the case again."""
        return f"{self.program.number}.{self.number}"


def compare(
    program: Program, number: int, case: Case, found: Answer, exact: Answer, moved: np.ndarray
) -> Iterator[Finding]:
    """Yield what came out of one case; ``moved`` of `brute_force`."""
    single, low = program.dtype == "float32", case.level < JUDGED_FROM
    halfway = case.picture == "half-way"
    picture = ("half-way, low noise" if low else "half-way") if halfway else "noised"
    arithmetic = "accurate" if program.is_accurate(float(case.sigma), case.data) else "plain"
    unresolved = float(case.sigma) < program.least_level(case.data)
    if unresolved:
        arithmetic += ", below the least level"
    tossed = halfway and low
    if unresolved and (case.bank_kind, case.picture) == ("near-ties", "held-out"):
        tossed, picture = True, "between near-ties, unresolved"
    told = (
        f"bank {case.bank_kind}, {case.picture}, range {case.units:g}, sigma = {case.level:.3g}, {arithmetic}"
    )
    for quantity, mine, right in zip(Answer._fields, found, exact, strict=True):
        if right is None:
            continue
        if mine.shape != right.shape or not np.all(np.isfinite(right)):
            raise ValueError(f"{program.name}: {quantity} has shape {mine.shape}, not {right.shape}")
        seen, more = picture, ""
        if quantity == "denoised":
            unit, bar = case.units, (1e-4 if halfway else 2e-5) if single else 1e-9
            unjudged = tossed
        elif quantity == "effective":
            unit, bar, unjudged = right, 1e-3 if single else 1e-8, low
            seen = "low noise" if low else "half-way" if halfway else "noised"
        else:
            largest = np.max(np.abs(right))
            share, bar = (0.02, 0.02) if single else (1e-8, 1e-8)
            unit = largest + (1e-3 if single else 1e-9) / share
            more, unjudged = f", largest entry {largest:.2g}", tossed
        # Through max, NaN would stay NaN, and beat no bar.
        finite = bool(np.all(np.isfinite(mine)))
        bar = np.inf if unjudged else bar
        errors = np.abs(mine - right) / unit
        if (
            quantity == "denoised"
            and low
            and not halfway
            and np.isfinite(bar)
            and arithmetic.startswith("accurate")
        ):
            doubt = (
                moved
                / unit
                * np.expm1(min(10 * (program.least_level(case.data) / float(case.sigma)) ** 2, 50.0))
            )
            chance = doubt > bar
            if np.any(chance):
                worst = float(np.max(errors[chance] / doubt[chance])) if finite else np.inf
                yield Finding(
                    program,
                    number,
                    quantity,
                    "toss-ups by chance",
                    int(chance.sum()),
                    worst,
                    1.0,
                    finite,
                    told,
                )
                errors = np.where(chance, 0, errors)
        worst = float(np.max(errors)) if finite else np.inf
        yield Finding(program, number, quantity, seen, right.size, worst, bar, finite, told + more)


def run(program: Program, seed: int, numbers: range | list[int]) -> list[Finding]:
    """Compile one program and call it for all its cases."""
    compiled, found = functions(program), []
    for number in numbers:
        case = make_case(program, number, seed)
        found += compare(program, number, case, ask(program, compiled, case), *brute_force(program, case))
    return found


def report(findings: list[Finding]) -> None:
    """Print errors, what they were found on, and what failed."""
    by_row = collections.defaultdict(list)
    for finding in findings:
        by_row[finding.program.dtype, finding.quantity, finding.picture].append(finding)
    rows = []
    order = {name: position for position, name in enumerate(Answer._fields)}
    for key in sorted(by_row, key=lambda k: (k[0], order[k[1]], k[2] != "noised", k[2])):
        some = by_row[key]
        worst = max(some, key=lambda f: f.error)
        name = {"forward": "J v", "reverse": "u.J"}.get(key[1], key[1])
        median, bar = float(np.median([f.error for f in some])), some[0].bar
        rows.append(
            [
                key[0],
                name,
                key[2],
                len(some),
                sum(f.entries for f in some),
                f"{median:.1e}",
                f"{worst.error:.1e}",
                "finite" if bar == np.inf else f"{bar:g}",
                sum(f.failed for f in some),
                worst.place,
            ]
        )
    header = [
        "dtype",
        "quantity",
        "picture",
        "cases",
        "entries",
        "median",
        "worst",
        "bar",
        "failed",
        "worst case",
    ]
    table(header, rows)
    print("\nWorst cases:")
    for key in by_row:
        worst = max(by_row[key], key=lambda f: f.error)
        print(f"- {worst.place}, {worst.quantity}, {worst.error:.2g}: {worst.program.name}; {worst.told}")
    failures = [finding for finding in findings if finding.failed]
    if failures:
        print("\nFailed:")
    for f in failures:
        size = f"{f.error:.2g} > {f.bar:g}" if f.finite else "not finite"
        print(f"- {f.place}, {f.program.dtype}, {f.quantity}, {size}: {f.program.name}; {f.told}")


def main() -> None:
    """Print tables and verdict."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few programs and cases")
    parser.add_argument("--all-windows", action="store_true", help="averages over large windows, too")
    parser.add_argument("--threads", type=int, default=2, help="programs compiled and run at a time")
    parser.add_argument("--case", metavar="PROGRAM.CASE", help="only this case, or this program")
    arguments = parser.parse_args()
    start, findings = time.perf_counter(), []
    chosen = [p for p in programs() if (p.quick if arguments.quick else arguments.all_windows or not p.slow)]
    cases = None
    if arguments.case:
        which, _, case = arguments.case.partition(".")
        chosen = [p for p in programs() if p.number == int(which)]
        cases = [int(case)] if case else None
    for dtype in ("float32", "float64"):
        jax.config.update("jax_enable_x64", dtype == "float64")
        # The slowest first, so that threads end together.
        some = sorted((p for p in chosen if p.dtype == dtype), key=lambda p: (p.readout, -p.size))
        with ThreadPoolExecutor(arguments.threads) as pool:
            numbers = [cases or range(12 if arguments.quick else p.cases) for p in some]
            for found in pool.map(run, some, [arguments.seed] * len(some), numbers):
                findings += found
    report(findings)
    values = sum(f.entries for f in findings if f.quantity == "denoised")
    derivatives = sum(f.entries for f in findings if f.quantity in ("forward", "reverse"))
    cases_run = len({f.place for f in findings})
    failed = len({f.place for f in findings if f.failed})
    print(f"\n{machine()}; seed {arguments.seed}")
    print(f"{len(chosen)} programs, {cases_run} cases, {values} values, {derivatives} derivatives, ", end="")
    print(f"{time.perf_counter() - start:.0f} s")
    print(f"Verdict: {'passed' if not failed else f'{failed} of {cases_run} cases failed'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
