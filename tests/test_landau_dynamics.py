"""The reduced solver: order, symmetry, free energy, aliasing, linear limits, and the exact dynamics of slow fields."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.banks import PatchBank, two_pattern_bank
from critjax.fluctuations import linear_structure_factor
from critjax.landau import (
    free_energy,
    integrate,
    landau_coefficients,
    landau_sample,
    low_pass,
    reduced_model,
    stable_substeps,
)
from critjax.landau._dynamics import _local, exponential_step, half_plane, kept_modes
from critjax.noise import geometric_sigmas
from critjax.patch_score import patch_denoiser
from critjax.sampling import sample
from critjax.spectra import bank_symbol_fn

SIZE = 5
GRID = (24, 20)


def _bank():
    patterns = np.random.default_rng(3).choice([-1.0, 1.0], (3, SIZE, SIZE, 1))
    patterns[0] = 1.0
    return PatchBank(np.concatenate([patterns, -patterns]))


def _well_posed_bank():
    """One patch and its negative, bright in the centre and dark around: far covariances are negative."""
    patch = -np.ones((3, 3, 1))
    patch[1, 1] = 1
    return PatchBank(np.stack([patch, -patch]))


def _start(scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=(*GRID, 1))


def _ladder(num, top=6.0, bottom=3.0):
    return np.asarray(geometric_sigmas(top, bottom, num), np.float64)


@functools.partial(jax.jit, static_argnames=("eta", "num_substeps", "linear", "save_every"))
def _run(bank, ladder, x_init, key=0, *, eta=0.0, num_substeps=1, linear="exact", save_every=1):
    """Run the solver as one program, which compiles faster than its parts, once for each shape."""
    return landau_sample(
        bank, jax.random.key(key), x_init.shape, ladder, eta=eta, x_init=x_init, num_substeps=num_substeps,
        linear=linear, save_every=save_every,
    )  # fmt: skip


def test_the_solver_converges_at_second_order():
    start, ends = _start(6.0), {}
    fine = jax.tree.map(np.asarray, reduced_model(_bank(), _ladder(512), GRID))
    for num in (16, 32, 64, 512):
        # The levels that both ladders have.
        coarse = jax.tree.map(lambda a, every=512 // num: a[::every], fine)
        run = integrate(coarse, jax.random.key(0), start, cutoff=np.pi / SIZE, save_every=num)
        ends[num] = np.asarray(run.x)[-1]
    errors = [np.max(np.abs(ends[num] - ends[512])) for num in (16, 32, 64)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all((orders > 1.8) & (orders < 2.3)), orders


def test_symmetric_banks_keep_the_sign_symmetry():
    plus, minus = (_run(_bank(), _ladder(10), sign * _start(6.0), save_every=10) for sign in (1, -1))
    np.testing.assert_allclose(minus.x, -plus.x, atol=1e-12)
    np.testing.assert_allclose(minus.denoised, -plus.denoised, atol=1e-12)
    assert np.std(plus.x[-1]) > 0.05


def test_products_are_free_of_aliasing_in_the_modes_kept():
    rng = np.random.default_rng(0)
    shape = (18, 13)
    psi = np.asarray(low_pass(rng.normal(size=shape), 10.0))
    found = np.asarray(jax.jit(_local)(psi, 0.7, 0.4))
    # The same products on a grid three times as fine, where no alias of a cubic product reaches a kept mode.
    modes = np.fft.fft2(psi)
    fine = np.zeros((3 * shape[0], 3 * shape[1]), complex)
    index = [np.fft.fftfreq(n, 1 / n).astype(int) for n in shape]
    fine[np.ix_(*index)] = modes
    values = np.fft.ifft2(9 * fine).real
    expected = np.fft.fft2(0.7 * values**2 - 0.4 * values**3)[np.ix_(*index)] / 9
    expected = np.where(kept_modes(shape), expected, 0)
    np.testing.assert_allclose(found, half_plane(expected), atol=1e-10)


def _frozen(symbol, h, u):
    """Drift at frozen sigma and one default step of it."""

    half, kept = half_plane(symbol), half_plane(kept_modes(symbol.shape))

    def drift(psi):
        modes = (half - 1) * jnp.fft.rfft2(psi) + _local(psi, h, u)
        return jnp.fft.irfft2(jnp.where(kept, modes, 0), psi.shape)

    def step(psi, span):
        rate = jnp.where(kept, half - 1, 0)
        modes = exponential_step(jnp.fft.rfft2(psi), psi.shape, span, rate, ((h, u), (h, u)), 1.0)
        return jnp.fft.irfft2(modes, psi.shape)

    return drift, step


def test_the_drift_is_minus_the_gradient_of_the_free_energy():
    bank, sigma = two_pattern_bank(SIZE, dtype=np.float64), 4.0
    c = landau_coefficients(bank, sigma)
    symbol = np.asarray(bank_symbol_fn(bank, GRID)(sigma))[..., 0, 0]
    psi, u = np.asarray(low_pass(_start()[..., 0], 1.0)), float(c.u)
    drift, _ = _frozen(symbol, 0.3, u)
    gradient = jax.jit(jax.grad(free_energy))(psi, symbol, 0.3, u)
    kept = np.fft.ifft2(np.where(kept_modes(GRID), np.fft.fft2(gradient), 0)).real
    np.testing.assert_allclose(jax.jit(drift)(psi), -kept, atol=1e-12)


def test_the_free_energy_never_increases_at_frozen_noise():
    bank, sigma = two_pattern_bank(SIZE, dtype=np.float64), 3.0  # below the critical noise 5: domains grow
    c = landau_coefficients(bank, sigma)
    symbol, u = np.asarray(bank_symbol_fn(bank, GRID)(sigma))[..., 0, 0].real + 0j, float(c.u)
    _, step = _frozen(symbol, 0.0, u)
    span = float(np.log(200**0.5 / 1.0) / 60)  # a ladder of 60 levels

    @jax.jit
    def follow(psi):
        return jax.lax.scan(
            lambda psi, _: (step(psi, span), free_energy(psi, symbol, 0.0, u)), psi, None, length=200
        )

    psi, energies = map(np.asarray, follow(low_pass(_start(0.1)[..., 0], np.pi / SIZE)))
    assert np.all(np.diff(energies) <= 1e-12 * np.abs(energies[-1]))
    assert energies[-1] < energies[0] - 1.0
    plateau = np.sqrt(-float(c.r) / float(c.u))
    np.testing.assert_allclose(np.max(np.abs(psi)), plateau, rtol=0.2)


def test_small_slow_fields_follow_the_exact_dynamics():
    bank, ladder = _bank(), jnp.asarray(_ladder(64))
    slow = jnp.asarray(np.asarray(low_pass(_start(0.05)[..., 0], np.pi / SIZE))[..., None])
    exact = sample(patch_denoiser(bank), jax.random.key(0), slow.shape, ladder, x_init=slow, save_every=64)
    found = _run(bank, ladder, slow, save_every=64)
    size = np.max(np.abs(exact.x[-1]))
    np.testing.assert_allclose(found.x[-1], exact.x[-1], atol=3e-4 * size)
    np.testing.assert_allclose(found.denoised[-1], exact.denoised[-1], atol=1e-3 * size)


@pytest.mark.slow
def test_the_linear_limit_of_the_noise_is_linear_theory():
    """Far above the critical noise the cubic term is nothing: S(k) of the SDE against its equation."""
    bank, ladder = two_pattern_bank(SIZE, dtype=np.float64), _ladder(20, 40.0, 20.0)
    model = reduced_model(bank, ladder, GRID, eta=1.0)
    coefficients = model.coefficients._replace(u=0 * model.coefficients.u)
    model = model._replace(coefficients=coefficients)
    starts = 40.0 * np.random.default_rng(5).normal(size=(1500, *GRID, 1))
    keys = jax.random.split(jax.random.key(6), len(starts))
    run = jax.jit(
        jax.vmap(lambda key, x: integrate(model, key, x, eta=1.0, cutoff=np.pi / SIZE, save_every=20).x[-1])
    )
    fields = np.asarray(run(keys, starts))[..., 0]
    power = np.mean(np.abs(np.fft.fft2(fields)) ** 2, axis=0) / np.prod(GRID)
    expected = linear_structure_factor(bank_symbol_fn(bank, GRID), jnp.asarray(ladder), eta=1.0)[
        -1, ..., 0, 0
    ].real
    slow = np.asarray(power > 0.5 * power.max())
    ratio = power[slow] / np.asarray(expected)[slow]
    assert slow.sum() > 8
    # Each mode has a relative standard error of at most sqrt(2/1500).
    np.testing.assert_allclose(ratio, 1, atol=4.5 * np.sqrt(2 / 1500))
    np.testing.assert_allclose(ratio.mean(), 1, atol=4 * np.sqrt(2 / 1500 / (slow.sum() / 2)))


@pytest.mark.slow
def test_exact_and_truncated_linear_parts_agree_for_slow_modes():
    bank, ladder = _well_posed_bank(), _ladder(12, 6.0, 2.0)
    exact, truncated = (reduced_model(bank, ladder, (64, 64), linear=name) for name in ("exact", "truncated"))
    near = (slice(None), slice(0, 3), slice(0, 3))  # k up to 0.28: the next term is of order k^6
    np.testing.assert_allclose(truncated.symbol[near], exact.symbol[near], atol=2e-4)
    assert np.max(np.abs(truncated.symbol - exact.symbol)) > 0.1
    x = _run(bank, ladder, _start(6.0), linear="truncated", save_every=12).x
    assert np.max(np.abs(x[-1])) < np.max(np.abs(x[0]))


@pytest.mark.slow
def test_the_same_key_starts_from_the_noise_of_the_exact_model():
    bank, ladder, key = _bank(), jnp.asarray(_ladder(4)), jax.random.key(8)
    exact = sample(patch_denoiser(bank), key, (*GRID, 1), ladder, save_every=4)
    found = landau_sample(bank, key, (*GRID, 1), ladder, save_every=4)
    np.testing.assert_allclose(found.x[0, ..., 0], low_pass(exact.x[0, ..., 0], np.pi / SIZE), atol=1e-12)


def test_wrong_input_is_refused_with_its_reason():
    bank, ladder, key = two_pattern_bank(3), _ladder(4).astype(np.float32), jax.random.key(0)
    with pytest.raises(ValueError, match=r"truncated.*expected a fourth-order term that damps.*exact"):
        landau_sample(bank, key, (8, 8, 1), ladder, linear="truncated")
    with pytest.raises(ValueError, match="linear: expected"):
        reduced_model(bank, ladder, (8, 8), linear="full")
    with pytest.raises(ValueError, match="channels"):
        landau_sample(bank, key, (8, 8, 3), ladder)
    with pytest.raises(ValueError, match="x_init: expected shape"):
        landau_sample(bank, key, (8, 8, 1), ladder, x_init=np.zeros((4, 4, 1)))
    with pytest.raises(ValueError, match="eta"):
        landau_sample(bank, key, (8, 8, 1), ladder, eta=-1.0)


@pytest.mark.slow
def test_coarse_ladders_are_divided_until_the_cubic_term_is_stable():
    """Far below the critical noise u psi^2 is stiff: one step a level would explode."""
    bank, coarse = two_pattern_bank(SIZE, dtype=np.float64), _ladder(9, 12.0, 1.6)
    assert not np.max(np.abs(_run(bank, coarse, _start(12.0), num_substeps=1).x[-1])) < 100
    counts = stable_substeps(reduced_model(bank, coarse, GRID))
    assert counts[0] == 4 and counts[-1] > 20 and np.all(np.diff(counts) >= 0)
    found = landau_sample(bank, jax.random.key(0), (*GRID, 1), coarse, x_init=_start(12.0))
    same = _run(bank, coarse, _start(12.0), num_substeps=int(counts.max()))
    np.testing.assert_allclose(found.x, same.x, atol=5e-3 * np.abs(same.x).max())
    fine = _run(bank, _ladder(576, 12.0, 1.6), _start(12.0), save_every=64)
    difference = np.abs(found.x - fine.x).max((1, 2, 3)) / np.abs(fine.x).max((1, 2, 3))
    # What is interpolated between the levels is exact for this bank: only the substeps' own error is left.
    assert np.all(difference < 0.02)


def _toy(num, **changes):
    """A model of constant symbol and local terms, white in space: every mode alike, and strongly driven."""
    sigma = np.geomspace(2.0, 1.0, num + 1)
    one = np.ones(num + 1)
    model = jax.eval_shape(lambda: reduced_model(two_pattern_bank(1, dtype=np.float64), sigma, (16, 16)))
    fill = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), model)
    c = fill.coefficients._replace(u=0.5 * one, right=one[:, None], left=one[:, None], **changes)
    return fill._replace(sigma=sigma, coefficients=c)


@pytest.mark.slow
@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("divided", [False, True])
def test_the_noise_is_of_second_order_in_the_weak_sense(divided):
    """<psi^2> over one factor of two in sigma at eta = 1, against a ladder of 256 steps."""

    def power(num):
        # Divided: a fixed ladder of two steps, and so many substeps in each.
        model, substeps = (_toy(2), np.full(2, num // 2)) if divided else (_toy(num), 1)

        def one(key):
            start_key, key = jax.random.split(key)
            start = 0.3 * jax.random.normal(start_key, (16, 16, 1), jnp.float64)
            run = integrate(model, key, start, eta=1.0, cutoff=10.0, num_substeps=substeps, save_every=num)
            return jnp.mean(run.x[-1] ** 2)

        keys = jax.random.split(jax.random.key(7), 1500)
        return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=100))(keys))

    values = {num: power(num) for num in (4, 8, 256)}
    exact, noise = values[256].mean(), values[256].std() / np.sqrt(1500)
    coarse, finer = (abs(values[num].mean() - exact) for num in (4, 8))
    # First order would leave 0.010 at eight steps.
    assert coarse < 0.015 + 3 * noise and finer < 0.3 * max(coarse, 0.004) + 4 * noise


def test_divided_steps_share_the_noise_of_their_step():
    bank, ladder = two_pattern_bank(SIZE, dtype=np.float64), _ladder(24, 8.0, 4.0)
    one, four = (
        _run(bank, ladder, _start(8.0), eta=1.0, num_substeps=n, save_every=24).x[-1] for n in (1, 4)
    )
    difference = np.sqrt(np.mean((one - four) ** 2) / np.mean(four**2))
    assert 1e-4 < difference < 0.06
    with pytest.raises(ValueError, match="num_substeps: expected an integer >= 1"):
        _run(bank, ladder, _start(8.0), num_substeps=0)


def test_a_run_that_would_take_too_many_substeps_gives_up_with_nan():
    model = _toy(6, r=-50.0 * np.ones(7))
    counts = stable_substeps(model, limit=200)
    assert counts[0] > 1 and counts[-1] == 0
    x = integrate(model, jax.random.key(0), _start(0.1)[:16, :16], cutoff=10.0, num_substeps=counts).x
    finite = np.isfinite(x).all((1, 2, 3))
    assert finite[0] and np.array_equal(finite[1:], counts > 0)
