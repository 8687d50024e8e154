"""What a criticality study will cost, from one timed evaluation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from critjax.patch_score import patch_denoiser
from critjax.studies._engine.cost import RUNTIME_BYTES, time_evaluation
from critjax.studies.criticality.probes import NUM_PROBE_LEVELS
from critjax.studies.criticality.problem import build_problem
from critjax.studies.criticality.settings import CriticalitySettings


def estimate_cost(settings: CriticalitySettings) -> dict[str, float]:
    """Predict wall time and memory of a run by timing the compiled denoiser of this very bank.

    Parameters
    ----------
    settings : CriticalitySettings
        The run to be estimated.

    Returns
    -------
    dict
        ``seconds`` in all, ``seconds_per_evaluation`` of one batch, ``evaluations`` (of batches), ``bytes``
        resident at most, ``overhead`` seconds (compilation, theory, figures), the last from experience.

    Example
    -------
    >>> settings = CriticalitySettings(bank="two-pattern", size=3, grid=(8, 8), num_samples=4, num_levels=3,
    ...                                batch_size=2, closure_samples=0, probe_samples=0)
    >>> estimate_cost(settings)["evaluations"]  # two batches, two a step of Heun's method and a last one
    10.0
    """
    full = settings.resolved()
    problem = build_problem(full)
    denoise = patch_denoiser(problem.bank)
    batch, levels = full.batch_size, full.num_levels
    dtype = jnp.dtype(full.precision)
    per_evaluation = time_evaluation(denoise, (batch, *problem.grid, problem.channels), dtype)
    per_trajectory = (2 if full.solver == "heun" else 1) * (levels - 1) + 1
    extra = full.closure_samples * levels / batch
    extra += full.probe_samples * NUM_PROBE_LEVELS * 12 / batch
    evaluations = full.num_samples // batch * per_trajectory + extra
    field = float(np.prod(problem.grid)) * problem.channels * dtype.itemsize
    trajectories = 4 * batch * levels * field  # x and D, by trajectory and by level
    modes = full.num_samples // batch * levels * field * (2 + 2 * problem.channels + 1 / problem.channels)
    bank = sum(leaf.nbytes for leaf in jax.tree.leaves(problem.bank))
    overhead = 18.0
    return {
        "seconds": overhead + evaluations * per_evaluation,
        "seconds_per_evaluation": per_evaluation,
        "evaluations": evaluations,
        "bytes": RUNTIME_BYTES + trajectories + 3 * modes + 2 * bank,
        "overhead": overhead,
    }
