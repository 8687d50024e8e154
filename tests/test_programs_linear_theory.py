"""Linear theory and Ginzburg-Landau: few programs in a first eager call, none in a second with other values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import counting

from critjax.banks import ImageBank, PatchBank
from critjax.eigenmodes import leading_modes
from critjax.landau import (
    amplitude_coefficients,
    fast_fields,
    free_energy,
    integrate,
    landau_coefficients,
    landau_sample,
    low_pass,
    quartic_form,
    reduced_model,
    renormalised_coefficients,
    renormalised_model,
)
from critjax.spectra import (
    bank_symbol_fn,
    critical_point,
    critical_sigmas,
    dispersion,
    growth_rate,
    homogeneous_growth_rate,
    homogeneous_state,
    instability_kind,
    leading_eigenvalue,
    mean_field_critical_sigma,
    measured_symbol,
    nonreciprocal_fraction,
    project_symbol,
    random_phase_field,
    rayleigh_quotient,
    regression_ratio,
    regression_symbol,
    response_kernel,
    right_eigenvector,
    symbol,
    uniform_symbol,
)

GRID = (8, 6)


def denoise(x, sigma):
    """A user's function, twice the same object."""
    return jnp.tanh(jnp.roll(x, 1, 0)) / (1 + sigma**2)


class Values:
    """Arguments of one shape; another seed gives other values, and other kinds of scalars."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        pattern = rng.choice([-1.0, 1.0], (1, 3, 3, 1))
        self.pair = PatchBank(np.concatenate([pattern, -pattern]))
        self.bank = PatchBank(rng.uniform(-1, 1, (5, 3, 3, 1)), rng.normal(size=5))
        self.images = ImageBank(rng.uniform(-1, 1, (3, 7, 6, 1)), 3)
        self.sigma = 1.25 if seed == 0 else np.asarray(1.5, np.float32)
        self.eta = 1 if seed == 0 else np.float64(0.5)
        self.ladder = np.geomspace(9.0 + seed, 0.5, 6)
        self.key = jax.random.key(seed)
        self.state = np.full(1, 0.1 * seed)
        self.states = np.full((6, 1), 0.05 * seed)
        self.k = np.array([0.0, 0.5 + seed])
        self.x = rng.normal(size=(*GRID, 1))
        self.fields = rng.normal(size=(4, *GRID, 1))
        self.table = rng.normal(size=(*GRID, 1, 1)) + 1j * rng.normal(size=(*GRID, 1, 1))
        self.matrices = rng.normal(size=(*GRID, 2, 2)) + 0j
        self.white = np.full((*GRID, 1, 1), 4.0 + seed) + 0j
        self.seed = seed

    def symbol_fn(self):
        return bank_symbol_fn(self.bank, GRID, sigmas=self.ladder, states=self.states)

    def model(self):
        return reduced_model(self.pair, self.ladder[:3], GRID)


CALLS = {
    "response_kernel": lambda v: response_kernel(v.images, v.sigma, state=v.state),
    "symbol": lambda v: symbol(v.images, v.sigma, GRID),
    "uniform_symbol": lambda v: uniform_symbol(v.images, v.sigma),
    "mean_field_critical_sigma": lambda v: mean_field_critical_sigma(v.images, GRID),
    "nonreciprocal_fraction": lambda v: nonreciprocal_fraction(v.table),
    "homogeneous_state": lambda v: homogeneous_state(v.images, v.ladder, eta=v.eta),
    "homogeneous_growth_rate": lambda v: homogeneous_growth_rate(v.bank, v.ladder, v.states, eta=v.eta),
    "bank_symbol_fn": lambda v: v.symbol_fn()(v.sigma),
    "leading_eigenvalue": lambda v: leading_eigenvalue(v.table),
    "right_eigenvector": lambda v: right_eigenvector(v.matrices[0, 0], v.table[0, 0, 0, 0]),
    "growth_rate": lambda v: growth_rate(v.table, v.sigma, eta=v.eta),
    "dispersion": lambda v: dispersion(v.symbol_fn(), v.ladder),
    "critical_point": lambda v: critical_point(v.symbol_fn(), v.ladder, eta=v.eta, tolerance=0.1 + v.seed),
    "instability_kind": lambda v: instability_kind(critical_point(bank_symbol_fn(v.pair, GRID), v.ladder)),
    "critical_sigmas": lambda v: critical_sigmas(v.symbol_fn(), v.ladder, eta=v.eta),
    "rayleigh_quotient": lambda v: rayleigh_quotient(denoise, v.x, v.k, v.sigma),
    "measured_symbol": lambda v: measured_symbol(denoise, v.key, v.x, v.sigma, num_probes=2),
    "random_phase_field": lambda v: random_phase_field(v.key, GRID, np.float32),
    "regression_symbol": lambda v: regression_symbol(v.fields, np.tanh(v.fields), size=3),
    "regression_ratio": lambda v: regression_ratio(v.matrices, v.matrices**2),
    "project_symbol": lambda v: project_symbol(v.table, 3),
    "leading_modes": lambda v: leading_modes(denoise, v.x, v.sigma, num_modes=2, key=v.key),
    "landau_coefficients": lambda v: landau_coefficients(v.images, v.sigma, state=v.state),
    "amplitude_coefficients": lambda v: amplitude_coefficients(v.images, v.k, v.sigma),
    "quartic_form": lambda v: quartic_form(v.ladder[:5], v.k),
    "reduced_model": lambda v: reduced_model(v.bank, v.ladder[:4], GRID, eta=v.eta),
    "integrate": lambda v: integrate(v.model(), v.key, v.x, eta=v.eta, cutoff=1.0 + v.seed),
    "landau_sample": lambda v: landau_sample(v.pair, v.key, (*GRID, 1), v.ladder[:3], eta=v.eta),
    "low_pass": lambda v: low_pass(v.x[..., 0], 1.0 + v.seed),
    "free_energy": lambda v: free_energy(v.x[..., 0], v.table[..., 0, 0], 0.1, 1.0 + v.seed),
    "fast_fields": lambda v: fast_fields(v.key, v.white, 1.0 + v.seed, 2),
    "renormalised_coefficients": lambda v: renormalised_coefficients(
        denoise, v.key, v.white, v.sigma, size=3, num_samples=2
    ),
    "renormalised_model": lambda v: renormalised_model(
        denoise, v.key, v.ladder[:2], v.states[:2], np.stack([v.white] * 2), size=3, num_samples=2
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def values():
    return Values(0), Values(1)


@pytest.mark.parametrize("name", CALLS)
def test_a_public_function_is_few_programs_and_serves_other_values(name, values):
    first, second = values
    jax.clear_caches()
    with counting() as cold:
        once = CALLS[name](first)
    with counting() as warm:
        again = CALLS[name](second)
    assert cold.programs <= 3
    assert warm.programs == 0
    if not isinstance(once, str):
        leaves = zip(*map(jax.tree.leaves, (once, again)), strict=True)
        assert not all(np.array_equal(a, b, equal_nan=True) for a, b in leaves)
