"""Derivatives of patch scores against finite differences of the numpy oracle, both modes, to second order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from patch_cases import LEGAL, Case, with_methods

from critjax.patch_score import effective_patches, patch_denoiser

SIGMA = 0.9
CASES = [Case(*row, 3, (4, 5), 1, 4 if row[0] == "patches" else 3, None, "excluded") for row in LEGAL]
EVEN_CASES = [Case(*row, 2, (3, 4), 2, 3, None, "random") for row in LEGAL if row[3] == "average"]
ROUTES = with_methods(CASES + EVEN_CASES)
NAMES = ("x", "sigma", "data", "log_prior")


def _model(case, method):
    """Return (x, sigma, data, log_prior) -> D built by the library, differentiable in all four."""
    _, data, log_prior = case.arrays()
    template = case.bank(data, log_prior)
    name = "patches" if case.kind == "patches" else "images"
    options = {**case.model, "method": method, "block_size": 3}

    def fn(x, sigma, data, log_prior):
        return patch_denoiser(template.replace(**{name: data, "log_prior": log_prior}), **options)(x, sigma)

    return fn


@functools.cache
def _point(case):
    x, data, log_prior = case.arrays()
    return x, np.float64(SIGMA), data, log_prior


@functools.cache
def _cotangent(case):
    return np.random.default_rng(11).normal(size=(*case.grid, case.channels))


def _oracle(case, *point):
    x, sigma, data, log_prior = point
    return case.reference(x, sigma, data, log_prior).denoised


def _with(point, position, value):
    return (*point[:position], value, *point[position + 1 :])


@functools.cache
def _numerical_gradients(case):
    """Finite differences of <cotangent, D> of the oracle with respect to each of the four arguments."""
    point = _point(case)
    gradients = []
    for position in range(4):
        gradients.append(
            reference.numerical_gradient(
                lambda value, p=position: np.sum(_cotangent(case) * _oracle(case, *_with(point, p, value))),
                np.asarray(point[position]),
            )
        )
    return tuple(gradients)


@pytest.mark.parametrize(("case", "method"), **ROUTES)
def test_reverse_mode_equals_finite_differences_of_the_oracle(case, method):
    fn, point = _model(case, method), _point(case)
    grad = jax.jit(lambda ct, *args: jax.vjp(fn, *args)[1](ct))
    found = grad(_cotangent(case), *point)
    for name, one, expected in zip(NAMES, found, _numerical_gradients(case), strict=True):
        assert np.max(np.abs(expected)) > 1e-3, name  # the test itself must have something to see
        np.testing.assert_allclose(one, expected, rtol=1e-7, atol=1e-9, err_msg=name)
    if case.prior == "excluded":
        assert found[3][case.count // 2] == 0.0


@pytest.mark.parametrize(("case", "method"), **ROUTES)
def test_forward_mode_equals_finite_differences_of_the_oracle(case, method):
    fn, point = _model(case, method), _point(case)
    push = jax.jit(lambda primals, tangents: jax.jvp(fn, primals, tangents))
    rng = np.random.default_rng(12)
    for position, name in enumerate(NAMES):
        direction = np.asarray(rng.normal(size=np.shape(point[position])))
        tangents = tuple(direction if i == position else np.zeros(np.shape(p)) for i, p in enumerate(point))
        value, found = push(point, tangents)
        expected = reference.central_difference(
            lambda v, p=position: _oracle(case, *_with(point, p, v)), point[position], direction
        )
        assert np.max(np.abs(expected)) > 1e-3, name
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(value, _oracle(case, *point), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("case", "method"), **ROUTES)
def test_jacobian_is_the_covariance_form(case, method):
    x, sigma, data, log_prior = _point(case)
    fn = _model(case, method)
    expected = reference.jacobian(x, sigma, data, log_prior, **case.oracle_options)
    found = jax.jit(lambda y: jax.jacfwd(fn)(y, sigma, data, log_prior))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    if case.readout == "average" and case.boundary == "periodic":
        matrix = np.reshape(found, (x.size, x.size))
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("case", "method"), **ROUTES)
def test_hessian_vector_product_equals_finite_differences_of_the_gradient(case, method):
    x, sigma, data, log_prior = _point(case)
    fn, cotangent = _model(case, method), _cotangent(case)
    v = np.random.default_rng(13).normal(size=x.shape)

    def energy(y):
        return jnp.sum(cotangent * fn(y, sigma, data, log_prior))

    def oracle_gradient(y):
        return np.tensordot(
            cotangent, reference.jacobian(y, sigma, data, log_prior, **case.oracle_options), 3
        )

    gradient, found = jax.jit(lambda y, t: jax.jvp(jax.grad(energy), (y,), (t,)))(x, v)
    expected = reference.central_difference(oracle_gradient, x, v)
    assert np.max(np.abs(expected)) > 1e-3
    np.testing.assert_allclose(gradient, oracle_gradient(x), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


SECOND_ORDER = with_methods(
    [case for case in CASES if case.readout == "centre" and case.boundary == "periodic"]
)


@pytest.mark.parametrize(("case", "method"), **SECOND_ORDER)
def test_second_derivatives_in_every_order_of_modes(case, method):
    """Reverse over reverse and forward over forward agree with forward over reverse; sigma, data too."""
    x, sigma, data, log_prior = _point(case)
    fn, cotangent = _model(case, method), _cotangent(case)
    v = np.random.default_rng(14).normal(size=x.shape)

    def along(s, d):  # <cotangent, J v> by forward mode: a function of sigma and of the bank
        return jnp.sum(cotangent * jax.jvp(lambda y: fn(y, s, d, log_prior), (x,), (v,))[1])

    def oracle_along(s, d):
        matrix = reference.jacobian(x, s, d, log_prior, **case.oracle_options)
        return np.sum(cotangent * np.tensordot(matrix, v, 3))

    by_sigma, by_data = jax.jit(jax.grad(along, (0, 1)))(sigma, data)
    expected = reference.numerical_gradient(lambda s: oracle_along(s, data), sigma)
    np.testing.assert_allclose(by_sigma, expected, rtol=1e-6, atol=1e-8)
    w = np.random.default_rng(15).normal(size=data.shape)
    expected = reference.central_difference(lambda d: oracle_along(sigma, d), data, w)
    np.testing.assert_allclose(np.sum(w * by_data), expected, rtol=1e-6, atol=1e-8)

    def energy(y):
        return jnp.sum(cotangent * fn(y, sigma, data, log_prior))

    hv_reverse = jax.jit(jax.grad(lambda y: jnp.sum(v * jax.grad(energy)(y))))(x)
    hv_forward = jax.jit(lambda y: jax.jvp(jax.grad(energy), (y,), (v,))[1])(x)
    np.testing.assert_allclose(hv_reverse, hv_forward, rtol=1e-9, atol=1e-11)
    twice = jax.jit(lambda y: jax.jvp(lambda z: jax.jvp(energy, (z,), (v,))[1], (y,), (v,))[1])(x)
    np.testing.assert_allclose(twice, np.sum(v * hv_forward), rtol=1e-9, atol=1e-11)


EFFECTIVE = with_methods([case for case in CASES if case.readout == "centre"])


@pytest.mark.parametrize(("case", "method"), **EFFECTIVE)
def test_effective_patches_are_differentiable(case, method):
    x, sigma, data, log_prior = _point(case)
    bank = case.bank(data, log_prior)
    cotangent = _cotangent(case)[..., 0]

    def total(y, s):
        return jnp.sum(cotangent * effective_patches(bank, **case.model, method=method)(y, s))

    def oracle(y, s):
        return np.sum(cotangent * case.reference(y, s, data, log_prior).effective)

    by_x, by_sigma = jax.jit(jax.grad(total, (0, 1)))(x, sigma)
    np.testing.assert_allclose(
        by_x, reference.numerical_gradient(lambda y: oracle(y, sigma), x), rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(
        by_sigma, reference.numerical_gradient(lambda s: oracle(x, s), sigma), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize(("case", "method"), **with_methods(CASES))
def test_derivatives_stay_finite_and_right_in_float32(case, method):
    x, sigma, data, log_prior = _point(case)
    fn = _model(case, method)
    single = [np.asarray(v, np.float32) for v in (x, sigma, data, log_prior)]
    expected = jax.jit(lambda ct, *a: jax.vjp(fn, *a)[1](ct))(_cotangent(case), x, sigma, data, log_prior)
    reverse = jax.jit(lambda ct, *a: jax.vjp(fn, *a)[1](ct))
    found = reverse(np.float32(_cotangent(case)), *single)
    for name, one, two in zip(NAMES, found, expected, strict=True):
        assert one.dtype == np.float32, name
        np.testing.assert_allclose(one, two, atol=1e-4 * float(np.max(np.abs(two))), err_msg=name)
    for level in (1e-3, 1e3):  # one candidate left, or the prior alone: D ignores x
        point = (single[0], np.float32(level), *single[2:])
        by_x, by_sigma, by_data, by_prior = reverse(np.float32(_cotangent(case)), *point)
        assert np.max(np.abs(by_x)) < 1e-4
        for gradient in (by_sigma, by_data, by_prior):
            assert np.all(np.isfinite(gradient))


def test_gradients_reach_every_member_of_a_stack_of_banks():
    case = CASES[0]
    problems = [case.arrays(seed) for seed in range(2)]
    x = problems[0][0]
    data = np.stack([p[1] for p in problems])
    log_prior = np.stack([p[2] for p in problems])
    cotangent = _cotangent(case)
    fn = _model(case, "auto")
    mapped = jax.jit(
        jax.grad(lambda d: jnp.sum(cotangent * jax.vmap(fn, (None, None, 0, 0))(x, SIGMA, d, log_prior)))
    )
    found = mapped(data)
    for i in range(2):
        expected = reference.numerical_gradient(
            lambda d, k=i: np.sum(cotangent * _oracle(case, x, SIGMA, d, log_prior[k])), data[i]
        )
        np.testing.assert_allclose(found[i], expected, rtol=1e-7, atol=1e-9)


# ---- memory
MEMORY_CASES = with_methods(
    [
        Case("images", "all", "periodic", "centre", 5, (16, 16), 1, 8),
        Case("images", "all", "zero", "centre", 5, (16, 16), 1, 8),
        Case("images", "interior", "periodic", "centre", 5, (16, 16), 1, 8),
        Case("images", "interior", "periodic", "average", 5, (16, 16), 1, 8),
        Case("images", "same", "periodic", "centre", 5, (16, 16), 1, 8),
        Case("images", "same", "zero", "average", 5, (16, 16), 1, 8),
        Case("patches", None, "periodic", "centre", 5, (16, 16), 1, 512),
        Case("patches", None, "periodic", "average", 5, (16, 16), 1, 512),
    ]
)


def _programs(case, method, block_size):
    def denoise(bank, x):
        return patch_denoiser(bank, **case.model, method=method, block_size=block_size)(x, jnp.float32(0.5))

    def energy(bank, x):
        return jnp.sum(denoise(bank, x) ** 2)

    gradient = jax.grad(energy, 1)
    return {
        "value": lambda bank, x: denoise(bank, x),
        "jvp": lambda bank, x: jax.jvp(lambda y: denoise(bank, y), (x,), (x,))[1],
        "grad": gradient,
        "jvp of grad": lambda bank, x: jax.jvp(lambda y: gradient(bank, y), (x,), (x,))[1],
    }


@pytest.mark.parametrize(("case", "method"), **MEMORY_CASES)
def test_memory_does_not_grow_with_the_bank(case, method):
    """Temporary memory at four times the candidates is that of the smaller bank, in every mode."""
    block_size = 64 if case.kind == "patches" else 2
    used = {}
    for factor in (1, 4):
        x, data, log_prior = case._replace(count=factor * case.count).arrays(dtype=np.float32)
        bank = case.bank(data, log_prior)
        for name, program in _programs(case, method, block_size).items():
            analysis = jax.jit(program).lower(bank, x).compile().memory_analysis()
            used[name, factor] = analysis.temp_size_in_bytes
    for name in ("value", "jvp", "grad", "jvp of grad"):
        assert used[name, 1] > 0
        assert used[name, 4] <= 1.2 * used[name, 1], (name, used)
