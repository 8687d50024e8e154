"""Renormalised coefficients: without fast modes the bare ones, with them closed forms of the two-pattern bank."""

import jax
import numpy as np
import pytest

from critjax.banks import PatchBank
from critjax.closed_form import two_pattern_denoiser
from critjax.fluctuations import two_pattern_closure
from critjax.landau import (
    fast_fields,
    integrate,
    landau_coefficients,
    low_pass,
    renormalised_coefficients,
    renormalised_model,
)
from critjax.patch_score import patch_denoiser
from critjax.spectra import bank_symbol_fn

GRID = (12, 10)


def _colour_bank():
    rng = np.random.default_rng(5)
    return PatchBank(rng.normal(size=(7, 3, 3, 3)) * [1.0, 0.5, 0.2] + 0.1)


def _pattern_bank():
    patterns = np.random.default_rng(2).choice([-1.0, 1.0], (3, 3, 3, 1))
    return PatchBank(np.concatenate([patterns, -patterns]))


@pytest.mark.parametrize("make", [_pattern_bank, _colour_bank])
def test_without_fluctuations_the_coefficients_are_the_bare_ones(make):
    bank = make()
    state = np.linspace(0.05, 0.1, bank.channels)
    nothing = np.zeros((*GRID, bank.channels, bank.channels), complex)
    if bank.channels > 1:
        nothing = nothing + 1e-30 * np.eye(bank.channels)  # its Cholesky factor must exist
    bare = landau_coefficients(bank, 2.0, state=state)
    denoise, key = patch_denoiser(bank), jax.random.key(0)
    found, symbol, target = renormalised_coefficients(
        denoise, key, nothing, 2.0, size=3, state=state, num_samples=2
    )
    for name in ("r", "K", "L", "v", "h", "u"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(bare, name), rtol=1e-8, atol=1e-9, err_msg=name
        )
    full = bank_symbol_fn(bank, GRID, sigmas=np.array([2.1, 2.0, 1.9]), states=np.stack([state] * 3))(2.0)
    expected = np.einsum("a,hwab,b->hw", *map(np.asarray, (bare.left, full, bare.right)))
    np.testing.assert_allclose(symbol, expected, atol=1e-9)
    uniform = jax.jit(denoise)(np.broadcast_to(state, (*GRID, bank.channels)), 2.0)
    np.testing.assert_allclose(target, np.asarray(uniform)[0, 0], atol=1e-12)


def test_two_patterns_among_white_noise_in_closed_form():
    """f(psi) = E tanh(a psi + v g): derivatives by quadrature, v the standard deviation that fast modes give u."""
    size, sigma, grid = 5, 5.0, (40, 40)
    white = np.full((*grid, 1, 1), sigma**2 + 0j)
    cutoff = np.pi / size
    keys = jax.random.split(jax.random.key(1), 6)

    def one(key):
        found, symbol, _ = renormalised_coefficients(
            two_pattern_denoiser(size), key, white, sigma, size=size, num_samples=24
        )
        return found.r, found.u, found.h, symbol.real[0, 3]

    r, u, h, off = (np.asarray(v) for v in jax.jit(lambda keys: jax.lax.map(one, keys))(keys))
    k = 2 * np.pi * np.fft.fftfreq(40)
    line = np.exp(1j * k[:, None] * (np.arange(size) - size // 2)).sum(1).real
    c = line[:, None] * line[None, :]
    fast = k[:, None] ** 2 + k[None, :] ** 2 > cutoff**2
    spread = np.sqrt((c**2 * fast).mean()) / sigma
    g, weight = np.polynomial.hermite_e.hermegauss(80)
    weight = weight / weight.sum()
    t = np.tanh(spread * g)
    first = (weight * (1 - t**2)).sum()
    third = (weight * (1 - t**2) * (6 * t**2 - 2)).sum()
    a = size**2 / sigma**2
    assert spread > 0.5 and first < 0.8  # fluctuations matter

    def agrees(values, expected):
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert error < 0.05 * abs(expected)
        np.testing.assert_allclose(values.mean(), expected, atol=4 * error)

    agrees(1 - r, a * first)
    agrees(u, -(a**3) * third / 6)
    agrees(off, c[0, 3] / sigma**2 * first)
    assert abs(h.mean()) < 4 * h.std(ddof=1) / np.sqrt(len(h))


def test_fast_fields_have_the_spectrum_above_the_cutoff_only():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2, 2))
    matrix = root @ root.T
    spectrum = np.broadcast_to(matrix + 0j, (*GRID, 2, 2))
    fields = np.asarray(fast_fields(jax.random.key(0), spectrum, 1.2, 4000))
    modes = np.fft.fft2(fields, axes=(1, 2))
    power = np.einsum("nhwa,nhwb->hwab", modes, modes.conj()) / len(fields) / np.prod(GRID)
    k = [2 * np.pi * np.fft.fftfreq(n) for n in GRID]
    fast = k[0][:, None] ** 2 + k[1][None, :] ** 2 > 1.2**2
    np.testing.assert_allclose(power[~fast], 0, atol=1e-20)
    np.testing.assert_allclose(
        power[fast], np.broadcast_to(matrix, power[fast].shape), atol=0.12 * matrix.max()
    )


def test_a_renormalised_model_runs_where_a_bare_one_does():
    size, sigmas = 5, np.geomspace(12.0, 4.0, 9)
    closure = two_pattern_closure(size, sigmas, (20, 20))
    denoise, key = two_pattern_denoiser(size), jax.random.key(0)
    model = renormalised_model(
        denoise, key, sigmas, closure.mean, closure.structure_factor, size=size, num_samples=4
    )
    # Bare: r = 1 - P/sigma^2, u = (P/sigma^2)^3/3.
    gain = size**2 / sigmas**2
    r, u = np.asarray(model.coefficients.r), np.asarray(model.coefficients.u)
    assert np.all(1 - gain < r) and np.all(u < gain**3 / 3)
    start = 12.0 * np.random.default_rng(3).normal(size=(20, 20, 1))
    x = np.asarray(integrate(model, key, start, cutoff=np.pi / size).x)
    np.testing.assert_allclose(x[0, ..., 0], low_pass(start[..., 0], np.pi / size), atol=1e-10)
    assert np.all(np.isfinite(x)) and np.std(x[-1]) < np.std(x[0])


def test_wrong_input_is_refused_with_its_reason():
    denoise, key = two_pattern_denoiser(3), jax.random.key(0)
    white = np.ones((8, 8, 1, 1), complex)
    with pytest.raises(ValueError, match="num_samples: expected an integer >= 2, got 1"):
        renormalised_coefficients(denoise, key, white, 2.0, size=3, num_samples=1)
    with pytest.raises(ValueError, match=r"mean, structure_factor: expected one of each for 2 levels"):
        renormalised_model(denoise, key, np.array([2.0, 1.0]), np.zeros((1, 1)), white[None], size=3)
