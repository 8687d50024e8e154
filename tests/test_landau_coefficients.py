"""Ginzburg-Landau coefficients against the exact denoiser: Taylor fits, gradient fits, closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import image_patches

from critjax.banks import ImageBank, PatchBank, stripe_bank, two_pattern_bank
from critjax.landau import amplitude_coefficients, landau_coefficients, quartic_form
from critjax.patch_score import patch_denoiser


def _asymmetric(channels, size=3, count=6):
    rng = np.random.default_rng(channels)
    patches = rng.uniform(-1, 1, (count, size, size, channels)) + 0.3
    return PatchBank(patches, rng.normal(size=count))


def _patterns(dtype=np.float64):
    patterns = np.random.default_rng(1).choice([-1.0, 1.0], (4, 5, 5, 1))
    patterns[0] = 1.0
    return PatchBank(np.concatenate([patterns, -patterns]).astype(dtype))


BANKS = {
    "two patterns": (lambda: two_pattern_bank(5, dtype=np.float64), 4.0, [0.0]),
    "random patterns": (_patterns, 3.0, [0.0]),
    "no symmetry": (lambda: _asymmetric(1), 1.3, [0.2]),
    "three channels": (lambda: _asymmetric(3), 1.7, [0.2, -0.1, 0.3]),
}


@pytest.fixture(params=BANKS, scope="module")
def problem(request):
    make, sigma, state = BANKS[request.param]
    bank, state = make(), np.array(state)
    found = jax.tree.map(np.asarray, landau_coefficients(bank, sigma, state=state))
    denoise = jax.jit(jax.vmap(patch_denoiser(bank), (0, None)))
    return bank, sigma, state, found, lambda x: np.asarray(denoise(x, sigma))


def _interpolated_derivatives(function, radius, number, degree):
    """Taylor coefficients at zero of the polynomial through Chebyshev nodes."""
    nodes = radius * np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    values = function(nodes)
    return np.polynomial.Polynomial.fit(nodes, values, degree).convert().coef[:number]


def test_local_terms_are_the_taylor_coefficients_of_the_denoiser(problem):
    bank, sigma, state, found, denoise = problem
    right, left = found.right.real, found.left.real

    def response(amplitudes):
        x = np.broadcast_to(state + amplitudes[:, None] * right, (len(amplitudes), len(state)))
        x = np.broadcast_to(x[:, None, None], (len(amplitudes), bank.size, bank.size, len(state)))
        return denoise(x)[:, 0, 0] @ left

    # In units in which the argument of the softmax changes by about one.
    radius = 0.5 * sigma**2 / bank.size**2
    constant, first, second, third = _interpolated_derivatives(response, radius, 4, 14)
    assert np.isfinite(constant)
    np.testing.assert_allclose(1 - found.r, first, rtol=1e-6)
    scale = abs(third) * radius
    np.testing.assert_allclose(found.h, second, rtol=1e-6, atol=1e-7 * scale)
    np.testing.assert_allclose(-found.u, third, rtol=1e-6)


def _eigenvalue(problem, wavevector, grid, near):
    """Eigenvalue next to ``near`` of the denoiser's response to a plane wave, by central differences."""
    _, sigma, state, _, denoise = problem
    rows, columns = np.meshgrid(*map(np.arange, grid), indexing="ij")
    phase = wavevector[0] * rows + wavevector[1] * columns
    epsilon, channels = 1e-4 * sigma, len(state)
    matrix = np.zeros((channels, channels), complex)
    for b in range(channels):
        for factor, wave in ((1, np.cos(phase)), (1j, np.sin(phase))):
            bump = np.zeros((*grid, channels))
            bump[..., b] = wave
            steps = [denoise((state + s * epsilon * bump)[None])[0, 0, 0] for s in (-2, -1, 1, 2)]
            slope = (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / (12 * epsilon)
            matrix[:, b] += factor * slope
    values = np.linalg.eigvals(matrix)
    return values[np.argmin(np.abs(values - near))]


@pytest.mark.usefixtures("full_optimisation")
def test_gradient_terms_are_the_taylor_coefficients_of_the_symbol(problem):
    """Along three lines of commensurate wavevectors; an entire function, so that a polynomial fit converges."""
    found = problem[3]
    # Several channels: other eigenvalues are near, the series converges in a smaller disc, and differences are noisier.
    side, loose = (48, 1e-6) if len(problem[2]) == 1 else (128, 1e-4)
    for direction in ((0, 1), (1, 0), (1, 1)):
        norm = float(np.hypot(*direction))
        numbers = np.arange(-6, 7)
        near, values = 1 - found.r, {}
        for n in sorted(numbers, key=abs):  # outwards, following the branch
            near = values.get(n - np.sign(n), near)
            values[n] = _eigenvalue(problem, 2 * np.pi * n / side * np.array(direction), (side, side), near)
        k = 2 * np.pi * numbers / side * norm
        curve = np.array([values[n] for n in numbers])
        series = np.polynomial.Polynomial.fit(k, curve, 12).convert().coef
        unit = np.array(direction) / norm
        scale = np.max(np.abs(found.K)) + 1e-3
        np.testing.assert_allclose(found.v @ unit, (series[1] / 1j).real, rtol=1e-6, atol=1e-6 * scale)
        np.testing.assert_allclose(unit @ found.K @ unit, -series[2].real, rtol=1e-6, atol=1e-7 * scale)
        np.testing.assert_allclose(
            quartic_form(found.L, unit), -series[4].real, atol=loose * np.max(np.abs(found.L))
        )


def test_gradient_terms_are_cauchy_integrals_of_the_eigenvalue(problem):
    """The response to one pixel, by central differences, gives the symbol at complex wavevectors, too.

    Coefficients of its eigenvalue are integrals over a circle: accurate where a fit along real wavevectors is not.
    """
    bank, sigma, state, found, denoise = problem
    side, channels = 2 * bank.size + 1, len(state)
    epsilon, middle = 1e-3 * sigma, bank.size
    kernel = np.zeros((side, side, channels, channels))
    for b in range(channels):
        bump = np.zeros((side, side, channels))
        bump[middle, middle, b] = epsilon
        steps = [denoise((state + s * bump)[None])[0] for s in (-2, -1, 1, 2)]
        slope = (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / (12 * epsilon)
        kernel[..., b] = slope[::-1, ::-1]  # pixel i answers to the bump at i + r
    y, x = np.meshgrid(np.arange(side) - middle, np.arange(side) - middle, indexing="ij")
    radius, number = 0.15, 32
    circle = radius * np.exp(2j * np.pi * np.arange(number) / number)
    for direction in ((0, 1), (1, 0), (0.6, 0.8)):
        along = direction[0] * y + direction[1] * x
        near, values = 1 - complex(found.r), []
        for k in circle:
            matrices = np.einsum("yxab,yx->ab", kernel, np.exp(1j * k * along))
            eigenvalues = np.linalg.eigvals(matrices)
            near = eigenvalues[np.argmin(np.abs(eigenvalues - near))]
            values.append(near)
        series = [np.mean(values * circle**-n) for n in range(5)]
        np.testing.assert_allclose((found.v @ direction), (series[1] / 1j).real, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(direction @ found.K @ direction, -series[2].real, rtol=1e-6, atol=1e-8)
        size = np.max(np.abs(found.L))
        np.testing.assert_allclose(
            quartic_form(found.L, direction), -series[4].real, rtol=1e-6, atol=1e-6 * size
        )


@pytest.mark.parametrize("sigma", [2.0, 5.0, 13.0])
def test_two_patterns_have_closed_forms(sigma):
    size = 5
    found = landau_coefficients(two_pattern_bank(size, dtype=np.float64), sigma)
    gain = size**2 / sigma**2
    np.testing.assert_allclose(found.r, 1 - gain, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(found.K, np.eye(2) * gain * (size**2 - 1) / 24, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.u, gain**3 / 3, rtol=1e-12)
    np.testing.assert_allclose([found.h, *found.v], 0, atol=1e-14)
    # sum r^4 over -2..2 is 34: fourth moments 34/5 along an axis, <r_y^2><r_x^2> = 4 across.
    np.testing.assert_allclose(
        found.L, -gain / 24 * np.array([34 / 5, 0, 4, 0, 34 / 5]), rtol=1e-12, atol=1e-14
    )
    assert not found.well_posed


@pytest.mark.parametrize("positions", ["all", "interior"])
@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_image_banks_equal_the_list_of_their_patches(positions, channels):
    images = np.random.default_rng(0).uniform(-1, 1, (4, 7, 8, channels))
    bank = ImageBank(images, 3, positions=positions)
    state, k = np.full(channels, 0.1), np.array([0.7, -0.4])
    explicit = PatchBank(image_patches(images, 3, positions)[0])
    for function in (landau_coefficients, lambda b, s, state: amplitude_coefficients(b, k, s, state=state)):
        found, expected = (function(b, 1.1, state=state) for b in (bank, explicit))
        for name, a, b in zip(found._fields, found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)


def test_sweeps_by_vmap_and_single_precision():
    sigmas = np.array([3.0, 4.0, 6.0], np.float32)
    swept = jax.vmap(lambda s: landau_coefficients(_patterns(np.float32), s))(sigmas)
    for i, sigma in enumerate(sigmas):
        exact = landau_coefficients(_patterns(), float(sigma))
        for name in ("r", "K", "L", "v", "u"):
            a, b = (np.asarray(getattr(c, name)) for c in (swept, exact))
            np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=2e-5 * np.max(np.abs(b)), err_msg=name)


def test_a_plane_wave_saturates_as_the_amplitude_equation_says():
    """Third-order response of the exact denoiser to A exp(i k.j) + c.c. of a symmetric bank."""
    bank = stripe_bank(7, 6.0, num_phases=12, orientations=(0.0,), dtype=np.float64)
    sigma, k = 4.0, np.array([0.0, 2 * np.pi / 6])
    found = amplitude_coefficients(bank, k, sigma)
    columns = np.arange(12)
    wave = np.exp(1j * k[1] * columns)
    denoise = jax.jit(jax.vmap(patch_denoiser(bank), (0, None)))

    def response(amplitudes):
        x = 2 * amplitudes[:, None] * wave.real
        x = np.broadcast_to(x[:, None, :, None], (len(amplitudes), 7, 12, 1))
        denoised = np.asarray(denoise(x, sigma))[:, 0, :, 0]
        return (denoised @ wave.conj() / 12).real

    _, first, second, third = _interpolated_derivatives(response, 0.2, 4, 14)
    np.testing.assert_allclose(1 - found.r, first, rtol=1e-8)
    assert abs(second) < 1e-7
    np.testing.assert_allclose(-found.cubic, third, rtol=1e-6)


def test_curvature_along_the_critical_wavevector():
    bank = stripe_bank(7, 6.0, num_phases=12, orientations=(0.0,), dtype=np.float64)
    k = 2 * np.pi / 6
    found = amplitude_coefficients(bank, np.array([0.0, k]), 4.0)

    def growth(shift):
        return np.asarray(amplitude_coefficients(bank, np.array([0.0, k + shift]), 4.0).r)

    second = (growth(1e-3) - 2 * growth(0.0) + growth(-1e-3)) / 1e-6
    np.testing.assert_allclose(found.curvature, second / (8 * k**2), rtol=1e-5)


def test_wrong_input_is_refused():
    bank = two_pattern_bank(3)
    with pytest.raises(ValueError, match="state: expected shape"):
        landau_coefficients(bank, 2.0, state=np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="sigma"):
        landau_coefficients(bank, -2.0)
    with pytest.raises(ValueError, match="wavevector: expected not zero"):
        amplitude_coefficients(bank, np.zeros(2, np.float32), 2.0)
    same = ImageBank(np.zeros((2, 4, 4, 1), np.float32), 3, positions="same")
    with pytest.raises(ValueError, match="positions"):
        landau_coefficients(same, 2.0)


def test_a_wavevector_known_outside_a_loop_may_be_used_inside_it():
    bank, vector = stripe_bank(5, 4.0, num_phases=4, orientations=(0.0,)), jnp.array([0.0, np.pi / 2])
    mapped = jax.jit(
        lambda levels: jax.lax.map(lambda s: amplitude_coefficients(bank, vector, s).r.real, levels)
    )
    one = np.real(amplitude_coefficients(bank, vector, 3.0).r)
    np.testing.assert_allclose(np.asarray(mapped(np.array([2.0, 3.0])))[1], one, rtol=1e-6)
