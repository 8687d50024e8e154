r"""The streaming posterior: log-normaliser and mean over a bank in blocks, with exact derivatives of any order.

The bank is visited in blocks by one `lax.scan` that carries the running reference, maximum, sum and weighted sum of
an online softmax, so that memory does not depend on the size of the bank. The derivative is the covariance form

    d mean_i = sum_mu w_mu(i) [ d phi_mu(0) + (phi_mu(0) - mean_i) d logit_mu(i) ]

evaluated as the derivative of ``sum_mu exp(logit - ln Z) (phi_mu(0) - mean)`` at constant ``ln Z`` and ``mean``: one
more pass, with nothing stored a block. Because the rule is itself written with the differentiable outputs, it nests.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from critjax._typing import Array
from critjax.patch_score._blocks import cut_block
from critjax.patch_score._plan import Plan, Query, query_shape
from critjax.patch_score._routes import fold, lay_out, prepare
from critjax.patch_score._scores import EXCLUDED_SCORE, Split, Wide, excluded_logit
from critjax.patch_score._split import grid_steps
from critjax.patch_score._turns import in_turn


class Posterior(NamedTuple):
    """Posterior at every window: weights are ``exp((s - reference)/sigma^2 + log_prior - log_normaliser)``."""

    reference: Array  # (H, W) score subtracted before division by sigma^2; a constant for differentiation
    log_normaliser: Array  # (H, W)
    mean: Array  # (H, W, R), R = C for the centre readout and p^2 C for whole patches


class _Running(NamedTuple):
    reference: Array
    top: Array
    sums: Array  # (..., 1 + R): sum of exponentials, weighted sum of readout values


def _split_below(plan: Plan, sigma: Array, scale: Array) -> Array | None:
    """Tell whether rounding of plain scores would show at this noise level; None where it never can."""
    if jnp.finfo(sigma.dtype).nmant > 23:
        return None
    return lax.stop_gradient(sigma) ** 2 < plan.split_limit * scale**2


def _rows(plan: Plan, bank: tuple[Array, Array]) -> tuple[Array, Array]:
    """Write candidates as flat rows; among devices they are shared equally, with excluded ones where some lack."""
    candidates, log_prior = bank
    missing = 0 if plan.mesh is None else -candidates.shape[0] % plan.mesh.shape[plan.axis]
    if missing:
        candidates = jnp.concatenate(
            [candidates, jnp.zeros((missing, *candidates.shape[1:]), candidates.dtype)]
        )
        log_prior = jnp.concatenate([log_prior, jnp.full((missing,), -jnp.inf, log_prior.dtype)])
    # Flat rows: with the trailing axes of size one, XLA would choose another layout and copy the whole bank.
    return candidates.reshape(candidates.shape[0], -1), log_prior


def _logits(sigma, scores: Array | Split | Wide, reference: Any, allowed: Array | None) -> Array:
    """Logits; accurate scores are taken relative to the reference score."""
    if isinstance(scores, Split):
        logits = ((scores.high - reference[..., None]) + scores.low) * (1 / sigma**2)
    elif isinstance(scores, Wide):
        logits = (scores.values - reference[..., None]).astype(sigma.dtype) * (1 / sigma**2)
    else:
        logits = scores
    return logits if allowed is None else jnp.where(allowed, logits, excluded_logit(logits.dtype))


def _snap(values: Array, unit: Array) -> Array:
    """Round to multiples of a power of two; larger numbers are multiples already."""
    multiples = values / unit
    return jnp.where(
        jnp.abs(multiples) < 2.0 ** jnp.finfo(values.dtype).nmant, jnp.round(multiples) * unit, values
    )


def _softmax(sigma, scores: Array | Split | Wide, allowed: Array | None, contract) -> _Running:
    """Softmax sums of one block. In compensated arithmetic the reference is so close to the top that it replaces it."""
    if isinstance(scores, Split | Wide):
        values = scores.values if isinstance(scores, Wide) else scores.high + scores.low
        peak = jnp.max(values if allowed is None else jnp.where(allowed, values, EXCLUDED_SCORE), axis=-1)
        if isinstance(scores, Split):
            peak = _snap(peak, scores.unit)
        reference = peak.astype(sigma.dtype)
        top = ((peak - reference) / sigma**2).astype(
            sigma.dtype
        )  # what rounding the reference to float32 left
        # Where all is excluded, no weight may come of it.
        some = reference > 0.5 * EXCLUDED_SCORE
        weights = jnp.exp(_logits(sigma, scores, jnp.where(some, peak, 0), allowed))
        return _Running(reference, jnp.where(some, top, 0), contract(weights))
    logits = _logits(sigma, scores, None, allowed)
    top = jnp.max(logits, axis=-1)
    return _Running(jnp.zeros_like(top), top, contract(jnp.exp(logits - top[..., None])))


def _combine(sigma, a: _Running, b: _Running) -> _Running:
    """Join the sums of two parts of the bank."""
    reference = jnp.maximum(a.reference, b.reference)
    tops = [part.top + (part.reference - reference) / sigma**2 for part in (a, b)]
    top = jnp.maximum(*tops)
    scaled = [part.sums * jnp.exp(own - top)[..., None] for part, own in zip((a, b), tops, strict=True)]
    return _Running(reference, top, scaled[0] + scaled[1])


def _combine_devices(plan: Plan, sigma, part: _Running) -> _Running:
    """Join the sums of the parts that devices hold."""
    reference = lax.pmax(part.reference, plan.axis)
    own = part.top + (part.reference - reference) / sigma**2
    top = lax.pmax(own, plan.axis)
    return _Running(reference, top, lax.psum(part.sums * jnp.exp(own - top)[..., None], plan.axis))


def _over_bank(
    plan: Plan, x: Array, sigma: Array, bank: tuple[Array, Array], fixed, start, reduce, combine, join
):
    """Reduce the whole bank: ``reduce`` each block, ``combine`` from ``start(split)`` on, then ``join`` devices.

    The arithmetic is chosen at run time inside the rematerialised body, so that reverse mode stores no block.
    """
    scales = tuple(lax.stop_gradient(jnp.max(jnp.abs(values))) for values in (x, bank[0]))
    split = _split_below(plan, sigma, scales[1])

    def local(x, sigma, rows, fixed, scales, split):
        grid = None if split is None else grid_steps(scales[0], scales[1], plan.size, x.shape[-1])
        query = Query(x, sigma, None, fixed, grid)
        query = query._replace(layout=lay_out(plan, query))
        wide = None
        if grid is not None and plan.on_cpu:
            with jax.enable_x64(True):
                wide = Query(x.astype(jnp.float64), sigma, None, fixed, None, wide=True)
                wide = wide._replace(layout=lay_out(plan, wide))
        reduce_fn, combine_fn = functools.partial(reduce, sigma), functools.partial(combine, sigma)
        num_blocks = -(-rows[1].shape[0] // plan.block)

        def body(state, number):
            flat, log_prior = rows if num_blocks == 1 else cut_block(rows, number, plan.block)
            block = prepare(plan, flat.reshape(plan.block, *bank[0].shape[1:])), log_prior
            if split is None:
                return fold(plan, query, block, state, reduce_fn, combine_fn, False), None

            def accurate(state):
                if wide is None:
                    return fold(plan, query, block, state, reduce_fn, combine_fn, True)
                with jax.enable_x64(True):
                    return fold(plan, wide, block, state, reduce_fn, combine_fn, True)

            def plain(state):
                return fold(plan, query, block, state, reduce_fn, combine_fn, False)

            return lax.cond(split, accurate, plain, state), None

        if num_blocks == 1 and plan.mesh is None and plan.kind == "patches":
            # Nothing to combine: XLA then fuses scores, softmax and readout into one loop.
            return jax.checkpoint(body)(None, 0)[0]
        state = start(split)
        if plan.mesh is not None:
            state = jax.tree.map(lambda a: lax.pcast(a, plan.axis, to="varying"), state)
        state, _ = lax.scan(jax.checkpoint(body), state, jnp.arange(num_blocks))
        return state if plan.mesh is None else join(plan, sigma, state)

    if plan.mesh is not None:
        everywhere = PartitionSpec()
        local = jax.shard_map(
            local,
            mesh=plan.mesh,
            in_specs=(everywhere, everywhere, PartitionSpec(plan.axis), everywhere, everywhere, everywhere),
            out_specs=everywhere,
            axis_names={plan.axis},
        )
    return local(x, sigma, _rows(plan, bank), fixed, scales, split)


def _shapes(plan: Plan, x: Array) -> tuple[tuple[int, int], int]:
    """Return the grid of windows and 1 + R, the number of running sums a window."""
    return query_shape(plan, x.shape), 1 + x.shape[-1] * (plan.size**2 if plan.readout == "average" else 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def posterior(plan: Plan, x: Array, sigma: Array, bank: tuple[Array, Array]) -> Posterior:
    """Compute the posterior at every window of ``x`` (H, W, C) over ``bank`` = (candidates, log_prior)."""
    evaluate = functools.partial(_evaluate, plan)
    return (in_turn(evaluate) if plan.on_cpu else evaluate)(x, sigma, *bank)


def _evaluate(plan: Plan, x: Array, sigma: Array, candidates: Array, log_prior: Array) -> Posterior:
    shape, num_sums = _shapes(plan, x)

    def start(split) -> _Running:
        nothing = jnp.zeros(shape, x.dtype)
        lowest = jnp.full_like(nothing, excluded_logit(x.dtype))
        none = jnp.zeros((*shape, num_sums), x.dtype)
        if split is None:
            return _Running(nothing, lowest, none)
        return _Running(jnp.where(split, EXCLUDED_SCORE, nothing), jnp.where(split, 0, lowest), none)

    def reduce(sigma, _fixed, scores, allowed, contract) -> _Running:
        return _softmax(sigma, scores, allowed, contract)

    bank = candidates, log_prior
    running = _over_bank(plan, x, sigma, bank, None, start, reduce, _combine, _combine_devices)
    # With every candidate excluded there is no posterior: NaN, not the mean of what was excluded.
    total = jnp.where(jnp.any(jnp.isfinite(log_prior)), running.sums[..., :1], jnp.nan)
    log_normaliser = running.top + jnp.log(total[..., 0])
    return Posterior(running.reference, log_normaliser, running.sums[..., 1:] / total)


def _sum_over_bank(plan: Plan, x, sigma, bank, fixed: Posterior, num_sums: int, term) -> Array:
    """Sum ``term(log_weights, contract)`` over the bank, at a posterior that is already known.

    Reverse mode would store the sums that "box" carries from row to row, so here every row starts afresh. Many tangents
    share the scores of a pass, and scores are compensated on every processor.
    """
    plan = dataclasses.replace(plan, on_cpu=False, block=plan.derivative_block)
    if plan.kind == "images" and plan.positions != "same":
        plan = dataclasses.replace(plan, method="product", strip=plan.size)

    def start(_split) -> Array:
        return jnp.zeros((*_shapes(plan, x)[0], num_sums), x.dtype)

    def reduce(sigma, fixed: Posterior, scores, allowed, contract) -> Array:
        logits = _logits(sigma, scores, fixed.reference, allowed)
        return term(logits - fixed.log_normaliser[..., None], contract)

    def combine(_sigma, a: Array, b: Array) -> Array:
        return a + b

    def join(plan: Plan, _sigma, part: Array) -> Array:
        return lax.psum(part, plan.axis)

    return _over_bank(plan, x, sigma, bank, fixed, start, reduce, combine, join)


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
        return jnp.stack([jnp.sum(weights, axis=-1), -jnp.sum(terms, axis=-1)], axis=-1)

    sums = _sum_over_bank(plan, x, sigma, bank, value, 2, term)
    # At very low noise the two passes round logits differently, and weights do not quite add up to one.
    return sums[..., 1] / sums[..., 0] + jnp.log(sums[..., 0])
