r"""The posterior at every window: mean, entropy, and exact derivatives of any order, in bounded memory.

The bank is visited in blocks by one `lax.scan` that carries the sums of a streaming softmax, so that memory does not
depend on the size of the bank. The derivative is a covariance,

    d mean_i = sum_mu w_mu(i) [d phi_mu(0) + (phi_mu(0) - mean_i) (d logit_mu(i) - <d logit>_i)],

by a second pass at constant top, normaliser and mean, with nothing stored a block. Three things keep its rounding small
where one candidate, or several that are alike, has nearly all the weight: ``phi - mean`` is taken pair by pair (of
whole patches, which are multiplied, the derivatives of logits are centred instead), the weighted sum of it is not
assumed to vanish (as it would without rounding), and both passes compute scores by the same operations. The rule is
itself written with differentiable outputs, so it nests.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from critjax._typing import Array
from critjax.patch_score import _products, _window_sums, softmax
from critjax.patch_score._blocks import cut_block
from critjax.patch_score._plan import Plan, Route
from critjax.patch_score._scores import Noise, grid_step, head_bits, matmul, rounding
from critjax.patch_score._turns import in_turn
from critjax.patch_score._windows import pad, unfold

Bank = tuple[Array, Array]  # candidates, log_prior


class Problem(NamedTuple):
    """A noisy image and a bank; the image and sigma are in units of ``unit`` from ``origin`` on, candidates are not."""

    x: Array  # (H, W, C)
    sigma: Array  # ()
    origin: Array  # (), a constant for differentiation, like the next two
    unit: Array  # (), a power of two
    largest: Array  # (), the largest candidate in this unit, between one half and one
    candidates: Any  # Array, None outside devices that share it
    log_prior: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one candidate."""
        return self.candidates.shape[1:]


class Estimate(NamedTuple):
    """What is known of every window; `posterior` returns (H, W), inside there are the axes of scores."""

    mean: Array  # (H, W, R), R = C for the centre readout and p^2 C for whole patches
    entropy: Any  # (H, W), of the weights, in nats; None if it is not asked for


class Anchor(NamedTuple):
    """An estimate and what its weights are relative to: ``exp(logit - log_total)``, logits relative to the top."""

    estimate: Estimate
    top: softmax.Top  # a constant for differentiation
    log_total: Array


class _State(NamedTuple):
    """Sums of the streaming softmax; all have the windows first."""

    top: softmax.Top
    sums: Array  # (..., 1 + R): of the weights, and of weights times what is read out
    tilt: Any  # of weights times logits, or None


# ---- passes over the bank
def _noise(plan: Plan, accurate: bool, x: Array, sigma: Array, largest: Array) -> Noise:
    """Choose the arithmetic; accurate scores have a least noise level, which they resolve."""
    if not accurate:
        return Noise(sigma, None, None)
    reach = lax.stop_gradient(jnp.max(jnp.abs(x)))
    bits = head_bits(plan.size**2 * x.shape[-1], x.dtype)
    if plan.positions == "same":  # heads of differences
        steps = (grid_step(reach + largest, bits),) * 2
    else:
        steps = grid_step(jnp.maximum(reach, largest), bits), grid_step(largest, bits)
    # Far below their rounding, two passes might disagree about which candidate is best.
    least = rounding(plan.size**2 * x.shape[-1], steps, jnp.maximum(reach, largest))
    sigma = jnp.maximum(sigma, jnp.sqrt(least))
    return Noise(sigma, 1 / sigma, steps)


def _over_blocks(plan: Plan, route: Route, noise: Noise, problem: Problem, state, consume):
    """Feed every block of the bank through ``consume(state, scores, values)``.

    For a single block of products the state is None, which stands for nothing yet: XLA then fuses scores, softmax and
    readout into one loop.
    """
    x, bank = problem.x, (problem.candidates, problem.log_prior)
    shape = (bank[0].shape[0], *problem.shape)
    # Flat rows: with the trailing axes of size one, XLA would choose another layout and copy the whole bank.
    bank = bank[0].reshape(shape[0], -1), bank[1]
    count = -(-shape[0] // route.images)

    def block(number) -> Bank:
        flat, log_prior = bank if count == 1 else cut_block(bank, number, route.images)
        return (flat.reshape(route.images, *shape[1:]) - problem.origin) / problem.unit, log_prior

    def walk(state, number):
        return _window_sums.walk(plan, noise, layout, *block(number), state, consume)

    def same(state, number):
        return consume(state, *_window_sums.same(plan, noise, x, *block(number)))

    def product(state, number):
        candidates = _products.candidates(plan, route, number % row_blocks, *block(number // row_blocks))
        return consume(state, *_products.scored(plan, route, noise, layout, candidates))

    layout, row_blocks, visit = None, 1, same
    if plan.positions != "same" and route.method == "box":
        layout, visit = _window_sums.lay_out(plan, noise, x), walk
    elif plan.positions != "same":
        layout, visit = _products.lay_out(plan, route, noise, x), product
        row_blocks = -(-plan.bank_shape(shape)[0] // route.rows)
    visit = jax.checkpoint(visit)
    if count * row_blocks == 1 and route.method != "box":
        return visit(None, 0)
    return lax.scan(lambda s, n: (visit(s, n), None), state, jnp.arange(count * row_blocks))[0]


def _among_devices(plan: Plan, run, problem: Problem, fixed):
    """Call ``run(problem, fixed)``, on every device of the mesh with its share of the bank."""
    if plan.mesh is None:
        return run(problem, fixed)
    candidates, log_prior = problem.candidates, problem.log_prior
    missing = -candidates.shape[0] % plan.mesh.shape[plan.axis]
    if missing:
        zeros = jnp.zeros((missing, *candidates.shape[1:]), candidates.dtype)
        candidates = jnp.concatenate([candidates, zeros])
        log_prior = jnp.concatenate([log_prior, jnp.full((missing,), -jnp.inf, log_prior.dtype)])

    def local(bank: Bank, rest: Problem, fixed):
        return run(rest._replace(candidates=bank[0], log_prior=bank[1]), fixed)

    everywhere = PartitionSpec()
    return jax.shard_map(
        local,
        mesh=plan.mesh,
        in_specs=(PartitionSpec(plan.axis), everywhere, everywhere),
        out_specs=everywhere,
        axis_names={plan.axis},
    )((candidates, log_prior), problem._replace(candidates=None, log_prior=None), fixed)


def _begin(plan: Plan, state):
    """Let every device of a mesh have its own state."""
    if plan.mesh is None:
        return state
    return jax.tree.map(lambda a: lax.pcast(a, plan.axis, to="varying"), state)


def _leading(plan: Plan, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the leading axes of scores: those of windows, which XLA fuses better than one flat axis."""
    return (*plan.query_shape(shape), 1) if plan.positions == "same" else plan.query_shape(shape)


def _first_pass(plan: Plan, route: Route, accurate: bool, problem: Problem) -> Anchor:
    """Compute the posterior by a streaming softmax."""
    leading, dtype = _leading(plan, problem.x.shape), problem.x.dtype

    def run(problem: Problem, _fixed) -> _State:
        noise = _noise(plan, accurate, problem.x, problem.sigma, problem.largest)

        def consume(state: _State | None, scores: softmax.Scores, values: Array) -> _State:
            top = softmax.start(leading, dtype) if state is None else state.top
            top, log_kept, logits = softmax.advance(top, scores, noise.inverse)
            weights = jnp.exp(logits)
            table = jnp.concatenate([jnp.ones_like(values[..., :1]), values], axis=-1)
            sums, tilt = matmul(weights, table), None
            if plan.with_entropy:
                tilt = jnp.sum(weights * jnp.maximum(logits, softmax.NEVER), axis=-1)
            if state is None:
                return _State(top, sums, tilt)
            old = _relative_to(top, state, log_kept)
            return _State(top, old.sums + sums, None if tilt is None else old.tilt + tilt)

        num_read = problem.x.shape[-1] * (plan.size**2 if plan.readout == "average" else 1)
        nothing = jnp.zeros(leading, dtype)
        state = _State(
            softmax.start(leading, dtype),
            jnp.zeros((*leading, 1 + num_read), dtype),
            nothing if plan.with_entropy else None,
        )
        state = _over_blocks(plan, route, noise, problem, _begin(plan, state), consume)
        if plan.mesh is None:
            return state
        top, log_kept = softmax.join(state.top, plan.axis, noise.inverse)
        state = _relative_to(top, state, log_kept)
        return _State(top, *lax.psum((state.sums, state.tilt), plan.axis))

    state = _among_devices(plan, run, problem, None)
    # With every candidate excluded there is no posterior: NaN, not the mean of what was excluded.
    total = jnp.where(jnp.any(jnp.isfinite(problem.log_prior)), state.sums[..., :1], jnp.nan)
    log_total = jnp.log(total[..., 0])
    entropy = None if state.tilt is None else log_total - state.tilt / total[..., 0]
    # Between its bounds the mean has been rounded: a compiler that fuses `values - sums / total` into one rounding
    # would let two uses of it differ, and the rules of derivatives rely on one.
    mean = jnp.clip(state.sums[..., 1:] / total, -problem.largest, problem.largest)
    return Anchor(Estimate(mean, entropy), state.top, log_total)


def _relative_to(top: softmax.Top, state: _State, log_kept: Array) -> _State:
    kept = jnp.exp(log_kept)
    tilt = None if state.tilt is None else kept * (state.tilt + log_kept * state.sums[..., 0])
    return _State(top, kept[..., None] * state.sums, tilt)


def _second_pass(plan: Plan, route: Route, problem: Problem, anchor: Anchor) -> tuple[Array, Array]:
    """Sum weights, and weights times what is read out relative to its mean, at a known posterior.

    Also returns a function of the noisy image that has been subtracted from all logits; its value, not its derivative,
    has been added again.
    """

    def run(problem: Problem, anchor: Anchor) -> Array:
        noise = _noise(plan, True, problem.x, problem.sigma, problem.largest)
        mean, _ = anchor.estimate
        drift = _drift(plan, problem, mean)
        drift = drift - lax.stop_gradient(drift)

        def consume(state: Array | None, scores: softmax.Scores, values: Array) -> Array:
            # What has no weight has no derivative, either, and none that could be computed.
            least = softmax.NEVER * lax.stop_gradient(noise.sigma) ** 2
            relative = jnp.maximum(softmax.below(anchor.top, scores), least)
            logits = softmax.logits_of(relative, noise.inverse) - (anchor.log_total + drift)[..., None]
            weights = jnp.exp(logits)
            total = jnp.sum(weights, axis=-1)
            if plan.readout == "average":
                centred = matmul(weights, values) - mean * total[..., None]
                parts = [total[..., None], centred]
            else:
                parts = [total[..., None]]
                for channel in range(values.shape[-1]):
                    deviation = values[..., None, :, channel] - mean[..., channel, None]
                    parts.append(jnp.sum(weights * deviation, axis=-1, keepdims=True))
            if plan.with_entropy:
                parts.append(-jnp.sum(weights * logits, axis=-1, keepdims=True))
            sums = jnp.concatenate(parts, axis=-1)
            return sums if state is None else state + sums

        num_sums = 1 + mean.shape[-1] + plan.with_entropy
        state = jnp.zeros((*mean.shape[:-1], num_sums), mean.dtype)
        state = _over_blocks(plan, route, noise, problem, _begin(plan, state), consume)
        return state if plan.mesh is None else lax.psum(state, plan.axis)

    return _among_devices(plan, run, problem, anchor), _drift(plan, problem, anchor.estimate.mean)


def _drift(plan: Plan, problem: Problem, mean: Array) -> Array:
    """Return the logits of the mean patch: subtracted, they centre the derivatives of logits by the noisy image.

    For whole patches only: the centre is centred pair by pair.
    """
    if plan.readout != "average":
        return jnp.zeros(mean.shape[:-1], mean.dtype)
    windows = unfold(pad(problem.x, plan.size, plan.query_pad, axes=(0, 1)), plan.size)
    windows, mean = windows.reshape(mean.shape), lax.stop_gradient(mean)
    scores = -0.5 * (windows - mean) ** 2 if plan.positions == "same" else windows * mean
    sigma = _noise(plan, True, problem.x, problem.sigma, problem.largest).sigma
    return jnp.sum(scores, axis=-1) / lax.stop_gradient(sigma) ** 2


# ---- the posterior and its derivatives
def _on_each_platform(plan: Plan, problem: Problem, run, derivative: bool, *fixed):
    """Call ``run(route, problem, *fixed)`` with the route of the platform that the program will run on."""
    shapes = problem.x.shape, problem.candidates.shape, problem.x.dtype
    cpu, other = (plan.route(*shapes, platform, derivative) for platform in ("cpu", "other"))
    if cpu == other:
        return run(cpu, problem, *fixed)
    by_platform = {"cpu": functools.partial(run, cpu), "default": functools.partial(run, other)}
    return lax.platform_dependent(problem, *fixed, **by_platform)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def posterior(plan: Plan, problem: Problem) -> Estimate:
    """Compute the posterior at every window."""

    def run(route: Route, problem: Problem) -> Estimate:
        def at(accurate: bool):
            def find(problem: Problem) -> Estimate:
                return _shaped(plan, problem, _first_pass(plan, route, accurate, problem).estimate)

            return find

        if plan.always_accurate:
            return at(True)(problem)
        limit = plan.factor(route.method, problem.x.dtype) * problem.x.shape[-1] * problem.largest**2
        return lax.cond(problem.sigma**2 < limit, at(True), at(False), problem)

    def evaluate(*leaves: Array) -> Estimate:
        return _on_each_platform(plan, Problem(*leaves), run, False)

    # A list of patches may be too short to keep a processor busy with one image; images are not.
    return in_turn(evaluate, plan.kind == "images", Problem._fields.index("sigma"))(*problem)


def _shaped(plan: Plan, problem: Problem, found: Estimate) -> Estimate:
    """Give the axes of windows to what has those of scores."""
    shape, (mean, entropy) = plan.query_shape(problem.x.shape), found
    return Estimate(mean.reshape(*shape, -1), None if entropy is None else entropy.reshape(shape))


@functools.partial(posterior.defjvp, symbolic_zeros=True)
def _posterior_jvp(plan: Plan, primals, tangents):
    problem, rest = _active(primals[0], tangents[0])
    value, change = jax.jvp(lambda *a: _anchored(plan, problem(*a)), *rest)
    return _shaped(plan, primals[0], value.estimate), _shaped(plan, primals[0], change.estimate)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _anchored(plan: Plan, problem: Problem) -> Anchor:
    """Compute the posterior in the way that its derivatives do: accurate, all members of a batch together."""

    def run(route: Route, problem: Problem) -> Anchor:
        return _first_pass(plan, route, True, problem)

    return _on_each_platform(plan, problem, run, True)


@functools.partial(_anchored.defjvp, symbolic_zeros=True)
def _anchored_jvp(plan: Plan, primals, tangents):
    anchor = _anchored(plan, primals[0])
    problem, rest = _active(primals[0], tangents[0])

    def moments(*arguments):
        def run(route: Route, problem: Problem, anchor: Anchor):
            return _second_pass(plan, route, problem, anchor)

        return _on_each_platform(plan, problem(*arguments), run, True, anchor)

    (sums, _), (changes, drift) = jax.jvp(moments, *rest)
    total, change = sums[..., :1], changes[..., :1] / sums[..., :1]
    read, entropy = slice(1, sums.shape[-1] - plan.with_entropy), None
    mean = changes[..., read] / total - sums[..., read] / total * change
    if plan.with_entropy:  # of S/T + log T, with S and T the sums of -w log w and of w
        spread = sums[..., -1:] / total
        entropy = (changes[..., -1:] / total - spread * change + change)[..., 0]
    top = jax.tree.map(jnp.zeros_like, anchor.top)
    return anchor, Anchor(Estimate(mean, entropy), top, change[..., 0] + drift)


def _active(problem: Problem, tangents: Problem):
    """Return the problem as a function of what is differentiated, its values, and its tangents."""
    zero = jax.custom_derivatives.SymbolicZero
    active = [name for name in Problem._fields if not isinstance(getattr(tangents, name), zero)]

    def rebuilt(*values: Array) -> Problem:
        return problem._replace(**dict(zip(active, values, strict=True)))

    values, directions = (tuple(getattr(p, name) for name in active) for p in (problem, tangents))
    return rebuilt, (values, directions)
