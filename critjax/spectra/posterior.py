r"""One pass over a bank: moments of the patch posterior at a homogeneous state, in bounded memory.

At the constant image m every window asks the same question, so one softmax over the bank, ``w_mu proportional
to pi_mu exp(-|phi_mu - m|^2 / 2 sigma^2)``, holds the whole linear theory (THEORY section 3). Three choices
make one float32 pass accurate and cheap:

* The distance is split as ``|phi - m|^2 = sum_r |phi(r) - mean|^2 + P |mean - m|^2``. Both terms are sums of
  squares of centred differences, so nothing cancels, and only the second depends on the state: under
  `jax.vmap` over (sigma, state) the window sums and the unfolding of patches are done once for all noise
  levels.
* Covariances are formed about the mean of each block, and blocks are merged with weights rescaled to the
  largest exponent so far: associative, exact, memory independent of the size of the bank.
* Patches of images are never formed: the moments ``sum_i w_i x(i + r)`` for all offsets are one convolution
  whose filter is the weight map (on a CPU faster than FFTs, and faster than unfolded products).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, check_option
from critjax._typing import Array
from critjax.banks import ImageBank, PatchBank

READOUTS = ("centre", "average")
_EXACT = jax.lax.Precision.HIGHEST  # accelerators would otherwise round products to ten bits
# Numbers of candidates per block that kept a block's arrays within a core's cache when timed; any choice is
# exact.
_POSITIONS_PER_BLOCK = 2**14
_UNFOLDED_NUMBERS_PER_BLOCK = 2**18


class Moments(NamedTuple):
    """Posterior moments; F features of a patch that are read out, G entries that respond."""

    log_evidence: Array
    """ln sum_mu pi_mu exp(-|phi_mu - m|^2 / 2 sigma^2)."""
    first: Array
    """Mean of the features (F,)."""
    second: Array
    """Mean of the entries (G,)."""
    covariance: Array
    """Covariance of features with entries (F, G)."""


class _Block(NamedTuple):
    """Statistics of one block of n candidates, none of which depends on sigma."""

    log_prior: Array  # (n,)
    spread: Array  # (n,): sum over window and channels of the squared deviation from the window mean
    mean: Array  # (C, n): window mean per channel
    features: Array  # (F, n)
    entries: Callable[[Array], Array]  # rows (K, n) -> sum over n of rows[., n] entry[n], (K, G)


def check_bank(bank: Any, readout: str) -> None:
    """Raise unless ``bank`` is the same at every pixel and has the readout, so that a symbol exists."""
    check_option("readout", readout, READOUTS)
    if isinstance(bank, ImageBank):
        options = ("all", "interior")
        advice = "positions='same' gives every pixel its own bank and no symbol; probe its denoiser"
        check(bank.positions in options, "positions", "'all' or 'interior'", repr(bank.positions), advice)
    elif not isinstance(bank, PatchBank):
        raise TypeError(
            f"bank: expected a PatchBank or ImageBank, got {type(bank).__name__}; build one first"
        )
    odd = readout == "average" or bank.size % 2 == 1
    check(odd, "size", "an odd window for readout='centre'", bank.size, "use readout='average'")


def working_dtype(bank: PatchBank | ImageBank) -> Any:
    """Return the dtype of all results: the bank's, but at least float32."""
    data = bank.patches if isinstance(bank, PatchBank) else bank.images
    return jnp.promote_types(data.dtype, jnp.float32)


def check_state(bank: PatchBank | ImageBank, state: Any) -> Array:
    """Return the homogeneous state as an array (C,); ``None`` is zero."""
    dtype, channels = working_dtype(bank), bank.channels
    if state is None:
        return jnp.zeros((channels,), dtype)
    state = jnp.asarray(state, dtype)
    advice = "pass one value per channel, e.g. one row of homogeneous_state"
    check(state.shape == (channels,), "state", f"shape ({channels},)", f"shape {state.shape}", advice)
    return state


def _window_sums(y: Array, size: int) -> tuple[Array, Array]:
    """Return mean (C, h, w, B) and squared spread (h, w, B) of the windows of y (C, h + p - 1, w + p - 1, B).

    Rows are merged into windows by the parallel-axis theorem: O(p) operations per pixel instead of O(p^2),
    and every term is a square.
    """
    row_mean, row_spread = _merge_shifts(y, jnp.zeros_like(y), size, axis=2, weight=1)
    mean, spread = _merge_shifts(row_mean, row_spread, size, axis=1, weight=size)
    return mean, jnp.sum(spread, axis=0)


def _merge_shifts(mean: Array, spread: Array, size: int, axis: int, weight: int) -> tuple[Array, Array]:
    """Merge means and squared spreads of ``size`` neighbours along an axis, each made of ``weight`` pixels.

    A loop rather than a sum of slices, because compilers fuse the latter into every consumer, which would
    repeat it for each noise level.
    """
    length = mean.shape[axis] - size + 1

    def add(carry: tuple[Array, Array], q: Array) -> tuple[tuple[Array, Array], None]:
        total_mean, total_spread = carry
        new_mean, new_spread = (jax.lax.dynamic_slice_in_dim(a, q, length, axis) for a in (mean, spread))
        shift = new_mean - total_mean
        share = 1 / (q + 1).astype(mean.dtype)
        total_spread = total_spread + new_spread + weight * (1 - share) * shift**2
        return (total_mean + share * shift, total_spread), None

    start = (
        jax.lax.slice_in_dim(mean, 0, length, axis=axis),
        jax.lax.slice_in_dim(spread, 0, length, axis=axis),
    )
    # Two trips at least, or the loop would be inlined; as many shifts as possible in each, to spare memory traffic.
    unroll = max((n for n in range(1, (size - 1) // 2 + 1) if (size - 1) % n == 0), default=1)
    (total_mean, total_spread), _ = jax.lax.scan(add, start, jnp.arange(1, size), unroll=unroll)
    return total_mean, total_spread


def _slices(y: Array, size: int, axis: int) -> list[Array]:
    length = y.shape[axis] - size + 1
    return [jax.lax.slice_in_dim(y, q, q + length, axis=axis) for q in range(size)]


def _image_block(bank: ImageBank, readout: str, uniform: bool, images: Array, log_prior: Array) -> _Block:
    """Prepare a block of whole images, laid out (C, h, w, B): with images innermost shifts are free."""
    size, dtype = bank.size, working_dtype(bank)
    before = (size - 1) // 2
    y = _image_layout(bank, images)
    channels, height, width, count = y.shape
    height, width = height - size + 1, width - size + 1
    if readout == "average" and not uniform:
        unfolded = jnp.stack([r for s in _slices(y, size, axis=1) for r in _slices(s, size, axis=2)])
        patches = unfolded.reshape(size, size, channels, -1).transpose(3, 0, 1, 2)
        log_prior = jnp.broadcast_to(log_prior, (height, width, count)).reshape(-1)
        return _patch_block(dtype, readout, uniform, patches, log_prior)
    mean, spread = _window_sums(y, size)

    def entries(rows: Array) -> Array:
        # Images are the contracted channel, image channels the batch, and the p x p positions the output. Of
        # the equivalent layouts only this one meets a fast route on a CPU.
        weights = jnp.transpose(rows.reshape(-1, height, width, count), (1, 2, 3, 0))
        out = jax.lax.conv_general_dilated(
            y, weights, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=_EXACT
        )
        return jnp.transpose(out, (3, 1, 2, 0)).reshape(rows.shape[0], -1)

    log_prior = jnp.broadcast_to(log_prior.astype(dtype), spread.shape)
    features = mean if readout == "average" else y[:, before : before + height, before : before + width]
    # Flat, so that loops over candidates vectorise.
    return _Block(
        log_prior.reshape(-1),
        spread.reshape(-1),
        mean.reshape(channels, -1),
        features.reshape(channels, -1),
        entries,
    )


def _patch_block(dtype: Any, readout: str, uniform: bool, patches: Array, log_prior: Array) -> _Block:
    count, size = patches.shape[:2]
    patches = patches.astype(dtype)
    flat = patches.reshape(count, -1)
    mean = jnp.mean(patches, axis=(1, 2), keepdims=True)
    spread = jnp.sum((patches - mean) ** 2, axis=(1, 2, 3))
    middle = (size - 1) // 2
    mean = mean[:, 0, 0, :].T
    features = patches[:, middle, middle, :].T
    if readout == "average":
        features = mean if uniform else flat.T
    return _Block(
        log_prior.astype(dtype),
        spread,
        mean,
        features,
        lambda rows: jnp.matmul(rows, flat, precision=_EXACT),
    )


def _block_length(
    bank: PatchBank | ImageBank, readout: str, uniform: bool, block_size: int | None
) -> tuple[int, int]:
    """Return the number of candidates (patches or images) of the bank and of one block."""
    if isinstance(bank, PatchBank):
        count, positions = bank.patches.shape[0], 1
    else:
        count, height, width = bank.images.shape[:3]
        lost = 0 if bank.positions == "all" else bank.size - 1
        positions = (height - lost) * (width - lost)
    if block_size is not None:
        good = isinstance(block_size, (int, np.integer)) and block_size >= 1
        check(
            good,
            "block_size",
            "an integer >= 1 or None",
            repr(block_size),
            "count patches or images per block",
        )
        return count, min(int(block_size), count)
    target = _POSITIONS_PER_BLOCK
    if uniform:
        target *= 2
    elif readout == "average" or isinstance(bank, PatchBank):
        target = min(target, _UNFOLDED_NUMBERS_PER_BLOCK // (bank.size**2 * bank.channels))
    target = max(1, target // positions)
    if target >= count:
        return count, count
    # A divisor near the target spares a remainder, and with it a copy of the whole bank.
    divisors = [b for b in range((target + 1) // 2, min(2 * target, count) + 1) if count % b == 0]
    return count, min(divisors, key=lambda b: abs(np.log(b / target)), default=target)


def _window_waves(bank: PatchBank | ImageBank, data: Array, wavevector: Array) -> Array:
    """Compute ``sum_r phi_c(r) exp(i k.r)`` for every candidate of a block, (C, n), windows unformed for images."""
    size = bank.size
    before = (size - 1) // 2
    offsets = jnp.arange(size) - before
    along = [jnp.exp(1j * k * offsets) for k in wavevector]
    if isinstance(bank, PatchBank):
        return jnp.einsum("npqc,p,q->cn", data.astype(working_dtype(bank)), *along, precision=_EXACT)
    waves = _image_layout(bank, data)
    for axis, weights in zip((1, 2), along, strict=True):
        waves = jnp.tensordot(weights, jnp.stack(_slices(waves, size, axis)), 1, precision=_EXACT)
    return waves.reshape(waves.shape[0], -1)


def _image_layout(bank: ImageBank, images: Array) -> Array:
    """Lay images out (C, h, w, B), extended so that every training window lies inside."""
    before, after = (bank.size - 1) // 2, bank.size // 2
    y = jnp.transpose(images, (3, 1, 2, 0)).astype(working_dtype(bank))
    if bank.positions == "all":
        y = jnp.pad(y, ((0, 0), (before, after), (before, after), (0, 0)), mode="wrap")
    return y


def posterior_average(
    bank: PatchBank | ImageBank,
    sigma: Any,
    state: Array,
    log_evidence: Array,
    statistic_fn: Callable[[Array, Array], Array],
    *,
    wavevector: Array | None = None,
) -> Array:
    r"""Average any statistic of patch centres and window sums under the posterior at a homogeneous state.

    Parameters
    ----------
    bank, sigma, state
        As for `posterior_moments`.
    log_evidence : array ()
        Normaliser of the weights, from `posterior_moments`.
    statistic_fn : callable
        ``(centres (C, n), sums (C, n)) -> (K, n)``, with ``sums = sum_r phi(r) exp(i k.r)``.
    wavevector : array (2,), optional
        k in rad per pixel, one for all candidates; default zero, which leaves the sums real.

    Returns
    -------
    array (K,)
        ``sum_mu w_mu statistic_mu``.

    Notes
    -----
    One pass over the bank, O(1) per candidate besides the sums (O(p) for images); memory of one block.
    """
    dtype = working_dtype(bank)
    inverse = 1 / (2 * jnp.asarray(sigma).astype(dtype) ** 2)
    pixels = bank.size**2
    count, length = _block_length(bank, "centre", True, None)

    def block_average(data: Array, log_prior: Array) -> Array:
        make, first = (_patch_block, dtype) if isinstance(bank, PatchBank) else (_image_block, bank)
        block = make(first, "centre", True, data, log_prior)
        distance = block.spread + pixels * jnp.sum((block.mean - state[:, None]) ** 2, axis=0)
        weights = jnp.exp(block.log_prior - inverse * distance - log_evidence)
        sums = pixels * block.mean if wavevector is None else _window_waves(bank, data, wavevector)
        values = statistic_fn(block.features, sums)
        return jnp.sum(jnp.where(weights > 0, weights * values, 0), axis=1)

    data = (bank.patches if isinstance(bank, PatchBank) else bank.images, bank.log_prior)
    shape = jax.eval_shape(block_average, *jax.tree.map(lambda a: a[:length], data))
    total = jnp.zeros(shape.shape, shape.dtype)
    whole = count // length
    if whole > 1:
        split = jax.tree.map(lambda a: a[: whole * length].reshape(whole, length, *a.shape[1:]), data)
        add = jax.checkpoint(lambda total, part: (total + block_average(*part), None))
        total, _ = jax.lax.scan(add, total, split)
        data = jax.tree.map(lambda a: a[whole * length :], data)
    return total + block_average(*data) if data[1].shape[0] else total


def posterior_moments(
    bank: PatchBank | ImageBank,
    sigma: Any,
    state: Array,
    *,
    readout: str = "centre",
    uniform: bool = False,
    prior_only: bool = False,
    block_size: int | None = None,
) -> Moments:
    r"""Stream the posterior moments at a homogeneous state.

    Parameters
    ----------
    bank : PatchBank or ImageBank
        Checked by `check_bank`.
    sigma : scalar > 0
        Noise level.
    state : array (C,)
        The homogeneous state m.
    readout : "centre" or "average"
        Features: the patch's centre (F = C) or the whole patch (F = P C, ordered row, column, channel).
    uniform : bool
        Entries: the window sum of each channel, |phi - m|^2 and the features (G = 2 C + 1) instead of the
        whole patch (G = P C); features of the average readout: the window mean (F = C). No correlations are
        formed.
    prior_only : bool
        Weights pi_mu instead of the posterior's, the limit of large sigma.
    block_size : int, optional
        Patches or images per block.

    Returns
    -------
    Moments
        NaN if every candidate has weight zero.

    Notes
    -----
    Exact up to rounding. Per candidate O(1) exponentials and O(P C F) multiplications per noise level, O(p C)
    more once for all of them. Memory of one block, whatever the size of the bank (twice the bank if no block
    length near the target divides its size). Reverse mode recomputes blocks instead of storing them.
    """
    dtype = working_dtype(bank)
    sigma = jnp.asarray(sigma).astype(dtype)
    inverse = 1 / (2 * sigma**2)
    pixels = bank.size**2
    count, length = _block_length(bank, readout, uniform, block_size)

    def block_moments(data: Array, log_prior: Array, top: Array) -> tuple[Array, Array, Moments]:
        if isinstance(bank, PatchBank):
            block = _patch_block(dtype, readout, uniform, data, log_prior)
        else:
            block = _image_block(bank, readout, uniform, data, log_prior)
        distance = block.spread + pixels * jnp.sum((block.mean - state[:, None]) ** 2, axis=0)
        exponent = block.log_prior if prior_only else block.log_prior - inverse * distance
        top = jnp.maximum(top, jax.lax.stop_gradient(jnp.max(exponent)))
        # An offset of zero where nothing has weight yet: -inf minus -inf would be NaN.
        weights = jnp.exp(exponent - jnp.where(top > -jnp.inf, top, 0))
        total = jnp.sum(weights)
        scale = 1 / jnp.where(total == 0, 1, total)
        first = scale * jnp.sum(weights * block.features, axis=1)
        rows = jnp.concatenate([weights[None], weights * (block.features - first[:, None])])
        if uniform:
            values = jnp.concatenate([pixels * block.mean, distance[None], block.features])
            products = scale * jnp.matmul(rows, values.T, precision=_EXACT)
        else:
            products = scale * block.entries(rows)
        # The rows sum to zero only up to rounding; without this term the residue would multiply the mean
        # patch.
        residue = scale * jnp.sum(rows[1:], axis=1)
        covariance = products[1:] - residue[:, None] * products[0]
        return top, total, Moments(jnp.zeros((), dtype), first, products[0], covariance)

    def merge(carry: tuple[Array, Array, Moments], data: tuple[Array, Array]):
        old_top, old_weight, old = carry
        top, total, new = block_moments(*data, old_top)
        old_weight = old_weight * jnp.exp(old_top - jnp.where(top > -jnp.inf, top, 0))
        weight = old_weight + total
        share = total / jnp.where(weight == 0, 1, weight)
        first, second = new.first - old.first, new.second - old.second
        covariance = old.covariance + share * (new.covariance - old.covariance)
        covariance = covariance + share * (1 - share) * first[:, None] * second[None, :]
        moments = Moments(
            new.log_evidence, old.first + share * first, old.second + share * second, covariance
        )
        return (top, weight, moments), None

    num_features = pixels * bank.channels if readout == "average" and not uniform else bank.channels
    num_entries = 2 * bank.channels + 1 if uniform else pixels * bank.channels
    zeros = (jnp.zeros(s, dtype) for s in ((), (num_features,), (num_entries,), (num_features, num_entries)))
    carry = (jnp.full((), -jnp.inf, dtype), jnp.zeros((), dtype), Moments(*zeros))
    data = (bank.patches if isinstance(bank, PatchBank) else bank.images, bank.log_prior)
    whole = count // length
    if whole > 1:
        split = jax.tree.map(lambda a: a[: whole * length].reshape(whole, length, *a.shape[1:]), data)
        carry, _ = jax.lax.scan(jax.checkpoint(merge), carry, split)
        data = jax.tree.map(lambda a: a[whole * length :], data)
    if data[1].shape[0]:
        carry, _ = merge(carry, data)
    top, weight, moments = carry
    moments = moments._replace(log_evidence=top + jnp.log(weight))
    return jax.tree.map(lambda a: jnp.where(weight > 0, a, jnp.nan), moments)
