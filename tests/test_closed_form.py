"""Closed-form denoisers against float64 sums over the prior, Tweedie's formula, and their analytic limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.closed_form import (
    gaussian_denoiser,
    gaussian_symbol,
    ideal_denoiser,
    ideal_log_weights,
    image_spectrum,
    mixture_denoiser,
    score,
    two_pattern_denoiser,
)

SHAPE = (4, 3, 2)


def rng_array(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def log_weights(means, std, log_prior, x, sigma):
    """ln of every term of the noisy mixture density at x, component by component."""
    variance = std**2 + sigma**2
    return np.array(
        [
            lp - np.sum((x - m) ** 2) / (2 * variance) - x.size / 2 * np.log(2 * np.pi * variance)
            for m, lp in zip(means, log_prior, strict=True)
        ]
    )


def log_density(means, std, log_prior, x, sigma):
    terms = log_weights(means, std, log_prior, x, sigma)
    return terms.max() + np.log(np.sum(np.exp(terms - terms.max())))


def mixture_oracle(means, std, log_prior, x, sigma):
    terms = log_weights(means, std, log_prior, x, sigma)
    weights = np.exp(terms - terms.max())
    weights /= weights.sum()
    total = np.zeros_like(x)
    for weight, m in zip(weights, means, strict=True):  # product of two Gaussians, one component at a time
        total += weight * (m / std**2 + x / sigma**2) / (1 / std**2 + 1 / sigma**2) if std else weight * m
    return total


def covariance_of(spectrum):
    """Dense covariance (HWC, HWC) of the stationary field with this spectrum, by an explicit Fourier sum."""
    height, width, channels = spectrum.shape[:3]
    n = height * width
    cells = [(i, j) for i in range(height) for j in range(width)]
    full = np.zeros((n, channels, n, channels), complex)
    for a, (i, j) in enumerate(cells):
        for b, (k, m) in enumerate(cells):
            for ny in range(height):
                for nx in range(width):
                    phase = 2 * np.pi * (ny * (i - k) / height + nx * (j - m) / width)
                    full[a, :, b, :] += spectrum[ny, nx] * np.exp(1j * phase) / n
    assert np.abs(full.imag).max() < 1e-12
    return full.real.reshape(n * channels, n * channels)


def random_spectrum(seed, height, width, channels):
    """A generic Hermitian, positive spectrum of a real field: asymmetric cross spectra included."""
    modes = np.fft.fft2(rng_array(seed, 5, height, width, channels), axes=(1, 2))
    return np.einsum("nhwa,nhwb->hwab", modes, modes.conj()) / (5 * height * width)


# ---------------------------------------------------------------- mixtures and whole images


@pytest.mark.parametrize("std", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("sigma", [0.4, 1.0, 5.0])
def test_mixture_is_the_brute_force_posterior_mean(std, sigma):
    means, x = rng_array(0, 5, *SHAPE), 2 * rng_array(1, *SHAPE)
    log_prior = np.log([0.1, 0.2, 0.05, 0.6, 0.05])
    got = mixture_denoiser(means, std, log_prior=log_prior)(x, sigma)
    np.testing.assert_allclose(got, mixture_oracle(means, std, log_prior, x, sigma), rtol=1e-11, atol=1e-12)


def test_ideal_is_the_softmax_over_images():
    images, x = rng_array(2, 6, *SHAPE), rng_array(3, *SHAPE)
    log_prior = rng_array(4, 6)
    got = ideal_denoiser(images, log_prior=log_prior + 3.0)(x, 0.8)
    np.testing.assert_allclose(got, mixture_oracle(images, 0.0, log_prior, x, 0.8), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("std", [0.0, 0.5])
def test_score_is_the_gradient_of_the_log_density(std):
    """Tweedie: central differences of ln p, which knows nothing of posterior means."""
    means, x, sigma = rng_array(5, 4, *SHAPE), rng_array(6, *SHAPE), 0.9
    log_prior = np.log([0.4, 0.3, 0.2, 0.1])
    got = np.asarray(score(mixture_denoiser(means, std, log_prior=log_prior), x, sigma))
    step, numeric = 1e-5, np.zeros(SHAPE)
    for index in np.ndindex(*SHAPE):
        d = np.zeros(SHAPE)
        d[index] = step
        up, down = (log_density(means, std, log_prior, x + s * d, sigma) for s in (1, -1))
        numeric[index] = (up - down) / (2 * step)
    np.testing.assert_allclose(got, numeric, rtol=1e-7, atol=1e-8)


def test_two_gaussians_have_the_tanh_form_and_its_critical_noise():
    m, x, std = rng_array(7, *SHAPE), rng_array(8, *SHAPE), 0.7
    denoise = mixture_denoiser(np.asarray(np.stack([m, -m])), std)
    for sigma in (0.3, 1.5, 6.0):
        v = std**2 + sigma**2
        expected = (std**2 * x + sigma**2 * m * np.tanh(np.sum(m * x) / v)) / v
        np.testing.assert_allclose(denoise(x, sigma), expected, rtol=1e-12, atol=1e-13)
    critical = np.sqrt(np.sum(m**2) - std**2)
    along = np.asarray(m / np.linalg.norm(m))

    def gain(sigma):
        _, slope = jax.jvp(lambda y: denoise(y, sigma), (np.zeros(SHAPE),), (along,))
        return float(np.sum(slope * along))

    np.testing.assert_allclose(gain(critical), 1.0, rtol=1e-12)
    assert gain(critical * 1.01) < 1 < gain(critical * 0.99)


def bisect(function, low, high):
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return low


def test_images_of_equal_norm_speciate_at_the_top_eigenvalue_of_their_covariance():
    """At x = 0 all weights are equal: the Jacobian is the covariance of the images divided by sigma^2."""
    images = rng_array(21, 5, *SHAPE)
    images = 3 * images / np.linalg.norm(images.reshape(5, -1), axis=1)[:, None, None, None]
    images = np.concatenate([images, -images])
    flat = images.reshape(10, -1)
    top = np.linalg.eigvalsh(flat.T @ flat / 10)[-1]
    denoise = ideal_denoiser(images)
    origin, jacobians = np.zeros(SHAPE), jax.jit(jax.jacfwd(denoise))

    def largest(variance):
        jacobian = jacobians(origin, np.sqrt(variance))
        return np.linalg.eigvalsh(np.asarray(jacobian).reshape(24, 24))[-1]

    for factor in (0.5, 1.0, 2.0):
        np.testing.assert_allclose(largest(factor * top), 1 / factor, rtol=1e-12)
    # Beyond linear theory: below the critical noise, images drift away from zero; above, towards it.
    soft = np.linalg.eigh(flat.T @ flat / 10)[1][:, -1].reshape(SHAPE)
    for factor, grows in ((0.9, True), (1.1, False)):
        moved = np.sum(soft * np.asarray(denoise(1e-3 * soft, np.sqrt(factor * top))))
        assert (moved > 1e-3) == grows


def test_one_pixel_bank_is_critical_at_one_and_earlier_in_the_vp_frame():
    denoise = ideal_denoiser(np.array([1.0, -1.0]).reshape(2, 1, 1, 1))
    slope = jax.jit(jax.grad(lambda a, sigma: denoise(jnp.reshape(a, (1, 1, 1)), sigma)[0, 0, 0]))

    def rate(sigma, eta, vp):
        return (1 + eta) * (float(slope(0.0, sigma)) - 1) + vp * sigma**2 / (1 + sigma**2)

    assert abs(bisect(lambda s: rate(s, 1.0, 0.0), 0.1, 10.0) - 1.0) < 1e-12
    sigma = bisect(lambda s: rate(s, 1.0, 1.0), 0.1, 10.0)
    assert abs(sigma**2 - np.sqrt(2)) < 1e-12
    assert abs((1 + sigma**2) ** -0.5 - 0.643594) < 5e-7
    # Without noise the VP mode grows at every level: c = 1 and eta = 0.
    assert all(rate(s, 0.0, 1.0) > 0 for s in np.geomspace(1e-2, 1e2, 41))


def test_limits_of_small_and_large_noise():
    images = rng_array(9, 5, *SHAPE)
    log_prior = np.log([0.5, 0.2, 0.1, 0.1, 0.1])
    denoise = ideal_denoiser(images, log_prior=log_prior)
    near = images[3] + 1e-3 * rng_array(10, *SHAPE)
    np.testing.assert_allclose(denoise(near, 1e-3), images[3], atol=1e-14)
    mean = np.tensordot(np.exp(log_prior), images, 1)
    np.testing.assert_allclose(denoise(np.zeros(SHAPE), 1e4), mean, atol=1e-6)


def test_excluded_images_do_not_count():
    images, x = rng_array(11, 4, *SHAPE), np.asarray(rng_array(12, *SHAPE))
    weights = np.array([0.0, -np.inf, 0.0, -np.inf])
    got = ideal_denoiser(images, log_prior=weights)(x, 0.7)
    np.testing.assert_allclose(got, ideal_denoiser(np.asarray(images[[0, 2]]))(x, 0.7), rtol=1e-13)
    slopes = jax.jit(jax.grad(lambda y, denoise: denoise(y, 0.7).sum()))
    slope = slopes(x, ideal_denoiser(images, log_prior=weights))
    np.testing.assert_allclose(slope, slopes(x, ideal_denoiser(images[[0, 2]])), rtol=1e-12, atol=1e-14)


def test_log_weights_are_those_of_the_ideal_denoiser():
    images, x, prior = (
        rng_array(44, 5, *SHAPE),
        rng_array(45, *SHAPE),
        np.array([0.3, -0.2, -np.inf, 1.0, 0.0]),
    )
    found = np.asarray(ideal_log_weights(images, x, 0.9, log_prior=prior))
    terms = log_weights(images, 0.0, prior, x, 0.9)
    np.testing.assert_allclose(found, terms - log_density(images, 0.0, prior, x, 0.9), rtol=1e-12, atol=1e-13)
    mean = np.tensordot(np.exp(found), images, 1)
    np.testing.assert_allclose(mean, ideal_denoiser(images, log_prior=prior)(x, 0.9), rtol=1e-12, atol=1e-14)
    # Far below the distance between images the square of a float32 image would keep no digit of a difference.
    near = np.float32(1e3) + np.float32([[0.0], [1.0]]).reshape(2, 1, 1, 1)
    odds = ideal_log_weights(near, near[0] + np.float32(0.5), np.float32(0.1))
    np.testing.assert_allclose(odds, np.log([0.5, 0.5]), rtol=1e-6)


# ---------------------------------------------------------------- two constant patches


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 11])
@pytest.mark.parametrize("shape", [(5, 7, 1), (6, 4, 3)])
def test_two_patterns_by_looping_over_windows(size, shape):
    x, sigma = rng_array(13, *shape), 1.7
    height, width, channels = shape
    expected = np.zeros(shape)
    for i in range(height):
        for j in range(width):
            window = [
                x[(i + a) % height, (j + b) % width, c]
                for a in range(-((size - 1) // 2), size // 2 + 1)
                for b in range(-((size - 1) // 2), size // 2 + 1)
                for c in range(channels)
            ]
            plus = sum((v - 1) ** 2 for v in window) / (2 * sigma**2)
            minus = sum((v + 1) ** 2 for v in window) / (2 * sigma**2)
            weight = 1 / (1 + np.exp(plus - minus))
            expected[i, j] = weight - (1 - weight)
    np.testing.assert_allclose(two_pattern_denoiser(size)(x, sigma), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("size", "channels"), [(3, 1), (4, 1), (5, 2)])
def test_two_patterns_are_critical_where_sigma_squared_is_the_window_content(size, channels):
    shape, uniform = (8, 9, channels), np.ones((8, 9, channels))
    critical = float(np.sqrt(size**2 * channels))
    denoise = two_pattern_denoiser(size)
    _, slope = jax.jvp(lambda y: denoise(y, critical), (np.zeros(shape),), (uniform,))
    np.testing.assert_allclose(slope, uniform, rtol=1e-12)
    # Any other plane wave: the gain is the window's Fourier sum over sigma^2.
    rows = np.arange(8)[:, None, None] * (2 * np.pi / 8) * np.ones(shape)
    _, re = jax.jvp(lambda y: denoise(y, critical), (np.zeros(shape),), (np.cos(rows),))
    offsets = np.arange(size) - (size - 1) // 2
    factor = np.sum(np.exp(2j * np.pi * offsets / 8)) * size * channels / critical**2
    np.testing.assert_allclose(re, np.real(factor * np.exp(1j * np.asarray(rows))), atol=1e-12)


# ---------------------------------------------------------------- Gaussian fields


@pytest.mark.parametrize(("height", "width", "channels"), [(4, 5, 1), (5, 4, 1), (3, 4, 3)])
def test_gaussian_is_the_dense_wiener_filter(height, width, channels):
    spectrum = random_spectrum(14, height, width, channels)
    mean, x = rng_array(15, height, width, channels), 2 * rng_array(16, height, width, channels)
    covariance = covariance_of(spectrum)
    for sigma in (0.2, 1.0, 3.0):
        got = gaussian_denoiser(mean, spectrum)(x, sigma)
        noisy = covariance + sigma**2 * np.eye(len(covariance))
        expected = mean + (covariance @ np.linalg.solve(noisy, (x - mean).ravel())).reshape(mean.shape)
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-11)


def test_gaussian_score_is_the_gradient_of_the_gaussian_log_density():
    spectrum, sigma = random_spectrum(17, 3, 4, 2), 0.6
    mean, x = rng_array(18, 3, 4, 2), rng_array(19, 3, 4, 2)
    precision = np.linalg.inv(covariance_of(spectrum) + sigma**2 * np.eye(24))
    got = score(gaussian_denoiser(mean, spectrum), x, sigma)
    expected = -(precision @ (x - mean).ravel()).reshape(x.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-11)


def test_one_spectrum_serves_all_channels_independently():
    power = np.real(random_spectrum(20, 4, 6, 1)[..., 0, 0])
    mean, x = rng_array(21, 4, 6, 3), rng_array(22, 4, 6, 3)
    together = gaussian_denoiser(mean, power)(x, 0.8)
    diagonal = gaussian_denoiser(mean, np.asarray(power[..., None, None] * np.eye(3)))
    np.testing.assert_allclose(together, diagonal(x, 0.8), rtol=1e-12, atol=1e-13)
    for c in range(3):
        alone = gaussian_denoiser(mean[..., c : c + 1], power)
        np.testing.assert_allclose(together[..., c : c + 1], alone(x[..., c : c + 1], 0.8), rtol=1e-12)


def test_symbol_is_the_action_on_plane_waves():
    spectrum, sigma, height, width = random_spectrum(23, 4, 6, 2), 0.7, 4, 6
    denoise = gaussian_denoiser(np.zeros((4, 6, 2)), spectrum)
    symbol = np.asarray(gaussian_symbol(spectrum)(sigma))
    eigenvalues = np.linalg.eigvalsh(symbol)
    assert eigenvalues.min() >= -1e-14
    assert eigenvalues.max() < 1
    rows, columns = np.mgrid[:height, :width]
    polarisation = np.array([0.6, -0.8 + 0.3j])
    for ny, nx in ((0, 0), (1, 2), (3, 5), (2, 3)):
        wave = np.exp(2j * np.pi * (ny * rows / height + nx * columns / width))[..., None] * polarisation
        response = np.asarray(denoise(np.asarray(wave.real), sigma)) + 1j * np.asarray(
            denoise(np.asarray(wave.imag), sigma)
        )
        expected = wave / polarisation * (symbol[ny, nx] @ polarisation)
        np.testing.assert_allclose(response, expected, rtol=1e-11, atol=1e-12)


def test_symbol_solves_its_defining_equation_for_every_rank():
    spectrum = random_spectrum(24, 3, 5, 3)
    symbol = np.asarray(gaussian_symbol(spectrum)(1.3))
    np.testing.assert_allclose(symbol @ (spectrum + 1.3**2 * np.eye(3)), spectrum, rtol=1e-11, atol=1e-12)
    scalar = np.asarray(gaussian_symbol(np.asarray(spectrum[..., 0, 0].real))(1.3))
    power = spectrum[..., 0, 0].real
    np.testing.assert_allclose(scalar[..., 0, 0], power / (power + 1.3**2), rtol=1e-13)


def test_spectrum_of_images_by_an_explicit_sum():
    images = rng_array(25, 3, 4, 5, 2)
    got = np.asarray(image_spectrum(images))
    centred = images - images.mean(0)
    rows, columns = np.mgrid[:4, :5]
    for ny, nx in ((0, 0), (1, 2), (3, 4)):
        wave = np.exp(-2j * np.pi * (ny * rows / 4 + nx * columns / 5))
        modes = np.array([[np.sum(wave * image[..., c]) for c in range(2)] for image in centred])
        expected = sum(np.outer(mode, mode.conj()) for mode in modes) / (3 * 20)
        np.testing.assert_allclose(got[ny, nx], expected, rtol=1e-11, atol=1e-13)
    # Parseval: the spectrum's average is the covariance of the channels.
    covariance = np.einsum("nhwa,nhwb->ab", centred, centred) / (3 * 20)
    np.testing.assert_allclose(got.mean((0, 1)), covariance, rtol=1e-11, atol=1e-13)


def test_spectrum_about_the_constant_mean_is_that_of_all_shifts():
    images = rng_array(26, 2, 3, 4, 2)
    shifted = np.stack([np.roll(x, (a, b), (0, 1)) for x in images for a in range(3) for b in range(4)])
    constant = images.mean((0, 1, 2))
    np.testing.assert_allclose(shifted.mean(0), np.broadcast_to(constant, (3, 4, 2)), atol=1e-14)
    got = image_spectrum(images, mean=constant)
    flat = (shifted - constant).reshape(len(shifted), -1)
    np.testing.assert_allclose(covariance_of(np.asarray(got)), flat.T @ flat / len(flat), atol=1e-13)


def test_spectrum_of_white_noise_is_its_variance():
    noise = 0.5 * rng_array(27, 400, 4, 6, 1)
    got = np.real(np.asarray(image_spectrum(noise, mean=0.0)))[..., 0, 0]
    # |x_k|^2/N is exponential (chi^2 with one degree at self-conjugate k): relative error <= sqrt(2/400).
    assert np.abs(got / 0.25 - 1).max() < 4.5 * np.sqrt(2 / 400)
    assert abs(got.mean() / 0.25 - 1) < 4 * np.sqrt(2 / 9600)


@pytest.mark.parametrize("sigma", [1e-3, 1e-1, 1.0, 1e3])
def test_grey_colour_images_in_float32_reach_the_singular_limit(sigma):
    """A rank-one spectrum, where a float32 solve would fail: grey is kept and colour removed."""
    power = 1e3 * (1 + np.cos(2 * np.pi * np.arange(4) / 4))[:, None] * np.ones((4, 6))
    spectrum = (power[..., None, None] * np.ones((3, 3)) / 3).astype(np.float32)
    denoise = gaussian_denoiser(np.zeros((4, 6, 3), np.float32), spectrum)
    x = rng_array(28, 4, 6, 3).astype(np.float32)
    got = np.asarray(denoise(x, sigma))
    grey = np.fft.fft2(np.asarray(x, np.float64).mean(-1))
    expected = np.real(np.fft.ifft2(power / (power + sigma**2) * grey))[..., None] * np.ones(3)
    # Spectra carry 1e-7 of their largest entry; below that a noise level cannot tell them from zero.
    tolerance = 2.0 if sigma**2 < 1e-3 else 2e-4 / sigma**2 + 1e-6
    np.testing.assert_allclose(got, expected, atol=tolerance)
    assert np.linalg.norm(got) <= np.linalg.norm(x) * (1 + 1e-5)  # never amplifies, at any precision


def test_matrix_filter_has_exact_derivatives_at_equal_eigenvalues():
    """Isotropic spectra are degenerate: the derivative of eigh is NaN there, that of the filter is not."""
    base = np.broadcast_to(np.eye(2), (3, 4, 2, 2)) * 1.5
    direction = np.real(random_spectrum(29, 3, 4, 2))
    direction = (direction + np.roll(np.flip(direction, (0, 1)), (1, 1), (0, 1))) / 2
    x = np.asarray(rng_array(30, 3, 4, 2))

    def run(step, sigma):
        return gaussian_denoiser(np.zeros((3, 4, 2)), base + step * direction)(x, sigma)

    @jax.jit
    def derivatives():
        by_step = jax.jvp(run, (0.0, 0.9), (1.0, 0.0))[1]
        by_sigma = jax.jvp(run, (0.0, 0.9), (0.0, 1.0))[1]
        second = jax.jvp(lambda s: jax.jvp(run, (s, 0.9), (1.0, 0.0))[1], (0.0,), (1.0,))[1]
        return by_step, by_sigma, second, jax.grad(lambda s: jnp.sum(run(s, 0.9) * x))(0.0)

    by_step, by_sigma, second, backward = derivatives()
    value = jax.jit(run)
    plain = lambda step, sigma: np.asarray(value(step, sigma))  # noqa: E731
    np.testing.assert_allclose(by_step, (plain(1e-5, 0.9) - plain(-1e-5, 0.9)) / 2e-5, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(
        by_sigma, (plain(0.0, 0.9 + 1e-5) - plain(0.0, 0.9 - 1e-5)) / 2e-5, rtol=1e-7, atol=1e-9
    )
    numeric = (plain(1e-3, 0.9) - 2 * plain(0.0, 0.9) + plain(-1e-3, 0.9)) / 1e-6
    np.testing.assert_allclose(second, numeric, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(backward, np.sum(np.asarray(by_step) * x), rtol=1e-11)


# ---------------------------------------------------------------- all of them: precision and transformations


NAMES = ("ideal", "mixture", "two patterns", "gaussian", "gaussian scalar")


@functools.cache
def every_denoiser(dtype):
    means = np.asarray(np.tanh(rng_array(31, 4, 6, 5, 2)), dtype)
    spectrum = np.asarray(image_spectrum(means))
    return {
        "ideal": ideal_denoiser(means),
        "mixture": mixture_denoiser(means, 0.4),
        "two patterns": two_pattern_denoiser(3),
        "gaussian": gaussian_denoiser(means.mean(0), spectrum),
        "gaussian scalar": gaussian_denoiser(means.mean(0), spectrum[..., 0, 0].real),
    }


@pytest.mark.parametrize("name", NAMES)
def test_float32_follows_float64_over_six_decades_with_finite_derivatives(name):
    single, double = every_denoiser(np.float32)[name], every_denoiser(np.float64)[name]
    clean = np.tanh(rng_array(31, 4, 6, 5, 2))[1]

    @jax.jit
    def derivatives(denoise, x, sigma):
        value, slope = jax.jvp(denoise, (x, sigma), (jnp.ones_like(x), jnp.ones_like(sigma)))
        return value, slope, jax.grad(lambda y: jnp.sum(denoise(y, sigma) ** 2))(x)

    def both(denoise, sigma, dtype):
        x = (clean + sigma * rng_array(32, 6, 5, 2)).astype(dtype)
        return jax.tree.map(np.asarray, derivatives(denoise, x, np.asarray(sigma, dtype)))

    for sigma in (1e-3, 1e-2, 0.1, 0.5, 1.0, 3.0, 30.0, 1e3):
        low, high = both(single, sigma, np.float32), both(double, sigma, np.float64)
        assert all(v.dtype == np.float32 for v in low)
        np.testing.assert_allclose(low[0], high[0], atol=2e-4, rtol=2e-4, err_msg=f"value at {sigma}")
        for ours, reference, what in zip(low[1:], high[1:], ("jvp", "grad"), strict=True):
            scale = float(np.abs(reference).max()) + 1.0 / max(sigma, 1.0)
            # The Gaussian's relative shrinkage at sigma = 1e-3 sits below float32 resolution of its spectrum.
            if not (name == "gaussian" and sigma < 5e-3):
                np.testing.assert_allclose(ours, reference, atol=3e-3 * scale, err_msg=f"{what} at {sigma}")
            assert np.isfinite(np.asarray(ours)).all()


@pytest.mark.parametrize("name", NAMES)
def test_transformations_agree_with_plain_calls(name):
    denoise = every_denoiser(np.float64)[name]
    x, sigmas = rng_array(33, 3, 6, 5, 2), np.array([0.3, 1.0, 4.0])
    looped = np.stack([denoise(a, s) for a, s in zip(x, sigmas, strict=True)])
    direction, other = rng_array(34, 6, 5, 2), rng_array(35, 6, 5, 2)

    @jax.jit
    def transformed(x, sigmas):
        forward = jax.jvp(lambda y: denoise(y, 1.1), (x[0],), (direction,))[1]
        backward = jax.vjp(lambda y: denoise(y, 1.1), x[0])[1](other)[0]
        return (
            jax.vmap(denoise)(x, sigmas),
            forward,
            backward,
            jax.jvp(lambda s: denoise(x[0], s), (1.1,), (1.0,))[1],
        )

    mapped, forward, backward, in_sigma = jax.tree.map(np.asarray, transformed(x, sigmas))
    np.testing.assert_allclose(mapped, looped, rtol=1e-11, atol=1e-13)

    def plain(x, sigma):
        return np.asarray(denoise(x, sigma))

    central = (plain(x[0] + 1e-5 * direction, 1.1) - plain(x[0] - 1e-5 * direction, 1.1)) / 2e-5
    np.testing.assert_allclose(forward, central, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.vdot(backward, direction), np.vdot(other, forward), rtol=1e-10)
    np.testing.assert_allclose(
        in_sigma, (plain(x[0], 1.1 + 1e-5) - plain(x[0], 1.1 - 1e-5)) / 2e-5, rtol=1e-6, atol=1e-8
    )


def test_half_precision_is_computed_in_float32_and_returned_in_half():
    images = np.asarray(np.tanh(rng_array(36, 4, 6, 5, 1)), np.float16)
    x = np.asarray(rng_array(37, 6, 5, 1), np.float16)
    got = ideal_denoiser(images)(x, 1e3)  # sigma^2 overflows half precision
    assert got.dtype == np.float16
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(images, np.float64).mean(0), atol=2e-3)


def test_gradients_reach_the_prior():
    means, x = rng_array(38, 3, *SHAPE), np.asarray(rng_array(39, *SHAPE))

    def loss(means, std, log_prior):
        return jnp.sum(mixture_denoiser(means, std, log_prior=log_prior)(x, 0.8) ** 2)

    arguments = (means, np.asarray(0.5), np.log(np.array([0.5, 0.3, 0.2])))
    both = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    gradients = both(*arguments)[1]
    for slot in range(3):
        direction = np.asarray(rng_array(40 + slot, *arguments[slot].shape))
        moved = [
            float(both(*(a + step * direction if i == slot else a for i, a in enumerate(arguments)))[0])
            for step in (1e-6, -1e-6)
        ]
        np.testing.assert_allclose(
            np.vdot(gradients[slot], direction), (moved[0] - moved[1]) / 2e-6, rtol=1e-6
        )


# ---------------------------------------------------------------- bad input


def test_messages_for_bad_images_and_noise():
    images = np.zeros((2, 4, 3, 1))
    denoise = ideal_denoiser(images)
    with pytest.raises(ValueError, match=r"images: expected shape \(N, H, W, C\), got shape \(4, 3, 1\)"):
        ideal_denoiser(images[0])
    with pytest.raises(TypeError, match="images: expected a floating-point array, got dtype int"):
        ideal_denoiser(np.zeros((2, 4, 3, 1), int))
    with pytest.raises(ValueError, match="images: expected finite values, got 1 non-finite of 24"):
        ideal_denoiser(np.where(np.arange(24).reshape(2, 4, 3, 1) == 0, np.nan, images))
    with pytest.raises(ValueError, match=r"log_prior: expected shape \(2,\)"):
        ideal_denoiser(images, log_prior=np.zeros(3))
    with pytest.raises(ValueError, match=r"std: expected a finite number >= 0, got -1\.0"):
        mixture_denoiser(images, -1.0)
    with pytest.raises(ValueError, match=r"std: expected one scalar for all components, got shape \(2,\)"):
        mixture_denoiser(images, np.ones(2))
    with pytest.raises(
        ValueError, match=r"x: expected shape \(4, 3, 1\), that of the prior, got shape \(3, 4"
    ):
        denoise(np.zeros((3, 4, 1)), 1.0)
    with pytest.raises(ValueError, match=r"x: expected shape \(H, W, C\), got shape \(4, 3\)"):
        jax.jit(denoise)(np.zeros((4, 3)), 1.0)
    with pytest.raises(TypeError, match="x: expected a floating-point array, got dtype complex"):
        denoise(np.zeros((4, 3, 1), complex), 1.0)
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="sigma: expected a finite number > 0"):
            denoise(images[0], bad)
        with pytest.raises(ValueError, match="sigma: expected a finite number > 0"):
            score(denoise, images[0], bad)
    with pytest.raises(ValueError, match=r"sigma: expected a scalar standard deviation, got shape \(3,\)"):
        two_pattern_denoiser(3)(images[0], np.ones(3))
    with pytest.raises(ValueError, match="size: expected an integer window size >= 1, got 0"):
        two_pattern_denoiser(0)


def test_messages_for_bad_spectra():
    mean, good = np.zeros((4, 6, 2)), random_spectrum(43, 4, 6, 2)
    with pytest.raises(
        ValueError, match=r"spectrum: expected shape \(H, W\) or \(H, W, C, C\), got shape \(4,"
    ):
        gaussian_denoiser(mean, good[..., 0])
    with pytest.raises(TypeError, match="spectrum: expected floating point, got dtype int"):
        gaussian_symbol(np.ones((4, 6), int))
    with pytest.raises(ValueError, match=r"spectrum: expected grid \(4, 6\) and 2 channels.* got grid \(6"):
        gaussian_denoiser(mean, np.ones((6, 4)))
    with pytest.raises(ValueError, match=r"spectrum: expected grid .* got grid .* and 3 channels"):
        gaussian_denoiser(mean, np.broadcast_to(np.eye(3), (4, 6, 3, 3)))
    with pytest.raises(ValueError, match="spectrum: expected no negative power, got -1"):
        gaussian_symbol(-np.ones((4, 6)))
    with pytest.raises(ValueError, match="spectrum: expected a Hermitian matrix at every k"):
        gaussian_symbol(np.asarray(np.triu(np.ones((4, 6, 2, 2)))))
    with pytest.raises(ValueError, match=r"spectrum: expected S\(-k\) = conj S\(k\), got deviation 1"):
        gaussian_symbol(np.where(np.arange(24).reshape(4, 6) == 8, 1.0, 0.0))
    with pytest.raises(ValueError, match="spectrum: expected finite values"):
        gaussian_symbol(np.full((4, 6), np.inf))
    with pytest.raises(
        ValueError, match=r"mean: expected a shape that broadcasts to \(4, 6, 2\), got shape \(6"
    ):
        image_spectrum(np.zeros((3, 4, 6, 2)), mean=np.zeros((6, 4, 2)))
