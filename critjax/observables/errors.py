"""Standard errors of any statistic, and the distance between two ensembles of features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, check_rank
from critjax._typing import Array, ArrayLike, Float, PRNGKey


def _num_samples(samples: Any) -> int:
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(samples)}
    good = len(sizes) == 1 and sizes != {()}
    check(good, "samples", "arrays with one common leading axis", sorted(sizes), "put the samples on axis 0")
    num = sizes.pop()[0]
    check(num >= 2, "samples", "two samples or more", num, "one sample has no standard error")
    return num


def _on_subsets(statistic_fn: Callable[..., Any], samples: Any, indices: Array) -> Any:
    """Evaluate the statistic on ``samples[i]`` for each row i, one at a time: memory of a single subset."""
    return jax.lax.map(
        lambda i: statistic_fn(jax.tree.map(lambda leaf: jnp.asarray(leaf)[i], samples)), indices
    )


def bootstrap_values(
    statistic_fn: Callable[..., Any], samples: Any, key: PRNGKey, *, num_resamples: int = 200
) -> Any:
    r"""Evaluate any statistic of an ensemble on resamples of it, drawn with replacement.

    Parameters
    ----------
    statistic_fn : callable
        Maps samples (B, ...) to an array or a pytree of arrays; traced once.
    samples : array (B, ...) or pytree of such
        Independent samples; leaves of a pytree are resampled together, which keeps pairs (x, D) paired.
    key : PRNG key
        Source of the resamples: the same key draws the same samples of every ensemble of the same size, which keeps
        what different statistics owe to one sample together.
    num_resamples : int
        Number of resamples, >= 2.

    Returns
    -------
    pytree of arrays (num_resamples, ...)
        The statistic of every resample.

    Raises
    ------
    ValueError
        If there are fewer than two samples or resamples, or the leading axes differ.

    Notes
    -----
    Efron 1979, Ann. Statist. 7, 1. Costs ``num_resamples`` evaluations, one after the other.

    Example
    -------
    >>> x = jnp.array([1.0, 2.0, 4.0])
    >>> means, doubled = (
    ...     bootstrap_values(jnp.mean, y, jax.random.key(0), num_resamples=5) for y in (x, 2 * x)
    ... )
    >>> means.shape, bool(jnp.allclose(doubled, 2 * means))
    ((5,), True)
    """
    num = _num_samples(samples)
    check(num_resamples >= 2, "num_resamples", "two or more", num_resamples, "use a few hundred")
    indices = jax.random.randint(key, (num_resamples, num), 0, num)
    return _on_subsets(statistic_fn, samples, indices)


def bootstrap_error(
    statistic_fn: Callable[..., Any], samples: Any, key: PRNGKey, *, num_resamples: int = 200
) -> Any:
    r"""Estimate the standard error of any statistic of an ensemble by resampling with replacement.

    Parameters
    ----------
    statistic_fn, samples, key, num_resamples
        As in `bootstrap_values`; the error of the error is about ``1/sqrt(2 num_resamples)``.

    Returns
    -------
    pytree of real arrays
        Standard deviation over resamples, shaped like the statistic; NaN where any resample gave NaN.

    Raises
    ------
    ValueError
        As `bootstrap_values`.

    Example
    -------
    >>> x = jax.random.normal(jax.random.key(0), (100,))
    >>> error = bootstrap_error(jnp.mean, x, jax.random.key(1), num_resamples=400)
    >>> bool(abs(error - 0.1) < 0.02)
    True
    """
    values = bootstrap_values(statistic_fn, samples, key, num_resamples=num_resamples)
    return jax.tree.map(lambda v: jnp.std(v, axis=0, ddof=1), values)


def jackknife_error(statistic_fn: Callable[..., Any], samples: Any, *, num_blocks: int | None = None) -> Any:
    r"""Estimate the standard error of a smooth statistic by leaving out one block of samples at a time.

    ``error^2 = (n-1)/n sum_i |theta_i - mean theta|^2``,   theta_i without block i of n

    Parameters
    ----------
    statistic_fn, samples
        As in `bootstrap_error`.
    num_blocks : int, optional
        n >= 2 dividing B; blocks are consecutive, one per independent batch. Default: every sample by itself.

    Returns
    -------
    pytree of real arrays
        Standard errors, shaped like the statistic; for a mean exactly that of the block means.

    Raises
    ------
    ValueError
        If the blocks do not divide the samples.

    Example
    -------
    >>> print(f"{jackknife_error(jnp.mean, jnp.array([1.0, 2.0, 3.0])):.4f}")
    0.5774
    """
    num = _num_samples(samples)
    blocks = num if num_blocks is None else num_blocks
    good = blocks >= 2 and num % blocks == 0
    check(
        good,
        "num_blocks",
        f"a divisor >= 2 of the {num} samples",
        blocks,
        "drop samples or change the blocks",
    )
    owner = np.arange(num) // (num // blocks)
    kept = jnp.asarray(np.stack([np.flatnonzero(owner != i) for i in range(blocks)]))
    factor = (blocks - 1) ** 0.5
    return jax.tree.map(lambda v: factor * jnp.std(v, axis=0), _on_subsets(statistic_fn, samples, kept))


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
        Squared distance >= 0, in squared units of the features. Biased upward at finite n: compare equal n.

    Raises
    ------
    ValueError
        If the numbers of features differ or a set has one sample only.

    Notes
    -----
    Heusel et al. 2017, arXiv:1706.08500. With ``C = A^T A`` the trace of the root is the sum of the singular
    values of ``A_a A_b^T``: no root of a rounding error is taken, so float32 keeps its precision.
    O((n + m) d^2 + d^3); differentiable for features of full rank.

    Example
    -------
    >>> a = jax.random.normal(jax.random.key(0), (50, 3))
    >>> print(f"{frechet_distance(a, a + 2.0):.3f}")
    12.000
    """
    a, b = jnp.asarray(features_a), jnp.asarray(features_b)
    for name, features in (("features_a", a), ("features_b", b)):
        check_rank(name, features, "n d")
        check(features.shape[0] >= 2, name, "two samples or more", features.shape[0], "pass more samples")
    check(a.shape[1] == b.shape[1], "features_b", f"{a.shape[1]} features", b.shape[1], "use one feature map")

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
