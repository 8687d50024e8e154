"""Fourier conventions against loops that write the sums out, and against what operators do in real space."""

from __future__ import annotations

import cmath
import inspect
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critjax.fourier import (
    apply_symbol,
    fft2,
    ifft2,
    kernel_offsets,
    kernel_to_symbol,
    plane_wave,
    radial_shells,
    symbol_to_kernel,
    wavevectors,
)

GRIDS = [(8, 8), (5, 8), (8, 5), (7, 7), (1, 6), (2, 3), (1, 1)]
sides = st.integers(1, 9)


def frequency(n: int, length: int) -> Fraction:
    """Cycles per pixel of the n-th FFT entry, in [-1/2, 1/2)."""
    return Fraction(n, length) if 2 * n < length else Fraction(n - length, length)


def brute_wavevectors(grid):
    height, width = grid
    return np.array(
        [
            [(2 * math.pi * frequency(n, height), 2 * math.pi * frequency(m, width)) for m in range(width)]
            for n in range(height)
        ]
    )


def brute_offsets(size):
    return range(-((size - 1) // 2), size // 2 + 1)


def brute_symbol(kernel, grid):
    """Write out sum_r g(r) exp(i k.r) for every k."""
    k = brute_wavevectors(grid)
    result = np.zeros((*grid, *kernel.shape[2:]), complex)
    for n in range(grid[0]):
        for m in range(grid[1]):
            for a, r_y in enumerate(brute_offsets(kernel.shape[0])):
                for b, r_x in enumerate(brute_offsets(kernel.shape[1])):
                    result[n, m] += kernel[a, b] * cmath.exp(1j * (k[n, m, 0] * r_y + k[n, m, 1] * r_x))
    return result


def brute_apply(kernel, x):
    """Write out (J x)_i = sum_r g(r) x_{i+r} on the periodic grid."""
    height, width, _ = x.shape
    result = np.zeros((height, width, kernel.shape[2]), np.result_type(kernel, x))
    for i in range(height):
        for j in range(width):
            for a, r_y in enumerate(brute_offsets(kernel.shape[0])):
                for b, r_x in enumerate(brute_offsets(kernel.shape[1])):
                    result[i, j] += kernel[a, b] @ x[(i + r_y) % height, (j + r_x) % width]
    return result


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("grid", GRIDS)
def test_wavevectors_are_written_in_fft_order_within_half_open_zone(grid):
    k = np.asarray(wavevectors(grid))
    np.testing.assert_allclose(k, brute_wavevectors(grid), rtol=1e-15, atol=0)
    assert k.min() >= -np.pi and k.max() < np.pi


def test_wavevectors_of_an_even_side_hold_minus_pi():
    assert np.asarray(wavevectors((1, 4)))[0, 2, 1] == -np.pi


def test_transform_has_the_sign_of_numpy_and_no_normalisation():
    grid, where = (5, 6), (2, 3)
    delta = np.zeros((*grid, 1))
    delta[where] = 1.0
    k = brute_wavevectors(grid)
    expected = np.exp(-1j * (k[..., 0] * where[0] + k[..., 1] * where[1]))
    np.testing.assert_allclose(np.asarray(fft2(delta))[..., 0], expected, atol=1e-14)


def test_plane_wave_is_exp_of_plus_i_k_dot_j_and_one_mode_of_the_transform():
    modes = [
        (grid, where)
        for grid in GRIDS
        for where in {(0, 0), (grid[0] // 2, grid[1] // 2), (grid[0] - 1, min(1, grid[1] - 1))}
    ]
    ks = [brute_wavevectors(grid)[where] for grid, where in modes]

    @jax.jit
    def waves_and_transforms(ks):
        waves = [plane_wave(grid, k) for (grid, _), k in zip(modes, ks, strict=True)]
        return waves, [fft2(wave) for wave in waves]

    for (grid, where), k, wave, transform in zip(modes, ks, *waves_and_transforms(ks), strict=True):
        y, x = np.mgrid[: grid[0], : grid[1]]
        np.testing.assert_allclose(wave, np.exp(1j * (k[0] * y + k[1] * x)), atol=1e-13)
        spectrum = np.zeros(grid)
        spectrum[where] = grid[0] * grid[1]
        np.testing.assert_allclose(transform, spectrum, atol=1e-12)


def test_plane_wave_accepts_integer_components():
    np.testing.assert_allclose(np.asarray(plane_wave((2, 2), (0, 1)))[0, 1], np.exp(1j), rtol=1e-14)


def test_transform_inverts_and_conserves_the_sum_of_squares():
    x = random(0, 5, 6, 3)
    x_hat = fft2(x)
    np.testing.assert_allclose(ifft2(x_hat, real=True), x, atol=1e-14)
    np.testing.assert_allclose(ifft2(x_hat), x, atol=1e-14)
    np.testing.assert_allclose(np.sum(np.abs(x_hat) ** 2) / 30, np.sum(x**2), rtol=1e-13)


def test_real_inverse_is_the_field_of_the_hermitian_part():
    x_hat = random(1, 4, 5) + 1j * random(2, 4, 5)
    mirrored = np.roll(x_hat[::-1, ::-1], 1, axis=(0, 1)).conj()
    np.testing.assert_allclose(ifft2(x_hat, real=True), ifft2((x_hat + mirrored) / 2), atol=1e-14)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 4), (2, 5)])
def test_offsets_put_the_longer_half_after_the_centre(shape):
    expected = [[(a, b) for b in brute_offsets(shape[1])] for a in brute_offsets(shape[0])]
    np.testing.assert_array_equal(kernel_offsets(shape), np.array(expected, float))


def test_symbol_is_the_written_out_sum_also_when_the_window_wraps():
    cases = [
        ((6, 5), (3, 3), 1),
        ((4, 7), (4, 4), 3),
        ((6, 5), (2, 5), 2),
        ((4, 5), (9, 9), 1),
        ((1, 4), (3, 3), 1),
    ]
    grids = [grid for grid, _, _ in cases]
    kernels = [random(3, *shape, channels, channels) for _, shape, channels in cases]
    symbols = jax.jit(lambda kernels: list(map(kernel_to_symbol, kernels, grids)))(kernels)
    for grid, kernel, symbol in zip(grids, kernels, symbols, strict=True):
        np.testing.assert_allclose(symbol, brute_symbol(kernel, grid), atol=1e-12)


@pytest.mark.parametrize("size", [3, 4])
def test_symbol_is_the_eigenvalue_of_the_operator_on_plane_waves(size):
    grid = (6, 5)
    kernel = random(4, size, size, 2, 2)
    symbol = np.asarray(kernel_to_symbol(kernel, grid))
    for where in [(0, 0), (1, 3), (3, 2), (5, 4)]:
        wave = np.asarray(plane_wave(grid, np.asarray(wavevectors(grid))[where]))
        polarisation = np.array([0.3, -1.1j])
        field = wave[..., None] * polarisation
        expected = wave[..., None] * (symbol[where] @ polarisation)
        np.testing.assert_allclose(brute_apply(kernel, field), expected, atol=1e-12)


@pytest.mark.parametrize(("grid", "size", "channels"), [((6, 5), 3, 1), ((5, 6), 4, 3), ((3, 4), 7, 2)])
def test_multiplying_by_the_symbol_is_the_correlation_with_the_kernel(grid, size, channels):
    kernel, x = random(5, size, size, channels, channels), random(6, *grid, channels)
    complex_x = x + 1j * x[::-1]

    @jax.jit
    def both(kernel, x, complex_x):
        symbol = kernel_to_symbol(kernel, grid)
        return apply_symbol(symbol, x), apply_symbol(symbol, complex_x)

    result, complex_result = both(kernel, x, complex_x)
    np.testing.assert_allclose(result, brute_apply(kernel, x), atol=1e-12)
    assert not jnp.iscomplexobj(result)
    np.testing.assert_allclose(complex_result, brute_apply(kernel, complex_x), atol=1e-12)


@given(sides, sides, st.integers(1, 9))
@settings(max_examples=6, deadline=None)
def test_kernels_and_symbols_are_inverse_on_windows_and_whole_grids(height, width, size):
    grid, size = (height, width), min(size, height, width)
    kernel = random(8, size, size, 2, 2)

    @jax.jit
    def there_and_back(kernel):
        symbol = kernel_to_symbol(kernel, grid)
        return symbol, symbol_to_kernel(symbol, size), kernel_to_symbol(symbol_to_kernel(symbol), grid)

    symbol, back, again = there_and_back(kernel)
    np.testing.assert_allclose(back, kernel, atol=1e-13)
    np.testing.assert_allclose(again, symbol, atol=1e-12)


def test_cutting_a_window_drops_the_entries_outside_and_leaves_the_rest():
    kernel = random(9, 5, 5, 1, 1)
    cut = symbol_to_kernel(kernel_to_symbol(kernel, (8, 9)), 3)
    np.testing.assert_allclose(cut, kernel[1:4, 1:4], atol=1e-14)


def test_kernel_of_any_symbol_can_be_complex_and_the_real_part_is_its_projection():
    symbol = random(10, 4, 5, 2, 2) + 1j * random(11, 4, 5, 2, 2)
    kernel = np.asarray(symbol_to_kernel(symbol, real=False))
    np.testing.assert_allclose(kernel_to_symbol(kernel, (4, 5)), symbol, atol=1e-13)
    np.testing.assert_array_equal(symbol_to_kernel(symbol), kernel.real)


@pytest.mark.parametrize("grid", [*GRIDS, (3, 2), (32, 6), (9, 32), (12, 16)])
def test_shells_agree_with_exact_rational_arithmetic(grid):
    """Shell m holds |q - m| < 1/2, q = |k|/width, decided on q^2 as a fraction; ties go to even m."""
    shells = jax.tree.map(np.asarray, radial_shells(grid))
    longest = max(grid)
    moduli: dict[int, list[float]] = {}
    for n in range(grid[0]):
        for m in range(grid[1]):
            squared = (frequency(n, grid[0]) ** 2 + frequency(m, grid[1]) ** 2) * longest**2
            shell = math.isqrt(int(4 * squared))  # floor of 2 q
            tie = shell % 2 == 1 and Fraction(shell * shell, 4) == squared
            shell = 2 * round(shell / 4) if tie else (shell + 1) // 2
            if squared > Fraction(longest, 2) ** 2:
                shell = -1
            else:
                moduli.setdefault(shell, []).append(2 * math.pi * math.sqrt(squared) / longest)
            assert int(shells.index[n, m]) == shell, (n, m)
    assert sorted(moduli) == list(range(len(shells.count)))  # no shell is empty
    np.testing.assert_array_equal(shells.count, [len(moduli[s]) for s in sorted(moduli)])
    np.testing.assert_allclose(shells.wavenumber, [np.mean(moduli[s]) for s in sorted(moduli)], rtol=1e-14)
    assert moduli[0] == [0.0]


def test_float32_keeps_its_precision_and_agrees_with_float64():
    kernel, x = random(12, 5, 5, 2, 2), random(13, 16, 12, 2)

    @jax.jit
    def everything(kernel, x):
        symbol = kernel_to_symbol(kernel, (16, 12))
        return symbol, symbol_to_kernel(symbol, 5), apply_symbol(symbol, x)

    symbol, _, exact = everything(kernel, x)
    single, back, applied = everything(kernel.astype(np.float32), x.astype(np.float32))
    assert single.dtype == jnp.complex64
    np.testing.assert_allclose(single, symbol, atol=2e-5)
    assert back.dtype == applied.dtype == jnp.float32
    np.testing.assert_allclose(back, kernel, atol=2e-6)
    np.testing.assert_allclose(applied, exact, atol=1e-4)
    assert jax.eval_shape(lambda k: plane_wave((4, 4), k), np.ones(2, np.float32)).dtype == jnp.complex64
    assert wavevectors((4, 4), dtype=jnp.float32).dtype == jnp.float32
    assert kernel_offsets((3, 3), dtype=jnp.float32).dtype == jnp.float32
    assert radial_shells((4, 4), dtype=jnp.float32).wavenumber.dtype == jnp.float32


def test_functions_work_under_jit_and_vmap():
    kernels = random(14, 3, 3, 4, 2, 2)
    together = jax.jit(jax.vmap(lambda g: kernel_to_symbol(g, (6, 5))))(kernels)
    for kernel, symbol in zip(kernels, np.asarray(together), strict=True):
        np.testing.assert_allclose(symbol, brute_symbol(kernel, (6, 5)), atol=1e-12)
    ks = np.asarray(wavevectors((4, 5))).reshape(-1, 2)
    waves = np.asarray(jax.jit(jax.vmap(lambda k: plane_wave((4, 5), k)))(ks))
    np.testing.assert_allclose(waves[7], plane_wave((4, 5), ks[7]), atol=1e-14)
    shells = jax.jit(lambda: radial_shells((6, 5)))()
    np.testing.assert_array_equal(shells.index, radial_shells((6, 5)).index)


def test_gradient_of_the_symbol_is_the_cosine_of_the_phase():
    grid, where = (6, 8), (1, 3)
    slope = jax.jit(jax.grad(lambda g: kernel_to_symbol(g, grid)[(*where, 0, 0)].real))
    gradient = np.asarray(slope(np.ones((3, 3, 1, 1))))
    k = brute_wavevectors(grid)[where]
    expected = [[math.cos(k[0] * a + k[1] * b) for b in (-1, 0, 1)] for a in (-1, 0, 1)]
    np.testing.assert_allclose(gradient[..., 0, 0], expected, atol=1e-14)


@pytest.mark.parametrize("function", [wavevectors, radial_shells, kernel_offsets])
def test_bad_grids_are_named(function):
    with pytest.raises(ValueError, match=r"grid: expected positive \(H, W\), got \(0, 4\)"):
        function((0, 4))
    with pytest.raises(ValueError, match=r"grid: expected two integers \(H, W\), got \(4, 4, 4\)"):
        function((4, 4, 4))
    with pytest.raises(ValueError, match=r"grid: expected two integers \(H, W\), got 4"):
        inspect.unwrap(function)(4)


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"wavevector: expected shape \(2,\).*got shape \(3,\)"):
        plane_wave((4, 4), np.zeros(3))
    with pytest.raises(ValueError, match=r"kernel: expected shape \(p, q, C, C\), got shape \(3, 3\)"):
        inspect.unwrap(kernel_to_symbol)(np.zeros((3, 3)), (4, 4))
    with pytest.raises(ValueError, match=r"symbol: expected shape \(H, W, C, C\), got shape \(3, 3\)"):
        inspect.unwrap(symbol_to_kernel)(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"x: expected shape \(H, W, C\), got shape \(4, 4\)"):
        inspect.unwrap(apply_symbol)(np.zeros((4, 4, 1, 1)), np.zeros((4, 4)))
    for size in (0, 5):
        with pytest.raises(ValueError, match=f"size: expected a window of 1 to 4 pixels, got {size}"):
            symbol_to_kernel(np.zeros((4, 6, 1, 1), complex), size)
