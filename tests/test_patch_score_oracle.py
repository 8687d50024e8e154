"""Patch scores against the brute-force oracle, exact identities and limits: every legal row, every route."""

import zlib

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import AxisType
from patch_cases import (
    LEGAL,
    ROWS,
    Case,
    agreement_cases,
    base_cases,
    case_id,
    evaluate,
    evaluate_one,
    methods_of,
    optimised_denoiser,
    with_methods,
)

import critjax
import critjax.patch_score
from critjax.banks import ImageBank, PatchBank, extract_patches, select, two_pattern_bank
from critjax.data import embedded_fashion_mnist
from critjax.patch_score import available_methods, effective_patches, patch_denoiser
from critjax.patch_score._parts import origin_of
from critjax.patch_score._plan import FACTORS
from critjax.patch_score._scores import (
    Noise,
    energies,
    grid_step,
    head_bits,
    matmul,
    multiply,
    parts_of,
    rounding,
    with_offsets,
    with_one,
)

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def _row_id(row):
    return "-".join(map(str, row))


def _check(found, expected, **tolerance):
    """Compare (denoised, effective) with what the oracle found."""
    np.testing.assert_allclose(found[0], expected.denoised, **(tolerance or TIGHT))
    np.testing.assert_allclose(
        found[1], _of_windows(expected.effective), rtol=10 * tolerance.get("rtol", 1e-10)
    )


def _of_windows(effective):
    """Drop the rows and columns without window: there the library returns no entry, the oracle NaN."""
    exists = np.isfinite(effective)
    return effective[np.ix_(exists.any(axis=1), exists.any(axis=0))]


# ---- the legal table
def test_the_table_of_legal_combinations_is_the_one_of_the_theory():
    listed = [tuple(row) for row in critjax.patch_score.LEGAL]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(LEGAL)


@pytest.mark.parametrize("row", ROWS, ids=_row_id)
def test_legal_rows_agree_with_the_oracle_and_all_others_raise(row):
    case = Case(*row)
    x, data, log_prior = case.arrays()
    bank = case.bank(data, log_prior)
    if row in LEGAL:
        (found,) = evaluate(case, [(x, case.sigma(), data, log_prior)])
        _check(found, case.reference(x, case.sigma(), data, log_prior))
        return
    for build in (patch_denoiser, effective_patches, available_methods):
        with pytest.raises(ValueError, match=r"expected .*, got .*; "):
            build(bank, **case.model)


def test_defaults_are_periodic_boundary_and_centre_readout():
    case = Case("images", "all", "periodic", "centre")
    x, data, log_prior = case.arrays()
    expected = case.reference(x, 0.7, data, log_prior)
    bank = case.bank(data, log_prior)
    _check((patch_denoiser(bank)(x, 0.7), effective_patches(bank)(x, 0.7)), expected)


def test_the_package_offers_the_two_functions():
    assert critjax.patch_denoiser is patch_denoiser
    assert critjax.effective_patches is effective_patches


def test_each_bank_offers_the_promised_routes():
    """Product except for "same", convolution for lists of patches, window sums for periodic images."""
    for row in LEGAL:
        kind, positions, boundary, _ = row
        found = methods_of(Case(*row))
        wanted = {"product"} if positions != "same" else {"box"}
        if kind == "patches":
            wanted |= {"convolution"}
        elif boundary == "periodic":
            wanted |= {"box"}
        assert set(found) == wanted and len(found) == len(wanted)


def test_routes_that_a_bank_lacks_raise():
    for case in base_cases():
        _, data, log_prior = case.arrays()
        bank = case.bank(data, log_prior)
        for method in {"convolution", "product", "box"} - set(methods_of(case)):
            for build in (patch_denoiser, effective_patches):
                with pytest.raises(ValueError, match=rf"method: expected .*, got '{method}'.*; "):
                    build(bank, **case.model, method=method)


# ---- agreement, everywhere
@pytest.mark.parametrize(("case", "method"), with_methods(base_cases()))
def test_agrees_with_the_oracle(case, method):
    """Mapped over banks, images and noise levels, in blocks that overlap, with all candidates and without one."""
    problems = []
    for seed, prior in enumerate(("random", "excluded", "uniform")):
        x, data, log_prior = case._replace(prior=prior).arrays(seed)
        problems += [(x, case.sigma(fraction), data, log_prior) for fraction in (0.5, 0.2)]
    found = evaluate(case, problems, method)
    for one, (x, sigma, data, log_prior) in zip(found, problems, strict=True):
        _check(one, case.reference(x, sigma, data, log_prior))


def _check_alone(case, method):
    x, data, log_prior = case.arrays()
    bank = case.bank(data, None if case.prior == "uniform" else log_prior)
    for fraction in (0.5, 0.2):
        sigma = case.sigma(fraction)
        found = evaluate_one(case, bank, x, sigma, method)
        _check(found, case.reference(x, sigma, data, log_prior))


@pytest.mark.parametrize(("case", "method"), with_methods(agreement_cases()))
def test_agrees_with_the_oracle_alone(case, method):
    """One image, one bank, in one block."""
    _check_alone(case, method)


WINDOW_CASES = [
    Case(*row, size, grid, channels, 3)
    for row in LEGAL
    for size, grid, channels in ((1, (3, 4), 3), (2, (2, 5), 1), (3, (3, 3), 1), (7, (9, 7), 1))
    if row[3] == "average" or size % 2
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "method"), with_methods(WINDOW_CASES))
def test_agrees_with_the_oracle_for_more_windows(case, method):
    _check_alone(case, method)


@pytest.mark.parametrize("row", [LEGAL[0], LEGAL[1], LEGAL[2], LEGAL[4], LEGAL[9]], ids=_row_id)
def test_windows_of_one_pixel(row):
    _check_alone(Case(*row, 1, (3, 4), 3), "auto")


TALL = [
    Case("images", positions, "periodic", "centre", 3, (19, 4), 1, 3, prior="excluded")
    for positions in ("all", "interior")
]


@pytest.mark.parametrize("case", TALL, ids=case_id)
def test_images_of_more_rows_than_one_segment_of_box_sums(case):
    """Three segments of seven or six rows, the last one with rows that do not exist."""
    _check_alone(case, "box")


OTHER_GRIDS = [
    Case("images", positions, "periodic", readout, 3, (6, 4), 1, 2, (3, 5))
    for positions, readout in (("all", "centre"), ("interior", "centre"), ("interior", "average"))
]


@pytest.mark.parametrize(("case", "method"), with_methods(OTHER_GRIDS))
def test_noisy_image_of_another_size_than_the_training_images(case, method):
    _check_alone(case, method)


@hypothesis.settings(max_examples=8, deadline=None, database=None, derandomize=True)
@hypothesis.given(data=st.data())
def test_agrees_with_the_oracle_at_drawn_shapes(data):
    row = data.draw(st.sampled_from(LEGAL))
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    sizes = [p for p in range(1, min(height, width) + 1) if row[3] == "average" or p % 2]
    size, channels = data.draw(st.sampled_from(sizes)), data.draw(st.integers(1, 3))
    case = Case(*row, size, (height, width), channels, data.draw(st.integers(1, 4)))
    method = data.draw(st.sampled_from(methods_of(case)))
    x, values, log_prior = case.arrays(seed=data.draw(st.integers(0, 5)))
    sigma = data.draw(st.floats(0.05, 20.0))
    found = evaluate_one(case, case.bank(values, log_prior), x, sigma, method)
    _check(found, case.reference(x, sigma, values, log_prior), rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "method"), with_methods(base_cases()))
def test_blocks_of_one_change_nothing(case, method):
    x, data, log_prior = case.arrays()
    (found,) = evaluate(case, [(x, case.sigma(), data, log_prior)], method, rows=1)
    _check(found, case.reference(x, case.sigma(), data, log_prior))


# ---- identities and limits
SHARED = [case for case in base_cases() if case.positions != "same" and case.boundary == "periodic"]


@pytest.mark.parametrize(("case", "method"), with_methods(SHARED))
def test_shifting_the_image_shifts_the_result(case, method):
    x, data, log_prior = case.arrays()
    rest = case.sigma(), data, log_prior
    (denoised, effective), shifted = evaluate(
        case, [(x, *rest), (np.roll(x, (2, -1), (0, 1)), *rest)], method
    )
    np.testing.assert_allclose(shifted[0], np.roll(denoised, (2, -1), (0, 1)), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(shifted[1], np.roll(effective, (2, -1), (0, 1)), rtol=1e-10)
    assert np.ptp(denoised) > 1e-2


@pytest.mark.parametrize("readout", ["centre", "average"])
def test_same_position_models_shift_only_together_with_their_images(readout):
    case = Case("images", "same", "periodic", readout)
    x, data, log_prior = case.arrays()
    rolled, sigma = np.roll(x, (2, -1), (0, 1)), case.sigma()
    still, moved, alone = evaluate(
        case,
        [
            (x, sigma, data, log_prior),
            (rolled, sigma, np.roll(data, (2, -1), (1, 2)), log_prior),
            (rolled, sigma, data, log_prior),
        ],
    )
    denoised = np.roll(still[0], (2, -1), (0, 1))
    np.testing.assert_allclose(moved[0], denoised, rtol=1e-11, atol=1e-13)
    assert np.max(np.abs(denoised - alone[0])) > 1e-2


@pytest.mark.parametrize(("case", "method"), with_methods(base_cases()))
def test_a_bank_closed_under_negation_gives_an_odd_denoiser(case, method):
    x, data, log_prior = case.arrays()
    rest = case.sigma(), np.concatenate([data[:2], -data[:2]]), np.tile(log_prior[:2], 2)
    plus, minus = evaluate(case, [(x, *rest), (-x, *rest)], method)
    np.testing.assert_allclose(minus[0], -plus[0], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(minus[1], plus[1], rtol=1e-10)
    assert np.max(np.abs(plus[0])) > 1e-2


@pytest.mark.parametrize("method", ["product", "convolution"])
@pytest.mark.parametrize(("size", "channels"), [(5, 1), (3, 3)])
def test_two_patterns_give_the_hyperbolic_tangent(size, channels, method):
    """D = tanh(P C mbar / sigma^2): norms are sums over pixels and channels, never means."""
    x = np.random.default_rng(3).normal(size=(6, 7, channels))
    half = (size - 1) // 2
    shifts = [(a, b) for a in range(-half, half + 1) for b in range(-half, half + 1)]
    total = sum(np.roll(x.sum(-1), shift, (0, 1)) for shift in shifts)
    bank, case = two_pattern_bank(size, channels=channels, dtype=np.float64), Case(*LEGAL[0], size)
    for sigma in (0.9, 4.0, 17.0):
        denoised, effective = evaluate_one(case, bank, x, sigma, method)
        expected = np.broadcast_to(np.tanh(total / sigma**2)[..., None], x.shape)
        np.testing.assert_allclose(denoised, expected, rtol=1e-11, atol=1e-13)
        odds = 2 * np.abs(total) / sigma**2
        more, less = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(odds))
        np.testing.assert_allclose(effective, np.exp(-more * np.log(more) - less * np.log(less)), rtol=1e-10)


@pytest.mark.parametrize("positions", ["all", "interior"])
def test_image_banks_equal_the_list_of_their_patches(positions):
    case = Case("images", positions, "periodic", "centre")
    x, data, log_prior = case.arrays()
    bank = case.bank(np.sign(data), log_prior)  # two levels: some patches occur more than once
    listed = extract_patches(bank)
    expected = patch_denoiser(listed)(x, 1.5)
    for method in available_methods(bank):
        found = evaluate(case, [(x, 1.5, np.sign(data), log_prior)], method)[0][0]
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("case", "method"), with_methods(base_cases()))
def test_much_noise_gives_the_prior_mean_and_all_prior_weight(case, method):
    x, data, log_prior = case.arrays()
    expected = reference.prior_mean(case.grid, data, log_prior, **case.oracle_options)
    found, uniform = evaluate(
        case, [(x, 1e6, data, log_prior), (x, 1e6, data, np.full(case.count, -np.log(case.count)))], method
    )
    np.testing.assert_allclose(found[0], expected, atol=1e-9)
    if case.kind == "patches" and case.readout == "centre":  # the same by hand
        weights = np.exp(log_prior) / np.exp(log_prior).sum()
        np.testing.assert_allclose(expected, np.full(x.shape, weights @ data[:, 1, 1, 0]), rtol=1e-12)
    counts = np.array([len(weights) for weights in case.reference(x, 1e6, data).weights.values()])
    np.testing.assert_allclose(np.ravel(uniform[1]), counts, rtol=1e-9)


@pytest.mark.parametrize(("case", "method"), with_methods(base_cases()))
def test_little_noise_memorises(case, method):
    """At sigma -> 0 a training image is its own posterior mean wherever its windows are in the bank."""
    _, data, log_prior = case.arrays()
    if case.kind == "patches":
        x = np.tile(data[1], (3, 2, 1))[
            : case.grid[0], : case.grid[1]
        ]  # one whole patch stands at the corner
        ((denoised, effective),) = evaluate(case, [(x, 1e-2, data, log_prior)], method)
        if case.readout == "centre":
            np.testing.assert_allclose(denoised[1, 1], data[1, 1, 1], rtol=1e-12)
        np.testing.assert_allclose(effective[1, 1], 1.0, rtol=1e-12)
        return
    ((denoised, effective),) = evaluate(case, [(data[1], 1e-2, data, log_prior)], method)
    inside = (slice(None), slice(None))
    if case.positions == "interior":
        margin = 1 if case.readout == "centre" else 2
        inside = (slice(margin, -margin), slice(margin, -margin))
    np.testing.assert_allclose(denoised[inside], data[1][inside], rtol=1e-12, atol=1e-13)
    if case.positions != "interior":
        # Logits reach 1e5 here; the two passes over the bank round them differently, by some 1e-11.
        np.testing.assert_allclose(effective, 1.0, rtol=1e-10)


@pytest.mark.parametrize(("case", "method"), with_methods(base_cases()))
def test_float32_survives_extreme_noise_levels(case, method):
    x, data, log_prior = case.arrays(dtype=np.float32)
    levels = (1.0, 1e-3), (1.0, 1e3), (1e3, 1e3)  # much noise makes a large image, too
    problems = [(np.float32(scale) * x, np.float32(sigma), data, log_prior) for scale, sigma in levels]
    every = evaluate(case, problems, method)
    for found, (scale, sigma) in zip(every, levels, strict=True):
        assert found[0].dtype == np.float32 and found[1].dtype == np.float32
        _check(found, case.reference(scale * x, sigma, data, log_prior), rtol=2e-4, atol=2e-4)


def test_float32_far_below_the_noise_of_any_ladder():
    """Half a unit in the last place of a score, 3e-5, is thousands of sigma squared: no weight may overflow for it."""
    images = np.random.default_rng(2).uniform(-1, 1, (6, 16, 16, 1)).astype(np.float32)
    for size, shrink in ((3, 1.0), (15, 1.0), (15, 0.9)):
        bank = ImageBank(images, size)
        for sigma in np.float32([1e-3, 3e-4, 1e-4]):
            x = np.float32(shrink) * images[0]
            found = evaluate_one(Case(*LEGAL[2], size), bank, x, sigma)
            np.testing.assert_allclose(found[0], images[0], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(found[1], 1.0, rtol=3e-5)


def test_noise_levels_below_any_ladder_give_the_nearest_patch():
    """Large windows in colour, images in 0..255: what one candidate says, to round-off."""
    rng = np.random.default_rng(0)
    for size, low, high, levels in ((11, -1, 1, (5e-4, 1e-6)), (7, 0, 255, (0.1, 1e-3))):
        patches = rng.uniform(low, high, (12, size, size, 3)).astype(np.float32)
        for sigma in np.float32(levels):
            x = patches[0] + sigma * rng.normal(size=patches[0].shape).astype(np.float32)
            options = {"size": size, "positions": None, "boundary": "periodic", "readout": "centre"}
            expected = reference.denoise(x, sigma, patches, **options).denoised
            for method in ("product", "convolution"):
                found = patch_denoiser(PatchBank(patches), method=method)(x, sigma)
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * (high - low))


def test_the_origin_of_images_does_not_matter():
    """Numbers near 128 resolve what numbers near zero do; these are exact in both."""
    rng = np.random.default_rng(3)
    images = np.round(rng.uniform(-1, 1, (4, 9, 8, 1)) * 1024).astype(np.float32) / 1024
    images[1] = images[0] + np.linspace(0, 8, 72).round().reshape(9, 8, 1).astype(np.float32) / 1024
    x = images[0] + np.round(rng.normal(0, 3, images[0].shape)).astype(np.float32) / 1024
    for sigma in np.float32([0.003, 0.3]):
        expected = reference.denoise(x, sigma, images, **Case(*LEGAL[2]).oracle_options).denoised
        for origin in np.float32([0, 128]):
            found = evaluate_one(Case(*LEGAL[2]), ImageBank(images + origin, 3), x + origin, sigma)[0]
            np.testing.assert_allclose(found - origin, expected, rtol=0, atol=2e-5 if origin else 2e-6)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 255), (-1, 0.99), (100, 101), (-3, -2), (7, 7), (0, 0)]
)
def test_scores_count_from_near_the_middle_of_the_range(low, high):
    """However far from zero; exactly, so that taking the origin off and adding it again changes nothing."""
    values = np.random.default_rng(0).uniform(low, high, 50).astype(np.float32)
    values[:2] = low, high
    origin, largest = map(np.asarray, origin_of(jnp.asarray(values)))
    assert largest == np.max(np.abs(values - origin)) and largest <= 0.63 * np.ptp(values)
    if low > 50:  # else small values are rounded, like the inputs that they come with
        np.testing.assert_array_equal((values - origin) + origin, values)


@pytest.mark.parametrize("num_terms", [1, 9, 49, 675, 2025])
def test_the_rounding_of_accurate_scores_follows_its_law(num_terms):
    """Root mean square over pairs, half the squares of candidates included, against float64."""
    rng = np.random.default_rng(num_terms)
    x, bank = (rng.uniform(-1, 1, (n, num_terms)).astype(np.float32) for n in (400, 500))
    steps = (grid_step(jnp.float32(1), head_bits(num_terms, np.float32)),) * 2
    noise = Noise(jnp.float32(0.1), jnp.float32(10), steps)

    @jax.jit
    def scores(x, bank):
        parts = parts_of(noise, bank, 1)
        offsets = with_offsets(parts, energies(parts, (-1,)), -1)
        return multiply(lambda a, b: matmul(a, b.T), with_one(parts_of(noise, x, 0)), offsets)

    found = scores(x, bank)
    wide, other = x.astype(np.float64), bank.astype(np.float64)
    exact = wide @ other.T - 0.5 * np.sum(other**2, axis=-1)
    error = np.asarray(found.high, np.float64) + np.asarray(found.low, np.float64) - exact
    ratio = np.sqrt(np.mean(error**2)) / float(rounding(num_terms, steps, jnp.float32(1)))
    assert 0.4 < ratio < 1.6, ratio


def test_sampling_goes_down_to_little_noise():
    levels = critjax.geometric_sigmas(5.0, 3e-4, 30)
    denoise = patch_denoiser(two_pattern_bank(9))
    x = critjax.sample(denoise, jax.random.key(0), (12, 12, 1), levels).x[-1]
    denoised = np.asarray(denoise(x, np.float32(3e-4)))
    np.testing.assert_array_equal(np.abs(denoised), 1.0)  # domains of either pattern


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    case = Case(*LEGAL[2])
    x, data, log_prior = (np.asarray(a, jnp.dtype(dtype)) for a in case.arrays())
    found = patch_denoiser(case.bank(data, log_prior))(x, 0.7)
    assert found.dtype == jnp.dtype(dtype)
    expected = case.reference(x, 0.7, data, log_prior).denoised
    np.testing.assert_array_equal(found, expected.astype(np.float32).astype(found.dtype))


@pytest.mark.parametrize(("case", "method"), with_methods(base_cases()))
def test_float32_ties_at_little_noise_follow_the_prior(case, method):
    """Half-way between two candidates the prior alone decides, whatever the noise level."""
    _, data, log_prior = case.arrays(dtype=np.float32)
    data[1] = data[0] + np.float32(0.25) * data[1]  # two that are alike: no third one comes between
    x = (data[0] + data[1]) / 2
    pixel = (3, 2)
    if case.kind == "patches":
        x = np.tile(x, (3, 2, 1))[: case.grid[0], : case.grid[1]]
        pixel = (1, 1)
    sigma = np.float32(0.003)
    (found,) = evaluate(case, [(x, sigma, data, log_prior)], method)
    _check(found, case.reference(x, sigma, data, log_prior), rtol=1e-3, atol=1e-3)
    if case.readout == "centre":
        share = np.exp(log_prior[:2]) / np.exp(log_prior[:2]).sum()
        np.testing.assert_allclose(found[0][pixel], share @ data[:2][(slice(None), *pixel)], atol=1e-3)


def test_only_differences_of_the_log_prior_matter():
    for row in (LEGAL[0], LEGAL[2], LEGAL[7]):
        case = Case(*row)
        x, data, log_prior = case.arrays()
        (found,) = evaluate(case, [(x, 0.8, data, log_prior + 50.0)])
        _check(found, case.reference(x, 0.8, data, log_prior))


# ---- transformations of JAX
@pytest.mark.parametrize("row", [LEGAL[0], LEGAL[2]], ids=_row_id)
def test_vmap_over_images_alone_and_noise_levels_alone_equals_calls(row):
    """One bank, which is not copied; calls are those of users, one compiled program each."""
    case = Case(*row)
    x, data, log_prior = case.arrays()
    denoise = patch_denoiser(case.bank(data, log_prior), **case.model)
    images, levels = np.stack([x, -x]), (0.8, 2.0)
    for mapped, pairs in (
        (jax.vmap(denoise, (0, None))(images, 0.8), [(y, 0.8) for y in images]),
        (jax.vmap(denoise, (None, 0))(x, np.array(levels)), [(x, sigma) for sigma in levels]),
    ):
        for one, (y, sigma) in zip(mapped, pairs, strict=True):
            np.testing.assert_allclose(one, denoise(y, sigma), rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(one, case.reference(y, sigma, data, log_prior).denoised, **TIGHT)


@pytest.mark.parametrize("row", [LEGAL[0], LEGAL[2], LEGAL[4], LEGAL[10]], ids=_row_id)
def test_labels_restrict_the_bank_statically_and_under_vmap(row):
    case = Case(*row)
    x, data, log_prior = case.arrays()
    labels = np.array([1, 0, 1, 2])
    bank = case.bank(data, log_prior, labels)
    priors = np.asarray(jax.vmap(lambda label: select(bank, label).log_prior)(np.arange(3)))
    mapped = evaluate(case, [(x, 0.8, data, prior) for prior in priors])
    for label in range(3):
        kept = labels == label
        expected = case.reference(x, 0.8, data[kept], log_prior[kept])
        _check(mapped[label], expected)
        if label == 1:
            found = evaluate_one(case, select(bank, label), x, 0.8)
            _check(found, expected)


@pytest.mark.parametrize("row", [LEGAL[0], LEGAL[2]], ids=_row_id)
def test_one_compiled_function_serves_all_values(row):
    case = Case(*row)
    traces = []

    def denoise(bank, x, sigma):
        traces.append(1)
        return patch_denoiser(bank, **case.model)(x, sigma)

    fn = jax.jit(denoise)
    for seed in range(3):
        x, data, log_prior = case.arrays(seed)
        if seed == 1:
            log_prior[0] = -np.inf
        found = fn(case.bank(data, log_prior), x, 0.5 + seed)
        np.testing.assert_allclose(found, case.reference(x, 0.5 + seed, data, log_prior).denoised, **TIGHT)
    assert len(traces) == 1


# ---- float32 accuracy
RANGE = 2.0  # images live in [-1, 1]


def _cloth_images(count: int, side: int = 28) -> np.ndarray:
    images = np.asarray(embedded_fashion_mnist(count).images, np.float32)
    start = (28 - side) // 2
    return images[:, start : start + side, start : start + side]


def _check_float32(bank, x, sigma, patches, limit):
    truth = reference.denoise_large(x, np.float32(sigma), patches)
    for method in available_methods(bank):
        found = optimised_denoiser("periodic", "centre", method)(bank, x, np.float32(sigma))
        assert found.dtype == np.float32
        assert np.max(np.abs(found - truth)) < limit * RANGE, (method, sigma)


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize(
    ("size", "num_images", "levels"),
    [
        # The highest two levels lie just above where sums are compensated, of "product" and of "box".
        (7, 20, (0.02, 0.05, 0.35, 0.53)),
        pytest.param(15, 8, (0.02, 0.05, 0.12, 0.2, 0.28, 0.72, 1.13), marks=pytest.mark.slow),
        *[
            pytest.param(size, 20, (0.02, 0.05, *np.geomspace(0.06, 2.0, 22)), marks=pytest.mark.slow)
            for size in (3, 7, 9, 11, 15)
        ],
    ],
)
def test_float32_on_noised_pictures(size, num_images, levels):
    """A held-out picture lies between many patches, a picture of the bank on one of them."""
    images = _cloth_images(num_images + 1)
    bank = ImageBank(images[:-1], size)
    patches, _ = reference.image_patches(images[:-1], size, "all")
    rng = np.random.default_rng(size)
    for sigma in levels:
        clean = images[0] if sigma == 0.02 else images[-1]
        x = (clean + sigma * rng.normal(size=clean.shape)).astype(np.float32)
        _check_float32(bank, x, sigma, patches, 2e-5 if sigma >= 0.05 else 5e-5)


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize(
    "sigma", [0.02, 0.28, *[pytest.param(s, marks=pytest.mark.slow) for s in (0.05, 0.13)]]
)
def test_float32_list_of_patches_on_a_noised_picture(sigma):
    images = _cloth_images(5)
    patches, _ = reference.image_patches(images[:4], 15, "interior")
    x = images[4] + sigma * np.random.default_rng(4).normal(size=images[4].shape)
    _check_float32(PatchBank(patches), x.astype(np.float32), sigma, patches, 2e-5 if sigma >= 0.05 else 5e-5)


def _slow_unless_same(rows):
    return [
        pytest.param(
            row, c, 7, id=f"{_row_id(row)}-{c}", marks=() if (row[1], c) == ("same", 1) else pytest.mark.slow
        )
        for row in rows
        for c in (1, 3)
    ]


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize(
    ("row", "channels", "size"),
    [
        *_slow_unless_same(LEGAL[2:]),
        pytest.param(LEGAL[2], 3, 15, id=f"{_row_id(LEGAL[2])}-3-p15", marks=pytest.mark.slow),
    ],
)
def test_float32_of_every_image_bank_on_a_noised_picture(row, channels, size):
    """Little noise, and just above where sums are compensated, of "product" and of "box"."""
    count, side = 5, min(2 * size, 18)
    pictures = _cloth_images(channels * (count + 1), side).reshape(count + 1, channels, side, side)
    images = np.moveaxis(pictures, 1, -1)
    case = Case(*row, size, (side, side), channels, count)
    bank, rng = case.bank(images[:-1]), np.random.default_rng(size)
    half_range = np.ptp(images[:-1]) / 2
    factors = sorted(set(FACTORS.values()))
    above = [1.01 * np.sqrt(factor * size**2 * channels) * half_range for factor in factors]
    for sigma in np.float32([0.05, 0.15, *above]):
        x = (images[-1] + sigma * rng.normal(size=images[-1].shape)).astype(np.float32)
        truth = case.reference(x, sigma, images[:-1]).denoised
        assert np.std(truth) > 0.05
        for method in methods_of(case):
            found = optimised_denoiser(case.boundary, case.readout, method)(bank, x, sigma)
            assert found.dtype == np.float32
            assert np.max(np.abs(found - truth)) < 2e-5 * RANGE, (method, sigma)


def _halfway_windows(patches, num_pairs):
    """Windows half-way between two patches with different centres, where at least these two compete."""
    d = patches.shape[1] // 2
    flat = patches.reshape(len(patches), -1).astype(np.float64)
    squares, centres = np.sum(flat**2, axis=1), patches[:, d, d, 0]
    rng = np.random.default_rng(zlib.crc32(b"halfway"))
    found = []
    while len(found) < num_pairs:
        a, b = rng.integers(0, len(patches), 2)
        if len(found) % 2:  # every other pair is of neighbours, with few patches between them
            b = np.argmin(np.where(np.abs(centres - centres[a]) < 0.2, np.inf, squares - 2 * flat @ flat[a]))
        middle = ((patches[a] + patches[b]) / 2).astype(np.float32)
        logits = (flat @ middle.reshape(-1).astype(np.float64) - squares / 2) / 0.05**2
        weights = np.exp(logits - logits.max())
        compete = reference.perplexity(weights / weights.sum()) > 1.5
        if compete and abs(centres[a] - centres[b]) >= 0.2:
            found.append(middle)
    return np.stack(found)


@pytest.mark.slow
@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("kind", ["patches", "images"])
def test_float32_half_way_between_two_patches(kind):
    """The hardest place for float32: two far patches at equal distance."""
    size, side = 15, 16
    images = _cloth_images(3, side)
    patches, _ = reference.image_patches(images, size, "all")
    queries = _halfway_windows(patches, 150)
    bank = PatchBank(patches) if kind == "patches" else ImageBank(images, size)
    xs = np.zeros((len(queries), side, side, 1), np.float32)
    xs[:, :size, :size] = queries
    pixel = size // 2
    flat = patches.reshape(len(patches), -1).astype(np.float64)
    distances = np.array([np.sum((q.reshape(-1) - flat) ** 2, axis=1) for q in queries.astype(np.float64)])
    for sigma, limit in ((np.float32(0.05), 1e-4), (np.float32(0.02), 1e-3)):
        logits = -distances / (2 * np.float64(sigma) ** 2)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        truth = weights @ patches[:, pixel, pixel, 0] / weights.sum(axis=1)
        assert np.mean((weights / weights.sum(axis=1, keepdims=True)).max(axis=1) < 0.75) > 0.5
        for method in available_methods(bank):
            fn = optimised_denoiser("periodic", "centre", method)
            found = np.array([np.asarray(fn(bank, x, sigma))[pixel, pixel, 0] for x in xs])
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
    ("x", "sigma", "error", "pattern"),
    [
        (np.zeros((5, 5)), 1.0, ValueError, r"x: expected shape \(H, W, C\), got shape \(5, 5\); .*vmap"),
        (np.zeros((2, 5, 5, 1)), 1.0, ValueError, r"x: expected shape .*, got shape \(2, 5, 5, 1\); .*vmap"),
        (
            np.zeros((5, 5, 1), int),
            1.0,
            TypeError,
            r"x: expected a floating-point .*, got dtype int64; conv",
        ),
        (np.zeros((5, 5, 1), complex), 1.0, TypeError, r"x: expected a floating.*, got dtype complex128; "),
        (
            np.full((5, 5, 1), np.nan),
            1.0,
            ValueError,
            "x: expected finite values, got 25 non-finite of 25; ",
        ),
        (
            np.full((5, 5, 1), -np.inf),
            1.0,
            ValueError,
            "x: expected finite values, got 25 non-finite of 25; ",
        ),
        (np.zeros((5, 5, 1)), 0.0, ValueError, r"sigma: expected a standard deviation > 0, got 0\.0; "),
        (np.zeros((5, 5, 1)), -0.5, ValueError, r"sigma: expected a standard deviation > 0, got -0\.5; "),
        (np.zeros((5, 5, 1)), np.nan, ValueError, r"sigma: expected a standard deviation > 0, got nan; "),
        (np.zeros((5, 5, 1)), np.ones(2), ValueError, r"sigma: expected a scalar, got shape \(2,\); .*vmap"),
    ],
)
def test_what_a_denoiser_takes(x, sigma, error, pattern):
    for build in (patch_denoiser, effective_patches):
        for bank in (_bank("patches", 3, (5, 5, 1)), _bank("images", 3, (5, 5, 1), positions="same")):
            with pytest.raises(error, match=pattern):
                build(bank)(x, sigma)


def test_values_are_not_looked_at_while_tracing():
    denoise = patch_denoiser(_bank("patches", 3, (5, 5, 1)))
    assert np.all(np.isnan(jax.jit(denoise)(np.full((5, 5, 1), np.nan), 1.0)))


@pytest.mark.parametrize("axis", ["banks", None])
def test_a_mesh_has_the_axis(axis):
    mesh = jax.make_mesh((1,), ("bank",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=rf"axis: expected one of the mesh axes \('bank',\), got {axis!r}; "):
        patch_denoiser(_bank("patches", 3, (5, 5, 1)), mesh=mesh, axis=axis)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"boundary": "reflect"}, r"boundary: expected 'periodic' or 'zero', got 'reflect'"),
        ({"readout": "center"}, r"readout: expected 'centre' or 'average', got 'center'"),
        ({"method": "fft"}, r"method: expected .*, got 'fft'"),
        ({"memory_budget": 0}, r"memory_budget: expected .*, got 0"),
    ],
)
def test_unknown_options_raise(options, pattern):
    for build in (patch_denoiser, effective_patches):
        with pytest.raises(ValueError, match=pattern):
            build(_bank("patches", 3, (5, 5, 1)), **options)


def test_a_sigma_known_outside_a_loop_may_be_used_inside_it():
    """Under a trace even operations on known arrays are traced; the checks must not trip over that."""
    bank = two_pattern_bank(3)
    denoise, sigma = patch_denoiser(bank), jnp.asarray(2.0)
    x = np.linspace(-1, 1, 3 * 36).reshape(3, 6, 6, 1)
    np.testing.assert_allclose(
        jax.lax.map(lambda one: denoise(one, sigma), x)[1], denoise(x[1], sigma), rtol=1e-6
    )
