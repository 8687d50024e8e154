"""Samplers against solvable linear denoisers, exact step identities and measured orders of convergence."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.banks import random_pattern_bank, two_pattern_bank
from critjax.noise import geometric_sigmas
from critjax.patch_score import patch_denoiser
from critjax.sampling import sample, saved_levels

SHAPE = (6, 5, 1)


def wiener(power):
    """Exact posterior mean of white Gaussian data: D = power/(power + sigma^2) x."""
    return lambda x, sigma: power / (power + sigma**2) * x


def constant_symbol(value):
    return lambda x, sigma: value * x


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_probability_flow_converges_at_its_nominal_order(solver, order):
    power, top, bottom = 0.7, 3.0, 0.2
    x = jax.random.normal(jax.random.key(1), SHAPE, jnp.float64)
    exact = x * np.sqrt((power + bottom**2) / (power + top**2))  # x ~ sqrt(power + sigma^2) along the flow
    counts = np.array([40, 80, 160, 320])
    errors = []
    for count in counts:
        path = sample(
            wiener(power),
            jax.random.key(0),
            SHAPE,
            geometric_sigmas(top, bottom, int(count)).astype(jnp.float64),
            solver=solver,
            x_init=x,
            save_every=int(count),
        )
        errors.append(float(jnp.max(jnp.abs(path.x[-1] - exact))))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.1, (slope, errors)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_marginals_of_an_exact_posterior_mean_do_not_depend_on_eta(solver, eta):
    power, top, bottom, batch = 1.5, 4.0, 0.3, 4000
    sigmas = geometric_sigmas(top, bottom, 400).astype(jnp.float64)
    keys = jax.random.split(jax.random.key(3), batch)

    def generate(key):
        start = np.sqrt(power + top**2) * jax.random.normal(
            jax.random.fold_in(key, 9), (2, 2, 1), jnp.float64
        )
        path = sample(
            wiener(power), key, (2, 2, 1), sigmas, eta=eta, solver=solver, x_init=start, save_every=200
        )
        return path.x

    x = np.asarray(jax.jit(jax.vmap(generate))(keys)).reshape(batch, 3, -1)
    variance = np.mean(x**2, axis=(0, 2))
    expected = power + np.array([top, np.sqrt(top * bottom), bottom]) ** 2
    error = expected * np.sqrt(2 / (batch * 4))
    # The Euler step of length 1/400 per level is biased at first order: allow 3 (1 + eta) steps of relative drift.
    bias = {"euler": 3 * (1 + eta) * np.log(top / bottom) / 400, "heun": 0.003}[solver]
    np.testing.assert_array_less(np.abs(variance - expected), 4 * error + bias * expected)


def test_langevin_corrector_reaches_its_stationary_variance():
    gap, step, sigma, batch = 0.6, 0.3, 0.8, 3000
    sigmas = jnp.array([sigma * 1.0001, sigma])
    keys = jax.random.split(jax.random.key(5), batch)

    def generate(key):
        return sample(
            constant_symbol(1 - gap), key, (2, 2, 1), sigmas, langevin_steps=60, langevin_step_size=step
        ).x[-1]

    x = np.asarray(jax.jit(jax.vmap(generate))(keys))
    expected = sigma**2 / (gap * (1 - step * gap / 2))
    assert abs(np.mean(x**2) - expected) < 4 * expected * np.sqrt(2 / x.size)


def test_euler_step_is_the_stated_formula_and_heun_averages_the_drift():
    bank = random_pattern_bank(jax.random.key(2), 3, 2, dtype=jnp.float64)
    denoise = patch_denoiser(bank)
    x = 2 * jax.random.normal(jax.random.key(4), SHAPE, jnp.float64)
    high, low = 2.0, 1.4
    ladder = jnp.array([high, low], jnp.float64)
    euler = sample(denoise, jax.random.key(0), SHAPE, ladder, solver="euler", x_init=x).x[-1]
    step = 1 - low / high
    np.testing.assert_allclose(euler, x + step * (denoise(x, high) - x), atol=1e-14)
    slope = (x - denoise(x, high)) / high
    guess = x + (low - high) * slope
    slope_end = (guess - denoise(guess, low)) / low
    heun = sample(denoise, jax.random.key(0), SHAPE, ladder, x_init=x).x[-1]
    np.testing.assert_allclose(heun, x + (low - high) * (slope + slope_end) / 2, atol=1e-14)


def test_heun_step_adds_the_same_kick_to_predictor_and_result():
    """The kick of a key is what it does without drift, D(x) = x: the same for every denoiser and both solvers."""
    denoise = patch_denoiser(random_pattern_bank(jax.random.key(2), 3, 2, dtype=jnp.float64))
    x = 2 * jax.random.normal(jax.random.key(4), SHAPE, jnp.float64)
    high, low, eta = 2.0, 1.4, 0.8

    def step(denoise_fn, solver):
        ladder = jnp.array([high, low], jnp.float64)
        path = sample(denoise_fn, jax.random.key(0), SHAPE, ladder, eta=eta, solver=solver, x_init=x)
        return np.asarray(path.x[-1])

    kick = step(lambda x, sigma: x, "heun") - x
    np.testing.assert_allclose(step(lambda x, sigma: x, "euler") - x, kick, atol=1e-14)
    assert abs(np.mean(kick**2) / (eta * (high**2 - low**2)) - 1) < 4 * np.sqrt(2 / kick.size)
    slope = (1 + eta) * (denoise(x, high) - x) / high
    guess = x + (high - low) * slope + kick
    np.testing.assert_allclose(step(denoise, "euler"), guess, atol=1e-14)
    slope_end = (1 + eta) * (denoise(guess, low) - guess) / low
    np.testing.assert_allclose(
        step(denoise, "heun"), x + (high - low) * (slope + slope_end) / 2 + kick, atol=1e-14
    )


def test_structure_factor_identity_of_one_euler_step_holds_to_round_off():
    """S' = (1-h)^2 S + 2 h (1-h) Re<conj(x_k) D_k>/N + h^2 <|D_k|^2>/N for every mode, eta = 0."""
    denoise = patch_denoiser(two_pattern_bank(3, dtype=jnp.float64))
    sigmas = geometric_sigmas(6.0, 1.0, 5).astype(jnp.float64)
    keys = jax.random.split(jax.random.key(8), 7)
    path = jax.vmap(lambda k: sample(denoise, k, (8, 6, 1), sigmas, solver="euler"))(keys)
    x, d = np.fft.fft2(path.x[..., 0]), np.fft.fft2(path.denoised[..., 0])
    size, h = 48, (1 - sigmas[1:] / sigmas[:-1])[:, None, None]
    power = np.mean(np.abs(x) ** 2, 0) / size
    cross = np.mean(np.conj(x) * d, 0).real / size
    power_d = np.mean(np.abs(d) ** 2, 0) / size
    predicted = (1 - h) ** 2 * power[:-1] + 2 * h * (1 - h) * cross[:-1] + h**2 * power_d[:-1]
    np.testing.assert_allclose(power[1:], predicted, rtol=1e-12, atol=1e-14)


def test_saved_levels_are_points_of_the_full_path():
    denoise = patch_denoiser(two_pattern_bank(3, dtype=jnp.float64))
    sigmas = geometric_sigmas(5.0, 0.5, 7).astype(jnp.float64)
    full = sample(denoise, jax.random.key(0), SHAPE, sigmas, eta=0.7)
    some = sample(denoise, jax.random.key(0), SHAPE, sigmas, eta=0.7, save_every=3)
    assert saved_levels(7, 3) == [0, 3, 6, 7]
    for name in ("sigma", "x", "denoised"):
        np.testing.assert_allclose(
            getattr(some, name), getattr(full, name)[jnp.array([0, 3, 6, 7])], atol=1e-13
        )


@pytest.mark.parametrize("solver", ["heun", "euler"])
def test_a_run_goes_on_from_a_saved_state_with_the_noise_of_the_whole(solver):
    denoise = patch_denoiser(two_pattern_bank(3, dtype=jnp.float64))
    sigmas = geometric_sigmas(5.0, 0.5, 6).astype(jnp.float64)
    settings = {"eta": 0.7, "solver": solver, "langevin_steps": 1}
    keys = jax.random.split(jax.random.key(0), 2)
    full = jax.vmap(lambda key: sample(denoise, key, SHAPE, sigmas, **settings))(keys)

    def go_on(step):
        def one(key, state):
            return sample(denoise, key, SHAPE, sigmas, x_init=state, first_step=step, **settings)

        return jax.vmap(one)(keys, full.x[:, step])

    for step in (0, 3, 6):
        for rest in (go_on(step), jax.jit(go_on)(step)):  # known while tracing, and not
            np.testing.assert_allclose(rest.x[:, step:], full.x[:, step:], atol=1e-12)
            np.testing.assert_allclose(rest.denoised[:, step:], full.denoised[:, step:], atol=1e-12)
            np.testing.assert_array_equal(rest.x[:, :step], np.repeat(full.x[:, step][:, None], step, axis=1))
            assert np.all(np.isnan(rest.denoised[:, :step]))


def test_a_draw_depends_on_its_own_key_only():
    denoise = patch_denoiser(two_pattern_bank(3, dtype=jnp.float64))
    sigmas = geometric_sigmas(5.0, 0.5, 6).astype(jnp.float64)
    keys = jax.random.split(jax.random.key(1), 3)

    def run(key):
        return sample(denoise, key, SHAPE, sigmas, eta=1.0, langevin_steps=2).x

    batch = jax.vmap(run)(keys)
    for one, key in zip(batch, keys, strict=True):
        np.testing.assert_allclose(one, run(key), atol=1e-12)
    assert float(jnp.max(jnp.abs(batch[0] - batch[1]))) > 0.1


def test_derivative_through_the_sampler_equals_finite_differences():
    sigmas = geometric_sigmas(4.0, 0.8, 6).astype(jnp.float64)
    bank = random_pattern_bank(jax.random.key(0), 3, 2, dtype=jnp.float64)
    start = 4 * jax.random.normal(jax.random.key(2), SHAPE, jnp.float64)
    direction = jax.random.normal(jax.random.key(3), bank.patches.shape, jnp.float64)

    def response(shift):
        moved = bank.replace(patches=bank.patches + shift * direction)
        return jnp.sum(
            sample(patch_denoiser(moved), jax.random.key(1), SHAPE, sigmas, eta=0.5, x_init=start).x[-1] ** 3
        )

    slope = jax.grad(response)(jnp.float64(0.0))
    step = 1e-5
    numeric = (response(step) - response(-step)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_float32_stays_finite_over_six_decades_of_noise_and_ends_on_patterns(eta):
    denoise = patch_denoiser(two_pattern_bank(5, dtype=jnp.float32))
    sigmas = geometric_sigmas(1e3, 1e-3, 80).astype(jnp.float32)
    path = jax.jit(lambda k: sample(denoise, k, (8, 8, 1), sigmas, eta=eta))(jax.random.key(0))
    assert path.x.dtype == jnp.float32
    assert bool(jnp.all(jnp.isfinite(path.x)))
    # At the end the image is pattern plus noise of size sigma_min: every pixel lies near +1 or -1 where D is.
    np.testing.assert_allclose(np.abs(path.denoised[-1]), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sigmas": jnp.array([1.0, 2.0])}, "strictly decreasing"),
        ({"sigmas": jnp.array([1.0, 0.0])}, "positive"),
        ({"sigmas": jnp.array([1.0])}, "at least 2"),
        ({"eta": -0.1}, "eta: expected a finite number >= 0"),
        ({"solver": "rk4"}, "solver: expected 'heun' or 'euler'"),
        ({"langevin_steps": -1}, "langevin_steps"),
        ({"langevin_step_size": 3.0}, "langevin_step_size"),
        ({"save_every": 0}, "save_every"),
        ({"x_init": jnp.zeros((3, 3, 1))}, "x_init: expected shape"),
        ({"x_init": jnp.full(SHAPE, jnp.nan)}, "x_init: expected finite values"),
        ({"x_init": jnp.zeros(SHAPE), "first_step": 2}, "first_step: expected an integer from 0 to 1"),
        ({"x_init": jnp.zeros(SHAPE), "first_step": 0.5}, "first_step: expected an integer"),
        ({"first_step": 1}, "first_step: expected 0 without x_init"),
    ],
)
def test_bad_input_is_named(change, match):
    settings = {"sigmas": jnp.array([2.0, 1.0])} | change
    sigmas = settings.pop("sigmas")
    with pytest.raises(ValueError, match=match):
        sample(wiener(1.0), jax.random.key(0), SHAPE, sigmas, **settings)


def test_integer_noise_levels_are_converted_and_integer_images_refused():
    def run(sigmas):
        return inspect.unwrap(sample)(wiener(1.0), jax.random.key(0), SHAPE, sigmas).x

    expected = run(jnp.array([4.0, 2.0, 1.0]))
    for sigmas in (jnp.array([4, 2, 1]), np.array([4, 2, 1]), [4, 2, 1]):
        np.testing.assert_array_equal(run(sigmas), expected)
    with pytest.raises(TypeError, match="x_init: expected a floating-point array, got dtype int64"):
        sample(wiener(1.0), jax.random.key(0), SHAPE, jnp.array([2.0, 1.0]), x_init=jnp.zeros(SHAPE, int))
