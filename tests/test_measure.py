"""Measurements of any denoiser: against operators whose symbols, kernels and crossings are known."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from programs import counting

from critjax.closed_form import gaussian_denoiser
from critjax.studies.measure import ENSEMBLES, measure
from critjax.studies.measure.instruments import regression_and_resamples
from critjax.studies.measure.ladder import crossing, minimum

GRID = (8, 10)
PIXELS = 80
SIGMAS = np.array([4.0, 2.0, 1.0])


def _driven(low, high, rates, bend, x, sigma):
    """One matrix for fields of positive mean, one for the others, times a polynomial in ln(sigma), and a bend."""
    factor = rates @ jnp.log(sigma) ** jnp.arange(3)
    matrix = jnp.where(jax.lax.stop_gradient(x.mean()) > 0, high, low)
    return factor * (matrix @ x.ravel()).reshape(x.shape) + bend * jnp.cos(2 * x.mean())


def driven(low, high=None, rates=(1.0, 0.0, 0.0), bend=0.0):
    """Denoisers of one kind, which share their programs."""
    high = low if high is None else high
    return Partial(_driven, low, high, np.asarray(rates), np.float64(bend))


def moved(x):
    """Matrix of a linear map of fields (..., H, W)."""
    return np.stack([x(one).ravel() for one in np.eye(PIXELS).reshape(PIXELS, *GRID)], axis=1)


def measured(denoise, clean, sigmas=SIGMAS, seed=0):
    """Measure with counts that most tests share."""
    return measure(
        denoise, clean, sigmas=sigmas, num_samples=40, probe_samples=20, closure_samples=0, seed=seed
    )


def images(channels=1, count=6, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *GRID, channels))


def spectrum():
    k_y, k_x = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in GRID), indexing="ij")
    return 5.0 / (1 + 3 * (k_y**2 + 2 * k_x**2)), k_y, k_x


def shell_means(values, k_y, k_x):
    """Average over shells of width 2 pi/max(H, W), by a loop."""
    index = np.rint(np.hypot(k_y, k_x) / (2 * np.pi / max(GRID))).astype(int)
    inside = np.hypot(k_y, k_x) <= np.pi * (1 + 1e-9)
    return np.array([values[(index == i) & inside].mean() for i in range(index[inside].max() + 1)])


def test_a_linear_denoiser_has_one_symbol_in_every_measurement():
    power, k_y, k_x = spectrum()
    denoise = gaussian_denoiser(np.zeros((*GRID, 1)), power)
    found = measure(denoise, images(), sigmas=SIGMAS, num_samples=12, probe_samples=3, closure_samples=16)
    for number, sigma in enumerate(SIGMAS):
        symbol = power / (power + sigma**2)
        shells = shell_means(symbol, k_y, k_x)
        kernel = np.fft.ifft2(symbol).real
        for ensemble in ENSEMBLES:
            part = found.sel(ensemble=ensemble).isel(sigma=number)
            np.testing.assert_allclose(part.mean_jacobian, shells, atol=1e-6)
            np.testing.assert_allclose(part.regression, shells, atol=1e-6)
            np.testing.assert_allclose(part.mean_jacobian_uniform, symbol[0, 0], atol=1e-9)
            np.testing.assert_allclose(part.nonreciprocal, 0, atol=1e-6)
            offsets = np.arange(-3, 4)
            np.testing.assert_allclose(part.kernel, kernel[offsets[:, None], offsets], atol=1e-9)
            weight = np.abs(kernel[offsets[:, None], offsets])
            radius = np.sqrt((weight * (offsets[:, None] ** 2 + offsets**2)).sum() / weight.sum())
            np.testing.assert_allclose(part.receptive_radius, radius, rtol=1e-5)
        np.testing.assert_allclose(found.regression_closure.isel(sigma=number), shells, atol=1e-6)
    assert np.isnan(found.critical_sigma_regression).all() and np.isnan(found.critical_sigma_closure)


def test_the_cost_told_is_the_one_paid():
    """A denoiser that counts: evaluations are those without a tangent, products one a tangent."""
    paid = {"evaluations": [], "jacobian_products": []}

    def count(name):
        return lambda _: paid[name].append(1)

    @jax.custom_jvp
    def halve(x):
        jax.debug.callback(count("evaluations"), x[0, 0, 0])
        return 0.5 * x

    @halve.defjvp
    def rule(primals, tangents):
        # Told both, it is called for every field and for every direction.
        jax.debug.callback(count("jacobian_products"), primals[0][0, 0, 0] + tangents[0][0, 0, 0])
        return 0.5 * primals[0], 0.5 * tangents[0]

    found = measure(lambda x, sigma: halve(x), images(channels=2), sigmas=SIGMAS, num_samples=10, probe_samples=3,
                    closure_samples=12)  # fmt: skip
    jax.effects_barrier()
    assert {name: len(calls) for name, calls in paid.items()} == {name: found.attrs[name] for name in paid}


_PEAK = """
import pathlib, re
import jax, jax.numpy as jnp, numpy as np
from critjax.studies.measure import measure

weights = jnp.linspace(0, 1, 1000)
def denoise(x, sigma):  # a thousand channels within: 3.1 MB an image of 28 x 28
    return 0.5 * x + 1e-3 * (jnp.tanh(x @ weights[None]) @ weights[:, None]) / 1000

def peak(count):
    measure(denoise, np.zeros((4, 28, 28, 1), np.float32), sigmas=[4.0, 2.0, 1.0], num_samples=count,
            probe_samples=3, closure_samples=0)
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text()).group(1))  # kB
few = peak(24)
print(peak(384) - few)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peaks where Linux tells them")
def test_memory_does_not_follow_the_number_of_fields():
    """All 360 fields more at once would need 1.1 GB more; in batches of eight they need their own 14 MB."""
    done = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300e3


def test_a_shift_has_its_kernel_on_one_side():
    found = measured(driven(moved(lambda x: 0.3 * np.roll(x, -1, axis=1))), images())
    kernel = np.zeros((7, 7))
    kernel[3, 4] = 0.3  # D_i = 0.3 x_{i + (0, 1)}
    np.testing.assert_allclose(found.kernel.isel(ensemble=1, sigma=0), kernel, atol=1e-9)
    np.testing.assert_allclose(found.nonreciprocal, np.sqrt(0.5), atol=1e-6)
    np.testing.assert_allclose(found.receptive_radius, 1.0, atol=1e-6)


def test_the_weight_outside_a_window_counts_what_cancels_in_the_mean():
    def field(x):
        """One pixel at distance 2 with weight 0.5; 0.6 at distance 3 with a sign that alternates; nothing beyond."""
        signs = (-1.0) ** np.arange(GRID[1])
        return x - 0.5 * np.roll(x, 2, axis=1) + 0.6 * signs * np.roll(x, 3, axis=0)

    found = measured(driven(moved(field)), images())
    expected = np.array([1.1, 1.1, 0.6, 0.0]) / 2.1  # outside 1, 3, 5, 7 pixels
    np.testing.assert_array_equal(found.window, [1, 3, 5, 7])
    np.testing.assert_allclose(found.weight_outside - expected, 0, atol=1e-7)
    assert np.all(found.weight_outside.sel(window=7) == 0)
    np.testing.assert_allclose(found.weight_outside_error, 0, atol=1e-7)


def test_a_denoiser_that_answers_nothing_has_no_share_outside_a_window():
    """D = 0, as a condensed posterior: no weight, of which no share lies anywhere."""
    found = measured(driven(np.zeros((PIXELS, PIXELS))), images())
    assert np.isnan(found.weight_outside).all() and np.isnan(found.weight_outside_error).all()
    np.testing.assert_array_equal(found.mean_jacobian, 0)


def test_the_weight_outside_a_window_errs_like_a_ratio_of_means():
    """The reach of a field is its own: near ones put all weight at distance 0, far ones two thirds at 2."""
    rng = np.random.default_rng(3)
    far = rng.integers(0, 2, size=40)
    clean = (2 * far[:, None, None, None] - 1) * np.ones((40, *GRID, 1))
    high = moved(lambda x: x + 2 * np.roll(x, 2, axis=1))
    found = measured(driven(np.eye(PIXELS), high), clean, SIGMAS / 10).sel(ensemble="noised data", window=3)
    outside, total = 2.0 * far[:20], 1 + 2.0 * far[:20]
    share = outside.mean() / total.mean()
    error = np.std(outside - share * total, ddof=1) / np.sqrt(20) / total.mean()  # to first order
    np.testing.assert_allclose(found.weight_outside, share, atol=1e-6)
    np.testing.assert_allclose(found.weight_outside_error, error, rtol=0.05)


def test_a_dense_operator_is_averaged_over_pixels_with_honest_errors():
    rng = np.random.default_rng(1)
    count = PIXELS
    matrix = rng.normal(size=(count, count)) / count + 0.3 * np.eye(count)
    found = measured(driven(matrix), images())
    exact = float(matrix.sum()) / count
    np.testing.assert_allclose(found.mean_jacobian_uniform, exact, rtol=1e-6)
    full = matrix.reshape(*GRID, *GRID)
    by_offset = np.zeros(GRID)  # g(r) = mean over i of J_{i, i + r}
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            by_offset += np.roll(full[y, x], (-y, -x), (0, 1)) / count
    symbol = np.fft.fft2(by_offset).real
    _, k_y, k_x = spectrum()
    shells = shell_means(symbol, k_y, k_x)
    part = found.isel(ensemble=0)
    score = (part.mean_jacobian.values[:, 1:] - shells[1:]) / part.mean_jacobian_error.values[:, 1:]
    assert np.sqrt(np.mean(score**2)) < 1.7 and np.sqrt(np.mean(score**2)) > 0.5


def test_the_lowest_modes_are_exact_and_err_with_the_fields():
    """A dense matrix, invariant under no shift, times a factor of each field: fit and jackknife in numpy."""
    rng = np.random.default_rng(5)
    count = PIXELS
    matrix = rng.normal(size=(count, count)) / count + 0.4 * np.eye(count) + 0.2 / count
    signs = rng.permutation(np.repeat([-1, 1], [15, 25]))
    clean = 20.0 * signs[:, None, None, None] * np.ones((40, *GRID, 1))
    found = measured(driven(0.8 * matrix, 1.2 * matrix), clean)
    y, x = (a.ravel() for a in np.indices(GRID))
    _, k_y, k_x = spectrum()
    squared = k_y**2 + k_x**2
    waves = np.exp(1j * (k_y[..., None, None] * y.reshape(GRID) + k_x[..., None, None] * x.reshape(GRID)))
    waves = waves.reshape(*GRID, count)
    symbol = np.einsum("hwi,ij,hwj->hw", waves.conj(), matrix, waves).real / count
    shell = np.rint(np.sqrt(squared) * max(GRID) / (2 * np.pi)) == 1
    factors = 1 + 0.2 * signs

    def fit(some):
        low = some.mean() * symbol
        stiffness = (low[0, 0] - low[shell]) @ squared[shell] / np.sum(squared[shell] ** 2)
        gap = 1 - low[0, 0]
        return np.array([gap, stiffness, np.sqrt(stiffness / abs(gap))])

    left = np.array([fit(np.delete(factors, i)) for i in range(40)])
    part = found.sel(ensemble="noised data")
    for number, name in enumerate(("gap", "stiffness", "xi_eq")):
        np.testing.assert_allclose(part[name], fit(factors)[number], rtol=1e-9)
        error = np.sqrt(39 / 40 * np.sum((left[:, number] - left[:, number].mean()) ** 2))
        np.testing.assert_allclose(part[f"{name}_error"], error, rtol=1e-6)
    for index, value in enumerate((symbol[0, 0], symbol[shell].mean())):
        np.testing.assert_allclose(part.mean_jacobian[:, index], factors.mean() * value, rtol=1e-9)
        error = factors.std(ddof=1) / np.sqrt(40) * abs(value)
        np.testing.assert_allclose(part.mean_jacobian_error[:, index], error, rtol=1e-6)
    exact = factors[:20].mean() * shell_means(symbol, k_y, k_x)  # as many fields have been probed
    assert np.abs(part.mean_jacobian[:, 2:] - exact[2:]).min() > 1e-5  # probes alone do not see it exactly


def test_other_denoisers_of_one_kind_and_other_seeds_compile_nothing():
    measured(driven(np.eye(PIXELS)), images())
    rng = np.random.default_rng(8)
    with counting() as count:
        measured(driven(0.1 * rng.normal(size=(PIXELS, PIXELS))), images(seed=3), SIGMAS * 1.1, seed=5)
    assert count.programs == 0


def test_crossing_and_smallest_gap_of_a_known_curve():
    """lambda = 1.2 - (ln sigma)^2: passes one at exp(sqrt 0.2) and is largest, 1.2, at sigma = 1."""
    ladder = np.geomspace(3.0, 0.5, 21)
    curve = driven(np.eye(PIXELS), rates=(1.2, 0.0, -1.0))
    found = measure(curve, uniform_images(24, 4), sigmas=ladder, num_samples=24, probe_samples=3)
    for name in ("critical_sigma_regression", "critical_sigma_closure"):
        np.testing.assert_allclose(found[name], np.exp(np.sqrt(0.2)), rtol=2e-3)
    np.testing.assert_allclose(found.minimal_gap, -0.2, atol=1e-3)
    np.testing.assert_allclose(found.minimal_gap_sigma, 1.0, rtol=1e-2)
    np.testing.assert_allclose(found.critical_sigma_regression_error, 0, atol=1e-6)


def test_no_crossing_is_found_where_a_symbol_starts_above_one():
    ladder, errors = np.array([4.0, 2.0, 1.0]), 1 + np.array([0.0, 0.01, -0.01])[:, None]
    for curve, expected in ((np.array([1.3, 0.9, 0.8]), np.nan), (np.array([0.7, 1.3, 0.9]), np.sqrt(8.0))):
        value, spread = crossing(ladder, curve, curve * errors)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert np.isfinite(spread) == np.isfinite(expected)


def uneven(slope=0.5, scatter=0.15):
    """lambda_reg(0) = 1 - slope ln(sigma) for symmetric images: of finite ensembles it scatters."""
    return driven(np.eye(PIXELS), rates=(1.0, -slope, 0.0), bend=scatter)


def uniform_images(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 1, 1, 1)) * np.ones((*GRID, 1))


def test_levels_err_together_and_the_crossing_with_them():
    """At low noise every level sees the same images: one error shifts the whole curve, by its slope the crossing."""
    ladder = np.geomspace(0.13, 0.077, 41)
    # uneven(0.2, 0.05) at ten times the noise; were levels resampled one by one, these images would give 0.58 of it.
    drift = driven(np.eye(PIXELS), rates=(1 - 0.2 * np.log(10), -0.2, 0.0), bend=0.05)
    found = measure(
        drift, uniform_images(24, 7), sigmas=ladder, num_samples=24, probe_samples=3, closure_samples=0
    ).sel(ensemble="noised data")
    error = float(found.regression_uniform_error.interp(sigma=0.1))
    assert error / 0.2 > 3 * np.log(ladder[0] / ladder[1])  # the crossing errs by several levels
    quoted = float(found.critical_sigma_regression_error)
    assert quoted == pytest.approx(float(found.critical_sigma_regression) * error / 0.2, rel=0.2)


@pytest.mark.slow
def test_error_of_a_crossing_against_repeated_ensembles():
    ladder = np.geomspace(3.0, 0.4, 13)

    def denoise(x, sigma):
        return (1 - 0.5 * np.log(sigma)) * x + 0.15 * np.cos(2 * x.mean((1, 2, 3), keepdims=True))

    found = []
    for seed in range(40):
        rng, clean = np.random.default_rng(1000 + seed), uniform_images(32, seed)
        levels = [clean + sigma * rng.normal(size=clean.shape) for sigma in ladder]
        results = [
            regression_and_resamples(x, denoise(x, sigma), jax.random.key(seed))
            for x, sigma in zip(levels, ladder, strict=True)
        ]
        curve, resampled = (np.stack([np.asarray(r[i])[..., 0] for r in results], -1) for i in (0, 1))
        found.append(crossing(ladder, curve, resampled))
    values, errors = np.array(found).T
    spread = values.std(ddof=1)
    assert abs(values.mean() - 1.0) < 3 * spread / np.sqrt(40) + 0.02
    assert spread / 2 < np.median(errors) < 2 * spread


def test_error_of_the_smallest_gap_against_repeated_ensembles():
    """Gaps of fields with a common offset each: the depth errs by the offsets' error, the place by that of shifts."""
    ladder = np.geomspace(3.0, 0.4, 13)
    found = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        offset, shift = 0.1 * rng.normal(size=(2, 16, 1))
        curves = 0.8 + offset - (np.log(ladder) - shift) ** 2
        result = minimum(ladder, curves, jax.random.key(seed))
        found.append([*result["minimal_gap"], *result["minimal_gap_sigma"]])
    gap, gap_error, sigma, sigma_error = np.array(found).T
    for values, errors, exact in ((gap, gap_error, 0.025), (sigma, sigma_error, 0.025)):
        assert exact / 1.4 < values.std(ddof=1) < 1.4 * exact
        assert exact / 1.3 < np.median(errors) < 1.3 * exact


@pytest.mark.nightly
def test_error_of_the_crossing_of_repeated_measurements():
    settings = {"sigmas": np.geomspace(3.0, 0.5, 15), "probe_samples": 3, "closure_samples": 0}
    found = [
        measure(uneven(), uniform_images(32, s), num_samples=32, seed=s, **settings).sel(
            ensemble="noised data"
        )
        for s in range(12)
    ]
    spread = np.std([f.critical_sigma_regression for f in found], ddof=1)
    quoted = np.median([f.critical_sigma_regression_error for f in found])
    assert spread / 2 < quoted < 2 * spread


def test_channels_are_reduced_to_their_leading_direction():
    mixing = jnp.array([[0.5, 0.2, 0.0], [0.2, 0.5, 0.0], [0.0, 0.0, 0.1]])
    found = measure(
        lambda x, sigma: x @ mixing.T,
        images(3),
        sigmas=SIGMAS,
        num_samples=12,
        probe_samples=3,
        closure_samples=16,
    )
    np.testing.assert_allclose(found.mean_jacobian_uniform, 0.7, atol=1e-9)
    np.testing.assert_allclose(found.regression_uniform, 0.7, atol=1e-6)
    np.testing.assert_allclose(found.kernel.isel(ensemble=0, sigma=0)[3, 3], (0.5 + 0.5 + 0.1) / 3, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sigmas": np.array([1.0, 2.0])}, "sigmas: expected"),
        ({"num_samples": 5}, "num_samples: expected at least 6, got 5"),
        ({"probe_samples": 2}, "probe_samples: expected 3 to 6, half of num_samples, got 2"),
        ({"num_probes": 1}, "num_probes: expected an integer >= 2, got 1"),
        ({"closure_samples": 6}, "closure_samples: expected 0 or a multiple of 4 from 8 on, got 6"),
        ({"images": np.full((2, *GRID, 1), np.nan)}, "images: expected finite numbers"),
    ],
)
def test_wrong_input_is_told_at_once(change, text):
    arguments = {"images": images(), "sigmas": SIGMAS, "num_samples": 12, "probe_samples": 3, **change}
    with pytest.raises(ValueError, match=text.replace("(", r"\(")):
        measure(lambda x, sigma: pytest.fail("evaluated"), arguments.pop("images"), **arguments)
