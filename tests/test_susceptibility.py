"""Susceptibilities against finite differences, closed forms of Gaussian data and linear theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.banks import PatchBank, random_pattern_bank, select
from critjax.closed_form import gaussian_denoiser
from critjax.guidance import guided, linear_response, susceptibility, weights_on
from critjax.networks import NetworkConfig, init, network_denoiser
from critjax.noise import karras_sigmas
from critjax.patch_score import patch_denoiser
from critjax.sampling import sample

SHAPE = (4, 3, 1)
BANK = random_pattern_bank(jax.random.key(3), 3, 3, dtype=jnp.float64)
BANK = PatchBank(BANK.patches, labels=np.arange(len(BANK.patches)) % 3)
PLAIN, CLASSY = patch_denoiser(BANK), patch_denoiser(select(BANK, 1))


def cubed(x):
    return jnp.mean(x) + jnp.mean(x[0] ** 3)


@pytest.mark.parametrize(
    ("solver", "eta", "weights"),
    [("euler", 0.0, 0.7), ("euler", 1.0, 0.0), ("heun", 0.0, 1.0), ("heun", 1.0, 0.0)],
)
def test_labelled_bank_against_central_differences_at_every_node(solver, eta, weights):
    sigmas = jax.device_put(np.geomspace(6.0, 1.0, 8))
    key = jax.random.key(4)
    start = jax.device_put(6 * np.random.default_rng(5).normal(size=SHAPE))
    options = {"eta": eta, "solver": solver, "x_init": start}

    def run(w):
        return susceptibility(PLAIN, CLASSY, cubed, key, SHAPE, sigmas, weights=w, **options)

    result = jax.tree.map(np.asarray, run(weights))
    # Weights that are not known while tracing take both models everywhere.
    traced = jax.jit(run)(weights)
    np.testing.assert_allclose(traced.value, result.value, rtol=1e-10)
    np.testing.assert_allclose(traced.response, result.response, rtol=1e-12)

    def response(table):
        denoise = guided(PLAIN, CLASSY, weights_on(sigmas, table), skip=False)
        return cubed(sample(denoise, key, SHAPE, sigmas, **options).x[-1])

    step = 1e-4
    shifts = weights + np.concatenate([step * np.eye(8), -step * np.eye(8), np.zeros((1, 8))])
    responses = np.asarray(jax.jit(jax.vmap(response))(shifts))
    slopes = (responses[:8] - responses[8:16]) / (2 * step)
    used = slice(None) if solver == "heun" else slice(None, -1)
    assert np.all(np.abs(slopes[used]) > 1e-6)
    np.testing.assert_allclose((result.value * result.quadrature)[used], slopes[used], rtol=1e-6)
    np.testing.assert_allclose(result.response, responses[16], rtol=1e-12)
    np.testing.assert_array_equal(result.weights, np.full(8, weights))
    if solver == "euler":  # the sampler never asks the last level
        assert slopes[-1] == 0 and result.quadrature[-1] == 0 and np.isnan(result.value[-1])


def test_a_class_conditional_network_against_central_differences():
    config = NetworkConfig(width=4, num_classes=2, dilations=(1,))
    shapes, rng = jax.eval_shape(lambda: init(config, jax.random.key(0))), np.random.default_rng(1)
    params = jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape), shapes)
    plain, classy = network_denoiser(config, params), network_denoiser(config, params, 1)
    sigmas, size = jax.device_put(np.geomspace(6.0, 0.5, 5)), (4, 4, 1)
    start = jax.device_put(6 * np.random.default_rng(5).normal(size=size))
    result = susceptibility(plain, classy, cubed, jax.random.key(4), size, sigmas, weights=0.3, x_init=start)
    result = jax.tree.map(np.asarray, result)

    @jax.jit
    def response(table):
        denoise = guided(plain, classy, weights_on(sigmas, table), skip=False)
        return cubed(sample(denoise, jax.random.key(4), size, sigmas, x_init=start).x[-1])

    step = 1e-5
    ends = [[float(response(0.3 + sign * step * e)) for e in np.eye(5)] for sign in (1, -1)]
    slopes = np.subtract(*ends) / (2 * step)
    assert np.all(np.abs(slopes) > 1e-7)
    np.testing.assert_allclose(result.value * result.quadrature, slopes, rtol=1e-3)


def gaussian_pair(variance, mean_c):
    spectrum, zero = np.full(SHAPE[:2], variance), np.zeros(SHAPE)
    return gaussian_denoiser(zero, spectrum), gaussian_denoiser(zero + mean_c, spectrum)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_gaussian_data_against_the_product_of_step_factors(solver, eta):
    variance, shift = 0.6, 1.7
    sigmas = np.asarray(karras_sigmas(7.0, 0.2, 9, dtype=np.float64))
    pair = gaussian_pair(variance, shift)
    got = susceptibility(
        *pair, jnp.mean, jax.random.key(0), SHAPE, sigmas, weights=0.4, eta=eta, solver=solver
    )
    got = jax.tree.map(np.asarray, got)
    gap = sigmas**2 / (sigmas**2 + variance)
    # The mean pixel obeys m' = a m + (terms b w_n + c w_{n+1}) in each step, whatever the noise is.
    num = len(sigmas) - 1
    rate = -(1 + eta) * gap / sigmas  # per unit of decreasing sigma, for m
    push = (1 + eta) * gap * shift / sigmas  # and for w
    slopes, factor = np.zeros(num + 1), 1.0
    for n in reversed(range(num)):
        width = sigmas[n] - sigmas[n + 1]
        if solver == "euler":
            slopes[n] += factor * width * push[n]
            factor *= 1 + width * rate[n]
        else:
            slopes[n + 1] += factor * width / 2 * push[n + 1]
            slopes[n] += factor * width / 2 * (push[n] + rate[n + 1] * width * push[n])
            factor *= 1 + width / 2 * (rate[n] + rate[n + 1] * (1 + width * rate[n]))
    used = slice(None) if solver == "heun" else slice(None, -1)
    np.testing.assert_allclose((got.value * got.quadrature)[used], slopes[used], rtol=1e-10)


def test_fine_steps_reach_linear_theory_which_peaks_at_twice_the_variance():
    variance, shift = 0.6, 1.7
    pair = gaussian_pair(variance, shift)
    errors = []
    for count in (60, 120):
        sigmas = np.geomspace(40.0, 1e-3, count + 1)
        got = susceptibility(*pair, jnp.mean, jax.random.key(0), SHAPE, sigmas)
        u = sigmas**2 / variance
        exact = shift * u / (1 + u) ** 1.5
        got = jax.tree.map(np.asarray, got)
        errors.append(np.abs(got.value - exact)[1:-1].max())
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.25, errors
    sigmas = np.geomspace(40.0, 1e-3, 2001)
    u = sigmas**2 / variance
    gap = u / (1 + u)
    theory = np.asarray(linear_response(1 - gap, shift * gap, sigmas))
    np.testing.assert_allclose(theory, shift * u / (1 + u) ** 1.5, rtol=1e-4)
    step = sigmas[0] / sigmas[1]
    assert 1 / step < sigmas[np.argmax(theory)] / np.sqrt(2 * variance) < step


def test_linear_response_of_travelling_modes_and_its_order():
    sigmas = np.geomspace(5.0, 0.5, 21)
    tau = -np.log(sigmas)
    values = np.array([0.4 + 0.3j, 1.2 - 0.5j])
    for eta in (0.0, 0.8):
        got = linear_response(np.tile(values, (21, 1)), np.full((21, 2), 2.0 + 1j), sigmas, eta=eta)
        growth = np.exp((1 + eta) * (values - 1) * (tau[-1] - tau)[:, None])
        np.testing.assert_allclose(got, (1 + eta) * (2 + 1j) * growth, rtol=1e-12)
    # lambda = c/sigma^2 integrates to (c/2)(1/sigma_end^2 - 1/sigma^2) - ln(sigma/sigma_end).
    errors = []
    for count in (100, 200):
        s = np.geomspace(5.0, 0.5, count + 1)
        exact = np.exp(0.3 / 2 * (4.0 - s**-2) - np.log(s / 0.5))
        errors.append(np.abs(linear_response(0.3 / s**2, np.ones(count + 1), s) / exact - 1).max())
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.05, errors


def test_a_batch_of_keys_is_a_loop():
    sigmas, pair = np.geomspace(6.0, 0.5, 6), gaussian_pair(0.5, 1.0)

    def run(key):
        return susceptibility(*pair, cubed, key, SHAPE, sigmas, eta=0.5).value

    @jax.jit
    def both(key):
        keys = jax.random.split(key, 3)
        return jax.vmap(run)(keys), jax.lax.map(run, keys)

    batch, loop = map(np.asarray, both(jax.random.key(0)))
    np.testing.assert_allclose(batch, loop, rtol=1e-10)
    assert np.abs(batch[0] - batch[1]).max() > 1e-3


@pytest.mark.slow
def test_several_responses_share_a_pass():
    sigmas = np.geomspace(6.0, 0.5, 71)  # more than are saved
    responses = (cubed, jnp.mean, lambda x: x[0, 1, 0])

    def run(response_fn):
        return susceptibility(
            PLAIN, CLASSY, response_fn, jax.random.key(0), SHAPE, sigmas, weights=0.3, eta=0.5
        )

    several = jax.tree.map(np.asarray, run(lambda x: jnp.stack([f(x) for f in responses])))
    assert several.value.shape == (3, 71) and several.response.shape == (3,)
    for number, single in enumerate(map(run, responses)):
        np.testing.assert_allclose(several.response[number], single.response, rtol=1e-12)
        np.testing.assert_allclose(several.value[number], single.value, rtol=1e-10, atol=1e-12)


def test_memory_is_that_of_some_states_for_any_number_of_steps():
    shape = (24, 24, 1)

    def temporary(count):
        sigmas = np.geomspace(6.0, 0.1, count + 1)
        run = jax.jit(lambda key: susceptibility(PLAIN, CLASSY, jnp.mean, key, shape, sigmas).value)
        return run.lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary(64), temporary(256)
    assert many <= 2 * few
    # As many states, those of three more steps between two of them, with as many beside each and one that the compiler
    # may copy, and numbers by level.
    assert many - few < 8 * ((2 * 3 + 1) * 24 * 24 + 4 * (256 - 64))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["local", "unet"])
def test_memory_through_a_network_is_that_of_some_states_too(architecture):
    config = NetworkConfig(architecture, width=8, dilations=(1, 1), blocks=1, num_classes=2)
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))

    def temporary(count):
        sigmas = np.geomspace(6.0, 0.1, count + 1).astype(np.float32)

        def run(params, key):
            pair = (network_denoiser(config, params, label) for label in (None, 1))
            return susceptibility(*pair, jnp.mean, key, (16, 16, 1), sigmas).value

        return jax.jit(run).lower(shapes, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    # In a shorter run more of the buffers share memory, by an amount that is the compiler's.
    few, many = temporary(256), temporary(1024)
    # Activations are those of one step: only states grow, 16 saved and 16 of a block, and numbers by level.
    assert many - few < 4 * (2 * 16 * 16 * 16 + 4 * (1024 - 256))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weights": np.zeros(3)}, r"weights: expected a scalar or shape \(5,\)"),
        ({"response_fn": lambda x: x[0]}, "response_fn: expected a scalar or a vector"),
        ({"solver": "rk4"}, "solver: expected"),
        ({"eta": -1.0}, "eta: expected"),
        ({"sigmas": np.array([1.0, 2.0])}, "strictly decreasing"),
    ],
)
def test_bad_input_is_named(change, match):
    settings = {"sigmas": np.geomspace(4.0, 1.0, 5), "response_fn": jnp.mean} | change
    sigmas, response_fn = settings.pop("sigmas"), settings.pop("response_fn")
    with pytest.raises(ValueError, match=match):
        susceptibility(*gaussian_pair(1.0, 1.0), response_fn, jax.random.key(0), SHAPE, sigmas, **settings)


@pytest.mark.parametrize(
    ("symbol", "difference", "match"),
    [
        (np.ones(4), np.ones(4), "symbol: expected 5 levels first"),
        (np.ones((5, 2)), np.ones(5), "difference: expected 5 levels first, and equal shapes"),
    ],
)
def test_tables_that_do_not_fit_are_named(symbol, difference, match):
    with pytest.raises(ValueError, match=match):
        linear_response(symbol, difference, np.geomspace(4.0, 1.0, 5))
