"""Several window sizes at once, and denoisers that change with the noise, against brute force and one at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import critjax
from critjax.banks import ImageBank, PatchBank
from critjax.patch_score import LEGAL, effective_patches, patch_denoiser, patch_denoisers, scheduled_denoiser
from critjax.sampling import sample

#: (positions, boundary) by hand, so that it can disagree with the library.
VARIANTS = [
    ("all", "zero"),
    ("all", "periodic"),
    ("interior", "periodic"),
    ("same", "zero"),
    ("same", "periodic"),
]
SIZES = (5, 1, 7, 3)  # in no order; 7 is as large as the smaller side
variants = pytest.mark.parametrize(("positions", "boundary"), VARIANTS)


def problem(channels=1, count=5, grid=(9, 7), dtype=np.float64, seed=0):
    """Return images, noisy image and log prior, the third image being excluded."""
    rng = np.random.default_rng([seed, channels, count, *grid])
    images = rng.uniform(-1, 1, (count, *grid, channels)).astype(dtype)
    x = rng.normal(0, 0.8, (*grid, channels)).astype(dtype)
    log_prior = rng.normal(size=count).astype(dtype)
    log_prior[2] = -np.inf
    return images, x, log_prior


#: One program a set of functions and shapes: what critjax returns is an argument.
_call = jax.jit(lambda fn, x, sigma: fn(x, sigma))
_call_each = jax.jit(lambda fns, x, sigma: [fn(x, sigma) for fn in fns])


def nested(images, sizes, positions="all", boundary="zero", log_prior=None, **options):
    """Build denoisers of several sizes; the size of the bank itself is not used."""
    bank = ImageBank(images, 2, positions=positions, log_prior=log_prior)
    return patch_denoisers(bank, sizes, boundary=boundary, **options)


def compiled(sizes, positions, boundary, memory_budget=None):
    """Return ``(images, log_prior, x, sigma) -> (denoised, effective)``."""

    def both(images, log_prior, x, sigma):
        options = {"with_effective": True, "memory_budget": memory_budget}
        fn = nested(images, sizes, positions, boundary, log_prior, **options)
        return jax.tree.map(np.asarray, _call(fn, x, np.asarray(sigma, x.dtype)))

    return both


def partners(i, length, size, positions, boundary):
    """Rows of training pixels that row i meets."""
    reach = size // 2
    fitting = list(range(reach, length - reach))
    if positions == "same":
        return [i]
    if boundary == "zero":
        return fitting if i in fitting else [i]
    return fitting if positions == "interior" else list(range(length))


def brute_force(images, log_prior, x, sigma, size, positions, boundary):
    """Posterior mean and exp(entropy) at every pixel, pair by pair and pixel by pixel."""
    images, x = np.asarray(images, np.float64), np.asarray(x, np.float64)
    log_prior = np.zeros(len(images)) if log_prior is None else log_prior
    _, height, width, channels = images.shape
    reach = size // 2
    mode = "wrap" if boundary == "periodic" else "constant"
    x_padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode)
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode)
    mean, effective = np.zeros((height, width, channels)), np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            logits, values = [], []
            for r in partners(i, height, size, positions, boundary):
                for c in partners(j, width, size, positions, boundary):
                    window = x_padded[i : i + size, j : j + size] - padded[:, r : r + size, c : c + size]
                    logits.append(log_prior - np.sum(window**2, axis=(1, 2, 3)) / (2 * sigma**2))
                    values.append(images[:, r, c])
            logits, values = np.concatenate(logits), np.concatenate(values)
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            mean[i, j] = weights @ values
            positive = weights[weights > 0]
            effective[i, j] = np.exp(-positive @ np.log(positive))
    return mean, effective


# ---- values
def test_the_variants_are_all_legal_ones_that_read_the_centre():
    legal = {(p, b) for kind, p, b, readout in LEGAL if (kind, readout) == ("images", "centre")}
    assert legal == set(VARIANTS)
    assert critjax.patch_denoisers is patch_denoisers and critjax.scheduled_denoiser is scheduled_denoiser


@pytest.mark.parametrize("channels", [1, 3])
@variants
def test_agrees_with_brute_force(positions, boundary, channels):
    """H != W, sizes in no order, blocks that leave a rest, an excluded image, few and many that compete."""
    images, x, log_prior = problem(channels, grid=(9, 7) if channels == 1 else (7, 9))
    for sigma in (0.6, 2.5):
        found = compiled(SIZES, positions, boundary, 2)(images, log_prior, x, sigma)
        for number, size in enumerate(SIZES):
            mean, effective = brute_force(images, log_prior, x, sigma, size, positions, boundary)
            np.testing.assert_allclose(found[0][number], mean, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(found[1][number], effective, rtol=1e-9)


@variants
def test_agrees_with_one_denoiser_a_size(positions, boundary):
    images, x, log_prior = problem()
    found = compiled(SIZES, positions, boundary, 2)(images, log_prior, x, 0.9)
    banks = [ImageBank(images, size, positions=positions, log_prior=log_prior) for size in SIZES]
    fns = [build(bank, boundary=boundary) for build in (patch_denoiser, effective_patches) for bank in banks]
    expected = _call_each(fns, x, 0.9)
    np.testing.assert_allclose(found.denoised, np.stack(expected[:4]), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.effective, np.stack(expected[4:]), rtol=1e-9)


def test_defaults_are_those_of_one_denoiser():
    images, x, _ = problem()
    found = _call(patch_denoisers(ImageBank(images, 1), SIZES, memory_budget=2), x, 0.9)
    expected = compiled(SIZES, "all", "periodic", 2)(images, None, x, 0.9)
    np.testing.assert_allclose(found, expected.denoised, rtol=1e-12, atol=1e-14)


def test_identical_patches_count_each_time_that_they_occur():
    images, x, _ = problem(count=3)
    doubled = np.concatenate([images, images[:1], images[:1]])
    weighted = np.log([3.0, 1.0, 1.0])
    fn = compiled((3, 5), "all", "zero")
    found = fn(doubled, None, x, 0.8)
    np.testing.assert_allclose(found[0], fn(images, weighted, x, 0.8)[0], rtol=1e-11, atol=1e-13)
    mean, effective = brute_force(doubled, None, x, 0.8, 3, "all", "zero")
    np.testing.assert_allclose(found[0][0], mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found[1][0], effective, rtol=1e-9)


def test_a_result_depends_neither_on_the_other_sizes_nor_on_the_block():
    images, x, log_prior = problem()
    expected = compiled(SIZES, "all", "zero", 2)(images, log_prior, x, 0.7)
    alone = compiled((5,), "all", "zero", 1)(images, log_prior, x, 0.7)
    for one, both in zip(alone, expected, strict=True):
        np.testing.assert_allclose(one[0], both[0], rtol=1e-12, atol=1e-14)


def test_shifting_a_periodic_image_shifts_the_result():
    images, x, log_prior = problem()
    fn = compiled(SIZES, "all", "periodic", 2)
    expected = np.roll(fn(images, log_prior, x, 0.7)[0], (2, -1), (1, 2))
    found = fn(images, log_prior, np.roll(x, (2, -1), (0, 1)), 0.7)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def test_with_every_image_excluded_there_is_no_posterior():
    images, x, log_prior = problem()
    fn = nested(images, SIZES, log_prior=log_prior, with_effective=True, memory_budget=2)
    leaves, structure = jax.tree.flatten(fn)
    found = _call(jax.tree.unflatten(structure, [leaves[0], np.full_like(log_prior, -np.inf)]), x, 0.7)
    assert np.all(np.isnan(found[0])) and np.all(np.isnan(found[1]))


# ---- arithmetic
@pytest.mark.parametrize("sigma", [0.02, pytest.param(0.05, marks=pytest.mark.slow)])
def test_float32_is_accurate_at_little_noise(sigma):
    """A training image with noise: nearby candidates compete, and rounded large squares would not do."""
    images, _, _ = problem(count=6, grid=(10, 11))
    rng = np.random.default_rng(1)
    images[1:3] = images[0] + 2 * sigma * rng.normal(size=(2, 10, 11, 1))
    images = images.astype(np.float32)
    x = images[0] + np.float32(sigma) * rng.normal(size=(10, 11, 1)).astype(np.float32)
    fn = compiled((3, 5, 9), "all", "zero")
    single = fn(images, None, x, sigma)
    assert single[0].dtype == single[1].dtype == np.float32
    wide = fn(images.astype(np.float64), None, x.astype(np.float64), np.float32(sigma))
    assert np.max(np.mean(wide[1], axis=(1, 2))) > 1.1  # not one candidate alone
    np.testing.assert_allclose(single[0], wide[0], atol=1e-5)
    np.testing.assert_allclose(single[1], wide[1], rtol=1e-4)


@pytest.mark.parametrize(("positions", "boundary"), [("all", "zero"), ("interior", "periodic")])
def test_float32_survives_extreme_noise_levels(positions, boundary):
    images, x, log_prior = problem(dtype=np.float32)
    for scale, sigma in ((1.0, 1e-3), (1e3, 1e-3), (1.0, 1e3), (1e3, 1e3)):
        noisy = np.float32(scale) * x
        found = compiled(SIZES, positions, boundary, 2)(images, log_prior, noisy, np.float32(sigma))
        sigma = float(np.float32(sigma))
        for number, size in enumerate(SIZES):
            expected = brute_force(images, log_prior, noisy, sigma, size, positions, boundary)[0]
            if (scale, sigma > 1) == (1e3, False):  # squares of 1e6 a pixel cannot tell training images apart
                assert np.all(np.abs(found[0][number]) <= 1)
                continue
            np.testing.assert_allclose(found[0][number], expected, atol=2e-4)
            assert np.all(found[1][number] > 0.999)


# ---- transformations of JAX
@variants
def test_forward_derivatives_are_those_of_one_denoiser_a_size(positions, boundary):
    """In image and noise level; in the first variant at a point where all candidates are equally far."""
    images, x, log_prior = problem(grid=(6, 5))
    if (positions, boundary) == VARIANTS[0]:
        images, x = np.sign(images), 0 * x
    direction = np.random.default_rng(2).normal(size=x.shape)
    many = nested(images, (3, 5), positions, boundary, log_prior, memory_budget=2)
    options = {"positions": positions, "log_prior": log_prior}
    each = [patch_denoiser(ImageBank(images, size, **options), boundary=boundary) for size in (3, 5)]

    def along(fns, x, sigma):
        return [jax.jvp(fn, (x, sigma), (direction, jnp.full_like(sigma, 0.3)))[1] for fn in fns]

    found, *expected = jax.jit(along)([many, *each], x, 0.8)
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_forward_derivatives_along_many_directions_equal_the_loop():
    """Directions alone, directions and images, and the whole Jacobian."""
    images, x, _ = problem(grid=(6, 5))
    fn = nested(images, (3, 5))
    directions = np.random.default_rng(3).normal(size=(3, *x.shape))
    several = np.stack([x, -x, 0.5 * x])

    def along(direction, x):
        return jax.jvp(lambda y: fn(y, 0.8), (x,), (direction,))[1]

    @jax.jit
    def mapped(x, several, directions):
        many = jax.vmap(along, (0, None))(directions, x)
        return many, jax.vmap(along)(directions, several), jax.jacfwd(lambda y: fn(y, 0.8))(x)

    one = jax.jit(along)
    many, paired, jacobian = mapped(x, several, directions)
    np.testing.assert_allclose(many, [one(v, x) for v in directions], rtol=1e-12, atol=1e-14)
    expected = [one(v, y) for v, y in zip(directions, several, strict=True)]
    np.testing.assert_allclose(paired, expected, rtol=1e-12, atol=1e-14)
    product = np.tensordot(jacobian, directions[0], 3)
    np.testing.assert_allclose(product, one(directions[0], x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sizes", [(1,), (5,), (1, 5)])
def test_windows_of_one_pixel_and_of_the_whole_image_alone(sizes):
    """Then there is no border, or hardly an interior."""
    images, x, _ = problem(grid=(5, 5))
    each = [patch_denoiser(ImageBank(images, size), boundary="zero") for size in sizes]
    found, *expected = _call_each([nested(images, sizes), *each], x, 0.7)
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-10, atol=1e-12)


def test_vmap_equals_loop():
    images, x, _ = problem()
    many, sigmas = np.stack([x, 2 * x, -x]), np.array([0.5, 0.9, 2.0])
    fn = nested(images, (3, 7))
    shared, both = jax.vmap(fn, (0, None))(many, sigmas[0]), jax.vmap(fn)(many, sigmas)
    for number in range(3):
        np.testing.assert_allclose(shared[number], fn(many[number], sigmas[0]), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(both[number], fn(many[number], sigmas[number]), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images():
    def needed(count):
        images = jax.ShapeDtypeStruct((count, 12, 11, 1), np.float32)
        x = jax.ShapeDtypeStruct((12, 11, 1), np.float32)

        def fn(images, x, sigma):
            return nested(images, (3, 7), memory_budget=200_000)(x, sigma)

        program = jax.jit(fn).lower(images, x, jax.ShapeDtypeStruct((), np.float32)).compile()
        return program.memory_analysis().temp_size_in_bytes

    few, many = needed(64), needed(1024)
    assert many < 1.05 * few
    assert many < 1024 * 12 * 11 * 4


# ---- errors
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"sizes": (3, 4)}, ValueError, r"sizes: expected odd windows.*, got \[4\]; use odd"),
        ({"sizes": (3, 5, 3)}, ValueError, r"sizes: expected different .*, got \(3, 5, 3\); list each"),
        ({"sizes": ()}, ValueError, r"sizes: expected at least one .*, got none; pass"),
        ({"sizes": (3, 9)}, ValueError, r"sizes: expected windows that fit the 9 x 7 images, got 9; use"),
        ({"sizes": (0,)}, ValueError, r"size: expected an integer window size >= 1, got 0; "),
        ({"sizes": (3.0,)}, ValueError, r"size: expected an integer window size >= 1, got 3.0; "),
        (
            {"bank": PatchBank(np.zeros((2, 3, 3, 1)))},
            TypeError,
            r"bank: expected an ImageBank, got PatchBank; ",
        ),
        ({"boundary": "none"}, ValueError, r"boundary: expected 'periodic' or 'zero', got 'none'; choose"),
        (
            {"positions": "interior"},
            ValueError,
            r"boundary: expected 'periodic' with positions='interior', .*; ",
        ),
        ({"memory_budget": 0}, ValueError, r"memory_budget: expected an integer >= 1, got 0; "),
        ({"memory_budget": True}, ValueError, r"memory_budget: expected an integer >= 1, got True; "),
    ],
)
def test_what_is_wrong_when_it_is_built(change, error, text):
    options = {"sizes": (3, 5), "boundary": "zero", **change}
    bank = ImageBank(problem()[0], 3, positions=options.pop("positions", "all"))
    with pytest.raises(error, match=text):
        patch_denoisers(options.pop("bank", bank), options.pop("sizes"), **options)


def test_what_is_wrong_when_it_is_called():
    images, x, _ = problem()
    fn = nested(images, (3,))
    with pytest.raises(ValueError, match=r"x: expected height and width \(9, 7\) of the .*, got .*; resize"):
        fn(x[:-1], 1.0)
    with pytest.raises(ValueError, match=r"x: expected shape \(H, W, C\), got .*; add"):
        fn(x[..., 0], 1.0)
    with pytest.raises(TypeError, match=r"x: expected a floating-point array, got dtype int.*; convert"):
        fn(x.astype(int), 1.0)
    with pytest.raises(ValueError, match=r"x: expected finite values, got 63 non-finite of 63; "):
        fn(x * np.nan, 1.0)
    with pytest.raises(ValueError, match=r"sigma: expected a standard deviation > 0, got 0.0; "):
        fn(x, 0.0)
    with pytest.raises(ValueError, match=r"sigma: expected a scalar, got shape \(2,\); batch"):
        fn(x, np.ones(2))


# ---- denoisers that change with the noise
EDGES = (2.0, 0.5)


@functools.cache
def _ladder():
    """Three patch denoisers of falling size, for high, middle and low noise."""
    rng = np.random.default_rng(4)
    return [patch_denoiser(PatchBank(rng.uniform(-1, 1, (6, size, size, 1)))) for size in (7, 5, 3)]


def test_the_denoiser_in_charge_follows_the_noise():
    x = problem()[1]
    fns = _ladder()
    fn = scheduled_denoiser(fns, EDGES)
    below = [float(np.nextafter(edge, 0)) for edge in EDGES]
    for sigma, number in ((9.0, 0), (2.0, 0), (below[0], 1), (1.0, 1), (0.5, 1), (below[1], 2), (0.1, 2)):
        np.testing.assert_allclose(fn(x, sigma), fns[number](x, sigma), rtol=1e-9, atol=1e-11)
    found = np.stack([one(x, 1.0) for one in fns])
    assert np.ptp(found, axis=0).max() > 1e-2


def test_edges_hold_in_the_precision_of_sigma():
    fn = scheduled_denoiser([lambda x, s: 0 * x, lambda x, s: 0 * x + 1], [0.1])
    x = np.zeros((1, 1, 1), np.float32)
    assert fn(x, np.float32(0.1)).item() == 0 and fn(x, 0.1).item() == 0
    assert fn(x, np.nextafter(np.float32(0.1), np.float32(0))).item() == 1


def test_one_denoiser_needs_no_edge():
    assert scheduled_denoiser([lambda x, s: s * x], ())(np.ones((1, 1, 1)), 3.0).item() == 3.0


def test_a_schedule_samples_as_its_parts_do_in_turn():
    """Euler evaluates once a level: the path is that of each denoiser over its own levels."""
    fns = _ladder()
    sigmas = np.geomspace(4.0, 0.25, 9)
    options = {"solver": "euler", "eta": 0.0}
    key = jax.random.key(0)
    path = jax.tree.map(np.asarray, sample(scheduled_denoiser(fns, EDGES), key, (9, 7, 1), sigmas, **options))
    x, levels = path.x[0], sigmas
    for number, sigma in enumerate(levels):
        chosen = fns[int(np.sum(sigma < np.asarray(EDGES)))]
        denoised = np.asarray(chosen(x, sigma))
        np.testing.assert_allclose(path.denoised[number], denoised, rtol=1e-8, atol=1e-10)
        if number + 1 < len(levels):
            x = x + (1 - levels[number + 1] / sigma) * (denoised - x)
            np.testing.assert_allclose(path.x[number + 1], x, rtol=1e-8, atol=1e-10)


def test_derivatives_are_those_of_the_denoiser_in_charge():
    x = problem()[1]
    direction = np.random.default_rng(3).normal(size=x.shape)
    fns = [scheduled_denoiser(_ladder(), EDGES), *_ladder()]

    def derivatives(fn, x, sigma):
        pushed = jax.jvp(lambda y: fn(y, sigma), (x,), (direction,))[1]
        return pushed, jax.grad(lambda y: jnp.sum(direction * fn(y, sigma)))(x)

    every = jax.jit(lambda x, sigma: [derivatives(fn, x, sigma) for fn in fns])
    for sigma, number in ((3.0, 0), (0.7, 1)):
        found = every(x, sigma)
        for one, expected in zip(found[0], found[1 + number], strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-9, atol=1e-11)


def test_images_that_share_a_noise_level_evaluate_one_denoiser():
    called = []

    def counted(name):
        def fn(x, sigma):
            jax.debug.callback(lambda: called.append(name))
            return sigma * x

        return fn

    fn = scheduled_denoiser([counted("high"), counted("low")], [1.0])
    many = np.ones((4, 2, 2, 1))
    run = jax.jit(jax.vmap(fn, (0, None)))
    for sigma, name in ((2.0, "high"), (0.3, "low")):
        called.clear()
        np.testing.assert_allclose(run(many, sigma), sigma * many)
        jax.effects_barrier()
        assert set(called) == {name}


@pytest.mark.parametrize(
    ("fns", "edges", "error", "text"),
    [
        (
            2,
            [0.5, 0.1],
            ValueError,
            r"sigma_edges: expected shape \(1,\), one fewer .*, got shape \(2,\); pass",
        ),
        (3, [0.5], ValueError, r"sigma_edges: expected shape \(2,\), one fewer .*, got shape \(1,\); pass"),
        (3, [0.1, 0.5], ValueError, r"sigma_edges: expected positive, strictly decreasing .*, got .*; sort"),
        (3, [0.5, 0.5], ValueError, r"sigma_edges: expected positive, strictly decreasing .*, got .*; sort"),
        (3, [0.5, 0.0], ValueError, r"sigma_edges: expected positive, strictly decreasing .*, got .*; sort"),
        (0, [], ValueError, r"denoise_fns: expected at least one denoiser, got none; pass"),
        ([3.0], [], TypeError, r"denoise_fns\[0\]: expected a function .*, got float; pass"),
    ],
)
def test_what_is_wrong_with_a_schedule(fns, edges, error, text):
    fns = [lambda x, sigma: x] * fns if isinstance(fns, int) else fns
    with pytest.raises(error, match=text):
        scheduled_denoiser(fns, edges)
