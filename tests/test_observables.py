"""Observables against loops over pixels and modes, exact ensembles, and known laws of their errors."""

from __future__ import annotations

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax import observables as obs
from critjax.fourier import kernel_to_symbol, radial_shells, wavevectors
from critjax.spectra import growth_rate, regression_symbol


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def in_one_program(function, *cases):
    """Return ``function(case)`` of arrays of several shapes, which share a program."""
    return [np.asarray(found) for found in jax.jit(lambda cases: [function(case) for case in cases])(cases)]


def brute_transform(x):
    """Write out sum_j x_j exp(-i k.j) for one sample (H, W, C)."""
    height, width, _ = x.shape
    y, z = np.mgrid[:height, :width]
    return np.array(
        [
            [
                np.einsum("yz,yzc->c", np.exp(-2j * np.pi * (n * y / height + m * z / width)), x)
                for m in range(width)
            ]
            for n in range(height)
        ]
    )


def brute_structure_factor(x, centre=True, ddof=0):
    x = x - x.mean(axis=0) if centre else x
    modes = [brute_transform(sample) for sample in x]
    total = sum(np.einsum("hwa,hwb->hwab", m, m.conj()) for m in modes)
    return total / ((len(x) - ddof) * x.shape[1] * x.shape[2])


def pair_with_spectrum(power, seed=0):
    """Return two samples x, -x whose structure factor is ``power`` (H, W) exactly, whatever the phases."""
    phase = np.fft.fft2(random(seed, *power.shape))
    field = np.fft.ifft2(phase / np.abs(phase) * np.sqrt(power * power.size)).real
    return np.stack([field, -field])[..., None]


def ornstein_zernike(grid, length):
    k = np.stack(np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in grid), indexing="ij"), axis=-1)
    return 1 / (1 + length**2 * np.sum(4 * np.sin(k / 2) ** 2, axis=-1))


# Structure factors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("centre", "ddof"), [(True, 0), (True, 1), (False, 0)])
def test_structure_factor_is_the_written_out_cross_spectrum(centre, ddof):
    x = random(0, 3, 4, 5, 3) + 2.0
    expected = brute_structure_factor(x, centre, ddof)
    np.testing.assert_allclose(obs.structure_factor(x, centre=centre, ddof=ddof), expected, atol=1e-11)


def test_structure_factor_is_hermitian_and_sums_to_the_pixel_variance():
    x = random(1, 3, 4, 5, 3)
    s = np.asarray(obs.structure_factor(x))
    np.testing.assert_allclose(s, np.swapaxes(s, 2, 3).conj(), atol=1e-13)
    variance = np.mean((x - x.mean(axis=0)) ** 2, axis=(0, 1, 2))
    np.testing.assert_allclose(np.einsum("hwaa->a", s) / 20, variance, rtol=1e-12)


def test_a_channel_that_lags_turns_the_phase_of_the_cross_spectrum():
    """x_1(j) = x_0(j - d) gives S_01 = S_00 exp(+i k.d)."""
    x = random(2, 3, 4, 5, 1)
    x = np.concatenate([x, np.roll(x, (1, 2), axis=(1, 2)), x**2], axis=-1)
    s, k = np.asarray(obs.structure_factor(x)), np.asarray(wavevectors((4, 5)))
    expected = s[..., 0, 0] * np.exp(1j * (k[..., 0] + 2 * k[..., 1]))
    np.testing.assert_allclose(s[..., 0, 1], expected, atol=1e-12)


def test_white_noise_has_the_structure_factor_sigma_squared_once_the_bias_is_removed():
    num, sigma = 40, 1.7
    x = sigma * random(3, num, 16, 16, 1)
    spectra = [np.asarray(obs.structure_factor(x, ddof=d)) for d in (0, 1)]
    estimates = [s[..., 0, 0].real.mean() / sigma**2 for s in spectra]
    error = math.sqrt(2 / (256 * num))
    assert abs(estimates[1] - 1) < 4 * error
    assert abs(estimates[0] - (1 - 1 / num)) < 4 * error
    assert estimates[0] / estimates[1] == pytest.approx(1 - 1 / num, rel=1e-12)


def test_centring_by_the_ensemble_keeps_the_mode_zero_of_each_sample():
    x = np.array([1.0, -1.0, 3.0, -3.0]).reshape(4, 1, 1, 1) * np.ones((4, 4, 6, 1))
    assert np.asarray(obs.structure_factor(x))[0, 0, 0, 0].real == pytest.approx(24 * 5.0)  # N <m^2>


def test_sample_spectra_average_to_the_diagonal_and_belong_to_their_samples():
    x = random(4, 3, 4, 5, 3)
    spectra = np.asarray(obs.sample_spectra(x))
    diagonal = np.einsum("hwaa->hwa", obs.structure_factor(x)).real
    np.testing.assert_allclose(spectra.mean(axis=0), diagonal, atol=1e-13)
    first = np.abs(brute_transform(x[0] - x.mean(axis=0))) ** 2 / 20
    np.testing.assert_allclose(spectra[0], first, atol=1e-12)


# Radial averages -----------------------------------------------------------------------------------------


def test_radial_average_is_the_mean_over_each_shell():
    values = [random(5, *grid) for grid in ((8, 8), (6, 9), (9, 4), (1, 7))]
    for field, found in zip(values, in_one_program(obs.radial_average, *values), strict=True):
        shells = radial_shells(field.shape)
        index = np.asarray(shells.index)
        expected = [field[index == s].mean() for s in range(len(shells.count))]
        np.testing.assert_allclose(found, expected, atol=1e-14)


def test_radial_average_takes_complex_values_and_trailing_axes():
    values = random(6, 6, 8, 2, 2) + 1j * random(7, 6, 8, 2, 2)
    single = [values[..., a, b] for a in range(2) for b in range(2)]
    together, *apart, alone = in_one_program(obs.radial_average, values, *single, values[..., 0, 1].imag)
    np.testing.assert_allclose(together.reshape(-1, 4), np.transpose(apart), atol=1e-14)
    np.testing.assert_allclose(together[:, 0, 1].imag, alone, atol=1e-14)


def test_half_spectra_of_real_fields_give_the_average_of_the_whole():
    fields = [random(8, *grid) for grid in ((6, 8), (8, 6), (7, 7), (6, 5), (4, 1), (4, 2))]

    @jax.jit
    def averages(fields):
        half = [obs.radial_average(jnp.abs(jnp.fft.rfft2(x)) ** 2, rfft_width=x.shape[1]) for x in fields]
        return half, [obs.radial_average(jnp.abs(jnp.fft.fft2(x)) ** 2) for x in fields]

    for half, whole in zip(*averages(fields), strict=True):
        np.testing.assert_allclose(half, whole, rtol=1e-12)


# Correlation lengths -------------------------------------------------------------------------------------


def test_second_moment_recovers_the_length_of_an_ornstein_zernike_ensemble():
    grids = ((16, 16), (16, 9), (7, 12), (1, 8), (2, 2))
    lengths = (0.5, 4.0)
    pairs = [np.stack([pair_with_spectrum(ornstein_zernike(g, xi)) for xi in lengths]) for g in grids]

    def both(x):
        return jnp.stack([obs.correlation_length(x), obs.second_moment_length(obs.structure_factor(x))])

    for found in in_one_program(jax.vmap(both), *pairs):
        np.testing.assert_allclose(found, np.transpose([lengths, lengths]), rtol=1e-9)


def test_second_moment_sums_the_channels_and_averages_the_degenerate_modes():
    spectrum = random(9, 6, 6, 3, 3) ** 2 + 1j
    spectrum[0, 0] *= 50
    trace = np.einsum("hwaa->hw", spectrum).real
    lowest = (trace[1, 0] + trace[-1, 0] + trace[0, 1] + trace[0, -1]) / 4
    expected = math.sqrt((trace[0, 0] / lowest - 1) / (4 * math.sin(math.pi / 6) ** 2))
    assert float(obs.second_moment_length(spectrum)) == pytest.approx(expected, rel=1e-12)
    assert float(obs.second_moment_length(trace)) == pytest.approx(expected, rel=1e-12)


def test_second_moment_is_nan_when_the_lowest_mode_exceeds_the_mean():
    assert math.isnan(obs.second_moment_length(1 - 0.5 * ornstein_zernike((8, 8), 2.0)))


def brute_radial_autocorrelation(x):
    """Average x(j).x(j + r) over pixels and samples, then over rings of one pixel (minimal images)."""
    _, height, width, _ = x.shape
    rings: dict[int, list[tuple[float, float]]] = {}
    for a in range(-(height // 2), (height + 1) // 2):
        for b in range(-(width // 2), (width + 1) // 2):
            if 2 * math.hypot(a, b) <= min(n for n in (height, width) if n > 1):
                product = np.mean(np.sum(x * np.roll(x, (-a, -b), axis=(1, 2)), axis=-1))
                rings.setdefault(round(math.hypot(a, b)), []).append((math.hypot(a, b), product))
    table = np.array([np.mean(rings[n], axis=0) for n in sorted(rings)])
    return table[:, 0], table[:, 1] / table[0, 1]


def test_autocorrelation_is_the_written_out_average_over_pairs():
    fields = [
        np.cumsum(random(10, *shape), axis=2) + 0.5 for shape in ((3, 8, 8, 1), (2, 7, 10, 2), (2, 1, 9, 1))
    ]

    def both(x):
        return jnp.stack(
            [jnp.stack(obs.radial_autocorrelation(x, centre=centre)) for centre in (True, False)]
        )

    for x, found in zip(fields, in_one_program(both, *fields), strict=True):
        for result, field in zip(found, (x - x.mean(axis=0), x), strict=True):
            np.testing.assert_allclose(result, brute_radial_autocorrelation(field), atol=1e-12)


def test_square_wave_has_the_autocorrelation_length_of_its_triangle():
    """Domains of d pixels in one dimension: C(r) = 1 - 2 r/d, which is 1/e at r = d (1 - 1/e)/2."""
    d = 12
    wave = np.repeat([1.0, -1.0, 1.0, -1.0], d).reshape(1, 1, 4 * d, 1)
    x = np.concatenate([wave, -wave])
    rough = x * np.abs(1 + random(11, *x.shape))

    @jax.jit
    def lengths(x, rough):
        return [
            obs.correlation_length(field, method="autocorrelation", field=name)
            for field, name in ((x, "raw"), (rough, "sign"))
        ]

    length, flat = map(float, lengths(x, rough))
    assert length == pytest.approx(d * (1 - math.exp(-1)) / 2, rel=1e-12)
    assert flat == pytest.approx(length, rel=1e-12)  # amplitudes do not matter to the sign


def test_sign_field_is_what_the_caller_could_have_passed():
    x = np.cumsum(random(12, 6, 8, 10, 1), axis=1)
    methods = ("second-moment", "autocorrelation")

    @jax.jit
    def lengths(x):
        signs = [obs.correlation_length(x, method=method, field="sign") for method in methods]
        return signs, [obs.correlation_length(x, method=method) for method in methods]

    found, by_hands = lengths(x), lengths(np.sign(x))[1]
    for by_option, raw, by_hand in zip(*found, by_hands, strict=True):
        np.testing.assert_array_equal(by_option, by_hand)
        assert not np.isclose(by_option, raw, rtol=1e-3)


def test_white_noise_has_the_length_of_one_ring():
    """C = 1 at radius 0 and about 0 on the ring of the eight nearest pixels, at radius (1 + sqrt 2)/2."""
    x = random(13, 200, 16, 16, 1)
    radius = (1 + math.sqrt(2)) / 2
    length = obs.correlation_length(x, method="autocorrelation")
    ring = np.asarray(obs.radial_autocorrelation(x).radius)[1]
    assert abs(float(length) - (1 - math.exp(-1)) * radius) < 4 * radius / math.sqrt(4 * x.size)
    assert ring == pytest.approx(radius, rel=1e-12)


def test_uniform_samples_have_no_crossing():
    x = np.array([1.0, -2.0]).reshape(2, 1, 1, 1) * np.ones((2, 8, 8, 1))
    assert math.isnan(obs.correlation_length(x, method="autocorrelation"))


# Curves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "level", "expected"),
    [
        ([1.0, 0.8, 0.2, 0.0], 0.5, 3.0),  # falling: halfway between x = 2 and x = 4
        ([0.0, 0.2, 0.8, 1.0], 0.35, 2.5),  # rising
        ([1.0, 0.5, 0.2, 0.0], 0.5, 2.0),  # a sample on the level
        ([1.0, 0.0, 1.0, 0.0], 0.25, 1.75),  # the first of several
        ([0.5, 1.0, 1.0, 1.0], 0.5, 1.0),  # starting on the level
        ([1.0, 0.8, 0.7, 0.6], 0.5, math.nan),
        ([math.nan] * 4, 0.5, math.nan),
    ],
)
def test_first_crossing_interpolates_linearly(values, level, expected):
    x = np.array([1.0, 2.0, 4.0, 5.0])
    result = obs.first_crossing(x, np.array(values), level)
    np.testing.assert_allclose(result, expected, rtol=1e-14)
    np.testing.assert_allclose(obs.first_crossing(-x, np.array(values), level), -expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.2, 0.8, 1.0], 3.0),
        ([1.3, 0.8, 0.2, 0.0], math.nan),  # starts above
        ([0.5, 1.0, 1.0, 1.0], math.nan),  # on the level
        ([1.0, 0.0, 1.0, 0.0], math.nan),  # above, though it rises later
        ([math.nan, 0.0, 1.0, 1.0], math.nan),
    ],
)
def test_rising_crossing_needs_a_start_below(values, expected):
    result = obs.first_crossing(np.array([1.0, 2.0, 4.0, 5.0]), np.array(values), 0.5, rising=True)
    np.testing.assert_allclose(result, expected, rtol=1e-14)


def test_crossing_moves_with_the_curve_and_its_gradient_is_finite_without_one():
    x = np.array([0.0, 1.0, 3.0])
    slope = jax.jit(jax.grad(lambda v, level: obs.first_crossing(x, v, level)))
    # d/dv of 1 + 2 v1/(v1 - v2)
    np.testing.assert_allclose(slope(np.array([2.0, 1.0, -1.0]), 0.0), [0, 0.5, 0.5], rtol=1e-14)
    np.testing.assert_array_equal(slope(np.ones(3), 9.0), np.zeros(3))


@pytest.mark.parametrize("location", [-0.4, 0.9, 2.3, 3.9])
def test_minimum_of_a_parabola_is_exact_on_uneven_grids(location):
    x = np.array([-1.0, 0.0, 0.7, 2.0, 2.5, 4.5, 5.0])
    for grid in (x, x[::-1]):
        np.testing.assert_allclose(
            obs.interior_minimum(grid, 3 * (grid - location) ** 2 - 2), (location, -2), atol=1e-13
        )


@pytest.mark.parametrize("values", [[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
def test_minimum_at_an_end_is_not_bracketed(values):
    assert all(math.isnan(v) for v in obs.interior_minimum(np.arange(4.0), np.array(values)))


# Order ---------------------------------------------------------------------------------------------------


def test_order_parameter_is_the_spatial_mean_and_gives_the_structure_factor_at_zero():
    x = random(14, 5, 4, 6, 2)
    m = np.asarray(obs.order_parameter(x))
    np.testing.assert_allclose(m, [[x[b, ..., c].mean() for c in range(2)] for b in range(5)], atol=1e-15)
    zero = np.einsum("aa->a", obs.structure_factor(x, centre=False)[0, 0]).real
    np.testing.assert_allclose(zero, 24 * np.mean(m**2, axis=0), rtol=1e-12)


def test_binder_cumulant_of_order_disorder_and_a_flat_distribution():
    assert float(obs.binder_cumulant(np.array([2.0, -2.0, 2.0, 2.0]))) == pytest.approx(2 / 3)
    num = 20_000
    gaussian = obs.binder_cumulant(random(15, num, 2))
    # delta method: the variance of <m^4>/(3 <m^2>^2) for a Gaussian m is 8/3 per sample
    np.testing.assert_allclose(gaussian, 0, atol=4 * math.sqrt(8 / 3 / num))
    flat = (np.arange(4000) + 0.5) / 2000 - 1
    assert float(obs.binder_cumulant(flat)) == pytest.approx(0.4, abs=1e-6)  # 1 - (1/5)/(3/9)


def brute_wall_density(x, periodic):
    walls = bonds = 0
    height, width = x.shape
    for i in range(height):
        for j in range(width):
            if height > 1 and (periodic or i + 1 < height):
                bonds += 1
                walls += x[i, j] * x[(i + 1) % height, j] < 0
            if width > 1 and (periodic or j + 1 < width):
                bonds += 1
                walls += x[i, j] * x[i, (j + 1) % width] < 0
    return walls / bonds


def test_wall_density_counts_bonds():
    # With zeros, which have no sign.
    fields = [np.round(random(16, 3, *grid, 2), 0) for grid in ((5, 6), (2, 3), (1, 7), (4, 1))]

    def both(x):
        return jnp.stack([obs.wall_density(x, boundary=boundary) for boundary in ("periodic", "zero")])

    for x, found in zip(fields, in_one_program(both, *fields), strict=True):
        for result, periodic in zip(found, (True, False), strict=True):
            expected = [[brute_wall_density(x[b, ..., c], periodic) for c in range(2)] for b in range(3)]
            np.testing.assert_allclose(result, expected, rtol=1e-14)


def test_wall_density_does_not_underflow():
    tiny = np.float32(1e-30) * np.array([1, -1, 1, -1], np.float32).reshape(1, 1, 4, 1)
    assert np.asarray(obs.wall_density(tiny))[0, 0] == 1.0


# Kernels -------------------------------------------------------------------------------------------------


def test_mean_kernel_gives_back_the_kernel_of_a_symbol_on_the_minimal_images():
    g = random(17, 3, 3, 2, 2)
    kernel = np.asarray(obs.mean_kernel(kernel_to_symbol(g, (6, 7))))
    np.testing.assert_allclose(kernel[1:4, 2:5], g, atol=1e-14)
    assert np.abs(np.delete(kernel, [1, 2, 3], axis=0)).max() < 1e-14


def test_receptive_field_is_the_root_mean_square_offset():
    kernels = [random(18, *shape, 2, 2) for shape in ((3, 3), (4, 6))]
    for g, found in zip(kernels, in_one_program(obs.receptive_field_radius, *kernels), strict=True):
        top = bottom = 0.0
        for a in range(g.shape[0]):
            for b in range(g.shape[1]):
                weight = np.abs(g[a, b]).sum()
                top += weight * ((a - (g.shape[0] - 1) // 2) ** 2 + (b - (g.shape[1] - 1) // 2) ** 2)
                bottom += weight
        assert float(found) == pytest.approx(math.sqrt(top / bottom), rel=1e-13)


@pytest.mark.parametrize("t", [200.0, 40.0])
def test_equilibrium_length_of_the_two_pattern_bank(t):
    """THEORY section 4: g = 1/sigma^2, r = 1 - P/sigma^2, K = (P/sigma^2)(p^2 - 1)/24; both signs of r."""
    p = 9
    expected = math.sqrt((p**2 / t) * (p**2 - 1) / 24 / abs(1 - p**2 / t))
    assert float(obs.equilibrium_length(np.full((p, p, 1, 1), 1 / t))) == pytest.approx(expected, rel=1e-12)


def test_equilibrium_length_looks_along_x_and_along_the_polarisation():
    g = random(19, 3, 5, 2, 2) ** 2 / 100
    p = np.array([0.6, -0.8])
    scalar = np.einsum("a,yxab,b->yx", p, g, p)
    stiffness = sum(scalar[:, i].sum() * (i - 2) ** 2 for i in range(5)) / 2
    expected = math.sqrt(stiffness / abs(1 - scalar.sum())) if stiffness > 0 else math.nan
    for scale in (1.0, 7.0):
        result = obs.equilibrium_length(g, polarisation=scale * p)
        np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_negative_stiffness_has_no_length_but_a_harmless_gradient():
    g = -np.full((3, 3, 1, 1), 0.01)
    length, slope = jax.jit(jax.value_and_grad(obs.equilibrium_length))(g)
    assert math.isnan(length) and np.all(np.isfinite(slope))
    k2 = np.sum(np.asarray(wavevectors((12, 12))) ** 2, axis=-1)
    fit = obs.fit_gap(0.5 + 0.1 * k2)
    assert math.isnan(fit.correlation_length) and math.isnan(fit.correlation_length_error)
    assert float(fit.stiffness) == pytest.approx(-0.1, rel=1e-10)


def test_fit_approaches_the_moments_of_the_kernel_quadratically():
    g = np.full((5, 5, 1, 1), 0.03)
    errors = []
    sides = (24, 48, 96)
    fits = jax.jit(lambda g: [obs.fit_gap(kernel_to_symbol(g, (side, side))[..., 0, 0]) for side in sides])(g)
    for fit in fits:
        errors.append([abs(float(fit.gap) - 0.25), abs(float(fit.stiffness) - 0.75)])
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(orders - [4, 2]) < 0.2), orders  # the left-out k^4 enters the gap to fourth order
    assert float(fit.correlation_length) == pytest.approx(float(obs.equilibrium_length(g)), rel=0.02)


@pytest.mark.parametrize("grid", [(10, 10), (9, 14)])
def test_fit_is_the_weighted_least_squares_line(grid):
    symbol, error = random(20, *grid) + 1j, 0.5 + random(21, *grid) ** 2
    index = np.asarray(radial_shells(grid).index)
    chosen = (index >= 0) & (index <= 4)
    k = np.asarray(wavevectors(grid))[chosen]
    design = np.stack([np.ones(len(k)), np.sum(k**2, axis=1)], axis=1)
    own_mirror = np.all(np.abs(np.sin(k)) < 1e-9, axis=1)  # k = -k modulo 2 pi
    for given in (None, error):
        fit = obs.fit_gap(symbol, given, num_shells=4)
        weight = np.where(own_mirror, 1, 0.5) / (1 if given is None else given[chosen] ** 2)
        covariance = np.linalg.inv(design.T @ (weight[:, None] * design))
        best = covariance @ design.T @ (weight * (1 - symbol[chosen].real))
        if given is None:
            freedom = np.where(own_mirror, 1, 0.5).sum() - 2
            covariance *= (weight * (1 - symbol[chosen].real - design @ best) ** 2).sum() / freedom
        np.testing.assert_allclose([fit.gap, fit.stiffness], best, rtol=1e-9)
        np.testing.assert_allclose(
            [fit.gap_error, fit.stiffness_error], np.sqrt(np.diag(covariance)), rtol=1e-9
        )
        if best[1] > 0:
            length = math.sqrt(best[1] / abs(best[0]))
            slope = length / 2 * np.array([-1 / best[0], 1 / best[1]])
            np.testing.assert_allclose(fit.correlation_length, length, rtol=1e-9)
            np.testing.assert_allclose(
                fit.correlation_length_error, math.sqrt(slope @ covariance @ slope), rtol=1e-9
            )


def test_a_gap_that_is_not_fitted_is_that_of_the_uniform_mode():
    """A peaked symbol is no parabola: the line starts from its value at k = 0."""
    grid = (12, 10)
    k = np.asarray(wavevectors(grid))
    symbol = 1 / (1 + 20 * np.sum(k**2, axis=-1)) - 0.2
    error = 0.1 + random(23, *grid) ** 2
    index = np.asarray(radial_shells(grid).index)
    chosen = (index >= 1) & (index <= 2)
    weight = np.where(np.all(np.abs(np.sin(k)) < 1e-9, axis=-1), 1, 0.5)[chosen] / error[chosen] ** 2
    squared, rise = np.sum(k[chosen] ** 2, axis=1), symbol[0, 0] - symbol[chosen]
    fit = obs.fit_gap(symbol, error, num_shells=2, fit_uniform=False)
    assert float(fit.gap) == pytest.approx(0.2, rel=1e-12)
    assert float(fit.gap_error) == pytest.approx(error[0, 0], rel=1e-12)
    best = (weight * squared * rise).sum() / (weight * squared**2).sum()
    assert float(fit.stiffness) == pytest.approx(best, rel=1e-12)
    assert float(obs.fit_gap(symbol, error, num_shells=2).gap) > 0.3  # the fitted parabola misses k = 0


@pytest.mark.parametrize(("known", "fit_uniform"), [(True, True), (False, True), (True, False)])
def test_errors_of_the_fit_are_the_scatter_of_repeated_measurements(known, fit_uniform):
    """Noise as measured on a real operator: equal at k and -k."""
    grid, noise, num = (12, 12), 0.02, 600
    white = np.fft.fft2(random(22, num, *grid), axes=(1, 2)).real / math.sqrt(grid[0] * grid[1])
    exact = 0.4 - 0.8 * np.sum(np.asarray(wavevectors(grid)) ** 2, axis=-1)
    ky, kx = np.meshgrid(np.arange(12), np.arange(12), indexing="ij")
    mirror = (2 * ky % 12 == 0) & (2 * kx % 12 == 0)
    scale = noise * np.where(mirror, 1, math.sqrt(2))  # the real part carries half the variance elsewhere
    error = np.full(grid, noise) if known else None
    fits = jax.jit(jax.vmap(lambda s: obs.fit_gap(s, error, fit_uniform=fit_uniform)))(exact + scale * white)
    fits = jax.tree.map(np.asarray, fits)
    for name in ("gap", "stiffness", "correlation_length"):
        scatter = np.std(getattr(fits, name), ddof=1)
        claimed = math.sqrt(np.mean(np.square(getattr(fits, f"{name}_error"))))
        assert scatter / claimed == pytest.approx(1, abs=4 / math.sqrt(2 * num)), name


# Errors --------------------------------------------------------------------------------------------------


def test_bootstrap_error_of_a_mean_is_the_standard_error():
    x = random(23, 50, 3)
    num = 2000
    error = obs.bootstrap_error(lambda s: s.mean(axis=0), jax.random.key(0), x, num_resamples=num)
    expected = x.std(axis=0) / math.sqrt(50)  # of the resampling distribution, exactly
    np.testing.assert_allclose(error, expected, rtol=4 / math.sqrt(2 * num))


def test_bootstrap_keeps_pairs_together_and_depends_on_the_key_only():
    x = random(24, 20)
    pairs = {"x": x, "y": 2 * x}
    statistic = lambda s: {"ratio": s["y"].sum() / s["x"].sum(), "mean": s["x"].mean()}  # noqa: E731
    errors = [obs.bootstrap_error(statistic, jax.random.key(n), pairs, num_resamples=50) for n in (1, 1, 2)]
    assert float(errors[0]["ratio"]) < 1e-12
    assert float(errors[0]["mean"]) == float(errors[1]["mean"]) != float(errors[2]["mean"])


def test_bootstrap_values_are_those_of_the_drawn_samples_the_same_for_every_ensemble():
    x, y, key = random(26, 9, 4), random(27, 9, 2, 3), jax.random.key(5)

    def mean_square(s):
        return (s**2).mean(axis=0)

    @jax.jit
    def everything(x, y):
        drawn = obs.bootstrap_values(
            lambda s: s, key, np.arange(9), num_resamples=30
        )  # the indices themselves
        values = [obs.bootstrap_values(mean_square, key, s, num_resamples=30) for s in (x, y)]
        return drawn, values, obs.bootstrap_error(mean_square, key, y, num_resamples=30)

    drawn, values, error = jax.tree.map(np.asarray, everything(x, y))
    assert drawn.shape == (30, 9) and set(np.unique(drawn)) == set(range(9))
    for samples, got in zip((x, y), values, strict=True):
        expected = [np.mean([samples[i] ** 2 for i in row], axis=0) for row in drawn]
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    np.testing.assert_allclose(error, np.std(expected, axis=0, ddof=1), rtol=1e-12)


def test_bootstrap_of_complex_statistics_adds_both_parts_and_nan_stays_nan():
    x = random(25, 30, 2)
    statistic = lambda s: (s[:, 0].mean() + 1j * s[:, 1].mean(), s[:, 0].mean(), s[:, 1].mean(), jnp.nan)  # noqa: E731
    both, real, imaginary, nothing = obs.bootstrap_error(statistic, jax.random.key(3), x, num_resamples=40)
    assert float(both) == pytest.approx(math.hypot(float(real), float(imaginary)), rel=1e-12)
    assert both.dtype == jnp.float64 and math.isnan(nothing)


def test_jackknife_error_of_a_mean_is_that_of_the_block_means():
    x, counts = random(26, 12), (None, 12, 4, 2)
    errors = jax.jit(lambda x: [obs.jackknife_error(jnp.mean, x, num_blocks=n) for n in counts])(x)
    for num_blocks, error in zip(counts, errors, strict=True):
        blocks = x.reshape(num_blocks or 12, -1).mean(axis=1)
        expected = blocks.std(ddof=1) / math.sqrt(len(blocks))
        assert float(error) == pytest.approx(expected, rel=1e-12)
        value, on_host = obs.jackknife(np.mean, x, num_blocks=num_blocks, host=True)
        assert float(value) == x.mean() and type(value) is np.float64
        assert on_host == pytest.approx(expected, rel=1e-12)
        assert obs.jackknife_error(np.mean, x, num_blocks=num_blocks, host=True) == on_host


def test_jackknife_gives_value_error_and_the_values_that_lack_one_block():
    """By JAX as by NumPy, of a statistic that keeps pairs together and returns a tree."""
    x = random(27, 6, 3)
    pairs = {"x": x, "y": 1 + x**2}

    def statistic(s):
        return {"ratio": s["x"].sum(axis=0) / s["y"].sum(axis=0), "most": s["x"].max()}

    kept = [[m for m in range(6) if m // 2 != n] for n in range(3)]
    left_out = [statistic({name: a[rows] for name, a in pairs.items()}) for rows in kept]
    for host in (False, True):
        value, error = obs.jackknife(statistic, pairs, num_blocks=3, host=host)
        values = obs.jackknife_values(statistic, pairs, num_blocks=3, host=host)
        for name in ("ratio", "most"):
            expected = np.array([one[name] for one in left_out])
            np.testing.assert_allclose(value[name], statistic(pairs)[name], rtol=1e-14)
            np.testing.assert_allclose(values[name], expected, rtol=1e-14)
            spread = np.sqrt(2 / 3 * np.sum((expected - expected.mean(0)) ** 2, axis=0))
            np.testing.assert_allclose(error[name], spread, rtol=1e-12)


def test_jackknife_spread_adds_what_independent_strata_scatter():
    left_out, strata = random(28, 11, 2), np.array([0, 1, 1, 0, 2, 1, 2, 2, 2, 0, 0])
    squares = []
    for stratum in range(3):
        own = left_out[strata == stratum]
        squares.append((len(own) - 1) / len(own) * np.sum((own - own.mean(0)) ** 2, axis=0))
    shifted = left_out + np.array([5.0, -3.0, 1.0])[strata][:, None]  # a constant of a stratum does not count
    for values in (left_out, shifted):
        found = obs.jackknife_spread(values, strata=strata)
        np.testing.assert_allclose(found, np.sqrt(np.sum(squares, axis=0)), rtol=1e-10)
    one = obs.jackknife_spread(left_out)
    assert isinstance(one, np.ndarray)
    np.testing.assert_allclose(
        one, np.sqrt(10 / 11 * np.sum((left_out - left_out.mean(0)) ** 2, 0)), rtol=1e-12
    )


def test_bootstrap_means_are_means_of_multinomial_draws():
    x = random(29, 50, 3)
    means = obs.bootstrap_means(np.random.default_rng(7), x, num_resamples=2000)
    counts = np.random.default_rng(7).multinomial(50, np.full(50, 0.02), 2000)
    np.testing.assert_allclose(
        means[:9], [np.repeat(x, row, axis=0).mean(axis=0) for row in counts[:9]], rtol=1e-12
    )
    np.testing.assert_allclose(means.std(axis=0), x.std(axis=0) / math.sqrt(50), rtol=4 / math.sqrt(4000))
    with pytest.raises(ValueError, match="num_resamples: expected an integer >= 2, got 1"):
        obs.bootstrap_means(np.random.default_rng(7), x, num_resamples=1)


def test_jackknife_error_of_a_correlation_length_is_the_written_out_one():
    power = ornstein_zernike((8, 8), 1.5)
    x = np.concatenate([pair_with_spectrum(power * (1 + 0.1 * n), n) for n in range(3)])
    kept = np.stack([np.delete(x, [2 * n, 2 * n + 1], axis=0) for n in range(3)])
    left_out = np.asarray(jax.jit(jax.vmap(obs.correlation_length))(kept))
    expected = math.sqrt(2 / 3 * np.sum((left_out - np.mean(left_out)) ** 2))
    result = jax.jit(lambda s: obs.jackknife_error(obs.correlation_length, s, num_blocks=3))(x)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-9)


# Frechet distance ----------------------------------------------------------------------------------------


def textbook_frechet(a, b):
    """Use the eigenvalues of the plain product of covariances, by numpy."""
    ca, cb = (np.atleast_2d(np.cov(f, rowvar=False)) for f in (a, b))
    roots = np.sqrt(np.maximum(np.linalg.eigvals(ca @ cb).real, 0)).sum()
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca) + np.trace(cb) - 2 * roots


def test_frechet_distance_agrees_with_the_textbook_formula():
    sizes = ((40, 30, 5), (200, 100, 1), (60, 4, 6))
    pairs = [
        (random(27, n, d) @ random(28, d, d) + 1, random(29, m, d) @ random(30, d, d)) for n, m, d in sizes
    ]

    def both_ways(pair):
        return jnp.stack([obs.frechet_distance(*pair), obs.frechet_distance(*pair[::-1])])

    for (a, b), found in zip(pairs, in_one_program(both_ways, *pairs), strict=True):
        # a root of an eigenvalue's rounding error limits the textbook when b is rank-deficient
        rel = 1e-5 if len(b) <= b.shape[1] else 1e-10
        assert found[0] == pytest.approx(textbook_frechet(a, b), rel=rel)
        np.testing.assert_allclose(found[0], found[1], rtol=1e-10)


def test_frechet_distance_of_commuting_covariances_is_the_difference_of_deviations():
    """Two-level designs have exactly diagonal covariances: distance sum (s_a - s_b)^2 + |shift|^2."""
    design = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * math.sqrt(3 / 4)
    a, b = design * [1.0, 3.0], design * [2.0, 0.5] + [0.0, 4.0]
    assert float(obs.frechet_distance(a, b)) == pytest.approx(1 + 6.25 + 16, rel=1e-12)
    rotation = np.linalg.qr(random(31, 2, 2))[0]
    assert float(obs.frechet_distance(a @ rotation, b @ rotation)) == pytest.approx(23.25, rel=1e-12)


def test_frechet_distance_of_equal_features_is_zero_to_rounding_in_float32():
    a = (random(32, 300, 40) @ random(33, 40, 40)).astype(np.float32)
    result = obs.frechet_distance(a, a[::-1])
    assert result.dtype == jnp.float32 and 0 <= float(result) < 1e-5 * np.trace(np.cov(a, rowvar=False))


def test_frechet_distance_has_the_gradient_of_finite_differences():
    a, b, direction = random(34, 20, 3), random(35, 25, 3), random(36, 20, 3)
    slope = np.sum(np.asarray(jax.jit(jax.grad(obs.frechet_distance))(a, b)) * direction)
    h = 1e-5
    difference = (textbook_frechet(a + h * direction, b) - textbook_frechet(a - h * direction, b)) / (2 * h)
    assert slope == pytest.approx(difference, rel=1e-6)


# Everywhere ----------------------------------------------------------------------------------------------

FUNCTIONS = {
    "structure_factor": obs.structure_factor,
    "sample_spectra": obs.sample_spectra,
    "second moment": obs.correlation_length,
    "autocorrelation": lambda x: obs.correlation_length(x, method="autocorrelation"),
    "sign": lambda x: obs.correlation_length(x, method="autocorrelation", field="sign"),
    "radial_average": lambda x: obs.radial_average(obs.structure_factor(x)),
    "binder": lambda x: obs.binder_cumulant(obs.order_parameter(x)),
    "wall_density": obs.wall_density,
    "fit_gap": lambda x: obs.fit_gap(obs.structure_factor(x)[..., 0, 0]),
    "receptive field": lambda x: obs.receptive_field_radius(obs.mean_kernel(obs.structure_factor(x))),
    "equilibrium": lambda x: obs.equilibrium_length(
        obs.mean_kernel(obs.structure_factor(x)), polarisation=jnp.ones(2, x.dtype)
    ),
    "minimum": lambda x: obs.interior_minimum(x[0, 0, :, 0], 1 + (x[0, 0, :, 0] - x[0, 0, 3, 0]) ** 2),
    "bootstrap": lambda x: obs.bootstrap_error(obs.order_parameter, jax.random.key(0), x, num_resamples=5),
    "jackknife": lambda x: obs.jackknife_error(lambda s: obs.binder_cumulant(obs.order_parameter(s)), x),
    "frechet": lambda x: obs.frechet_distance(x[:, 0, :, 0], 1 + x[:, 1, :, 1]),
}


@pytest.fixture(scope="module")
def everywhere():
    """All functions of a batch, of each of its members, and of those in float32: three programs."""
    x = np.sort(random(37, 2, 7, 6, 8, 2), axis=3) + 0.3 * random(38, 2, 7, 1, 1, 1)

    @jax.jit
    def everything(x):
        return {name: jax.tree.leaves(function(x)) for name, function in FUNCTIONS.items()}

    batch = jax.jit(jax.vmap(everything))(x)
    found = batch, [everything(one) for one in x], [everything(one) for one in x.astype(np.float32)]
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_batches_equal_a_loop_and_float32_follows_float64(name, everywhere):
    together, alone, single = everywhere
    for n in range(2):
        for batch, leaf, short in zip(together[name], alone[n][name], single[n][name], strict=True):
            assert np.all(np.isfinite(leaf))  # or the comparisons below would say nothing
            np.testing.assert_allclose(batch[n], leaf, rtol=1e-9, atol=1e-9)
            assert short.dtype == (np.complex64 if np.iscomplexobj(leaf) else np.float32)
            np.testing.assert_allclose(short, leaf, rtol=2e-3, atol=2e-3 * np.max(np.abs(leaf)))


def test_second_moment_can_be_differentiated():
    x, h = pair_with_spectrum(ornstein_zernike((8, 8), 1.5)), 1e-6
    direction = random(39, *x.shape)
    slope = np.sum(np.asarray(jax.jit(jax.grad(obs.correlation_length))(x)) * direction)
    ends = [float(obs.correlation_length(x + s * h * direction)) for s in (1, -1)]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)


# Messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        obs.structure_factor,
        obs.sample_spectra,
        obs.radial_autocorrelation,
        obs.order_parameter,
        obs.wall_density,
    ],
)
def test_images_without_batch_axis_are_named(function):
    if function is obs.order_parameter or function is obs.wall_density:
        function = inspect.unwrap(function)
        with pytest.raises(ValueError, match=r"x: expected shape \(B, H, W, C\), got shape \(4, 4, 1\)"):
            function(np.zeros((4, 4, 1)))
    else:
        with pytest.raises(ValueError, match="x: expected two samples or more to centre, got 1"):
            function(np.zeros((1, 4, 4, 1)))


def test_bad_options_are_answered_with_the_legal_ones():
    x = np.zeros((2, 4, 4, 1))
    with pytest.raises(
        ValueError, match="method: expected 'second-moment' or 'autocorrelation', got 'fourier'"
    ):
        obs.correlation_length(x, method="fourier")
    with pytest.raises(ValueError, match="field: expected 'raw' or 'sign', got 'abs'"):
        obs.correlation_length(x, field="abs")
    with pytest.raises(ValueError, match="boundary: expected 'periodic' or 'zero', got 'reflect'"):
        obs.wall_density(x, boundary="reflect")


def test_fields_may_be_lists():
    x = random(30, 3, 2, 3, 1)
    found = inspect.unwrap(obs.structure_factor)(x.tolist())
    np.testing.assert_allclose(found, obs.structure_factor(x), rtol=1e-12)


def test_bad_shapes_and_counts_are_named():
    with pytest.raises(ValueError, match="ddof: expected fewer than the 2 samples, got 2"):
        obs.structure_factor(np.zeros((2, 4, 4, 1)), ddof=2)
    with pytest.raises(
        ValueError, match="rfft_width: expected a width whose half spectrum has 5 columns, got 5"
    ):
        obs.radial_average(np.zeros((4, 5)), rfft_width=5)
    with pytest.raises(
        ValueError, match=r"spectrum: expected shape \(H, W\) or \(H, W, C, C\), got \(4, 4, 1\)"
    ):
        obs.second_moment_length(np.zeros((4, 4, 1)))
    with pytest.raises(ValueError, match=r"spectrum: expected a grid of two pixels or more, got \(1, 1\)"):
        obs.second_moment_length(np.zeros((1, 1)))
    with pytest.raises(ValueError, match="x: expected an image of two pixels or more"):
        obs.wall_density(np.zeros((2, 1, 1, 1)))
    with pytest.raises(ValueError, match="values: expected two points or more, got 1"):
        obs.first_crossing(np.zeros(1), np.zeros(1), 0.5)
    with pytest.raises(ValueError, match="values: expected three points or more, got 2"):
        obs.interior_minimum(np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="polarisation: expected a direction in the 3 channels, got None"):
        obs.equilibrium_length(np.zeros((3, 3, 3, 3)))
    for num_shells in (0, 5):
        with pytest.raises(ValueError, match=f"num_shells: expected 1 to 4 shells, got {num_shells}"):
            obs.fit_gap(np.zeros((8, 8)), num_shells=num_shells)
    for function in (obs.fit_gap, obs.receptive_field_radius, obs.equilibrium_length):
        with pytest.raises(ValueError, match=r"expected shape .*got shape \(3,\); add or drop axes"):
            inspect.unwrap(function)(np.zeros(3))


def test_bad_ensembles_are_named():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="samples: expected two samples or more, got 1"):
        obs.bootstrap_error(jnp.mean, key, np.zeros((1, 3)))
    with pytest.raises(
        ValueError, match=r"samples: expected arrays with one common leading axis, got \[\(3,\), \(4,\)\]"
    ):
        obs.jackknife_error(jnp.mean, (np.zeros(3), np.zeros(4)))
    with pytest.raises(ValueError, match="num_resamples: expected an integer >= 2, got 1"):
        obs.bootstrap_error(jnp.mean, key, np.zeros(3), num_resamples=1)
    for blocks in (1, 4):
        with pytest.raises(
            ValueError, match=f"num_blocks: expected a divisor >= 2 of the 6 samples, got {blocks}"
        ):
            obs.jackknife_error(jnp.mean, np.zeros(6), num_blocks=blocks)
    with pytest.raises(ValueError, match="features_b: expected two samples or more, got 1"):
        obs.frechet_distance(np.zeros((3, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="features_b: expected 2 features, got 3"):
        inspect.unwrap(obs.frechet_distance)(np.zeros((3, 2)), np.zeros((3, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "measure",
    [
        obs.structure_factor,
        obs.correlation_length,
        obs.radial_autocorrelation,
        obs.order_parameter,
        obs.wall_density,
        lambda x: regression_symbol(x, x),
        lambda x: regression_symbol(np.ones_like(x), x),
        lambda x: growth_rate(x[:, :, :, 0][..., None, None][0], 1.0),
    ],
)
def test_fields_that_are_not_finite_are_refused(measure, bad):
    x = np.random.default_rng(0).normal(size=(3, 4, 6, 1)).astype(np.float32)
    measure(x)
    x[0, 1, 2, 0] = bad
    with pytest.raises(
        ValueError, match=r": expected finite values, got 1 non-finite of \d+; remove or repair"
    ):
        measure(x)
