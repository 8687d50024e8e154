"""Leading eigenvalues in closed form against LAPACK, their derivatives, and growth rates."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.closed_form import gaussian_symbol
from critjax.fourier import wavevectors
from critjax.spectra import dispersion, growth_rate, leading_eigenvalue, right_eigenvector


def random_matrices(channels, count=200, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, channels, channels)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def numpy_leading(matrices):
    values = np.linalg.eigvals(matrices)
    return np.take_along_axis(values, values.real.argmax(-1)[..., None], -1)[..., 0]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_against_lapack(channels):
    matrices = random_matrices(channels)
    np.testing.assert_allclose(leading_eigenvalue(matrices), numpy_leading(matrices), rtol=1e-10)
    single = leading_eigenvalue(matrices.astype(np.complex64))
    assert single.dtype == jnp.complex64
    np.testing.assert_allclose(single, numpy_leading(matrices), rtol=2e-4)
    np.testing.assert_allclose(np.quantile(abs(single - numpy_leading(matrices)), 0.9), 0, atol=5e-6)


@pytest.mark.parametrize("channels", [2, 3])
def test_hermitian_matrices_of_nearly_grey_images(channels):
    """One large eigenvalue beside a nearly degenerate rest, as symbols of natural colour images have."""
    rng = np.random.default_rng(1)
    grey = np.ones((50, channels, channels)) + 1e-4 * rng.normal(size=(50, channels, channels))
    grey = grey + np.swapaxes(grey, 1, 2)
    np.testing.assert_allclose(leading_eigenvalue(grey.astype(np.float32)), numpy_leading(grey), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_scales_out(scale):
    matrices = random_matrices(3)
    np.testing.assert_allclose(
        leading_eigenvalue((scale * matrices).astype(np.complex64)) / scale,
        leading_eigenvalue(matrices),
        rtol=2e-4,
    )


def test_degenerate_matrices():
    identity = np.eye(3)
    jordan = np.array([[2.0, 1, 0], [0, 2, 1], [0, 0, 2]])
    double = np.diag([1.0, 1.0, -2.0])
    np.testing.assert_allclose(leading_eigenvalue(2.5 * identity), 2.5)
    np.testing.assert_allclose(leading_eigenvalue(np.zeros((2, 2))), 0)
    np.testing.assert_allclose(leading_eigenvalue(jordan), 2, atol=1e-12)
    np.testing.assert_allclose(leading_eigenvalue(double), 1, atol=1e-7)


def test_conjugate_pairs_report_the_positive_frequency():
    pair = np.array([[0.3, -2.0, 0], [2.0, 0.3, 0], [0, 0, -1.0]])
    np.testing.assert_allclose(leading_eigenvalue(pair), 0.3 + 2j, atol=1e-12)
    np.testing.assert_allclose(leading_eigenvalue(pair[:2, :2]), 0.3 + 2j, atol=1e-12)


def test_not_a_number_stays_visible():
    for channels in (1, 2, 3):
        assert np.isnan(leading_eigenvalue(np.full((channels, channels), np.nan)))


@pytest.mark.parametrize("channels", [2, 3])
def test_derivatives_at_simple_roots(channels):
    """First derivatives against l^dagger dA r, second ones against differences of the first."""
    rng = np.random.default_rng(2)
    real = rng.normal(size=(channels, channels))
    direction = rng.normal(size=(channels, channels))
    values, right = np.linalg.eig(real)
    best = values.real.argmax()
    left = np.linalg.inv(right)
    expected = (left[best] @ direction @ right[:, best]).real

    def along(t):
        return leading_eigenvalue(real + t * direction).real

    both = jax.jit(jax.value_and_grad(jax.grad(along)))
    np.testing.assert_allclose(both(0.0)[0], expected, rtol=1e-9)
    curvature = (both(1e-5)[0] - both(-1e-5)[0]) / 2e-5
    np.testing.assert_allclose(both(0.0)[1], curvature, rtol=1e-6)


@pytest.mark.parametrize("channels", [2, 3])
def test_derivatives_at_degenerate_points_are_those_of_the_mean(channels):
    gradient = jax.jit(jax.grad(lambda a: leading_eigenvalue(a).real))
    expected = np.eye(channels) / channels
    np.testing.assert_allclose(gradient(2.0 * np.eye(channels)), expected, atol=1e-12)
    np.testing.assert_allclose(gradient(np.zeros((channels, channels))), expected, atol=1e-12)
    defective = np.eye(channels) + np.eye(channels, k=1)
    assert np.all(np.isfinite(gradient(defective)))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_right_eigenvector(channels):
    matrix = random_matrices(channels, 1, seed=3)[0]
    value = numpy_leading(matrix[None])[0]
    vector = np.asarray(right_eigenvector(matrix, value))
    np.testing.assert_allclose(matrix @ vector, value * vector, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(vector), 1)
    largest = vector[np.abs(vector).argmax()]
    assert largest.real > 0 and abs(largest.imag) < 1e-12


def test_growth_rate_in_both_frames():
    """Gamma = (1+eta)(max Re eig - 1), and sigma^2/(1+sigma^2) more for alpha x."""
    table = random_matrices(2, 12, seed=4).reshape(3, 4, 2, 2)
    expected = 2.5 * (numpy_leading(table).real - 1)
    np.testing.assert_allclose(growth_rate(table, 2.0, eta=1.5), expected, atol=1e-12)
    np.testing.assert_allclose(growth_rate(table, 2.0, eta=1.5, frame="vp"), expected + 0.8, atol=1e-12)
    single = growth_rate(table.astype(np.complex64), 2.0, eta=1.5, frame="vp")
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected + 0.8, atol=1e-5)


def test_dispersion_is_the_loop():
    symbol_fn = gaussian_symbol(1 / (0.1 + np.sum(np.asarray(wavevectors((3, 4))) ** 2, -1)))
    sigmas = np.array([4.0, 2.0, 1.0])
    for batch_size in (None, 2):
        table = dispersion(symbol_fn, sigmas, batch_size=batch_size)
        expected = np.stack([symbol_fn(s) for s in sigmas])
        np.testing.assert_allclose(table, expected, atol=1e-14)


def test_messages():
    with pytest.raises(ValueError, match=r"symbol: expected shape \(H, W, C, C\), got shape \(2, 2\)"):
        inspect.unwrap(growth_rate)(np.eye(2), 1.0)
    with pytest.raises(ValueError, match="frame: expected 've' or 'vp', got 'ou'"):
        growth_rate(np.ones((1, 1, 1, 1)), 1.0, frame="ou")
    with pytest.raises(ValueError, match="eta: expected a finite number >= 0, got -1.0"):
        growth_rate(np.ones((1, 1, 1, 1)), 1.0, eta=-1.0)
    with pytest.raises(ValueError, match="sigma: expected a finite number > 0, got 0.0"):
        growth_rate(np.ones((1, 1, 1, 1)), 0.0)
    with pytest.raises(ValueError, match=r"matrix: expected shape \(..., C, C\), got shape \(2, 3\)"):
        inspect.unwrap(leading_eigenvalue)(np.ones((2, 3)))
    with pytest.raises(ValueError, match="sigmas: expected positive, strictly decreasing noise levels"):
        dispersion(gaussian_symbol(np.ones((2, 2))), np.array([1.0, 2.0]))
