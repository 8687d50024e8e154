"""Guided denoisers, budgets and windows in every unit against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.banks import PatchBank, random_pattern_bank, select
from critjax.guidance import (
    SAMPLERS,
    constant,
    describe_window,
    guidance_budget,
    guided,
    pulse,
    quadrature_weights,
    sampler_levels,
    smooth_pulse,
    weights_on,
    window_from,
    with_budget,
)
from critjax.networks import NetworkConfig, init, network_denoiser
from critjax.noise import geometric_sigmas, karras_sigmas
from critjax.patch_score import patch_denoiser
from critjax.sampling import sample

SHAPE = (6, 5, 1)
LADDERS = {
    "geometric": np.asarray(geometric_sigmas(10.0, 0.1, 12, dtype=np.float64)),
    "EDM": np.asarray(karras_sigmas(80.0, 0.02, 17, dtype=np.float64)),
}


@functools.cache
def labelled_pair(dtype=jnp.float64):
    """The denoisers of all patches and of those of one class."""
    bank = random_pattern_bank(jax.random.key(3), 3, 3, dtype=dtype)
    bank = PatchBank(bank.patches, labels=np.arange(len(bank.patches)) % 3)
    return patch_denoiser(bank), patch_denoiser(select(bank, 1))


def noisy(seed=0, dtype=jnp.float64):
    return jax.device_put((2 * np.random.default_rng(seed).normal(size=SHAPE)).astype(dtype))


def ladder(high, low, num, dtype=np.float64):
    """An array on the device, without a program."""
    return jax.device_put(np.geomspace(high, low, num).astype(dtype))


def test_windows_hold_the_same_levels_everywhere_and_after_a_round_trip():
    """Edges at levels, in float32 as in Python: what describes a window, what guides, what counts steps."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(False):
        for case in range(60):
            ends = 10.0 ** rng.uniform(1, 3), 10.0 ** rng.uniform(-6, -1)
            sigmas = np.geomspace(*ends, rng.integers(4, 60))
            low, high = sigmas[np.sort(rng.choice(len(sigmas) - 1, 2, replace=False))[::-1]]
            ladder = [sigmas, jnp.asarray(sigmas, jnp.float32)][case % 2]
            window = describe_window(float(low), float(high), sigmas=ladder)
            first, last = window["step"]
            assert sigmas[first] == high and sigmas[last + 1] == low
            for unit in ("sigma", "t_ou", "alpha_bar", "log_snr", "rectified_flow_time"):
                edges = window_from(unit, *window[unit])
                for dtype in (np.float32, np.float64):
                    held = [bool(pulse(*edges, 1.0)(level)) for level in np.asarray(sigmas, dtype)[:-1]]
                    assert np.flatnonzero(held).tolist() == list(range(first, last + 1)), (unit, low, high)
            assert window_from("step", first, last, sigmas=ladder) == pytest.approx((low, high), rel=1e-6)


def test_an_edge_that_is_no_number_is_not_dropped():
    for ends in ((1.0, np.nan), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="start, stop: expected noise standard deviations >= 0"):
            window_from("sigma", *ends)


def test_pure_noise_is_inside_of_a_window_without_end():
    window = describe_window(0.5, np.inf, sigmas=sampler_levels("rectified_flow", 4))
    assert window["step"] == (0, 2) and window["alpha_bar"] == (0.0, 0.8)
    assert float(pulse(0.5, np.inf, 2.0)(np.inf)) == 2.0
    assert window_from("alpha_bar", *window["alpha_bar"]) == pytest.approx((0.5, np.inf))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("weight", [-0.5, 0.3, 2.5])
def test_guided_denoiser_is_the_stated_mixture(weight, skip):
    plain, classy = labelled_pair()
    x = noisy()
    got = guided(
        plain, classy, pulse(1.0, 4.0, weight, baseline=0.1), skip=skip
    )  # one program for all weights
    for sigma, w in ((2.0, weight), (0.5, 0.1)):
        d_u, d_c = np.asarray(plain(x, sigma)), np.asarray(classy(x, sigma))
        assert np.abs(d_c - d_u).max() > 0.1
        np.testing.assert_allclose(got(x, sigma), d_u + w * (d_c - d_u), atol=1e-14)


def test_networks_are_guided_like_banks():
    config = NetworkConfig(width=8, dilations=(1,), num_classes=2)
    shapes, rng = jax.eval_shape(lambda: init(config, jax.random.key(0))), np.random.default_rng(1)
    params = jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape).astype(a.dtype), shapes)

    @jax.jit
    def all_three(params, x):
        plain, classy = network_denoiser(config, params), network_denoiser(config, params, 1)
        return plain(x, 0.7), classy(x, 0.7), guided(plain, classy, pulse(0.5, 1.0, 1.5))(x, 0.7)

    d_u, d_c, got = map(np.asarray, all_three(params, noisy(dtype=jnp.float32)))
    assert np.abs(d_c - d_u).max() > 0.01
    np.testing.assert_allclose(got, d_u + 1.5 * (d_c - d_u), atol=1e-5)


@pytest.mark.parametrize(
    ("skip", "dtype"), [pytest.param(True, jnp.float32, marks=pytest.mark.slow), (False, jnp.float64)]
)
def test_weights_zero_and_one_and_empty_pulses_are_the_parts_themselves_to_the_bit(skip, dtype):
    plain, classy = labelled_pair(dtype)
    sigmas = ladder(8.0, 0.2, 7, dtype)

    def run(denoise):
        return sample(denoise, jax.random.key(1), SHAPE, sigmas, eta=0.5).x

    parts = (plain, classy)
    paths = [run(part) for part in parts]
    x = noisy(dtype=dtype)
    for weight_fn, which in (
        (constant(0.0), 0),
        (constant(1), 1),
        (pulse(1.0, 1.0, 3.0), 0),
        (smooth_pulse(1.0, 0.0, 3.0), 0),
        (pulse(0.0, np.inf, 1.0), 1),
        (pulse(20.0, 30.0, 3.0, baseline=1.0), 1),
    ):
        denoise = guided(*parts, weight_fn, skip=skip)
        np.testing.assert_array_equal(denoise(x, 1.0), parts[which](x, 1.0))
        np.testing.assert_array_equal(run(denoise), paths[which])
        assert denoise(x, 1.0).dtype == dtype


def test_a_known_weight_rounds_like_the_part_in_any_program():
    """What a compiler fuses with the sampler's arithmetic may round differently: constants leave it no choice."""
    parts = (lambda x, s: x / (1 + s**2), lambda x, s: (x + s**2) / (1 + s**2))
    sigmas = ladder(8.0, 0.2, 31)

    def run(denoise):
        return sample(denoise, jax.random.key(1), SHAPE, sigmas).x

    for weight_fn, part in ((constant(0.0), 0), (constant(1.0), 1), (pulse(1.0, 1.0, 3.0), 0)):
        np.testing.assert_array_equal(run(guided(*parts, weight_fn)), run(parts[part]))


def test_a_branch_of_zero_weight_is_not_evaluated_under_vmap_over_images():
    calls = {"unconditional": 0, "conditional": 0}

    def counting(name, value):
        def denoise(x, sigma):
            def count(_):
                calls[name] += 1

            jax.debug.callback(count, jnp.sum(x))
            return value * x

        return denoise

    pair = counting("unconditional", 0.2), counting("conditional", 0.6)
    sigmas = ladder(8.0, 0.5, 5)
    denoise = guided(*pair, weights_on(sigmas, np.array([0.0, 1.0, 0.5, 0.0, 0.0])))

    @jax.jit
    def run(key):
        keys = jax.random.split(key, 3)
        return jax.vmap(lambda k: sample(denoise, k, (2, 2, 1), sigmas, solver="euler").x)(keys)

    jax.block_until_ready(run(jax.random.key(0)))
    jax.effects_barrier()
    assert calls == {"unconditional": 3 * 4, "conditional": 3 * 2}  # levels of weight not 1, and not 0


def test_a_conditional_branch_that_is_nan_outside_its_pulse_does_no_harm():
    def plain(x, sigma):
        return jnp.tanh(x / sigma)

    def classy(x, sigma):
        return jnp.tanh((x + 1) / sigma)

    def broken(x, sigma):
        return jnp.where((sigma > 0.6) & (sigma <= 3.0), classy(x, sigma), jnp.nan)

    sigmas = ladder(8.0, 0.2, 13)

    def run(conditional, skip=True):
        denoise = guided(plain, conditional, pulse(0.6, 3.0, 2.0), skip=skip)
        keys = jax.random.split(jax.random.key(2), 2)
        return jax.vmap(lambda k: sample(denoise, k, SHAPE, sigmas).x[-1])(keys)

    found = jax.jit(lambda: (run(broken), run(classy), run(broken, skip=False)))()
    np.testing.assert_allclose(found[0], found[1], atol=1e-13)
    assert np.all(np.isnan(found[2]))  # both branches are evaluated there, as documented


def test_branches_are_conditionals_of_the_compiled_program():
    parts = (lambda x, s: jnp.tanh(x), lambda x, s: jnp.sin(x))
    denoise = guided(*parts, pulse(1.0, 2.0, 0.5))
    images, levels = np.ones((4, *SHAPE)), np.ones(4)
    one_level = jax.jit(jax.vmap(denoise, in_axes=(0, None))).lower(images, 1.5).as_text()
    main, _, _ = one_level.partition("stablehlo.case")
    assert one_level.count("stablehlo.case") == 2
    assert "stablehlo.tanh" not in main and "stablehlo.sine" not in main
    # Levels that differ from image to image leave no branch to choose: the documented exception.
    assert "stablehlo.case" not in jax.jit(jax.vmap(denoise)).lower(images, levels).as_text()


def test_derivative_in_the_weight_is_the_difference_of_the_parts():
    plain, classy = labelled_pair()
    x = noisy()
    direction = np.asarray(noisy(5))

    def response(w, skip=False):
        return jnp.sum(direction * guided(plain, classy, constant(w), skip=skip)(x, 1.5))

    slopes = jax.jit(lambda weights: jax.lax.map(jax.grad(response), weights))(np.array([0.0, 1.0, 2.0]))
    expected = np.sum(direction * (np.asarray(classy(x, 1.5)) - plain(x, 1.5)))
    np.testing.assert_allclose(slopes, expected, rtol=1e-12)
    for weight in (0.0, 1.0, 2.0):
        with pytest.raises(
            TypeError, match="weight_fn: expected a weight that is not differentiated.*skip=False"
        ):
            jax.grad(response)(weight, True)


def test_skipping_leaves_derivatives_in_image_and_bank():
    sigmas = ladder(6.0, 0.5, 7)

    def response(shift, skip):
        denoise = guided(
            lambda x, s: jnp.tanh(x + shift), lambda x, s: jnp.tanh(x / s), pulse(1.0, 3.0, 0.7), skip=skip
        )
        start = noisy(1) + shift
        return jnp.sum(sample(denoise, jax.random.key(0), SHAPE, sigmas, x_init=start).x[-1] ** 2)

    @jax.jit
    def everything(shifts):
        values, slopes = jax.lax.map(lambda shift: jax.value_and_grad(response)(shift, True), shifts)
        return values, slopes, jax.grad(response)(shifts[0], False)

    values, slopes, both = everything(0.1 + 1e-5 * np.array([0, 1, -1]))
    np.testing.assert_allclose(slopes[0], (values[1] - values[2]) / 2e-5, rtol=1e-7)
    np.testing.assert_allclose(slopes[0], both, rtol=1e-12)


def test_weight_functions_are_their_formulas():
    square = pulse(1.0, 2.0, 3.0, baseline=0.5)
    assert [float(square(s)) for s in (2.01, 2.0, 1.5, 1.01, 1.0, 0.99)] == [0.5, 3.0, 3.0, 3.0, 0.5, 0.5]
    neighbour = pulse(2.0, 4.0, 3.0)
    tiles = [float(pulse(1.0, 2.0, 3.0)(s)) + float(neighbour(s)) for s in (4.0, 2.0, 1.5)]
    assert tiles == [3.0, 3.0, 3.0]
    smooth = smooth_pulse(2.0, 0.7, 3.0, baseline=0.5)
    for s in (0.3, 2.0, 9.0):
        expected = 0.5 + 2.5 * np.exp(-(np.log(s / 2.0) ** 2) / (2 * 0.49))
        np.testing.assert_allclose(smooth(s), expected, rtol=1e-12)
    low, high = map(float, smooth.edges)
    np.testing.assert_allclose([smooth(low), smooth(high)], 1.75, rtol=1e-12)
    batch = jax.jit(jax.vmap(lambda edge: pulse(edge, 4.0, 1.0)(2.0)))(np.array([1.0, 3.0, 4.0]))
    np.testing.assert_array_equal(batch, [1.0, 0.0, 0.0])


@pytest.mark.parametrize("name", LADDERS)
def test_table_of_weights_is_exact_at_levels_and_nearest_between(name):
    sigmas = LADDERS[name]
    values = np.random.default_rng(0).normal(size=len(sigmas))
    middles = np.sqrt(sigmas[:-1] * sigmas[1:])
    where = np.concatenate([sigmas, middles * 1.001, middles / 1.001, [2 * sigmas[0], sigmas[-1] / 2]])
    expected = np.concatenate([values, values[:-1], values[1:], values[[0, -1]]])
    for dtype in (np.float64, np.float32):
        table = weights_on(sigmas.astype(dtype), values)
        np.testing.assert_array_equal(jax.jit(jax.vmap(table))(where.astype(dtype)), expected)


@pytest.mark.parametrize("name", LADDERS)
def test_quadrature_weights_are_the_steps_of_the_sampler(name):
    sigmas = LADDERS[name]
    num = len(sigmas) - 1
    euler, heun = np.zeros(num + 1), np.zeros(num + 1)
    for n in range(num):
        step = np.log(sigmas[n]) - np.log(sigmas[n + 1])
        euler[n] += step
        heun[n] += step / 2
        heun[n + 1] += step / 2
    np.testing.assert_allclose(quadrature_weights(sigmas, "euler"), euler, rtol=1e-12)
    np.testing.assert_allclose(quadrature_weights(sigmas), heun, rtol=1e-12)


@pytest.mark.parametrize("solver", ["heun", "euler"])
def test_quadrature_weights_are_what_the_sampler_adds_to_first_order(solver):
    """With D_u = x and D_c = x + 1 the final image is the sum of (step of the node) times weight."""
    errors = []
    for count in (40, 80):
        sigmas = ladder(6.0, 0.5, count + 1)

        def final(table, sigmas=sigmas):
            denoise = guided(lambda x, s: x, lambda x, s: x + 1, weights_on(sigmas, table), skip=False)
            start = jax.device_put(np.zeros((1, 1, 1)))
            return (
                sample(denoise, jax.random.key(0), (1, 1, 1), sigmas, solver=solver, x_init=start).x[-1].sum()
            )

        carried = np.asarray(jax.jit(jax.grad(final))(np.zeros(count + 1)))
        nodes = np.asarray(quadrature_weights(sigmas, solver))
        inner = slice(1, -1)
        errors.append(np.max(np.abs(carried[inner] / nodes[inner] - 1)))
    order = np.log2(errors[0] / errors[1])
    assert abs(order - {"euler": 1, "heun": 2}[solver]) < 0.1, errors


@pytest.mark.parametrize("solver", ["heun", "euler"])
@pytest.mark.parametrize("name", LADDERS)
@pytest.mark.parametrize("baseline", [0.0, 1.0])
def test_every_arm_gets_the_same_budget(name, solver, baseline):
    sigmas = LADDERS[name]
    table = 1 + np.random.default_rng(1).random(len(sigmas))
    arms = [
        constant(2.0),
        pulse(0.3, 2.5, 3.0, baseline=baseline),
        smooth_pulse(1.0, 0.8, 3.0, baseline=baseline),
        weights_on(sigmas, table),
    ]
    steps = np.log(sigmas[:-1] / sigmas[1:])
    for arm in arms:
        scaled = with_budget(arm, sigmas, 1.7, baseline=baseline, solver=solver)
        w, before = (np.array([float(fn(s)) for s in sigmas.tolist()]) - baseline for fn in (scaled, arm))
        total = (steps * (w[:-1] + w[1:]) / 2).sum() if solver == "heun" else (steps * w[:-1]).sum()
        np.testing.assert_allclose(total, 1.7, rtol=1e-12)
        np.testing.assert_allclose(
            guidance_budget(scaled, sigmas, baseline=baseline, solver=solver), total, rtol=1e-12
        )
        np.testing.assert_allclose(w * before.max(), before * w.max(), atol=1e-12)  # only scaled
        single = sigmas.astype(np.float32)
        scaled = with_budget(arm, single, 1.7, baseline=baseline, solver=solver)
        assert abs(float(guidance_budget(scaled, single, baseline=baseline, solver=solver)) - 1.7) < 1e-6


def test_budget_zero_is_the_baseline_and_levels_outside_stay_there():
    sigmas = LADDERS["geometric"]
    assert float(with_budget(pulse(0.3, 3.0, 2.0), sigmas, 0.0)(1.0)) == 0.0
    scaled = with_budget(pulse(0.3, 3.0, 2.0, baseline=1.0), sigmas, 0.9, baseline=1.0)
    assert float(scaled(5.0)) == 1.0 and float(scaled(1.0)) > 1.0


def test_pulses_narrower_than_a_step_are_refused_and_one_step_is_not():
    sigmas = np.array([8.0, 4.0, 2.0, 1.9, 1.0])
    for low, high in ((4.5, 7.5), (3.5, 4.5), (2.0, 2.0), (100.0, 200.0), (0.1, 0.2)):
        with pytest.raises(
            ValueError, match="weight_fn: expected a pulse at least one step of the ladder wide"
        ):
            with_budget(pulse(low, high, 2.0), sigmas, 1.0)
    with pytest.raises(ValueError, match=r"0\.6931 in ln sigma.*a factor 2 in sigma or more, or use a finer"):
        with_budget(pulse(4.5, 7.5, 2.0), sigmas, 1.0)
    with pytest.raises(ValueError, match="at least one step"):
        with_budget(smooth_pulse(3.0, 0.2, 2.0), sigmas, 1.0)
    for low, high in ((4.0, 8.0), (1.9, 2.0), (0.0, np.inf)):
        for ladder in (sigmas, sigmas.astype(np.float32)):
            weight_fn = with_budget(pulse(low, high, 2.0), ladder, 1.0)
            np.testing.assert_allclose(guidance_budget(weight_fn, ladder), 1.0, rtol=1e-6)
    with pytest.raises(ValueError, match="weight_fn: expected a schedule that differs from its baseline"):
        with_budget(constant(1.0), sigmas, 1.0, baseline=1.0)


ROUND_TRIPS = {
    "sigma": "sigma",
    "t_ou": "t_ou",
    "alpha_bar": "alpha_bar",
    "log_snr": "log_snr",
    "rectified_flow_time": "rectified_flow_time",
    "ddpm_timestep_linear": "ddpm_timestep",
    "ddpm_timestep_cosine": "ddpm_timestep",
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_windows_return_from_every_unit(name):
    unit, options = ROUND_TRIPS[name], {}
    if unit == "ddpm_timestep":
        options = {"schedule": name.rpartition("_")[2], "num_timesteps": 800}
    for low, high in ((0.3, 0.3), (0.2, 5.0), (1.0, 20.0)):
        start, stop = describe_window(low, high, num_timesteps=800)[name]
        for ends in ((start, stop), (stop, start)):
            np.testing.assert_allclose(window_from(unit, *ends, **options), (low, high), rtol=1e-10)


def test_window_is_told_by_the_definitions_of_the_units():
    low, high = 0.5, 3.0
    window = describe_window(low, high)
    assert "step" not in window
    for place, sigma in enumerate((high, low)):  # in the order of generation
        expected = {
            "sigma": sigma,
            "t_ou": np.log(1 + sigma**2) / 2,
            "alpha_bar": 1 / (1 + sigma**2),
            "log_snr": -np.log(sigma**2),
            "rectified_flow_time": sigma / (1 + sigma),
        }
        for unit, value in expected.items():
            np.testing.assert_allclose(window[unit][place], value, rtol=1e-12)
        # Ho et al. 2020: the noise of the neighbouring integer timesteps brackets that of the window.
        alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        t = window["ddpm_timestep_linear"][place]
        around = np.sqrt(1 / alpha_bar[[int(t), int(t) + 1]] - 1)
        assert around[0] <= sigma <= around[1]
    wide = describe_window(1e-3, 1e4)
    assert np.isnan(wide["ddpm_timestep_linear"]).all() and np.isnan(wide["ddpm_timestep_cosine"][1])


@pytest.mark.parametrize("name", LADDERS)
def test_steps_of_a_window_are_those_that_a_pulse_guides(name):
    sigmas = LADDERS[name]
    for low, high in ((0.3, 4.0), (sigmas[6], sigmas[3]), (0.0, np.inf), (sigmas[-1], sigmas[-2])):
        weight_fn = pulse(float(low), float(high), 1.0)
        on = [n for n, sigma in enumerate(sigmas[:-1].tolist()) if float(weight_fn(sigma)) == 1.0]
        step = describe_window(low, min(high, 1e6), sigmas=sigmas)["step"]
        assert step == (on[0], on[-1])
        back = window_from("step", *step, sigmas=sigmas)
        assert back == (sigmas[on[-1] + 1], sigmas[on[0]])
        assert describe_window(*back, sigmas=sigmas)["step"] == step
    assert describe_window(sigmas[4] * 0.99, sigmas[4] * 0.999, sigmas=sigmas)["step"] is None


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_of_common_samplers_are_counted_there_and_back(name):
    """Levels by the papers' formulas, and every window of whole steps returns from its steps."""
    num = 10
    levels = sampler_levels(name, num)
    if name == "edm":
        n = np.arange(num) / (num - 1)
        starts = (80 ** (1 / 7) + n * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    elif name == "rectified_flow":
        starts = np.array([np.inf, *(t / (1 - t) for t in np.arange(9, 0, -1) / 10)])
    elif name == "ddpm_linear":
        alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        starts = np.sqrt(1 / alpha_bar[999::-100] - 1)
    else:  # Nichol & Dhariwal 2021, equation 17, with the betas clipped at 0.999
        u = np.arange(1001) / 1000
        f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
        alpha_bar = np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))
        starts = np.sqrt(1 / alpha_bar[999::-100] - 1)
    np.testing.assert_allclose(levels, [*starts, 0.0], rtol=1e-6)
    for first, last in ((0, num - 1), (0, 3), (2, 2), (3, 7), (6, num - 1)):
        low, high = window_from("step", first, last, sigmas=levels)
        assert (low, high) == (levels[last + 1], levels[first])
        if np.isfinite(high):
            assert describe_window(low, high, sigmas=levels)["step"] == (first, last)
            assert describe_window((low + levels[last]) / 2, high * 1.0001, sigmas=levels)["step"] == (
                first,
                last,
            )


SIGMAS = np.array([4.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: pulse(2.0, 1.0, 1.0), "0 <= sigma_low <= sigma_high.*pass the lower noise level first"),
        (lambda: pulse(np.nan, np.nan, 1.0), "NaN means that no window was found"),
        (lambda: pulse(1.0, 2.0, np.inf), "weight: expected a finite number"),
        (lambda: pulse(1.0, np.ones(2), 1.0), "sigma_high: expected a scalar"),
        (lambda: constant(np.nan), "weight: expected a finite number"),
        (lambda: smooth_pulse(0.0, 1.0, 1.0), "centre: expected a noise level > 0"),
        (lambda: smooth_pulse(1.0, -1.0, 1.0), "width: expected a width >= 0"),
        (lambda: weights_on(SIGMAS, np.ones(2)), r"values: expected shape \(3,\)"),
        (lambda: weights_on(SIGMAS, np.array([1.0, np.nan, 1.0])), "values: expected finite values"),
        (lambda: weights_on(SIGMAS[::-1], np.ones(3)), "strictly decreasing"),
        (lambda: quadrature_weights(SIGMAS, "rk4"), "solver: expected 'heun' or 'euler'"),
        (lambda: guidance_budget(lambda s: jnp.ones(2), SIGMAS), "weight_fn: expected a scalar weight"),
        (lambda: describe_window(2.0, 1.0), "0 <= sigma_low <= sigma_high"),
        (lambda: describe_window(np.nan, np.nan), "no window was found, see its status"),
        (lambda: jax.jit(lambda s: describe_window(s, 2.0)["sigma"])(1.0), "describe windows outside jit"),
        (lambda: window_from("minutes", 1, 2), "unit: expected 'sigma' or"),
        (lambda: window_from("sigma", -1.0, 2.0), "expected noise standard deviations >= 0"),
        (lambda: window_from("ddpm_timestep", 0, 1000), "expected timesteps of 0 ... 999"),
        (lambda: window_from("alpha_bar", 0.5, 1.5), "alpha_bar: expected values in"),
        (lambda: window_from("step", 0, 1), "pass sigmas="),
        (
            lambda: window_from("step", 0, 1, sigmas=np.array([1.0, 2.0, 0.0])),
            "strictly decreasing noise levels",
        ),
        (lambda: sampler_levels("ddim", 10), "sampler: expected 'ddpm_linear' or"),
        (lambda: sampler_levels("edm", 1), "num_steps: expected an integer >= 2"),
        (lambda: sampler_levels("ddpm_cosine", 60, num_timesteps=50), "at most 50 timesteps"),
        (lambda: window_from("step", 0, 2, sigmas=SIGMAS), "expected steps of 0 ... 1"),
        (lambda: window_from("step", 0.5, 1, sigmas=SIGMAS), "expected steps of 0 ... 1"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_denoiser_of_another_shape_is_named():
    plain, _ = labelled_pair()
    for pair, name in (
        ((plain, lambda x, s: x[:2]), "conditional"),
        ((lambda x, s: x[:2], plain), "unconditional"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected results of shape"):
            guided(*pair, constant(0.5))(noisy(), 1.0)
