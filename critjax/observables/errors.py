"""Standard errors of any statistic of an ensemble: the only bootstrap and jackknife.

A statistic is a function that JAX traces: it enters one program, and one that is a pytree (`jax.tree_util.Partial` over
its arrays) shares it with all arrays of its shapes. With ``host=True`` it is a NumPy function, called once a subset.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, check_count
from critjax._programs import as_argument, as_pytree, program
from critjax._typing import Array, ArrayLike, PRNGKey


class Estimate(NamedTuple):
    """A measured value with its standard error, both of one shape; NaN where there is none.

    Attributes
    ----------
    value : the estimate.
    error : one standard error, in the unit of the value.

    Example
    -------
    >>> found = Estimate(2.0, 0.1)
    >>> found.known, round(found.deviations(2.3), 9)
    (True, 3.0)
    """

    value: Any
    error: Any = math.nan

    @property
    def known(self) -> bool:
        """Tell whether there is a number at all; of a scalar outside of any trace, as `deviations`."""
        return math.isfinite(self.value)

    def deviations(self, expected: float) -> float:
        """Return the distance to an expected number in standard errors; infinite, or 0, without an error."""
        if not (math.isfinite(self.error) and self.error > 0):
            return math.inf if self.value != expected else 0.0
        return abs(self.value - expected) / self.error


def _prepared(samples: Any) -> tuple[Any, int]:
    """Return samples as arguments of a program, and their number."""
    samples = jax.tree.map(as_argument, samples)
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(samples)}
    good = len(sizes) == 1 and sizes != {()}
    check(good, "samples", "arrays with one common leading axis", sorted(sizes), "put the samples on axis 0")
    num = sizes.pop()[0]
    check(num >= 2, "samples", "two samples or more", num, "one sample has no standard error")
    return samples, num


def _on_subsets(statistic_fn: Callable[..., Any], samples: Any, indices: Array) -> Any:
    """Evaluate the statistic on ``samples[i]`` for each row i, one at a time: memory of a single subset."""
    return jax.lax.map(
        lambda i: statistic_fn(jax.tree.map(lambda leaf: jnp.asarray(leaf)[i], samples)), indices
    )


def bootstrap_values(
    statistic_fn: Callable[..., Any], key: PRNGKey, samples: Any, *, num_resamples: int = 200
) -> Any:
    r"""Evaluate any statistic of an ensemble on resamples of it, drawn with replacement.

    Parameters
    ----------
    statistic_fn : callable
        Maps samples (B, ...) to an array or a pytree of arrays; traced once.
    key : PRNG key
        Source of the resamples: the same key draws the same samples of every ensemble of the same size, which keeps
        what different statistics owe to one sample together.
    samples : array (B, ...) or pytree of such
        Independent samples; leaves of a pytree are resampled together, which keeps pairs (x, D) paired.
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
    ...     bootstrap_values(jnp.mean, jax.random.key(0), y, num_resamples=5) for y in (x, 2 * x)
    ... )
    >>> means.shape, bool(jnp.allclose(doubled, 2 * means))
    ((5,), True)
    """
    samples, _ = _prepared(samples)
    num_resamples = check_count("num_resamples", num_resamples, least=2, advice="use a few hundred")
    return _bootstrap_values(as_pytree("statistic_fn", statistic_fn), key, samples, num_resamples)


@program(static_argnums=3)
def _bootstrap_values(statistic_fn: Any, key: PRNGKey, samples: Any, num_resamples: int) -> Any:
    num = jax.tree.leaves(samples)[0].shape[0]
    indices = jax.random.randint(key, (num_resamples, num), 0, num)
    return _on_subsets(statistic_fn, samples, indices)


def bootstrap_error(
    statistic_fn: Callable[..., Any], key: PRNGKey, samples: Any, *, num_resamples: int = 200
) -> Any:
    r"""Estimate the standard error of any statistic of an ensemble by resampling with replacement.

    Parameters
    ----------
    statistic_fn, key, samples, num_resamples
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
    >>> error = bootstrap_error(jnp.mean, jax.random.key(1), x, num_resamples=400)
    >>> bool(abs(error - 0.1) < 0.02)
    True
    """
    samples, _ = _prepared(samples)
    num_resamples = check_count("num_resamples", num_resamples, least=2, advice="use a few hundred")
    return _bootstrap_error(as_pytree("statistic_fn", statistic_fn), key, samples, num_resamples)


@program(static_argnums=3)
def _bootstrap_error(statistic_fn: Any, key: PRNGKey, samples: Any, num_resamples: int) -> Any:
    values = _bootstrap_values(statistic_fn, key, samples, num_resamples)
    return jax.tree.map(lambda v: jnp.std(v, axis=0, ddof=1), values)


def bootstrap_means(
    generator: np.random.Generator, samples: ArrayLike, *, num_resamples: int = 200
) -> np.ndarray:
    r"""Give the means of resamples of an ensemble, drawn with replacement, on the host.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of the resamples: how often each sample is drawn is multinomial.
    samples : array (B, ...)
        Independent samples.
    num_resamples : int
        Number of resamples, >= 2.

    Returns
    -------
    NumPy array (num_resamples, ...)
        In the precision of NumPy, and by one matrix product: for long tables of many resamples.

    Raises
    ------
    ValueError
        If there are fewer than two samples or resamples.

    Example
    -------
    >>> means = bootstrap_means(np.random.default_rng(0), np.arange(100.0), num_resamples=400)
    >>> print(means.shape, abs(means.std() / np.arange(100.0).std() - 0.1) < 0.01)
    (400,) True
    """
    samples, num = _prepared(np.asarray(samples))
    num_resamples = check_count("num_resamples", num_resamples, least=2, advice="use a few hundred")
    weights = generator.multinomial(num, np.full(num, 1 / num), num_resamples)
    return np.tensordot(weights / num, samples, 1)


def _blocks(num: int, num_blocks: int | None) -> int:
    blocks = num if num_blocks is None else num_blocks
    good = isinstance(blocks, (int, np.integer)) and blocks >= 2 and num % blocks == 0
    expected = f"a divisor >= 2 of the {num} samples"
    check(bool(good), "num_blocks", expected, blocks, "drop samples or change the blocks")
    return int(blocks)


def _kept(num: int, blocks: int) -> np.ndarray:
    """Return the samples (blocks, kept) that are left without each block."""
    owner = np.arange(num) // (num // blocks)
    return np.stack([np.flatnonzero(owner != i) for i in range(blocks)])


def jackknife_values(
    statistic_fn: Callable[..., Any], samples: Any, *, num_blocks: int | None = None, host: bool = False
) -> Any:
    r"""Evaluate any statistic of an ensemble without one block of samples at a time.

    Parameters
    ----------
    statistic_fn : callable
        Maps samples (B, ...) to an array or a pytree of arrays; traced once.
    samples : array (B, ...) or pytree of such
        Independent samples; what pairs belong together, or blocks, are the leaves of a pytree.
    num_blocks : int, optional
        n >= 2 dividing B; blocks are consecutive, one per independent batch. Default: every sample by itself.
    host : bool
        Whether the statistic is a NumPy function, called n times with NumPy arrays: for what cannot be traced, and in
        the precision of NumPy.

    Returns
    -------
    pytree of arrays (n, ...)
        ``theta_i``, the statistic without block i, for `jackknife_spread`.

    Raises
    ------
    ValueError
        If the blocks do not divide the samples.

    Example
    -------
    >>> print(jackknife_values(jnp.mean, jnp.array([1.0, 2.0, 3.0])))
    [2.5 2.  1.5]
    """
    samples, num = _prepared(samples)
    blocks = _blocks(num, num_blocks)
    if host:
        return _host_values(statistic_fn, samples, num, blocks)
    return _jackknife_values(as_pytree("statistic_fn", statistic_fn), samples, blocks)


def _host_values(statistic_fn: Callable[..., Any], samples: Any, num: int, blocks: int) -> Any:
    def without(kept: np.ndarray) -> Any:
        return statistic_fn(jax.tree.map(lambda leaf: np.asarray(leaf)[kept], samples))

    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(without, _kept(num, blocks)))


@program(static_argnums=2)
def _jackknife_values(statistic_fn: Any, samples: Any, blocks: int) -> Any:
    return _on_subsets(
        statistic_fn, samples, jnp.asarray(_kept(jax.tree.leaves(samples)[0].shape[0], blocks))
    )


def jackknife_spread(
    left_out: ArrayLike, *, strata: ArrayLike | None = None, num_strata: int | None = None
) -> Any:
    r"""Turn values that lack one block each into a standard error.

    ``error^2 = sum_c (n_c-1)/n_c sum_{i in c} |theta_i - mean_c theta|^2``

    Parameters
    ----------
    left_out : array (n, ...)
        ``theta_i``, as of `jackknife_values`; up to a constant of each stratum.
    strata : integer array (n,), optional
        Strata c from 0 on whose numbers of samples n_c were fixed beforehand, such as the classes of a guided ensemble.
        Default: one stratum.
    num_strata : int, optional
        Number of strata, needed where ``strata`` is traced.

    Returns
    -------
    real array (...)
        NumPy for NumPy without strata, JAX else.

    Notes
    -----
    Efron 1979, Ann. Statist. 7, 1.

    Example
    -------
    >>> print(f"{jackknife_spread(np.array([2.5, 2.0, 1.5])):.4f}")
    0.5774
    """
    if strata is None:
        on_host = isinstance(left_out, np.ndarray)
        return _spread(np, left_out) if on_host else _spread_on_device(left_out)
    known = int(np.max(strata)) + 1 if num_strata is None else int(num_strata)
    return _spread_of_strata(left_out, as_argument(strata), known)


def _spread(xp: Any, left_out: Any) -> Any:
    return (len(left_out) - 1) ** 0.5 * xp.std(left_out, axis=0)


@program
def _spread_on_device(left_out: Any) -> Array:
    return _spread(jnp, left_out)


@program(static_argnums=2)
def _spread_of_strata(left_out: Any, strata: Any, num_strata: int) -> Array:
    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values, strata, num_strata)

    left_out = jnp.asarray(left_out)
    n = total(jnp.ones(left_out.shape, left_out.real.dtype))
    spread = jnp.abs(left_out - (total(left_out) / n)[strata]) ** 2
    return jnp.sqrt(((n - 1) / n * total(spread)).sum(axis=0))


def jackknife(
    statistic_fn: Callable[..., Any], samples: Any, *, num_blocks: int | None = None, host: bool = False
) -> Estimate:
    r"""Evaluate a smooth statistic of an ensemble, with its standard error.

    Parameters
    ----------
    statistic_fn, samples, num_blocks, host
        As in `jackknife_values`.

    Returns
    -------
    Estimate
        The statistic of all samples, and the error of `jackknife_error`; both pytrees like the statistic.

    Raises
    ------
    ValueError
        If the blocks do not divide the samples.

    Example
    -------
    >>> value, error = jackknife(np.mean, np.array([1.0, 2.0, 3.0]), host=True)
    >>> print(f"{value:.1f} {error:.4f}")
    2.0 0.5774
    """
    samples, num = _prepared(samples)
    blocks = _blocks(num, num_blocks)
    if host:
        value = statistic_fn(jax.tree.map(np.asarray, samples))
        return Estimate(
            value, jax.tree.map(jackknife_spread, _host_values(statistic_fn, samples, num, blocks))
        )
    return Estimate(*_jackknife(as_pytree("statistic_fn", statistic_fn), samples, blocks))


@program(static_argnums=2)
def _jackknife(statistic_fn: Any, samples: Any, blocks: int) -> tuple[Any, Any]:
    return statistic_fn(jax.tree.map(jnp.asarray, samples)), _jackknife_error(statistic_fn, samples, blocks)


def jackknife_error(
    statistic_fn: Callable[..., Any], samples: Any, *, num_blocks: int | None = None, host: bool = False
) -> Any:
    r"""Estimate the standard error of a smooth statistic by leaving out one block of samples at a time.

    ``error^2 = (n-1)/n sum_i |theta_i - mean theta|^2``,   theta_i without block i of n

    Parameters
    ----------
    statistic_fn, samples, num_blocks, host
        As in `jackknife_values`.

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
    samples, num = _prepared(samples)
    blocks = _blocks(num, num_blocks)
    if host:
        return jax.tree.map(jackknife_spread, _host_values(statistic_fn, samples, num, blocks))
    return _jackknife_error(as_pytree("statistic_fn", statistic_fn), samples, blocks)


@program(static_argnums=2)
def _jackknife_error(statistic_fn: Any, samples: Any, blocks: int) -> Any:
    return jax.tree.map(jackknife_spread, _jackknife_values(statistic_fn, samples, blocks))
