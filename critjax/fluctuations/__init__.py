r"""Fluctuations about the homogeneous state: linear structure factor and Gaussian closure.

While a field is small its modes evolve alone, and the structure factor obeys a linear equation per
wavevector,

``dS/dtau = (1+eta) [(Dhat - 1) S + S (Dhat - 1)^dagger] + 2 eta sigma^2 1,   tau = -ln sigma``

(THEORY section 5). With the bare symbol this is linear theory; with the regression symbol of a Gaussian field
of the same spectrum it is the Gaussian closure. Both share one step, exact for a constant symbol and of
fourth order or better in the ladder spacing for a given one; closures extrapolate theirs from level to level, which is
of second order. Annealed Langevin dynamics has its own recursion, without
discretisation error, and a length at which it freezes out on the way through a critical point.
"""

from critjax.fluctuations._closure import GaussianClosure, gaussian_closure, soft_modes
from critjax.fluctuations._freeze_out import (
    freeze_out_distance,
    freeze_out_length,
    langevin_structure_factor,
    resolves_freeze_out,
)
from critjax.fluctuations._linear import linear_structure_factor
from critjax.fluctuations._two_pattern import TransformedClosure, transformed_closure, two_pattern_closure

__all__ = [
    "GaussianClosure",
    "TransformedClosure",
    "freeze_out_distance",
    "freeze_out_length",
    "gaussian_closure",
    "langevin_structure_factor",
    "linear_structure_factor",
    "resolves_freeze_out",
    "soft_modes",
    "transformed_closure",
    "two_pattern_closure",
]
