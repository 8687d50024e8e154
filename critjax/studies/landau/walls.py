"""Ordered states at frozen noise: plateaux, walls and stripes of the exact denoiser beside their reduced forms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from critjax._programs import program
from critjax._typing import Array
from critjax.banks import PatchBank
from critjax.fourier import plane_wave
from critjax.landau import amplitude_coefficients, landau_coefficients
from critjax.patch_score import patch_denoiser

#: Distances -r below the critical noise at which ordered states are relaxed; the smallest is nearest to the theory.
DEPTHS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
#: Pixels along a wall profile, two walls a profile.
LENGTH = 256
_STEPS = 500


def relax(denoise: Any, x: Array, sigma: Array) -> Array:
    """Follow dx/dtau = D(x) - x at frozen noise to its fixed point, in unit steps."""
    return jax.lax.fori_loop(0, _STEPS, lambda _, x: denoise(x, sigma), x)


def wall_width(profile: Array, plateau: Array) -> Array:
    """Width w of ``plateau tanh(x/w)`` from the slope where a profile (L,) first passes upwards through zero."""
    after = jnp.roll(profile, -1)
    upward = (profile < 0) & (after >= 0)
    at = jnp.argmax(upward)
    slope = after[at] - profile[at]
    return jnp.where(jnp.any(upward), plateau / slope, jnp.nan)


@program
def uniform_states(bank: PatchBank, critical: Array) -> dict[str, Array]:
    """Relax uniform fields and walls below the uniform mode's critical noise; arrays over `DEPTHS`.

    Returns plateau^2 and wall width, relaxed and from ``-r/u`` and ``sqrt(2 K_xx/-r)``, along x; NaN where u < 0.
    """
    denoise, dtype = patch_denoiser(bank), bank.patches.dtype
    height = 2 * (bank.size // 2) + 2

    def at_depth(depth: Array) -> dict[str, Array]:
        # r = 1 - (sigma_c/sigma)^2 to leading order; the coefficients below are those of this very sigma.
        sigma = critical / jnp.sqrt(1 + depth)
        c = landau_coefficients(bank, sigma)
        plateau, width = jnp.sqrt(-c.r / c.u), jnp.sqrt(2 * c.K[1, 1] / -c.r)
        # Where u < 0 the reduced equation has no plateau; the exact states are found from those of the patches.
        start = jnp.where(jnp.isfinite(plateau), plateau, 1.0)
        flat = relax(denoise, jnp.full((height, height, 1), 1.0, dtype) * start, sigma)
        x = jnp.arange(LENGTH, dtype=dtype)
        edge = LENGTH / 4
        profile = start * jnp.tanh((edge - jnp.abs(x - 2 * edge)) / width)
        wall = relax(denoise, jnp.broadcast_to(profile[:, None], (height, LENGTH, 1)), sigma)
        found = jnp.abs(flat.mean())
        return {
            "depth": -c.r,
            "quench_sigma": sigma,
            "plateau_squared": found**2,
            "plateau_squared_reduced": plateau**2,
            "wall_width": wall_width(wall[0, :, 0], found),
            "wall_width_reduced": width,
        }

    return jax.lax.map(at_depth, jnp.asarray(DEPTHS, dtype))


@program(static_argnames="grid")
def pattern_states(
    bank: PatchBank, critical: Array, wavevector: Array, *, grid: tuple[int, int]
) -> dict[str, Array]:
    """Relax one plane wave below its critical noise: squared amplitude, relaxed and from ``-Re r/Re cubic``."""
    denoise, dtype = patch_denoiser(bank), bank.patches.dtype
    vector = jnp.asarray(wavevector, dtype)
    wave = plane_wave(grid, vector).astype(jnp.promote_types(dtype, jnp.complex64))

    def at_depth(depth: Array) -> dict[str, Array]:
        sigma = critical / jnp.sqrt(1 + depth)
        c = amplitude_coefficients(bank, vector, sigma)
        squared = -c.r.real / c.cubic.real
        start = 2 * jnp.sqrt(jnp.abs(squared)) * wave.real
        squared = jnp.where(squared > 0, squared, jnp.nan)  # subcritical: no plateau
        final = relax(denoise, start[..., None].astype(dtype), sigma)[..., 0]
        amplitude = jnp.mean(final * wave.conj())
        unknown = jnp.full((), jnp.nan, dtype)
        return {
            "depth": -c.r.real,
            "quench_sigma": sigma,
            "plateau_squared": jnp.abs(amplitude) ** 2,
            "plateau_squared_reduced": squared,
            "wall_width": unknown,
            "wall_width_reduced": unknown,
        }

    return jax.lax.map(at_depth, jnp.asarray(DEPTHS, dtype))
