"""Homogeneous states against independent integration, fixed points and symmetry."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import image_patches

from critjax.banks import ImageBank, PatchBank, two_pattern_bank
from critjax.spectra import bank_symbol_fn, homogeneous_growth_rate, homogeneous_state, symbol

LADDER = np.geomspace(4.0, 0.4, 6)


def skewed_bank(seed=0, channels=2):
    rng = np.random.default_rng(seed)
    return ImageBank(rng.uniform(-1, 1, (6, 7, 6, channels)) ** 3 + 0.3, 3)


def numpy_denoiser(bank, readout="centre"):
    """D(m, sigma) on constant images from the explicit patches of an image bank."""
    patches, owner = image_patches(bank.images, bank.size, bank.positions)
    log_prior = np.asarray(bank.log_prior)[owner]
    features = patches[:, 1, 1] if readout == "centre" else patches.mean((1, 2))

    def denoise(m, sigma):
        exponent = log_prior - ((patches - m) ** 2).sum((1, 2, 3)) / (2 * sigma**2)
        weights = np.exp(exponent - exponent.max())
        return weights @ features / weights.sum()

    return denoise, np.exp(log_prior) @ features / np.exp(log_prior).sum()


def runge_kutta(denoise, start, sigmas, eta, steps=60):
    """Classical fourth order in ln sigma, many steps per level."""
    path, m = [start], start
    for high, low in itertools.pairwise(sigmas):
        h = np.log(high / low) / steps
        for n in range(steps):

            def rate(m, t):
                return (1 + eta) * (denoise(m, high * np.exp(-t)) - m)  # noqa: B023

            t = n * h
            a = rate(m, t)
            b = rate(m + h / 2 * a, t + h / 2)
            c = rate(m + h / 2 * b, t + h / 2)
            m = m + h / 6 * (a + 2 * b + 2 * c + rate(m + h * c, t + h))
        path.append(m)
    return np.array(path)


@pytest.mark.parametrize(("eta", "readout"), [(0.0, "centre"), (2.0, "average")])
def test_against_independent_integration_with_second_order(eta, readout):
    bank = skewed_bank()
    denoise, start = numpy_denoiser(bank, readout)
    expected = runge_kutta(denoise, start, LADDER, eta)
    counts = np.array([8, 16, 32])
    errors = [
        np.abs(
            homogeneous_state(bank, LADDER, eta=eta, readout=readout, num_substeps=int(n)) - expected
        ).max()
        for n in counts
    ]
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert 1.8 < order < 2.3 and errors[-1] < 1e-4


def test_infinite_eta_is_the_fixed_point_and_the_limit_of_large_eta():
    bank = skewed_bank(1)
    denoise, _ = numpy_denoiser(bank)
    fixed = np.asarray(homogeneous_state(bank, LADDER, eta=np.inf))
    for m, sigma in zip(fixed, LADDER, strict=True):
        np.testing.assert_allclose(denoise(m, sigma), m, atol=1e-12)
    large = np.asarray(homogeneous_state(bank, LADDER, eta=1e4, num_substeps=32))
    np.testing.assert_allclose(large[1:], fixed[1:], atol=1e-4)
    assert np.all(np.isfinite(homogeneous_state(bank, LADDER, eta=1e4, num_substeps=1)))


def test_single_candidate_is_followed_exactly():
    """D is a constant: the state starts there and stays, for any eta."""
    bank = PatchBank(np.full((1, 3, 3, 2), [0.25, -0.5]))
    for eta in (0.0, 7.0):
        np.testing.assert_allclose(
            homogeneous_state(bank, LADDER, eta=eta), np.tile([0.25, -0.5], (6, 1)), atol=1e-14
        )


@pytest.mark.parametrize("eta", [0.0, 1.0, np.inf])
def test_symmetric_banks_stay_at_zero_far_below_their_critical_noise(eta):
    ladder = np.geomspace(30.0, 0.5, 6)
    pattern, signs = np.ones((1, 5, 5, 1)), np.random.default_rng(0).choice([-1.0, 1.0], (6, 5, 5, 1))
    for patches in (pattern, np.concatenate([pattern, signs]).astype(np.float32)):
        bank = PatchBank(np.concatenate([patches, -patches]))
        states = np.asarray(homogeneous_state(bank, ladder, eta=eta))
        rates = np.asarray(homogeneous_growth_rate(bank, ladder, states))
        assert states.dtype == bank.patches.dtype and not np.any(states)
        assert rates[-1] > 5  # it is unstable there, and says so


def test_a_broken_symmetry_leaves_zero():
    bank = two_pattern_bank(5).replace(log_prior=np.log([0.501, 0.499]))
    assert np.asarray(homogeneous_state(bank, np.geomspace(30.0, 0.5, 12)))[-1] > 0.5


def test_growth_rate_is_the_slope_of_the_denoiser():
    bank = skewed_bank(2, channels=1)
    denoise, _ = numpy_denoiser(bank)
    states = np.asarray(homogeneous_state(bank, LADDER))
    slopes = [
        (denoise(m + 1e-6, s) - denoise(m - 1e-6, s)) / 2e-6 for m, s in zip(states, LADDER, strict=True)
    ]
    rates = homogeneous_growth_rate(bank, LADDER, states, eta=0.5)
    np.testing.assert_allclose(rates, 1.5 * (np.array(slopes)[:, 0] - 1), rtol=1e-7)


def test_derivative_with_respect_to_the_bank():
    bank = skewed_bank(3)
    tangent = np.random.default_rng(4).normal(size=bank.images.shape)

    def last(t):
        return jnp.sum(homogeneous_state(bank.replace(images=bank.images + t * tangent), LADDER[:3])[-1])

    step, both = 1e-5, jax.jit(jax.value_and_grad(last))
    expected = (both(step)[0] - both(-step)[0]) / (2 * step)
    np.testing.assert_allclose(both(0.0)[1], expected, rtol=1e-5)


def test_symmetric_state_keeps_its_derivative():
    """The dead zone hides rounding, not the response to a field: dm/dh is that of the linear flow."""
    bank, ladder = two_pattern_bank(1), np.array([4.0, 3.0])

    def tilted(h):
        return homogeneous_state(bank.replace(log_prior=jnp.stack([h, -h])), ladder, num_substeps=64)[-1, 0]

    # D = tanh(m/sigma^2 + h): d/dtau m' = (1/sigma^2 - 1) m' + 1 from m' = 1; in t = sigma^2, -2 t dm'/dt = ...
    slope, steps = 1.0, 2000
    h = np.log(4 / 3) / steps
    for n in range(steps):
        t = (4.0 * np.exp(-(n + 0.5) * h)) ** 2
        factor = np.exp(h * (1 / t - 1))
        slope = slope * factor + (factor - 1) / (1 / t - 1)
    np.testing.assert_allclose(jax.jit(jax.grad(tilted))(0.0), slope, rtol=1e-4)


def test_symbol_function_interpolates_the_state():
    bank, grid = skewed_bank(5, channels=1), (7, 6)
    states = np.asarray(homogeneous_state(bank, LADDER))
    symbol_fn = bank_symbol_fn(bank, grid, sigmas=LADDER, states=states)

    def at(sigma, state):
        return symbol(bank, sigma, grid, state=state)

    np.testing.assert_allclose(symbol_fn(LADDER[2]), at(LADDER[2], states[2]), atol=1e-12)
    middle = np.sqrt(LADDER[2] * LADDER[3])
    np.testing.assert_allclose(symbol_fn(middle), at(middle, (states[2] + states[3]) / 2), atol=1e-12)
    assert np.all(np.isnan(symbol_fn(5.0))) and np.all(np.isnan(symbol_fn(0.3)))
    assert np.all(np.isfinite(symbol_fn(LADDER[0]))) and np.all(np.isfinite(symbol_fn(LADDER[-1])))


def test_float32():
    bank = skewed_bank(6)
    single = ImageBank(np.asarray(bank.images, np.float32), 3)
    for eta in (0.0, 50.0):
        states = homogeneous_state(single, LADDER, eta=eta)
        assert states.dtype == jnp.float32
        np.testing.assert_allclose(states, homogeneous_state(bank, LADDER, eta=eta), atol=5e-6)


def test_ladders_may_be_lists():
    bank, symbol_fn = two_pattern_bank(3), bank_symbol_fn(two_pattern_bank(3), (6, 6))
    states = inspect.unwrap(homogeneous_state)(bank, [9, 3, 1])
    np.testing.assert_array_equal(states, np.zeros((3, 1)))
    rates = inspect.unwrap(homogeneous_growth_rate)(bank, [9, 3, 1], states)
    np.testing.assert_allclose(rates, [-8 / 9, 0, 8], atol=1e-6)
    along = inspect.unwrap(bank_symbol_fn)(bank, (6, 6), sigmas=[9, 3, 1], states=states)
    np.testing.assert_allclose(along(4.0), symbol_fn(4.0), atol=1e-6)


def test_messages():
    bank = two_pattern_bank(3)
    with pytest.raises(ValueError, match="sigmas: expected positive, strictly decreasing noise levels"):
        homogeneous_state(bank, np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="eta: expected a finite number >= 0, got -0.5"):
        homogeneous_state(bank, LADDER, eta=-0.5)
    with pytest.raises(ValueError, match="num_substeps: expected an integer >= 1, got 0"):
        homogeneous_state(bank, LADDER, num_substeps=0)
    with pytest.raises(ValueError, match="positions: expected 'all' or 'interior', got 'same'"):
        homogeneous_state(ImageBank(np.zeros((2, 5, 5, 1)), 3, positions="same"), LADDER)
    with pytest.raises(ValueError, match=r"states: expected shape \(6, 1\), got shape \(5, 1\)"):
        inspect.unwrap(homogeneous_growth_rate)(bank, LADDER, np.zeros((5, 1)))
    with pytest.raises(
        ValueError, match="states: expected both sigmas and states, or neither, got sigmas without"
    ):
        bank_symbol_fn(bank, (4, 4), sigmas=LADDER)
    with pytest.raises(ValueError, match=r"states: expected shape \(6, 1\), got shape \(6, 2\)"):
        bank_symbol_fn(bank, (4, 4), sigmas=LADDER, states=np.zeros((6, 2)))


def test_states_and_symbols_of_float32_are_those_of_float64_at_every_noise():
    """From 1e3 to 1e-6 of the range, in one ladder."""
    rng = np.random.default_rng(0)
    patches = rng.uniform(0, 255, (12, 5, 5, 1)).astype(np.float32)
    sigmas = np.float32([1e3, 1.0, 0.1, 1e-2, 1e-4, 1e-6]) * np.float32(255)
    narrow, wide = [], []
    for found, dtype in ((narrow, np.float32), (wide, np.float64)):
        bank = PatchBank(patches.astype(dtype))
        states = homogeneous_state(bank, sigmas.astype(dtype))
        symbols = [
            symbol(bank, np.asarray(s), (8, 6), state=m)
            for s, m in zip(sigmas.astype(dtype), states, strict=True)
        ]
        assert {np.asarray(a).dtype.itemsize for a in (states, *symbols)} <= {
            dtype().itemsize,
            2 * dtype().itemsize,
        }
        found += [np.asarray(states), np.asarray(symbols)]
    np.testing.assert_allclose(narrow[0], wide[0], rtol=0, atol=1e-5 * 255)
    size = np.max(np.abs(wide[1]), axis=(1, 2, 3, 4), keepdims=True)
    assert size[1] > 0.1 and size[-1] == 0
    assert np.all(np.abs(narrow[1] - wide[1]) <= 1e-3 * size + 1e-6)
