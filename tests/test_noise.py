"""Noise units against extended precision, written-out schedules and the definitions behind them."""

from __future__ import annotations

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax import noise
from critjax._checks import check_sigmas

LEVELS = np.geomspace(1e-3, 1e3, 61)

#: name -> (forward, backward, tolerance of a round trip in units of eps as a function of sigma)
UNITS = {
    "t_ou": (noise.sigma_to_t_ou, noise.t_ou_to_sigma, lambda s: 16),
    "alpha_bar": (noise.sigma_to_alpha_bar, noise.alpha_bar_to_sigma, lambda s: 4 * (1 + s**-2)),
    "log_snr": (noise.sigma_to_log_snr, noise.log_snr_to_sigma, lambda s: 16),
    "rectified flow": (
        noise.sigma_to_rectified_flow_time,
        noise.rectified_flow_time_to_sigma,
        lambda s: 4 * (1 + s),
    ),
}

#: name -> the definition in extended precision
DEFINITIONS = {
    "t_ou": lambda s: np.log1p(s * s) / 2,
    "alpha_bar": lambda s: 1 / (1 + s * s),
    "log_snr": lambda s: -2 * np.log(s),
    "rectified flow": lambda s: s / (1 + s),
}


def written_out_schedule(schedule, num_timesteps):
    """Multiply (1 - beta) one by one and return sigma at every timestep."""
    alpha_bar, sigmas = 1.0, []
    for t in range(num_timesteps):
        if schedule == "linear":
            beta = 1e-4 + (0.02 - 1e-4) * t / (num_timesteps - 1)
        else:
            now, then = (math.cos((u / num_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (t, t + 1))
            beta = min(1 - then / now, 0.999)
        alpha_bar *= 1 - beta
        sigmas.append(math.sqrt((1 - alpha_bar) / alpha_bar))
    return np.array(sigmas)


# Units ---------------------------------------------------------------------------------------------------


@jax.jit
def _round_trips(sigma):
    found = {unit: forward(sigma) for unit, (forward, _, _) in UNITS.items()}
    return found, {unit: UNITS[unit][1](values) for unit, values in found.items()}


@pytest.fixture(scope="module")
def round_trips():
    """LEVELS in every unit and back, by dtype."""
    return {
        dtype: jax.tree.map(np.asarray, _round_trips(LEVELS.astype(dtype)))
        for dtype in (np.float32, np.float64)
    }


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_costs_a_few_units_of_rounding(unit, dtype, round_trips):
    there, back = (found[unit] for found in round_trips[dtype])
    assert there.dtype == back.dtype == dtype
    error = np.abs(back.astype(np.float64) / LEVELS.astype(dtype) - 1)
    limit = UNITS[unit][2](LEVELS) * np.finfo(dtype).eps
    assert np.all(error <= limit), (error / limit).max()


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_agree_with_extended_precision_at_small_and_large_noise(unit, dtype, round_trips):
    sigma = LEVELS.astype(dtype)
    expected = DEFINITIONS[unit](sigma.astype(np.longdouble)).astype(np.float64)
    found = round_trips[dtype][0][unit]
    np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(dtype).eps, atol=1e-300)


def test_signal_amplitudes_of_all_units_agree(round_trips):
    found = round_trips[np.float64][0]
    np.testing.assert_allclose(found["alpha_bar"], np.exp(-2 * found["t_ou"]), rtol=1e-13)
    middle = (LEVELS > 0.1) & (LEVELS < 10)
    alpha_bar, time = found["alpha_bar"][middle], found["rectified flow"][middle]
    np.testing.assert_allclose(found["log_snr"][middle], np.log(alpha_bar / (1 - alpha_bar)), atol=1e-12)
    np.testing.assert_allclose(time / (1 - time), LEVELS[middle], rtol=1e-12)  # x_t/(1-t) = x0 + sigma eps


def test_published_value_of_the_critical_amplitude():
    """Raya & Ambrogioni 2023: sigma^2 = sqrt 2 is alpha = sqrt(sqrt 2 - 1) = 0.643594 (THEORY section 1)."""
    alpha = math.sqrt(noise.sigma_to_alpha_bar(2**0.25))
    assert alpha == pytest.approx(math.sqrt(math.sqrt(2) - 1), rel=1e-14)
    assert alpha == pytest.approx(0.643594, abs=5e-7)


@jax.jit
@jax.vmap
def _slopes(sigma):
    return {
        unit: (jax.grad(forward)(sigma), jax.grad(backward)(forward(sigma)))
        for unit, (forward, backward, _) in UNITS.items()
    }


def test_derivatives_of_the_two_directions_are_reciprocal_and_match_differences():
    sigma = np.array([0.03, 1.0, 20.0])
    for unit, (slope, back) in _slopes(sigma).items():
        h = 1e-6 * sigma
        difference = (DEFINITIONS[unit](sigma + h) - DEFINITIONS[unit](sigma - h)) / (2 * h)
        np.testing.assert_allclose(slope, difference, rtol=1e-6, err_msg=unit)
        np.testing.assert_allclose(np.asarray(slope) * back, 1, rtol=1e-10, err_msg=unit)


@pytest.mark.parametrize("unit", UNITS)
def test_limits_of_zero_and_infinite_noise(unit):
    ends = {
        "t_ou": (0, math.inf),
        "alpha_bar": (1, 0),
        "log_snr": (math.inf, -math.inf),
        "rectified flow": (0, None),
    }
    forward, backward, _ = UNITS[unit]
    low, high = ends[unit]
    assert float(forward(0.0)) == low and float(backward(float(low))) == 0
    if high is not None:
        assert float(forward(math.inf)) == high and float(backward(float(high))) == math.inf


def test_shapes_dtypes_jit_and_vmap(round_trips):
    table, found = LEVELS[:60].reshape(3, 20), round_trips[np.float64][0]
    mapped = jax.jit(lambda t: {unit: (u[0](t), jax.vmap(u[0])(t)) for unit, u in UNITS.items()})(table)
    for unit, (forward, _, _) in UNITS.items():
        for got in mapped[unit]:
            np.testing.assert_allclose(got, found[unit][:60].reshape(3, 20), rtol=1e-14)

        def dtypes(forward=forward):
            single = jnp.ones(2, jnp.float32)
            # A Python number promotes nothing.
            return single * forward(2.0), single * forward(2), forward(jnp.ones(2, jnp.bfloat16))

        got = [one.dtype for one in jax.eval_shape(dtypes)]
        assert got == [jnp.float32, jnp.float32, jnp.bfloat16], unit


# DDPM ----------------------------------------------------------------------------------------------------


def _both_ways(timesteps, inside, between, options):
    return (
        noise.ddpm_timestep_to_sigma(timesteps, **options),
        noise.sigma_to_ddpm_timestep(inside, **options),
        noise.ddpm_timestep_to_sigma(between, **options),
    )


@pytest.mark.parametrize("num_timesteps", [2, 50, 1000])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_timesteps_are_those_of_the_written_out_schedule(schedule, num_timesteps):
    options = {"schedule": schedule, "num_timesteps": num_timesteps}
    sigmas, timesteps = written_out_schedule(schedule, num_timesteps), np.arange(num_timesteps, dtype=float)
    np.testing.assert_allclose(noise.ddpm_sigma_range(**options), sigmas[[0, -1]], rtol=1e-9)
    # The product above rounds 1 - alpha_bar; its two ends may lie outside the range by 1e-12.
    inside = np.clip(sigmas, *noise.ddpm_sigma_range(**options))
    there, back, between = jax.jit(functools.partial(_both_ways, options=options))(
        timesteps, inside, timesteps[:-1] + 0.5
    )
    np.testing.assert_allclose(there, sigmas, rtol=1e-9)
    np.testing.assert_allclose(back, timesteps, atol=1e-6)
    np.testing.assert_allclose(between, np.sqrt(sigmas[:-1] * sigmas[1:]), rtol=1e-9)


def test_published_ends_of_the_two_schedules():
    """Ho et al. 2020 end at alpha_bar = 4.036e-5; the cosine is cos^2 itself until its last, clipped step."""
    last = 1 / (1 + float(noise.ddpm_timestep_to_sigma(999.0)) ** 2)
    assert float(last) == pytest.approx(4.036e-5, rel=1e-3)
    t = np.arange(999.0)
    cosine = (
        np.cos(((t + 1) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    )
    sigma = np.asarray(noise.ddpm_timestep_to_sigma(t, schedule="cosine"))
    np.testing.assert_allclose(1 / (1 + sigma**2), cosine, rtol=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_timesteps_round_trip_and_the_ends_belong_to_the_range(schedule, dtype):
    low, high = noise.ddpm_sigma_range(schedule=schedule)
    sigma = np.geomspace(low, high, 501).astype(dtype)
    timestep = np.asarray(noise.sigma_to_ddpm_timestep(sigma, schedule=schedule))
    assert timestep.dtype == dtype and np.all(np.diff(timestep) > 0)
    back = noise.ddpm_timestep_to_sigma(timestep, schedule=schedule)
    # ln sigma rises by up to 7 from one timestep to the next, at the clipped end of the cosine.
    steepest = np.diff(np.log(written_out_schedule(schedule, 1000)))
    slope = steepest[np.clip(np.asarray(timestep, int), 0, 998)]
    eps = np.finfo(dtype).eps
    assert np.all(np.abs(np.log(np.asarray(back, float) / sigma)) < eps * (32 + 1000 * slope))
    ends = np.asarray(noise.ddpm_timestep_to_sigma(np.array([0, 999], dtype), schedule=schedule))
    np.testing.assert_allclose(
        noise.sigma_to_ddpm_timestep(ends, schedule=schedule), [0, 999], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_noise_outside_the_schedule_has_no_timestep(schedule):
    low, high = noise.ddpm_sigma_range(schedule=schedule)
    outside = np.isnan(
        noise.sigma_to_ddpm_timestep(np.array([0, low / 1.01, low, high, high * 1.01]), schedule=schedule)
    )
    np.testing.assert_array_equal(outside, [True, True, False, False, True])
    outside = np.isnan(noise.ddpm_timestep_to_sigma(np.array([-0.01, 0.0, 999.0, 999.01]), schedule=schedule))
    np.testing.assert_array_equal(outside, [True, False, False, True])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_does_not_push_the_ends_out_of_the_range(schedule, dtype):
    sixteen = 16 * np.finfo(dtype).eps
    ends = np.array(noise.ddpm_sigma_range(schedule=schedule), dtype) * np.array(
        [1 - sixteen, 1 + sixteen], dtype
    )
    np.testing.assert_allclose(noise.sigma_to_ddpm_timestep(ends, schedule=schedule), [0, 999], atol=1e-9)
    ends = np.array([-sixteen, 999 * (1 + sixteen / 4)], dtype)
    expected = noise.ddpm_sigma_range(schedule=schedule)
    np.testing.assert_allclose(
        noise.ddpm_timestep_to_sigma(ends, schedule=schedule), expected, rtol=32 * sixteen
    )


def test_timestep_has_the_derivative_of_the_interpolation():
    sigmas = written_out_schedule("linear", 1000)
    middle = math.sqrt(sigmas[400] * sigmas[401])
    slope = jax.jit(jax.grad(noise.sigma_to_ddpm_timestep))(middle)
    assert float(slope) == pytest.approx(1 / (middle * math.log(sigmas[401] / sigmas[400])), rel=1e-6)


# Grids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_grids_meet_their_ends_exactly_and_fall_strictly(dtype):
    high, low = np.asarray(81.3, dtype), np.asarray(0.0021, dtype)
    cases = [(grid, num) for grid in (noise.geometric_sigmas, noise.karras_sigmas) for num in (1, 2, 37)]
    found = jax.jit(lambda high, low: [grid(high, low, num) for grid, num in cases])(high, low)
    for (_, num_steps), sigmas in zip(cases, map(np.asarray, found), strict=True):
        assert sigmas.shape == (num_steps + 1,) and sigmas.dtype == dtype
        assert sigmas[0] == high and sigmas[-1] == low
        check_sigmas("sigmas", sigmas)


def test_geometric_grid_has_equal_steps_of_log_noise():
    sigmas = np.asarray(noise.geometric_sigmas(80.0, 0.01, 25))
    np.testing.assert_allclose(np.diff(np.log(sigmas)), math.log(0.01 / 80) / 25, rtol=1e-12)


def test_karras_grid_is_equation_5_of_the_paper():
    num_levels, rho = 18, 7
    paper = [
        (80 ** (1 / rho) + i / (num_levels - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
        for i in range(num_levels)
    ]
    np.testing.assert_allclose(noise.karras_sigmas(80.0, 0.002, num_levels - 1), paper, rtol=1e-12)


def test_karras_grid_runs_from_uniform_to_geometric_with_first_order_in_one_over_rho():
    first, *others = (np.asarray(noise.karras_sigmas(9.0, 1.0, 8, rho=rho)) for rho in (1.0, 100.0, 200.0))
    np.testing.assert_allclose(first, np.arange(9.0, 0.0, -1.0), rtol=1e-13)
    limit = 9.0 ** (1 - np.arange(9) / 8)
    errors = [np.abs(one - limit).max() for one in others]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("grid", [noise.geometric_sigmas, noise.karras_sigmas])
def test_grids_can_be_differentiated_mapped_and_compiled(grid):
    def of(high):
        return grid(high, 0.1, 6)

    h = 1e-5
    together, slopes = jax.jit(lambda highs: (jax.vmap(of)(highs), jax.jacfwd(of)(highs[1])))(
        np.array([2.0, 5.0])
    )
    after, before = (np.asarray(of(5.0 + step)) for step in (h, -h))
    np.testing.assert_allclose(slopes, (after - before) / (2 * h), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(np.asarray(together)[1], of(5.0), rtol=1e-13)
    assert jax.eval_shape(lambda: grid(5.0, 0.1, 6, dtype=jnp.float32)).dtype == jnp.float32
    np.testing.assert_allclose(grid(5, 1, 6), grid(5.0, 1.0, 6), rtol=1e-14)  # integers are numbers, too


# Frames and printing -------------------------------------------------------------------------------------


def test_frame_correction_is_the_growth_of_the_amplitude_itself():
    """y = alpha x grows by d ln alpha/d tau more than x, tau = -ln sigma."""
    log_alpha = lambda tau: jnp.log(noise.sigma_to_alpha_bar(jnp.exp(-tau))) / 2  # noqa: E731
    slope = jax.jit(jax.grad(log_alpha))
    for sigma in (0.1, 1.0, 7.0):
        expected = slope(-math.log(sigma))
        assert float(noise.frame_correction(sigma, "vp")) == pytest.approx(float(expected), rel=1e-12)
        assert float(noise.frame_correction(sigma, "ve")) == 0.0
    assert jax.eval_shape(lambda: noise.frame_correction(np.ones((2, 3), np.float32), "ve")).shape == (2, 3)


@pytest.mark.parametrize(("c", "eta", "critical"), [(1.0, 1.0, math.sqrt(2)), (81.0, 1.0, 161.006)])
def test_frame_correction_moves_the_critical_noise_to_the_published_values(c, eta, critical):
    """THEORY section 1: Dhat = c/sigma^2 in the variance-preserving frame."""
    rate = (1 + eta) * (c / critical - 1) + float(noise.frame_correction(math.sqrt(critical), "vp"))
    assert abs(float(rate)) < 1e-5


def test_description_lists_the_smooth_units_as_python_numbers():
    described = noise.describe_noise(jnp.float32(2.0))
    assert list(described) == ["sigma", "t_ou", "alpha_bar", "log_snr"]
    assert all(type(value) is float for value in described.values())
    expected = [2.0, math.log(5) / 2, 0.2, -2 * math.log(2)]
    np.testing.assert_allclose(list(described.values()), expected, rtol=1e-6)
    assert str(noise.describe_noise(1.0)["log_snr"]) == "0.0"  # no minus sign


#: From images in [-1, 1] at the end of any ladder to pictures in 0..255 at its start.
WIDE = [1e-6, 1e-4, 0.002, 0.1, 1.0, 80.0, 1e3]


@pytest.mark.parametrize("unit", UNITS)
def test_python_numbers_are_converted_in_double_precision_whatever_jax_has_on(unit):
    forward, backward, tolerance = UNITS[unit]
    with jax.enable_x64(False):
        for sigma in WIDE:
            there = forward(sigma)
            assert type(there) is float
            expected = DEFINITIONS[unit](np.longdouble(sigma))
            assert there == pytest.approx(float(expected), rel=1e-15)
            assert backward(there) == pytest.approx(sigma, rel=tolerance(sigma) * 2.3e-16)
            assert backward(there) == pytest.approx(sigma, rel=noise._units.EDGE_TOLERANCE)
        assert type(noise.ddpm_timestep_to_sigma(500)) is float


@pytest.mark.parametrize("dtype", [np.float32, np.float64, None])
def test_pure_noise_is_a_level_in_every_unit(dtype):
    infinite = math.inf if dtype is None else np.asarray(np.inf, dtype)
    at_infinity = {"t_ou": np.inf, "alpha_bar": 0.0, "log_snr": -np.inf, "rectified flow": 1.0}
    for unit, (forward, backward, _) in UNITS.items():
        assert float(forward(infinite)) == at_infinity[unit]
        assert float(backward(forward(infinite))) == np.inf
    assert float(noise.frame_correction(infinite, "vp")) == 1.0
    assert noise.describe_noise(infinite)["alpha_bar"] == 0.0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    sigma = jnp.asarray([0.01, 0.5, 3.0, 100.0], dtype)
    wide = np.asarray(sigma, np.float32)
    for forward, backward, _ in UNITS.values():
        found = forward(sigma)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.asarray(forward(wide)).astype(dtype))
        assert np.all(np.isfinite(np.asarray(backward(jnp.asarray(0.25, dtype)), np.float32)))
    # 1040 is a number of bfloat16, and no timestep of a schedule of a thousand.
    assert np.isnan(float(noise.ddpm_timestep_to_sigma(jnp.asarray(1040, dtype))))
    half = noise.ddpm_timestep_to_sigma(jnp.asarray(500, dtype))
    assert half.dtype == dtype and float(half) == pytest.approx(3.44, rel=0.01)


def test_integers_and_foreign_byte_orders_are_numbers():
    for values in (np.array([1, 3]), np.array([1.0, 3.0], ">f4"), [1, 3], np.array([1, 3], np.int64)):
        found = inspect.unwrap(noise.sigma_to_rectified_flow_time)(values)
        np.testing.assert_allclose(found, [0.5, 0.75], rtol=1e-6)
    assert noise.sigma_to_rectified_flow_time(2**40) == pytest.approx(1, rel=1e-12)
    large = inspect.unwrap(noise.sigma_to_log_snr)(np.array([2**40]))
    np.testing.assert_allclose(large, -80 * math.log(2), rtol=1e-6)


# Messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [noise.geometric_sigmas, noise.karras_sigmas])
def test_bad_grids_are_named(grid):
    for num_steps in (0, -3):
        with pytest.raises(ValueError, match=f"num_steps: expected an integer >= 1, got {num_steps}"):
            grid(1.0, 0.1, num_steps)
    for num_steps in (2.5, True):
        with pytest.raises(ValueError, match=f"num_steps: expected an integer >= 1, got {num_steps}"):
            inspect.unwrap(grid)(1.0, 0.1, num_steps)
    for high in (0.1, 0.05):
        with pytest.raises(
            ValueError, match=rf"sigma_max: expected a noise level above sigma_min = 0\.1, got {high}"
        ):
            grid(high, 0.1, 4)
    for low in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"sigma_min: expected a noise level > 0, got {low}"):
            grid(1.0, low, 4)
    for high in (math.inf, math.nan):
        with pytest.raises(ValueError, match=f"sigma_max: expected a finite noise level, got {high}"):
            grid(high, 0.1, 4)
    with pytest.raises(ValueError, match=r"sigma_max: expected a scalar, got shape \(2,\)"):
        inspect.unwrap(grid)(np.ones(2), 0.1, 4)


@pytest.mark.parametrize("grid", [noise.geometric_sigmas, noise.karras_sigmas])
def test_levels_that_rounding_does_not_leave_apart_are_refused(grid):
    with pytest.raises(ValueError, match="num_steps: expected levels that rounding leaves apart, got equal"):
        grid(1.0001, 1.0, 100_000, dtype=jnp.float32)
    with pytest.raises(ValueError, match="num_steps: expected an integer <= 10000000, got about 2"):
        grid(1.0, 0.1, 10**30)
    with pytest.raises(ValueError, match="sigma_max: expected a noise level, got 'high'"):
        inspect.unwrap(grid)("high", 0.1, 3)


def test_bad_exponent_is_named():
    for bad in ("seven", math.inf, math.nan, None):
        with pytest.raises(ValueError, match="rho: expected an exponent > 0"):
            inspect.unwrap(noise.karras_sigmas)(1.0, 0.1, 4, rho=bad)
    with pytest.raises(ValueError, match=r"rho: expected an exponent > 0, got 0\.0"):
        noise.karras_sigmas(1.0, 0.1, 4, rho=0.0)


OUTSIDE = [
    (noise.sigma_to_t_ou, -1.0, r"sigma: expected noise standard deviations >= 0, got \[-1\.\]"),
    (noise.sigma_to_alpha_bar, math.nan, r"sigma: expected noise standard deviations >= 0, got \[nan\]"),
    (
        noise.sigma_to_log_snr,
        [1.0, -2.0],
        r"sigma: expected noise standard deviations >= 0, got \[-2\.\]",
    ),
    (noise.sigma_to_rectified_flow_time, -1.0, "sigma: expected noise standard deviations >= 0"),
    (noise.sigma_to_ddpm_timestep, -1.0, "sigma: expected noise standard deviations >= 0"),
    (noise.t_ou_to_sigma, -0.1, r"t_ou: expected times >= 0, got \[-0\.1\]"),
    (noise.alpha_bar_to_sigma, 1.5, r"alpha_bar: expected values in \[0, 1\], got \[1\.5\]"),
    (noise.rectified_flow_time_to_sigma, -0.5, r"time: expected values in \[0, 1\], got \[-0\.5\]"),
    (noise.log_snr_to_sigma, math.nan, r"log_snr: expected numbers, got \[nan\]"),
    (noise.ddpm_timestep_to_sigma, math.nan, r"timestep: expected numbers, got \[nan\]"),
]


@pytest.mark.parametrize(("function", "bad", "text"), OUTSIDE)
def test_what_is_no_number_is_named(function, bad, text):
    for wrong in ("one", None, True, [None], 1j):
        with pytest.raises(ValueError, match=text.split(",")[0]):
            inspect.unwrap(function)(wrong)


@pytest.mark.parametrize(("function", "bad", "text"), OUTSIDE)
def test_values_outside_the_domain_are_named_when_they_can_be_read(function, bad, text):
    bad = np.array(bad)
    with pytest.raises(ValueError, match=text):
        function(bad)
    jax.eval_shape(function, bad)  # traced values cannot be read: no error


def test_unknown_names_are_answered_with_the_known_ones():
    for function in (noise.sigma_to_ddpm_timestep, noise.ddpm_timestep_to_sigma):
        with pytest.raises(ValueError, match="schedule: expected 'linear' or 'cosine', got 'sigmoid'"):
            function(1.0, schedule="sigmoid")
        with pytest.raises(ValueError, match="num_timesteps: expected an integer >= 2, got 1"):
            function(1.0, num_timesteps=1)
    with pytest.raises(ValueError, match="frame: expected 've' or 'vp', got 'edm'"):
        noise.frame_correction(1.0, "edm")


def test_only_one_readable_level_can_be_described():
    with pytest.raises(ValueError, match=r"sigma: expected a scalar, got shape \(2,\)"):
        inspect.unwrap(noise.describe_noise)(np.ones(2))
    with pytest.raises(ValueError, match=r"sigma: expected a concrete number, got a traced array"):
        jax.jit(lambda sigma: noise.describe_noise(sigma)["sigma"])(1.0)
    with pytest.raises(ValueError, match="sigma: expected noise standard deviations >= 0"):
        noise.describe_noise(-1.0)
