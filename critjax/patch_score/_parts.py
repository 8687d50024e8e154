"""From a plan and plain arrays to the posterior at every pixel: units, and the parts of noiseless padding."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from critjax._typing import Array
from critjax.patch_score._plan import Plan
from critjax.patch_score._posterior import Estimate, Problem, posterior
from critjax.patch_score._scores import grid_step


def estimate(plan: Plan, candidates: Array, log_prior: Array, x: Array, sigma: Array) -> Estimate:
    """Compute the posterior at every window of ``x`` (H, W, C), in the dtype of sigma."""
    x, candidates, log_prior = (a.astype(sigma.dtype) for a in (x, candidates, log_prior))
    origin, largest = origin_of(candidates)
    unit = jnp.where(largest > 0, grid_step(largest, 0), 1)
    problem = Problem((x - origin) / unit, sigma / unit, origin, unit, largest / unit, candidates, log_prior)
    found = _by_parts(plan, problem) if plan.has_parts else posterior(plan, problem)
    return found._replace(mean=found.mean * unit + origin)


def origin_of(candidates: Array) -> tuple[Array, Array]:
    """Return the number from which scores count, near the middle of the range, and how far candidates lie from it.

    Scores do not change with the origin, but their rounding grows with numbers. The origin is on a coarse grid, so that
    taking it off and adding it again is exact, and no rounding is spent on a range that is nearly symmetric.
    """
    low, high = (lax.stop_gradient(f(candidates)) for f in (jnp.min, jnp.max))
    finest = grid_step(jnp.maximum(high, -low), jnp.finfo(candidates.dtype).nmant)
    step = jnp.maximum(grid_step((high - low) / 2, 2), finest)
    origin = jnp.round((low + high) / 2 / step) * step
    return origin, jnp.maximum(high - origin, origin - low)


def _by_parts(plan: Plan, problem: Problem) -> Estimate:
    """Put together what the windows inside and those that reach over the border find."""
    height, width = problem.x.shape[:2]
    rows, columns = plan.border(height), plan.border(width)
    inside = [np.setdiff1d(np.arange(n), border) for n, border in ((height, rows), (width, columns))]
    pieces = []

    def add(part: str, where, turned: bool = False) -> None:
        piece = posterior(dataclasses.replace(plan, part=part), problem)
        pieces.append((where, jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), piece) if turned else piece))

    if len(inside[0]) and len(inside[1]):
        add("inside", np.ix_(*inside))
    if len(inside[0]) and len(columns):
        add("columns", np.ix_(np.arange(height), columns), turned=True)
    if len(rows):
        add("rows", rows)
    found = jax.tree.map(lambda a: jnp.zeros((height, width, *a.shape[2:]), a.dtype), pieces[0][1])
    for where, piece in pieces:
        found = jax.tree.map(lambda whole, a, where=where: whole.at[where].set(a), found, piece)
    return found
