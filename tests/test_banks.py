"""Banks: what constructors refuse, how they move through JAX, presets against their analytic properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax._checks import check_window
from critjax.banks import (
    ImageBank,
    PatchBank,
    extract_patches,
    random_pattern_bank,
    select,
    stripe_bank,
    two_pattern_bank,
)


def rng_array(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@jax.jit
def log_evidence(bank, query):
    """ln sum_mu pi_mu exp(-|query - phi_mu|^2/2): enough of a model to send derivatives through a bank."""
    distance = jnp.sum((query - bank.patches) ** 2, axis=(1, 2, 3))
    return jax.nn.logsumexp(bank.log_prior - distance / 2)


# ---------------------------------------------------------------- constructors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_patch_bank_keeps_values_and_dtype_and_defaults_to_a_uniform_prior(dtype, size):
    patches = rng_array(0, 4, size, size, 3).astype(dtype)
    bank = PatchBank(patches, labels=np.array([0, 1, 1, 2]))
    np.testing.assert_array_equal(bank.patches, patches)
    np.testing.assert_allclose(np.exp(bank.log_prior), np.full(4, 0.25), rtol=1e-6)
    assert (bank.patches.dtype, bank.log_prior.dtype) == (dtype, dtype)
    assert (bank.size, bank.channels) == (size, 3)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_image_bank_accepts_every_window_that_fits(size):
    images = rng_array(1, 3, 4, 6, 2).astype(np.float32)
    bank = ImageBank(images, size, positions="interior", log_prior=np.log([0.5, 0.3, 0.2]))
    np.testing.assert_array_equal(bank.images, images)
    np.testing.assert_allclose(np.exp(bank.log_prior), [0.5, 0.3, 0.2], rtol=1e-6)
    assert (bank.size, bank.channels, bank.positions, bank.labels) == (size, 2, "interior", None)


def test_a_prior_may_exclude_candidates():
    bank = PatchBank(np.ones((3, 1, 1, 1)), log_prior=[0.0, -np.inf, 0.0])
    np.testing.assert_array_equal(bank.log_prior, [0.0, -np.inf, 0.0])


PATCHES, IMAGES = np.zeros((4, 3, 3, 1), np.float32), np.zeros((4, 5, 7, 1), np.float32)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: PatchBank(PATCHES[0]),
            ValueError,
            r"patches: expected shape \(M, p, p, C\), got shape \(3, 3, 1\)",
        ),
        (
            lambda: PatchBank(PATCHES[:, :2]),
            ValueError,
            r"expected square patches \(M, p, p, C\), got shape \(4, 2, 3,",
        ),
        (
            lambda: PatchBank(PATCHES[:0]),
            ValueError,
            r"patches: expected no empty axis, got shape \(0, 3, 3, 1\)",
        ),
        (
            lambda: PatchBank(PATCHES[..., :0]),
            ValueError,
            r"patches: expected no empty axis, got shape \(4, 3, 3, 0\)",
        ),
        (
            lambda: PatchBank(PATCHES.astype(np.uint8)),
            TypeError,
            "patches: expected a floating-point array, got dtype u",
        ),
        (
            lambda: PatchBank(PATCHES * 1j),
            TypeError,
            "patches: expected a floating-point array, got dtype complex",
        ),
        (
            lambda: PatchBank(PATCHES / np.float32(np.nan)),
            ValueError,
            "expected finite values, got 36 non-finite of 36",
        ),
        (
            lambda: PatchBank(PATCHES, np.zeros(3)),
            ValueError,
            r"log_prior: expected shape \(4,\), .* got shape \(3,\)",
        ),
        (
            lambda: PatchBank(PATCHES, [0, np.nan, 0, 0]),
            ValueError,
            "log_prior: expected numbers or -inf, not all -inf",
        ),
        (lambda: PatchBank(PATCHES, [0, np.inf, 0, 0]), ValueError, "log_prior: expected numbers or -inf"),
        (
            lambda: PatchBank(PATCHES, np.full(4, -np.inf)),
            ValueError,
            "log_prior: expected numbers or -inf, not all",
        ),
        (
            lambda: PatchBank(PATCHES, labels=[0, 1]),
            ValueError,
            r"labels: expected shape \(4,\), got shape \(2,\)",
        ),
        (
            lambda: PatchBank(PATCHES, labels=[0.0] * 4),
            TypeError,
            "labels: expected integers, got dtype float",
        ),
        (
            lambda: ImageBank(IMAGES[0], 3),
            ValueError,
            r"images: expected shape \(N, H, W, C\), got shape \(5, 7, 1\)",
        ),
        (
            lambda: ImageBank(IMAGES, 6),
            ValueError,
            "size: expected a window that fits the 5 x 7 images, got 6; use a",
        ),
        (lambda: ImageBank(IMAGES, 0), ValueError, "size: expected an integer window size >= 1, got 0"),
        (
            lambda: ImageBank(IMAGES, 3, positions="some"),
            ValueError,
            "positions: expected 'all' or 'interior' or 'same'",
        ),
        (lambda: ImageBank(IMAGES, 3, labels=[1]), ValueError, r"labels: expected shape \(4,\)"),
        (lambda: ImageBank(IMAGES, 3, log_prior=[0.0]), ValueError, r"log_prior: expected shape \(4,\)"),
        (lambda: check_window(2.5), ValueError, "size: expected an integer window size >= 1, got 2.5"),
        (lambda: check_window(True), ValueError, "size: expected an integer window size >= 1, got True"),
        (lambda: two_pattern_bank(-1), ValueError, "size: expected an integer window size >= 1, got -1"),
        (
            lambda: random_pattern_bank(jax.random.key(0), 3, -1),
            ValueError,
            "num_random: expected a number >= 0, got -1",
        ),
        (
            lambda: stripe_bank(5, 2),
            ValueError,
            "wavelength: expected a period > 2 pixels, got 2; shorter waves alias",
        ),
        (
            lambda: stripe_bank(5, 4, num_phases=1),
            ValueError,
            "num_phases: expected at least 2 phases, got 1",
        ),
        (lambda: stripe_bank(5, 4, orientations=()), ValueError, "orientations: expected at least one angle"),
    ],
)
def test_messages_of_the_constructors(make, error, text):
    with pytest.raises(error, match=text):
        make()


# ---------------------------------------------------------------- pytrees


def test_static_fields_travel_with_the_tree():
    bank = ImageBank(rng_array(2, 2, 5, 6, 1), 3, positions="same", labels=[4, 2])
    leaves, structure = jax.tree.flatten(bank)
    back = jax.tree.unflatten(structure, leaves)
    assert (back.size, back.positions) == (3, "same")
    np.testing.assert_array_equal(back.labels, [4, 2])
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(bank)]
    assert names == [".images", ".log_prior", ".labels"]
    other = jax.tree.structure(bank.replace(positions="all"))
    assert other != structure
    assert jax.tree.structure(bank.replace(images=bank.images + 1)) == structure
    doubled = jax.jit(lambda b: jax.tree.map(lambda leaf: 2 * leaf, b))(bank)
    np.testing.assert_allclose(doubled.images, 2 * np.asarray(bank.images))
    assert doubled.size == 3


def test_banks_cannot_be_changed_in_place():
    bank = two_pattern_bank(3)
    with pytest.raises(AttributeError, match=r"PatchBank is immutable; use bank\.replace\(patches=\.\.\.\)"):
        bank.patches = np.zeros((1, 3, 3, 1))
    with pytest.raises(
        TypeError, match=r"replace: expected fields of PatchBank, got \['patch'\]; check the names"
    ):
        bank.replace(patch=0)
    changed = bank.replace(log_prior=np.array([0.0, -1.0]))
    np.testing.assert_array_equal(changed.log_prior, [0.0, -1.0])
    assert changed.patches is bank.patches
    assert repr(bank.replace(patches=np.zeros((2, 3, 3, 1), np.float32), log_prior=None)) == (
        "PatchBank(patches=float32[2, 3, 3, 1], log_prior=None, labels=None)"
    )


def test_mapping_over_stacked_banks_is_a_loop():
    banks = [PatchBank(rng_array(s, 5, 3, 3, 2), log_prior=rng_array(s + 50, 5)) for s in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *banks)
    query = rng_array(9, 3, 3, 2)
    assert (stacked.size, stacked.channels) == (3, 2)  # counted from the end: stacks have one axis more
    mapped = jax.vmap(log_evidence, (0, None))(stacked, query)
    np.testing.assert_allclose(mapped, [log_evidence(bank, query) for bank in banks], rtol=1e-12)
    keys = jax.random.split(jax.random.key(1), 2)
    made = jax.vmap(lambda key: random_pattern_bank(key, 3, 2))(keys)
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(made.patches[i], random_pattern_bank(key, 3, 2).patches)
        np.testing.assert_allclose(np.exp(made.log_prior[i]), np.full(6, 1 / 6), rtol=1e-6)


def test_gradients_reach_patches_and_prior():
    """d ln Z/d ln pi_mu = w_mu and d ln Z/d phi_mu = w_mu (query - phi_mu)."""
    patches, prior, query = rng_array(10, 4, 2, 2, 1), np.array([0.4, 0.3, 0.2, 0.1]), rng_array(11, 2, 2, 1)
    bank = PatchBank(patches, np.log(prior))
    weights = prior * np.exp(-np.sum((query - patches) ** 2, axis=(1, 2, 3)) / 2)
    weights /= weights.sum()
    gradient = jax.jit(jax.grad(log_evidence))(bank, query)
    np.testing.assert_allclose(gradient.log_prior, weights, rtol=1e-12)
    np.testing.assert_allclose(gradient.patches, weights[:, None, None, None] * (query - patches), rtol=1e-11)
    # Building the bank inside the differentiated function, where values cannot be checked, is the same.
    inside = jax.grad(lambda p: log_evidence(PatchBank(p, np.log(prior), labels=[0, 0, 1, 1]), query))(
        patches
    )
    np.testing.assert_allclose(inside, gradient.patches, rtol=1e-12)


# ---------------------------------------------------------------- one class


def labelled_banks():
    labels, prior = np.array([3, 0, 3, 5, 0]), np.log([0.1, 0.2, 0.3, 0.15, 0.25])
    patches = PatchBank(rng_array(12, 5, 3, 3, 1), prior, labels)
    return patches, ImageBank(
        rng_array(13, 5, 4, 6, 1), 3, positions="interior", labels=labels, log_prior=prior
    )


def test_a_static_label_compresses():
    patches, images = labelled_banks()
    chosen = select(patches, 3)
    np.testing.assert_array_equal(chosen.patches, patches.patches[np.array([0, 2])])
    np.testing.assert_allclose(np.exp(chosen.log_prior), [0.1, 0.3], rtol=1e-12)
    np.testing.assert_array_equal(chosen.labels, [3, 3])
    chosen = select(images, np.int64(0))
    np.testing.assert_array_equal(chosen.images, images.images[np.array([1, 4])])
    assert (chosen.size, chosen.positions) == (3, "interior")


def test_a_traced_label_excludes_by_the_prior_and_means_the_same():
    bank, _ = labelled_banks()
    query = rng_array(14, 3, 3, 1)
    mapped = jax.jit(jax.vmap(lambda label: log_evidence(select(bank, label), query)))(np.array([0, 3, 5]))
    np.testing.assert_allclose(mapped, [log_evidence(select(bank, c), query) for c in (0, 3, 5)], rtol=1e-12)
    traced = jax.jit(lambda label: select(bank, label))(3)
    np.testing.assert_array_equal(traced.patches, bank.patches)
    np.testing.assert_allclose(np.exp(traced.log_prior), [0.1, 0, 0.3, 0, 0], rtol=1e-12)


def test_messages_of_select():
    bank, _ = labelled_banks()
    with pytest.raises(
        ValueError, match=r"label: expected one of \[0, 3, 5\], got 4; choose a class that occurs"
    ):
        select(bank, 4)
    for label in (3.0, "Bag", True, None, [3], np.array([3]), np.array(3.0)):
        with pytest.raises(
            TypeError, match="label: expected one integer, got .*; pass the index of the class"
        ):
            select(bank, label)
    with pytest.raises(
        ValueError, match="labels: expected a bank with labels, got a bank without; pass labels="
    ):
        select(two_pattern_bank(3), 0)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), bank)
    with pytest.raises(
        ValueError, match=r"labels: expected one bank, got a stack of shape \(2, 5\); map over"
    ):
        select(stacked, 3)


# ---------------------------------------------------------------- explicit patches of images


def loop_over_patches(images, size, positions, weights, labels):
    """Return {(bytes of the patch, label): [patch, weight]} by four nested loops."""
    found, (count, height, width, _) = {}, images.shape
    before = (size - 1) // 2
    for n in range(count):
        for i in range(height if positions == "all" else height - size + 1):
            for j in range(width if positions == "all" else width - size + 1):
                start = (i - before, j - before) if positions == "all" else (i, j)
                patch = np.array(
                    [
                        [images[n, (start[0] + a) % height, (start[1] + b) % width] for b in range(size)]
                        for a in range(size)
                    ]
                )
                entry = found.setdefault(
                    (patch.tobytes(), None if labels is None else int(labels[n])), [patch, 0.0]
                )
                entry[1] += weights[n]
    return found


@pytest.mark.parametrize("positions", ["all", "interior"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("labels", [None, np.array([7, 2, 7, 2])])
def test_extracted_patches_are_those_of_a_loop(positions, size, labels):
    rng = np.random.default_rng(15)
    images = rng.choice([-1.0, 0.5], (4, 4, 6, 3))
    images[..., 1:] = images[..., :1] * [-1, 1]  # few distinct colours, so that copies occur
    images[2] = images[0]  # every patch twice with the same label
    weights = np.array([0.1, 0.4, 0.3, 0.2])
    bank = ImageBank(images, size, positions=positions, labels=labels, log_prior=np.log(weights))
    expected = loop_over_patches(images, size, positions, weights, labels)
    got = extract_patches(bank)
    assert len(got.patches) == len(expected)
    total = sum(weight for _, weight in expected.values())
    for m, patch in enumerate(np.asarray(got.patches)):
        label = None if labels is None else int(got.labels[m])
        stored, weight = expected.pop((patch.tobytes(), label))
        np.testing.assert_array_equal(patch, stored)
        np.testing.assert_allclose(np.exp(got.log_prior[m]), weight / total, rtol=1e-10)
    assert not expected


def test_extraction_keeps_float32_merges_signed_zeros_and_carries_exclusions():
    images = np.array([0.0, -0.0, 1.0], np.float32).reshape(3, 1, 1, 1)
    bank = extract_patches(ImageBank(images, 1, log_prior=[0.0, 0.0, -np.inf]))
    assert bank.patches.dtype == np.float32
    order = np.argsort(np.ravel(bank.patches))
    np.testing.assert_array_equal(np.ravel(bank.patches)[order], [0.0, 1.0])
    np.testing.assert_array_equal(np.asarray(bank.log_prior)[order], [0.0, -np.inf])


def test_messages_of_extract_patches():
    bank = ImageBank(rng_array(16, 2, 4, 4, 1), 3, positions="same")
    with pytest.raises(ValueError, match="positions: expected 'all' or 'interior', got 'same'"):
        extract_patches(bank)
    with pytest.raises(
        ValueError, match="bank: expected concrete arrays, got a traced bank; call outside jit"
    ):
        jax.jit(extract_patches)(bank.replace(positions="all"))
    concrete = bank.replace(positions="all")
    with pytest.raises(ValueError, match="bank: expected concrete arrays, got a traced bank"):
        jax.jit(lambda prior: extract_patches(concrete.replace(log_prior=prior)))(bank.log_prior)


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize(
    "bank",
    [
        two_pattern_bank(4),
        two_pattern_bank(3, channels=2),
        random_pattern_bank(jax.random.key(2), 3, 4, channels=2),
        stripe_bank(5, 4.3, num_phases=6, orientations=(0.0, 30.0, 90.0)),
    ],
)
def test_presets_are_symmetric_under_negation(bank):
    rows = np.asarray(bank.patches).reshape(len(bank.patches), -1)
    gaps = np.abs(rows[:, None] + rows[None]).max(-1)  # the distance of phi_mu from -phi_nu
    assert gaps.min(1).max() < 1e-12
    assert np.ptp(bank.log_prior) == 0


def test_two_patterns_are_the_constants():
    bank = two_pattern_bank(3, channels=2, dtype=jnp.float32)
    expected = np.ones((2, 3, 3, 2)) * np.array([1, -1]).reshape(2, 1, 1, 1)
    np.testing.assert_array_equal(bank.patches, expected)
    assert bank.patches.dtype == bank.log_prior.dtype == jnp.float32


def test_random_patterns_are_fair_signs_with_the_constant_pair():
    bank = random_pattern_bank(jax.random.key(3), 5, 200, channels=2)
    patches = np.asarray(bank.patches)
    np.testing.assert_array_equal(np.abs(patches), 1.0)
    np.testing.assert_array_equal(patches[:2], np.asarray(two_pattern_bank(5, channels=2).patches))
    signs = patches[2:202].reshape(200, -1)
    np.testing.assert_array_equal(patches[202:].reshape(200, -1), -signs)
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)
    # No pixel repeats another: correlations between columns are those of 200 independent signs.
    correlation = signs.T @ signs / 200 - np.eye(50)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(200)
    assert abs(np.std(correlation[np.triu_indices(50, 1)]) * np.sqrt(200) - 1) < 4 / np.sqrt(2 * 1225)
    assert len(random_pattern_bank(jax.random.key(3), 5, 0).patches) == 2


@pytest.mark.parametrize(("size", "num_random"), [(3, 2), (7, 8)])
def test_mean_field_critical_noise_of_random_patterns(size, num_random):
    """sigma_c^2 = sum_r Cov(phi(0), phi(r)): its mean and its spread over draws, THEORY section 3."""
    draws, window, centre = 800, size**2, (size - 1) // 2
    keys = jax.random.split(jax.random.key(4), draws)
    patches = np.asarray(jax.vmap(lambda key: random_pattern_bank(key, size, num_random).patches)(keys))[
        ..., 0
    ]
    np.testing.assert_allclose(patches.mean(1), 0.0, atol=1e-12)
    values = np.mean(patches[:, :, centre, centre] * patches.sum((2, 3)), axis=1)
    mean = 1 + (window - 1) / (num_random + 1)
    spread = np.sqrt(num_random * (window - 1)) / (num_random + 1)
    assert abs(values.mean() - mean) < 4 * spread / np.sqrt(draws)
    # Nearly Gaussian sums: the standard error of a standard deviation is spread/sqrt(2 draws).
    assert abs(values.std(ddof=1) - spread) < 4 * spread / np.sqrt(2 * draws)


@pytest.mark.parametrize(("size", "wavelength"), [(9, 6.0), (8, 4.7), (5, 3)])
def test_stripes_have_one_wavelength_all_phases_and_equal_mean_norm(size, wavelength):
    phases, angles = 8, (0.0, 90.0, 30.0)
    patches = np.asarray(stripe_bank(size, wavelength, num_phases=phases, orientations=angles).patches)
    assert patches.shape == (24, size, size, 1)
    patches = patches.reshape(3, phases, size, size)
    np.testing.assert_allclose(patches.mean(1), 0.0, atol=1e-14)
    np.testing.assert_allclose(np.mean(np.sum(patches**2, axis=(2, 3)), axis=1), size**2 / 2, rtol=1e-12)
    for angle, group in zip(np.deg2rad(angles), patches, strict=True):
        # A plane wave is an eigenvector of the second difference along each axis.
        for axis, component in ((1, np.sin(angle)), (2, np.cos(angle))):
            neighbours = np.take(group, range(2, size), axis) + np.take(group, range(size - 2), axis)
            inner = np.take(group, range(1, size - 1), axis)
            factor = 2 * np.cos(2 * np.pi * component / wavelength)
            np.testing.assert_allclose(neighbours, factor * inner, atol=1e-12)
        # Covariance over phases: cos(k.(r - r'))/2, the whole content of a bank of all phases.
        rows, columns = np.mgrid[:size, :size]
        along = (rows * np.sin(angle) + columns * np.cos(angle)).ravel()
        flat = group.reshape(phases, -1)
        expected = np.cos(2 * np.pi * (along[:, None] - along) / wavelength) / 2
        np.testing.assert_allclose(flat.T @ flat / phases, expected, atol=1e-12)
    centred = np.cos(
        2 * np.pi * (np.arange(size) - (size - 1) / 2) / wavelength
    )  # phase zero: even about the middle
    np.testing.assert_allclose(patches[0, 0], np.broadcast_to(centred, (size, size)), atol=1e-12)
    assert stripe_bank(size, wavelength, dtype=jnp.float32).patches.dtype == jnp.float32
