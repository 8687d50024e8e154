"""Derivatives of patch scores against finite differences of the numpy oracle, both modes, to second order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from patch_cases import LEGAL, Case, budget, with_methods

from critjax.banks import ImageBank
from critjax.patch_score import effective_patches, patch_denoiser

SIGMA = 0.9
#: Noise levels of float32: as in float64, one where one candidate is left, one where the prior alone is.
NARROW = np.float32([SIGMA, 1e-3, 1e3])
NAMES = ("x", "sigma", "data", "log_prior")
CASES = [Case(*row, 3, (4, 5), 1, 4 if row[0] == "patches" else 3, None, "excluded") for row in LEGAL]
#: One route of each kind; the others are slow tests.
FAST = [(CASES[i], method) for i, method in ((0, "product"), (0, "convolution"), (2, "product"), (9, "box"))]


def _routes(cases, slow=lambda *_: False):
    """Return what `with_methods` does, without window sums where derivatives are taken by products anyway."""
    every = with_methods(cases, slow)
    return [p for p in every if p.values[1] != "box" or p.values[0].positions == "same"]


ROUTES = _routes(CASES, lambda *pair: pair not in FAST)
COLOUR = [case._replace(channels=3) for case in CASES]
EVEN = [Case(*row, 2, (3, 4), 2, 3, None, "random") for row in LEGAL if row[3] == "average"]


def _model(case, method):
    """Return (x, sigma, data, log_prior) -> D built by the library, differentiable in all four."""
    _, data, log_prior = case.arrays()
    template = case.bank(data, log_prior)
    name = "patches" if case.kind == "patches" else "images"
    options = {**case.model, "method": method, "memory_budget": 2 * budget(case)}  # derivatives take half

    def fn(x, sigma, data, log_prior):
        return patch_denoiser(template.replace(**{name: data, "log_prior": log_prior}), **options)(x, sigma)

    return fn


@functools.cache
def _point(case):
    x, data, log_prior = case.arrays()
    return x, np.float64(SIGMA), data, log_prior


@functools.cache
def _directions(case):
    """One random direction for each argument; also where the prior is -inf, which nothing may notice."""
    rng = np.random.default_rng(12)
    return tuple(np.asarray(rng.normal(size=np.shape(p))) for p in _point(case))


@functools.cache
def _cotangent(case):
    return np.random.default_rng(11).normal(size=(*case.grid, case.channels))


@functools.cache
def _derivatives(case, method):
    """Everything that one route says, from one compiled program."""
    fn = _model(case, method)
    x = _point(case)[0]

    def everything(point, cotangent, directions):
        def energy(y):
            return jnp.sum(cotangent * fn(y, *point[1:]))

        # Forward mode along each pixel of x, then along one random direction of every argument.
        tangents = []
        for i, direction in enumerate(directions):
            rows = [
                jnp.zeros((x.size, *direction.shape)),
                jnp.zeros((4, *direction.shape)).at[i].set(direction),
            ]
            if i == 0:
                rows[0] = jnp.eye(x.size).reshape(x.size, *x.shape)
            tangents.append(jnp.concatenate(rows))
        pushed = jax.vmap(lambda *t: jax.jvp(fn, point, t)[1])(*tangents)
        value, pull = jax.vjp(fn, *point)
        gradient, curvature = jax.jvp(jax.grad(energy), (point[0],), (directions[0],))
        x32, _, *rest, cotangent32 = jax.tree.map(lambda a: a.astype(np.float32), (*point, cotangent))

        def pulled(level):
            return jax.vjp(fn, x32, level, *rest)[1](cotangent32)

        return {
            "narrow": jax.lax.map(pulled, jnp.asarray(NARROW)),
            "value": value,
            "jacobian": jnp.moveaxis(pushed[: x.size].reshape(*x.shape, *x.shape), (0, 1, 2), (3, 4, 5)),
            "pushed": pushed[x.size :],
            "pulled": pull(cotangent),
            "gradient": gradient,
            "curvature": curvature,
        }

    program = jax.jit(everything)
    return jax.tree.map(np.asarray, program(_point(case), _cotangent(case), _directions(case)))


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


def _check_reverse(case, method):
    found = _derivatives(case, method)["pulled"]
    for name, one, expected in zip(NAMES, found, _numerical_gradients(case), strict=True):
        assert np.max(np.abs(expected)) > 1e-3, name  # there is something to see
        np.testing.assert_allclose(one, expected, rtol=1e-7, atol=1e-9, err_msg=name)
    if case.prior == "excluded":
        assert found[3][case.count // 2] == 0.0


def _check_forward(case, method):
    point, directions = _point(case), _directions(case)
    result = _derivatives(case, method)
    np.testing.assert_allclose(result["value"], _oracle(case, *point), rtol=1e-10, atol=1e-12)
    for position, name in enumerate(NAMES):
        expected = reference.central_difference(
            lambda v, p=position: _oracle(case, *_with(point, p, v)), point[position], directions[position]
        )
        assert np.max(np.abs(expected)) > 1e-3, name
        np.testing.assert_allclose(result["pushed"][position], expected, rtol=1e-7, atol=1e-9, err_msg=name)


def _check_jacobian(case, method):
    found = _derivatives(case, method)["jacobian"]
    expected = reference.jacobian(*_point(case), **case.oracle_options)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    if case.readout == "average" and case.boundary == "periodic":
        np.testing.assert_allclose(found, found.transpose(3, 4, 5, 0, 1, 2), rtol=1e-9, atol=1e-12)


def _check_curvature(case, method):
    x, *rest = _point(case)

    def gradient(y):
        return np.tensordot(_cotangent(case), reference.jacobian(y, *rest, **case.oracle_options), 3)

    result = _derivatives(case, method)
    expected = reference.central_difference(gradient, x, _directions(case)[0])
    assert np.max(np.abs(expected)) > 1e-3
    np.testing.assert_allclose(result["gradient"], gradient(x), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(result["curvature"], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("case", "method"), ROUTES)
def test_reverse_mode_equals_finite_differences_of_the_oracle(case, method):
    _check_reverse(case, method)


@pytest.mark.parametrize(("case", "method"), ROUTES)
def test_forward_mode_equals_finite_differences_of_the_oracle(case, method):
    _check_forward(case, method)


@pytest.mark.parametrize(("case", "method"), ROUTES)
def test_jacobian_is_the_covariance_form(case, method):
    _check_jacobian(case, method)


@pytest.mark.parametrize(("case", "method"), ROUTES)
def test_hessian_vector_product_equals_finite_differences_of_the_gradient(case, method):
    _check_curvature(case, method)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "method"), _routes(EVEN + COLOUR))
def test_even_windows_and_more_channels_have_the_same_derivatives(case, method):
    for check in (_check_reverse, _check_forward, _check_jacobian, _check_curvature):
        check(case, method)


def _slow_but(fast, cases):
    return [pytest.param(c, id=c.id, marks=() if c.row in fast else pytest.mark.slow) for c in cases]


@pytest.mark.parametrize("case", _slow_but([LEGAL[0]], CASES))
def test_second_derivatives_nest_in_every_order_of_modes(case):
    """<cotangent, J v> differentiated with respect to sigma and bank; reverse over reverse; forward twice."""
    x, sigma, data, log_prior = _point(case)
    fn, cotangent = _model(case, "auto"), _cotangent(case)
    v, _, w, _ = _directions(case)

    def energy(y):
        return jnp.sum(cotangent * fn(y, sigma, data, log_prior))

    def along(s, d):
        return jnp.sum(cotangent * jax.jvp(lambda y: fn(y, s, d, log_prior), (x,), (v,))[1])

    def everything(y):
        by_sigma, by_data = jax.grad(along, (0, 1))(sigma, data)
        reverse_twice = jax.grad(lambda z: jnp.sum(v * jax.grad(energy)(z)))(y)
        forward_twice = jax.jvp(lambda z: jax.jvp(energy, (z,), (v,))[1], (y,), (v,))[1]
        return by_sigma, by_data, reverse_twice, forward_twice

    by_sigma, by_data, reverse_twice, forward_twice = jax.jit(everything)(x)

    def oracle_along(s, d):
        matrix = reference.jacobian(x, s, d, log_prior, **case.oracle_options)
        return np.sum(cotangent * np.tensordot(matrix, v, 3))

    expected = reference.central_difference(lambda s: oracle_along(s, data), sigma, np.float64(1.0))
    np.testing.assert_allclose(by_sigma, expected, rtol=1e-6, atol=1e-8)
    expected = reference.central_difference(lambda d: oracle_along(sigma, d), data, w)
    np.testing.assert_allclose(np.sum(w * by_data), expected, rtol=1e-6, atol=1e-8)

    def gradient(y):
        return np.tensordot(cotangent, reference.jacobian(y, *_point(case)[1:], **case.oracle_options), 3)

    expected = reference.central_difference(gradient, x, v)
    np.testing.assert_allclose(reverse_twice, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(forward_twice, np.sum(v * expected), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", _slow_but([LEGAL[0], LEGAL[9]], [c for c in CASES if c.readout == "centre"]))
def test_effective_patches_are_differentiable(case):
    x, sigma, data, log_prior = _point(case)
    bank, cotangent = case.bank(data, log_prior), _cotangent(case)[..., 0]

    def total(y, s):
        return jnp.sum(cotangent * effective_patches(bank, **case.model)(y, s))

    def oracle(y, s):
        return np.sum(cotangent * case.reference(y, s, data, log_prior).effective)

    by_x, by_sigma = jax.jit(jax.grad(total, (0, 1)))(x, sigma)
    expected = reference.numerical_gradient(lambda y: oracle(y, sigma), x)
    np.testing.assert_allclose(by_x, expected, rtol=1e-6, atol=1e-8)
    expected = reference.numerical_gradient(lambda s: oracle(x, s), sigma)
    np.testing.assert_allclose(by_sigma, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("case", "method"), ROUTES)
def test_float32_derivatives_are_right_and_never_nan(case, method):
    result = _derivatives(case, method)
    for name, one, two in zip(NAMES, result["narrow"], result["pulled"], strict=True):
        assert one.dtype == np.float32, name
        np.testing.assert_allclose(one[0], two, atol=1e-4 * np.max(np.abs(two)), err_msg=name)
    for number in (1, 2):
        # One candidate is left, or the prior alone: D no longer depends on x. What may remain is the
        # round-off of a covariance, divided by sigma^2.
        by_x, *others = (gradient[number] for gradient in result["narrow"])
        assert np.max(np.abs(by_x)) < 8 * np.finfo(np.float32).eps / NARROW[number] ** 2 + 1e-5
        for gradient in others:
            assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    ("case", "method"),
    _routes(CASES + COLOUR, lambda *pair: pair not in (FAST[0], FAST[2], FAST[3])),
)
def test_float32_derivatives_in_compensated_sums_are_those_of_float64(case, method):
    """Candidates that differ little from each other, but much from zero: at little noise many compete.

    The sums over pixels that make the gradients with respect to sigma and to the prior may nearly cancel:
    their errors are measured by the size of the terms.
    """
    fn = _model(case, method)
    x, _, data, log_prior = _point(case)
    point = [np.float32(v) for v in (0.7 + 0.15 * x, 0.1, 0.7 + 0.15 * data, log_prior)]
    directions, cotangent = [np.float32(v) for v in _directions(case)], np.float32(_cotangent(case))

    def both(point, directions, cotangent):
        tangents = [jnp.zeros((4, *v.shape), v.dtype).at[i].set(v) for i, v in enumerate(directions)]
        # What the gradients with respect to sigma and the prior would be without cancellation.
        terms = {
            NAMES[i]: jnp.tensordot(abs(cotangent), abs(jax.jacfwd(fn, i)(*point)), x.ndim) for i in (1, 3)
        }
        along = jax.vmap(lambda *t: jax.jvp(fn, point, t)[1])(*tangents)
        return along, jax.vjp(fn, *point)[1](cotangent), terms

    program = jax.jit(both)
    narrow, wide = (
        program(*jax.tree.map(lambda v, d=dtype: v.astype(d), (tuple(point), tuple(directions), cotangent)))
        for dtype in (np.float32, np.float64)
    )
    sizes = wide[2]
    for i, name in enumerate(NAMES):
        # What may remain is the round-off of a covariance of values near one, along x divided by sigma^2.
        rest = {"x": 8 / 0.1**2, "log_prior": 2.0}.get(name, 0.0) * np.finfo(np.float32).eps
        size = np.max(np.abs(wide[0][i]))
        assert narrow[0].dtype == narrow[1][i].dtype == np.float32 and size > 1e-4, name
        np.testing.assert_allclose(
            narrow[0][i], wide[0][i], rtol=0, atol=1e-4 * size + rest, err_msg=f"along {name}"
        )
        size = np.max(np.abs(sizes.get(name, wide[1][i])))
        assert size > 1e-3, name
        np.testing.assert_allclose(narrow[1][i], wide[1][i], rtol=0, atol=2e-5 * size + rest, err_msg=name)


#: Bytes of a block of two images of 7 x 5 pixels, p = 3.
BUDGET = 2 * 35 * 4 * (4 * 35 + 3 * 9)


@pytest.mark.slow
@pytest.mark.parametrize("row", [LEGAL[0], LEGAL[2], LEGAL[4], LEGAL[5], LEGAL[6], LEGAL[9]], ids=str)
def test_transformations_compose(row):
    """Without float64 anywhere, at noise levels of either arithmetic."""
    case = Case(*row, count=6)
    x, data, log_prior = case.arrays(dtype=np.float32)
    xs, sigmas = np.stack([x, 0.5 * x, x[::-1]]), np.float32([0.1, 0.2, 2.0])

    def results(data, log_prior, xs, sigmas):
        def denoise(x, sigma):
            bank = case.bank(data, log_prior)
            return patch_denoiser(bank, **case.model, memory_budget=BUDGET)(x, sigma)

        def loss(x, sigma):
            return jnp.sum(jnp.sin(denoise(x, sigma)))

        def step(x, sigma):
            x = x + 0.1 * denoise(x, sigma)
            return x, x

        both = jax.vmap(jax.grad(loss, (0, 1)))(xs, sigmas)
        product = jax.vmap(lambda x, s, v: jax.jvp(jax.grad(loss), (x, s), (v, s))[1])(xs, sigmas, xs[::-1])
        return {
            "each with its own noise": jax.vmap(denoise)(xs, sigmas),
            "every pair": jax.vmap(jax.vmap(denoise, (None, 0)), (0, None))(xs, sigmas),
            "gradients": both,
            "products with the Hessian": product,
            "many tangents": jax.vmap(jax.linearize(lambda y: denoise(y, sigmas[0]), xs[0])[1])(xs),
            "in a loop": jax.lax.scan(step, xs[0], sigmas)[1],
            "under checkpoint": jax.grad(jax.checkpoint(loss))(xs[0], sigmas[0]),
        }

    with jax.enable_x64(False):
        batched = jax.vmap(
            patch_denoiser(case.bank(data, log_prior), **case.model, memory_budget=BUDGET), (0, 0)
        )
        program = str(jax.make_jaxpr(batched)(xs, sigmas))
        assert "f64[" not in program
        assert "f32[3,35,70]" not in program, "images of a batch are not taken in turn"
        found = jax.jit(results)(data, log_prior, xs, sigmas)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    arguments = [a.astype(np.float64) for a in (data, log_prior, xs, sigmas)]
    expected = jax.jit(results)(*arguments)
    for name, values in found.items():
        for one, two in zip(jax.tree.leaves(values), jax.tree.leaves(expected[name]), strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=3e-4 * np.max(np.abs(two)), err_msg=name)


def _both_modes(readout, x, sigma, v, images):
    """Return J v and v.J for images with windows of three pixels."""
    denoise = patch_denoiser(ImageBank(images, 3), readout=readout)
    return jax.jvp(lambda y: denoise(y, sigma), (x,), (v,))[1], jax.vjp(lambda y: denoise(y, sigma), x)[1](v)[
        0
    ]


_both_modes = jax.jit(_both_modes, static_argnums=0)


@pytest.mark.parametrize("readout", ["centre", "average"])
def test_a_condensed_posterior_has_no_derivative(readout):
    """Where one candidate has all the weight, round-off must not be divided by sigma^2."""
    rng = np.random.default_rng(0)
    images, v = (
        rng.uniform(-1, 1, (4, 8, 6, 1)).astype(np.float32),
        rng.normal(size=(8, 6, 1)).astype(np.float32),
    )
    # The product of weights with whole patches is rounded, to some eps^2 / r^2 with r the least noise level.
    limit = {"centre": 1e-30, "average": 1e-4}[readout]
    for sigma in np.float32([2e-3, 1e-3, 1e-4, 1e-6]):
        x = images[0] + sigma * rng.normal(size=v.shape).astype(np.float32)
        for product in _both_modes(readout, x, sigma, v, images):
            assert np.max(np.abs(product)) < limit, sigma


@pytest.mark.parametrize("row", [LEGAL[1], LEGAL[4], LEGAL[8]], ids=str)
def test_candidates_that_are_alike_have_no_derivative(row):
    """Three times the same: weights are shared, and round-off of values must not be divided by sigma^2."""
    rng = np.random.default_rng(0)
    case = Case(*row, 9, (9, 14), 3)
    data = np.tile(rng.uniform(0, 255, (1, 9, 9 if case.kind == "patches" else 14, 3)), (3, 1, 1, 1))
    data, v = data.astype(np.float32), rng.normal(size=(9, 14, 3)).astype(np.float32)

    @jax.jit
    def both(x, sigma, data):
        def fn(x):
            return patch_denoiser(case.bank(data), **case.model)(x, sigma)

        return jax.jvp(fn, (x,), (v,))[1], jax.vjp(fn, x)[1](v)[0]

    for sigma in np.float32([0.3, 0.1, 3e-4]):
        x = np.tile(data[0], (1, 2, 1))[:, :14] + sigma * rng.normal(size=v.shape).astype(np.float32)
        for product in both(x, sigma, data):
            assert np.max(np.abs(product)) < 1e-3, sigma


@pytest.mark.parametrize("readout", ["centre", "average"])
def test_derivatives_of_a_nearly_condensed_posterior(readout):
    """Second weights from a half down to 1e-12, at a noise far below the images: each pixel against the oracle."""
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (4, 8, 6, 1)).astype(np.float32)
    v = rng.normal(size=(8, 6, 1)).astype(np.float32)
    for sigma in np.float32([3e-2, 3e-3]):
        # Beside the first image one that differs from it by a tenth to two and a half times the noise.
        images[1] = images[0] + sigma * np.linspace(0.1, 2.5, 48, dtype=np.float32).reshape(8, 6, 1)
        x = images[0] + sigma * 0.3 * rng.normal(size=v.shape).astype(np.float32)
        options = {"size": 3, "positions": "all", "boundary": "periodic", "readout": readout}
        matrix = reference.jacobian(x, sigma, images, np.zeros(4), **options)
        expected = np.tensordot(matrix, v, 3), np.tensordot(v, matrix, 3)
        for product, truth in zip(_both_modes(readout, x, sigma, v, images), expected, strict=True):
            size = np.abs(truth)
            assert size.max() > 0.03 and np.median(size) < 0.05 * size.max()
            np.testing.assert_allclose(product, truth, rtol=1e-3, atol=2e-5 * size.max())


def test_gradients_reach_every_member_of_a_stack_of_banks():
    case = CASES[0]
    problems = [case.arrays(seed) for seed in range(2)]
    x, cotangent = problems[0][0], _cotangent(case)
    data, log_prior = (np.stack([p[i] for p in problems]) for i in (1, 2))
    fn = jax.vmap(_model(case, "auto"), (None, None, 0, 0))
    grad = jax.grad(lambda d, lp: jnp.sum(cotangent * fn(x, SIGMA, d, lp)), (0, 1))
    found = jax.jit(grad)(data, log_prior)
    for i in range(2):
        expected = reference.numerical_gradient(
            lambda d, k=i: np.sum(cotangent * _oracle(case, x, SIGMA, d, log_prior[k])), data[i]
        )
        np.testing.assert_allclose(found[0][i], expected, rtol=1e-7, atol=1e-9)
        expected = reference.numerical_gradient(
            lambda lp, k=i: np.sum(cotangent * _oracle(case, x, SIGMA, data[k], lp)), log_prior[i]
        )
        np.testing.assert_allclose(found[1][i], expected, rtol=1e-7, atol=1e-9)


# ---- memory
def _programs(case, method, memory_budget):
    def denoise(bank, x):
        return patch_denoiser(bank, **case.model, method=method, memory_budget=memory_budget)(
            x, jnp.float32(0.5)
        )

    def gradient(bank, x):
        return jax.grad(lambda y: jnp.sum(denoise(bank, y) ** 2))(x)

    return {
        "value": denoise,
        "jvp": lambda bank, x: jax.jvp(lambda y: denoise(bank, y), (x,), (x,))[1],
        "grad": gradient,
        "jvp of grad": lambda bank, x: jax.jvp(lambda y: gradient(bank, y), (x,), (x,))[1],
    }


MODES = ("value", "jvp", "grad", "jvp of grad")


def _temporary_bytes(case, method, memory_budget, modes=MODES):
    used = {}
    for factor in (1, 4):
        x, data, log_prior = case._replace(count=factor * case.count).arrays(dtype=np.float32)
        programs = _programs(case, method, memory_budget)
        for name in modes:
            lowered = jax.jit(programs[name]).lower(case.bank(data, log_prior), x)
            used[name, factor] = lowered.compile().memory_analysis().temp_size_in_bytes
    return used


def _check_memory(used):
    """Four times the candidates need at most 1.2 times the temporary memory."""
    for name, factor in used:
        assert used[name, factor] <= 1.2 * used[name, 1], (name, used)


MEMORY_CASES = [
    Case("images", "all", "periodic", "centre", 5, (16, 16), 1, 8),
    Case("images", "all", "periodic", "average", 5, (16, 16), 1, 8),
    Case("images", "all", "zero", "centre", 5, (16, 16), 1, 8),
    Case("images", "interior", "periodic", "centre", 5, (16, 16), 1, 8),
    Case("images", "interior", "periodic", "average", 5, (16, 16), 1, 8),
    Case("images", "same", "periodic", "centre", 5, (16, 16), 1, 8),
    Case("images", "same", "periodic", "average", 5, (16, 16), 1, 8),
    Case("images", "same", "zero", "centre", 5, (16, 16), 1, 8),
    Case("images", "same", "zero", "average", 5, (16, 16), 1, 8),
    Case("patches", None, "periodic", "centre", 5, (16, 16), 1, 512),
    Case("patches", None, "periodic", "average", 5, (16, 16), 1, 512),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "method"),
    with_methods(MEMORY_CASES),
)
def test_memory_does_not_grow_with_the_bank(case, method):
    # Each holds fewer candidates than there are.
    budgets = {
        "patches": 280_000,
        "all": 140_000 if method == "box" or case.boundary == "zero" else 2_300_000,
    }
    budgets |= {"interior": budgets["all"], "same": 12_000}
    _check_memory(_temporary_bytes(case, method, budgets[case.positions or "patches"]))


#: No block divides 101 or 404; 175 and 700, and 602 and 2408, have other divisors.
BLOCKED = [
    (LEGAL[2], 101),
    (LEGAL[2], 175),
    (LEGAL[4], 101),
    (LEGAL[6], 101),
    (LEGAL[7], 1101),
    (LEGAL[10], 301),
]
BLOCKED += [(LEGAL[0], 521), (LEGAL[0], 602), (LEGAL[1], 602)]


@pytest.mark.parametrize(
    ("row", "count", "modes"),
    [pytest.param(*pair, MODES, marks=pytest.mark.slow) for pair in BLOCKED],
)
def test_memory_does_not_grow_with_the_bank_in_blocks_by_default(row, count, modes):
    _check_memory(_temporary_bytes(Case(*row, 5, (28, 28), 1, count), "auto", None, modes))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "mode"), [(p, mode) for p in (7, 15) for mode in ("value", "grad")])
@pytest.mark.parametrize("each", [False, True], ids=["one noise level", "one each"])
def test_memory_of_a_batch(size, mode, each):
    """64 images of 28 x 28 and 400 training images take less than 1 GiB."""

    def batch(images, xs, sigmas):
        def one(x, sigma):
            denoise = patch_denoiser(ImageBank(images, size))
            if mode == "value":
                return denoise(x, sigma)
            return jax.grad(lambda y: jnp.sum(denoise(y, sigma) ** 2))(x)

        return jax.vmap(one, (0, 0 if each else None))(xs, sigmas)

    shapes = (400, 28, 28, 1), (64, 28, 28, 1), (64,) if each else ()
    lowered = jax.jit(batch).lower(*[jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes])
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 2**30
