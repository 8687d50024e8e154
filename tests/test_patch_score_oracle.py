"""Patch scores against the brute-force oracle, exact identities and limits: every legal row, every route."""

import functools
import zlib

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from patch_cases import (
    LEGAL,
    ROWS,
    Case,
    agreement_cases,
    compiled,
    compiled_denoiser,
    methods_of,
    tiny_cases,
    with_methods,
)

import critjax
from critjax.banks import ImageBank, PatchBank, extract_patches, select, two_pattern_bank
from critjax.patch_score import available_methods, effective_patches, patch_denoiser

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def _case(row, size=3, grid=(5, 4), channels=1, count=4, **more):
    return Case(*row, size, grid, channels, count, **more)


def _row_id(row):
    return "-".join(map(str, row))


# ---- the legal table
def test_the_table_of_legal_combinations_is_the_one_of_the_theory():
    listed = [tuple(row) for row in critjax.patch_score.LEGAL]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(LEGAL)


@pytest.mark.parametrize("row", ROWS, ids=_row_id)
def test_legal_rows_agree_with_the_oracle_and_all_others_raise(row):
    case = _case(row)
    x, data, log_prior = case.arrays()
    bank = case.bank(data, log_prior)
    if row not in LEGAL:
        for build in (patch_denoiser, effective_patches, available_methods):
            with pytest.raises(ValueError, match=r"expected .*, got .*; "):
                build(bank, **case.model)
        return
    expected = case.reference(x, case.sigma(), data, log_prior)
    denoised = compiled_denoiser(case.boundary, case.readout)(bank, x, case.sigma())
    np.testing.assert_allclose(denoised, expected.denoised, **TIGHT)


def test_defaults_are_periodic_boundary_and_centre_readout():
    case = _case(("images", "all", "periodic", "centre"))
    x, data, log_prior = case.arrays()
    expected = case.reference(x, 0.7, data, log_prior)
    bank = case.bank(data, log_prior)
    np.testing.assert_allclose(patch_denoiser(bank)(x, 0.7), expected.denoised, **TIGHT)
    np.testing.assert_allclose(effective_patches(bank)(x, 0.7), expected.effective, **TIGHT)
    assert critjax.patch_denoiser is patch_denoiser
    assert critjax.effective_patches is effective_patches


def test_each_bank_offers_the_promised_routes():
    """Product for all but "same", convolution for lists of patches, box sums for images read at the centre."""
    for row in LEGAL:
        kind, positions, boundary, readout = row
        found = methods_of(_case(row))
        assert found == tuple(critjax.patch_score.LEGAL[row])
        wanted = {"product"} if positions != "same" else {"box"}
        if kind == "patches":
            wanted |= {"convolution"}
        elif boundary == "periodic" and readout == "centre":
            wanted |= {"box"}
        assert set(found) == wanted and len(found) == len(wanted)


def test_routes_that_a_bank_lacks_raise():
    for row in LEGAL:
        case = _case(row)
        _, data, log_prior = case.arrays()
        bank = case.bank(data, log_prior)
        missing = {"convolution", "product", "box"} - set(methods_of(case))
        for method in missing:
            with pytest.raises(ValueError, match=r"method: expected .*, got .*; "):
                patch_denoiser(bank, **case.model, method=method)
            with pytest.raises(ValueError, match=r"method: expected .*, got .*; "):
                effective_patches(bank, **case.model, method=method)


# ---- agreement, everywhere
@pytest.mark.parametrize(("case", "method"), **with_methods(agreement_cases()))
def test_agrees_with_the_oracle(case, method):
    x, data, log_prior = case.arrays()
    bank = case.bank(data, None if case.prior == "uniform" else log_prior)
    for fraction in (0.5, 0.2):
        expected = case.reference(x, case.sigma(fraction), data, log_prior)
        denoised, effective = compiled(case.boundary, case.readout, method)(bank, x, case.sigma(fraction))
        assert denoised.shape == x.shape
        np.testing.assert_allclose(denoised, expected.denoised, **TIGHT)
        _check_effective(effective, expected.effective)


def _check_effective(effective, expected):
    np.testing.assert_allclose(effective, _of_windows(expected), rtol=1e-9)


def _of_windows(effective):
    """Drop the rows and columns without window: there the library returns no entry, the oracle NaN."""
    exists = np.isfinite(effective)
    return effective[np.ix_(exists.any(axis=1), exists.any(axis=0))]


OTHER_GRIDS = [
    Case("images", positions, "periodic", readout, 3, (6, 4), 1, 2, (3, 5))
    for positions in ("all", "interior")
    for readout in ("centre", "average")
]


@pytest.mark.parametrize(("case", "method"), **with_methods(OTHER_GRIDS))
def test_noisy_image_of_another_size_than_the_training_images(case, method):
    x, data, log_prior = case.arrays()
    expected = case.reference(x, case.sigma(), data, log_prior)
    denoised, effective = compiled(case.boundary, case.readout, method)(
        case.bank(data, log_prior), x, case.sigma()
    )
    np.testing.assert_allclose(denoised, expected.denoised, **TIGHT)
    np.testing.assert_allclose(effective, expected.effective, rtol=1e-9)


@hypothesis.settings(max_examples=12, deadline=None, database=None, derandomize=True)
@hypothesis.given(data=st.data())
def test_agrees_with_the_oracle_at_drawn_shapes(data):
    row = data.draw(st.sampled_from(LEGAL))
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    sizes = [p for p in range(1, min(height, width) + 1) if row[3] == "average" or p % 2]
    case = Case(
        *row,
        data.draw(st.sampled_from(sizes)),
        (height, width),
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 4)),
        prior=data.draw(st.sampled_from(["uniform", "random"])),
    )
    method = data.draw(st.sampled_from(methods_of(case)))
    x, values, log_prior = case.arrays(seed=data.draw(st.integers(0, 5)))
    sigma = data.draw(st.floats(0.05, 20.0))
    expected = case.reference(x, sigma, values, log_prior)
    denoised, effective = compiled(case.boundary, case.readout, method)(
        case.bank(values, log_prior), x, sigma
    )
    np.testing.assert_allclose(denoised, expected.denoised, rtol=1e-9, atol=1e-11)
    _check_effective(effective, expected.effective)


@pytest.mark.parametrize(("case", "method"), **with_methods(tiny_cases()))
def test_block_size_changes_nothing(case, method):
    x, data, log_prior = case.arrays()
    bank = case.bank(data, log_prior)
    whole = compiled(case.boundary, case.readout, method)(bank, x, case.sigma())
    for block_size in (1, 2, 1000):
        parts = compiled(case.boundary, case.readout, method, block_size)(bank, x, case.sigma())
        np.testing.assert_allclose(parts[0], whole[0], rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(parts[1], whole[1], rtol=1e-10)


# ---- identities and limits
@pytest.mark.parametrize(
    ("case", "method"),
    **with_methods([_case(row, 3, (5, 6)) for row in LEGAL if row[1] != "same" and row[2] == "periodic"]),
)
def test_shifting_the_image_shifts_the_result(case, method):
    x, data, log_prior = case.arrays()
    bank = case.bank(data, log_prior)
    fn = compiled(case.boundary, case.readout, method)
    denoised, effective = fn(bank, x, case.sigma())
    shifted = fn(bank, np.roll(x, (2, -1), (0, 1)), case.sigma())
    np.testing.assert_allclose(shifted[0], np.roll(denoised, (2, -1), (0, 1)), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(shifted[1], np.roll(effective, (2, -1), (0, 1)), rtol=1e-10)
    assert np.ptp(denoised) > 1e-3


@pytest.mark.parametrize("readout", ["centre", "average"])
def test_same_position_models_shift_only_together_with_their_images(readout):
    case = _case(("images", "same", "periodic", readout), 3, (5, 6))
    x, data, log_prior = case.arrays()
    fn = compiled_denoiser(case.boundary, readout)
    denoised = fn(case.bank(data, log_prior), x, case.sigma())
    moved = fn(
        case.bank(np.roll(data, (2, -1), (1, 2)), log_prior), np.roll(x, (2, -1), (0, 1)), case.sigma()
    )
    np.testing.assert_allclose(moved, np.roll(denoised, (2, -1), (0, 1)), rtol=1e-11, atol=1e-13)
    alone = fn(case.bank(data, log_prior), np.roll(x, (2, -1), (0, 1)), case.sigma())
    assert np.max(np.abs(np.roll(denoised, (2, -1), (0, 1)) - alone)) > 1e-2


@pytest.mark.parametrize(
    ("case", "method"), **with_methods([_case(row, 3, (5, 6), count=6) for row in LEGAL])
)
def test_a_bank_closed_under_negation_gives_an_odd_denoiser(case, method):
    x, data, log_prior = case.arrays()
    bank = case.bank(np.concatenate([data[:3], -data[:3]]), np.concatenate([log_prior[:3]] * 2))
    fn = compiled(case.boundary, case.readout, method)
    plus, minus = fn(bank, x, case.sigma()), fn(bank, -x, case.sigma())
    np.testing.assert_allclose(minus[0], -plus[0], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(minus[1], plus[1], rtol=1e-10)


@pytest.mark.parametrize("method", ["product", "convolution"])
@pytest.mark.parametrize(("size", "channels"), [(5, 1), (3, 3)])
def test_two_patterns_give_the_hyperbolic_tangent(size, channels, method):
    """D = tanh(P C mbar / sigma^2): norms are sums over pixels and channels, never means."""
    x = np.random.default_rng(3).normal(size=(6, 7, channels))
    half = (size - 1) // 2
    shifts = [(a, b) for a in range(-half, half + 1) for b in range(-half, half + 1)]
    total = sum(np.roll(x.sum(-1), shift, (0, 1)) for shift in shifts)
    bank = two_pattern_bank(size, channels=channels, dtype=np.float64)
    fn = compiled(boundary="periodic", readout="centre", method=method)
    for sigma in (0.9, 4.0, 17.0):
        denoised, effective = fn(bank, x, sigma)
        expected = np.tanh(total / sigma**2)
        np.testing.assert_allclose(
            denoised, np.broadcast_to(expected[..., None], x.shape), rtol=1e-11, atol=1e-13
        )
        share = 1 / (1 + np.exp(-2 * np.abs(total) / sigma**2))
        rest = 1 / (1 + np.exp(2 * np.abs(total) / sigma**2))
        np.testing.assert_allclose(
            effective, np.exp(-share * np.log(share) - rest * np.log(rest)), rtol=1e-10
        )


@pytest.mark.parametrize("positions", ["all", "interior"])
def test_image_banks_equal_the_list_of_their_patches(positions):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(5, 6, 2))
    images = np.sign(rng.normal(size=(3, 4, 5, 2)))  # two levels: many duplicates
    bank = ImageBank(images, 3, positions=positions, log_prior=rng.normal(size=3))
    expected = compiled_denoiser("periodic", "centre")(extract_patches(bank), x, 1.5)
    for method in available_methods(bank, boundary="periodic", readout="centre"):
        found = compiled_denoiser("periodic", "centre", method)(bank, x, 1.5)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("case", "method"), **with_methods(tiny_cases()))
def test_much_noise_gives_the_prior_mean_and_all_prior_weight(case, method):
    x, data, log_prior = case.arrays()
    expected = reference.prior_mean(case.grid, data, log_prior, **case.oracle_options)
    denoised, effective = compiled(case.boundary, case.readout, method)(case.bank(data, log_prior), x, 1e6)
    np.testing.assert_allclose(denoised, expected, atol=1e-9)
    _check_effective(effective, case.reference(x, 1e6, data, log_prior).effective)
    uniform = compiled(case.boundary, case.readout, method)(case.bank(data), x, 1e6)[1]
    counts = np.array([len(weights) for weights in case.reference(x, 1e9, data).weights.values()])
    np.testing.assert_allclose(np.ravel(uniform), counts, rtol=1e-9)


@pytest.mark.parametrize(("case", "method"), **with_methods(tiny_cases()))
def test_little_noise_memorises(case, method):
    """At sigma -> 0 a training image is its own posterior mean wherever its windows are in the bank."""
    _, data, log_prior = case.arrays()
    fn = compiled(case.boundary, case.readout, method)
    if case.kind == "patches":
        x = np.tile(data[1], (2, 2, 1))[: case.grid[0], : case.grid[1]]  # one whole patch at the corner
        denoised, effective = fn(case.bank(data, log_prior), x, 1e-2)
        if case.readout == "centre":
            np.testing.assert_allclose(denoised[1, 1], data[1, 1, 1], rtol=1e-12)
        np.testing.assert_allclose(effective[1, 1], 1.0, rtol=1e-12)
        return
    denoised, effective = fn(case.bank(data, log_prior), data[1], 1e-2)
    inside = (slice(None), slice(None))
    if case.positions == "interior":
        margin = 1 if case.readout == "centre" else 2
        inside = (slice(margin, -margin), slice(margin, -margin))
    np.testing.assert_allclose(denoised[inside], data[1][inside], rtol=1e-12, atol=1e-13)
    if case.positions != "interior" and (case.boundary, case.readout) != ("zero", "average"):
        np.testing.assert_allclose(effective, 1.0, rtol=1e-12)


@pytest.mark.parametrize(("case", "method"), **with_methods(tiny_cases()))
def test_float32_survives_extreme_noise_levels(case, method):
    x, data, log_prior = case.arrays(dtype=np.float32)
    fn = compiled(case.boundary, case.readout, method)
    for scale in (1.0, 1e3):  # a noise level of 1e3 comes with an image of that size
        for sigma in (1e-3, 1e3):
            expected = case.reference(scale * x, sigma, data, log_prior)
            denoised, effective = fn(case.bank(data, log_prior), np.float32(scale) * x, np.float32(sigma))
            assert denoised.dtype == np.float32 and effective.dtype == np.float32
            np.testing.assert_allclose(denoised, expected.denoised, atol=2e-4)
            np.testing.assert_allclose(effective, _of_windows(expected.effective), rtol=2e-3)


def test_an_excluded_candidate_is_as_good_as_absent():
    for row in LEGAL:
        case = _case(row, count=4, prior="excluded")
        x, data, log_prior = case.arrays()
        kept = np.isfinite(log_prior)
        for method in methods_of(case):
            fn = compiled(case.boundary, case.readout, method)
            full = fn(case.bank(data, log_prior), x, 0.8)
            short = fn(case.bank(data[kept], log_prior[kept]), x, 0.8)
            np.testing.assert_allclose(full[0], short[0], rtol=1e-11, atol=1e-13)
            np.testing.assert_allclose(full[1], short[1], rtol=1e-10)


def test_only_differences_of_the_log_prior_matter():
    for row in LEGAL[:1] + LEGAL[2:3] + LEGAL[7:8]:
        case = _case(row)
        x, data, log_prior = case.arrays()
        fn = compiled(case.boundary, case.readout)
        for one, two in zip(
            fn(case.bank(data, log_prior), x, 0.8), fn(case.bank(data, log_prior + 50.0), x, 0.8), strict=True
        ):
            np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)


# ---- transformations of JAX
@pytest.mark.parametrize(("case", "method"), **with_methods(tiny_cases()))
def test_vmap_equals_loop_and_jit_equals_eager(case, method):
    x, data, log_prior = case.arrays()
    bank = case.bank(data, log_prior)
    xs = np.stack([x, x[::-1], -x])
    sigmas = np.array([0.4, 0.9, 2.0])
    fn = functools.partial(compiled_denoiser(case.boundary, case.readout, method), bank)
    loop = np.stack([fn(y, s) for y, s in zip(xs, sigmas, strict=True)])
    eager = patch_denoiser(bank, **case.model, method=method)
    np.testing.assert_allclose(eager(xs[0], sigmas[0]), loop[0], rtol=1e-12, atol=1e-13)
    mapped = jax.jit(jax.vmap(eager))(xs, sigmas)
    np.testing.assert_allclose(mapped, loop, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("case", "method"), **with_methods(tiny_cases()))
def test_banks_may_be_stacked(case, method):
    problems = [case.arrays(seed) for seed in range(3)]
    banks = [case.bank(data, log_prior) for _, data, log_prior in problems]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *banks)
    x = problems[0][0]
    fn = compiled(case.boundary, case.readout, method)
    mapped = jax.vmap(fn, in_axes=(0, None, None))(stacked, x, 0.8)
    for i, (_, data, log_prior) in enumerate(problems):
        expected = case.reference(x, 0.8, data, log_prior)
        np.testing.assert_allclose(mapped[0][i], expected.denoised, **TIGHT)
        _check_effective(mapped[1][i], expected.effective)


@pytest.mark.parametrize("row", LEGAL, ids=_row_id)
def test_labels_restrict_the_bank_statically_and_under_vmap(row):
    case = _case(row, count=5)
    x, data, log_prior = case.arrays()
    labels = np.array([1, 0, 1, 2, 0])
    bank = case.bank(data, log_prior, labels)
    fn = compiled(case.boundary, case.readout)
    mapped = jax.jit(jax.vmap(lambda label: fn(select(bank, label), x, 0.8)))(jnp.arange(3))
    for label in range(3):
        kept = labels == label
        expected = case.reference(x, 0.8, data[kept], log_prior[kept])
        for found in (fn(select(bank, label), x, 0.8), (mapped[0][label], mapped[1][label])):
            np.testing.assert_allclose(found[0], expected.denoised, **TIGHT)
            _check_effective(found[1], expected.effective)


@pytest.mark.parametrize("row", LEGAL, ids=_row_id)
def test_one_compiled_function_serves_all_values(row):
    case = _case(row)
    traces = []

    @jax.jit
    def fn(bank, x, sigma):
        traces.append(1)
        return patch_denoiser(bank, **case.model)(x, sigma)

    for seed in range(3):
        x, data, log_prior = case.arrays(seed)
        if seed == 1:
            log_prior[0] = -np.inf
        found = fn(case.bank(data, log_prior), x, 0.5 + seed)
        np.testing.assert_allclose(found, case.reference(x, 0.5 + seed, data, log_prior).denoised, **TIGHT)
    assert len(traces) == 1 and fn._cache_size() == 1


# ---- float32 accuracy
RANGE = 2.0  # images live in [-1, 1]


def _cloth_images(count: int, side: int = 28) -> np.ndarray:
    images = np.asarray(critjax.data.embedded_fashion_mnist().images[:count], np.float32)
    start = (28 - side) // 2
    return images[:, start : start + side, start : start + side]


@pytest.mark.parametrize("size", [3, 7, 15])
def test_float32_on_noised_pictures(size):
    images = _cloth_images(22)
    bank_images, held_out = images[:20], images[20]
    bank = ImageBank(bank_images, size)
    patches, _ = reference.image_patches(bank_images, size, "all")
    rng = np.random.default_rng(size)
    for clean in (held_out, bank_images[0]):
        for sigma, limit in ((0.02, 5e-5), (0.05, 2e-5), (0.3, 2e-5), (2.0, 2e-5)):
            x = (clean + sigma * rng.normal(size=clean.shape)).astype(np.float32)
            truth = reference.denoise_large(x, np.float32(sigma), patches)
            for method in available_methods(bank, boundary="periodic", readout="centre"):
                found = compiled_denoiser("periodic", "centre", method)(bank, x, np.float32(sigma))
                assert found.dtype == np.float32
                assert np.max(np.abs(found - truth)) < limit * RANGE, (method, sigma)


def _halfway_problem(bank_images, size, num_pairs):
    """Windows half-way between two patches with different centres, where both compete at small noise."""
    patches, _ = reference.image_patches(bank_images, size, "all")
    flat = patches.reshape(len(patches), -1).astype(np.float64)
    squares = np.sum(flat**2, axis=1)
    rng = np.random.default_rng(zlib.crc32(b"halfway"))
    d, queries = (size - 1) // 2, []
    while len(queries) < num_pairs:
        a, b = rng.integers(0, len(patches), 2)
        if len(queries) % 2:  # every other pair: neighbours, so that few others come between
            distance = squares - 2 * flat @ flat[a]
            distance[np.abs(patches[:, d, d, 0] - patches[a, d, d, 0]) < 0.2] = np.inf
            b = int(np.argmin(distance))
        if abs(patches[a, d, d, 0] - patches[b, d, d, 0]) < 0.2:
            continue
        middle = ((patches[a] + patches[b]) / 2).astype(np.float32)
        logits = (flat @ middle.reshape(-1).astype(np.float64) - squares / 2) / 0.05**2
        weights = np.exp(logits - logits.max())
        if reference.perplexity(weights / weights.sum()) > 1.5:
            queries.append(middle)
    return patches, np.stack(queries)


@pytest.mark.parametrize("kind", ["patches", "images"])
def test_float32_half_way_between_two_patches(kind):
    """The hardest place for float32: two far patches at exactly equal distance."""
    size, side = 15, 16
    images = _cloth_images(6, side)
    patches, queries = _halfway_problem(images, size, 150)
    bank = PatchBank(patches) if kind == "patches" else ImageBank(images, size)
    xs = np.zeros((len(queries), side, side, 1), np.float32)
    xs[:, :size, :size] = queries
    pixel = size // 2
    flat = patches.reshape(len(patches), -1).astype(np.float64)
    for sigma, limit in ((0.05, 1e-4), (0.02, 1e-3)):
        sigma = np.float32(sigma)
        truth = []
        for query in queries.reshape(len(queries), -1).astype(np.float64):
            logits = -np.sum((query - flat) ** 2, axis=1) / (2 * np.float64(sigma) ** 2)
            weights = np.exp(logits - logits.max())
            truth.append(weights @ patches[:, pixel, pixel, 0] / weights.sum())
        for method in available_methods(bank, boundary="periodic", readout="centre"):
            fn = compiled_denoiser("periodic", "centre", method)
            found = np.array([fn(bank, x, sigma)[pixel, pixel, 0] for x in xs])
            assert np.max(np.abs(found - truth)) < limit * RANGE, (method, sigma)


# ---- what must raise
def _bank(kind, size, shape, **options):
    rng = np.random.default_rng(0)
    if kind == "patches":
        return PatchBank(rng.normal(size=(3, size, size, shape[-1])))
    return ImageBank(rng.normal(size=(3, *shape)), size, **options)


@pytest.mark.parametrize(
    ("bank", "boundary"),
    [
        (_bank("patches", 4, (6, 6, 1)), "periodic"),
        (_bank("images", 4, (6, 6, 1)), "periodic"),
        (_bank("images", 4, (6, 6, 1)), "zero"),
        (_bank("images", 2, (6, 6, 1), positions="same"), "zero"),
        (_bank("images", 2, (6, 6, 1), positions="interior"), "periodic"),
    ],
)
def test_even_windows_have_no_centre(bank, boundary):
    for build in (patch_denoiser, effective_patches):
        with pytest.raises(ValueError, match=r"expected an? odd .*; "):
            build(bank, boundary=boundary, readout="centre")


def test_windows_larger_than_a_periodic_image_raise():
    for readout in ("centre", "average"):
        for grid in ((4, 9), (9, 4)):
            fn = patch_denoiser(_bank("patches", 5, (5, 5, 1)), readout=readout)
            with pytest.raises(ValueError, match=r"expected .*5.*, got .*4.*; "):
                fn(np.zeros((*grid, 1)), 1.0)


def test_noisy_image_must_fit_the_bank():
    with pytest.raises(ValueError, match=r"expected .*2.*, got .*3.*; "):
        patch_denoiser(_bank("patches", 3, (5, 5, 2)))(np.zeros((5, 5, 3)), 1.0)
    with pytest.raises(ValueError, match=r"expected .*2.*, got .*1.*; "):
        effective_patches(_bank("images", 3, (5, 5, 2)))(np.zeros((5, 5, 1)), 1.0)
    same = _bank("images", 3, (5, 6, 1), positions="same")
    for boundary in ("periodic", "zero"):
        with pytest.raises(ValueError, match=r"expected .*5, 6.*, got .*6, 5.*; "):
            patch_denoiser(same, boundary=boundary)(np.zeros((6, 5, 1)), 1.0)
    with pytest.raises(ValueError, match=r"expected .*5, 6.*, got .*6, 5.*; "):
        patch_denoiser(_bank("images", 3, (5, 6, 1)), boundary="zero")(np.zeros((6, 5, 1)), 1.0)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"boundary": "reflect"}, r"boundary: expected 'periodic' or 'zero', got 'reflect'"),
        ({"readout": "center"}, r"readout: expected 'centre' or 'average', got 'center'"),
        ({"method": "fft"}, r"method: expected .*, got 'fft'"),
        ({"block_size": 0}, r"block_size: expected .*, got 0"),
        ({"block_size": 2.5}, r"block_size: expected .*, got 2.5"),
    ],
)
def test_unknown_options_raise(options, pattern):
    for build in (patch_denoiser, effective_patches):
        with pytest.raises(ValueError, match=pattern):
            build(_bank("patches", 3, (5, 5, 1)), **options)


def test_something_that_is_no_bank_raises():
    with pytest.raises(TypeError, match=r"bank: expected .*, got .*; "):
        patch_denoiser(np.zeros((3, 3, 3, 1)))
