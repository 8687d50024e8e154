"""Samplers against solvable linear denoisers, exact step identities and measured orders of convergence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.banks import random_pattern_bank, two_pattern_bank
from critjax.patch_score import patch_denoiser
from critjax.sampling import langevin_step, sample, saved_levels

SHAPE = (6, 5, 1)


@functools.cache
def wiener(power):
    """Exact posterior mean of white Gaussian data: D = power/(power + sigma^2) x."""
    return lambda x, sigma: power / (power + sigma**2) * x


def constant_symbol(value):
    return lambda x, sigma: value * x


def unchanged(x, sigma):
    return x


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape or SHAPE)


@functools.cache
def patterns():
    """Return the denoiser of a few random patterns and the one of two constant ones."""
    random = random_pattern_bank(jax.random.key(2), 3, 2, dtype=np.float64)
    return patch_denoiser(random), patch_denoiser(two_pattern_bank(3, dtype=np.float64))


def test_probability_flow_converges_at_its_nominal_order():
    power, top, bottom = 0.7, 3.0, 0.2
    x = noise(1)
    exact = x * np.sqrt((power + bottom**2) / (power + top**2))  # x ~ sqrt(power + sigma^2) along the flow
    counts, orders = np.array([40, 80, 160, 320]), {"euler": 1, "heun": 2}

    @jax.jit
    def ends(x):
        def end(solver, count):
            ladder, options = np.geomspace(top, bottom, count + 1), {"x_init": x, "save_every": int(count)}
            path = sample(wiener(power), jax.random.key(0), SHAPE, ladder, solver=solver, **options)
            return path.x[-1]

        return {solver: jnp.stack([end(solver, count) for count in counts]) for solver in orders}

    for solver, found in ends(x).items():
        errors = np.max(np.abs(found - exact), axis=(1, 2, 3))
        slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
        assert abs(slope - orders[solver]) < 0.1, (slope, errors)


@functools.cache
def _ends_of_white_data(solver):
    """Jitted ``(keys, starts, eta) -> x`` at the top, the middle and the bottom of a ladder of 400 steps."""

    def ends(keys, starts, eta):
        def generate(key, start):
            options = {"eta": eta, "solver": solver, "x_init": start, "save_every": 200}
            return sample(wiener(1.5), key, (2, 2, 1), np.geomspace(4.0, 0.3, 401), **options).x

        return jax.vmap(generate)(jax.random.split(keys, len(starts)), starts)

    return jax.jit(ends)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_marginals_of_an_exact_posterior_mean_do_not_depend_on_eta(solver, eta):
    power, top, bottom, batch = 1.5, 4.0, 0.3, 4000
    starts = np.sqrt(power + top**2) * noise(9, batch, 2, 2, 1)
    x = np.asarray(_ends_of_white_data(solver)(jax.random.key(3), starts, eta)).reshape(batch, 3, -1)
    variance = np.mean(x**2, axis=(0, 2))
    expected = power + np.array([top, np.sqrt(top * bottom), bottom]) ** 2
    error = expected * np.sqrt(2 / (batch * 4))
    # The Euler step of length 1/400 per level is biased at first order: allow 3 (1 + eta) steps of relative drift.
    bias = {"euler": 3 * (1 + eta) * np.log(top / bottom) / 400, "heun": 0.003}[solver]
    np.testing.assert_array_less(np.abs(variance - expected), 4 * error + bias * expected)


def test_langevin_corrector_reaches_its_stationary_variance():
    gap, step, sigma, batch = 0.6, 0.3, 0.8, 3000
    denoise, ladder = constant_symbol(1 - gap), np.array([sigma * 1.0001, sigma])

    @jax.jit
    def ends(key):
        def generate(key):
            return sample(denoise, key, (2, 2, 1), ladder, langevin_steps=60, step_size=step).x[-1]

        return jax.vmap(generate)(jax.random.split(key, batch))

    x = np.asarray(ends(jax.random.key(5)))
    expected = sigma**2 / (gap * (1 - step * gap / 2))
    assert abs(np.mean(x**2) - expected) < 4 * expected * np.sqrt(2 / x.size)


def test_langevin_step_is_the_stated_formula():
    denoise, x, sigma, e = patterns()[0], noise(6), 0.9, 0.2
    found = langevin_step(denoise, jax.random.key(1), x, sigma, e)
    kick = langevin_step(unchanged, jax.random.key(1), x, sigma, e) - x  # what is left without drift
    assert abs(np.mean(kick**2) / (2 * e * sigma**2) - 1) < 4 * np.sqrt(2 / kick.size)
    np.testing.assert_allclose(found, x + e * (denoise(x, sigma) - x) + kick, atol=1e-14)
    single = langevin_step(denoise, jax.random.key(1), np.float32(x), np.float64(sigma), np.float64(e))
    assert single.dtype == np.float32


def _step(denoise, solver, x, high, low, eta=0.0):
    ladder = np.array([high, low])
    path = sample(denoise, jax.random.key(0), SHAPE, ladder, eta=eta, solver=solver, x_init=x)
    return np.asarray(path.x[-1])


def test_euler_step_is_the_stated_formula_and_heun_averages_the_drift():
    denoise, x = patterns()[0], 2 * noise(4)
    high, low = 2.0, 1.4
    step = 1 - low / high
    np.testing.assert_allclose(
        _step(denoise, "euler", x, high, low), x + step * (denoise(x, high) - x), atol=1e-14
    )
    slope = (x - np.asarray(denoise(x, high))) / high
    guess = x + (low - high) * slope
    slope_end = (guess - np.asarray(denoise(guess, low))) / low
    np.testing.assert_allclose(
        _step(denoise, "heun", x, high, low), x + (low - high) * (slope + slope_end) / 2, atol=1e-14
    )


def test_heun_step_adds_the_same_kick_to_predictor_and_result():
    """The kick of a key is what it does without drift, D(x) = x: the same for every denoiser and both solvers."""
    denoise, x = patterns()[0], 2 * noise(4)
    high, low, eta = 2.0, 1.4, 0.8
    kick = _step(unchanged, "heun", x, high, low, eta) - x
    np.testing.assert_allclose(_step(unchanged, "euler", x, high, low, eta) - x, kick, atol=1e-14)
    assert abs(np.mean(kick**2) / (eta * (high**2 - low**2)) - 1) < 4 * np.sqrt(2 / kick.size)
    slope = (1 + eta) * (np.asarray(denoise(x, high)) - x) / high
    guess = x + (high - low) * slope + kick
    np.testing.assert_allclose(_step(denoise, "euler", x, high, low, eta), guess, atol=1e-14)
    slope_end = (1 + eta) * (np.asarray(denoise(guess, low)) - guess) / low
    np.testing.assert_allclose(
        _step(denoise, "heun", x, high, low, eta),
        x + (high - low) * (slope + slope_end) / 2 + kick,
        atol=1e-14,
    )


def test_structure_factor_identity_of_one_euler_step_holds_to_round_off():
    """S' = (1-h)^2 S + 2 h (1-h) Re<conj(x_k) D_k>/N + h^2 <|D_k|^2>/N for every mode, eta = 0."""
    denoise, sigmas = patterns()[1], np.geomspace(6.0, 1.0, 6)

    @jax.jit
    def run(key):
        keys = jax.random.split(key, 7)
        return jax.vmap(lambda k: sample(denoise, k, (8, 6, 1), sigmas, solver="euler"))(keys)

    path = jax.tree.map(np.asarray, run(jax.random.key(8)))
    x, d = np.fft.fft2(path.x[..., 0]), np.fft.fft2(path.denoised[..., 0])
    size, h = 48, (1 - sigmas[1:] / sigmas[:-1])[:, None, None]
    power = np.mean(np.abs(x) ** 2, 0) / size
    cross = np.mean(np.conj(x) * d, 0).real / size
    power_d = np.mean(np.abs(d) ** 2, 0) / size
    predicted = (1 - h) ** 2 * power[:-1] + 2 * h * (1 - h) * cross[:-1] + h**2 * power_d[:-1]
    np.testing.assert_allclose(power[1:], predicted, rtol=1e-12, atol=1e-14)


def test_saved_levels_are_points_of_the_full_path():
    denoise, sigmas = patterns()[1], np.geomspace(5.0, 0.5, 8)
    full = sample(denoise, jax.random.key(0), SHAPE, sigmas, eta=0.7)
    some = sample(denoise, jax.random.key(0), SHAPE, sigmas, eta=0.7, save_every=3)
    assert saved_levels(7, 3) == [0, 3, 6, 7]
    for name in ("sigma", "x", "denoised"):
        np.testing.assert_allclose(
            getattr(some, name), np.asarray(getattr(full, name))[[0, 3, 6, 7]], atol=1e-13
        )


@pytest.mark.parametrize("solver", ["heun", "euler"])
def test_a_run_goes_on_from_a_saved_state_with_the_noise_of_the_whole(solver):
    denoise, sigmas = patterns()[1], np.geomspace(5.0, 0.5, 7)
    settings = {"eta": 0.7, "solver": solver, "langevin_steps": 1}

    @jax.jit
    def whole(key):
        keys = jax.random.split(key, 2)
        return keys, jax.vmap(lambda key: sample(denoise, key, SHAPE, sigmas, **settings))(keys)

    def go_on(step, keys, states):
        def one(key, state):
            return sample(denoise, key, SHAPE, sigmas, x_init=state, first_step=step, **settings)

        return jax.vmap(one)(keys, states)

    keys, full = whole(jax.random.key(0))
    x, denoised, traced = np.asarray(full.x), np.asarray(full.denoised), jax.jit(go_on)
    for step in (0, 3, 6):
        for run in (go_on, traced):  # known while tracing, and not
            rest = jax.tree.map(np.asarray, run(step, keys, x[:, step]))
            np.testing.assert_allclose(rest.x[:, step:], x[:, step:], atol=1e-12)
            np.testing.assert_allclose(rest.denoised[:, step:], denoised[:, step:], atol=1e-12)
            np.testing.assert_array_equal(rest.x[:, :step], np.repeat(x[:, step][:, None], step, axis=1))
            assert np.all(np.isnan(rest.denoised[:, :step]))


def test_a_draw_depends_on_its_own_key_only():
    denoise, sigmas = patterns()[1], np.geomspace(5.0, 0.5, 7)

    def run(key):
        return sample(denoise, key, SHAPE, sigmas, eta=1.0, langevin_steps=2).x

    @jax.jit
    def all_and_last(key):
        keys = jax.random.split(key, 3)
        return jax.vmap(run)(keys), run(keys[2]), run(keys[0])

    batch, last, first = all_and_last(jax.random.key(1))
    np.testing.assert_allclose(batch[2], last, atol=1e-12)
    np.testing.assert_allclose(batch[0], first, atol=1e-12)
    assert float(np.max(np.abs(np.asarray(batch)[0] - np.asarray(batch)[1]))) > 0.1


def test_derivative_through_the_sampler_equals_finite_differences():
    sigmas = np.geomspace(4.0, 0.8, 7)
    bank = random_pattern_bank(jax.random.key(0), 3, 2, dtype=np.float64)
    start, direction = 4 * noise(2), noise(3, *bank.patches.shape)

    @jax.jit
    @jax.value_and_grad
    def response(shift):
        denoise = patch_denoiser(bank.replace(patches=bank.patches + shift * direction))
        path = sample(denoise, jax.random.key(1), SHAPE, sigmas, eta=0.5, x_init=start)
        return jnp.sum(path.x[-1] ** 3)

    step = 1e-5
    numeric = (float(response(step)[0]) - float(response(-step)[0])) / (2 * step)
    np.testing.assert_allclose(response(0.0)[1], numeric, rtol=1e-6)


def test_float32_stays_finite_over_six_decades_of_noise_and_ends_on_patterns():
    denoise = patch_denoiser(two_pattern_bank(5, dtype=np.float32))
    sigmas = np.geomspace(1e3, 1e-3, 81).astype(np.float32)
    sigmas[-1] = 1e-3
    for eta in (0.0, 1.0):
        path = jax.tree.map(np.asarray, sample(denoise, jax.random.key(0), (8, 8, 1), sigmas, eta=eta))
        assert path.x.dtype == np.float32
        assert np.all(np.isfinite(path.x))
        # At the end the image is pattern plus noise of size sigma_min: every pixel lies near +1 or -1 where D is.
        np.testing.assert_allclose(np.abs(path.denoised[-1]), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sigmas": np.array([1.0, 2.0])}, "strictly decreasing"),
        ({"sigmas": np.array([1.0, 0.0])}, "positive"),
        ({"sigmas": np.array([1.0])}, "at least 2"),
        ({"eta": -0.1}, "eta: expected a finite number >= 0"),
        ({"solver": "rk4"}, "solver: expected 'heun' or 'euler'"),
        ({"langevin_steps": -1}, "langevin_steps"),
        ({"step_size": 3.0}, r"step_size: expected a number in \(0, 2\), got 3.0"),
        ({"step_size": 0}, "step_size: expected a number"),
        ({"langevin_steps": True}, "langevin_steps: expected an integer >= 0, got True"),
        ({"save_every": 0}, "save_every"),
        ({"x_init": np.zeros((3, 3, 1))}, "x_init: expected shape"),
        ({"x_init": np.full(SHAPE, np.nan)}, "x_init: expected finite values"),
        ({"x_init": np.zeros(SHAPE), "first_step": 2}, "first_step: expected an integer from 0 to 1"),
        ({"x_init": np.zeros(SHAPE), "first_step": 0.5}, "first_step: expected an integer"),
        ({"first_step": 1}, "first_step: expected 0 without x_init"),
    ],
)
def test_bad_input_is_named(change, match):
    settings = {"sigmas": np.array([2.0, 1.0])} | change
    sigmas = settings.pop("sigmas")
    with pytest.raises(ValueError, match=match):
        sample(wiener(1.0), jax.random.key(0), SHAPE, sigmas, **settings)


def test_integer_noise_levels_are_converted_and_integer_images_refused():
    def run(sigmas):
        return sample(wiener(1.0), jax.random.key(0), SHAPE, sigmas).x

    expected = run(np.array([4.0, 2.0, 1.0]))
    for sigmas in (np.array([4, 2, 1]), jax.device_put(np.array([4, 2, 1])), [4, 2, 1]):
        np.testing.assert_array_equal(run(sigmas), expected)
    with pytest.raises(TypeError, match="x_init: expected a floating-point array, got dtype int64"):
        sample(wiener(1.0), jax.random.key(0), SHAPE, np.array([2.0, 1.0]), x_init=np.zeros(SHAPE, int))
