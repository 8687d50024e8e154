"""Leading eigenmodes: against dense Jacobians, known symbols and known posteriors; degenerate and tiny cases."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from critjax.banks import ImageBank
from critjax.closed_form import gaussian_denoiser, ideal_denoiser
from critjax.eigenmodes import leading_modes
from critjax.fourier import wavevectors
from critjax.networks import NetworkConfig, init, network_denoiser
from critjax.patch_score import patch_denoiser

SHAPE = (6, 7, 3)
modes_unchecked = inspect.unwrap(leading_modes)  # past the annotations, to read the library's own messages


@functools.cache
def network():
    """A local network with random weights everywhere: J has no symmetry."""
    config, rng = NetworkConfig(width=6, channels=3, dilations=(1, 1)), np.random.default_rng(1)
    params = jax.jit(lambda: init(config, jax.random.key(0)))()
    return network_denoiser(config, jax.tree.map(lambda a: a + 0.5 * rng.normal(size=a.shape), params))


WEIGHTS = np.random.default_rng(2).normal(size=(126, 126)) / np.sqrt(126)


def coupled(x, sigma):
    """Nonlinear, nonreciprocal, many complex pairs."""
    return (jnp.tanh(WEIGHTS.astype(x.dtype) @ x.reshape(-1)) / (0.5 + sigma)).reshape(x.shape)


def image(seed=3, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def dense(denoise, x, sigma):
    """The whole Jacobian by central differences of high order, without a derivative rule of JAX, and by jacfwd."""
    step = 5e-4
    shifts = np.eye(x.size).reshape(-1, *x.shape) * step

    @jax.jit
    def run(points):
        return jax.vmap(lambda y: denoise(y, sigma))(points), jax.jacfwd(lambda y: denoise(y, sigma))(
            points[0]
        )

    points = np.concatenate([x[None], *(x + n * shifts for n in (-2, -1, 1, 2))])
    values, exact = map(np.asarray, run(points))
    far, near, near_above, far_above = values[1:].reshape(4, x.size, x.size)
    return ((8 * (near_above - near) - (far_above - far)) / (12 * step)).T, exact.reshape(x.size, x.size)


def linear(matrix, x, sigma):
    return (matrix @ x.reshape(-1)).reshape(x.shape)


def leading_of(matrix, count):
    values = np.linalg.eigvals(matrix)
    return values[np.lexsort((-values.imag, -values.real.round(9)))][:count]


def check_conventions(modes):
    flat = np.asarray(modes.mode).reshape(len(modes.mode), -1)
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1, atol=1e-6)
    for row in flat:
        first = row[np.argmax(np.abs(row) >= 0.999 * np.abs(row).max())]
        assert first.real > 0 and abs(first.imag) < 1e-6
    values = np.asarray(modes.eigenvalue)
    assert np.all(np.diff(values.real) <= 1e-6)
    for n in np.nonzero(values.imag < 0)[0]:
        assert values[n] == np.conj(values[n - 1])
        np.testing.assert_array_equal(flat[n], np.conj(flat[n - 1]))


@pytest.mark.parametrize("make", [network, lambda: coupled])
def test_nonsymmetric_against_the_dense_jacobian(make):
    denoise, x, sigma = make(), image(), 0.6
    matrix, exact_matrix = dense(denoise, x, sigma)
    np.testing.assert_allclose(matrix, exact_matrix, atol=1e-8)
    found = leading_modes(denoise, x, sigma, num_modes=7)
    np.testing.assert_allclose(found.eigenvalue, leading_of(matrix, 7), atol=2e-7)
    check_conventions(found)
    assert found.eigenvalue.dtype == found.mode.dtype == jnp.complex128
    assert found.residual.dtype == jnp.float64
    flat = np.asarray(found.mode).reshape(7, -1)
    error = flat @ exact_matrix.T - np.asarray(found.eigenvalue)[:, None] * flat
    np.testing.assert_allclose(found.residual, np.linalg.norm(error, axis=1), atol=1e-12)
    assert np.max(found.residual) < 1e-7


def test_complex_modes_occur_and_a_pair_may_be_cut():
    x = image()
    whole = leading_modes(coupled, x, 0.6, num_modes=7)
    pairs = np.nonzero(np.asarray(whole.eigenvalue).imag > 1e-3)[0]
    assert len(pairs) > 0
    cut = leading_modes(coupled, x, 0.6, num_modes=int(pairs[0]) + 1)
    np.testing.assert_allclose(cut.eigenvalue, np.asarray(whole.eigenvalue)[: pairs[0] + 1], atol=1e-7)
    np.testing.assert_allclose(np.asarray(cut.mode)[-1], np.asarray(whole.mode)[pairs[0]], atol=1e-6)


def negative_mean(x, sigma):
    return jnp.array([0.9, 0.5, 0.2]) * (x - x.mean((0, 1))) - 20 * x.mean((0, 1))


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_largest_real_part_leads_not_the_largest_magnitude(symmetric):
    found = leading_modes(negative_mean, image(), 1.0, num_modes=2, symmetric=symmetric)
    np.testing.assert_allclose(found.eigenvalue, 0.9, atol=1e-7)


def posteriors():
    rng = np.random.default_rng(4)
    images = rng.uniform(-1, 1, (12, *SHAPE))
    return {
        "ideal": ideal_denoiser(images),
        "patches": patch_denoiser(ImageBank(images, 3, positions="all")),
    }


@pytest.mark.parametrize("name", ["ideal", "patches"])
def test_exact_posterior_means(name):
    """Whole images: J = Cov/sigma^2, from the weights by numpy; patches: J is symmetric only for one window a pixel."""
    x, sigma = image() * 1.2, 2.0
    denoise = posteriors()[name]
    matrix = np.asarray(jax.jit(jax.jacfwd(lambda y: denoise(y, sigma)))(x)).reshape(x.size, x.size)
    symmetric = bool(np.abs(matrix - matrix.T).max() < 1e-10)
    assert symmetric == (name == "ideal")
    expected = np.linalg.eigvalsh(matrix)[::-1] if symmetric else leading_of(matrix, 6)
    found = leading_modes(denoise, x, sigma, symmetric=symmetric)
    np.testing.assert_allclose(found.eigenvalue, expected[:6], atol=1e-7)
    check_conventions(found)
    if symmetric:
        assert found.eigenvalue.dtype == found.mode.dtype == jnp.float64
        flat = np.asarray(found.mode).reshape(6, -1)
        np.testing.assert_allclose(flat @ flat.T, np.eye(6), atol=1e-10)
        images = np.random.default_rng(4).uniform(-1, 1, (12, x.size))
        distance = ((images - np.asarray(x).reshape(-1)) ** 2).sum(1)
        weight = np.exp(-(distance - distance.min()) / (2 * sigma**2))
        covariance = np.cov(images.T, aweights=weight / weight.sum(), ddof=0)
        exact = np.linalg.eigvalsh(covariance / sigma**2)[::-1][:6]
        np.testing.assert_allclose(found.eigenvalue, exact, atol=1e-10)
    else:
        with pytest.raises(
            ValueError, match=r"symmetric: expected a symmetric Jacobian, got \|u.Jv - v.Ju\| = "
        ):
            leading_modes(denoise, x, sigma, symmetric=True)


@functools.cache
def gaussian(grid, channels=1):
    spectrum = 1 / (0.1 + np.sum(np.asarray(wavevectors(grid)) ** 2, -1))
    eigenvalues = np.sort(np.repeat((spectrum / (spectrum + 0.49)).reshape(-1), channels))[::-1]
    return gaussian_denoiser(np.zeros((*grid, channels)), spectrum), eigenvalues


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("tolerance", [None, 1e-3])
@pytest.mark.parametrize(("grid", "channels", "count"), [((8, 8), 1, 12), ((6, 9), 3, 7)])
def test_no_copy_of_a_degenerate_eigenvalue_is_missed(grid, channels, count, tolerance, symmetric):
    """Isotropic spectrum: up to eight equal eigenvalues, which one Krylov space at a loose tolerance must miss."""
    denoise, exact = gaussian(grid, channels)
    x = np.zeros((*grid, channels))
    found = leading_modes(denoise, x, 0.7, num_modes=count, symmetric=symmetric, tolerance=tolerance)
    np.testing.assert_allclose(found.eigenvalue, exact[:count], atol=1e-7 if tolerance is None else 2e-3)
    flat = np.asarray(found.mode).reshape(count, -1)
    assert np.linalg.matrix_rank(flat, tol=1e-6) == count


def test_modes_of_a_translation_invariant_denoiser_are_plane_waves():
    grid = (6, 9)
    denoise, exact = gaussian(grid)
    found = leading_modes(denoise, image(shape=(*grid, 1)), 0.7, num_modes=5, symmetric=True)
    power = np.abs(np.fft.fft2(np.asarray(found.mode)[..., 0])) ** 2 / 54
    np.testing.assert_allclose(power[0, 0, 0], 1, atol=1e-12)
    np.testing.assert_allclose(np.asarray(found.mode)[0], 1 / np.sqrt(54), atol=1e-7)
    expected = [{(0, 1), (0, 8)}, {(1, 0), (5, 0)}]  # the smallest |k|: 2 pi/9, then 2 pi/6
    for rows, waves in zip(((1, 2), (3, 4)), expected, strict=True):
        for row in rows:
            np.testing.assert_allclose(sum(power[row][n] for n in waves), 1, atol=1e-10)
    np.testing.assert_allclose(found.eigenvalue, exact[:5], atol=1e-9)


def test_a_travelling_wave():
    """A shifted and smoothed copy: eigenvalues g(k) e^{ik}; the pair next to k = 0 is e^{ik.r}, with the sign of k."""
    grid, phase = (5, 22), 2 * np.pi / 22
    k = np.asarray(wavevectors(grid))
    symbol = 0.9 * np.exp(1j * k[..., 1] - 2 * np.sum(k**2, -1))[..., None]

    def denoise(x, sigma):
        return jnp.fft.ifft2(symbol * jnp.fft.fft2(x, axes=(0, 1)), axes=(0, 1)).real

    found = leading_modes(denoise, image(shape=(*grid, 1)), 1.0, num_modes=3)
    size = 0.9 * np.exp(-2 * phase**2)
    np.testing.assert_allclose(
        found.eigenvalue, [0.9, size * np.exp(1j * phase), size * np.exp(-1j * phase)], atol=1e-8
    )
    mode = np.exp(1j * phase * np.arange(22)) / np.sqrt(110)  # real and positive at the first entry
    np.testing.assert_allclose(np.asarray(found.mode)[1, ..., 0], np.broadcast_to(mode, grid), atol=1e-7)


@pytest.mark.parametrize("symmetric", [False, True])
def test_small_images_and_all_modes(symmetric):
    """One pixel upwards, up to every mode: the dense route, also of modes that grow or have negative eigenvalues."""
    for shape, count in (((1, 1, 1), 1), ((1, 2, 1), 2), ((3, 4, 2), 24), ((3, 4, 2), 23)):
        rng = np.random.default_rng(5)
        matrix = rng.normal(size=(np.prod(shape),) * 2)
        matrix = (matrix + matrix.T) / 2 if symmetric else matrix
        found = leading_modes(
            Partial(linear, matrix), np.zeros(shape), 1.0, num_modes=count, symmetric=symmetric
        )
        np.testing.assert_allclose(found.eigenvalue, leading_of(matrix, count), atol=1e-10)
        check_conventions(found)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("denoise", "exact"),
    [
        (lambda x, s: 0 * x, [0, 0, 0, 0]),
        (lambda x, s: -3 * x, [-3, -3, -3, -3]),
        (lambda x, s: jnp.full_like(x, x.mean()), [1, 0, 0, 0]),
        (lambda x, s: jnp.full_like(x, x.mean()) - 2 * x, [-1, -2, -2, -2]),
    ],
)
def test_constant_multiples_and_rank_one(denoise, exact, symmetric):
    found = leading_modes(denoise, image(), 1.0, num_modes=4, symmetric=symmetric)
    np.testing.assert_allclose(found.eigenvalue, exact, atol=1e-9)
    assert np.max(found.residual) < 1e-9


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("tolerance", [None, 1e-15])
def test_a_defective_eigenvalue(tolerance, count):
    """A Jordan block has one eigenvector: it comes twice, and what follows is neither lost nor displaced."""
    values = np.concatenate([[0.9, 0.9], np.linspace(0.7, -0.5, 124)])
    matrix = np.diag(values)
    matrix[0, 1] = 1.0
    turn = np.linalg.qr(np.random.default_rng(6).normal(size=(126, 126)))[0]
    matrix = turn @ matrix @ turn.T
    found = leading_modes(Partial(linear, matrix), image(), 1.0, num_modes=count, tolerance=tolerance)
    eigenvalue = np.asarray(found.eigenvalue)
    np.testing.assert_allclose(eigenvalue[:2], 0.9, atol=1e-4)  # the square root of the accuracy
    np.testing.assert_allclose(eigenvalue[2:], values[2:count], atol=1e-7)


def test_float32_agrees_with_float64():
    denoise, x = network(), image()
    double = leading_modes(denoise, x, 0.6, num_modes=4)
    single = leading_modes(denoise, x.astype(np.float32), 0.6, num_modes=4)
    assert single.eigenvalue.dtype == single.mode.dtype == jnp.complex64
    assert single.residual.dtype == jnp.float32
    np.testing.assert_allclose(single.eigenvalue, double.eigenvalue, atol=3e-5)
    overlap = np.sum(np.asarray(single.mode) * np.conj(double.mode), (1, 2, 3))
    np.testing.assert_allclose(np.abs(overlap), 1, atol=1e-4)
    assert np.max(single.residual) < 1e-4


def test_start_vectors_do_not_matter_and_products_are_counted():
    calls = []

    def counted(x, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return coupled(x, sigma)

    one = leading_modes(counted, image(), 0.6, num_modes=3)
    jax.effects_barrier()
    assert len(calls) == one.num_products
    two = leading_modes(coupled, image(), 0.6, num_modes=3, key=jax.random.key(9))
    np.testing.assert_allclose(one.eigenvalue, two.eigenvalue, atol=1e-7)
    np.testing.assert_allclose(one.mode, two.mode, atol=1e-6)


def test_messages():
    x = image()
    with pytest.raises(
        ValueError, match=r"num_modes: expected an integer of 1 \.\.\. 126, got 127; ask for fewer"
    ):
        leading_modes(coupled, x, 1.0, num_modes=127)
    with pytest.raises(ValueError, match=r"num_modes: expected an integer of 1 \.\.\. 126, got 0"):
        leading_modes(coupled, x, 1.0, num_modes=0)
    with pytest.raises(ValueError, match=r"num_modes: expected an integer .* got 2.5"):
        modes_unchecked(coupled, x, 1.0, num_modes=2.5)
    with pytest.raises(ValueError, match=r"x: expected shape \(H, W, C\), got shape \(6, 7\)"):
        modes_unchecked(coupled, x[..., 0], 1.0)
    with pytest.raises(TypeError, match="x: expected a floating-point array, got dtype int"):
        modes_unchecked(coupled, x.astype(int), 1.0)
    with pytest.raises(ValueError, match="x: expected finite values, got 1 non-finite of 126"):
        leading_modes(coupled, np.where(x == x[0, 0, 0], np.nan, x), 1.0)
    with pytest.raises(ValueError, match=r"x: expected no empty axis, got shape \(0, 7, 3\)"):
        leading_modes(coupled, x[:0], 1.0)
    for sigma in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"sigma: expected a finite number > 0, got {sigma}"):
            leading_modes(coupled, x, sigma)
    with pytest.raises(ValueError, match=r"tolerance: expected a relative residual in \(0, 1\), got 0"):
        leading_modes(coupled, x, 1.0, tolerance=0.0)
    with pytest.raises(ValueError, match="max_products: expected an integer >= 1, got 0"):
        leading_modes(coupled, x, 1.0, max_products=0)
    with pytest.raises(
        RuntimeError, match="expected convergence within max_products = 30 .* raise max_products"
    ):
        leading_modes(coupled, x, 1.0, max_products=30)
    with pytest.raises(
        ValueError, match="x: expected concrete values, got a traced array; call leading_modes out"
    ):
        jax.jit(lambda y: modes_unchecked(coupled, y, 1.0))(x)
    with pytest.raises(
        ValueError, match=r"denoise_fn: expected results of shape \(6, 7, 3\), got shape \(6, 7\)"
    ):
        leading_modes(lambda y, s: y[..., 0], x, 1.0)
    with pytest.raises(
        ValueError, match="denoise_fn: expected finite Jacobian-vector products, got NaN or inf"
    ):
        leading_modes(lambda y, s: jnp.sqrt(0 * y), x, 1.0)
