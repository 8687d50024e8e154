"""Recommended windows: prescribed and exactly solvable softening, crossings, noise, and the ends of the ladder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.banks import two_pattern_bank
from critjax.closed_form import gaussian_denoiser, two_pattern_denoiser
from critjax.guidance import WINDOW_STATUS, describe_window, guidance_window, window_status
from critjax.guidance._window import _judge
from critjax.noise import geometric_sigmas, karras_sigmas
from critjax.patch_score import patch_denoiser

SHAPE = (3, 4, 1)
KEY = jax.random.key(0)
LADDER = np.asarray(geometric_sigmas(20.0, 0.05, 60, dtype=np.float64))


def dip(sigma, height=0.8, centre=0.9, width=0.6):
    """A softening that is largest at the centre; the gap is halfway between minimum and one at half its height."""
    return height * jnp.exp(-(jnp.log(sigma / centre) ** 2) / (2 * width**2))


@pytest.mark.parametrize("solver", ["heun", "euler"])
@pytest.mark.parametrize("ladder", [LADDER, np.asarray(karras_sigmas(20.0, 0.05, 80, dtype=np.float64))])
def test_prescribed_dip_has_its_centre_and_its_edges(solver, ladder):
    window = guidance_window(
        lambda x, sigma: dip(sigma) * x, KEY, SHAPE, ladder, num_samples=2, solver=solver
    )
    assert window_status(window) == "found" and not window.crosses
    half = 0.6 * np.sqrt(2 * np.log(2))
    np.testing.assert_allclose(window.centre, 0.9, rtol=2e-3)
    np.testing.assert_allclose(window.sigma_low, 0.9 * np.exp(-half), rtol=1e-2)
    np.testing.assert_allclose(window.sigma_high, 0.9 * np.exp(half), rtol=1e-2)
    np.testing.assert_allclose(window.gap, 1 - dip(ladder), atol=1e-12)
    # Trajectories that agree leave no statistical error.
    assert max(window.centre_error, window.sigma_low_error, window.sigma_high_error) < 1e-10
    told = describe_window(window.sigma_low, window.sigma_high, sigmas=ladder)
    inside = np.flatnonzero((ladder > window.sigma_low) & (ladder <= window.sigma_high))
    assert told["step"] == (inside[0], inside[-1])


def test_centre_and_edges_converge_with_the_ladder():
    errors = []
    for count in (40, 80, 160):
        ladder = geometric_sigmas(20.0, 0.05, count, dtype=np.float64)
        window = guidance_window(lambda x, sigma: dip(sigma) * x, KEY, SHAPE, ladder, num_samples=2)
        half = 0.6 * np.sqrt(2 * np.log(2))
        exact = 0.9 * np.exp([-half, 0, half])
        found = np.array([window.sigma_low, window.centre, window.sigma_high])
        errors.append(np.abs(np.log(found / exact)).max())
    assert errors[2] < errors[0] / 8, errors  # second order on average; edges fall anywhere between levels


def test_linearised_two_pattern_denoiser_crosses_at_its_critical_noise():
    """lambda = P/sigma^2: one at sigma^2 = P, one half at 2P, three halves at 2P/3."""
    exact = two_pattern_denoiser(3)

    def linear(x, sigma):
        return jax.jvp(lambda y: exact(y, sigma), (jnp.zeros_like(x),), (x,))[1]

    ladder = np.asarray(geometric_sigmas(12.0, 1.5, 80, dtype=np.float64))
    window = guidance_window(linear, KEY, (6, 7, 1), ladder, num_samples=2)
    assert window_status(window) == "found" and window.crosses
    found = np.array([window.sigma_low, window.centre, window.sigma_high])
    np.testing.assert_allclose(found, np.sqrt([6.0, 9.0, 18.0]), rtol=1e-3)
    np.testing.assert_allclose(window.gap, 1 - 9 / ladder**2, atol=1e-12)
    # A ladder that already starts below the critical noise brackets nothing.
    late = guidance_window(linear, KEY, (6, 7, 1), ladder[ladder < 2.9], num_samples=2)
    assert window_status(late) == "softest at an end of the ladder"
    assert np.isnan([late.sigma_low, late.centre, late.sigma_high]).all()


def test_two_patterns_on_one_window_against_the_ordinary_differential_equation():
    """On a 3 x 3 torus every window is the whole image: D = tanh(9 m/sigma^2), one number m per trajectory."""
    ladder = np.asarray(geometric_sigmas(15.0, 0.4, 50, dtype=np.float64))
    fine = np.geomspace(15.0, 0.4, 2001)
    places = (np.arange(400) + 0.5) / 200 - 1
    nodes = 6 * places**3  # dense near zero, from where trajectories depart late
    weights = np.exp(-(nodes**2) / 2) * places**2
    weights = weights / weights.sum()
    m, gaps, step = nodes * 15.0 / 3, [], np.log(fine[0] / fine[1])

    def slope(m, sigma):
        return np.tanh(9 * m / sigma**2) - m

    for sigma in fine:
        gaps.append(1 - weights @ (9 / sigma**2 / np.cosh(np.minimum(9 * np.abs(m) / sigma**2, 300)) ** 2))
        half = sigma * np.exp(-step / 2)
        k1 = slope(m, sigma)
        k2 = slope(m + step / 2 * k1, half)
        k3 = slope(m + step / 2 * k2, half)
        m = m + step * (k1 + 2 * k2 + 2 * k3 + slope(m + step * k3, sigma * np.exp(-step))) / 6
    gaps = np.array(gaps)
    lowest = gaps.argmin()
    level = (1 + gaps[lowest]) / 2
    inside = np.flatnonzero(gaps <= level)
    exact = fine[[inside[-1], lowest, inside[0]]]  # one connected window
    assert inside[-1] - inside[0] == len(inside) - 1

    for denoise in (two_pattern_denoiser(3), patch_denoiser(two_pattern_bank(3, dtype=jnp.float64))):
        window = jax.jit(
            lambda key, denoise=denoise: guidance_window(
                denoise, key, (3, 3, 1), ladder, num_samples=100, batch_size=50
            )
        )(jax.random.key(2))
        assert window_status(window) == "found" and not window.crosses
        # Below, lambda is carried by rare late departures, of which a hundred trajectories need not hold one.
        seen = ladder > 1.4
        deviations = np.abs(window.gap - np.interp(-ladder, -fine, gaps))
        assert np.all(deviations[seen] < 4 * window.gap_error[seen] + 0.004)
        found = np.array([window.sigma_low, window.centre, window.sigma_high])
        errors = np.array([window.sigma_low_error, window.centre_error, window.sigma_high_error])
        assert np.all(np.abs(found - exact) < 3 * errors), (found, exact, errors)
        assert np.all(errors < 0.25 * exact)


def test_gaussian_data_soften_for_ever_and_no_window_is_invented():
    denoise = gaussian_denoiser(jnp.zeros(SHAPE), jnp.full(SHAPE[:2], 2.0))
    window = guidance_window(denoise, KEY, SHAPE, LADDER, num_samples=3)
    np.testing.assert_allclose(window.gap, LADDER**2 / (LADDER**2 + 2), rtol=1e-9)
    assert window_status(window) == "softest at an end of the ladder"
    for name in ("sigma_low", "sigma_high", "centre", "sigma_low_error", "sigma_high_error", "centre_error"):
        assert np.isnan(getattr(window, name)), name
    with pytest.raises(ValueError, match="no window was found"):
        describe_window(window.sigma_low, window.sigma_high)


def test_rounding_of_a_vanishing_gap_is_no_crossing():
    """In float32 the gap sigma^2 of unit Gaussian data is rounding at low noise, and the same on every trajectory."""
    ladder = np.asarray(geometric_sigmas(20.0, 1e-5, 80, dtype=np.float32))
    gap = np.tile(ladder**2 / (1 + ladder**2), (4, 1))
    gap[:, -30:-1:2] = -6e-8
    window = _judge(jnp.asarray(gap), jnp.asarray(ladder), KEY, 200, 0)
    assert window_status(window) == "not distinguishable from noise" and not window.crosses


def test_a_softening_that_is_noise_is_called_so():
    """The slope of a fast wave at a noisy image is random: lambda is 0.4 up to noise at every level."""

    def denoise(x, sigma):
        return 0.4 * x + 0.05 * jnp.sin(20 * x)

    window = guidance_window(denoise, jax.random.key(3), SHAPE, LADDER)
    assert window_status(window) == "not distinguishable from noise"
    assert np.isnan([window.sigma_low, window.centre, window.sigma_high]).all()
    assert window.centre_interval[1] > 4 * window.centre_interval[0]
    assert np.all(np.abs(window.gap - 0.6) < 7 * window.gap_error + 0.05)


def tables(mean, size, count, repeats, seed, correlation=0.0):
    """Gaps of single trajectories with noise that is correlated between neighbouring levels, and keys."""
    noise = np.random.default_rng(seed).normal(size=(repeats, count, len(mean)))
    for n in range(1, len(mean)):
        noise[..., n] *= np.sqrt(1 - correlation**2)
        noise[..., n] += correlation * noise[..., n - 1]
    return jnp.asarray(mean + size * noise), jax.random.split(jax.random.key(seed), repeats)


def judge(gaps, keys):
    return jax.jit(jax.vmap(lambda g, k: _judge(g, jnp.asarray(LADDER), k, 200, 0)))(gaps, keys)


def test_flat_noise_rarely_passes_for_a_window():
    windows = judge(*tables(np.full(61, 0.6), 0.1, 8, 200, 1))
    assert np.mean(np.asarray(windows.status) <= 1) < 0.02


def test_bootstrap_errors_are_the_spread_of_independent_repeats():
    windows = judge(*tables(1 - np.asarray(dip(LADDER, height=0.6)), 0.1, 12, 200, 2, correlation=0.97))
    assert np.all(np.asarray(windows.status) == 0)
    # The lowest of many noisy levels scatters about the centre without bias.
    spread = np.std(windows.centre, ddof=1)
    assert abs(np.mean(windows.centre) - 0.9) < 4 * spread / np.sqrt(200) + 0.02
    for name in ("centre", "sigma_low", "sigma_high"):
        spread, told = np.std(getattr(windows, name), ddof=1), np.mean(getattr(windows, f"{name}_error"))
        assert 0.85 < told / spread < 1.18, (name, told, spread)
    covered = (windows.centre_interval[:, 0] <= 0.9) & (windows.centre_interval[:, 1] >= 0.9)
    assert np.mean(covered) > 0.85


def test_a_shallow_dip_needs_three_standard_errors_on_both_sides():
    def status(height, size):
        gap = 1 - np.asarray(dip(LADDER, height=height))
        pattern = np.array([1.0, -1.0, 1.0, -1.0])[:, None] * np.ones(61)  # one common shift per trajectory
        return window_status(_judge(jnp.asarray(gap + size * pattern), jnp.asarray(LADDER), KEY, 200, 0))

    # Standard error of each level: size * sqrt(4/3)/2; of a difference, in quadrature, sqrt 2 more; times 3.
    limit = 3 * np.sqrt(2) * np.sqrt(4 / 3) / 2 * 0.01
    assert status(1.05 * limit, 0.01) == "found"
    assert status(0.95 * limit, 0.01) == "not distinguishable from noise"


def test_a_window_that_the_ladder_cuts_is_flagged():
    def denoise(x, sigma):
        return jnp.maximum(dip(sigma), jnp.where(sigma < 0.9, 0.6, 0.0)) * x

    window = guidance_window(denoise, KEY, SHAPE, LADDER, num_samples=2)
    assert window_status(window) == "found, but the window runs into an end of the ladder"
    np.testing.assert_allclose(window.sigma_low, LADDER[-1], rtol=1e-12)
    half = 0.6 * np.sqrt(2 * np.log(2))
    np.testing.assert_allclose(window.sigma_high, 0.9 * np.exp(half), rtol=1e-2)


def test_the_crossing_is_the_one_before_the_first_significant_level():
    """Noise about zero at high noise crosses often, and insignificantly; only the later fall counts."""
    log_sigma = np.log(LADDER)
    gap = np.where(LADDER > 2.0, 0.02, -np.log(2.0 / LADDER))
    gap[10] = -0.005
    gaps = gap + 0.01 * np.array([1.0, -1.0, 1.0, -1.0])[:, None]
    window = _judge(jnp.asarray(gaps), jnp.asarray(LADDER), KEY, 200, 0)
    last = np.flatnonzero(LADDER > 2.0)[-1]
    fraction = gap[last] / (gap[last] - gap[last + 1])
    crossing = np.exp(log_sigma[last] + fraction * (log_sigma[last + 1] - log_sigma[last]))
    assert window.crosses and window_status(window) == WINDOW_STATUS[1]
    np.testing.assert_allclose(window.centre, crossing, rtol=1e-10)
    np.testing.assert_allclose(
        window.sigma_low, 2.0 * np.exp(-0.5), rtol=1e-6
    )  # gap = -1/2, linear in ln sigma


def test_values_that_are_not_finite_are_named():
    def denoise(x, sigma):
        return jnp.where(sigma > 1.0, dip(sigma), jnp.nan) * x

    window = guidance_window(denoise, KEY, SHAPE, LADDER, num_samples=2)
    assert window_status(window) == "not finite" and np.isnan(window.centre)


def test_direction_chooses_the_mode_and_its_norm_does_not_matter():
    stripes = np.cos(np.pi * np.arange(4))[None, :, None] * np.ones(SHAPE)

    def denoise(x, sigma):
        part = jnp.mean(x * stripes) * stripes
        return dip(sigma, centre=0.5) * part + dip(sigma, centre=1.6) * (x - part)

    for direction, centre in ((None, 1.6), (stripes, 0.5), (-40 * stripes, 0.5)):
        window = guidance_window(denoise, KEY, SHAPE, LADDER, num_samples=2, direction=direction)
        np.testing.assert_allclose(window.centre, centre, rtol=5e-3)


@pytest.mark.parametrize(("solver", "per_step"), [("heun", 2), ("euler", 1)])
def test_the_cost_is_what_was_spent(solver, per_step):
    calls = [0]

    def denoise(x, sigma):
        def count(_):
            calls[0] += 1

        jax.debug.callback(count, x[0, 0, 0])
        return dip(sigma) * x

    ladder = LADDER[::6]
    window = guidance_window(denoise, KEY, SHAPE, ladder, num_samples=3, solver=solver)
    jax.block_until_ready(window.gap)
    jax.effects_barrier()
    assert window.jacobian_products == 3 * 11
    assert window.evaluations == 3 * (10 * per_step + 1)
    assert calls[0] == window.evaluations + window.jacobian_products


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sigmas": np.array([2.0, 1.0])}, "at least 3 noise levels"),
        ({"num_samples": 1}, "num_samples: expected an integer >= 2"),
        ({"num_resamples": 1}, "num_resamples: expected an integer >= 2"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1"),
        ({"direction": np.zeros(SHAPE)}, "direction: expected a nonzero image"),
        ({"direction": np.ones((2, 2, 1))}, r"direction: expected shape \(3, 4, 1\)"),
        ({"solver": "rk4"}, "solver: expected"),
        ({"eta": -1.0}, "eta: expected"),
    ],
)
def test_bad_input_is_named(change, match):
    settings = {"sigmas": LADDER} | change
    sigmas = settings.pop("sigmas")
    with pytest.raises(ValueError, match=match):
        guidance_window(lambda x, sigma: dip(sigma) * x, KEY, SHAPE, sigmas, **settings)


def test_a_batch_of_windows_has_no_single_status():
    windows = judge(*tables(np.full(61, 0.6), 0.1, 4, 2, 1))
    with pytest.raises(ValueError, match="window: expected one window"):
        window_status(windows)
