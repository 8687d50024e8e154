r"""Evaluation routes: how scores of a block of candidates are computed, all equal to round-off.

The score of candidate mu at pixel i is ``s = x_i . phi_mu - |phi_mu|^2 / 2``, the logit ``s / sigma^2 + log pi_mu``.
A route turns one block of the bank into scores for all pixels and hands them to a *consumer* (the streaming softmax,
or its derivative) with the candidates on the last axis. Routes with an inner loop hand over one image row at a time.

================  =========================================================================================
``"convolution"``  few patches: scores by one convolution with the patches as filters
``"product"``      blocked matrix product of unfolded windows and unfolded patches
``"box"``          image banks: scores of a row of pixels follow from those of the row above by adding one row of
                   the window and removing one, i.e. a product over ``4 p C`` instead of ``2 p^2 C`` operations
                   per pair; for ``positions="same"`` box sums of squared differences
================  =========================================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from critjax._typing import Array
from critjax.patch_score._split import grid_step, head, head_bits, sum_bits
from critjax.patch_score._windows import box_sum, pad, unfold, unfold_rows


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything static about one evaluation: the variant, the route and the blocking."""

    kind: str  # "patches" | "images"
    positions: str | None
    boundary: str
    readout: str
    method: str
    size: int
    block: int  # patches or images a block
    mesh: Any = None
    axis: str | None = None

    @property
    def query_pad(self) -> str:
        """Padding of the noisy image."""
        if self.boundary == "periodic":
            return "wrap"
        return "none" if self.readout == "average" else "zero"

    @property
    def bank_pad(self) -> str:
        """Padding of the training images."""
        return "none" if self.positions == "interior" else self.query_pad


class Query(NamedTuple):
    """The noisy image, laid out once for all blocks."""

    x: Array  # (H, W, C)
    sigma: Array  # ()
    layout: Any  # what `lay_out` made of it
    fixed: Any  # per-window arrays that a consumer reads, leading axes (H, W); rows are handed over with the rows
    scales: tuple[Array, Array]  # largest absolute values of the noisy image and of the whole bank


class Split(NamedTuple):
    """Logits times sigma^2 in an exact and a small part; the prior is in the small part, exclusion in the exact one."""

    high: Array  # (..., B)
    low: Array  # (..., B)


# A consumer takes (state, fixed, logits, allowed, contract) and returns the new state.
#   logits: (..., B) in plain arithmetic, or a Split in compensated arithmetic
#   allowed: None or a boolean array that broadcasts to (..., B)
#   contract: weights (..., B) -> (..., 1 + R), their sum and their sum times the readout values
Consumer = Callable[..., Any]


def lay_out(plan: Plan, x: Array) -> Any:
    """Lay out the noisy image (H, W, C) once, before the loop over blocks."""
    padded = pad(x, plan.size, plan.query_pad, axes=(0, 1))
    if plan.positions == "same":
        return x
    if plan.method == "convolution":
        return padded
    windows = unfold(padded, plan.size)
    if plan.method == "product":
        return windows
    return windows, unfold_rows(padded, plan.size)


def query_shape(plan: Plan, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many windows the noisy image has along each axis."""
    lost = plan.size - 1 if plan.query_pad == "none" else 0
    return shape[0] - lost, shape[1] - lost


def fold(
    plan: Plan, query: Query, block: tuple[Array, Array], state: Any, consume: Consumer, split: bool
) -> Any:
    """Feed one block of the bank through the consumer; ``split`` selects the compensated arithmetic."""
    candidates, log_prior = block
    if plan.positions == "same":
        return _fold_same(plan, query, candidates, log_prior, state, consume, split)
    if plan.kind == "patches":
        count = candidates.shape[0]
        values = candidates if plan.readout == "average" else candidates[:, plan.size // 2, plan.size // 2]
        contract = _matrix_contract(values.reshape(count, -1))
        if plan.method == "convolution":
            logits = _convolution(plan, query, candidates, log_prior, split)
        else:
            logits = _product(plan, query, candidates.reshape(count, -1).T, log_prior, split)
        return consume(state, query.fixed, logits, None, contract)
    return _fold_images(plan, query, candidates, log_prior, state, consume, split)


def _matrix_contract(values: Array) -> Callable[[Array], Array]:
    table = jnp.concatenate([jnp.ones_like(values[:, :1]), values], axis=1)
    return lambda weights: _matmul(weights, table)


def _steps(plan: Plan, query: Query) -> tuple[Array, Array]:
    """Grid steps of the noisy image and of the bank, the same for every block so that blocks compare exactly."""
    bits = head_bits(plan.size**2 * query.x.shape[-1], query.x.dtype)
    return grid_step(query.scales[0], bits), grid_step(query.scales[1], bits)


def excluded_logit(dtype) -> float:
    """Stand for -inf where the arithmetic needs a finite number; no allowed logit comes near it."""
    return -0.25 * float(jnp.finfo(dtype).max)


def _offsets(plan: Plan, query: Query, bank: Array, log_prior: Array, axis, split: bool) -> tuple[Array, ...]:
    """Compute what is added to the correlations of each candidate: one array for plain logits, two for a `Split`.

    Excluded candidates get a large finite number: the derivative multiplies it by zero, which -inf would not survive.
    """
    lowest = excluded_logit(bank.dtype)
    variance = query.sigma**2
    if not split:
        return (jnp.maximum(log_prior - 0.5 * jnp.sum(bank * bank, axis=axis) / variance, lowest),)
    bank_head = head(bank, _steps(plan, query)[1])
    tail = (bank - bank_head) * (bank + bank_head)
    kept = jnp.isfinite(log_prior)
    high = jnp.where(kept, -0.5 * jnp.sum(bank_head * bank_head, axis=axis), lowest)
    return high, jnp.where(kept, log_prior, 0) * variance - 0.5 * jnp.sum(tail, axis=axis)


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _scores(
    plan: Plan,
    query: Query,
    windows: Array,
    bank: Array,
    offsets: tuple[Array, ...],
    shift: Array | None = None,
) -> tuple[Array, ...]:
    """Multiply windows (..., K) by a bank (K, B) and add offsets (B,): logits, or the two parts of scores.

    One offset asks for plain arithmetic, two for compensated. Offsets, and in plain arithmetic a shift (..., 1)
    common to all candidates, enter as further features, so that nothing passes over the pairs again.
    """
    ones = jnp.ones_like(windows[..., :1])

    def join(*parts: Array) -> Array:
        return jnp.concatenate([*parts, ones], axis=-1)

    if len(offsets) == 1:
        scaled, offset = windows / query.sigma**2, offsets[0][None]
        if shift is None:
            return (_matmul(join(scaled), jnp.concatenate([bank, offset])),)
        return (_matmul(join(scaled, shift), jnp.concatenate([bank, jnp.ones_like(offset), offset])),)
    steps = _steps(plan, query)
    window_head, bank_head = head(windows, steps[0]), head(bank, steps[1])
    high = _matmul(join(window_head), jnp.concatenate([bank_head, offsets[0][None]]))
    both = jnp.concatenate([bank - bank_head, bank, offsets[1][None]])
    return high, _matmul(join(window_head, windows - window_head), both)


def _as_logits(parts: tuple[Array, ...]) -> Array | Split:
    return parts[0] if len(parts) == 1 else Split(*parts)


def _product(plan: Plan, query: Query, candidates: Array, log_prior: Array, split: bool) -> Array | Split:
    """Logits of windows (H, W, K) against candidates (K, B)."""
    offsets = _offsets(plan, query, candidates, log_prior, 0, split)
    return _as_logits(_scores(plan, query, query.layout, candidates, offsets))


def _convolution(plan: Plan, query: Query, patches: Array, log_prior: Array, split: bool) -> Array | Split:
    """Logits of a padded image (H', W', C) against patches (B, p, p, C)."""

    def correlate(a: Array, b: Array) -> Array:
        return lax.conv_general_dilated(
            a[None],
            jnp.moveaxis(b, 0, -1),
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )[0]

    offsets = _offsets(plan, query, patches, log_prior, (1, 2, 3), split)
    if not split:
        return correlate(query.layout / query.sigma**2, patches) + offsets[0]
    steps = _steps(plan, query)
    x_head, bank_head = head(query.layout, steps[0]), head(patches, steps[1])
    x_both = jnp.concatenate([x_head, query.layout - x_head], axis=-1)
    low = correlate(x_both, jnp.concatenate([patches - bank_head, patches], axis=-1))
    return Split(correlate(x_head, bank_head) + offsets[0], low + offsets[1])


def allowed_rows(length: int, size: int) -> np.ndarray:
    """Pairs (query row, training row) that noiseless padding permits: border rows only themselves."""
    reach = (size - 1) // 2
    index = np.arange(length)
    interior = (index >= reach) & (index < length - reach)
    return np.where(interior[:, None], interior[None, :], np.eye(length, dtype=bool))


def _fold_images(plan: Plan, query: Query, images, log_prior, state, consume, split: bool):
    size, channels = plan.size, images.shape[-1]
    count = images.shape[0]
    padded = pad(images, size, plan.bank_pad, axes=(1, 2))
    rows, columns = padded.shape[1] - size + 1, padded.shape[2] - size + 1
    # Candidates are ordered (row, image, column): rows lead, so that a shift by one row moves whole slabs.
    padded = jnp.moveaxis(padded, 0, 1)  # (H', b, W', C)
    candidates = jnp.stack([padded[i : i + rows] for i in range(size)])  # (p, rows, b, W', C)
    candidates = jnp.concatenate(
        [jnp.moveaxis(candidates[..., j : j + columns, :], -1, 1)[:, None] for j in range(size)], axis=1
    )  # (p, p, C, rows, b, columns)
    features = candidates.reshape(size * size * channels, -1)
    if plan.readout == "average":
        values = features.T
    else:
        middle = size // 2
        values = candidates[middle, middle].reshape(channels, -1).T
    contract = _matrix_contract(values)
    log_prior = jnp.broadcast_to(log_prior[None, :, None], (rows, count, columns)).reshape(-1)
    allowed = None
    if plan.boundary == "zero":
        by_row = jnp.asarray(allowed_rows(rows, size))[:, None, :, None, None]
        by_column = jnp.asarray(allowed_rows(columns, size))[None, :, None, None, :]
        allowed = by_row & by_column
        allowed = jnp.broadcast_to(allowed, (rows, columns, rows, count, columns)).reshape(rows, columns, -1)
    if plan.method == "product":
        logits = _product(plan, query, features, log_prior, split)
        return consume(state, query.fixed, logits, allowed, contract)
    return _fold_rows(plan, query, features, rows, log_prior, state, consume, contract, split)


def _fold_rows(
    plan: Plan, query: Query, features, rows: int, log_prior, state, consume, contract, split: bool
):
    """Walk down the rows of the noisy image; correlations of row i+1 and candidate row j+1 follow from (i, j)."""
    windows, strips = query.layout  # (H, W, K), (H + p - 1, W, p C)
    size, height = plan.size, windows.shape[0]
    num_strip = strips.shape[-1]
    by_row = features.reshape(size, num_strip, rows, -1)
    per_row = by_row.shape[-1]
    offsets = _offsets(plan, query, features, log_prior, 0, split)
    # Running sums of squared distances instead of correlations: where it matters they are small, and round little.
    strip_energy = jnp.sum(strips * strips, axis=-1, keepdims=True) / (2 * query.sigma**2)
    # White noise alone contributes half a unit a feature; without it the logits that matter are near zero.
    window_shift = 0.5 * windows.shape[-1] - jnp.sum(windows**2, axis=-1, keepdims=True) / (
        2 * query.sigma**2
    )
    move_shift = strip_energy[:height] - jnp.roll(strip_energy, -size, axis=0)[:height]
    start = _scores(plan, query, windows[0], features, offsets, window_shift[0])
    first = features[:, :per_row], tuple(part[:per_row] for part in offsets)
    # The strip under the windows of candidate row j enters, the topmost strip of row j - 1 leaves.
    change = jnp.concatenate([by_row[size - 1, :, 1:], by_row[0, :, :-1]]).reshape(2 * num_strip, -1)
    # All patches of an image share its prior, which cancels here.
    offsets = _offsets(plan, query, features, jnp.zeros_like(log_prior), 0, split)
    change_offsets = tuple(part[per_row:] - part[:-per_row] for part in offsets)
    moves = jnp.concatenate([jnp.roll(strips, -size, axis=0)[:height], -strips[:height]], axis=-1)

    def slide(part: Array, fresh: Array, step: Array) -> Array:
        return jnp.concatenate([fresh, part[:, : step.shape[1]] + step], axis=1)

    def visit(parts, inputs):
        row_state, fixed, (next_window, next_shift), (move, shift) = inputs
        row_state = consume(row_state, fixed, _as_logits(parts), None, contract)
        fresh = _scores(plan, query, next_window, *first, next_shift)
        step = _scores(plan, query, move, change, change_offsets, shift)
        return tuple(map(slide, parts, fresh, step)), row_state

    following = jnp.roll(windows, -1, axis=0), jnp.roll(window_shift, -1, axis=0)
    _, state = lax.scan(visit, start, (state, query.fixed, following, (moves, move_shift)))
    return state


def _fold_same(plan: Plan, query: Query, images, log_prior, state, consume, split: bool):
    """Candidates at the same position: box sums of squared differences, (H, W) pixels by B images."""
    difference = query.x - images  # (B, H, W, C)
    squares = jnp.moveaxis(jnp.sum(difference * difference, axis=-1), 0, -1)
    squares = pad(squares, plan.size, plan.query_pad, axes=(0, 1))

    def score(values: Array) -> Array:
        return -0.5 * box_sum(values, plan.size, axes=(0, 1))

    if split:
        largest = (query.scales[0] + query.scales[1]) ** 2 * images.shape[-1]
        coarse = head(squares, grid_step(largest, sum_bits(plan.size**2, squares.dtype)))
        kept = jnp.isfinite(log_prior)
        prior = jnp.where(kept, log_prior, 0) * query.sigma**2
        high = jnp.where(kept, score(coarse), excluded_logit(squares.dtype))
        logits = Split(high, score(squares - coarse) + prior)
    else:
        logits = score(squares) / query.sigma**2 + log_prior
    if plan.readout == "average":
        values = unfold(pad(images, plan.size, plan.query_pad, axes=(1, 2)), plan.size)
    else:
        values = images

    def contract(weights: Array) -> Array:
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mean = jnp.sum(weights[..., None] * jnp.moveaxis(values, 0, 2), axis=2)
        return jnp.concatenate([total, mean], axis=-1)

    return consume(state, query.fixed, logits, None, contract)
