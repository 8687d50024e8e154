"""Closures against simulated ensembles, in the sizes that their claims are made for."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.closed_form import two_pattern_denoiser
from critjax.fluctuations import gaussian_closure, transformed_closure, two_pattern_closure
from critjax.sampling import sample
from critjax.studies.criticality import CriticalitySettings, run
from critjax.studies.criticality.ensemble import mode_groups

SIZE, GRID, PIXELS = 9, (64, 64), 81
LADDER = np.geomspace(np.sqrt(200.0), 2.0, 121)
HALF = slice(0, GRID[1] // 2 + 1)


def between(high, low, ladder=LADDER):
    return (ladder**2 <= high) & (ladder**2 >= low)


@pytest.fixture(scope="module")
def ensemble():
    """1,024 samples of the probability flow: sums over the ten smallest |k|, and one-point statistics."""
    denoise = two_pattern_denoiser(SIZE)
    ladder = jnp.asarray(LADDER, jnp.float32)
    groups = jnp.asarray(mode_groups(GRID)[1], jnp.float32)

    def level(pair):
        x, d = pair
        x_hat, d_hat = jnp.fft.rfft2(x[..., 0]), jnp.fft.rfft2(d[..., 0])
        power = jnp.einsum("ghw,nhw->g", groups, jnp.abs(x_hat) ** 2)
        cross = jnp.einsum("ghw,nhw->g", groups, (d_hat * x_hat.conj()).real)
        return power, cross, jnp.mean(1 - d**2, axis=(1, 2, 3)), x[..., 0]

    @jax.jit
    def batch(keys):
        def one(key):
            return sample(denoise, key, (*GRID, 1), ladder)

        run = jax.vmap(one)(keys)
        power, cross, slope, x = jax.lax.map(level, (run.x.swapaxes(0, 1), run.denoised.swapaxes(0, 1)))
        window = jnp.fft.rfft2(jnp.pad(jnp.ones((SIZE, SIZE)), [(0, n - SIZE) for n in GRID]))
        u = jnp.fft.irfft2(jnp.fft.rfft2(x) * window)
        return power, cross, slope, (u**2).sum((1, 2, 3)), (u**4).sum((1, 2, 3))

    parts = [jax.tree.map(np.asarray, batch(jax.random.split(jax.random.key(b), 64))) for b in range(16)]
    power, cross = (np.sum([part[i] for part in parts], 0, dtype=np.float64) for i in (0, 1))
    slope = np.concatenate([part[2] for part in parts], axis=1)
    square, fourth = (np.sum([part[i] for part in parts], 0, dtype=np.float64) for i in (3, 4))
    return {
        "symbol": (cross / power).mean(1),
        "growth": (power / power[0]).mean(1),
        "mean_jacobian": PIXELS / LADDER**2 * slope.mean(1),
        "mean_jacobian_error": PIXELS / LADDER**2 * slope.std(1) / np.sqrt(slope.shape[1]),
        "kurtosis": fourth / square**2 * 16 * 64 * GRID[0] * GRID[1],
    }


def averaged(closure):
    """Symbol and growth of S of a closure, averaged over the ten smallest |k| as the ensemble's are."""
    groups = mode_groups(GRID)[1]
    power = np.einsum("ghw,lhw->lg", groups, np.asarray(closure.structure_factor)[:, :, HALF, 0, 0].real)
    drive = np.asarray(closure.symbol * closure.structure_factor)[:, :, HALF, 0, 0].real
    return (np.einsum("ghw,lhw->lg", groups, drive) / power).mean(1), (power / power[0]).mean(1)


@pytest.mark.nightly
def test_gaussian_closure_of_two_patterns(ensemble):
    """S to 10 per cent down to sigma^2 = 15; lambda_reg to 3 per cent while the field is Gaussian, to 5 below."""
    for closure in (
        two_pattern_closure(SIZE, jnp.asarray(LADDER), GRID),
        gaussian_closure(
            two_pattern_denoiser(SIZE), jax.random.key(5), LADDER, GRID, num_samples=24, size=SIZE
        ),
    ):
        symbol, growth = averaged(closure)
        error = np.abs(symbol / ensemble["symbol"] - 1)
        assert error[between(200, 38)].max() < 0.03
        # The missing part is what a Gaussian field cannot show, see the next two tests.
        assert error[between(12, 10)].max() > 0.04 and error[between(200, 10)].max() < 0.055
        assert np.abs(growth / ensemble["growth"] - 1)[between(200, 15)].max() < 0.10


@pytest.mark.nightly
def test_transformed_closure_of_two_patterns(ensemble):
    """lambda_reg to 2 per cent all the way, and the mean Jacobian's error cut to less than half."""
    closure = transformed_closure(SIZE, jnp.asarray(LADDER), GRID)
    symbol, growth = averaged(closure)
    assert np.abs(symbol / ensemble["symbol"] - 1)[between(200, 10)].max() < 0.02
    assert np.abs(growth / ensemble["growth"] - 1)[between(200, 5)].max() < 0.03
    late = between(40, 5)
    gaussian = two_pattern_closure(SIZE, jnp.asarray(LADDER), GRID).symbol[:, 0, 0, 0, 0].real
    beyond = closure.mean_jacobian[:, 0, 0, 0, 0].real
    first, second = (np.abs(np.asarray(a) - ensemble["mean_jacobian"])[late] for a in (gaussian, beyond))
    assert np.all(second < 0.5 * first)
    assert second.mean() < 0.25 * first.mean()
    assert np.all(ensemble["mean_jacobian_error"][late] < 0.1 * second.max())  # what is compared is resolved
    early = between(200, 25)
    np.testing.assert_allclose(np.asarray(closure.kurtosis)[early], ensemble["kurtosis"][early], atol=0.08)


@pytest.mark.nightly
def test_what_the_gaussian_closure_misses_is_the_shape_of_the_distribution():
    """Independent calculation in numpy, float64, Euler steps four times finer: same spectrum, other symbol.

    A Gaussian field with the simulated spectrum itself has the lower symbol that the closure predicts, so neither the
    spectrum nor the steps are to blame.
    """
    rng = np.random.default_rng(11)
    sigmas = np.geomspace(np.sqrt(200.0), np.sqrt(12.0), 401)
    offset = np.minimum(np.arange(64), 64 - np.arange(64))
    inside = offset <= SIZE // 2
    window = np.fft.rfft2(np.outer(inside, inside).astype(float))
    groups = mode_groups(GRID)[1]

    def denoise(x, sigma):
        return np.tanh(np.fft.irfft2(np.fft.rfft2(x) * window) / sigma**2)

    def symbol(x, sigma):
        x_hat, d_hat = np.fft.rfft2(x), np.fft.rfft2(denoise(x, sigma))
        power = np.einsum("ghw,nhw->g", groups, np.abs(x_hat) ** 2)
        return (np.einsum("ghw,nhw->g", groups, (d_hat * x_hat.conj()).real) / power).mean()

    simulated, surrogate = [], []
    for _ in range(8):
        x = sigmas[0] * rng.normal(size=(48, *GRID))
        for sigma, sigma_next in itertools.pairwise(sigmas):
            x = x + (1 - sigma_next / sigma) * (denoise(x, sigma) - x)
        spectrum = (np.abs(np.fft.rfft2(x)) ** 2).mean(0) / x[0].size
        white = np.fft.rfft2(rng.normal(size=x.shape))
        simulated.append(symbol(x, sigmas[-1]))
        surrogate.append(symbol(np.fft.irfft2(np.sqrt(spectrum) * white), sigmas[-1]))
    mean, error = np.mean(simulated), np.std(simulated, ddof=1) / np.sqrt(8)
    level = jnp.asarray(np.geomspace(np.sqrt(200.0), np.sqrt(12.0), 121))
    gaussian = averaged(two_pattern_closure(SIZE, level, GRID))[0][-1]
    beyond = averaged(transformed_closure(SIZE, level, GRID))[0][-1]
    # The simulated spectrum is a few per cent larger than the closure's, which lowers the Gaussian symbol a little.
    assert -0.03 < np.mean(surrogate) - gaussian < 0.002
    assert mean - gaussian > 0.03 and mean - gaussian > 8 * error
    assert abs(beyond - mean) < 0.4 * (mean - gaussian)


@pytest.mark.nightly
def test_ten_random_banks():
    """Median error of the predicted crossing of lambda_reg(0) in sigma^2, seeds 0 to 9 with a uniform soft mode."""
    errors, bare = [], []
    for seed in range(10):
        settings = CriticalitySettings(
            seed=seed, num_samples=128, num_levels=32, sigma_min=1.4, num_banks=0, probe_samples=0
        )
        result = run(settings)
        if float(result["critical_wavenumber_bare"]) > 0:
            continue
        measured = float(result["critical_sigma_uniform_measured"]) ** 2
        errors.append(abs(float(result["critical_sigma_uniform_closure"]) ** 2 / measured - 1))
        bare.append(abs(float(result["critical_sigma_uniform_bare"]) ** 2 / measured - 1))
    assert len(errors) >= 5
    assert np.median(errors) <= 0.15
    assert np.median(bare) > 0.5  # so the closure's part is not trivial


@pytest.mark.nightly
@pytest.mark.parametrize("size", [7, 11])
def test_every_patch_of_a_hundred_images(size):
    """lambda_reg of the uniform mode, above its crossing, to 0.03 and two standard errors; bare theory far off."""
    settings = CriticalitySettings(
        bank="fashion-mnist",
        size=size,
        num_samples=32,
        num_levels=20,
        sigma_min=1.0,
        probe_samples=0,
        closure_samples=32,
    )
    result = run(settings)
    measured, error = (result[name].values[:, 0] for name in ("lambda_reg", "lambda_reg_error"))
    predicted = result["lambda_closure"].values[:, 0]
    above = result["sigma"].values > float(result["critical_sigma_uniform_measured"])
    assert above.sum() >= 10
    assert np.all(np.abs(predicted - measured)[above] < 0.03 + 2 * error[above])
    assert np.abs(result["lambda_bare"].values[:, 0] - measured)[above].max() > 0.2
