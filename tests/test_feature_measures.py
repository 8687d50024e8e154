"""Frechet distance and diversity of features against closed forms, scipy's matrix root and repeated draws."""

import inspect

import jax
import numpy as np
import pytest
import scipy.linalg

import critjax.observables as obs


def brute_force(a, b):
    """The textbook formula with scipy's matrix root."""
    ca, cb = (np.atleast_2d(np.cov(f, rowvar=False)) for f in (a, b))
    root_a = scipy.linalg.sqrtm(ca)
    root = scipy.linalg.sqrtm(root_a @ cb @ root_a)
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * root).real


def test_frechet_distance_of_known_gaussians():
    """|shift|^2 + sum (s_a - s_b)^2, as many samples make it, and scipy's root for the very samples."""
    rng = np.random.default_rng(0)
    deviations = np.array([[1.0, 2.0, 0.5], [2.0, 0.5, 0.5]])
    shift = np.array([0.0, 1.0, -2.0])
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    a = rng.normal(size=(40_000, 3)) * deviations[0] @ rotation
    b = (rng.normal(size=(40_000, 3)) * deviations[1] + shift) @ rotation
    found = float(obs.frechet_distance(a, b))
    assert found == pytest.approx(brute_force(a, b), rel=1e-10)
    exact = np.sum(shift**2) + np.sum((deviations[0] - deviations[1]) ** 2)
    error = float(obs.frechet_error(a, b, num_blocks=20))
    assert error < 0.02 * exact
    assert found == pytest.approx(exact, abs=4 * error)


def test_bias_of_the_frechet_distance_is_that_of_its_docstring():
    rng = np.random.default_rng(1)
    eigenvalues, n, m, repeats = np.array([1.0, 0.5, 0.1]), 150, 300, 400
    sets = rng.normal(size=(repeats, n + m, 3)) * np.sqrt(eigenvalues)
    found = np.asarray(jax.jit(jax.vmap(obs.frechet_distance))(sets[:, :n], sets[:, n:]))
    pairs = eigenvalues[:, None] * eigenvalues / (eigenvalues[:, None] + eigenvalues)
    expected = (1 / n + 1 / m) * (eigenvalues.sum() + 0.5 * np.sum(pairs * (1 + np.eye(3))))
    error = found.std(ddof=1) / np.sqrt(repeats)
    assert found.mean() == pytest.approx(expected, abs=4 * error)
    assert error < 0.05 * expected


def test_error_of_the_frechet_distance_is_the_jackknife_written_out():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(12, 2)), 2 + rng.normal(size=(8, 2)) @ rng.normal(size=(2, 2))
    total = 0.0
    for samples, distance in ((a, lambda s: brute_force(s, b)), (b, lambda s: brute_force(a, s))):
        blocks = np.array_split(np.arange(len(samples)), 4)
        left_out = np.array([distance(np.delete(samples, block, axis=0)) for block in blocks])
        total += 3 / 4 * np.sum((left_out - left_out.mean()) ** 2)
    assert float(obs.frechet_error(a, b, num_blocks=4)) == pytest.approx(np.sqrt(total), rel=1e-8)


def test_error_of_the_frechet_distance_is_its_spread_over_draws():
    rng = np.random.default_rng(3)
    repeats, n, m = 300, 60, 40
    a, b = rng.normal(size=(repeats, n, 2)), rng.normal(size=(repeats, m, 2)) * 2 + 1
    spread = float(np.std(np.asarray(jax.jit(jax.vmap(obs.frechet_distance))(a, b)), ddof=1))
    errors = np.asarray(
        jax.jit(jax.vmap(lambda a, b: obs.frechet_error(a, b, num_blocks=20)))(a[:60], b[:60])
    )
    # The spread is known to 1/sqrt(2 x 300), 4 per cent; the mean square of 60 errors to about as much.
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(spread, rel=0.18)


def test_feature_variance_against_loops():
    rng = np.random.default_rng(4)
    labels = np.array([5, 2, 2, 9, 5, 2, 9, 9, 5, 5, 2, 9, 9])
    features = rng.normal(size=(13, 3)) * (1 + labels[:, None])
    variances, squares = [], []
    for label in (2, 5, 9):
        own = features[labels == label]
        variances.append(np.trace(np.cov(own, rowvar=False)))
        left_out = [np.trace(np.cov(np.delete(own, i, axis=0), rowvar=False)) for i in range(len(own))]
        squares.append((len(own) - 1) / len(own) * np.sum((left_out - np.mean(left_out)) ** 2))
    variance, error = obs.feature_variance(features, labels)
    assert float(variance) == pytest.approx(np.mean(variances), rel=1e-12)
    assert float(error) == pytest.approx(np.sqrt(np.sum(squares)) / 3, rel=1e-12)


def test_change_of_the_feature_variance_leaves_out_pairs():
    rng = np.random.default_rng(7)
    labels = np.array([3, 1, 3, 1, 1, 3, 3, 3])
    pairs = rng.normal(size=(2, 8, 3))
    pairs[1] += 0.7 * pairs[0]
    total, squares = 0.0, 0.0
    for label in (1, 3):
        first, second = pairs[:, labels == label]
        count = len(first)

        def change(rows, first=first, second=second):
            return np.trace(np.cov(first[rows], rowvar=False)) - np.trace(np.cov(second[rows], rowvar=False))

        total += change(np.arange(count)) / 2
        left_out = np.array([change(np.delete(np.arange(count), i)) for i in range(count)]) / 2
        squares += (count - 1) / count * np.sum((left_out - left_out.mean()) ** 2)
    found, error = obs.feature_variance_change(*pairs, labels)
    assert float(found) == pytest.approx(total, rel=1e-12)
    assert float(error) == pytest.approx(np.sqrt(squares), rel=1e-12)


def test_change_of_the_frechet_distance_leaves_out_pairs():
    rng = np.random.default_rng(8)
    a, real = rng.normal(size=(12, 2)), 2 * rng.normal(size=(8, 2))
    b = a + 0.5 * rng.normal(size=(12, 2)) + 1

    def change(rows):
        return brute_force(a[rows], real) - brute_force(b[rows], real)

    every = np.arange(12)
    left_out = np.array([change(np.delete(every, block)) for block in np.array_split(every, 4)])
    found, error = obs.frechet_change(a, b, real, num_blocks=4)
    assert float(found) == pytest.approx(change(every), rel=1e-8)
    assert float(error) == pytest.approx(np.sqrt(3 / 4 * np.sum((left_out - left_out.mean()) ** 2)), rel=1e-8)
    with pytest.raises(ValueError, match=r"others: expected shape \(12, 2\), got shape \(8, 2\)"):
        inspect.unwrap(obs.frechet_change)(a, real, real)


def test_feature_variance_of_known_gaussians():
    """Class means are no diversity; the trace of the covariances is, and the error is the spread over draws."""
    rng = np.random.default_rng(5)
    labels = np.repeat([0, 1], [40, 60])
    deviations = np.where(labels == 0, 1.0, 2.0)[:, None]
    measure = jax.jit(jax.vmap(lambda f: obs.feature_variance(f, labels)))
    draws = rng.normal(size=(500, 100, 4)) * deviations + 100.0 * labels[:, None]
    variances, errors = (np.asarray(v) for v in measure(draws))
    exact = (4 * 1.0 + 4 * 4.0) / 2
    spread = np.sqrt(2 * 4 * 1 / 39 + 2 * 4 * 16 / 59) / 2  # of two chi-squared traces
    assert variances.mean() == pytest.approx(exact, abs=4 * spread / np.sqrt(500))
    assert variances.std(ddof=1) == pytest.approx(spread, rel=0.13)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(spread, rel=0.1)


def test_feature_variance_can_be_differentiated():
    rng = np.random.default_rng(6)
    features, direction = rng.normal(size=(2, 9, 2))
    labels, h = np.arange(9) % 2, 1e-5
    slope = np.sum(jax.jit(jax.grad(lambda f: obs.feature_variance(f, labels).value))(features) * direction)
    ends = [float(obs.feature_variance(features + s * h * direction, labels)[0]) for s in (1, -1)]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-7)


def test_bad_features_and_labels_are_named():
    features, variance = np.zeros((6, 2)), inspect.unwrap(obs.feature_variance)
    with pytest.raises(
        ValueError, match=r"labels: expected integers of shape \(6,\).*got int64 of shape \(5,"
    ):
        variance(features, np.zeros(5, int))
    with pytest.raises(ValueError, match="labels: expected integers of shape .* got float64"):
        variance(features, np.zeros(6))
    with pytest.raises(ValueError, match=r"three samples or more of every class, got .*\{1: 2\}"):
        variance(features, np.array([0, 0, 0, 0, 1, 1]))
    with pytest.raises(ValueError, match=r"features: expected shape \(n, d\), got shape \(6,\)"):
        variance(np.zeros(6), np.zeros(6, int))
    with pytest.raises(ValueError, match="labels: expected known numbers, got traced ones"):
        jax.jit(variance)(features, np.zeros(6, int))
    with pytest.raises(ValueError, match="num_blocks: expected a divisor >= 2 of the 6 samples, got 4"):
        obs.frechet_error(features, features, num_blocks=4)
