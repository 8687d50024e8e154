"""The criticality study: streaming statistics against brute force, known limits, resuming, settings."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from programs import counting
from reference import denoise, image_patches
from study_runs import CRITICALITY as TINY
from study_runs import criticality_run

from critjax._programs import as_pytree
from critjax.cli import main
from critjax.data import load_dataset
from critjax.sampling import sample
from critjax.studies import criticality
from critjax.studies.criticality import CriticalitySettings, ladder_ends, run, settings_of
from critjax.studies.criticality import prediction as theory
from critjax.studies.criticality.ensemble import (
    BatchSums,
    Estimator,
    Kept,
    combine,
    full_plane,
    mode_groups,
    simulate_batch,
    statistics,
)
from critjax.studies.criticality.film import has_reduced_model, reduced_film
from critjax.studies.criticality.problem import build_problem
from critjax.studies.measure.instruments import nonreciprocal_estimate


@pytest.fixture(scope="module")
def tiny():
    return criticality_run().result


# --- Streaming statistics against brute force
# --------------------------------------------------------------------


def brute_force_sums(x, denoised, centre):
    """Sums over trajectories (B, L, H, W, C), by explicit loops over modes."""
    count, levels, height, width, channels = x.shape
    half = width // 2 + 1
    rows, columns = np.arange(height), np.arange(width)

    def transform(field):
        out = np.zeros((height, half, channels), complex)
        for n in range(height):
            for m in range(half):
                wave = np.exp(-2j * np.pi * (n * rows[:, None] / height + m * columns / width))
                out[n, m] = (wave[..., None] * field).sum((0, 1))
        return out

    sums = [np.zeros((levels, height, half, *tail), complex) for tail in ((channels,), (channels,))]
    power, cross = (np.zeros((levels, height, half, channels, channels), complex) for _ in range(2))
    d_power, s_power = (np.zeros((levels, height, half)) for _ in range(2))
    for b in range(count):
        for level in range(levels):
            x_k, d_k = transform(x[b, level]), transform(denoised[b, level])
            sums[0][level] += x_k
            sums[1][level] += d_k
            power[level] += x_k[..., :, None] * x_k[..., None, :].conj()
            cross[level] += d_k[..., :, None] * x_k[..., None, :].conj()
            d_power[level] += (np.abs(d_k) ** 2).sum(-1)
            s_power[level] += (np.abs(transform(np.sign(x[b, level] - centre))) ** 2).sum(-1)
    return *sums, power, cross, d_power, s_power


def brute_force_moments(x, window):
    """Sums over trajectories (B, L, H, W, C) of spatial means of psi to psi^4, psi of the modes |k| <= 2 pi/window."""
    height, width = x.shape[2:4]
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    psi = np.zeros(x.shape[:-1])
    for n in range(-height, height):
        for m in range(-width, width):
            alias = 2 * abs(n) > height or 2 * abs(m) > width or -2 * n == height or -2 * m == width
            if alias or (n / height) ** 2 + (m / width) ** 2 > 1 / window**2 + 1e-12:
                continue
            wave = np.exp(2j * np.pi * (n * rows / height + m * columns / width))
            amplitude = (x.mean(-1) * wave.conj()).mean((-2, -1), keepdims=True)
            psi += (amplitude * wave).real
    return np.stack([(psi**n).mean((-2, -1)).sum(0) for n in (1, 2, 3, 4)], axis=-1)


MIX = np.array([[0.5, 0.2], [-0.1, 0.3]])


def crooked(x, sigma):
    return jnp.tanh(jnp.roll(x, 1, 0) @ MIX / sigma) + 0.2


@pytest.fixture(scope="module")
def trajectories():
    """Three trajectories of a denoiser of two channels: keys, ladder, x and D (B, L, H, W, C)."""
    sigmas, keys = np.array([3.0, 1.5, 1.0]), jax.random.split(jax.random.key(0), 3)
    paths = jax.jit(jax.vmap(lambda key: sample(crooked, key, (4, 5, 2), sigmas, eta=0.5)))(keys)
    return keys, sigmas, np.asarray(paths.x), np.asarray(paths.denoised)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.3, -0.1)])
def test_batch_sums_are_the_sums_over_the_very_trajectories(centre, trajectories):
    keys, sigmas, x, denoised = trajectories
    options = {"kept_levels": (0, 2), "num_kept": 2, "eta": 0.5, "solver": "heun", "window": 4}
    denoise_fn, centre = as_pytree("denoise_fn", crooked), np.array(centre)
    sums, kept = simulate_batch(denoise_fn, keys, sigmas, centre, shape=(4, 5, 2), **options)
    for got, expected in zip(sums[:6], brute_force_sums(x, denoised, np.asarray(centre)), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-10)
    np.testing.assert_allclose(sums.soft, brute_force_moments(x, 4), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(sums.order, x.mean((2, 3, 4)), atol=1e-13)
    np.testing.assert_allclose(kept.x, x[:2][:, [0, 2]], atol=1e-13)
    np.testing.assert_allclose(kept.denoised, denoised[:2][:, [0, 2]], atol=1e-13)
    # Wall density by hand: bonds to the right and downward, periodic.
    y = denoised - np.asarray(centre)
    walls = [(np.sign(y) * np.sign(np.roll(y, -1, axis)) < 0).mean((2, 3, 4)) for axis in (2, 3)]
    np.testing.assert_allclose(sums.walls, (walls[0] + walls[1]) / 2, atol=1e-13)


def make_estimator(grid, sigmas, softest=(0, 0)):
    """What theory would say: critical at one, no growth."""
    groups, levels = mode_groups(grid)[1], len(sigmas)
    ones = np.ones((levels, len(groups)))
    return Estimator(np.asarray(sigmas), np.ones(levels), np.array(softest), groups, ones)


_statistics = jax.jit(statistics, static_argnames=("width", "size", "own_start"))


def measure(batches, grid, estimator):
    found = _statistics(combine(batches), estimator, width=grid[1], size=3, own_start=False)
    return jax.tree.map(np.asarray, found)


def one_over_e(fields):
    """Radius at which the radially averaged autocorrelation of fields (B, L, H, W) falls to 1/e, by shifts."""
    height, width = fields.shape[2:]
    rings = {}
    for r_y in range(-(height // 2), height - height // 2):
        for r_x in range(-(width // 2), width - width // 2):
            radius = np.hypot(r_y, r_x)
            if radius <= min(height, width) / 2:
                product = (fields * np.roll(fields, (r_y, r_x), (2, 3))).mean((0, 2, 3))
                rings.setdefault(int(np.rint(radius)), []).append((radius, product))
    radii = np.array([np.mean([r for r, _ in rings[i]]) for i in sorted(rings)])
    curves = np.array([np.mean([c for _, c in rings[i]], 0) for i in sorted(rings)])
    lengths = []
    for curve in (curves / curves[0]).T:
        below = int(np.argmax(curve < np.exp(-1)))  # zero: never
        drop = (curve[below - 1] - np.exp(-1)) / (curve[below - 1] - curve[below])
        found = radii[below - 1] + drop * (radii[below] - radii[below - 1])
        lengths.append(found if below else np.nan)
    return np.array(lengths)


def test_statistics_against_numpy_on_whole_fields():
    """Every measured quantity again from the fields themselves, centred by the ensemble mean."""
    rng = np.random.default_rng(0)
    count, grid, sigmas = 24, (6, 8), np.array([2.0, 1.0, 0.5])
    smooth = rng.normal(size=(count, 3, *grid))
    smooth = smooth + 0.7 * np.roll(smooth, 1, -1) + 0.7 * np.roll(smooth, 1, -2) + 0.3
    denoised = 0.4 * np.roll(smooth, 1, -2) ** 3 + 0.6 * smooth + rng.normal(size=smooth.shape) * 0.1
    x_hat, d_hat = np.fft.fft2(smooth), np.fft.fft2(denoised)
    half = np.s_[..., : grid[1] // 2 + 1]
    batches = []
    for part in np.split(np.arange(count), 6):
        x, d, s = x_hat[part], d_hat[part], np.fft.fft2(np.sign(smooth[part]))
        batches.append(
            BatchSums(
                x[half].sum(0)[..., None],
                d[half].sum(0)[..., None],
                (np.abs(x[half]) ** 2).sum(0)[..., None, None].astype(complex),
                (d[half] * x[half].conj()).sum(0)[..., None, None],
                (np.abs(d[half]) ** 2).sum(0),
                (np.abs(s[half]) ** 2).sum(0),
                smooth[part].mean((-2, -1)),
                np.full((4, 3), 0.25),
                np.stack([(smooth[part] ** n).mean((-2, -1)).sum(0) for n in (1, 2, 3, 4)], axis=-1),
            )
        )
    got = measure(batches, grid, make_estimator(grid, sigmas, softest=(1, 7)))
    x, d = x_hat - x_hat.mean(0), d_hat - d_hat.mean(0)
    power = (np.abs(x) ** 2).sum(0) / (count - 1) / 48
    cross = (d * x.conj()).sum(0) / (count - 1) / 48
    n_y, n_x = np.meshgrid(np.fft.fftfreq(6), np.fft.fftfreq(8), indexing="ij")
    shell = np.rint(np.hypot(n_y, n_x) * 8).astype(int)
    for s in range(4):
        inside = (shell == s) & (np.hypot(n_y, n_x) <= 0.5)
        np.testing.assert_allclose(got["structure_factor"][:, s], power[:, inside].mean(1), rtol=1e-10)
        expected = cross[:, inside].sum(1).real / power[:, inside].sum(1)
        np.testing.assert_allclose(got["lambda_reg"][:, s], expected, rtol=1e-10)
    softest = cross[:, 1, 7] / power[:, 1, 7]
    np.testing.assert_allclose(got["lambda_reg_softest"], softest.real, rtol=1e-10)
    np.testing.assert_allclose(got["lambda_reg_softest_imag"], softest.imag, rtol=1e-10)
    np.testing.assert_allclose(got["lambda_reg_uniform"], (cross / power)[:, 0, 0].real, rtol=1e-10)
    nearest = (power[:, 0, 1] + power[:, 0, -1]) / 2
    xi = np.sqrt((power[:, 0, 0] / nearest - 1 + 0j) / (4 * np.sin(np.pi / 8) ** 2))
    expected = np.where(xi.imag == 0, xi.real, np.nan)
    np.testing.assert_allclose(got["xi_second_moment"], expected, rtol=1e-9)
    kernel = np.fft.fft2(cross / power, axes=(1, 2)) / 48  # g(r) = (1/N) sum_k lambda e^{-ik.r}
    window = np.zeros_like(kernel)
    for r_y in (-1, 0, 1):
        for r_x in (-1, 0, 1):
            window[:, r_y, r_x] = kernel[:, r_y, r_x].real
    projected = np.fft.ifft2(window, axes=(1, 2)).real * 48
    np.testing.assert_allclose(got["lambda_reg_top"], projected.max((1, 2)), rtol=1e-9)
    for s in range(4):
        inside = (shell == s) & (np.hypot(n_y, n_x) <= 0.5)
        np.testing.assert_allclose(got["lambda_reg_fastest"][:, s], projected[:, inside].max(1), rtol=1e-9)
    np.testing.assert_allclose(got["xi_raw"], one_over_e(smooth - smooth.mean(0)), rtol=1e-9)
    np.testing.assert_allclose(got["xi_sign"], one_over_e(np.sign(smooth)), rtol=1e-9)
    np.testing.assert_allclose(got["xi_denoised"], one_over_e(denoised - denoised.mean(0)), rtol=1e-9)
    # xi_eq: straight line of the gap in |k|^2 through the modes of the shells 0 to 3; k and -k are one.
    low = (shell <= 3) & (np.hypot(n_y, n_x) <= 0.5)
    twins = low & ~(np.isin(n_y, (0, -0.5)) & np.isin(n_x, (0, -0.5)))
    weight = np.sqrt(np.where(twins, 0.5, 1.0))[low]
    squared = (4 * np.pi**2 * (n_y**2 + n_x**2))[low]
    fits = [np.polyfit(squared, 1 - level[low], 1, w=weight) for level in (cross / power).real]
    expected = [np.sqrt(slope / abs(gap)) if slope > 0 else np.nan for slope, gap in fits]
    np.testing.assert_allclose(got["xi_eq_measured"], expected, rtol=1e-8)
    for name in ("xi_raw", "xi_sign", "xi_denoised", "xi_eq_measured"):
        assert np.isfinite(got[name]).any(), name
    order = smooth.mean((-2, -1))
    order = order - order.mean(0)
    np.testing.assert_allclose(
        got["binder"], 1 - (order**4).mean(0) / (3 * (order**2).mean(0) ** 2), rtol=1e-9
    )
    psi = smooth - smooth.mean((0, -2, -1), keepdims=True)
    kurtosis = (psi**4).mean((0, -2, -1)) / (psi**2).mean((0, -2, -1)) ** 2
    np.testing.assert_allclose(got["soft_kurtosis"], kurtosis, rtol=1e-9)


def batch_sums(denoise_fn, keys, sigmas, shape, centre=0.0):
    """Euler steps of the probability flow, one kept field, soft modes of windows of three."""
    options = {"kept_levels": (0,), "num_kept": 1, "eta": 0.0, "solver": "euler", "window": 3}
    denoise_fn = as_pytree("denoise_fn", denoise_fn)
    return simulate_batch(denoise_fn, keys, sigmas, np.asarray(centre), shape=shape, **options)[0]


def test_linear_denoiser_of_three_channels_is_measured_exactly():
    mix = np.array([[0.5, 0.3, 0.0], [-0.2, 0.4, 0.1], [0.0, 0.2, 0.6]])
    sigmas, keys = np.array([3.0, 2.0, 1.0]), jax.random.split(jax.random.key(0), 16)

    def mixing(x, sigma):
        return jnp.roll(x, -1, 1) @ mix.T / sigma

    batches = [batch_sums(mixing, part, sigmas, (4, 6, 3)) for part in np.split(keys, 4)]
    got = measure(batches, (4, 6), make_estimator((4, 6), sigmas, softest=(0, 1)))
    top = np.linalg.eigvals(mix)
    top = top[np.argmax(top.real)]
    at_zero = top.real / np.asarray(sigmas)
    np.testing.assert_allclose(got["lambda_reg_uniform"], at_zero, rtol=1e-9)
    turned = max((np.exp(2j * np.pi / 6) * np.linalg.eigvals(mix)), key=lambda v: v.real)
    np.testing.assert_allclose(got["lambda_reg_softest"], turned.real / np.asarray(sigmas), rtol=1e-9)
    np.testing.assert_allclose(got["lambda_reg_softest_imag"], turned.imag / np.asarray(sigmas), rtol=1e-9)


def test_no_measured_quantity_depends_on_the_batch_size():
    """The same trajectories in batches of one, two and all, of a model whose mean is not that of the data."""
    sigmas, keys = np.array([3.0, 1.5, 0.7]), jax.random.split(jax.random.key(5), 4)
    estimator, found = make_estimator((6, 8), sigmas), []

    def shifted(x, sigma):
        return jnp.tanh(jnp.roll(x, 1, 0) / sigma) - 0.6

    for count in (1, 2, 4):
        batches = [batch_sums(shifted, k, sigmas, (6, 8, 1), [-0.5]) for k in np.split(keys, count)]
        found.append(measure(batches, (6, 8), estimator))
    whole, *parts = found
    assert np.ptp(whole["wall_density"]) > 0.01 and np.isfinite(whole["xi_sign"]).any()
    for part in parts:
        for name, value in whole.items():
            np.testing.assert_allclose(part[name], value, rtol=1e-8, atol=1e-10, err_msg=name)


def straight(offset, slope, x, sigma):
    return (offset + slope * sigma) * x


@pytest.mark.parametrize(("offset", "slope", "turns"), [(-0.4, 1.0, False), (1.4, -0.5, True)])
def test_a_mode_that_starts_above_the_threshold_has_no_effective_critical_noise(offset, slope, turns):
    """D = (offset + slope sigma) x: as the noise falls the symbol falls, or rises, through one."""
    sigmas, keys = np.array([1.6, 1.0, 0.5]), jax.random.split(jax.random.key(0), 4)
    sums = batch_sums(Partial(straight, offset, slope), keys, sigmas, (6, 8, 1))
    got = measure([sums], (6, 8), make_estimator((6, 8), sigmas))
    names = ("critical_sigma_measured", "critical_sigma_uniform_measured", "critical_sigma_top_measured")
    for name in (*names, "lambda_reg_crossing"):
        assert np.all(np.isfinite(got[name]) == turns), name


@pytest.mark.parametrize("width", [5, 6])
def test_full_plane_restores_the_other_half(width):
    field = np.random.default_rng(1).normal(size=(3, 4, width))
    full = jax.jit(full_plane, static_argnums=1)(np.fft.rfft2(field), width)
    np.testing.assert_allclose(full, np.fft.fft2(field), atol=1e-12)


def test_low_modes_are_averaged_over_all_their_wavevectors():
    grid = (8, 12)
    values = np.abs(np.fft.fft2(np.random.default_rng(2).normal(size=grid))) ** 2
    wavenumbers, weights = mode_groups(grid, 0.0, 6)
    n_y, n_x = np.meshgrid(np.fft.fftfreq(8), np.fft.fftfreq(12), indexing="ij")
    size = 2 * np.pi * np.hypot(n_y, n_x)
    assert np.allclose(wavenumbers, np.unique(np.round(size, 12))[:6])
    for wavenumber, weight in zip(wavenumbers, weights, strict=True):
        expected = values[np.isclose(size, wavenumber)].mean()
        np.testing.assert_allclose((weight * values[:, :7]).sum(), expected, rtol=1e-12)
    near, _ = mode_groups(grid, 1.5, 5)
    distinct = np.unique(np.round(size, 12))
    assert np.allclose(near, np.sort(distinct[np.argsort(np.abs(distinct - 1.5))[:5]]))


def test_nonreciprocal_size_is_free_of_the_bias_of_noise():
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(3, 3, 1, 1))
    odd = (kernel - kernel[::-1, ::-1]) / 2
    truth = np.sqrt((odd**2).sum() / (kernel**2).sum())
    draws, naive = [], []
    for _ in range(150):
        noisy = kernel + 1.5 * rng.normal(size=(8, 3, 3, 1, 1))
        draws.append(nonreciprocal_estimate(noisy)[0] ** 2)
        mean = noisy.mean(0)
        naive.append((((mean - mean[::-1, ::-1]) / 2) ** 2).sum() / (mean**2).sum())
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws) - truth**2) < 4 * error + 0.02
    assert abs(np.mean(naive) - truth**2) > abs(np.mean(draws) - truth**2)
    value, spread = nonreciprocal_estimate(np.repeat(kernel[None], 4, 0))
    assert value == pytest.approx(truth) and spread == pytest.approx(0.0, abs=1e-12)


def test_errors_of_the_nonreciprocal_size_cover_its_spread():
    """Of a reciprocal mean kernel half of the estimated squares are negative; their zeros are not exact."""
    rng = np.random.default_rng(4)
    kernel = rng.normal(size=(3, 3, 1, 1))
    even, odd = ((kernel + sign * kernel[::-1, ::-1]) / 2 for sign in (1, -1))

    def estimates(mean):
        noise = rng.normal(size=(150, 8, *mean.shape))
        return np.array([nonreciprocal_estimate(mean + 0.3 * sample) for sample in noise]).T

    value, error = estimates(even)
    assert 0.3 < np.mean(value == 0) < 0.7
    assert np.all(error > 0.01)
    assert np.mean(value <= error) > 0.68 and np.mean(value <= 2 * error) > 0.85
    assert 0.7 < np.sqrt(np.mean(error**2) / np.mean(value**2)) < 2
    value, error = estimates(even + odd)  # far from zero the error is that of the root by propagation
    assert np.sqrt(np.mean(error**2)) == pytest.approx(value.std(), rel=0.25)


def test_crossing_interpolates_in_the_logarithm():
    sigmas = np.array([4.0, 2.0, 1.0])
    curve = 1.5 - np.log2(sigmas)  # -0.5, 0.5, 1.5
    assert theory.crossing(sigmas, curve, np.ones(3)) == pytest.approx(np.sqrt(2.0))
    assert np.isnan(theory.crossing(sigmas, curve, np.full(3, 9.0)))
    assert np.isnan(theory.crossing(sigmas, curve, np.full(3, -9.0)))


def test_error_of_a_crossing_from_whichever_shifted_curve_crosses():
    sigmas, one = np.array([4.0, 2.0, 1.0]), np.ones(3)
    curve = 1.5 - np.log2(sigmas)  # -0.5, 0.5, 1.5

    def error(curve, size):
        return theory.crossing_error(sigmas, curve, np.full(3, size), one)

    # Shifted by 0.25 the crossing moves by that many powers of two, to either side.
    assert error(curve, 0.25) == pytest.approx((2**0.75 - 2**0.25) / 2)
    # Shifted down by 0.75 it never crosses, shifted up by as much at 2^1.25.
    assert np.isnan(theory.crossing(sigmas, curve - 0.75, one))
    assert error(curve, 0.75) == pytest.approx(2**1.25 - 2**0.5)
    # A curve that grazes: what is above it starts above, what is below still crosses.
    assert error(curve + 1.4, 0.25) == pytest.approx(
        theory.crossing(sigmas, curve + 1.4, one) - theory.crossing(sigmas, curve + 1.15, one)
    )
    assert np.isnan(error(curve - 9.0, 0.25)) and np.isnan(error(curve, 9.0))


# --- The study on banks with known answers
# --------------------------------------------------------------------


@pytest.mark.slow
def test_linear_theory_of_two_patterns_holds_in_its_regime():
    """512 samples, sigma^2 >= 4 sigma_c^2: S(k) over its start within 5 per cent, ten smallest |k|."""
    settings = CriticalitySettings(
        bank="two-pattern", num_levels=6, sigma_min=18.0, closure_samples=0, probe_samples=0, num_samples=512
    )
    result = run(settings)
    assert float(result.critical_sigma_bare) == pytest.approx(9.0, rel=1e-5)
    assert float(result.critical_wavenumber_bare) == 0
    assert result.attrs["instability_kind"] == "uniform"
    assert result.linear_ratio.shape == (6, 10)
    np.testing.assert_allclose(result.linear_ratio, 1.0, atol=0.05)
    # The same linear theory in closed form: S = t exp(2 c (1/t - 1/T)) / ... with c(k) = P at k = 0 and eta =
    # 0.
    t = result.sigma.values.astype(float) ** 2
    expected = t / t[0] * np.exp(81 * (1 / t - 1 / t[0]))
    np.testing.assert_allclose(result.linear_growth[:, 0], expected, rtol=2e-5)
    # Theory's error is systematic and resolved: fluctuations can only slow the growth.
    assert float(result.linear_ratio_mean[-1]) < 1 - 3 * float(result.linear_ratio_mean_error[-1])


def test_effective_critical_noise_of_two_patterns(tiny):
    """Simulation and closure turn later than bare theory, whose curves are those of THEORY."""
    assert float(tiny.critical_sigma_bare) == pytest.approx(3.0, rel=1e-6)
    assert float(tiny.critical_sigma_bare_ve) == pytest.approx(3.0, rel=1e-6)
    measured, error = float(tiny.critical_sigma_measured), float(tiny.critical_sigma_measured_error)
    assert error > 0
    assert measured < 2.6
    assert float(tiny.critical_sigma_closure) < 2.6
    sigma = tiny.sigma.values
    np.testing.assert_allclose(tiny.lambda_bare_softest, 9 / sigma**2, rtol=1e-6)
    np.testing.assert_allclose(tiny.growth_rate[:, 0], 9 / sigma**2 - 1, rtol=1e-6)
    np.testing.assert_allclose(tiny.homogeneous_growth_rate, 9 / sigma**2 - 1, rtol=1e-6)
    np.testing.assert_allclose(tiny.crossing_sigma, [3.0, np.nan, np.nan, np.nan], rtol=1e-6)
    assert int(tiny.num_crossings) == 1
    xi = np.sqrt(9 / sigma**2 * 8 / 24 / np.abs(1 - 9 / sigma**2))  # K = (P/sigma^2)(p^2-1)/24
    np.testing.assert_allclose(tiny.xi_eq_bare, xi, rtol=1e-6)


def test_closure_beside_linear_theory_in_the_same_modes(tiny):
    """Both start from white noise, so that the ratio of growths is that of the structure factors."""
    assert tiny.closure_ratio.shape == tiny.linear_ratio.shape
    np.testing.assert_allclose(tiny.closure_ratio[0], 1.0, rtol=1e-12)
    assert float(tiny.checked_wavenumber[0]) == 0.0
    ratio = tiny.structure_factor_closure[:, 0] / tiny.structure_factor_linear[:, 0]
    np.testing.assert_allclose(tiny.closure_ratio[:, 0], ratio, rtol=1e-10)
    # The closure is what the simulation is nearer to, once fluctuations are felt.
    felt = np.abs(np.log(tiny.closure_ratio[:, 0])) > 0.2
    assert felt.any()
    off = np.abs(np.log(tiny.linear_ratio[:, 0] / tiny.closure_ratio[:, 0]))
    assert np.all(off[felt] < np.abs(np.log(tiny.linear_ratio[:, 0]))[felt])


def test_closure_of_a_coarse_ladder_has_no_error_of_its_first_step():
    """The first step carries the symbol's rise, not only its first value: S agrees with that of a fine ladder."""
    settings = dataclasses.replace(TINY, probe_samples=0, sigma_max=6.0, sigma_min=2.5)
    found = []
    for num_levels in (4, 61):
        fixed = dataclasses.replace(settings, num_levels=num_levels).resolved()
        problem = build_problem(fixed)
        prediction = theory.predict(problem, fixed)
        found.append(theory.closure_prediction(problem, fixed, prediction, jax.random.key(0))[0])
    coarse, fine = (np.asarray(f["structure_factor_closure"][1]) for f in found)
    assert abs(coarse[1, 0] / fine[20, 0] - 1) < 0.01
    rise = np.asarray(found[1]["lambda_closure_uniform"][1])
    step = np.log(6.0 / 2.5) / 3
    assert np.exp(step * (rise[20] - rise[0])) > 1.02  # what a constant symbol would miss


def test_soft_modes_are_gaussian_until_they_choose_a_sign(tiny):
    kurtosis, error = tiny.soft_kurtosis.values, tiny.soft_kurtosis_error.values
    assert abs(kurtosis[0] - 3) < 4 * error[0]
    assert kurtosis[-1] < 3 - 3 * error[-1]
    assert float(tiny.kurtosis_closure[0]) == pytest.approx(3.0)
    assert float(tiny.kurtosis_closure[-1]) < 2.5  # two values: the closure expects less than three
    assert np.all(np.isnan(tiny.kurtosis_closure_error))  # two samples make one replica


def reduced_two_patterns(start, sigmas, size, steps=400):
    """dpsi_k/dtau = (lambda_k - 1) psi_k - (u psi^3)_k in numpy, RK4: lambda and u of two constant patterns."""
    shape = start.shape
    n_y, n_x = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]
    kept = (np.abs(n_y) < 0.25) & (np.abs(n_x) < 0.25)
    offsets = np.arange(-(size // 2), size // 2 + 1)
    kernel = sum(np.cos(2 * np.pi * (n_y * a + n_x * b)) for a in offsets for b in offsets)

    def drift(psi_hat, t):
        cubic = np.fft.fft2(np.fft.ifft2(psi_hat).real ** 3)
        return (kernel / t - 1) * psi_hat - (size**2 / t) ** 3 / 3 * np.where(kept, cubic, 0)

    psi_hat = np.where(kept & (n_y**2 + n_x**2 <= 1 / (2 * size) ** 2), np.fft.fft2(start), 0)
    fields = [np.fft.ifft2(psi_hat).real]
    for high, low in itertools.pairwise(sigmas):
        step = np.log(high / low) / steps
        for i in range(steps):
            t, middle, end = (high * np.exp(-step * (i + part)) for part in (0, 0.5, 1))
            first = drift(psi_hat, t**2)
            second = drift(psi_hat + step / 2 * first, middle**2)
            third = drift(psi_hat + step / 2 * second, middle**2)
            fourth = drift(psi_hat + step * third, end**2)
            psi_hat = psi_hat + step / 6 * (first + 2 * second + 2 * third + fourth)
        fields.append(np.fft.ifft2(psi_hat).real)
    return np.array(fields)


def test_reduced_film_starts_from_the_noise_of_the_first_sample(tiny):
    noise = tiny.film_x.values[0, 0, ..., 0]
    assert len(tiny.film_sigma) < len(tiny.sigma)
    expected = reduced_two_patterns(noise, tiny.sigma.values, TINY.size)
    chosen = [int(np.argmin(np.abs(tiny.sigma.values - s))) for s in tiny.film_sigma.values]
    for field, level in zip(tiny.film_reduced.values, chosen, strict=True):
        scale = np.abs(expected[level]).max()
        np.testing.assert_allclose(field, expected[level], atol=0.01 * scale)
    np.testing.assert_allclose(tiny.reduced_cubic, (9 / tiny.sigma**2) ** 3 / 3, rtol=1e-6)
    assert float(tiny.film_reduced_correlation[0]) == pytest.approx(1.0)
    # With the closure's symbol a mode grows by its integral (trapezoids), roughly the root of the closure's S.
    mean = tiny.film_closure.mean(("y", "x")).values / noise.mean()
    rate = tiny.lambda_closure_uniform.values - 1
    grown = (rate[1:] + rate[:-1]) / 2 * -np.diff(np.log(tiny.sigma.values))
    np.testing.assert_allclose(mean, np.exp(np.append(0, np.cumsum(grown)))[chosen], rtol=1e-6)
    root = np.sqrt(tiny.structure_factor_closure.values[chosen, 0]) / tiny.sigma.values[0]
    np.testing.assert_allclose(mean, root, rtol=0.06)


@pytest.mark.slow
def test_reduced_film_of_the_reverse_sde_has_the_noise_of_its_sample():
    settings = CriticalitySettings(
        bank="two-pattern", size=3, grid=(16, 16), eta=1.0, num_samples=4, batch_size=2, num_levels=40, sigma_max=7.0,
        sigma_min=2.5, closure_samples=8, probe_samples=0, seed=3,
    )  # fmt: skip
    result = run(settings)
    assert np.all(result.film_closure_correlation > 0.9)
    assert np.all(result.film_reduced_correlation[:4] > 0.9)
    # With other noise the start is soon forgotten.
    resolved = settings.resolved()
    problem = build_problem(resolved)
    prediction = theory.predict(problem, resolved)
    kept = Kept(*(result[name].values for name in ("film_x", "film_denoised")))
    levels = np.searchsorted(-result.sigma.values, -result.film_sigma.values)
    other = reduced_film(problem, resolved, prediction, kept, levels, jax.random.key(99), None)
    assert other["film_reduced_correlation"][1][3] < 0.8


@pytest.mark.slow
def test_a_reduced_model_that_diverges_stops_nothing():
    settings = CriticalitySettings(
        size=5, grid=(16, 16), num_samples=4, num_levels=12, batch_size=2, num_banks=0, closure_samples=0,
        probe_samples=0,
    )  # fmt: skip
    result = run(settings)
    assert float(result.reduced_cubic[0]) < 0
    assert np.isfinite(result.film_reduced[0]).all() and np.isnan(result.film_reduced[-1]).all()
    assert "film_closure" not in result


def test_a_wave_has_no_reduced_model(tiny):
    assert "film_reduced" in tiny and "film_x" in tiny
    settings = CriticalitySettings(
        bank="stripe", wavelength=4.0, size=5, grid=(16, 16), num_levels=12
    ).resolved()
    problem = build_problem(settings)
    prediction = theory.predict(problem, settings)
    assert float(prediction.variables["critical_wavenumber_bare"][1]) > np.pi / 5
    assert not has_reduced_model(problem, prediction)


def test_every_measured_quantity_has_an_error_and_axes(tiny):
    measured = [n for n in tiny.data_vars if f"{n}_error" in tiny]
    assert {"structure_factor", "lambda_reg", "mean_jacobian_softest", "effective_patches", "binder"} <= set(
        measured
    )
    for name in measured:
        assert tiny[name].dims == tiny[f"{name}_error"].dims
        finite = np.isfinite(tiny[name].values)
        assert np.all(tiny[f"{name}_error"].values[finite & np.isfinite(tiny[f"{name}_error"])] >= 0)
    assert tiny.sigma.attrs["units"].startswith("image units")
    assert tiny.wavenumber.attrs["units"] == "rad per pixel"
    assert tiny.xi_raw.attrs["units"] == "pixels"


def test_smallest_gap_of_the_mean_jacobian_is_that_of_a_parabola(tiny):
    log_sigma, gap = np.log(tiny.probe_sigma.values), 1 - tiny.mean_jacobian_softest.values
    least = int(np.argmin(gap))
    around = slice(least - 1, least + 2)
    a, b, c = np.polyfit(log_sigma[around], gap[around], 2)
    assert float(tiny.minimal_gap) == pytest.approx(c - b**2 / (4 * a), rel=1e-6)
    assert float(tiny.minimal_gap_sigma) == pytest.approx(np.exp(-b / (2 * a)), rel=1e-6)
    # Three fields: the spread of resampled means is sqrt(2/3) of the standard error.
    error = float(tiny.mean_jacobian_softest_error[least])
    assert 0.3 * error < float(tiny.minimal_gap_error) < 3 * error
    assert 0 < float(tiny.minimal_gap_sigma_error) < np.ptp(tiny.probe_sigma.values[around])


def brute_force_condensation(result, data, **options):
    """Geometric means over pixels and samples of the effective number of patches, and their errors, on the film."""
    fields = np.moveaxis(result.film_x.values, 1, 0)
    options = dict(options, boundary="periodic", readout="centre")
    logs = [
        [np.log(denoise(x, sigma, data, **options).effective).mean() for x in samples]
        for sigma, samples in zip(result.film_sigma.values, fields, strict=True)
    ]
    value = np.exp(np.mean(logs, 1))
    return value, value * np.std(logs, axis=1, ddof=1) / np.sqrt(2)


def check_condensation(result, data, rtol, **options):
    value, error = brute_force_condensation(result, data, **options)
    found = result.sel(probe_sigma=result.film_sigma.values)
    np.testing.assert_allclose(found.effective_patches, value, rtol=rtol)
    np.testing.assert_allclose(found.effective_patches_error, error, rtol=100 * rtol, atol=rtol)
    return value


def test_condensation_of_two_patterns_against_brute_force(tiny):
    value = check_condensation(
        tiny, np.ones((2, 3, 3, 1)) * [[[[1.0]]], [[[-1.0]]]], 1e-9, size=3, positions=None
    )
    assert value[0] > 1.5 and value[-1] < 1.1


def test_jackknife_is_over_batches(tiny):
    """The error of a mean over samples is that of the batch means."""
    parts = criticality_run().parts
    assert list(parts) == [f"batch-{i:05d}" for i in range(6)]
    means = np.array([part["sums_walls"].mean(0) for part in parts.values()])
    np.testing.assert_allclose(tiny.wall_density, means.mean(0), rtol=1e-10)
    np.testing.assert_allclose(tiny.wall_density_error, means.std(0, ddof=1) / np.sqrt(6), rtol=1e-8)


def test_spread_over_random_banks_is_the_mean_field_one():
    settings = CriticalitySettings(
        size=5, num_random=4, grid=(8, 8), num_banks=400, precision="float64"
    ).resolved()
    problem = build_problem(settings)
    found = theory.bank_spread(problem, settings)
    draws = found["draw_critical_uniform"][1]
    mean, spread = 1 + 24 / 5, np.sqrt(4 * 24) / 5
    assert found["mean_field_squared"][1] == pytest.approx(mean)
    assert abs(draws.mean() - mean) < 4 * spread / np.sqrt(400)
    assert draws.std() == pytest.approx(spread, rel=0.15)
    patches = np.asarray(problem.bank.patches, float)[..., 0]
    own = (patches[:, 2, 2, None, None] * patches).mean(0).sum()
    assert found["bank_critical_uniform_squared"][1] == pytest.approx(own)
    assert np.all(found["draw_critical_softest"][1] >= draws)


def followed_uniform_rate(images, size, sigmas, steps=60):
    """Gamma(0) of images (N, H, W, C) in numpy: the state by RK4 from far above, dD/dm - 1 by central differences."""
    phi, _ = image_patches(images.astype(np.float64), size, "interior")
    flat, centres = phi.reshape(len(phi), -1, phi.shape[-1]), phi[:, size // 2, size // 2]

    def denoise(m, sigma):
        logits = -((m - flat) ** 2).sum((1, 2)) / (2 * sigma**2)
        weights = np.exp(logits - logits.max())
        return weights @ centres / weights.sum()

    m, rates = centres.mean(0), []
    for high, low in itertools.pairwise([100 * sigmas[0], *sigmas]):
        count = steps * (1 + 9 * (high > sigmas[0]))
        step = np.log(high / low) / count
        for i in range(count):
            begin, middle, end = (high * np.exp(-step * (i + part)) for part in (0, 0.5, 1))
            first = denoise(m, begin) - m
            second = denoise(m + step / 2 * first, middle) - m - step / 2 * first
            third = denoise(m + step / 2 * second, middle) - m - step / 2 * second
            last = denoise(m + step * third, end) - m - step * third
            m = m + step / 6 * (first + 2 * second + 2 * third + last)
        pushes = 1e-5 * np.eye(len(m))
        jacobian = [(denoise(m + push, low) - denoise(m - push, low)) / 2e-5 for push in pushes]
        rates.append(np.linalg.eigvals(jacobian).real.max() - 1)
    return np.array(rates)


@pytest.mark.parametrize("positions", ["all", "interior"])
def test_signs_of_images_are_about_the_mean_of_the_centres_of_patches(tmp_path, positions):
    images = np.random.default_rng(6).uniform(-1, 1, (3, 6, 7)).astype(np.float32)
    images[:, 1:-1, 1:-1] += (1 - images[:, 1:-1, 1:-1]) / 2
    np.save(tmp_path / "some.npy", images)
    settings = CriticalitySettings(bank=str(tmp_path / "some.npy"), size=3, positions=positions)
    centres = images if positions == "all" else images[:, 1:-1, 1:-1]
    np.testing.assert_allclose(build_problem(settings.resolved()).mean, [centres.mean()], rtol=1e-5)
    np.testing.assert_array_equal(build_problem(TINY.resolved()).mean, [0.0])


def test_images_have_a_null_model_and_a_moving_state(tmp_path):
    rng = np.random.default_rng(4)
    images = np.clip(rng.normal(size=(6, 8, 8)) * 0.2 + rng.normal(size=(6, 1, 1)) * 0.4 - 0.2, -1, 1)
    images[0, 0, 0] = -0.9
    np.save(tmp_path / "blobs.npy", images.astype(np.float32))
    settings = CriticalitySettings(
        bank=str(tmp_path / "blobs.npy"),
        size=3,
        num_samples=4,
        num_levels=6,
        closure_samples=2,
        probe_samples=2,
    )
    result = run(settings)
    assert result.attrs["title"].endswith("blobs")
    centred = images.astype(np.float32) - images.astype(np.float32).mean((0, 1, 2))
    spectrum = (np.abs(np.fft.fft2(centred)) ** 2).mean(0) / 64
    sigma = result.sigma.values[:, None, None]
    null = spectrum / (spectrum + sigma**2)
    np.testing.assert_allclose(result.lambda_null_uniform, null[:, 0, 0], rtol=1e-4)
    n_y, n_x = np.meshgrid(np.fft.fftfreq(8), np.fft.fftfreq(8), indexing="ij")
    first_shell = np.rint(np.hypot(n_y, n_x) * 8) == 1
    np.testing.assert_allclose(result.lambda_null[:, 1], null[:, first_shell].mean(1), rtol=1e-4)
    assert result.num_patches == 6 * 36
    value = check_condensation(result, images[..., None], 1e-4, size=3, positions="interior")
    assert value[0] > 10 * value[-1]
    rates = followed_uniform_rate(images[..., None], 3, result.sigma.values)
    np.testing.assert_allclose(result.homogeneous_growth_rate, rates, atol=0.01)
    # Where the largest rate over the whole plane changes sign, seen level by level.
    changes = np.flatnonzero(np.diff(np.sign(result.growth_rate.max("wavenumber"))))
    assert len(changes) <= int(result.num_crossings) == np.isfinite(result.crossing_sigma).sum()
    for i in changes:
        assert np.any(
            (result.crossing_sigma < result.sigma[i]) & (result.crossing_sigma > result.sigma[i + 1])
        )


@pytest.fixture
def command(monkeypatch):
    """The command line in this process, whose precision it leaves alone."""
    monkeypatch.setattr("critjax.cli.configure_jax", lambda precision: None)
    return main


@pytest.fixture
def image_run(tmp_path, command):
    """Run the command on images, as small as it gets, and return its results."""
    import xarray as xr

    folder = tmp_path / "run"
    few = {"size": 3, "num-samples": 4, "num-levels": 6, "closure-samples": 2, "probe-samples": 2}
    words = [word for name, value in few.items() for word in (f"--{name}", str(value))]

    def run_command(bank, *options):
        assert command(["criticality", "--bank", str(bank), *words, *options, "--out", str(folder)]) == 0
        assert (folder / "report.html").stat().st_size > 1e5
        return xr.load_dataset(folder / "results.nc")

    return run_command


@pytest.mark.slow
def test_colour_images_go_from_the_command_to_the_report(image_run, tmp_path):
    """Of three channels every symbol is a matrix: rates are of its leading eigenvalue."""
    rng = np.random.default_rng(7)
    grey = rng.normal(size=(6, 8, 8, 1)) * 0.3 + rng.normal(size=(6, 1, 1, 1)) * 0.3
    images = np.clip(grey * [0.9, 0.6, -0.5] + 0.1 * rng.normal(size=(6, 8, 8, 3)), -1, 1).astype(np.float32)
    np.save(tmp_path / "colours.npy", images)
    found = image_run(tmp_path / "colours.npy", "--closure-samples", "4")
    centred = (images - images.mean((0, 1, 2))).astype(np.float64)
    uniform = centred.sum((1, 2)) / 8
    largest = np.linalg.eigvalsh(uniform.T @ uniform / 6).max()
    sigma = found.sigma.values
    np.testing.assert_allclose(found.lambda_null_uniform, largest / (largest + sigma**2), rtol=1e-4)
    check_condensation(found, images, 1e-4, size=3, positions="interior")
    rates = followed_uniform_rate(images, 3, sigma)
    np.testing.assert_allclose(found.homogeneous_growth_rate, rates, atol=0.01)


def test_colour_needs_a_closure_of_more_fields(tmp_path, capsys, command):
    np.save(tmp_path / "colours.npy", -np.ones((3, 8, 8, 3), np.float32))
    few = ["--bank", str(tmp_path / "colours.npy"), "--size", "3", "--closure-samples", "3"]
    assert command(["criticality", *few, "--out", str(tmp_path / "run")]) == 2
    assert "closure_samples: expected 0 or at least 4 with 3 channels, got 3" in capsys.readouterr().err
    np.save(tmp_path / "four.npy", -np.ones((3, 8, 8, 4), np.float32))  # red, green, blue and transparency
    quick = ["--bank", str(tmp_path / "four.npy"), "--size", "3", "--quick", "--dry-run"]
    assert command(["criticality", *quick]) == 0


@pytest.mark.slow
def test_real_images_condense():
    few = {"num_samples": 4, "num_levels": 6, "closure_samples": 2, "probe_samples": 2}
    found = run(CriticalitySettings(bank="fashion-mnist", size=3, num_images=5, **few))
    images = load_dataset("fashion-mnist", num_images=5).images
    assert found.num_patches == 5 * 26**2
    value = check_condensation(found, images, 3e-4, size=3, positions="interior")
    assert value[0] > 10 * value[-1]


def test_variance_preserving_frame_has_no_critical_point_for_the_flow():
    """eta = 0 and c >= 1: the mode grows at every noise level, and the result must say that."""
    settings = dataclasses.replace(
        TINY, frame="vp", closure_samples=0, probe_samples=0, num_samples=4
    ).resolved()
    prediction = theory.predict(build_problem(settings), settings)
    assert prediction.attributes["instability_kind"] == "grows at every noise level"
    assert np.isnan(prediction.variables["critical_sigma_bare"][1])
    assert prediction.variables["critical_sigma_bare_ve"][1] == pytest.approx(3.0, rel=1e-6)
    sigma = np.asarray(prediction.sigmas)
    np.testing.assert_allclose(prediction.threshold, 1 - sigma**2 / (1 + sigma**2), rtol=1e-10)


def test_variance_preserving_frame_of_the_reverse_sde():
    """eta = 1: t solves t^2 - 2 (c - 1) t - 2 c = 0, c = 9."""
    settings = dataclasses.replace(TINY, frame="vp", eta=1.0).resolved()
    prediction = theory.predict(build_problem(settings), settings)
    t = 8 + np.sqrt(64 + 18)
    assert prediction.variables["critical_sigma_bare"][1] == pytest.approx(np.sqrt(t), rel=1e-6)


# --- Repeating and going on
# ----------------------------------------------------------------------------


def test_a_result_repeats_its_run(tiny, tmp_path):
    from critjax.report import save_dataset

    path = save_dataset(tiny, tmp_path / "results.nc")
    import xarray as xr

    with xr.open_dataset(path, engine="h5netcdf") as stored:
        again = run(settings_of(stored))
        for name in tiny.data_vars:
            np.testing.assert_array_equal(again[name], stored[name], err_msg=name)
    assert settings_of(tiny) == TINY.resolved()


def test_a_batch_that_is_saved_is_not_simulated_again(tiny):
    parts = dict(list(criticality_run().parts.items())[:3])
    new = []
    whole = run(TINY, saved=parts, on_checkpoint=lambda name, part: new.append(name))
    assert new == [f"batch-{i:05d}" for i in (3, 4, 5)]
    for name in tiny.data_vars:
        np.testing.assert_array_equal(whole[name], tiny[name], err_msg=name)


def test_another_seed_compiles_nothing(tiny):
    run(dataclasses.replace(TINY, seed=1))
    with counting() as count:
        other = run(dataclasses.replace(TINY, seed=2))
    assert count.programs == 0
    assert float(abs(other.wall_density - tiny.wall_density).max()) > 0


# --- Settings
# ---------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_specification():
    patterns = CriticalitySettings().resolved()
    assert (patterns.bank, patterns.size, patterns.num_random, patterns.seed) == ("random-pattern", 9, 8, 0)
    assert patterns.grid == (64, 64) and patterns.num_samples == 512 and patterns.num_levels >= 60
    assert (patterns.eta, patterns.solver, patterns.frame) == (0.0, "heun", "ve")
    images = CriticalitySettings(bank="fashion-mnist").resolved()
    assert (
        images.size == 7 and images.num_images >= 100 and images.num_samples == 24 and images.num_levels == 40
    )
    quick = CriticalitySettings(quick=True).resolved()
    assert quick.num_samples < 512 and quick.quick


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("quick", [True, False])
def test_closures_of_images_have_errors_by_default(channels, quick):
    fields = CriticalitySettings(bank="fashion-mnist", quick=quick).resolved().closure_samples
    assert theory.closure_replicas(fields, channels) >= 2
    assert theory.closure_replicas(5, channels) == 1  # an odd number has one replica and no error


def test_samples_are_rounded_up_to_whole_batches():
    assert CriticalitySettings(num_samples=100, batch_size=32).resolved().num_samples == 128
    few = CriticalitySettings(num_samples=3, batch_size=32).resolved()
    assert few.num_samples // few.batch_size >= 2  # errors need two batches


def test_settings_survive_storage():
    settings = CriticalitySettings(
        bank="fashion-mnist", classes=(1, "Bag"), value_range=None, eta=0.5
    ).resolved()
    assert CriticalitySettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bank": "no-such-bank"}, "bank: expected .*'fashion-mnist' or the path"),
        ({"size": 4}, "size: expected an odd window, got 4"),
        ({"size": 0}, "size: expected an integer >= 1, got 0"),
        ({"num_samples": 1}, "num_samples: expected an integer >= 2"),
        ({"num_levels": 2}, "num_levels: expected an integer >= 3"),
        ({"eta": -0.1}, "eta: expected a finite number >= 0"),
        ({"solver": "rk4"}, "solver: expected 'heun' or 'euler', got 'rk4'"),
        ({"frame": "flow"}, "frame: expected 've' or 'vp'"),
        ({"precision": "float16"}, "precision: expected"),
        ({"positions": "same"}, "positions: expected 'all' or 'interior'"),
        ({"sigma_max": -1.0}, "sigma_max: expected a finite number > 0"),
        ({"sigma_max": 1.0, "sigma_min": 2.0}, "sigma_min: expected less than sigma_max"),
        ({"bank": "fashion-mnist", "grid": (8, 8)}, "grid: expected none"),
        ({"classes": (1,)}, "classes: expected an image bank"),
        ({"value_range": (0.0, 1.0)}, "value_range: expected an image bank of your own"),
        ({"probe_samples": 1}, "probe_samples: expected 0 or at least 2"),
        ({"wavelength": 1.0}, "wavelength: expected a period > 2"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(ValueError, match=words):
        CriticalitySettings(**options)


def test_bad_stored_settings():
    with pytest.raises(ValueError, match="settings: expected known option names, got \\['colour'\\]"):
        CriticalitySettings.from_json('{"colour": 1}')
    with pytest.raises(ValueError, match="settings: expected a JSON object, got unreadable text"):
        CriticalitySettings.from_json("{")
    with pytest.raises(ValueError, match="dataset: expected a result of the criticality study"):
        import xarray as xr

        settings_of(xr.Dataset())


def test_window_must_fit_the_grid():
    with pytest.raises(ValueError, match="size: expected a window that fits the 8 x 8 grid, got 9"):
        CriticalitySettings(grid=(8, 8), size=9).resolved()


def test_ladder_covers_the_linear_regime_and_the_end():
    high, low = ladder_ends(CriticalitySettings(), 9.0, 100.0)
    assert high**2 >= 5 * 81 and low == pytest.approx(0.9)
    assert ladder_ends(CriticalitySettings(bank="fashion-mnist"), 3.5, 100.0)[1] == 0.05
    assert ladder_ends(CriticalitySettings(), float("nan"), 10.0)[0] == 10.0
    assert ladder_ends(CriticalitySettings(sigma_max=20.0, sigma_min=2.0), 9.0, 100.0) == (20.0, 2.0)
    with pytest.raises(ValueError, match="sigma_min: expected less than sigma_max"):
        ladder_ends(CriticalitySettings(sigma_min=50.0), 9.0, 100.0)


def test_cost_grows_with_the_work():
    small = criticality.estimate_cost(dataclasses.replace(TINY, closure_samples=0, probe_samples=0))
    twice = criticality.estimate_cost(
        dataclasses.replace(TINY, closure_samples=0, probe_samples=0, num_samples=96)
    )
    assert small["evaluations"] == 6 * 17  # batches times evaluations of Heun's method on nine levels
    assert twice["evaluations"] == 2 * small["evaluations"]
    assert twice["bytes"] > small["bytes"] > 0
