"""How far apart and how diverse ensembles are, in given features such as those of a classifier."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from critjax._checks import check, check_rank, is_concrete
from critjax._programs import as_argument, program
from critjax._typing import Array, ArrayLike, Float
from critjax.observables.errors import Estimate, jackknife, jackknife_error, jackknife_spread


def frechet_distance(
    features_a: Float[ArrayLike, "n d"], features_b: Float[ArrayLike, "m d"]
) -> Float[Array, ""]:
    r"""Give the squared Frechet distance between the Gaussians fitted to two sets of features.

    ``|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2})``

    Parameters
    ----------
    features_a, features_b : arrays (n, d), (m, d)
        Features of at least two samples each; covariances are divided by n - 1 and m - 1.

    Returns
    -------
    scalar
        Squared distance >= 0, in squared units of the features. Biased upward at finite n, see the notes.

    Raises
    ------
    ValueError
        If the numbers of features differ or a set has one sample only.

    Notes
    -----
    Heusel et al. 2017, arXiv:1706.08500. With ``C = A^T A`` the trace of the root is the sum of the singular
    values of ``A_a A_b^T``: no root of a rounding error is taken, so float32 keeps its precision.
    O((n + m) d^2 + d^3); differentiable for features of full rank.

    Two finite sets of one Gaussian whose covariance has eigenvalues l_i are at the distance

    ``(1/n + 1/m) [sum_i l_i + (1/2) sum_ij l_i l_j (1 + delta_ij)/(l_i + l_j)]``

    on average, to leading order in d/n and d/m: for equal l about ``(1/n + 1/m) l d^2/4``. Hundreds of samples of
    many features are mostly bias: compare equal numbers, and quote the distance between two sets of real data.

    Example
    -------
    >>> a = jax.random.normal(jax.random.key(0), (50, 3))
    >>> print(f"{frechet_distance(a, a + 2.0):.3f}")
    12.000
    """
    a, b = as_argument(features_a), as_argument(features_b)
    for name, features in (("features_a", a), ("features_b", b)):
        check_rank(name, features, "n d")
        check(features.shape[0] >= 2, name, "two samples or more", features.shape[0], "pass more samples")
    check(a.shape[1] == b.shape[1], "features_b", f"{a.shape[1]} features", b.shape[1], "use one feature map")
    return _frechet_distance(a, b)


@program
def _frechet_distance(a: Any, b: Any) -> Array:
    a, b = jnp.asarray(a), jnp.asarray(b)

    def root(features: Array) -> Array:
        centred = (features - features.mean(axis=0)) / (features.shape[0] - 1) ** 0.5
        # Any A with A^T A = C will do; the triangular factor is the small one.
        return jnp.linalg.qr(centred, mode="r") if centred.shape[0] > centred.shape[1] else centred

    root_a, root_b = root(a), root(b)
    product = jnp.matmul(root_a, root_b.T, precision="highest")
    overlap = jnp.linalg.svd(product, compute_uv=False).sum()
    shift = a.mean(axis=0) - b.mean(axis=0)
    # Only rounding can make this negative.
    return jnp.maximum((shift**2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * overlap, 0)


def frechet_error(
    features_a: Float[ArrayLike, "n d"], features_b: Float[ArrayLike, "m d"], *, num_blocks: int | None = None
) -> Float[Array, ""]:
    r"""Estimate the standard error of `frechet_distance`, with both sets drawn at random.

    ``error^2 = error_a^2 + error_b^2``,   each by the jackknife over one set with the other one as it is

    Parameters
    ----------
    features_a, features_b : arrays (n, d), (m, d)
        Features of independent samples.
    num_blocks : int, optional
        As in `jackknife_error`, a divisor of n and m; default: every sample by itself.

    Returns
    -------
    scalar
        Standard error, in squared units of the features. It says nothing of the bias, which may be larger.

    Raises
    ------
    ValueError
        If the numbers of features differ, or the blocks do not divide both sets.

    Notes
    -----
    Efron 1979, Ann. Statist. 7, 1; resampling with replacement would repeat samples, which doubles the bias. As many
    distances as there are blocks in both sets. Between sets of one distribution the distance has no linear term, and
    the jackknife is only a scale of its error.

    Example
    -------
    >>> a = jax.random.normal(jax.random.key(0), (200, 1))
    >>> error = frechet_error(a, jax.random.normal(jax.random.key(1), (200, 1)) + 3.0)
    >>> bool(abs(error - 6 * (1 / 200 + 1 / 200) ** 0.5) < 0.15)  # of a squared shift of 3
    True
    """
    a, b = as_argument(features_a), as_argument(features_b)
    return _frechet_error(a, b, num_blocks if num_blocks is None else int(num_blocks))


@program(static_argnums=2)
def _frechet_error(a: Any, b: Any, num_blocks: int | None) -> Array:
    error_a = jackknife_error(Partial(frechet_distance, b), a, num_blocks=num_blocks)
    error_b = jackknife_error(Partial(frechet_distance, a), b, num_blocks=num_blocks)
    return jnp.sqrt(error_a**2 + error_b**2)


def frechet_change(
    features: Float[ArrayLike, "n d"],
    others: Float[ArrayLike, "n d"],
    references: Float[ArrayLike, "m d"],
    *,
    num_blocks: int | None = None,
) -> Estimate:
    r"""Give the difference of the Frechet distances of two paired sets to one reference, with its paired error.

    Parameters
    ----------
    features, others : arrays (n, d)
        Features of independent pairs: the same seeds under two schedules, for example.
    references : array (m, d)
        Features of the samples that both are compared with; they are held fixed.
    num_blocks : int, optional
        As in `jackknife_error`, a divisor of n.

    Returns
    -------
    Estimate
        ``value`` is ``frechet_distance(features, references) - frechet_distance(others, references)``; most of the bias
        drops out. ``error`` by the jackknife over pairs: of the change against these very references.

    Raises
    ------
    ValueError
        As `frechet_distance`, if the two sets differ in shape, or the blocks do not divide them.

    Example
    -------
    >>> features = jax.random.normal(jax.random.key(0), (40, 2))
    >>> change, error = frechet_change(features + 1.0, features - 1.0, jnp.zeros((8, 2)) + jnp.arange(8.0)[:, None])
    >>> print(f"{change:.1f}")
    -27.3
    """
    pairs = _paired(features, others)
    return jackknife(Partial(_change, as_argument(references)), pairs, num_blocks=num_blocks)


def _change(references: Array, pairs: tuple[Array, Array]) -> Array:
    return frechet_distance(pairs[0], references) - frechet_distance(pairs[1], references)


def feature_variance(features: Float[ArrayLike, "n d"], labels: ArrayLike) -> Estimate:
    r"""Give the diversity within classes: the trace of the covariance of a class, averaged over classes.

    ``V = (1/K) sum_c sum_{i in c} |f_i - mean_c|^2/(n_c - 1)``

    Parameters
    ----------
    features : array (n, d)
        Features of independent samples.
    labels : integer array (n,)
        Their classes, known numbers (not traced); at least three samples each. K is the number of classes that occur.

    Returns
    -------
    Estimate
        ``value`` V >= 0, in squared units of the features; unbiased at any n_c. Every class weighs the same. ``error``
        by the jackknife within each class, in closed form.

    Raises
    ------
    ValueError
        If labels and features do not fit, labels are traced, or a class has fewer than three samples.

    Notes
    -----
    THEORY section 8: what stronger guidance costs. Leaving out sample i changes the sum of squares of its class by
    ``n/(n-1) d_i``, d_i its squared distance from the mean of the class, hence
    ``error_c^2 = n/((n-1)(n-2)^2) sum_i (d_i - mean d)^2``.

    Example
    -------
    >>> features = jnp.array([[0.0], [1.0], [2.0], [10.0], [12.0], [14.0]])  # variances 1 and 4
    >>> variance, error = feature_variance(features, np.array([0, 0, 0, 1, 1, 1]))
    >>> print(f"{variance:.2f}")
    2.50
    """
    features = as_argument(features)
    check_rank("features", features, "n d")
    return _over_classes((features,), labels)


def feature_variance_change(
    features: Float[ArrayLike, "n d"], others: Float[ArrayLike, "n d"], labels: ArrayLike
) -> Estimate:
    r"""Give the difference of the diversity within classes between two paired sets, with its paired error.

    Parameters
    ----------
    features, others : arrays (n, d)
        Features of independent pairs: the same seeds under two schedules, for example.
    labels : integer array (n,)
        Classes of the pairs, as in `feature_variance`.

    Returns
    -------
    Estimate
        ``value`` is ``feature_variance(features) - feature_variance(others)``; ``error`` by the jackknife over pairs
        within each class: what the two have in common drops out.

    Raises
    ------
    ValueError
        As `feature_variance`, or if the two sets differ in shape.

    Example
    -------
    >>> features = jax.random.normal(jax.random.key(0), (30, 2))
    >>> change, error = feature_variance_change(features, features + 5.0, np.zeros(30, int))
    >>> print(f"{abs(change):.4f} {error:.4f}")
    0.0000 0.0000
    """
    return _over_classes(_paired(features, others), labels)


def _paired(features: ArrayLike, others: ArrayLike) -> tuple[Any, Any]:
    """Check that two sets have one shape."""
    a, b = as_argument(features), as_argument(others)
    check_rank("features", a, "n d")
    check(a.shape == b.shape, "others", f"shape {a.shape}", f"shape {b.shape}", "pass samples in pairs")
    return a, b


def _over_classes(sets: tuple[Any, ...], labels: ArrayLike) -> Estimate:
    """Give the diversity of one set (n, d), or by how much it exceeds that of a second one; jackknife over rows."""
    check(is_concrete(labels), "labels", "known numbers", "traced ones", "close over them, or do not compile")
    labels = np.asarray(labels)
    count = sets[0].shape[0]
    good = labels.shape == (count,) and labels.dtype.kind in "ui" and count > 0
    got = f"{labels.dtype} of shape {labels.shape}"
    check(
        good, "labels", f"integers of shape ({count},), one a sample", got, "pass the class of every sample"
    )
    classes, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    few = dict(zip(classes[sizes < 3].tolist(), sizes[sizes < 3].tolist(), strict=True))
    advice = "draw more samples, or leave those classes out"
    check(not few, "labels", "three samples or more of every class", f"(class: samples) {few}", advice)
    return _diversity(sets, index, len(classes))


@program(static_argnums=2)
def _diversity(sets: tuple[Any, ...], index: Array, num_classes: int) -> Estimate:
    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values, index, num_classes)

    n = total(jnp.ones(index.shape, jnp.asarray(sets[0]).dtype))

    def squared(features: Any) -> Array:
        features = jnp.asarray(features)
        return ((features - (total(features) / n[:, None])[index]) ** 2).sum(axis=1)

    distances = squared(sets[0]) if len(sets) == 1 else squared(sets[0]) - squared(sets[1])
    # Without sample i the variance of its class is (its sum of squares - n/(n-1) d_i)/(n - 2).
    left_out = -(n / ((n - 1) * (n - 2)))[index] * distances
    variance = (total(distances) / (n - 1)).mean()
    return Estimate(variance, jackknife_spread(left_out, strata=index, num_strata=num_classes) / num_classes)
