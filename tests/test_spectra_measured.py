"""Symbols measured on denoisers: Rayleigh quotients, random-phase probes, regression."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.banks import PatchBank, two_pattern_bank
from critjax.closed_form import gaussian_denoiser, gaussian_symbol, mixture_denoiser, two_pattern_denoiser
from critjax.fourier import apply_symbol, kernel_to_symbol, wavevectors
from critjax.spectra import (
    measured_symbol,
    project_symbol,
    random_phase_field,
    rayleigh_quotient,
    regression_ratio,
    regression_symbol,
    symbol,
)


def random_kernel(seed, size=3, channels=2):
    return np.random.default_rng(seed).normal(size=(size, size, channels, channels))


def linear_denoiser(kernel):
    """A correlation with a kernel, written with rolls: translation invariant, not reciprocal."""
    size = kernel.shape[0]

    def denoise(x, sigma):
        out = jnp.zeros_like(x)
        for a in range(size):
            for b in range(size):
                moved = jnp.roll(x, ((size - 1) // 2 - a, (size - 1) // 2 - b), (0, 1))
                out += jnp.einsum("ab,hwb->hwa", kernel[a, b], moved).astype(x.dtype)
        return out / (1 + sigma**2)

    return denoise


def crooked_denoiser(x, sigma, numpy=jnp):
    """Neither translation invariant nor linear: neighbours and channels enter with weights from the image."""
    right, up = numpy.roll(x, -1, -2), numpy.roll(x, 1, -3)
    return numpy.tanh(x + 0.5 * x * right) + 0.3 * up**2 * sigma + 0.4 * numpy.sin(x[..., ::-1] + up)


def crooked_products(x, sigma, tangents):
    """J v of `crooked_denoiser` for many v, (B, H, W, C), exactly, by imaginary steps in numpy."""
    return crooked_denoiser(np.asarray(x) + 1e-30j * tangents, sigma, np).imag / 1e-30


def crooked_jacobian(x, sigma):
    """dD_ia/dx_jb, (H, W, C, H, W, C)."""
    columns = crooked_products(x, sigma, np.eye(x.size).reshape(-1, *x.shape))
    return np.moveaxis(columns, 0, -1).reshape(*x.shape, *x.shape)


def dense_symbol(x, sigma):
    """Diagonal blocks a^dagger J a in the Fourier basis from the full Jacobian of `crooked_denoiser`."""
    height, width, channels = x.shape
    jacobian = crooked_jacobian(x, sigma)
    rows, columns = np.indices((height, width))
    result = np.zeros((height, width, channels, channels), complex)
    for n_y, n_x in np.ndindex(height, width):
        wave = np.exp(2j * np.pi * (n_y * rows / height + n_x * columns / width))
        result[n_y, n_x] = np.einsum("ij,ijaklb,kl->ab", wave.conj(), jacobian, wave) / (height * width)
    return result


# Rayleigh quotients --------------------------------------------------------------------------------------------


def test_rayleigh_quotient_is_the_diagonal_of_the_dense_jacobian():
    x = np.random.default_rng(0).normal(size=(4, 5, 2))
    exact = dense_symbol(x, 0.7)
    k = np.asarray(wavevectors((4, 5)))
    amplitude = np.array([1.0 - 0.5j, 0.3 + 2.0j])
    for n in [(0, 0), (1, 2), (2, 0), (3, 4)]:
        expected = amplitude.conj() @ exact[n] @ amplitude / (np.abs(amplitude) ** 2).sum()
        found = rayleigh_quotient(crooked_denoiser, x, k[n], 0.7, polarisation=amplitude)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        equal = rayleigh_quotient(crooked_denoiser, x, k[n], 0.7)
        np.testing.assert_allclose(equal, exact[n].sum() / 2, atol=1e-12)


def test_rayleigh_quotient_of_a_patch_model_is_its_symbol():
    """The sign of Im: a bank without reflection symmetry, probed through a denoiser that shares no code."""
    rng = np.random.default_rng(1)
    patches = rng.uniform(-1, 1, (6, 3, 3, 1))

    def denoise(x, sigma):
        shifts = [(1 - a, 1 - b) for a in range(3) for b in range(3)]
        windows = jnp.stack([jnp.roll(x[..., 0], s, (0, 1)) for s in shifts], -1)
        distance = ((windows[..., None, :] - patches.reshape(6, 9)) ** 2).sum(-1)
        return jax.nn.softmax(-distance / (2 * sigma**2), -1) @ patches[:, 1, 1]

    grid = (5, 6)
    table = np.asarray(symbol(PatchBank(patches), 0.9, grid, state=np.array([0.2])))
    x = np.full((*grid, 1), 0.2)
    measured = jax.vmap(jax.vmap(lambda k: rayleigh_quotient(denoise, x, k, 0.9)))(wavevectors(grid))
    assert np.abs(table.imag).max() > 0.01
    np.testing.assert_allclose(measured, table[..., 0, 0], atol=1e-12)


def test_rayleigh_quotient_of_closed_forms():
    spectrum = 1 / (0.1 + np.sum(np.asarray(wavevectors((4, 6))) ** 2, -1))
    denoise = gaussian_denoiser(np.zeros((4, 6, 1)), spectrum)
    k = np.asarray(wavevectors((4, 6)))[1, 2]
    got = rayleigh_quotient(denoise, np.ones((4, 6, 1)), k, 0.8)
    np.testing.assert_allclose(got, np.asarray(gaussian_symbol(spectrum)(0.8))[1, 2, 0, 0], atol=1e-12)
    # Two Gaussians along their axis: (s^2 + sigma^2 |m|^2/(s^2 + sigma^2))/(s^2 + sigma^2), one at |m|^2 - s^2.
    means = 0.5 * np.stack([np.ones((4, 6, 1)), -np.ones((4, 6, 1))])
    sigma = np.sqrt(6.0 - 0.25)
    got = rayleigh_quotient(mixture_denoiser(means, 0.5), np.zeros((4, 6, 1)), np.zeros(2), sigma)
    np.testing.assert_allclose(got, 1, atol=1e-12)


# Random-phase probes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(4, 6), (5, 3)])
def test_random_phases(grid):
    draws = 400
    keys = jax.random.split(jax.random.key(0), draws)
    z, z_hat = jax.vmap(lambda key: random_phase_field(key, grid, np.float64))(keys)
    z_hat = np.asarray(z_hat)
    np.testing.assert_allclose(np.abs(z_hat) ** 2, np.prod(grid), rtol=1e-10)
    np.testing.assert_allclose(np.fft.fft2(z), z_hat, atol=1e-10)
    own = [(n_y, n_x) for n_y, n_x in np.ndindex(*grid) if 2 * n_y % grid[0] == 0 and 2 * n_x % grid[1] == 0]
    assert len(own) == (4 if grid == (4, 6) else 1)
    phase = z_hat / np.sqrt(np.prod(grid))
    for n in np.ndindex(*grid):
        assert abs(phase[(slice(None), *n)].mean()) < 4.5 / np.sqrt(draws)
        square = phase[(slice(None), *n)] ** 2
        if n in own:  # real, plus or minus one
            np.testing.assert_allclose(square, 1, atol=1e-10)
        else:
            assert abs(square.mean()) < 4.5 / np.sqrt(draws)


def test_probes_are_exact_for_translation_invariant_denoisers():
    """All C x C entries, both parts, on an odd-even grid, with no error: also the Fourier sign."""
    kernel, grid = random_kernel(2), (5, 6)
    x, denoise, key = np.ones((*grid, 2)), linear_denoiser(kernel), jax.random.key(0)
    lam, error = measured_symbol(denoise, key, x, 0.5, num_probes=2)
    np.testing.assert_allclose(lam, np.asarray(kernel_to_symbol(kernel, grid)) / 1.25, atol=1e-12)
    assert np.max(error) < 1e-12
    single = measured_symbol(denoise, key, x.astype(np.float32), 0.5, num_probes=2)
    assert single.value.dtype == jnp.complex64 and single.error.dtype == jnp.float32
    np.testing.assert_allclose(single.value, lam, atol=2e-5)


def test_probe_errors_match_the_quoted_ones():
    """Over many keys: unbiased, (estimate - exact)/error has unit variance, and the variance is sum |J_kk'|^2."""
    x = np.random.default_rng(3).normal(size=(4, 5, 2))
    exact = dense_symbol(x, 0.7)
    keys, probes = jax.random.split(jax.random.key(1), 300), 8
    run = jax.vmap(lambda key: measured_symbol(crooked_denoiser, key, x, 0.7, num_probes=probes))
    lam, error = (np.asarray(a) for a in run(keys))
    deviation = np.abs(lam - exact) ** 2
    # 40 modes x 4 entries x 300 keys, about half of them independent: the mean is known to a few per cent.
    assert abs(deviation.mean() / (error**2).mean() - 1) < 0.05
    spread = np.abs(lam.mean(0) - exact) / np.sqrt((error**2).mean(0) / 300)
    assert spread.max() < 4.5 and abs((spread**2).mean() - 1) < 0.3
    # The variance of one probe, from the dense Jacobian in the unitary Fourier basis, channel (0, 1) at k = (1, 2).
    jacobian = crooked_jacobian(x, 0.7)[:, :, 0, :, :, 1].reshape(20, 20)
    basis = np.fft.fft2(np.eye(20).reshape(20, 4, 5)).reshape(20, 20) / np.sqrt(20)
    row = (basis @ jacobian @ basis.conj())[1 * 5 + 2]
    np.testing.assert_allclose(row[7], exact[1, 2, 0, 1], atol=1e-12)
    variance = (np.abs(row) ** 2).sum() - np.abs(row[7]) ** 2
    np.testing.assert_allclose((error[:, 1, 2, 0, 1] ** 2).mean() * probes, variance, rtol=0.15)


def test_sample_errors_match_the_quoted_ones():
    """D = x^3 pixel by pixel on white noise: the mean Jacobian is 3 at every k; samples dominate the error."""
    samples = np.random.default_rng(2).normal(size=(300, 12, 3, 4, 1))
    keys = jax.random.split(jax.random.key(3), 300)
    run = jax.vmap(lambda x, key: measured_symbol(lambda y, _: y**3, key, x, 1.0, num_probes=1))
    lam, error = (np.asarray(a) for a in run(samples, keys))
    scaled = np.abs(lam - 3) ** 2 / (error**2).mean(0)
    assert abs(scaled.mean() - 1) < 0.1
    assert abs(lam.mean() - 3) < 4 * np.sqrt((error**2).mean() / 300)


@pytest.mark.parametrize(("probes", "evaluations"), [(2, 1), (8, 1), (11, 2)])
def test_probes_are_averaged_and_share_evaluations(probes, evaluations):
    """Eleven probes are pushed eight at once, then three."""
    x, sigma, key = np.random.default_rng(6).normal(size=(4, 5, 2)), 0.7, jax.random.key(7)
    seen = []

    @jax.custom_jvp
    def counted(x):
        return crooked_denoiser(x, sigma)

    @counted.defjvp
    def rule(primals, tangents):
        jax.debug.callback(lambda _: seen.append(1), primals[0][0, 0, 0])
        return jax.jvp(lambda y: crooked_denoiser(y, sigma), primals, tangents)

    found = measured_symbol(lambda x, _: counted(x), key, x, sigma, num_probes=probes)
    jax.effects_barrier()
    assert len(seen) == evaluations

    @jax.jit
    def draw(key):
        keys = jax.random.split(jax.random.split(key, 1)[0], probes)
        return jax.vmap(lambda key: random_phase_field(key, (4, 5), np.float64))(keys)

    z, z_hat = map(np.asarray, draw(key))
    expected = []
    for field, transform in zip(z, z_hat, strict=True):
        response = crooked_products(x, sigma, np.stack([field[..., None] * e for e in np.eye(2)]))
        pushed = np.moveaxis(np.fft.fft2(response, axes=(1, 2)), 0, -1)
        expected.append(transform.conj()[..., None, None] * pushed / 20)
    np.testing.assert_allclose(found.value, np.mean(expected, 0), atol=1e-12)


def test_batches_average_samples_and_do_not_depend_on_batch_size():
    x = np.random.default_rng(4).normal(size=(5, 4, 4, 1))
    one, two = (
        measured_symbol(crooked_denoiser, jax.random.key(5), x, 0.7, num_probes=3, batch_size=b)
        for b in (None, 2)
    )
    np.testing.assert_allclose(one.value, two.value, atol=1e-13)
    exact = np.mean([dense_symbol(y, 0.7) for y in x], axis=0)
    assert np.all(np.abs(np.asarray(one.value) - exact) < 6 * np.asarray(one.error))


# Regression ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centre", ["ensemble", "spatial"])
def test_regression_recovers_linear_maps_exactly(centre):
    """D = A x + b with any samples, also correlated ones with a mean: no statistics involved."""
    kernel, grid = random_kernel(6), (5, 4)
    exact = np.asarray(kernel_to_symbol(kernel, grid))
    rng = np.random.default_rng(7)
    x = rng.normal(size=(6, *grid, 2)) @ rng.normal(size=(2, 2)) + np.array([3.0, -1.0])
    denoised = np.asarray(jax.jit(jax.vmap(lambda y: apply_symbol(exact, y)))(x)) + np.array([0.5, 2.0])
    for size in (None, 3):
        got = regression_symbol(x, denoised, centre=centre, size=size)
        np.testing.assert_allclose(got, exact, atol=1e-10)


def test_regression_centres_by_the_ensemble_not_per_sample():
    """Per-sample centring would lose k = 0; a fixed pattern in all samples must not matter to 'ensemble'."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(7, 4, 4, 1))
    pattern = 10 * rng.normal(size=(4, 4, 1))
    plain = np.asarray(regression_symbol(x, 0.5 * x))
    np.testing.assert_allclose(regression_symbol(x + pattern, 0.5 * x - 3 * pattern), plain, atol=1e-10)
    np.testing.assert_allclose(plain[0, 0, 0, 0], 0.5)
    spatial = np.asarray(regression_symbol(x + pattern, 0.5 * x, centre="spatial"))
    assert np.abs(spatial - plain).max() > 0.1


def test_regression_is_a_ratio_of_means():
    x = np.array([1.0, 2.0, -3.0]).reshape(3, 1, 1, 1)
    d = np.array([2.0, -1.0, -1.0]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(np.asarray(regression_symbol(x, d)).item(), (2 - 2 + 3) / (1 + 4 + 9))


def test_regression_ratio_solves_for_the_map():
    """cross = L power, for one channel and for three that are correlated; the normalisation cancels."""
    rng = np.random.default_rng(13)
    for channels in (1, 3):
        exact, half = (
            rng.normal(size=(4, channels, channels)) + 1j * rng.normal(size=(4, channels, channels))
            for _ in range(2)
        )
        power = half @ np.conj(np.swapaxes(half, -1, -2))
        np.testing.assert_allclose(regression_ratio(7 * exact @ power, 7 * power), exact, rtol=1e-8)


def test_stein_regression_equals_the_mean_jacobian_of_gaussian_fields():
    """Two patterns on white noise: lambda(k) = (c_k/sigma^2) E sech^2(P mbar/sigma^2)."""
    grid, sigma, count = (9, 8), 3.0, 4000
    x = sigma * np.random.default_rng(9).normal(size=(count, *grid, 1))
    denoised = np.asarray(jax.jit(jax.vmap(lambda y: two_pattern_denoiser(3)(y, sigma)))(x))
    u = np.linspace(-9, 9, 2001)
    density = np.exp(-(u**2) / 2)
    mean_slope = (density / np.cosh(u * 3 / sigma) ** 2).sum() / density.sum()  # argument: std sqrt(P)/sigma
    exact = np.asarray(symbol(two_pattern_bank(3), sigma, grid)) * mean_slope
    got = np.asarray(regression_symbol(x, denoised, centre="spatial"))
    noise = np.sqrt(np.mean(denoised**2) / sigma**2 / count)
    assert np.sqrt(np.mean(np.abs(got - exact) ** 2)) < 1.2 * noise
    # The projection on the window keeps 9 of 72 degrees of freedom and cuts the error accordingly.
    projected = np.asarray(regression_symbol(x, denoised, centre="spatial", size=3))
    assert np.sqrt(np.mean(np.abs(projected - exact) ** 2)) < 1.5 * noise * np.sqrt(9 / 72)


def test_one_euler_step_of_the_structure_factor_is_exact():
    """S' = (1-h)^2 S + 2 h (1-h) Re(lambda) S + h^2 <|D_k|^2>/N with the unprojected regression symbol."""
    x = np.random.default_rng(10).normal(size=(20, 5, 6, 1))
    denoised = np.tanh(2 * x + np.roll(x, 1, 1))
    h = 0.2

    def power(field):
        return (np.abs(np.fft.fft2(field - field.mean(0), axes=(1, 2))) ** 2).mean(0)[..., 0] / 30

    lam = np.asarray(regression_symbol(x, denoised))[..., 0, 0]
    expected = (1 - h) ** 2 * power(x) + 2 * h * (1 - h) * lam.real * power(x) + h**2 * power(denoised)
    np.testing.assert_allclose(power((1 - h) * x + h * denoised), expected, rtol=1e-10)


def test_projection_is_orthogonal_and_keeps_windows():
    rng = np.random.default_rng(11)
    noisy = np.asarray(kernel_to_symbol(rng.normal(size=(6, 7, 2, 2)), (6, 7)))
    once = np.asarray(project_symbol(noisy, 3))
    np.testing.assert_allclose(project_symbol(once, 3), once, atol=1e-12)
    np.testing.assert_allclose(np.vdot(once, noisy - once), 0, atol=1e-9)
    kept = kernel_to_symbol(random_kernel(12, size=3), (6, 7))
    np.testing.assert_allclose(project_symbol(kept, 3), kept, atol=1e-12)
    np.testing.assert_allclose(project_symbol(kept, 5), kept, atol=1e-12)


def test_messages():
    x = np.zeros((4, 4, 2))
    key = jax.random.key(0)
    identity = linear_denoiser(random_kernel(0))
    with pytest.raises(ValueError, match=r"polarisation: expected shape \(2,\), got shape \(3,\)"):
        inspect.unwrap(rayleigh_quotient)(identity, x, np.zeros(2), 1.0, polarisation=np.ones(3))
    with pytest.raises(ValueError, match=r"wavevector: expected shape \(2,\)"):
        inspect.unwrap(rayleigh_quotient)(identity, x, np.zeros(3), 1.0)
    with pytest.raises(TypeError, match="x: expected a floating-point array, got dtype int"):
        inspect.unwrap(rayleigh_quotient)(identity, x.astype(int), np.zeros(2), 1.0)
    with pytest.raises(
        ValueError, match=r"denoise_fn: expected results of shape \(4, 4, 2\), got shape \(4, 4\)"
    ):
        rayleigh_quotient(lambda y, s: y[..., 0], x, np.zeros(2), 1.0)
    with pytest.raises(ValueError, match="num_probes: expected an integer >= 2, got 1"):
        measured_symbol(identity, key, x, 1.0, num_probes=1)
    with pytest.raises(
        ValueError, match=r"x: expected shape \(H, W, C\) or \(B, H, W, C\), got shape \(4, 4\)"
    ):
        inspect.unwrap(measured_symbol)(identity, key, x[..., 0], 1.0, num_probes=2)
    batch = np.zeros((2, 4, 4, 2))
    with pytest.raises(ValueError, match="x: expected at least 3 samples, got 2"):
        regression_symbol(batch, batch)
    with pytest.raises(ValueError, match=r"denoised: expected shape \(2, 4, 4, 2\), that of x, got shape"):
        inspect.unwrap(regression_symbol)(batch, batch[:1])
    with pytest.raises(ValueError, match="centre: expected 'ensemble' or 'spatial', got 'sample'"):
        regression_symbol(np.zeros((3, 4, 4, 1)), np.zeros((3, 4, 4, 1)), centre="sample")
    with pytest.raises(ValueError, match="size: expected a window of 1 to 4 pixels, got 5"):
        regression_symbol(np.ones((3, 4, 4, 1)), np.ones((3, 4, 4, 1)), size=5)
    with pytest.raises(ValueError, match="sigma: expected a finite number > 0, got -1.0"):
        measured_symbol(identity, key, x, -1.0, num_probes=2)
