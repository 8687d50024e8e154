r"""Homogeneous states: the constant image that generation follows while no structure has appeared.

On constant images the sampler's mean obeys ``dm/dtau = (1+eta) (D(m) - m)``, tau = -ln sigma (THEORY section
3).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import as_sigmas, check, check_count, check_grid, check_option, is_concrete
from critjax._programs import program
from critjax._typing import Array, ArrayLike, Complex, Float, Scalar, SymbolFn
from critjax.noise import FRAMES
from critjax.spectra._blocks import check_block_size
from critjax.spectra._inputs import as_eta, as_sigma
from critjax.spectra.eigenvalues import growth_rate
from critjax.spectra.kernels import Bank, symbol, uniform_response, uniform_symbol
from critjax.spectra.posterior import check_bank, posterior_moments, working_dtype

# With eta = inf the state relaxes at fixed noise in pseudo-time steps of these lengths, in e-folds: the first
# is a cautious step of the flow, the last ones are Newton's method in all but name.
_RELAXATION_STEPS = (4.0, 64.0, 1024.0, 16384.0)


def _exponential_step(jacobian: Array, rate: Array, drift: Array, step: Any) -> Array:
    """Integrate ``du/ds = J u + f + s v``, u(0) = 0, over ``step``, exactly, by one matrix exponential."""
    channels = rate.shape[0]
    system = jnp.zeros((channels + 2, channels + 2), rate.dtype)
    system = system.at[:channels, :channels].set(jacobian)
    system = system.at[:channels, channels].set(drift).at[:channels, channels + 1].set(rate)
    system = system.at[channels, channels + 1].set(1)
    return jax.scipy.linalg.expm(step * system)[:channels, channels + 1]


def _without_rounding(rate: Array, scale: Array) -> Array:
    """Replace a difference of rounded numbers by zero, keeping its derivatives.

    A symmetric bank has D(0) = 0, in floating point up to rounding; below sigma_c that residue would grow
    exponentially and leave a state that the exact dynamics never leaves.
    """
    noise = 16 * jnp.finfo(rate.dtype).eps * scale
    return rate - jax.lax.stop_gradient(jnp.where(jnp.abs(rate) < noise, rate, 0))


def homogeneous_state(
    bank: Bank,
    sigmas: Float[ArrayLike, " num"],
    *,
    eta: Scalar = 0.0,
    readout: str = "centre",
    num_substeps: int = 4,
    block_size: int | None = None,
) -> Float[Array, "num C"]:
    r"""Follow the homogeneous state of a bank down a noise ladder.

    .. math:: \frac{dm}{d\tau} = (1 + \eta) (D(m, \sigma) - m), \qquad \tau = -\ln \sigma

    Parameters
    ----------
    bank : PatchBank or ImageBank
        Positions "all" or "interior".
    sigmas : float array (num,)
        Strictly decreasing noise levels. The state starts at the first as the bank's mean, which is exact for
        sigma -> infinity: choose sigmas[0] well above the patches' norm differences.
    eta : scalar >= 0, or ``inf``
        Stochasticity. Infinity (static) gives the fixed point D(m) = m at every level, reached from the level
        before.
    readout : "centre" or "average"
        As for `response_kernel`; also which mean the state starts from.
    num_substeps : int
        Passes over the bank between two levels.
    block_size : int, optional
        Patches or images per block.

    Returns
    -------
    float array (num, C)
        m(sigma) in image units; zero throughout for a bank symmetric under negation.

    Raises
    ------
    ValueError, TypeError
        For a bank without a common posterior, a bad ladder, eta or number of substeps.

    Notes
    -----
    ``num_substeps`` exponential Rosenbrock-Euler steps per level, equal in ln sigma, each from one pass over
    the bank, which yields D, dD/dm and dD/dtau at once. Second order; exact for linear dynamics, hence stable
    for any eta. With eta = inf the same step at fixed sigma with pseudo-times 4, 64, 1024, 16384, 16384, ...
    e-folds, which turns into Newton's method; where the flow is unstable the step is cut to two of its own
    e-folds. Drifts below the rounding error of D are set to zero, so that a symmetric state stays symmetric.
    Where `homogeneous_growth_rate` is positive the state is unstable: generation has left it. Differentiable
    with respect to the bank. THEORY section 3; Hochbruck & Ostermann 2010, Acta Numerica 19, 209.

    Example
    -------
    >>> from critjax.banks import PatchBank
    >>> bank = PatchBank(jnp.array([1.0, -0.5]).reshape(2, 1, 1, 1))
    >>> print(homogeneous_state(bank, jnp.array([100.0, 1.0]))[0])
    [0.25]
    """
    check_bank(bank, readout)
    levels = as_sigmas("sigmas", sigmas)
    adiabatic = is_concrete(eta) and np.ndim(eta) == 0 and bool(np.isposinf(float(eta)))
    eta = 0.0 if adiabatic else as_eta(eta)
    advice = "more steps follow faster changes"
    return _homogeneous_state(
        bank,
        levels,
        eta,
        adiabatic=adiabatic,
        readout=readout,
        num_substeps=check_count("num_substeps", num_substeps, least=1, advice=advice),
        block_size=check_block_size(block_size),
    )


@program(static_argnames=("adiabatic", "readout", "num_substeps", "block_size"))
def _homogeneous_state(
    bank: Bank,
    levels: Array,
    eta: Any,
    *,
    adiabatic: bool,
    readout: str,
    num_substeps: int,
    block_size: int | None,
) -> Array:
    dtype = working_dtype(bank)
    levels = levels.astype(dtype)
    zero = jnp.zeros((bank.channels,), dtype)
    start = posterior_moments(
        bank, levels[0], zero, readout=readout, uniform=True, prior_only=True, block_size=block_size
    ).first
    identity = jnp.eye(bank.channels, dtype=dtype)

    def response(state: Array, sigma: Array) -> tuple[Array, Array, Array]:
        now = uniform_response(bank, sigma, state, readout=readout, block_size=block_size)
        rate, drift = (
            _without_rounding(a, scale)
            for a, scale in zip((now.value - state, now.drift), now.scales, strict=True)
        )
        return rate, now.jacobian - identity, drift

    def relax(state: Array, data: tuple[Array, Array]) -> tuple[Array, Array]:
        sigma, step = data
        rate, jacobian, drift = response(state, sigma)
        # The numerical range bounds every growth rate.
        fastest = jnp.max(jnp.linalg.eigvalsh(jax.lax.stop_gradient(jacobian + jacobian.T) / 2))
        step = jnp.minimum(step, 2 / jnp.maximum(fastest, 2 / step))
        state = state + _exponential_step(jacobian, rate, jnp.zeros_like(drift), step)
        return state, state

    def advance(state: Array, data: tuple[Array, Array]) -> tuple[Array, Array]:
        sigma, step = data
        rate, jacobian, drift = response(state, sigma)
        speed = 1 + jnp.asarray(eta).astype(dtype)
        state = state + _exponential_step(speed * jacobian, speed * rate, speed * drift, step)
        return state, state

    num = levels.shape[0]
    if adiabatic:
        last = len(_RELAXATION_STEPS) - 1
        lengths = [_RELAXATION_STEPS[min(j, last)] for j in range(num_substeps)]
        lengths = jnp.tile(jnp.asarray(lengths, dtype), num)
        _, path = jax.lax.scan(relax, start, (jnp.repeat(levels, num_substeps), lengths))
        return path[num_substeps - 1 :: num_substeps]
    if num == 1:
        return start[None]
    steps = -jnp.diff(jnp.log(levels)) / num_substeps
    within = jnp.arange(num_substeps, dtype=dtype)
    fine = levels[:-1, None] * jnp.exp(-steps[:, None] * within)
    _, path = jax.lax.scan(advance, start, (fine.reshape(-1), jnp.repeat(steps, num_substeps)))
    return jnp.concatenate([start[None], path[num_substeps - 1 :: num_substeps]])


def homogeneous_growth_rate(
    bank: Bank,
    sigmas: Float[ArrayLike, " num"],
    states: Float[ArrayLike, "num C"],
    *,
    eta: Scalar = 0.0,
    frame: str = "ve",
    readout: str = "centre",
    block_size: int | None = None,
) -> Float[Array, " num"]:
    r"""Compute the growth rate of uniform perturbations, which tells whether the homogeneous state is stable.

    .. math:: \Gamma(0, \sigma) = (1 + \eta) (\max \mathrm{Re\,eig}\, \hat D(0, \sigma) - 1)

    Parameters
    ----------
    bank, sigmas, readout, block_size
        As for `homogeneous_state`.
    states : float array (num, C)
        Its result.
    eta, frame
        As for `growth_rate`.

    Returns
    -------
    float array (num,)
        Positive where the state is unstable; symbols from there on describe a state that generation has left.

    Raises
    ------
    ValueError, TypeError
        As `homogeneous_state`, and if ``states`` does not match.

    Notes
    -----
    One pass over the bank for all levels. THEORY section 3.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> sigmas = jnp.array([6.0, 3.0, 1.5])
    >>> print(homogeneous_growth_rate(two_pattern_bank(3), sigmas, jnp.zeros((3, 1))))
    [-0.75  0.    3.  ]
    """
    check_bank(bank, readout)
    check_option("frame", frame, FRAMES)
    levels, values = _ladder_of_states(bank, sigmas, states)
    block_size = check_block_size(block_size)
    return _homogeneous_growth_rate(
        bank, levels, values, as_eta(eta), frame=frame, readout=readout, block_size=block_size
    )


def _ladder_of_states(bank: Bank, sigmas: Any, states: Any) -> tuple[Array, ArrayLike]:
    """Return noise levels (num,) and the homogeneous states (num, C) that belong to them, or raise."""
    levels, values = as_sigmas("sigmas", sigmas), states if hasattr(states, "dtype") else np.asarray(states)
    wanted = (levels.shape[0], bank.channels)
    got = f"shape {tuple(values.shape)}"
    check(tuple(values.shape) == wanted, "states", f"shape {wanted}", got, "use the same ladder")
    return levels, values


@program(static_argnames=("frame", "readout", "block_size"))
def _homogeneous_growth_rate(
    bank: Bank,
    levels: Array,
    values: Array,
    eta: Any,
    *,
    frame: str,
    readout: str,
    block_size: int | None,
) -> Array:
    dtype = working_dtype(bank)
    levels, values = levels.astype(dtype), values.astype(dtype)

    def rate(sigma: Array, state: Array) -> Array:
        matrix = uniform_symbol(bank, sigma, state=state, readout=readout, block_size=block_size)[None, None]
        return growth_rate(matrix, sigma, eta=eta, frame=frame)[0, 0]

    return jax.vmap(rate)(levels, values)


def bank_symbol_fn(
    bank: Bank,
    grid: Sequence[int],
    *,
    sigmas: Float[ArrayLike, " num"] | None = None,
    states: Float[ArrayLike, "num C"] | None = None,
    readout: str = "centre",
    block_size: int | None = None,
) -> SymbolFn:
    r"""Turn a bank into a symbol function of the noise level, along a ladder of homogeneous states.

    Parameters
    ----------
    bank, readout, block_size
        As for `response_kernel`.
    grid : (H, W)
        Static size of the noisy image.
    sigmas : float array (num,), optional
        The noise levels of ``states``, strictly decreasing.
    states : float array (num, C), optional
        Homogeneous states, as `homogeneous_state` returns them; linear interpolation in ln sigma between
        levels. Default: zero at every noise level.

    Returns
    -------
    SymbolFn
        ``(sigma) -> (H, W, C, C)``, see `symbol`; NaN outside the range of ``sigmas``, where no state is
        known. A pytree of the bank and the states: programs that take it serve all banks of one shape.

    Raises
    ------
    ValueError, TypeError
        As `symbol`; if only one of ``sigmas`` and ``states`` is given or their lengths differ.

    Notes
    -----
    Exact at the levels; between them the state's interpolation error is second order in the ladder spacing.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> symbol_fn = bank_symbol_fn(two_pattern_bank(3), (8, 8))
    >>> complex(symbol_fn(1.5)[0, 0, 0, 0])
    (4+0j)
    """
    check_bank(bank, readout)
    grid = check_grid(grid)
    given = "sigmas without states" if states is None else "states without sigmas"
    advice = "pass homogeneous_state's ladder and its result together"
    check((sigmas is None) == (states is None), "states", "both sigmas and states, or neither", given, advice)
    path = None if sigmas is None else _ladder_of_states(bank, sigmas, states)
    return _BankSymbol(bank, path, grid, readout, check_block_size(block_size))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["bank", "path"],
    meta_fields=["grid", "readout", "block_size"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class _BankSymbol:
    """What `bank_symbol_fn` returns; ``path`` holds noise levels and states, or is None for the state zero."""

    bank: Any
    path: Any
    grid: Any
    readout: Any
    block_size: Any

    def __call__(self, sigma: Scalar) -> Complex[Array, "H W C C"]:
        """Compute the symbol at a noise level."""
        options = {"readout": self.readout, "block_size": self.block_size}
        if self.path is None:
            return symbol(self.bank, sigma, self.grid, **options)
        return _symbol_along(self.bank, self.path, as_sigma(sigma), grid=self.grid, **options)


@program(static_argnames=("grid", "readout", "block_size"))
def _symbol_along(bank: Bank, path: Any, sigma: Any, *, grid: tuple[int, int], **options: Any) -> Array:
    return symbol(bank, sigma, grid, state=interpolate_states(sigma, *path), **options)


def interpolate_states(sigma: Any, sigmas: Array, states: Array) -> Array:
    """Interpolate (num, C) linearly in ln sigma between decreasing levels; NaN outside."""
    rising = -jnp.log(sigmas)
    position = -jnp.log(jnp.asarray(sigma).astype(sigmas.dtype))
    return jax.vmap(lambda m: jnp.interp(position, rising, m, left=jnp.nan, right=jnp.nan), 1)(states)
