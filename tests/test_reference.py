"""The oracle against what can be worked out by hand: it must be right before it judges anything."""

import numpy as np
import pytest
import reference

RNG = np.random.default_rng(7)
ALL_ROWS = [
    (None, "periodic", "centre"),
    (None, "periodic", "average"),
    ("all", "periodic", "centre"),
    ("all", "periodic", "average"),
    ("all", "zero", "centre"),
    ("interior", "periodic", "centre"),
    ("interior", "periodic", "average"),
    ("same", "periodic", "centre"),
    ("same", "periodic", "average"),
    ("same", "zero", "centre"),
    ("same", "zero", "average"),
]


def _problem(positions, size, grid=(5, 4), channels=2):
    shape = (4, size, size, channels) if positions is None else (3, *grid, channels)
    return RNG.normal(0, 0.7, (*grid, channels)), RNG.uniform(-1, 1, shape), RNG.normal(size=shape[0])


@pytest.mark.parametrize("readout", ["centre", "average"])
def test_two_patterns_give_the_hyperbolic_tangent(readout):
    size, sigma = 3, 2.3
    x = RNG.normal(size=(6, 5, 1))
    data = np.stack([np.ones((size, size, 1)), -np.ones((size, size, 1))])
    result = reference.denoise(
        x, sigma, data, size=size, positions=None, boundary="periodic", readout=readout
    )

    def box(field):
        return sum(np.roll(field, (a, b), (0, 1)) for a in (-1, 0, 1) for b in (-1, 0, 1)) / 9

    expected = np.tanh(9 * box(x) / sigma**2)
    if readout == "average":
        expected = box(expected)
    np.testing.assert_allclose(result.denoised, expected, rtol=1e-12, atol=1e-14)


def test_one_pixel_windows_are_a_scalar_posterior():
    x, data, log_prior = (
        RNG.normal(size=(2, 3, 1)),
        np.array([0.5, -0.2, 0.9]),
        np.array([0.1, -0.4, -np.inf]),
    )
    result = reference.denoise(
        x,
        0.6,
        data.reshape(3, 1, 1, 1),
        log_prior,
        size=1,
        positions=None,
        boundary="periodic",
        readout="centre",
    )
    a, b = (np.exp(log_prior[i] - (x - data[i]) ** 2 / (2 * 0.36)) for i in (0, 1))
    np.testing.assert_allclose(result.denoised, (0.5 * a - 0.2 * b) / (a + b), rtol=1e-13)
    share = (a / (a + b))[..., 0]
    entropy = -share * np.log(share) - (1 - share) * np.log1p(-share)
    np.testing.assert_allclose(result.effective, np.exp(entropy), rtol=1e-12)


@pytest.mark.parametrize(("boundary", "readout"), [("zero", "average"), ("periodic", "centre")])
def test_window_as_large_as_the_image_is_the_ideal_denoiser(boundary, readout):
    x, data, log_prior = _problem("same", 3, (3, 3), 2)
    result = reference.denoise(
        x, 0.9, data, log_prior, size=3, positions="same", boundary=boundary, readout=readout
    )
    logits = log_prior - np.sum((x - data) ** 2, axis=(1, 2, 3)) / (2 * 0.81)
    weights = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(result.denoised, np.tensordot(weights, data, 1), rtol=1e-12)


def test_candidates_are_counted_as_the_theory_says():
    grid, size, count = (6, 7), 3, 2
    data = RNG.normal(size=(count, *grid, 1))

    def number(anchor, positions, boundary, readout="centre"):
        found = list(
            reference.windows(
                grid,
                data,
                size=size,
                positions=positions,
                boundary=boundary,
                readout=readout,
                anchors=[anchor],
            )
        )
        return (len(found[0].candidates), len(found[0].pixels)) if found else None

    assert number((0, 0), "all", "periodic") == (count * 6 * 7, 9)
    assert number((0, 0), "interior", "periodic") == (count * 4 * 5, 9)
    assert number((0, 0), "same", "periodic") == (count, 9)
    assert number((2, 2), "all", "zero") == (count * 4 * 5, 9)
    assert number((0, 2), "all", "zero") == (count * 5, 6)
    assert number((3, 6), "all", "zero") == (count * 4, 6)
    assert number((5, 0), "all", "zero") == (count, 4)
    assert number((5, 0), "same", "zero") == (count, 4)
    assert number((5, 0), "same", "zero", "average") is None
    assert number((4, 5), "same", "zero", "average") == (count, 9)


def test_zero_boundary_by_explicit_padding():
    """Padding both images with noiseless zeros gives the same norms as dropping the outside."""
    grid, size, d, sigma = (6, 5), 3, 1, 0.8
    x, data = RNG.normal(size=(*grid, 1)), RNG.uniform(-1, 1, (2, *grid, 1))
    pad = ((d, d), (d, d), (0, 0))
    padded, bank = np.pad(x, pad), np.pad(data, ((0, 0), *pad))
    result = reference.denoise(x, sigma, data, size=size, positions="all", boundary="zero", readout="centre")
    i, j = 0, 2  # top row, interior column: compared with the top row at columns 1, 2, 3
    query = padded[i : i + 3, j : j + 3]
    candidates = [(n, i, c) for n in range(2) for c in (1, 2, 3)]
    logits = np.array([-np.sum((query - bank[n, r : r + 3, c : c + 3]) ** 2) for n, r, c in candidates])
    weights = np.exp(logits / (2 * sigma**2))
    expected = np.sum(weights * [data[n, r, c, 0] for n, r, c in candidates]) / weights.sum()
    np.testing.assert_allclose(result.denoised[i, j, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("row", ALL_ROWS)
def test_covariance_jacobian_is_the_derivative_of_the_mean(row):
    positions, boundary, readout = row
    options = dict(size=3, positions=positions, boundary=boundary, readout=readout)
    x, data, log_prior = _problem(positions, 3)
    log_prior[1] = -np.inf
    matrix = reference.jacobian(x, 1.1, data, log_prior, **options)
    for seed in range(2):
        v = np.random.default_rng(seed).normal(size=x.shape)
        difference = reference.central_difference(
            lambda y: reference.denoise(y, 1.1, data, log_prior, **options).denoised, x, v
        )
        np.testing.assert_allclose(np.tensordot(matrix, v, 3), difference, rtol=1e-8, atol=1e-9)
    if readout == "average" and boundary == "periodic":
        np.testing.assert_allclose(matrix, matrix.transpose(3, 4, 5, 0, 1, 2), atol=1e-14)


def test_even_average_windows_cover_every_pixel_equally():
    """One patch only: the readout is its mean over all offsets, whatever the anchor convention."""
    patch = RNG.normal(size=(1, 4, 4, 2))
    result = reference.denoise(
        RNG.normal(size=(5, 6, 2)), 1.0, patch, size=4, positions=None, boundary="periodic", readout="average"
    )
    np.testing.assert_allclose(result.denoised, np.broadcast_to(patch.mean((0, 1, 2)), (5, 6, 2)), rtol=1e-13)
    np.testing.assert_allclose(result.effective, 1.0)


@pytest.mark.parametrize("positions", ["all", "interior"])
def test_the_matrix_product_form_agrees_with_the_loops(positions):
    x, data, log_prior = _problem(positions, 3)
    patches, owner = reference.image_patches(data, 3, positions)
    expected = reference.denoise(
        x, 0.5, data, log_prior, size=3, positions=positions, boundary="periodic", readout="centre"
    )
    np.testing.assert_allclose(
        reference.denoise_large(x, 0.5, patches, log_prior[owner]), expected.denoised, rtol=1e-11, atol=1e-13
    )
