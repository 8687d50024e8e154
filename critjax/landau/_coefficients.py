r"""Ginzburg-Landau coefficients of a bank: cumulants of the patch posterior at a homogeneous state.

The denoiser is the derivative of a cumulant generating function, so its expansion about the state is exact at any
noise level: second cumulants give the linear part, third and fourth the nonlinearity (THEORY section 4).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, is_concrete
from critjax._programs import program
from critjax._typing import Array, ArrayLike, Complex, Float, Scalar
from critjax.banks import ImageBank, PatchBank
from critjax.fourier import kernel_offsets
from critjax.spectra import leading_eigenvalue, response_kernel, right_eigenvector
from critjax.spectra._inputs import as_sigma
from critjax.spectra.posterior import (
    check_bank,
    check_state,
    posterior_average,
    posterior_moments,
    working_dtype,
)

Bank = PatchBank | ImageBank

# Directions that determine a quadratic form (any three of them) and a quartic form.
_ANGLES = np.arange(5) * np.pi / 5
_DIRECTIONS = np.stack([np.sin(_ANGLES), np.cos(_ANGLES)], axis=-1)  # (y, x)
#: Directions on which the sign of the quartic form is tested.
_CIRCLE = np.stack([np.sin(np.arange(64) * np.pi / 64), np.cos(np.arange(64) * np.pi / 64)], axis=-1)


class LandauCoefficients(NamedTuple):
    """Coefficients of the reduced equation, see `landau_coefficients`.

    Complex if several channels meet in a travelling uniform mode; real otherwise.
    """

    r: Array
    """1 - lambda(0), dimensionless: the linear term, negative where the uniform mode grows."""
    K: Float[Array, "2 2"]
    """Stiffness in pixel^2, axes (y, x), symmetric."""
    L: Float[Array, " 5"]
    """Quartic form in pixel^4: ``L(k) = sum_j binom(4, j) L[j] k_y^(4-j) k_x^j``."""
    v: Float[Array, " 2"]
    """Drift in pixels per e-fold of sigma and 1 + eta, axes (y, x)."""
    h: Array
    """Quadratic coefficient; zero for banks symmetric about the state."""
    u: Array
    """Cubic coefficient; positive where the pitchfork is supercritical."""
    well_posed: Array
    """Whether L(k) > 0 in every direction, so that the truncated linear part damps short waves."""
    right: Array
    """(C,) right eigenvector of the uniform mode: the field is ``state + psi * right``; [1] for one channel."""
    left: Array
    """(C,) left eigenvector, ``left . right = 1`` without conjugation: ``psi = left . (x - state)``."""


class AmplitudeCoefficients(NamedTuple):
    """Coefficients of the amplitude equation about a finite wavevector, see `amplitude_coefficients`."""

    r: Complex[Array, ""]
    """1 - lambda(k_c); its imaginary part is minus the frequency over 1 + eta."""
    curvature: Complex[Array, ""]
    """L' = -lambda''(k_c)/(8 k_c^2) along k_c, in pixel^4."""
    cubic: Complex[Array, ""]
    """Saturation of one plane wave ``A e exp(i k_c.j) + c.c.``; THEORY's gam, exact for symmetric banks."""
    right: Complex[Array, " C"]
    left: Complex[Array, " C"]


def quartic_form(coefficients: ArrayLike, wavevector: Any) -> Array:
    """Evaluate ``L(k)`` of `LandauCoefficients.L` at wavevectors (..., 2), axes (y, x).

    Example
    -------
    >>> float(quartic_form(np.array([1.0, 0.0, 2.0, 0.0, 1.0]), (1.0, 2.0)))  # (k_y^2 + k_x^2)^2 + 10 k_y^2 k_x^2
    65.0
    """
    return _quartic_form(coefficients, wavevector if hasattr(wavevector, "dtype") else np.asarray(wavevector))


@program
def _quartic_form(coefficients: Array, k: Array) -> Array:
    y, x = k[..., 0], k[..., 1]
    binomials = (1, 4, 6, 4, 1)
    return jnp.sum(jnp.stack([n * coefficients[j] * y ** (4 - j) * x**j for j, n in enumerate(binomials)]), 0)


def _eigenvectors(matrix: Array) -> tuple[Array, Array, Array]:
    """Return the leading eigenvalue of (C, C) with right and left eigenvectors, left . right = 1, real if it is."""
    if matrix.shape[0] == 1:
        one = jnp.ones((1,), matrix.dtype)
        return matrix[0, 0], one, one
    value = leading_eigenvalue(matrix)
    right, left = right_eigenvector(matrix, value), right_eigenvector(matrix.T, value)
    return value, right, left / jnp.sum(left * right)


def _taylor(kernel: Array, direction: Array, order: int, carrier: Array | None = None) -> list[Array]:
    """Expand the symbol along a direction: matrices D_n of ``Dhat(carrier + s direction) = sum_n D_n s^n``."""
    along = kernel_offsets(kernel.shape[:2], dtype=kernel.real.dtype) @ direction
    if carrier is not None:
        phase = kernel_offsets(kernel.shape[:2], dtype=kernel.real.dtype) @ carrier
        kernel = kernel * jnp.exp(1j * phase)[..., None, None]
    powers, term = [], jnp.ones_like(along) + 0j
    for n in range(order + 1):
        powers.append(jnp.sum(kernel * term[..., None, None], axis=(0, 1)))
        term = term * 1j * along / (n + 1)
    return powers


def _eigenvalue_series(matrices: list[Array], value: Array, right: Array, left: Array) -> list[Array]:
    """Follow a simple eigenvalue through a power series of matrices (Rayleigh-Schroedinger)."""
    if matrices[0].shape[0] == 1:
        return [m[0, 0] for m in matrices]
    size = matrices[0].shape[0]
    identity = jnp.eye(size, dtype=matrices[0].dtype)
    # On vectors without component along the mode this inverts D_0 - lambda; elsewhere it is regular.
    inverse = jnp.linalg.inv(matrices[0] - value * identity + jnp.outer(right, left))
    values, vectors = [value], [right.astype(matrices[0].dtype)]
    for n in range(1, len(matrices)):
        earlier = [matrices[m] @ vectors[n - m] for m in range(1, n + 1)]
        values.append(left @ jnp.sum(jnp.stack(earlier), axis=0))
        moved = [part - values[m] * vectors[n - m] for m, part in enumerate(earlier, start=1)]
        source = jnp.sum(jnp.stack(moved), axis=0)
        vector = -inverse @ source
        vectors.append(vector - right * (left @ vector))
    return values


def _inputs(bank: Any, sigma: Any, state: Any) -> tuple[Bank, Any, ArrayLike]:
    """Check what both programs take."""
    check_bank(bank, "centre")
    return bank, as_sigma(sigma), check_state(bank, state)


def landau_coefficients(
    bank: Bank, sigma: Scalar, *, state: Float[ArrayLike, " C"] | None = None
) -> LandauCoefficients:
    r"""Expand the denoiser of a bank about a homogeneous state, for slow fields.

    .. math::
        \frac{d\psi}{d\tau} = (1+\eta)\left[-r\psi + K_{ab}\partial_a\partial_b\psi - L\nabla^4\psi
        + v\cdot\nabla\psi + h\psi^2 - u\psi^3\right] + \sqrt{2\eta}\,\sigma\,\xi

    with :math:`r = 1 - \hat D(0)`, :math:`K_{ab} = \frac12\sum_r g(r) r_a r_b`, :math:`v = \sum_r g(r) r`,
    :math:`L(\hat k) = -\frac1{24}\sum_r g(r)(\hat k\cdot r)^4`, :math:`h = \kappa_3(\phi_0, S, S)/2\sigma^4` and
    :math:`u = -\kappa_4(\phi_0, S, S, S)/6\sigma^6`, cumulants under the posterior at the state,
    :math:`S = \sum_r \phi(r)`.

    Parameters
    ----------
    bank : PatchBank or ImageBank
        Positions "all" or "interior"; centre readout, periodic boundary.
    sigma : scalar > 0
        Standard deviation of the noise.
    state : float array (C,), optional
        Homogeneous state, e.g. a row of `homogeneous_state`. Default zero.

    Returns
    -------
    LandauCoefficients
        In the bank's dtype, at least float32. NaN if every candidate has zero weight. With several channels the
        coefficients are those of the leading uniform mode, by projection on its right and left eigenvectors, K and L
        from the curvature of its eigenvalue.

    Raises
    ------
    ValueError, TypeError
        For a bank without a common kernel, a wrong state shape or a concrete sigma <= 0.

    Notes
    -----
    Exact at any sigma; no patch of an image is formed. Three passes over the bank, vmappable over
    ``(sigma, state)``. L is negative for positive covariances, and the truncation then ill-posed: see ``well_posed``.
    The expansion is in powers of psi and of gradients; nonlinear gradient terms, the third-order dispersion and the
    stable modes of other channels are left out. THEORY section 4; Cross & Hohenberg 1993.

    Example
    -------
    >>> from critjax.banks import two_pattern_bank
    >>> c = landau_coefficients(two_pattern_bank(3), 2.0)  # P / sigma^2 = 9/4
    >>> float(c.r), round(float(c.K[0, 0]), 5), round(float(c.u), 4), bool(c.well_posed)
    (-1.25, 0.75, 3.7969, False)
    """
    return _landau_coefficients(*_inputs(bank, sigma, state))


@program
def _landau_coefficients(bank: Bank, sigma: Any, state: Array) -> LandauCoefficients:
    kernel = response_kernel(bank, sigma, state=state)
    expansion = expand_kernel(kernel)
    cumulants = _uniform_cumulants(bank, sigma, state, expansion.right, expansion.left)
    variance = jnp.asarray(sigma).astype(kernel.dtype) ** 2
    return assemble(expansion, cumulants[0] / (2 * variance**2), -cumulants[1] / (6 * variance**3))


class KernelExpansion(NamedTuple):
    """What a response kernel says of slow plane waves: eigenvalue, its derivatives in k, eigenvectors."""

    value: Array
    drift: Array
    stiffness: Array
    quartic: Array
    right: Array
    left: Array


def expand_kernel(kernel: Array) -> KernelExpansion:
    """Expand the leading eigenvalue of a kernel's symbol about k = 0, to fourth order in every direction."""
    dtype = kernel.dtype
    directions = jnp.asarray(_DIRECTIONS, dtype)
    value, right, left = _eigenvectors(jnp.sum(kernel, axis=(0, 1)))

    def series(direction: Array) -> Array:
        return jnp.stack(_eigenvalue_series(_taylor(kernel, direction, 4), value, right, left))

    along = jax.vmap(series)(directions)  # (5, 5): directions, orders
    y, x = _DIRECTIONS.T
    quadratic = np.stack([y * y, 2 * x * y, x * x], axis=-1)
    quartic = np.stack([n * y ** (4 - j) * x**j for j, n in enumerate((1, 4, 6, 4, 1))], axis=-1)

    def fit(form: np.ndarray, values: Array) -> Array:
        return jnp.matmul(
            jnp.asarray(np.linalg.pinv(form), dtype), values, precision=jax.lax.Precision.HIGHEST
        )

    stiffness = -fit(quadratic, along[:, 2])
    return KernelExpansion(
        value,
        fit(_DIRECTIONS, along[:, 1] / 1j),
        jnp.stack([stiffness[:2], stiffness[1:]]),
        -fit(quartic, along[:, 4]),
        right,
        left,
    )


def assemble(expansion: KernelExpansion, h: Array, u: Array) -> LandauCoefficients:
    """Join the linear and the nonlinear coefficients, real where the uniform mode does not oscillate."""
    circle = jnp.asarray(_CIRCLE, expansion.right.real.dtype)
    result = LandauCoefficients(
        r=1 - expansion.value,
        K=expansion.stiffness,
        L=expansion.quartic,
        v=expansion.drift,
        h=h,
        u=u,
        well_posed=jnp.all(quartic_form(expansion.quartic, circle).real > 0),
        right=expansion.right,
        left=expansion.left,
    )
    # One channel is real by construction; of several, a real mode of a real matrix.
    if expansion.right.shape[0] == 1:
        return jax.tree.map(lambda a: a.real, result)
    return _real_if_real(result, expansion.value)


def _real_if_real(result: LandauCoefficients, value: Array) -> LandauCoefficients:
    """Drop rounding in the imaginary part where the uniform mode does not oscillate."""
    still = jnp.abs(value.imag) <= 1e3 * jnp.finfo(value.dtype).eps * jnp.abs(value)
    clean = jax.tree.map(lambda a: jnp.where(still, a.real, a), result._replace(well_posed=jnp.zeros(())))
    return clean._replace(well_posed=result.well_posed, K=clean.K.real, L=clean.L.real, v=clean.v.real)


def _centred(bank: Bank, sigma: Any, state: Array, project, wavevector: Array | None):
    """Return a function that averages products of centred projections (A, B) under the posterior."""
    log_evidence = posterior_moments(bank, sigma, state, uniform=True).log_evidence
    means = posterior_average(
        bank, sigma, state, log_evidence, lambda *parts: jnp.stack(project(*parts)), wavevector=wavevector
    )

    def average(products) -> Array:
        def statistic(centres: Array, sums: Array) -> Array:
            a, b = project(centres, sums)
            return jnp.stack(products(a - means[0], b - means[1]))

        return posterior_average(bank, sigma, state, log_evidence, statistic, wavevector=wavevector)

    return average


def _uniform_cumulants(
    bank: Bank, sigma: Any, state: Array, right: Array, left: Array
) -> tuple[Array, Array]:
    """Return k3(A, S, S) and k4(A, S, S, S) of A = left . phi(0) and S = sum_r right . phi(r)."""
    average = _centred(bank, sigma, state, lambda centres, sums: (left @ centres, right @ sums), None)
    ab, abb, abbb, bb = average(lambda a, b: (a * b, a * b**2, a * b**3, b**2))
    return abb, abbb - 3 * ab * bb


def amplitude_coefficients(
    bank: Bank,
    wavevector: Float[ArrayLike, " 2"],
    sigma: Scalar,
    *,
    state: Float[ArrayLike, " C"] | None = None,
) -> AmplitudeCoefficients:
    r"""Expand the denoiser of a bank about a pattern with a finite wavevector.

    .. math::
        \frac{dA}{d\tau} = (1+\eta)(-r A - \gamma |A|^2 A), \qquad
        \gamma = -\frac{\kappa_4(\phi_0, \Phi_k, \Phi_k, \Phi_{-k})}{2\sigma^6}, \qquad
        \Phi_k = \sum_r \phi(r) e^{i k \cdot r}

    and :math:`\hat D(k) - 1 = -r - L'(k^2 - k_c^2)^2` along the wavevector, :math:`L' = -\hat D''(k_c)/8k_c^2`.

    Parameters
    ----------
    bank, sigma, state
        As for `landau_coefficients`.
    wavevector : float array (2,)
        (k_y, k_x) in rad per pixel, not zero: usually that of `critical_point`.

    Returns
    -------
    AmplitudeCoefficients
        Complex; the plateau of one wave is ``|A|^2 = -Re r / Re cubic``.

    Raises
    ------
    ValueError, TypeError
        As `landau_coefficients`, and for a concrete wavevector that is zero.

    Notes
    -----
    Exact for banks symmetric about the state; without that symmetry quadratic terms feed the cubic one through
    0 and 2k, which is left out. One wave only: a square grid selects a star of wavevectors, whose members compete.
    THEORY section 4; Cross & Hohenberg 1993, Rev. Mod. Phys. 65, 851.

    Example
    -------
    >>> from critjax.banks import stripe_bank
    >>> bank = stripe_bank(9, 6.0, num_phases=8, orientations=(0.0,))
    >>> c = amplitude_coefficients(bank, jnp.array([0.0, 2 * jnp.pi / 6]), 3.0)
    >>> bool(c.cubic.real > 0)
    True
    """
    bank, sigma, state = _inputs(bank, sigma, state)
    wavevector = wavevector if hasattr(wavevector, "dtype") else np.asarray(wavevector, float)
    got = f"shape {tuple(wavevector.shape)}"
    check(tuple(wavevector.shape) == (2,), "wavevector", "shape (2,)", got, "pass (k_y, k_x)")
    if is_concrete(wavevector):
        zero = "use landau_coefficients for the uniform mode"
        check(bool(np.any(np.asarray(wavevector))), "wavevector", "not zero", "zero", zero)
    return _amplitude_coefficients(bank, wavevector, sigma, state)


@program
def _amplitude_coefficients(bank: Bank, wavevector: Array, sigma: Any, state: Array) -> AmplitudeCoefficients:
    dtype = working_dtype(bank)
    carrier = wavevector.astype(dtype)
    kernel = response_kernel(bank, sigma, state=state)
    length = jnp.sqrt(jnp.sum(carrier**2))
    matrices = _taylor(kernel, carrier / length, 2, carrier)
    value, right, left = _eigenvectors(matrices[0])
    second = 2 * _eigenvalue_series(matrices, value, right, left)[2]
    average = _centred(bank, sigma, state, lambda centres, sums: (left @ centres, right @ sums), carrier)
    abbc, ab, bc, ac, bb = average(
        lambda a, b: (a * b * b * b.conj(), a * b, b * b.conj(), a * b.conj(), b * b)
    )
    variance = jnp.asarray(sigma).astype(dtype) ** 2
    cubic = -(abbc - 2 * ab * bc - ac * bb) / (2 * variance**3)
    return AmplitudeCoefficients(1 - value, -second / (8 * length**2), cubic, right, left)
