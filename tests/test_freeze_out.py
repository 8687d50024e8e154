"""Annealed Langevin: exact linear recursion, freeze-out scaling, and the study that measures it on samples."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from critjax.closed_form import gaussian_denoiser, gaussian_symbol
from critjax.fluctuations import (
    freeze_out_distance,
    freeze_out_length,
    langevin_structure_factor,
    linear_structure_factor,
    resolves_freeze_out,
)
from critjax.observables import second_moment_length, structure_factor
from critjax.sampling import langevin_step, sample

SIZE, CRITICAL = 5, 5.0
STIFFNESS = (SIZE**2 - 1) / 24


def two_pattern_symbol(width=2048):
    """Dhat = c(k)/sigma^2 of the constant patches +-1, on a strip long enough for any length here."""
    k = 2 * np.pi * np.fft.fftfreq(width)
    c = SIZE * sum(np.cos(k * r) for r in range(-(SIZE // 2), SIZE // 2 + 1))
    return Partial(over_variance, c[None, :, None, None] + 0j)


def over_variance(c, sigma):
    return c / sigma**2


def exponent(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def recursion(symbol_fn, sigmas, steps, e, solver, eta):
    """S by the definition, in complex128 loops: one map after the other, no power of anything."""
    identity = np.eye(symbol_fn(sigmas[0]).shape[-1])

    def dagger(a):
        return np.conj(np.swapaxes(a, -1, -2))

    s = np.broadcast_to(sigmas[0] ** 2 * identity, symbol_fn(sigmas[0]).shape).astype(complex)
    out = [s]
    for old, new in itertools.pairwise(sigmas):
        g, g_new = (identity - np.asarray(symbol_fn(t)) for t in (old, new))
        if solver is not None:
            drift, width = -(1 + eta) * g / old, old - new
            matrix, spread = identity + width * drift, identity
            if solver == "heun":
                drift_new = -(1 + eta) * g_new / new
                spread = identity + width / 2 * drift_new
                matrix = identity + width / 2 * (drift + drift_new @ matrix)
            s = matrix @ s @ dagger(matrix) + eta * (old**2 - new**2) * spread @ dagger(spread)
        for _ in range(steps):
            a = identity - e * g_new
            s = a @ s @ dagger(a) + 2 * e * new**2 * identity
        out.append(s)
    return np.array(out)


@pytest.mark.parametrize(("solver", "eta"), [(None, 0.0), ("euler", 0.7), ("heun", 0.0), ("heun", 1.0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_recursion_of_the_definition(solver, eta, channels):
    rng = np.random.default_rng(channels)
    shape = (2, 3, channels, channels)
    a, b = (0.4 * (rng.normal(size=shape) + 1j * rng.normal(size=shape)) for _ in range(2))
    a[0, 0] = np.eye(channels) - b[0, 0]  # the gap vanishes at sigma = 1

    def symbol_fn(sigma):
        return a / sigma**2 + b / sigma

    sigmas = np.array([2.0, 1.7, 1.2, 1.0])
    steps = 0 if solver == "euler" else 13
    options = {"langevin_steps": steps, "step_size": 0.2, "solver": solver, "eta": eta}
    got = langevin_structure_factor(symbol_fn, sigmas, **options)
    expected = recursion(symbol_fn, sigmas, steps, 0.2, solver, eta)
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12 * np.abs(expected).max())


def test_chosen_levels_are_those_of_the_whole_ladder():
    symbol_fn, ladder = gaussian_symbol(np.full((2, 3), 4.0)), np.geomspace(3.0, 1.0, 6)
    every = np.asarray(langevin_structure_factor(symbol_fn, ladder, langevin_steps=2))
    some = langevin_structure_factor(symbol_fn, ladder, langevin_steps=2, levels=[0, 2, 5])
    np.testing.assert_allclose(some, every[[0, 2, 5]], rtol=1e-13)


def test_geometric_sum_in_its_limits():
    """Marginal modes gain 2 e sigma^2 a step, stable ones reach sigma^2/(g (1 - e g/2)), e g = 1 forgets at once."""
    gap, n, e = np.array([0.0, 1e-12, 0.3, 4.0, -0.01]), 3000, 0.25
    symbol = (1 - gap)[None, :, None, None] + 0j
    got = langevin_structure_factor(lambda s: symbol, np.array([3.0, 2.0]), langevin_steps=n, step_size=e)
    got = np.asarray(got)
    q = (1 + e * 0.01) ** 2
    expected = [
        9 + 2 * e * 4 * n,
        9 + 2 * e * 4 * n,
        4 / (0.3 * (1 - e * 0.15)),
        2 * e * 4,
        9 * q**n + 8 * e * (q**n - 1) / (q - 1),
    ]
    np.testing.assert_allclose(got[1, 0, :, 0, 0].real, expected, rtol=2e-8)
    # float32: the gap is kept apart from one, so thousands of steps cost no digits.
    single = langevin_structure_factor(
        lambda s: symbol.astype(np.complex64),
        np.float32([3.0, 2.0]),
        langevin_steps=n,
        step_size=np.float32(e),
    )
    assert single.dtype == jnp.complex64
    single = np.asarray(single)
    np.testing.assert_allclose(single[1, 0, :3, 0, 0].real, expected[:3], rtol=3e-6)


@pytest.mark.parametrize(("solver", "eta"), [("euler", 1.0), ("heun", 0.0)])
def test_ensemble_of_the_sampler(solver, eta):
    """`sample` with a Wiener denoiser is linear: its S is the recursion's, mode by mode, to sampling error."""
    grid, num, e = (6, 5), 4000, 0.4
    power = np.abs(np.fft.fft2(np.random.default_rng(2).normal(size=grid))) ** 2 / 5
    sigmas = jax.device_put(np.array([3.0, 2.0, 1.2]))
    options = {"solver": solver, "eta": eta, "langevin_steps": 3}
    denoise = gaussian_denoiser(np.zeros((*grid, 1)), power)
    symbol_fn = gaussian_symbol(power)

    @jax.jit
    def measured(key):
        def last(key):
            return sample(denoise, key, (*grid, 1), sigmas, step_size=e, **options).x[-1]

        return structure_factor(jax.vmap(last)(jax.random.split(key, num)), centre=False)

    got = np.asarray(measured(jax.random.key(3)))[..., 0, 0].real
    theory = np.asarray(langevin_structure_factor(symbol_fn, sigmas, step_size=e, **options))
    theory = theory[-1, ..., 0, 0].real
    # |x_k|^2 of a Gaussian field scatters by S, by sqrt(2) S where x_k is real (here k = 0 and k_y = pi).
    spread = np.full(grid, num**-0.5)
    spread[0, 0] = spread[3, 0] = (2 / num) ** 0.5
    pull = (got / theory - 1) / spread
    assert np.abs(pull).max() < 4 and 0.5 < np.sqrt((pull**2).mean()) < 1.5
    free = np.asarray(langevin_structure_factor(symbol_fn, sigmas, step_size=e, langevin_steps=3))
    assert (
        np.abs((got / free[-1, ..., 0, 0].real - 1) / spread).max() > 8
    )  # pure Langevin dynamics is told from it


def test_pure_langevin_ensemble_is_the_recursion_without_solver():
    grid, num, e, n = (4, 6), 6000, 0.3, 2
    power = np.abs(np.fft.fft2(np.random.default_rng(4).normal(size=grid))) ** 2 / 3
    denoise = jax.vmap(gaussian_denoiser(np.zeros((*grid, 1)), power), (0, None))
    sigmas = np.array([2.0, 1.6, 1.3])

    @jax.jit
    def measured():
        x = 2.0 * jax.random.normal(jax.random.key(0), (num, *grid, 1))
        for level in (1, 2):
            for i in range(n):
                key = jax.random.fold_in(jax.random.key(level), i)
                x = langevin_step(denoise, key, x, sigmas[level], e)
        return structure_factor(x, centre=False)

    theory = np.asarray(
        langevin_structure_factor(gaussian_symbol(power), sigmas, langevin_steps=n, step_size=e)
    )[-1, ..., 0, 0]
    pull = (np.asarray(measured())[..., 0, 0].real / theory.real - 1) * num**0.5
    # Four of the 24 modes are real and scatter by sqrt(2).
    assert np.abs(pull).max() < 4.5 and 0.5 < np.sqrt((pull**2).mean()) < 1.6


RATES = np.array([1e2, 1e3, 1e4, 1e5])


def correction(rates):
    """Next order of freeze_out_length, for the whole of Dhat = (sigma_c/sigma)^2 (1 - K k^2)."""
    return np.sqrt(1 + (np.pi - 8 / 3) / np.sqrt(2 * np.pi * rates))


def test_reverse_equation_freezes_out_with_exponent_and_prefactor():
    """The S equation at eta = a - 1: xi = sqrt(K) (2a/pi)^{1/4}, the next order taking the rest."""
    symbol_fn, lengths = two_pattern_symbol(), []
    for a in RATES:
        ladder = CRITICAL * np.exp(np.linspace(6 * float(freeze_out_distance(a)), 0, 61))
        last = np.asarray(linear_structure_factor(symbol_fn, ladder, eta=a - 1, num_substeps=4))[-1]
        lengths.append(float(second_moment_length(last)))
    assert exponent(RATES, lengths) == pytest.approx(0.25, rel=0.01)
    prefactor = np.array(lengths) / freeze_out_length(STIFFNESS, RATES)
    np.testing.assert_allclose(prefactor, 1, atol=0.012)
    np.testing.assert_allclose(prefactor, correction(RATES), atol=8e-4)


def test_langevin_recursion_freezes_out_where_the_ladder_resolves_it():
    symbol_fn, e, lengths = two_pattern_symbol(), 0.1, []
    for a in RATES:
        width = float(freeze_out_distance(a))
        steps = max(1, int(a * width / 10 / e))
        spacing = steps * e / a
        ladder = CRITICAL * np.exp(spacing * np.arange(int(6 * width / spacing), -1, -1))
        assert bool(resolves_freeze_out(ladder, a, CRITICAL))
        last = np.asarray(langevin_structure_factor(symbol_fn, ladder, langevin_steps=steps, step_size=e))[-1]
        lengths.append(float(second_moment_length(last)))
    assert exponent(RATES, lengths) == pytest.approx(0.25, rel=0.02)
    np.testing.assert_allclose(np.array(lengths) / freeze_out_length(STIFFNESS, RATES), 1, atol=0.03)


def test_coarse_ladder_shows_the_square_root_artefact():
    """Ten levels, all steps at each: the last level alone equilibrates, xi^2 -> n e K."""
    symbol_fn, numbers = two_pattern_symbol(), np.array([300, 1000, 3000, 10000])
    ladder, lengths = CRITICAL * np.exp(np.linspace(1, 0, 11)), []
    for n in numbers:
        assert not bool(resolves_freeze_out(ladder, n * 0.1 / 0.1, CRITICAL))
        last = np.asarray(langevin_structure_factor(symbol_fn, ladder, langevin_steps=int(n)))[-1]
        lengths.append(float(second_moment_length(last)))
    assert exponent(numbers[1:], lengths[1:]) == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(lengths[-1], np.sqrt(numbers[-1] * 0.1 * STIFFNESS), rtol=0.01)


def test_criterion_of_the_ladder():
    """Steps around sigma_c count, steps far above or below it do not, and the ladder must reach both ways."""
    rate, width = 50.0, 0.1

    def verdict(*logs):
        return bool(resolves_freeze_out(2.0 * np.exp(np.array(logs)), rate, 2.0))

    fine = np.linspace(0.2, 0.0, 9)  # steps of a quarter of the width
    assert float(freeze_out_distance(rate)) == pytest.approx(width)
    assert verdict(*fine) and verdict(3.0, *fine[:-1], 0.0, -2.0)
    assert not verdict(*fine[::2]) and not verdict(*fine[1:]) and not verdict(*fine[:-1])
    assert not verdict(*fine[:4], *fine[5:])


def test_messages():
    symbol = two_pattern_symbol(4)
    levels = np.array([2.0, 1.0])
    for options, words in (
        ({"langevin_steps": -1}, "langevin_steps: expected an integer >= 0, got -1"),
        ({"langevin_steps": 0}, "langevin_steps: expected at least one without a solver, got 0"),
        ({"langevin_steps": 1, "step_size": 2.0}, r"step_size: expected a number in \(0, 2\), got 2.0"),
        ({"langevin_steps": 1, "solver": "rk4"}, "solver: expected 'euler' or 'heun', got 'rk4'"),
        ({"langevin_steps": 1, "eta": 1.0}, "eta: expected 0 without a solver, got 1.0"),
        (
            {"langevin_steps": 1, "levels": [1, 0]},
            r"levels: expected increasing indices below 2, got \[1, 0\]",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            langevin_structure_factor(symbol, levels, **options)
    with pytest.raises(ValueError, match="sigmas: expected at least 2 noise levels"):
        resolves_freeze_out(np.array([1.0]), 1.0, 1.0)
