"""Kernels and symbols of banks against brute force, dense Jacobians and closed forms."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import image_patches

from critjax.banks import (
    ImageBank,
    PatchBank,
    random_pattern_bank,
    select,
    stripe_bank,
    two_pattern_bank,
)
from critjax.fourier import wavevectors
from critjax.spectra import (
    mean_field_critical_sigma,
    nonreciprocal_fraction,
    response_kernel,
    symbol,
    uniform_symbol,
)

SIGMA = 0.8


def random_patches(seed, count=9, size=3, channels=1):
    rng = np.random.default_rng(seed)
    patches = rng.uniform(-1, 1, (count, size, size, channels))
    patches[:, size // 2 :, :, 0] *= 0.5  # no symmetry under reflection, so that a wrong Fourier sign shows
    return patches, np.log(rng.uniform(0.2, 1, count))


def numpy_weights(patches, log_prior, state, sigma):
    exponent = log_prior - ((patches - state) ** 2).sum((1, 2, 3)) / (2 * sigma**2)
    weights = np.exp(exponent - exponent.max())
    return weights / weights.sum()


def numpy_kernel(patches, log_prior, state, sigma, readout="centre"):
    """Covariances written out entry by entry, in float64."""
    patches, weights = np.asarray(patches, np.float64), numpy_weights(patches, log_prior, state, sigma)
    size, channels = patches.shape[1], patches.shape[3]
    deviation = patches - np.tensordot(weights, patches, 1)
    if readout == "centre":
        middle = deviation[:, (size - 1) // 2, (size - 1) // 2]
        return np.einsum("m,ma,mrsb->rsab", weights, middle, deviation) / sigma**2
    kernel = np.zeros((2 * size - 1, 2 * size - 1, channels, channels))
    for a, b, c, d in itertools.product(range(size), repeat=4):
        pair = np.einsum("m,mx,my->xy", weights, deviation[:, a, b], deviation[:, c, d])
        kernel[c - a + size - 1, d - b + size - 1] += pair / (sigma**2 * size**2)
    return kernel


def brute_denoiser(patches, log_prior, readout):
    """A patch denoiser in numpy, analytic in x, for batches: it gathers every window by index."""
    size = patches.shape[1]
    offsets = np.arange(size) - (size - 1) // 2

    def denoise(x, sigma):
        height, width, _ = x.shape[1:]
        rows = (np.arange(height)[:, None] + offsets) % height
        columns = (np.arange(width)[:, None] + offsets) % width
        windows = x[:, rows[:, None, :, None], columns[None, :, None, :]]  # (B, H, W, p, p, C)
        distance = ((windows[:, :, :, None] - patches) ** 2).sum((-1, -2, -3))
        exponent = log_prior - distance / (2 * sigma**2)
        weights = np.exp(exponent - exponent.real.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        posterior = np.einsum("bhwm,mrsc->bhwrsc", weights, patches)
        if readout == "centre":
            return posterior[:, :, :, (size - 1) // 2, (size - 1) // 2]
        total = np.zeros_like(x)
        for a, b in itertools.product(range(size), repeat=2):
            total += np.roll(posterior[:, :, :, a, b], (offsets[a], offsets[b]), (1, 2))
        return total / size**2

    return denoise


def dense_jacobian(denoise, x, sigma):
    """dD_ia/dx_jb, (H, W, C, H, W, C), exactly: by imaginary steps, which cancel nothing."""
    steps = 1e-30j * np.eye(x.size).reshape(-1, *x.shape)
    columns = denoise(x + steps, sigma).imag / 1e-30
    return np.moveaxis(columns, 0, -1).reshape(*x.shape, *x.shape)


@pytest.mark.parametrize(
    ("grid", "size", "channels", "readout"),
    [
        ((5, 8), 3, 1, "centre"),
        ((6, 7), 3, 3, "centre"),
        ((4, 7), 5, 1, "centre"),  # the window is larger than the grid: offsets alias
        ((6, 5), 3, 3, "average"),
        ((5, 7), 2, 1, "average"),
    ],
)
def test_plane_waves_are_eigenvectors_of_the_dense_jacobian(grid, size, channels, readout):
    """J (a e_k) = (Dhat(k) a) e_k for every wavevector of the grid, with J from a brute-force denoiser in numpy."""
    patches, log_prior = random_patches(1, size=size, channels=channels)
    state = np.linspace(-0.3, 0.2, channels)
    x = np.broadcast_to(state, (*grid, channels))
    jacobian = dense_jacobian(brute_denoiser(patches, log_prior, readout), x, SIGMA)
    table = np.asarray(symbol(PatchBank(patches, log_prior), SIGMA, grid, state=state, readout=readout))
    rows, columns = np.indices(grid)
    for n_y, n_x in np.ndindex(*grid):
        wave = np.exp(2j * np.pi * (n_y * rows / grid[0] + n_x * columns / grid[1]))
        response = np.einsum("ijaklb,kl->ijab", jacobian, wave)
        expected = wave[..., None, None] * table[n_y, n_x]
        np.testing.assert_allclose(response, expected, atol=1e-12)


def test_symbol_at_zero_state_is_the_default():
    patches, log_prior = random_patches(2)
    bank = PatchBank(patches, log_prior)
    expected = numpy_kernel(patches, log_prior, 0.0, SIGMA)
    np.testing.assert_allclose(response_kernel(bank, SIGMA), expected, atol=1e-13)


@pytest.mark.parametrize(
    ("channels", "positions", "size", "readout"),
    [
        (1, "all", 5, "centre"),
        (3, "all", 3, "centre"),
        (2, "interior", 3, "centre"),
        (1, "all", 4, "average"),
        (2, "interior", 3, "average"),
    ],
)
def test_image_bank_equals_its_extracted_patches(channels, positions, size, readout):
    """Images whose patches are never formed, in any blocks, give the covariances of the explicit patches."""
    rng = np.random.default_rng(3)
    images = rng.uniform(-1, 1, (5, 9, 7, channels))
    log_prior = np.log([0.1, 0.4, 0.7, 1.0, 0.3])
    log_prior[3] = -np.inf
    state = rng.uniform(-0.3, 0.3, channels)
    bank = ImageBank(images, size, positions=positions, log_prior=log_prior)
    patches, owner = image_patches(images, size, positions)
    explicit = PatchBank(patches, log_prior[owner])
    expected = numpy_kernel(patches, log_prior[owner], state, SIGMA, readout=readout)
    for source, block_size in ((bank, 2), (explicit, 50)):
        kernel = response_kernel(source, SIGMA, state=state, readout=readout, block_size=block_size)
        np.testing.assert_allclose(kernel, expected, atol=1e-12)
    for source in (bank, explicit):
        total = uniform_symbol(source, SIGMA, state=state, readout=readout)
        np.testing.assert_allclose(total, expected.sum((0, 1)), atol=1e-12)


def test_excluded_candidates_and_classes_do_not_count():
    patches, log_prior = random_patches(4, count=8)
    labels = np.arange(8) % 2
    bank = PatchBank(patches, log_prior, labels)
    kept = labels == 1
    expected = numpy_kernel(patches[kept], log_prior[kept], 0.0, SIGMA)
    traced = jax.jit(lambda label: response_kernel(select(bank, label), SIGMA, block_size=3))
    np.testing.assert_allclose(traced(1), expected, atol=1e-13)
    np.testing.assert_allclose(response_kernel(select(bank, 1), SIGMA), expected, atol=1e-13)
    # A gradient through excluded candidates is zero, not NaN.
    gradient = jax.grad(
        lambda p: jnp.sum(response_kernel(select(bank, jnp.int32(1)).replace(patches=p), SIGMA))
    )
    gradient = np.asarray(jax.jit(gradient)(bank.patches))
    assert not np.any(gradient[~kept]) and np.all(np.isfinite(gradient)) and np.any(gradient[kept])
    assert np.all(np.isnan(traced(7)))


def test_all_noise_levels_share_one_pass():
    """Under vmap over (sigma, state) no image-sized operation is repeated for the noise levels."""
    rng = np.random.default_rng(5)
    bank = ImageBank(rng.uniform(-1, 1, (6, 8, 8, 1)), 3)
    sigmas, states = np.array([2.0, 1.0, 0.5]), np.array([[0.0], [0.1], [-0.2]])

    def batched(sigmas, states):
        return jax.vmap(lambda s, m: response_kernel(bank, s, state=m, block_size=2))(sigmas, states)

    batched = jax.jit(batched)
    for g, s, m in zip(np.asarray(batched(sigmas, states)), sigmas, states, strict=True):
        np.testing.assert_allclose(g, response_kernel(bank, s, state=m), atol=1e-13)
    hlo = batched.lower(sigmas, states).as_text()
    padded = [line for line in hlo.splitlines() if "stablehlo.convolution" in line]
    assert len(padded) == 1 and "tensor<1x10x10x2xf64>" in padded[0]  # the images enter without a noise axis


def test_stacked_banks_map():
    rng = np.random.default_rng(6)
    stack = rng.uniform(-1, 1, (2, 5, 6, 7, 2))
    bank = ImageBank(stack[0], 3)
    mapped = jax.vmap(lambda images: response_kernel(bank.replace(images=images), SIGMA, block_size=2))
    for g, images in zip(np.asarray(jax.jit(mapped)(stack)), stack, strict=True):
        np.testing.assert_allclose(g, response_kernel(ImageBank(images, 3), SIGMA), atol=1e-13)


@pytest.mark.parametrize("readout", ["centre", "average"])
def test_gradients_match_finite_differences(readout):
    rng = np.random.default_rng(7)
    bank = ImageBank(rng.uniform(-1, 1, (4, 6, 5, 1)), 3)

    def value(images, log_prior, sigma, state):
        changed = bank.replace(images=images, log_prior=log_prior)
        return jnp.sum(response_kernel(changed, sigma, state=state, readout=readout, block_size=3) ** 2)

    point = (np.asarray(bank.images), np.asarray(bank.log_prior), np.float64(0.7), np.array([0.1]))
    tangent = tuple(np.asarray(rng.normal(size=a.shape)) for a in point)

    @jax.jit
    def everything(point):
        gradient = jax.grad(value, argnums=(0, 1, 2, 3))(*point)
        return (*jax.jvp(value, point, tangent), gradient)

    _, forward, gradient = everything(point)
    analytic = sum(np.vdot(g, t) for g, t in zip(gradient, tangent, strict=True))
    step = 1e-5
    moved = [
        everything(tuple(p + s * step * t for p, t in zip(point, tangent, strict=True)))[0] for s in (1, -1)
    ]
    np.testing.assert_allclose([analytic, forward], (moved[0] - moved[1]) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("sigma", [3.0, 0.3, 0.05])
def test_float32_is_accurate_also_far_from_the_state(sigma):
    """Nearly flat patches beside the state and one that dominates far from it: no cancellation in either."""
    rng = np.random.default_rng(8)
    flat = 0.9 + 0.01 * rng.normal(size=(200, 1, 1, 1)) + 0.002 * rng.normal(size=(200, 3, 3, 1))
    patches = np.concatenate([flat, rng.uniform(-1, 1, (800, 3, 3, 1))]).astype(np.float32)
    log_prior = np.full(1000, -np.log(1000), np.float32)
    for state in (0.9, 0.0):
        exact = (
            patches.astype(np.float64),
            np.float64(log_prior),
            np.float32(state),
            np.float64(np.float32(sigma)),
        )
        expected = numpy_kernel(*exact)
        bank = PatchBank(patches, log_prior)
        kernel = response_kernel(
            bank, np.asarray(sigma, np.float32), state=np.full(1, state, np.float32), block_size=64
        )
        assert kernel.dtype == jnp.float32
        np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-7 + 2e-5 * np.abs(expected).max())


def test_dtypes_are_preserved():
    bank = ImageBank(np.ones((2, 5, 5, 1), np.float32), 3)
    assert symbol(bank, 1.0, (6, 6)).dtype == jnp.complex64
    assert response_kernel(bank, np.float64(1.0), state=np.zeros(1)).dtype == jnp.float32
    half = PatchBank(np.asarray(two_pattern_bank(3).patches, np.float16))
    kernel = response_kernel(half, 3.0)
    assert kernel.dtype == jnp.float32
    np.testing.assert_allclose(kernel, 1 / 9, rtol=1e-6)


# Closed forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 9])
def test_two_patterns(size):
    """D = tanh(P mbar / sigma^2): Dhat(k) = (1/sigma^2) sum_{r in window} e^{ik.r}."""
    grid, sigma = (10, 13), 2.3
    k = np.asarray(wavevectors(grid))
    offsets = np.arange(size) - (size - 1) // 2
    box = np.cos(k[..., :1] * offsets).sum(-1) * np.cos(k[..., 1:] * offsets).sum(-1)
    table = symbol(two_pattern_bank(size), sigma, grid)
    np.testing.assert_allclose(table[..., 0, 0], box / sigma**2, atol=1e-12)
    expected = np.sqrt(np.maximum(box, 0))
    np.testing.assert_allclose(mean_field_critical_sigma(two_pattern_bank(size), grid), expected, atol=1e-7)


def test_random_patterns_on_average():
    """Mean and spread over draws of the uniform mode's critical sigma^2: 1 + (P-1)/(M+1), sqrt(M(P-1))/(M+1)."""
    num, size, draws = 8, 15, 600
    keys = jax.random.split(jax.random.key(0), draws)

    @jax.jit
    @jax.vmap
    def draw(key):
        bank = random_pattern_bank(key, size, num)
        return 4.0 * response_kernel(bank, 2.0), bank.patches

    kernels, banks = map(np.asarray, draw(keys))
    variance = kernels.sum((1, 2, 3, 4))
    spread = np.sqrt(num * (size**2 - 1)) / (num + 1)
    assert abs(variance.mean() - (1 + (size**2 - 1) / (num + 1))) < 4 * spread / np.sqrt(draws)
    assert abs(variance.std() / spread - 1) < 4 / np.sqrt(2 * draws)
    # One draw against its own covariances.
    patches = banks[0, ..., 0]
    own = (patches[:, 7, 7, None, None] * patches).mean(0)
    np.testing.assert_allclose(kernels[0, ..., 0, 0], own, atol=1e-12)


def test_equal_norms_make_the_mean_field_formula_exact():
    patterns = np.random.default_rng(1).choice([-1.0, 1.0], (3, 5, 5, 2))
    bank, grid = PatchBank(np.concatenate([patterns, -patterns])), (8, 9)
    levels = np.asarray(mean_field_critical_sigma(bank, grid))
    peak = np.unravel_index(levels.argmax(), grid)
    eigenvalues = np.linalg.eigvals(np.asarray(symbol(bank, levels.max(), grid))[peak])
    np.testing.assert_allclose(eigenvalues.real.max(), 1, atol=1e-12)


def test_gradient_of_the_mean_field_formula_passes_over_modes_that_are_never_critical():
    bank, grid = PatchBank(*random_patches(4)), (6, 7)
    direction = np.random.default_rng(14).normal(size=bank.patches.shape)

    def levels(patches):
        return mean_field_critical_sigma(bank.replace(patches=patches), grid)

    patches, step = np.asarray(bank.patches), 1e-5
    found = np.asarray(levels(patches))
    assert np.any(found == 0) and np.any(found > 0)
    gradient = np.asarray(jax.jit(jax.grad(lambda patches: jnp.sum(levels(patches))))(patches))
    ahead, back = (np.sum(levels(patches + s * step * direction)) for s in (1, -1))
    np.testing.assert_allclose(np.sum(gradient * direction), (ahead - back) / (2 * step), rtol=1e-7)


# Reciprocity ---------------------------------------------------------------------------------------------------


def test_average_readout_is_reciprocal_and_centre_readout_is_not():
    patches, log_prior = random_patches(9, channels=2)
    bank = PatchBank(patches, log_prior)
    average = np.asarray(symbol(bank, SIGMA, (7, 6), readout="average"))
    np.testing.assert_allclose(average, np.conj(np.swapaxes(average, 2, 3)), atol=1e-13)
    assert np.linalg.eigvalsh(average).min() > -1e-12
    assert nonreciprocal_fraction(average) < 1e-12
    assert nonreciprocal_fraction(response_kernel(bank, SIGMA)) > 0.05


def test_nonreciprocal_fraction_is_that_of_the_dense_jacobian():
    patches, log_prior = random_patches(10, channels=2)
    x = np.zeros((6, 5, 2))
    dense = dense_jacobian(brute_denoiser(patches, log_prior, "centre"), x, SIGMA).reshape(60, 60)
    expected = np.linalg.norm(dense - dense.T) / 2 / np.linalg.norm(dense)
    bank = PatchBank(patches, log_prior)
    np.testing.assert_allclose(nonreciprocal_fraction(response_kernel(bank, SIGMA)), expected, rtol=1e-10)
    np.testing.assert_allclose(nonreciprocal_fraction(symbol(bank, SIGMA, (6, 5))), expected, rtol=1e-10)


def test_nonreciprocal_fraction_of_extreme_kernels():
    odd = np.zeros((3, 3, 1, 1))
    odd[1, 2], odd[1, 0] = 1e-30, -1e-30
    np.testing.assert_allclose(nonreciprocal_fraction(odd), 1)
    even = np.zeros((2, 2, 1, 1))
    even[0] = 1.0  # self and right neighbour
    np.testing.assert_allclose(nonreciprocal_fraction(even), 0.5)
    assert np.isnan(nonreciprocal_fraction(np.zeros((3, 3, 1, 1))))


def test_stripes_have_their_largest_symbol_at_their_wavelength():
    grid = (24, 24)
    table = np.asarray(symbol(stripe_bank(9, 6.0), 2.0, grid))[..., 0, 0].real
    modes = {tuple(int(i) for i in n) for n in np.argwhere(table > table.max() - 1e-9)}
    assert modes == {(0, 4), (0, 20), (4, 0), (20, 0)}


# Bad input -----------------------------------------------------------------------------------------------------


def test_messages():
    bank = two_pattern_bank(3)
    images = np.zeros((2, 6, 6, 1))
    with pytest.raises(ValueError, match="positions: expected 'all' or 'interior', got 'same'.*its own bank"):
        symbol(ImageBank(images, 3, positions="same"), 1.0, (6, 6))
    with pytest.raises(TypeError, match="bank: expected a PatchBank or ImageBank, got list"):
        inspect.unwrap(response_kernel)([1, 2], 1.0)
    with pytest.raises(ValueError, match="readout: expected 'centre' or 'average', got 'mean'"):
        symbol(bank, 1.0, (6, 6), readout="mean")
    with pytest.raises(ValueError, match="size: expected an odd window for readout='centre', got 4"):
        response_kernel(two_pattern_bank(4), 1.0)
    for bad in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="sigma: expected a finite number > 0"):
            response_kernel(bank, bad)
    with pytest.raises(ValueError, match=r"sigma: expected a scalar standard deviation, got shape \(2,\)"):
        inspect.unwrap(uniform_symbol)(bank, np.ones(2))
    with pytest.raises(ValueError, match=r"state: expected shape \(1,\), got shape \(3,\)"):
        response_kernel(bank, 1.0, state=np.zeros(3))
    with pytest.raises(ValueError, match="block_size: expected an integer >= 1 or None, got 0"):
        response_kernel(bank, 1.0, block_size=0)
    with pytest.raises(ValueError, match=r"grid: expected two integers \(H, W\)"):
        mean_field_critical_sigma(bank, (3, 4, 5))
    with pytest.raises(ValueError, match="as many outputs as inputs"):
        inspect.unwrap(nonreciprocal_fraction)(np.zeros((3, 3, 1, 2)))
