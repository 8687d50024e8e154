"""Where modes of a bank turn critical in linear theory: about zero, or along the homogeneous state."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._programs import program
from critjax._typing import Array, SymbolFn
from critjax.banks import ImageBank, PatchBank
from critjax.noise import geometric_sigmas
from critjax.spectra import CriticalPoint, bank_symbol_fn, critical_point, homogeneous_state
from critjax.studies._engine.problem import Problem

_SCAN_LEVELS = 96


class Branch(NamedTuple):
    """The homogeneous state along which bare theory linearises; None for zero, where a symmetric bank stays."""

    levels: Any  # (L,), decreasing
    states: Any  # (L, C)


def branch_levels(scan: np.ndarray) -> np.ndarray:
    """Return the levels of a state that is followed over a scan: from a little above, every level of it inside."""
    ends = np.array([4 * scan[0], 1.01 * scan[0]], scan.dtype)
    return np.concatenate([ends, scan[1:-1], 0.99 * scan[-1:]])


def symbol_along(bank: PatchBank | ImageBank, grid: tuple[int, int], branch: Branch | None) -> SymbolFn:
    """Return the bare symbol along the homogeneous state."""
    if branch is None:
        return bank_symbol_fn(bank, grid)
    return bank_symbol_fn(bank, grid, sigmas=branch.levels, states=branch.states)


def critical_points(
    problem: Problem, ends: tuple[float, float], *, precision: str, eta: float, frame: str = "ve"
) -> tuple[CriticalPoint, CriticalPoint, np.ndarray, Branch | None]:
    """Scan the bare symbol between two noise levels.

    Parameters
    ----------
    problem : Problem
        A bank on its grid.
    ends : pair of float
        Highest and lowest noise of the scan.
    precision : str
        Floating dtype of the scan.
    eta : float
        Stochasticity.
    frame : "ve" or "vp"
        Where a mode is called critical.

    Returns
    -------
    tuple
        The critical points of the softest mode in the VE and in the chosen frame, the critical noise of the uniform
        mode in the chosen frame, all NumPy; and the homogeneous state on the range of the scan.
    """
    scan = np.asarray(geometric_sigmas(*ends, _SCAN_LEVELS - 1, dtype=jnp.dtype(precision)))
    *found, branch = _critical_points(
        problem.bank,
        scan,
        branch_levels(scan),
        eta,
        grid=problem.grid,
        frame=frame,
        symmetric=problem.symmetric,
    )
    ve, chosen, uniform = jax.tree.map(np.asarray, tuple(found))
    return ve, chosen, uniform, branch


@program(static_argnames=("grid", "frame", "symmetric"))
def _critical_points(
    bank: PatchBank | ImageBank,
    scan: Array,
    levels: Array,
    eta: Any,
    *,
    grid: tuple[int, int],
    frame: str,
    symmetric: bool,
) -> tuple[CriticalPoint, CriticalPoint, Array, Branch | None]:
    """Return the critical points of the softest mode in the VE and the chosen frame, that of the uniform mode."""
    branch = None if symmetric else Branch(levels, homogeneous_state(bank, levels, eta=eta))
    symbol_fn = symbol_along(bank, grid, branch)
    ve = critical_point(symbol_fn, scan, eta=eta)
    chosen = ve if frame == "ve" else critical_point(symbol_fn, scan, eta=eta, frame=frame)
    at_zero = jnp.isfinite(chosen.sigma) & ~jnp.any(chosen.wavevector)

    def apart() -> Array:
        return critical_point(lambda sigma: symbol_fn(sigma)[:1, :1], scan, eta=eta, frame=frame).sigma

    return ve, chosen, jax.lax.cond(at_zero, lambda: chosen.sigma, apart), branch
