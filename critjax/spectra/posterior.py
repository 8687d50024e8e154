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

from critjax._checks import check, check_option, is_concrete
from critjax._typing import Array, ArrayLike
from critjax.banks import ImageBank, PatchBank
from critjax.patch_score import softmax
from critjax.spectra._blocks import (
    EXACT,
    block_length,
    candidates,
    fold,
    make_block,
    window_waves,
    working_dtype,
)

READOUTS = ("centre", "average")


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


def check_state(bank: PatchBank | ImageBank, state: Any) -> ArrayLike:
    """Return the homogeneous state as an array (C,), made on the host; ``None`` is zero."""
    dtype, channels = working_dtype(bank), bank.channels
    if state is None:
        return np.zeros((channels,), dtype)
    state = np.asarray(state).astype(dtype) if is_concrete(state) else state.astype(dtype)
    advice = "pass one value per channel, e.g. one row of homogeneous_state"
    check(state.shape == (channels,), "state", f"shape ({channels},)", f"shape {state.shape}", advice)
    return state


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
    length = block_length(bank, "centre", True, None)

    def block_average(data: Array, log_prior: Array) -> Array:
        block = make_block(bank, "centre", True, data, log_prior)
        distance = block.spread + pixels * jnp.sum((block.mean - state[:, None]) ** 2, axis=0)
        weights = jnp.exp(block.log_prior - inverse * distance - log_evidence)
        sums = pixels * block.mean if wavevector is None else window_waves(bank, data, wavevector)
        values = statistic_fn(block.features, sums)
        return jnp.sum(jnp.where(weights > 0, weights * values, 0), axis=1)

    def add(total: Array, part: tuple[Array, Array]) -> Array:
        return total + block_average(*part)

    shape = jax.eval_shape(block_average, *jax.tree.map(lambda a: a[:length], candidates(bank)))
    return fold(add, jnp.zeros(shape.shape, shape.dtype), bank, length)


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
    length = block_length(bank, readout, uniform, block_size)

    def block_moments(
        data: Array, log_prior: Array, top: softmax.Top
    ) -> tuple[softmax.Top, Array, Array, Moments]:
        block = make_block(bank, readout, uniform, data, log_prior)
        distance = block.spread + pixels * jnp.sum((block.mean - state[:, None]) ** 2, axis=0)
        exponent = block.log_prior if prior_only else block.log_prior - inverse * distance
        is_best = (jnp.arange(exponent.size) == jnp.argmax(exponent)) & (jnp.max(exponent) >= top.reference)
        top, log_kept, logits = softmax.advance(top, softmax.Scores(exponent))
        # At noise so low that exponents are rounded to many units, the compiler may compute one twice and differently:
        # the best candidate has the weight one whatever its exponent seems to be then, and no other has more.
        logits = logits - jax.lax.stop_gradient(jnp.where(is_best, logits, jnp.maximum(logits, 0)))
        weights = jnp.exp(logits)
        total = jnp.sum(weights)
        scale = 1 / jnp.where(total == 0, 1, total)
        first = scale * jnp.sum(weights * block.features, axis=1)
        rows = jnp.concatenate([weights[None], weights * (block.features - first[:, None])])
        if uniform:
            values = jnp.concatenate([pixels * block.mean, distance[None], block.features])
            products = scale * jnp.matmul(rows, values.T, precision=EXACT)
        else:
            products = scale * block.entries(rows)
        # The rows sum to zero only up to rounding; without this term the residue would multiply the mean
        # patch.
        residue = scale * jnp.sum(rows[1:], axis=1)
        covariance = products[1:] - residue[:, None] * products[0]
        moments = Moments(jnp.zeros((), dtype), first, products[0], covariance)
        return top, jnp.exp(log_kept), total, moments

    def merge(carry: tuple[softmax.Top, Array, Moments], data: tuple[Array, Array]):
        top, old_weight, old = carry
        top, kept, total, new = block_moments(*data, top)
        old_weight = old_weight * kept
        weight = old_weight + total
        share = total / jnp.where(weight == 0, 1, weight)
        first, second = new.first - old.first, new.second - old.second
        covariance = old.covariance + share * (new.covariance - old.covariance)
        covariance = covariance + share * (1 - share) * first[:, None] * second[None, :]
        moments = Moments(
            new.log_evidence, old.first + share * first, old.second + share * second, covariance
        )
        return top, weight, moments

    num_features = pixels * bank.channels if readout == "average" and not uniform else bank.channels
    num_entries = 2 * bank.channels + 1 if uniform else pixels * bank.channels
    zeros = (jnp.zeros(s, dtype) for s in ((), (num_features,), (num_entries,), (num_features, num_entries)))
    carry = (softmax.start((), dtype), jnp.zeros((), dtype), Moments(*zeros))
    top, weight, moments = fold(merge, carry, bank, length)
    moments = moments._replace(log_evidence=top.reference + jnp.log(weight))
    return jax.tree.map(lambda a: jnp.where(weight > 0, a, jnp.nan), moments)
