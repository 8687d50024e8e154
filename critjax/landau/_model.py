"""What the reduced dynamics of a bank need on a ladder of noise levels: states, linear part and coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_sigmas, check, check_grid, check_option, is_concrete
from critjax._programs import program
from critjax._typing import Array, ArrayLike, Complex, Float
from critjax.banks import ImageBank, PatchBank
from critjax.fourier import wavevectors
from critjax.landau._coefficients import LandauCoefficients, landau_coefficients, quartic_form
from critjax.spectra import homogeneous_state, symbol
from critjax.spectra._inputs import as_eta
from critjax.spectra.kernels import uniform_response
from critjax.spectra.posterior import check_bank

Bank = PatchBank | ImageBank


class ReducedModel(NamedTuple):
    """A bank's reduced dynamics on a ladder of noise levels; build it once for many samples."""

    sigma: Float[Array, " num"]
    state: Float[Array, "num C"]
    """Homogeneous states m."""
    target: Float[Array, "num C"]
    """D(m), towards which the state moves."""
    symbol: Complex[Array, "num H W"]
    """Linear part lambda(k), FFT order: exact, truncated or renormalised."""
    coefficients: LandauCoefficients
    """At every level, leading axis num."""


def steady(coefficients: LandauCoefficients) -> tuple[LandauCoefficients, Array]:
    """Drop imaginary parts that are zero; where the uniform mode oscillates u is NaN, and the second result False."""
    still = jnp.all(jnp.imag(coefficients.left) == 0, axis=-1) & (jnp.imag(coefficients.u) == 0)
    real = jax.tree.map(lambda a: a.real, coefficients)
    return real._replace(u=jnp.where(still, real.u, jnp.nan)), still


def check_steady(still: Any) -> None:
    """Raise `ValueError` if a concrete flag of `steady` says that the uniform mode oscillates."""
    if is_concrete(still):
        advice = "its amplitude is complex; simulate the exact model"
        good = bool(np.all(np.asarray(still)))
        check(good, "uniform mode", "one that does not oscillate", "an oscillating one", advice)


def reduced_model(
    bank: Bank,
    sigmas: Float[ArrayLike, " num"],
    grid: Sequence[int],
    *,
    eta: Any = 0.0,
    linear: str = "exact",
) -> ReducedModel:
    r"""Collect what the reduced dynamics of a bank need on a ladder of noise levels.

    Parameters
    ----------
    bank : PatchBank or ImageBank
        Positions "all" or "interior".
    sigmas : float array (num,)
        Strictly decreasing standard deviations.
    grid : (H, W)
        Static grid of the field.
    eta : scalar >= 0
        Stochasticity; it enters the homogeneous states.
    linear : "exact" or "truncated"
        Linear part: the exact symbol :math:`\hat D(k)`, projected on the uniform mode if there are several channels, or
        its expansion :math:`1 - r + i v\cdot k - K_{ab}k_a k_b - L(k)`.

    Returns
    -------
    ReducedModel
        In the bank's dtype.

    Raises
    ------
    ValueError
        If the truncation is ill-posed (L <= 0 in some direction) at a concrete noise level, if the uniform mode of
        several channels oscillates, or on a bad ladder, grid or option. Under tracing such a level gives NaN.

    Notes
    -----
    Some ten passes over the bank per level. THEORY section 4.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> model = reduced_model(two_pattern_bank(3), jnp.array([6.0, 3.0]), (16, 16))
    >>> complex(model.symbol[1, 0, 0])
    (1+0j)
    """
    check_bank(bank, "centre")
    sigmas, eta = as_sigmas("sigmas", sigmas), as_eta(eta)
    check_option("linear", linear, ("exact", "truncated"))
    model, still = _reduced_model(bank, sigmas, eta, grid=check_grid(grid), linear=linear)
    check_steady(still)
    if linear == "truncated" and is_concrete(model.coefficients.well_posed):
        bad = np.asarray(sigmas)[~np.asarray(model.coefficients.well_posed)]
        got = f"L <= 0 in some direction at {bad.size} of {sigmas.size} levels, e.g. sigma = {bad[:1]}"
        advice = "short waves would grow without bound; use linear='exact'"
        check(bad.size == 0, "linear='truncated'", "a fourth-order term that damps", got, advice)
    return model


@program(static_argnames=("grid", "linear"))
def _reduced_model(
    bank: Bank, sigmas: Array, eta: Any, *, grid: tuple[int, int], linear: str
) -> tuple[ReducedModel, Array]:
    states = homogeneous_state(bank, sigmas, eta=eta)
    found, still = steady(jax.vmap(lambda s, m: landau_coefficients(bank, s, state=m))(sigmas, states))
    targets = jax.vmap(lambda s, m: uniform_response(bank, s, m, readout="centre", block_size=None).value)(
        sigmas, states
    )
    if linear == "exact":

        def exact(sigma: Array, state: Array, right: Array, left: Array) -> Array:
            full = symbol(bank, sigma, grid, state=state)
            return jnp.einsum("a,hwab,b->hw", left, full, right, precision=jax.lax.Precision.HIGHEST)

        part = jax.lax.map(lambda level: exact(*level), (sigmas, states, found.right, found.left))
        return ReducedModel(sigmas, states, targets, part, found), still
    k = wavevectors(grid, dtype=sigmas.dtype)

    def truncated(c: LandauCoefficients) -> Array:
        curvature = jnp.einsum("hwa,ab,hwb->hw", k, c.K, k)
        value = 1 - c.r - curvature - quartic_form(c.L, k) + 1j * (k @ c.v)
        return jnp.where(c.well_posed, value, jnp.nan)

    return ReducedModel(sigmas, states, targets, jax.vmap(truncated)(found), found), still
