r"""The streaming posterior: log-normaliser and mean over a bank in blocks, with exact derivatives of any order.

The bank is visited in blocks by one `lax.scan` that carries the running reference, maximum, sum and weighted sum of
an online softmax, so that memory does not depend on the size of the bank. The derivative is the covariance form

    d mean_i = sum_mu w_mu(i) [ d phi_mu(0) + (phi_mu(0) - mean_i) d logit_mu(i) ]

evaluated as the derivative of ``sum_mu exp(logit - ln Z) (phi_mu(0) - mean)`` at constant ``ln Z`` and ``mean``: one
more pass, with nothing stored a block. Because the rule is itself written with the differentiable outputs, it nests.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from critjax._typing import Array
from critjax.patch_score._routes import Plan, Query, Split, excluded_logit, fold, lay_out, query_shape


class Posterior(NamedTuple):
    """Posterior at every window: weights are ``exp((s - reference)/sigma^2 + log_prior - log_normaliser)``."""

    reference: Array  # (H, W) score subtracted before division by sigma^2; a constant for differentiation
    log_normaliser: Array  # (H, W)
    mean: Array  # (H, W, R), R = C for the centre readout and p^2 C for whole patches


class _Running(NamedTuple):
    reference: Array
    top: Array
    sums: Array  # (..., 1 + R): sum of exponentials, weighted sum of readout values


#: Compensated sums below sigma^2 = factor * p^2 C * max|phi|^2. Above, plain float32 sums err by at most some 1e-5 of
#: the data range on noised images (benchmarks/accuracy.py); running sums pass through larger numbers and round more.
SPLIT_FACTOR = {"convolution": 1.6e-3, "product": 1.6e-3, "box": 3.2e-3}


def _split_below(plan: Plan, sigma: Array, channels: int, scale: Array) -> Array | None:
    """Tell whether rounding of plain scores would show at this noise level; None where it never can.

    The error of plain scores grows with the number of terms and their size, and the logits divide it by sigma^2.
    """
    if jnp.finfo(sigma.dtype).nmant > 23:
        return None
    return lax.stop_gradient(sigma) ** 2 < SPLIT_FACTOR[plan.method] * plan.size**2 * channels * scale**2


def _blocks(plan: Plan, bank: tuple[Array, Array]) -> tuple[Array, Array]:
    """Cut candidates and priors into equal blocks; the last one is filled with excluded candidates."""
    candidates, log_prior = bank
    shards = 1 if plan.mesh is None else plan.mesh.shape[plan.axis]
    missing = -candidates.shape[0] % (plan.block * shards)
    if missing:
        candidates = jnp.concatenate(
            [candidates, jnp.zeros((missing, *candidates.shape[1:]), candidates.dtype)]
        )
        log_prior = jnp.concatenate([log_prior, jnp.full((missing,), -jnp.inf, log_prior.dtype)])
    # Flat rows: with the trailing axes of size one, XLA would choose another layout and copy the whole bank.
    num_blocks = candidates.shape[0] // plan.block
    return candidates.reshape(num_blocks, -1), log_prior.reshape(num_blocks, plan.block)


def _logits(sigma, scores: Array | Split, reference: Array, allowed: Array | None) -> Array:
    """Logits relative to the reference score."""
    logits = _relative(scores, reference, sigma) if isinstance(scores, Split) else scores
    return logits if allowed is None else jnp.where(allowed, logits, -jnp.inf)


def _relative(scores: Split, reference: Array, sigma) -> Array:
    return ((scores.high - reference[..., None]) + scores.low) / sigma**2


def _finite(values: Array) -> Array:
    return jnp.where(jnp.isfinite(values), values, 0)


def _absorb(sigma, state: _Running, _fixed, scores, allowed, contract) -> _Running:
    """Update the online softmax with one block of scores."""
    reference, top = state.reference, state.top
    if isinstance(scores, Split):
        high = scores.high if allowed is None else jnp.where(allowed, scores.high, -jnp.inf)
        highest = jnp.max(high, axis=-1)
        reference = jnp.maximum(state.reference, highest)
        shift = (state.reference - _finite(reference)) / sigma**2
        top = top + jnp.where(jnp.isfinite(state.reference), shift, 0)
    logits = _logits(sigma, scores, _finite(reference), allowed)
    new_top = jnp.maximum(top, jnp.max(logits, axis=-1))
    origin = _finite(new_top)
    sums = state.sums * jnp.exp(top - origin)[..., None] + contract(jnp.exp(logits - origin[..., None]))
    return _Running(reference, new_top, sums)


def _reduce(plan: Plan, x: Array, sigma: Array, bank: tuple[Array, Array], fixed, start, consume, merge):
    """Fold the whole bank into a state: ``start(split)``, then ``consume`` block by block, then ``merge`` devices.

    The arithmetic is chosen at run time inside the rematerialised body, so that reverse mode stores no block.
    """
    scales = tuple(lax.stop_gradient(jnp.max(jnp.abs(values))) for values in (x, bank[0]))
    split = _split_below(plan, sigma, x.shape[-1], scales[1])

    def local(x, sigma, blocks, fixed, scales, split):
        query = Query(x, sigma, lay_out(plan, x), fixed, scales)
        step = functools.partial(consume, sigma)

        def body(state, block):
            flat, log_prior = block
            block = flat.reshape(plan.block, *bank[0].shape[1:]), log_prior
            if split is None:
                return fold(plan, query, block, state, step, False), None
            branches = [lambda s, c=c: fold(plan, query, block, s, step, c) for c in (True, False)]
            return lax.cond(split, *branches, state), None

        state = start(split)
        if plan.mesh is not None:
            state = jax.tree.map(lambda a: lax.pcast(a, plan.axis, to="varying"), state)
        state, _ = lax.scan(jax.checkpoint(body), state, blocks)
        return state if plan.mesh is None else merge(sigma, state)

    if plan.mesh is not None:
        everywhere = PartitionSpec()
        local = jax.shard_map(
            local,
            mesh=plan.mesh,
            in_specs=(everywhere, everywhere, PartitionSpec(plan.axis), everywhere, everywhere, everywhere),
            out_specs=everywhere,
            axis_names={plan.axis},
        )
    return local(x, sigma, _blocks(plan, bank), fixed, scales, split)


def _shapes(plan: Plan, x: Array) -> tuple[tuple[int, int], int]:
    """Return the grid of windows and 1 + R, the number of running sums a window."""
    return query_shape(plan, x.shape), 1 + x.shape[-1] * (plan.size**2 if plan.readout == "average" else 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def posterior(plan: Plan, x: Array, sigma: Array, bank: tuple[Array, Array]) -> Posterior:
    """Compute the posterior at every window of ``x`` (H, W, C) over ``bank`` = (candidates, log_prior)."""
    shape, num_sums = _shapes(plan, x)

    def start(split) -> _Running:
        lowest = jnp.full(shape, -jnp.inf, x.dtype)
        reference = jnp.zeros_like(lowest) if split is None else jnp.where(split, lowest, 0)
        return _Running(reference, lowest, jnp.zeros((*shape, num_sums), x.dtype))

    def merge(sigma, state: _Running) -> _Running:
        reference = lax.pmax(state.reference, plan.axis)
        shift = jnp.where(jnp.isfinite(state.reference), state.reference - _finite(reference), 0)
        local_top = state.top + shift / sigma**2
        top = lax.pmax(local_top, plan.axis)
        sums = lax.psum(state.sums * jnp.exp(local_top - _finite(top))[..., None], plan.axis)
        return _Running(reference, top, sums)

    running = _reduce(plan, x, sigma, bank, None, start, _absorb, merge)
    total = running.sums[..., :1]
    # With every candidate excluded there is no posterior: NaN, not the mean of what was excluded.
    total = jnp.where(running.top[..., None] > 0.5 * excluded_logit(x.dtype), total, jnp.nan)
    return Posterior(
        _finite(running.reference), running.top + jnp.log(total[..., 0]), running.sums[..., 1:] / total
    )


def _sum_over_bank(plan: Plan, x, sigma, bank, fixed: Posterior, num_sums: int, term) -> Array:
    """Sum ``term(log_weights, contract)`` over the bank, at a posterior that is already known."""

    def consume(sigma, state, fixed: Posterior, scores, allowed, contract):
        logits = _logits(sigma, scores, fixed.reference, allowed)
        return state + term(logits - fixed.log_normaliser[..., None], contract)

    def start(_split) -> Array:
        return jnp.zeros((*_shapes(plan, x)[0], num_sums), x.dtype)

    return _reduce(
        plan, x, sigma, bank, fixed, start, consume, lambda _sigma, state: lax.psum(state, plan.axis)
    )


@posterior.defjvp
def _posterior_jvp(plan: Plan, primals, tangents):
    value = posterior(plan, *primals)

    def moments(x, sigma, bank):
        num_sums = _shapes(plan, x)[1]
        return _sum_over_bank(
            plan, x, sigma, bank, value, num_sums, lambda logw, contract: contract(jnp.exp(logw))
        )

    _, sums = jax.jvp(moments, primals, tangents)
    change = Posterior(
        jnp.zeros_like(value.reference), sums[..., 0], sums[..., 1:] - value.mean * sums[..., :1]
    )
    return value, change


def entropy(plan: Plan, x: Array, sigma: Array, bank: tuple[Array, Array]) -> Array:
    """Compute the entropy of the posterior weights at every window, in nats, by a second pass."""
    value = posterior(plan, x, sigma, bank)

    def term(log_weights: Array, _contract) -> Array:
        weights = jnp.exp(log_weights)
        terms = jnp.where(weights > 0, weights * jnp.where(weights > 0, log_weights, 0), 0)
        return -jnp.sum(terms, axis=-1, keepdims=True)

    return _sum_over_bank(plan, x, sigma, bank, value, 1, term)[..., 0]
