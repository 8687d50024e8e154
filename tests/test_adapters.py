"""Models of every convention as denoisers: exact predictors of a Gaussian, written by hand in their own frame."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax._programs import as_pytree
from critjax.closed_form import gaussian_denoiser
from critjax.fourier import wavevectors
from critjax.networks import jax_denoiser
from critjax.noise import geometric_sigmas
from critjax.sampling import sample
from critjax.studies.measure import measure

GRID, CHANNELS = (7, 6), 3
SHAPE = (*GRID, CHANNELS)
LAYOUTS = ("NHWC", "NCHW", "HWC", "CHW")
KINDS = ("edm", "vp-epsilon", "v")

POWER = 2 / (0.3 + np.sum(np.asarray(wavevectors(GRID)) ** 2, -1))
MIXING = np.array([[1.0, 0.4, 0.0], [0.4, 1.0, 0.2], [0.0, 0.2, 0.5]])
MEAN = np.random.default_rng(8).normal(size=SHAPE)


def field(seed=0, shape=SHAPE, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def covariance():
    """Of the pixels, (H W C, H W C): <x_i x_j> = (1/N) sum_k S_k cos k (i - j), times the covariance of channels."""
    places = np.stack(np.meshgrid(*map(np.arange, GRID), indexing="ij"), -1).reshape(-1, 2)
    waves = 2 * np.pi * np.stack(np.meshgrid(*(np.arange(n) / n for n in GRID), indexing="ij"), -1)
    offsets = places[:, None] - places[None]
    single = np.einsum("ijk,k->ij", np.cos(offsets @ waves.reshape(-1, 2).T), POWER.ravel()) / len(places)
    return np.kron(single, MIXING)


VARIANCES, MODES = np.linalg.eigh(covariance())


def exact_denoiser():
    return gaussian_denoiser(MEAN, POWER[..., None, None] * MIXING)


def alpha_bars(schedule, num_timesteps):
    """The two schedules written out again."""
    if schedule == "linear":
        beta = np.linspace(1e-4, 0.02, num_timesteps)
    else:
        f = np.cos((np.arange(num_timesteps + 1) / num_timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return np.cumprod(1 - beta)


def log_sigma_of_timestep(schedule="linear", num_timesteps=1000):
    alpha_bar = alpha_bars(schedule, num_timesteps)
    knots = 0.5 * np.log(1 / alpha_bar - 1)
    return lambda t: jnp.interp(t, np.arange(num_timesteps), knots).astype(t.dtype)


def predictor(kind, layout="NHWC", log_sigma_fn=lambda t: t):
    """Return the best prediction for x0 ~ N(mean, C) from x_t = sqrt(a) x0 + sqrt(1 - a) n, mode by mode of C."""

    def single(image, t):
        dtype = image.dtype
        modes, mean, variances = (jnp.asarray(a, dtype) for a in (MODES, MEAN.ravel(), VARIANCES))
        if kind == "edm":
            modal = variances / (variances + t**2) * (modes.T @ (image.ravel() - mean))
            return (mean + modes @ modal).reshape(SHAPE)
        a = jax.nn.sigmoid(-2 * log_sigma_fn(t))
        b = jax.nn.sigmoid(2 * log_sigma_fn(t))
        modal = modes.T @ (image.ravel() - jnp.sqrt(a) * mean) / (a * variances + b)
        if kind == "vp-epsilon":
            return (jnp.sqrt(b) * modes @ modal).reshape(SHAPE)
        return (jnp.sqrt(a * b) * modes @ ((1 - variances) * modal) - jnp.sqrt(b) * mean).reshape(SHAPE)

    def function(images, times):
        batch, axes = layout.startswith("N"), layout.replace("N", "")
        assert images.ndim == len(layout) and times.shape == images.shape[:1] * batch
        run = single
        if axes == "CHW":
            run = lambda image, t: jnp.transpose(single(jnp.transpose(image, (1, 2, 0)), t), (2, 0, 1))  # noqa: E731
        return jax.vmap(run)(images, times) if batch else run(images, times)

    return function


def adapted(kind, layout="NHWC", **options):
    """Return the predictor through the adapter, with t = ln sigma unless a schedule is named."""
    log_sigma_fn = log_sigma_of_timestep(**options) if options else lambda t: t
    if kind != "edm" and not options:
        options = {"time_fn": jnp.log}
    return jax_denoiser(
        predictor(kind, layout, log_sigma_fn), parameterisation=kind, layout=layout, **options
    )


# The exact posterior mean --------------------------------------------------------------------------------------


SIGMAS = np.array([0.05, 0.7, 6.0])


@jax.jit
def at_all_levels(denoisers, x, v, sigmas):
    """Values and products of several denoisers, images and levels of noise paired."""

    def both(denoise, x, sigma):
        return jax.jvp(lambda y: denoise(y, sigma), (x,), (v,))

    return [jax.vmap(both, (None, 0, 0))(as_pytree("denoise", d), x, sigmas) for d in denoisers]


@pytest.fixture(scope="module")
def exact_values():
    """Images, a direction, values and products of the exact denoiser, which is linear."""
    x, v = MEAN + SIGMAS[:, None, None, None] * field(1), field(2)
    denoise = exact_denoiser()
    values = jax.jit(jax.vmap(denoise))
    at_zero = values(np.zeros_like(x), SIGMAS)
    return x, v, np.asarray(values(x, SIGMAS)), values(np.stack([v] * 3), SIGMAS) - at_zero


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_products_are_those_of_the_posterior_mean(kind, dtype, tolerance, exact_values):
    x, v, *expected = exact_values
    denoisers = [adapted(kind, layout) for layout in LAYOUTS]
    results = at_all_levels(denoisers, x.astype(dtype), v.astype(dtype), SIGMAS.astype(dtype))
    for layout, found in zip(LAYOUTS, results, strict=True):
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype
            error = np.abs(np.asarray(a, float) - b).max((1, 2, 3))
            assert np.all(error <= tolerance * (1 + SIGMAS)), layout  # rounding is of x


@pytest.mark.parametrize("kind", KINDS)
def test_the_derivative_in_sigma_and_gradients(kind):
    x, u, sigma, step = field(3), field(4), 0.9, 1e-5

    @jax.jit
    def derivatives(denoisers, x, sigma, levels):
        denoise, _ = denoisers

        def slope(s):
            return jax.jvp(lambda r: denoise(x, r), (s,), (1.0,))[1]

        gradients = [jax.grad(lambda y, s, f=f: jnp.vdot(u, f(y, s)), (0, 1))(x, sigma) for f in denoisers]
        second = jax.jvp(slope, (sigma,), (1.0,))[1]
        return slope(sigma), second, gradients, jax.lax.map(lambda s: denoise(x, s), levels)

    levels = sigma + np.array([step, -step, 1e-3, 0.0, -1e-3])
    denoisers = [as_pytree("denoise", f) for f in (adapted(kind), exact_denoiser())]
    slope, second, (own, exact), values = derivatives(denoisers, x, sigma, levels)
    np.testing.assert_allclose(slope, (values[0] - values[1]) / (2 * step), atol=1e-9)
    for found, expected in zip(own, exact, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(second, (values[2] - 2 * values[3] + values[4]) / 1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"schedule": "linear", "num_timesteps": 1000}, {"schedule": "cosine", "num_timesteps": 60}]
)
@pytest.mark.parametrize("kind", ["vp-epsilon", "v"])
def test_timesteps_of_the_schedules(kind, options):
    """The model knows its noise from the timestep alone, with the schedule written out in this file."""
    denoisers = [as_pytree("denoise", f) for f in (adapted(kind, **options), exact_denoiser())]
    (own, slopes), (exact, expected) = levels_and_slopes(denoisers, field(5), np.array([0.06, 0.8, 20.0]))
    np.testing.assert_allclose(own, exact, atol=1e-10)
    np.testing.assert_allclose(slopes, expected, atol=1e-9)


@jax.jit
def levels_and_slopes(denoisers, x, sigmas):
    return [jax.lax.map(lambda s, f=f: jax.jvp(lambda r: f(x, r), (s,), (1.0,)), sigmas) for f in denoisers]


def test_the_default_schedule_is_linear_with_a_thousand_steps():
    denoise = jax_denoiser(lambda x, t: x - t[:, None, None, None], parameterisation="vp-epsilon")
    numbers = np.array([1, 300, 998])
    for number, sigma in zip(numbers, np.sqrt(1 / alpha_bars("linear", 1000)[numbers] - 1), strict=True):
        # D = x - sigma (x/sqrt(1 + sigma^2) - t) at x = 0
        np.testing.assert_allclose(denoise(np.zeros(SHAPE), sigma) / sigma, number, atol=1e-6)


def test_a_batch_equals_the_loop():
    denoisers = [adapted("vp-epsilon", layout, schedule="linear") for layout in LAYOUTS]
    batch, sigmas = field(6, (4, *SHAPE)), np.linspace(0.3, 3.0, 4)

    @jax.jit
    def both(denoisers, batch, sigmas):
        return [
            (jax.vmap(f)(batch, sigmas), jax.lax.map(lambda a, f=f: f(*a), (batch, sigmas)))
            for f in denoisers
        ]

    for layout, (found, loop) in zip(LAYOUTS, both(denoisers, batch, sigmas), strict=True):
        np.testing.assert_allclose(found, loop, atol=1e-13, err_msg=layout)


def test_labels_are_closed_over_and_half_precision_is_computed_in_single():
    table = np.array([1.0, 2.0, 3.0], np.float32)

    def model(label, x, t):
        assert x.dtype == t.dtype == np.float32
        return x * jnp.asarray(table)[label]

    x = field(7, dtype=np.float16)
    for label in range(3):
        found = jax_denoiser(lambda x, t, label=label: model(label, x, t))(x, 0.5)
        again = jax_denoiser(jax.tree_util.Partial(model, np.int32(label)))(x, 0.5)
        assert found.dtype == again.dtype == np.float16
        np.testing.assert_array_equal(found, (1 + label) * x)
        np.testing.assert_array_equal(again, (1 + label) * x)


# Through the library -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_adapted_model_is_measured_like_the_native_denoiser():
    images = field(9, (6, *SHAPE))
    settings = {
        "sigmas": np.array([4.0, 2.0, 1.0]),
        "num_samples": 12,
        "probe_samples": 3,
        "closure_samples": 16,
    }
    adapter, native = (
        measure(f, images, **settings) for f in (adapted("v", "CHW", schedule="linear"), exact_denoiser())
    )
    assert set(adapter) == set(native)
    for name in native:
        np.testing.assert_allclose(adapter[name], native[name], rtol=1e-6, atol=1e-8, err_msg=str(name))


def test_samples_are_those_of_the_native_denoiser():
    sigmas = geometric_sigmas(10.0, 0.05, 12).astype(jnp.float64)
    ends = (
        jax.jit(lambda f=f: sample(f, jax.random.key(0), SHAPE, sigmas).x[-1])()
        for f in (adapted("vp-epsilon", "NCHW", schedule="cosine"), exact_denoiser())
    )
    np.testing.assert_allclose(*ends, atol=1e-9)


def run_example(number, names, changes=()):
    """Execute a code block of "Other people's models" in ``names``; ``changes``, old and new, make it small."""
    text = (Path(__file__).parent.parent / "docs" / "NETWORKS.md").read_text()
    block = re.findall(r"```python\n(.*?)```", text.split("## Other people's models")[1], re.S)[number]
    for old, new in changes:
        assert block.count(old) == 1, old
        block = block.replace(old, new)
    exec(compile(block, "NETWORKS.md", "exec"), names)


def test_the_flax_example_of_the_documentation_runs():
    names = {}
    with jax.enable_x64(False):
        run_example(0, names)
        x, v = field(10, (8, 6, 1), np.float32), field(11, (8, 6, 1), np.float32)
        value, tangent = jax.jit(lambda s: jax.jvp(lambda y: names["denoise_fn"](y, s), (x,), (v,)))(1.0)
        t = np.interp(0.0, np.log(1 / alpha_bars("linear", 1000) - 1) / 2, np.arange(1000))
        noise, slope = jax.jvp(
            lambda y: names["model"](y[None], jnp.array([t], jnp.float32))[0], (x / 2**0.5,), (v / 2**0.5,)
        )
    np.testing.assert_allclose(value, x - noise, atol=1e-5)
    np.testing.assert_allclose(tangent, v - slope, atol=1e-5)


@pytest.mark.slow
def test_what_follows_either_way_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report").mkdir()
    rng = np.random.default_rng(12)
    np.save("held-out.npy", np.clip(rng.normal(size=(60, 12, 10, 1)), -1, 1).astype(np.float32))
    power = np.float32(120 / (1 + np.sum(np.asarray(wavevectors((12, 10))) ** 2, -1)))
    names = {}
    with jax.enable_x64(False):
        names["denoise_fn"] = gaussian_denoiser(np.zeros((12, 10, 1), np.float32), power)
        smaller = [
            ("measure(denoise_fn, images)", "measure(denoise_fn, images, num_samples=12, probe_samples=3)"),
            ('data="held-out.npy")', 'data="held-out.npy", sizes=(3, 5), quick=True)'),
        ]
        run_example(-1, names, smaller)
    # 1 - S/(S + sigma^2) with S(0) = 120, from a float32 that is close to one.
    gap = names["found"].gap.sel(ensemble="noised data")
    np.testing.assert_allclose(gap, gap.sigma**2 / (120 + gap.sigma**2), rtol=1e-4, atol=5e-6)
    assert (tmp_path / "report" / "report.html").stat().st_size > 1e5


# Errors --------------------------------------------------------------------------------------------------------


def identity(x, t):
    return x


@pytest.mark.parametrize(
    ("error", "options", "text"),
    [
        (TypeError, {"function": np.zeros(3)}, "function: expected a callable (images, times), got ndarray; clos"),
        (ValueError, {"parameterisation": "eps"}, "parameterisation: expected 'edm' or 'vp-epsilon' or 'v', got 'eps'"),
        (ValueError, {"layout": "NWHC"}, "layout: expected 'NHWC' or 'NCHW' or 'HWC' or 'CHW', got 'NWHC'"),
        (ValueError, {"parameterisation": "v", "schedule": "x"}, "schedule: expected 'linear' or 'cosine', got 'x'"),
        (ValueError, {"parameterisation": "v", "num_timesteps": 0}, "num_timesteps: expected an integer >= 2, got 0"),
        (
            ValueError,
            {"parameterisation": "v", "schedule": "linear", "time_fn": jnp.log},
            "schedule: expected none beside time_fn, got 'linear'; leave one of the two out",
        ),
        (
            ValueError,
            {"parameterisation": "v", "num_timesteps": 100, "time_fn": jnp.log},
            "num_timesteps: expected none beside time_fn, got 100",
        ),
        (ValueError, {"schedule": "cosine"}, "schedule: expected none beside parameterisation 'edm', got 'cosine'"),
    ],
)  # fmt: skip
def test_messages_of_options(error, options, text):
    with pytest.raises(error, match=re.escape(text)):
        jax_denoiser(**{"function": identity, **options})


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize(
    ("error", "function", "layout", "text"),
    [
        (ValueError, lambda x, t: x[..., :1], "NHWC", "an output of shape (1, 7, 6, 3), got shape (1, 7, 6, 1); retur"),
        (ValueError, lambda x, t: x[0], "NCHW", "an output of shape (1, 3, 7, 6), got shape (3, 7, 6)"),
        (ValueError, lambda x, t: x.T, "HWC", "an output of shape (7, 6, 3), got shape (3, 6, 7)"),
        (ValueError, lambda x, t: (x, t), "CHW", "an output of shape (3, 7, 6), got tuple; return the prediction a"),
        (TypeError, lambda x, t: x > 0, "HWC", "output of function: expected a floating-point array, got dtype bool"),
    ],
)  # fmt: skip
def test_messages_of_outputs(transform, error, function, layout, text):
    with pytest.raises(error, match=re.escape(text)):
        transform(lambda x: jax_denoiser(function, layout=layout)(x, 1.0))(field())


def test_messages_of_inputs():
    denoise = jax_denoiser(identity, parameterisation="v")
    outside = r"sigma: expected a noise level of the schedule, 0.01 \.\.\. 157.4, got 500.0; choose another"
    with pytest.raises(ValueError, match=outside):
        denoise(field(), 500.0)
    with pytest.raises(ValueError, match=outside):
        jax.jit(lambda x: denoise(x, 500.0))(field())  # sigma is known
    with pytest.raises(ValueError, match="sigma: expected a noise level with a finite time, got 2.0"):
        jax_denoiser(identity, time_fn=lambda s: jnp.log(1 - s))(field(), 2.0)
    with pytest.raises(ValueError, match=r"time_fn: expected a scalar, got shape \(1,\)"):
        jax_denoiser(identity, time_fn=lambda s: s[None])(field(), 1.0)
    with pytest.raises(ValueError, match="sigma: expected a finite number > 0, got 0"):
        denoise(field(), 0.0)
    with pytest.raises(ValueError, match=r"x: expected shape \(H, W, C\), got shape \(2, 7, 6, 3\)"):
        denoise(field(0, (2, *SHAPE)), 1.0)
    with pytest.raises(TypeError, match="x: expected a floating-point array, got dtype int"):
        denoise(field().astype(int), 1.0)


def test_a_traced_sigma_outside_the_schedule_gives_nan_and_one_inside_does_not():
    """Also of a model that would make a number of it."""
    denoise = jax_denoiser(lambda x, t: x * jnp.nan_to_num(t), parameterisation="v", layout="HWC")
    found = jax.jit(jax.vmap(denoise, (None, 0)))(field(), jnp.array([0.001, 1.0, 500.0]))
    assert np.isnan(found[::2]).all() and np.isfinite(found[1]).all()
