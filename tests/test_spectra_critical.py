"""Critical points: closed forms in both frames, status codes, degeneracy, re-entrance, derivatives."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.banks import PatchBank, select, stripe_bank
from critjax.closed_form import gaussian_symbol, mixture_denoiser
from critjax.fourier import wavevectors
from critjax.spectra import (
    CriticalStatus,
    bank_symbol_fn,
    critical_point,
    critical_sigmas,
    instability_kind,
    mean_field_critical_sigma,
    measured_symbol,
)

CROSSING, STABLE, UNSTABLE_AT_MAX, NOT_FINITE, ALWAYS_GROWING = CriticalStatus
LADDER = np.geomspace(30.0, 0.5, 20)


class Curve(NamedTuple):
    """A symbol of one interesting mode, k = 0, on a grid of (3, 4): a pytree, so that all curves share a program."""

    strength: Any = 4.0
    """Dhat = c/sigma^2, and zero at other modes; unless there are roots."""
    roots: Any = (np.nan, np.nan, np.nan)
    """Dhat - 1 = -prod (ln sigma - ln root): one sign change at each; padded with NaN. Other modes decay."""
    broken: Any = (-2.0, -1.0)
    """Noise levels between which the symbol is NaN."""

    def __call__(self, sigma):
        roots = jnp.asarray(self.roots)
        factors = jnp.where(jnp.isnan(roots), 1, jnp.log(sigma) - jnp.log(roots))
        of_roots = ~jnp.isnan(roots[0])
        value = jnp.where(of_roots, 1 - jnp.prod(factors), self.strength / sigma**2)
        table = jnp.full((3, 4, 1, 1), jnp.where(of_roots, -1.0, 0.0) + 0j).at[0, 0].set(value)
        return jnp.where((sigma > self.broken[0]) & (sigma < self.broken[1]), jnp.nan, table)


def two_patterns(size):
    return PatchBank(np.stack([np.ones((size, size, 1)), -np.ones((size, size, 1))]))


def random_patterns(seed, size, num, channels=1, dtype=np.float64):
    """Patches of plus and minus one and their negatives: of equal norm."""
    patterns = np.random.default_rng(seed).choice([-1.0, 1.0], (num, size, size, channels))
    return PatchBank(np.concatenate([patterns, -patterns]).astype(dtype))


# Closed forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 9])
def test_two_patterns_turn_uniformly_critical_at_sigma_squared_p(size):
    point = critical_point(bank_symbol_fn(two_patterns(size), (12, 15)), LADDER)
    np.testing.assert_allclose(point.sigma, size, rtol=1e-12)
    assert int(point.status) == CROSSING and instability_kind(point) == "uniform"
    assert not np.any(point.wavevector) and point.frequency == 0
    assert int(point.modes.sum()) == (180 if size == 1 else 1)  # one pixel: every mode is the same
    np.testing.assert_allclose(point.eigenvector, [1])
    np.testing.assert_allclose(point.crossings, [size, np.nan, np.nan, np.nan])


@pytest.mark.parametrize(("strength", "squared"), [(1.0, 2**0.5), (81.0, 161.006)])
def test_variance_preserving_frame(strength, squared):
    """eta = 1: t^2 - 2 (c-1) t - 2 c = 0; c = 1 is alpha = 0.643594 = sqrt(sqrt 2 - 1)."""
    point = critical_point(Curve(strength), LADDER, eta=1.0, frame="vp")
    np.testing.assert_allclose(point.sigma**2, squared, atol=5e-4)
    exact = strength - 1 + np.sqrt((strength - 1) ** 2 + 2 * strength)
    np.testing.assert_allclose(point.sigma**2, exact, rtol=1e-12)
    if strength == 1:
        np.testing.assert_allclose((1 + point.sigma**2) ** -0.5, 0.643594, atol=5e-7)


def test_variance_preserving_frame_for_any_stochasticity():
    """eta t^2 - (1+eta)(c-1) t - (1+eta) c = 0, by vmap over eta; the VE result does not depend on eta."""
    c, etas = 4.0, np.array([0.3, 1.0, 5.0])
    found = jax.vmap(lambda eta: critical_point(Curve(c), LADDER, eta=eta, frame="vp").sigma)(etas)
    half = (1 + etas) * (c - 1) / (2 * etas)
    np.testing.assert_allclose(found**2, half + np.sqrt(half**2 + (1 + etas) * c / etas), rtol=1e-11)
    for eta in etas:
        np.testing.assert_allclose(critical_point(Curve(c), LADDER, eta=eta).sigma, 2.0, rtol=1e-12)


def test_two_gaussians_by_probing_their_denoiser():
    """N(+-m, s^2 I): sigma_c^2 = |m|^2 - s^2 along m, here uniform or a checkerboard."""
    std, grid = 0.6, (4, 6)
    board = np.indices(grid).sum(0) % 2 * 2.0 - 1

    @jax.jit
    def solve(means):
        denoise, key, x = mixture_denoiser(means, std), jax.random.key(0), jnp.zeros((*grid, 1))

        def symbol_fn(sigma):  # closes over what is traced
            return measured_symbol(denoise, key, x, sigma, num_probes=2).value

        return critical_point(symbol_fn, np.geomspace(8, 0.3, 12))

    for pattern, kind, k_c in ((np.ones(grid), "uniform", 0.0), (board, "finite wavelength", -np.pi)):
        point = solve(0.4 * np.stack([pattern, -pattern])[..., None])
        np.testing.assert_allclose(point.sigma, np.sqrt(0.16 * 24 - std**2), rtol=1e-10)
        np.testing.assert_allclose(point.wavevector, k_c, atol=1e-12)
        assert instability_kind(point) == kind and int(point.modes.sum()) == 1


def test_gaussian_data_are_never_unstable():
    spectrum = 100.0 / (0.01 + np.sum(np.asarray(wavevectors((8, 7))) ** 2, -1))
    symbol_fn = gaussian_symbol(spectrum)
    point = critical_point(symbol_fn, LADDER, eta=3.0)
    assert int(point.status) == STABLE and np.isnan(point.sigma) and not np.any(point.modes)
    assert np.all(np.isnan(point.crossings)) and instability_kind(point) == "stable"
    assert not np.any(critical_sigmas(symbol_fn, LADDER))
    # In the VP frame with eta = 0, Gamma = S0/(S0+t) - 1/(1+t): negative at all noise levels for S0 < 1.
    weak = critical_point(gaussian_symbol(np.full((8, 7), 0.5)), LADDER, frame="vp")
    assert int(weak.status) == STABLE


def test_stripes_turn_critical_at_their_wavelength_with_all_partners():
    point = critical_point(bank_symbol_fn(stripe_bank(9, 6.0), (24, 24)), LADDER)
    modes = {tuple(int(i) for i in n) for n in np.argwhere(point.modes)}
    assert modes == {(0, 4), (0, 20), (4, 0), (20, 0)}
    np.testing.assert_allclose(np.linalg.norm(point.wavevector), 2 * np.pi / 6, rtol=1e-12)
    assert instability_kind(point) == "finite wavelength"


def travelling_bank(channels=1):
    """The centre leads its right neighbours: C = (1, a, b) at offsets 0, +1, +2 with a = 1, b = -1/2."""
    patch = np.zeros((5, 5, channels))
    patch[2, 2:, 0] = [1.0, 1.0, -0.5]
    return PatchBank(np.stack([patch, -patch]))


def test_one_sided_couplings_travel():
    """sigma^2 Dhat = 1 + e^{ik} - e^{2ik}/2: largest at cos k = 1/2, where it is 7/4 + i sqrt(3)/4."""
    point = critical_point(bank_symbol_fn(travelling_bank(), (5, 12)), LADDER, eta=1.0)
    np.testing.assert_allclose(point.sigma, np.sqrt(1.75), rtol=1e-10)
    np.testing.assert_allclose(point.wavevector, [0, np.pi / 3], atol=1e-12)
    np.testing.assert_allclose(point.frequency, 2 * np.sqrt(3) / 7, rtol=1e-9)
    assert np.array_equal(np.argwhere(point.modes)[:, 1] % 12, np.tile([2, 10], 5))
    assert instability_kind(point) == "travelling"
    assert instability_kind(point, frequency_tolerance=1.0) == "finite wavelength"


def test_two_channels_can_oscillate_uniformly_and_keep_their_polarisation():
    """A rotation in channel space: Dhat(0) = (1/sigma^2) [[1, -w], [w, 1]] has eigenvalues (1 +- i w)/sigma^2."""
    rotation = np.array([[1.0, -0.7], [0.7, 1.0]])

    def symbol_fn(sigma):
        return jnp.zeros((3, 3, 2, 2), complex).at[0, 0].set(rotation / sigma**2)

    point = critical_point(symbol_fn, np.geomspace(4, 0.2, 10))
    np.testing.assert_allclose([point.sigma, point.frequency], [1.0, 0.7], rtol=1e-10)
    assert instability_kind(point) == "oscillatory"
    np.testing.assert_allclose(rotation @ point.eigenvector, (1 + 0.7j) * point.eigenvector, atol=1e-9)


# Status codes --------------------------------------------------------------------------------------------------


def test_re_entrant_crossings_are_listed():
    roots = [8.0, 3.0, 1.7]
    point = critical_point(Curve(roots=tuple(roots)), np.geomspace(20, 1, 20))
    assert int(point.status) == CROSSING and int(point.num_crossings) == 3
    np.testing.assert_allclose(point.crossings, [*roots, np.nan], rtol=1e-12)
    short = critical_point(Curve(roots=tuple(roots)), np.geomspace(20, 1, 20), max_crossings=2)
    assert int(short.num_crossings) == 3
    np.testing.assert_allclose(short.crossings, roots[:2], rtol=1e-12)


def test_unstable_at_sigma_max():
    point = critical_point(Curve(50.0), np.geomspace(5.0, 0.5, 20))
    assert int(point.status) == UNSTABLE_AT_MAX and np.isnan(point.sigma)
    assert instability_kind(point) == "unstable at sigma_max"
    # Further down it stabilises: that crossing is reported, but is not the critical point.
    point = critical_point(Curve(roots=(8.0, 3.0, np.nan)), np.geomspace(6.0, 1.0, 20))
    assert int(point.status) == UNSTABLE_AT_MAX and np.isnan(point.sigma)
    np.testing.assert_allclose(point.crossings[0], 3.0, rtol=1e-12)


def test_growth_at_every_noise_level_is_said_and_distinguished():
    """VP frame, eta = 0: Gamma = (c (1+t) - t)/(t (1+t)); no zero for c >= 1, t = c/(1-c) below."""
    for strength in (1.0, 81.0):
        point = critical_point(Curve(strength), LADDER, frame="vp")
        assert int(point.status) == ALWAYS_GROWING
        assert instability_kind(point) == "grows at every noise level"
    point = critical_point(Curve(0.9), LADDER, frame="vp")
    np.testing.assert_allclose(point.sigma, 3.0, rtol=1e-10)
    low = critical_point(Curve(0.9), np.geomspace(2.0, 0.5, 20), frame="vp")
    assert int(low.status) == UNSTABLE_AT_MAX  # raising sigma_max finds it
    assert int(critical_point(Curve(81.0), np.geomspace(5, 1, 20)).status) == UNSTABLE_AT_MAX
    assert int(critical_point(Curve(2.0), LADDER, eta=1e-3, frame="vp").status) == UNSTABLE_AT_MAX


def test_not_finite():
    everywhere, before, after = (critical_point(Curve(4.0, broken=(0.0, s)), LADDER) for s in (1e9, 5.0, 1.0))
    assert [int(p.status) for p in (everywhere, before, after)] == [NOT_FINITE, NOT_FINITE, CROSSING]
    assert instability_kind(before) == "not finite" and np.isnan(before.sigma)
    np.testing.assert_allclose(after.sigma, 2.0, rtol=1e-12)
    coarse = np.concatenate([LADDER[::3], np.geomspace(0.4, 0.1, 13)])
    assert not np.any(np.abs(coarse - 2) < 0.2)
    between = critical_point(Curve(4.0, broken=(1.8, 2.2)), coarse)
    assert int(between.status) == NOT_FINITE  # not on the ladder, but where the root should be


# Compilation, derivatives, precision ---------------------------------------------------------------------------


def test_vmap_over_banks_is_the_loop():
    banks = [random_patterns(seed, 5, 3) for seed in range(3)]
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), *banks)
    mapped = jax.jit(jax.vmap(lambda bank: critical_point(bank_symbol_fn(bank, (6, 6)), LADDER)))(stack)
    for n, bank in enumerate(banks):
        alone = critical_point(bank_symbol_fn(bank, (6, 6)), LADDER)
        np.testing.assert_allclose(mapped.sigma[n], alone.sigma, rtol=1e-12)
        assert np.array_equal(mapped.modes[n], alone.modes)
        levels = np.asarray(mean_field_critical_sigma(bank, (6, 6)))
        np.testing.assert_allclose(alone.sigma, levels.max(), rtol=1e-10)


def test_classes_by_vmap_with_traced_labels():
    patches = np.concatenate([two_patterns(3).patches, 0.5 * np.asarray(two_patterns(3).patches)])
    bank = PatchBank(patches, labels=[0, 0, 1, 1])
    solve = jax.vmap(lambda label: critical_point(bank_symbol_fn(select(bank, label), (6, 6)), LADDER).sigma)
    np.testing.assert_allclose(jax.jit(solve)(np.arange(2)), [3.0, 1.5], rtol=1e-12)


def test_derivative_of_the_critical_noise():
    """Implicit differentiation against finite differences and, for a prior, a closed form."""
    bank = random_patterns(3, 5, 3, channels=2)
    tangent = np.random.default_rng(0).normal(size=bank.patches.shape) * 0.1

    def critical(t):
        moved = bank.replace(patches=bank.patches + t * tangent)
        return critical_point(bank_symbol_fn(moved, (6, 5)), LADDER).sigma

    both, step = (
        jax.jit(lambda t: (jax.value_and_grad(critical)(t), jax.jvp(critical, (t,), (1.0,))[1])),
        1e-5,
    )
    (ahead, _), _ = both(step)
    (back, _), _ = both(-step)
    (_, reverse), forward = both(0.0)
    np.testing.assert_allclose([reverse, forward], (ahead - back) / (2 * step), rtol=1e-6)
    # Dhat = c/sigma^2: sigma_c = sqrt(c), d sigma_c/dc = 1/(2 sqrt c), of an array of the function and of what it
    # closes over alike.
    for make in (Curve, lambda c: lambda sigma: jnp.full((3, 4, 1, 1), c / sigma**2 + 0j)):
        slope = jax.grad(lambda c, make=make: critical_point(make(c), LADDER).sigma)(9.0)
        np.testing.assert_allclose(slope, 1 / 6, rtol=1e-12)


def test_float32():
    bank = random_patterns(4, 7, 5, dtype=np.float32)
    point = critical_point(bank_symbol_fn(bank, (16, 16)), LADDER.astype(np.float32))
    exact = np.max(mean_field_critical_sigma(random_patterns(4, 7, 5), (16, 16)))
    assert point.sigma.dtype == jnp.float32
    np.testing.assert_allclose(point.sigma, exact, rtol=1e-6)
    partners = np.roll(np.asarray(point.modes)[::-1, ::-1], 1, (0, 1))
    assert np.array_equal(point.modes, partners)  # with every k also -k


# The map over modes --------------------------------------------------------------------------------------------


def test_map_of_critical_noise():
    bank, grid = two_patterns(5), (9, 10)
    levels = np.asarray(critical_sigmas(bank_symbol_fn(bank, grid), np.geomspace(8.0, 0.3, 24)))
    exact = np.asarray(mean_field_critical_sigma(bank, grid))
    seen = (exact > 0.3) | (exact == 0)
    np.testing.assert_allclose(levels[seen], exact[seen], rtol=1e-9, atol=1e-12)
    assert np.all(levels[~seen] == 0) and np.any(exact == 0)


def test_map_converges_with_fourth_order():
    """VP frame, eta = 1, where sigma^2 Gamma is no polynomial of sigma^2."""
    errors, counts = [], np.array([8, 16, 32])
    for count in counts:
        ladder = np.geomspace(6.0, 0.5, count)
        got = np.asarray(critical_sigmas(Curve(3.0), ladder, eta=1.0, frame="vp"))[0, 0]
        errors.append(abs(float(got) ** 2 - (2 + np.sqrt(10))))
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert 3.3 < order < 5.5 and errors[-1] < 1e-4


def test_map_marks_what_it_cannot_locate():
    def symbol_fn(sigma):
        modes = jnp.stack([100.0 / sigma**2, 0.1 / sigma**2, jnp.where(sigma < 3, jnp.nan, 4.0 / sigma**2)])
        return modes.reshape(1, 3, 1, 1) + 0j

    levels = np.asarray(critical_sigmas(symbol_fn, np.geomspace(5.0, 0.5, 12)))[0]
    assert np.isinf(levels[0]) and levels[1] == 0 and np.isnan(levels[2])


def test_ladders_may_be_lists():
    levels = [8, 4, 2, 1]
    for function in (critical_point, critical_sigmas):
        unchecked = inspect.unwrap(function)
        found, expected = (unchecked(Curve(3.0), s) for s in (levels, np.array(levels, float)))
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_messages():
    symbol_fn = Curve(4.0)
    with pytest.raises(ValueError, match="sigmas: expected positive, strictly decreasing noise levels"):
        critical_point(symbol_fn, LADDER[::-1])
    with pytest.raises(ValueError, match="sigmas: expected at least 2 noise levels, got 1"):
        critical_point(symbol_fn, LADDER[:1])
    with pytest.raises(ValueError, match="sigmas: expected at least 4 noise levels, got 3"):
        critical_sigmas(symbol_fn, LADDER[:3])
    with pytest.raises(ValueError, match="frame: expected 've' or 'vp', got 'VP'"):
        critical_point(symbol_fn, LADDER, frame="VP")
    with pytest.raises(ValueError, match="eta: expected a finite number >= 0, got -2.0"):
        critical_point(symbol_fn, LADDER, eta=-2.0)
    with pytest.raises(ValueError, match="max_crossings: expected an integer >= 1, got 0"):
        critical_point(symbol_fn, LADDER, max_crossings=0)
    with pytest.raises(ValueError, match=r"symbol_fn: expected shape \(H, W, C, C\), got shape \(3, 4\)"):
        critical_point(lambda s: symbol_fn(s)[..., 0, 0], LADDER)
    point = critical_point(symbol_fn, LADDER)
    with pytest.raises(ValueError, match=r"point: expected one critical point, got a batch of shape \(1,\)"):
        inspect.unwrap(instability_kind)(jax.tree.map(lambda a: np.asarray(a)[None], point))
    with pytest.raises(ValueError, match="call instability_kind outside jit"):
        jax.jit(lambda p: jnp.zeros(len(inspect.unwrap(instability_kind)(p))))(point)
