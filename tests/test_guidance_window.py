"""Recommended windows: closed forms, quadrature, Tweedie's bound, noise, extreme numbers, the ends of the ladder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import cumulative_simpson, quad
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

from critjax.banks import two_pattern_bank
from critjax.closed_form import gaussian_denoiser, ideal_denoiser, two_pattern_denoiser
from critjax.guidance import WindowStatus, describe_window, guidance_window, linear_response, window_status
from critjax.guidance._window import judge
from critjax.noise import karras_sigmas
from critjax.patch_score import patch_denoiser

SHAPE = (3, 4, 1)
KEY = jax.random.key(0)
LADDER = np.geomspace(20.0, 0.05, 61)
FINE = np.geomspace(20.0, 0.05, 241)
KEPT = 3 / 4
FOUND, OPEN, AT_END, INDISTINCT, NON_FINITE = (WindowStatus(n).message for n in range(5))


def bump(sigma, xp=np):
    """A softening that passes one, prescribed: D(x, sigma) = bump(sigma) x."""
    return 1.4 * xp.exp(-(xp.log(sigma / 0.9) ** 2) / 0.72)


def prescribed(x, sigma):
    return bump(sigma, jnp) * x


def gaussian(sigma, variance=1.0):
    """Softening of Gaussian data."""
    return variance / (variance + sigma**2)


def three(window):
    return np.array([window.sigma_low, window.centre, window.sigma_high])


def judged(softening, ladder=LADDER, *, eta=0.0, resamples=50):
    """Judge lambda (count, levels), or one row on which all trajectories agree."""
    table = np.asarray(softening)
    table = np.tile(table, (3, 1)) if table.ndim == 1 else table
    return jax.tree.map(np.asarray, judge(table, np.asarray(ladder, table.dtype), eta, KEY, resamples))


def found_window(*args, **options):
    """Run `guidance_window`, and return NumPy arrays."""
    return jax.tree.map(np.asarray, guidance_window(*args, **options))


def exact_three(log_response, low, high):
    """Find edges and centre of a smooth logarithm of a response by root finding in ln sigma."""
    low, high = np.log(low), np.log(high)
    settings = {"bounds": (low, high), "method": "bounded", "options": {"xatol": 1e-8}}
    best = minimize_scalar(lambda y: -log_response(y), **settings)

    def excess(y):
        return log_response(y) + best.fun - np.log(KEPT)

    return np.exp([brentq(excess, low, best.x), best.x, brentq(excess, best.x, high)])


def from_softening(softening, eta, low=0.05, high=20.0):
    """Predict edges and centre from lambda(sigma) by adaptive quadrature."""

    def log_response(y):
        tail = quad(lambda z: softening(np.exp(z)) - 1, np.log(low), y, epsabs=1e-12, epsrel=1e-12)[0]
        return y + np.log(softening(np.exp(y))) / 2 + (1 + eta) * tail

    return exact_three(log_response, low, high)


@pytest.mark.parametrize(
    ("ladder", "solver", "eta"),
    [
        (FINE, "heun", 0.0),
        (FINE, "euler", 1.0),
        (np.asarray(karras_sigmas(20.0, 0.05, 240, dtype=np.float64)), "heun", 0.5),
    ],
)
def test_a_prescribed_softening_against_quadrature(ladder, solver, eta):
    window = found_window(
        prescribed, KEY, SHAPE, ladder, num_samples=2, num_resamples=20, solver=solver, eta=eta
    )
    assert window_status(window) == FOUND
    np.testing.assert_allclose(window.gap, 1 - bump(ladder), atol=1e-12)
    # Second order in steps of 0.025 to 0.05 of ln sigma, with constants of order one.
    np.testing.assert_allclose(three(window), from_softening(bump, eta), rtol=2e-3)
    np.testing.assert_allclose(window.softest, 0.9, rtol=1e-3)
    # Trajectories that agree leave no statistical error.
    assert max(window.centre_error, window.sigma_low_error, window.sigma_high_error) < 1e-10
    told = describe_window(window.sigma_low, window.sigma_high, sigmas=ladder)
    inside = np.flatnonzero((ladder > window.sigma_low) & (ladder <= window.sigma_high))
    assert told["step"] == (inside[0], inside[-1])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_centre_and_edges_are_of_second_order_in_the_ladder(eta):
    exact, errors, counts = from_softening(bump, eta), [], np.array([30, 60, 120, 240])
    for count in counts:
        # Edges fall anywhere between levels: the worst of sixteen ladders that are shifted against each other.
        steps = np.arange(count + 1) + np.arange(16)[:, None] / 16
        ladders = 20.0 * np.exp(-steps * np.log(400) / count)
        tables = np.tile(bump(ladders)[:, None], (1, 3, 1))
        windows = jax.jit(jax.vmap(lambda table, ladder: judge(table, ladder, eta, KEY, 2)))(tables, ladders)
        found = np.stack([windows.sigma_low, windows.centre, windows.sigma_high])
        errors.append(np.abs(np.log(found / exact[:, None])).max(axis=1))
    orders = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    # The edges are linear interpolations; of the vertex, the second order happens to be small for eta = 0.
    assert np.all(np.abs(orders[[0, 2]] - 2) < 0.25) and 1.75 < orders[1] < 3.2, (orders, errors)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_gaussian_data(eta):
    """Chi = sigma (S + sigma^2)^(-(2 + eta)/2)."""
    variance = 2.0
    denoise = gaussian_denoiser(np.zeros(SHAPE), np.full(SHAPE[:2], variance))
    window = found_window(denoise, KEY, SHAPE, FINE, num_samples=2, num_resamples=20, eta=eta)
    assert window_status(window) == FOUND
    np.testing.assert_allclose(window.gap, 1 - gaussian(FINE, variance), rtol=1e-9)
    if eta == 0:
        # With u = sigma/sqrt(S), u + 1/u = 8/3.
        exact = np.sqrt(variance) * np.array([(4 - np.sqrt(7)) / 3, 1, (4 + np.sqrt(7)) / 3])
        shape = FINE / (variance + FINE**2)
    else:
        exact = exact_three(lambda y: y - 1.5 * np.log(variance + np.exp(2 * y)), 0.05, 20.0)
        np.testing.assert_allclose(exact[1], np.sqrt(variance / 2), rtol=1e-6)
        shape = FINE * (variance + FINE**2) ** -1.5
    np.testing.assert_allclose(three(window), exact, rtol=1e-3)
    # Trapezoidal in steps of 0.025: relative errors of the exponential of a few 1e-5.
    np.testing.assert_allclose(window.response, shape / shape.max(), rtol=2e-4)
    # The mode softens for ever, and that is no recommendation.
    assert np.isnan(window.softest) and np.isnan(window.softest_error)
    assert window.gap[-1] < 0.01 * window.gap[0] and window.response[-1] < 0.1


@pytest.mark.parametrize(("eta", "kept"), [(0.0, 0.919), (1.0, 0.889)])
def test_a_weak_class_of_gaussian_data_responds_most_at_twice_the_variance(eta, kept):
    """Means that shift a little: D_c - D_u is sigma^2/(S + sigma^2) times the shift, not sigma sqrt(lambda)."""
    chi = np.asarray(linear_response(gaussian(FINE), 1 - gaussian(FINE), FINE, eta=eta))
    assert abs(np.log(FINE[chi.argmax()] ** 2 * (1 + eta) / 2)) < 2 * np.log(FINE[0] / FINE[1])
    centre = judged(gaussian(FINE), FINE, eta=eta).centre
    np.testing.assert_allclose(centre, 1 / np.sqrt(1 + eta), rtol=1e-3)
    there = np.interp(-np.log(centre), -np.log(FINE), chi) / chi.max()
    np.testing.assert_allclose(there, kept, atol=1.5e-3)


@pytest.mark.parametrize(("eta", "mean"), [(0.0, 0.9087), (1.0, 0.9094)])
def test_a_constant_weight_in_the_window_has_nine_tenths_of_the_response(eta, mean):
    window = judged(gaussian(FINE), FINE, eta=eta)
    centre = 1 / np.sqrt(1 + eta)

    def response(y):
        return (
            np.exp(y) * (1 + np.exp(2 * y)) ** (-1 - eta / 2) / (centre * (1 + centre**2) ** (-1 - eta / 2))
        )

    low, high = np.log(window.sigma_low), np.log(window.sigma_high)
    found = quad(response, low, high)[0] / (high - low)
    np.testing.assert_allclose(found, mean, atol=5e-4)
    if eta == 0:  # The response is 1/cosh, its integral the Gudermannian.
        half = np.arccosh(4 / 3)
        np.testing.assert_allclose(mean, np.arctan(np.sinh(half)) / half, atol=5e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_linearised_two_pattern_denoiser_has_its_centre_at_the_critical_noise(eta):
    """With lambda = P/sigma^2 = 1/u, chi = [u^(-1/2) exp(-1/2u)]^(1 + eta)."""
    exact = two_pattern_denoiser(3)

    def linear(x, sigma):
        return jax.jvp(lambda y: exact(y, sigma), (jnp.zeros_like(x),), (x,))[1]

    def log_response(y):
        u = np.exp(2 * y) / 9
        return -(1 + eta) * (np.log(u) + 1 / u) / 2

    ladder = np.geomspace(30.0, 1.0, 141)
    window = found_window(linear, KEY, (6, 7, 1), ladder, num_samples=2, num_resamples=20, eta=eta)
    assert window_status(window) == FOUND
    np.testing.assert_allclose(window.gap, 1 - 9 / ladder**2, atol=1e-12)
    expected = exact_three(log_response, 1.0, 30.0)
    np.testing.assert_allclose(expected[1], 3.0, rtol=1e-6)
    np.testing.assert_allclose(three(window), expected, rtol=1e-3)
    # A ladder that already starts below the critical noise brackets nothing.
    late = ladder[ladder < 2.9]
    window = judged(9 / late**2, late, eta=eta)
    assert window_status(window) == AT_END and np.isnan(three(window)).all()


def torus(ladder_max=15.0, ladder_min=0.4):
    """On a 3 x 3 torus every window is the whole image: D = tanh(9 m/sigma^2), one number m per trajectory."""
    fine = np.geomspace(ladder_max, ladder_min, 2001)
    places = (np.arange(400) + 0.5) / 200 - 1
    nodes = 6 * places**3  # dense near zero, from where trajectories depart late
    weights = np.exp(-(nodes**2) / 2) * places**2
    weights = weights / weights.sum()
    m, gaps, step = nodes * ladder_max / 3, [], np.log(fine[0] / fine[1])

    def slope(m, sigma):
        return np.tanh(9 * m / sigma**2) - m

    for sigma in fine:
        gaps.append(1 - weights @ (9 / sigma**2 / np.cosh(np.minimum(9 * np.abs(m) / sigma**2, 300)) ** 2))
        half = sigma * np.exp(-step / 2)
        k1 = slope(m, sigma)
        k2 = slope(m + step / 2 * k1, half)
        k3 = slope(m + step / 2 * k2, half)
        m = m + step * (k1 + 2 * k2 + 2 * k3 + slope(m + step * k3, sigma * np.exp(-step))) / 6
    return fine, np.array(gaps)


def from_gaps(fine, gaps, eta):
    """Predict edges and centre from gaps on a fine ladder: Simpson's rule, splines and roots."""
    seen = gaps < 1 - 1e-6  # a spline has no use for the logarithm of zero
    y, gaps = np.log(fine[seen]), gaps[seen]
    decay = cumulative_simpson(gaps, x=-y, initial=0)
    curve = CubicSpline(y[::-1], (y + np.log(1 - gaps) / 2 + (1 + eta) * decay)[::-1])
    return exact_three(curve, np.exp(y[-1]), np.exp(y[0]))


def test_two_patterns_on_one_window_against_the_ordinary_differential_equation():
    ladder = np.geomspace(15.0, 0.4, 51)
    fine, gaps = torus()
    exact, softest = from_gaps(fine, gaps, 0.0), fine[gaps.argmin()]
    assert exact[1] > 1.3 * softest
    for denoise in (two_pattern_denoiser(3), patch_denoiser(two_pattern_bank(3, dtype=jnp.float64))):
        window = found_window(denoise, jax.random.key(2), (3, 3, 1), ladder, num_samples=100, batch_size=50)
        assert window_status(window) == FOUND
        # Below, lambda is carried by rare late departures, of which a hundred trajectories need not hold one.
        seen = ladder > 1.4
        deviations = np.abs(window.gap - np.interp(-ladder, -fine, gaps))
        assert np.all(deviations[seen] < 4 * window.gap_error[seen] + 0.004)
        # The ladder adds errors of second order in steps of 0.07, some 1e-3, to the statistical ones.
        errors = np.array([window.sigma_low_error, window.centre_error, window.sigma_high_error])
        assert np.all(np.abs(three(window) - exact) < 3 * errors), (three(window), exact, errors)
        assert np.all(errors < 0.08 * exact)
        assert abs(window.softest - softest) < 3 * window.softest_error < 0.5 * softest


def test_the_prediction_for_two_patterns_on_one_window_is_near_the_exact_best_place():
    """A push towards one pattern at one noise level turns the signs of trajectories near m = 0."""

    def exact_response(sigma, weight=1e-4):
        # m is +-1 with noise sigma/3; after the push everything above the root ends at +1.
        root = brentq(lambda m: m + weight * (1 - np.tanh(9 * m / sigma**2)), -0.5, 0.5)
        changes = [norm.cdf((place - m) * 3 / sigma) for place in (1, -1) for m in (root, 0)]
        return (changes[0] - changes[1] + changes[2] - changes[3]) / weight

    fine, gaps = torus()
    centre = from_gaps(fine, gaps, 0.0)[1]
    coarse = fine[::5]
    chi = np.array([exact_response(sigma) for sigma in coarse])
    np.testing.assert_allclose(coarse[chi.argmax()], 3.0, rtol=1e-2)  # the bare critical noise
    np.testing.assert_allclose(centre, 3.345, rtol=2e-3)
    np.testing.assert_allclose(exact_response(centre) / chi.max(), 0.989, atol=2e-3)
    # The softest noise level is the worse place.
    softest = fine[gaps.argmin()]
    np.testing.assert_allclose(softest, 2.44, rtol=2e-2)
    np.testing.assert_allclose(exact_response(softest) / chi.max(), 0.953, atol=1e-2)


@pytest.mark.parametrize("sigma", [0.3, 0.8, 2.0])
@pytest.mark.parametrize("single", [False, True])
def test_tweedie_bounds_the_push_of_a_class(sigma, single):
    """sum_c pi_c [v.(D_c - D_u)]^2 + the variance within classes = sigma^2 v.J v, by the law of total variance."""
    rng = np.random.default_rng(5)
    images = rng.normal(size=(7, 2, 3, 1))
    labels = np.arange(7) if single else np.array([0, 0, 0, 1, 1, 2, 2])
    denoise = ideal_denoiser(images)
    conditional = [ideal_denoiser(images[labels == c]) for c in np.unique(labels)]

    @jax.jit
    def everything(x, v):
        plain, product = jax.jvp(lambda y: denoise(y, sigma), (x,), (v,))
        return plain, product, [d(x, sigma) for d in conditional]

    for _ in range(3):
        x = images[rng.integers(7)] + sigma * rng.normal(size=(2, 3, 1))
        v = rng.normal(size=(2, 3, 1))
        v = v / np.linalg.norm(v)
        weights = np.exp(-np.sum((x - images) ** 2, axis=(1, 2, 3)) / (2 * sigma**2))
        weights = weights / weights.sum()
        shares = np.array([weights[labels == c].sum() for c in np.unique(labels)])
        plain, product, parts = everything(x, v)
        pushes = np.array([np.sum(v * (np.asarray(part) - plain)) for part in parts])
        bound = sigma**2 * np.sum(v * product)
        heights = np.tensordot(images, v, 3)
        within = 0.0
        for c, share in zip(np.unique(labels), shares, strict=True):
            w = weights[labels == c] / share
            within += share * (w @ heights[labels == c] ** 2 - (w @ heights[labels == c]) ** 2)
        pushed = shares @ pushes**2
        # Rounding of cancelling terms of order one.
        np.testing.assert_allclose(pushed + within, bound, rtol=1e-9, atol=1e-14)
        if single:
            np.testing.assert_allclose(pushed, bound, rtol=1e-9, atol=1e-14)
        else:
            assert 0 < pushed < bound


def test_a_window_that_the_ladder_cuts_is_flagged():
    low, high = (4 - np.sqrt(7)) / 3, (4 + np.sqrt(7)) / 3
    for start, stop, expected in (
        (20.0, 0.7, [0.7, 1, high]),
        (1.5, 0.05, [low, 1, 1.5]),
        (1.5, 0.7, [0.7, 1, 1.5]),
    ):
        part = np.geomspace(start, stop, 151)
        window = judged(gaussian(part), part)
        assert window_status(window) == OPEN == "found, but the window runs into an end of the ladder"
        np.testing.assert_allclose(three(window), expected, rtol=1e-3)
    for start, stop in ((20.0, 1.2), (0.9, 0.05)):
        part = np.geomspace(start, stop, 151)
        assert window_status(judged(gaussian(part), part)) == AT_END


@pytest.mark.parametrize(("softening", "eta", "end"), [(0.4, 0.0, 0), (0.3, 1.0, -1), (1.5, 1.0, 0)])
def test_a_constant_softening_is_largest_at_an_end(softening, eta, end):
    """Chi = sigma^(1 - (1 + eta)(1 - lambda)), a power."""
    window = found_window(
        lambda x, sigma: softening * x, KEY, SHAPE, LADDER, num_samples=2, num_resamples=20, eta=eta
    )
    assert window_status(window) == AT_END
    power = (LADDER / LADDER[end]) ** (1 - (1 + eta) * (1 - softening))
    np.testing.assert_allclose(window.response, power, rtol=1e-9)
    np.testing.assert_allclose(window.centre_interval, LADDER[end], rtol=1e-12)
    for name in ("sigma_low", "sigma_high", "centre", "sigma_low_error", "sigma_high_error", "centre_error"):
        assert np.isnan(getattr(window, name)), name
    with pytest.raises(ValueError, match="no window was found"):
        describe_window(window.sigma_low, window.sigma_high)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("softening", [0.0, -0.3, -np.linspace(0, 2, 61)])
def test_a_mode_that_never_responds_has_no_window_and_no_nan_in_its_response(softening, dtype):
    window = judged((softening + np.zeros(61)).astype(dtype))
    assert window_status(window) == INDISTINCT and np.isnan(three(window)).all()
    np.testing.assert_array_equal(window.response, np.zeros(61))


def test_a_constant_denoiser_recommends_nothing():
    """Three trajectories: the mean of three gaps of one need not be one, that of three zeros is zero."""
    window = found_window(lambda x, sigma: 0 * x + 0.3, KEY, SHAPE, LADDER, num_samples=3)
    assert window_status(window) == INDISTINCT
    np.testing.assert_array_equal(window.response, np.zeros(61))


def test_where_lambda_is_negative_nothing_responds():
    softening = bump(LADDER) - 0.1
    window = judged(softening)
    assert window_status(window) == FOUND
    np.testing.assert_array_equal(np.asarray(window.response) == 0, softening <= 0)
    assert 5 < np.sum(softening <= 0) < 50


def test_single_precision_on_extreme_ladders():
    ladder = np.geomspace(1e4, 1e-4, 401).astype(np.float32)
    step = np.log(1e8) / 400

    def check(softening, eta, centre, status=FOUND):
        softening = softening.astype(np.float32)
        window = judged(softening, ladder, eta=eta)
        assert window_status(window) == status
        assert window.response.dtype == window.centre.dtype == np.float32
        response = np.asarray(window.response)
        assert np.max(response) == 1 and not np.isnan(response).any()
        if status == FOUND:
            # Second order in the step, of the width of the peak: narrower in proportion to 1/sqrt(1 + eta).
            np.testing.assert_allclose(window.centre, centre, rtol=(1 + eta) * step**2)
            # The same in double precision. The logarithm at the peak is about 10 (1 + eta), rounded to some
            # 1e-6 (1 + eta), a tenth of the tolerance.
            double = judged(softening.astype(np.float64), ladder.astype(np.float64), eta=eta)
            np.testing.assert_allclose(three(window), three(double), rtol=1e-5 * (10 + eta))

    sigma = ladder.astype(np.float64)
    check(gaussian(sigma), 0.0, 1.0)
    # The exponentials pass 1e38, and even 1e308, long before the peak.
    check(gaussian(sigma), 50.0, 1 / np.sqrt(51))
    check(gaussian(sigma), 200.0, 1 / np.sqrt(201))
    # lambda far above one for seven e-folds at the end, up to 1e9.
    check(9 / sigma**2, 0.0, 3.0)
    check(9 / sigma**2, 1.0, 3.0)
    check(np.full(401, 50.0), 0.0, None, AT_END)
    check(np.full(401, 0.01), 200.0, None, AT_END)


def test_an_edge_stays_beside_the_largest_level_on_very_unequal_steps():
    """The parabola through levels 0.98, 1 and 0 with steps of 3 and 1 has its vertex far above one."""
    ladder = np.exp([3.0, 0.0, -1.0])
    window = judged(np.array([0.01, 0.011, 0.0]), ladder)
    np.testing.assert_allclose(window.response, [0.984, 1, 0], atol=1e-3)
    assert window.sigma_low < 1.0 < window.centre < window.sigma_high
    np.testing.assert_allclose(window.sigma_low, np.exp(-(1 - KEPT)), rtol=1e-12)


def tables(mean, size, count, repeats, seed, correlation=0.0):
    """Lambda of single trajectories with noise that is correlated between neighbouring levels, and keys."""
    noise = np.random.default_rng(seed).normal(size=(repeats, count, len(mean)))
    for n in range(1, len(mean)):
        noise[..., n] *= np.sqrt(1 - correlation**2)
        noise[..., n] += correlation * noise[..., n - 1]
    return mean + size * noise, jax.random.split(jax.random.key(seed), repeats)


@jax.jit
def _judge_all(values, keys, eta):
    return jax.vmap(lambda table, key: judge(table, LADDER, eta, key, 200))(values, keys)


def judge_all(values, keys, eta):
    return jax.tree.map(np.asarray, _judge_all(values, keys, eta))


@pytest.mark.parametrize(
    ("softening", "size", "correlation", "limit"),
    [(0.5, 0.1, 0.0, 0.03), (0.5, 0.1, 0.9, 0.03), (0.4, 0.3, 0.9, 0.1)],
)
def test_a_flat_response_rarely_passes_for_a_window(softening, size, correlation, limit):
    """lambda = 1/2 and eta = 1 make chi the same everywhere, 0.4 nearly so: all structure is noise."""
    windows = judge_all(*tables(np.full(61, softening), size, 8, 200, 1, correlation), 1.0)
    assert np.mean(np.asarray(windows.status) <= 1) < limit


def test_a_softening_that_is_noise_is_called_so():
    """The slope of a fast wave at a noisy image is random: lambda is 1/2 up to noise at every level."""

    def denoise(x, sigma):
        return 0.5 * x + 0.05 * jnp.sin(20 * x)

    window = found_window(denoise, jax.random.key(3), SHAPE, LADDER, eta=1.0)
    assert window_status(window) == INDISTINCT and np.isnan(three(window)).all()
    assert window.centre_interval[1] > 4 * window.centre_interval[0]
    assert np.all(np.abs(window.gap - 0.5) < 7 * window.gap_error + 0.05)


@pytest.mark.parametrize("correlation", [0.9, 0.97])
def test_bootstrap_errors_are_the_spread_of_independent_repeats(correlation):
    windows = judge_all(*tables(gaussian(LADDER), 0.1, 12, 200, 2, correlation), 1.0)
    assert np.all(np.asarray(windows.status) == 0)
    exact = 1 / np.sqrt(2)
    spread = np.std(windows.centre, ddof=1)
    assert abs(np.mean(windows.centre) - exact) < 4 * spread / np.sqrt(200) + 0.01
    for name in ("centre", "sigma_low", "sigma_high"):
        # The spread of 200 repeats is known to 5 per cent, three times that on either side.
        spread, told = np.std(getattr(windows, name), ddof=1), np.mean(getattr(windows, f"{name}_error"))
        assert 0.85 < told / spread < 1.18, (name, told, spread)
    told = np.sqrt(
        np.mean(np.square(windows.gap_error), axis=0)
    )  # unbiased; a standard error of 0.1/sqrt(12)
    np.testing.assert_allclose(told, 0.1 / np.sqrt(12), rtol=0.1)
    covered = (windows.centre_interval[:, 0] <= exact) & (windows.centre_interval[:, 1] >= exact)
    # Twelve trajectories cover about 91 per cent, known to 2.
    assert 0.85 < np.mean(covered) < 0.99


@pytest.mark.parametrize(("factor", "status"), [(3.8, FOUND), (4.2, INDISTINCT)])
def test_a_centre_that_is_uncertain_by_more_than_a_factor_four_gives_no_window(factor, status):
    """Two trajectories: a quarter of the resamples is the first alone, a quarter the second alone."""
    window = judged(np.stack([gaussian(FINE, factor), gaussian(FINE, 1 / factor)]), FINE)
    np.testing.assert_allclose(window.centre_interval, [factor**-0.5, factor**0.5], rtol=1e-3)
    assert window_status(window) == status
    assert np.isnan(three(window)).all() == (status == INDISTINCT)


def test_a_centre_whose_interval_reaches_an_end_gives_no_window():
    """Two trajectories, as above: the mean has its centre inside the ladder, but one of them alone does not."""
    for start, stop, variance in ((2.2, 0.05, 6.0), (20.0, 1 / 2.2, 1 / 6.0)):
        part = np.geomspace(start, stop, 151)
        table = np.stack([gaussian(part, variance), gaussian(part, 1.0)])
        assert window_status(judged(table.mean(axis=0), part)) in (FOUND, OPEN)
        window = judged(table, part)
        assert window_status(window) == INDISTINCT
        assert window.centre_interval[1] < 4 * window.centre_interval[0]


def test_values_that_are_not_finite_are_named():
    table = np.tile(gaussian(LADDER), (3, 1))
    for value in (np.nan, np.inf, -np.inf):
        table[1, 20] = value
        window = judged(table)
        assert window_status(window) == NON_FINITE and np.isnan(three(window)).all()

    def denoise(x, sigma):
        return jnp.where(sigma > 1.0, 0.5, jnp.nan) * x

    window = found_window(denoise, KEY, SHAPE, LADDER, num_samples=2)
    assert window_status(window) == NON_FINITE


def test_direction_chooses_the_mode_and_its_norm_does_not_matter():
    stripes = np.cos(np.pi * np.arange(4))[None, :, None] * np.ones(SHAPE)
    spectrum = np.ones(SHAPE[:2])
    spectrum[0, 0], spectrum[0, 2] = 4.0, 0.25
    denoise = gaussian_denoiser(np.zeros(SHAPE), spectrum)
    for direction, centre in ((None, 2.0), (stripes, 0.5), (-40 * stripes, 0.5)):
        window = found_window(denoise, KEY, SHAPE, LADDER, num_samples=2, direction=direction)
        np.testing.assert_allclose(window.centre, centre, rtol=5e-3)


@pytest.mark.parametrize(("solver", "per_step"), [("heun", 2), ("euler", 1)])
def test_the_cost_is_what_was_spent(solver, per_step):
    calls = [0]

    def denoise(x, sigma):
        def count(_):
            calls[0] += 1

        jax.debug.callback(count, x[0, 0, 0])
        return bump(sigma, jnp) * x

    ladder, before = LADDER[::6], 0
    for probes in (None, 4):
        window = found_window(denoise, KEY, SHAPE, ladder, num_samples=3, num_probes=probes, solver=solver)
        jax.block_until_ready(window.gap)
        jax.effects_barrier()
        assert window.jacobian_products == 3 * (probes or 11)
        assert window.evaluations == 3 * (10 * per_step + 1)
        assert calls[0] - before == window.evaluations + window.jacobian_products
        before = calls[0]


def test_a_few_dozen_products_find_the_centre():
    """Twelve probes in place of 61: the centre is good to a few per cent, edges to the curvature between probes.

    Probes are 0.54 apart in ln sigma, and the response is flat where it falls to three quarters.
    """
    exact = from_softening(bump, 0.0)
    window = found_window(prescribed, KEY, SHAPE, LADDER, num_samples=4, num_probes=12, num_resamples=20)
    assert window.jacobian_products == 48 and window_status(window) == FOUND
    probed = np.round(np.linspace(0, len(LADDER) - 1, 12)).astype(int)
    np.testing.assert_allclose(window.gap[probed], 1 - bump(LADDER[probed]), atol=1e-12)
    between = np.interp(np.log(LADDER[::-1]), np.log(LADDER[probed][::-1]), bump(LADDER[probed])[::-1])[::-1]
    np.testing.assert_allclose(window.gap, 1 - between, atol=1e-12)
    found = three(window)
    np.testing.assert_allclose(found[1], exact[1], rtol=0.04)
    np.testing.assert_allclose(found, exact, rtol=0.15)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sigmas": np.array([2.0, 1.0])}, "at least 3 noise levels"),
        ({"num_samples": 1}, "num_samples: expected an integer >= 2"),
        ({"num_resamples": 1}, "num_resamples: expected an integer >= 2"),
        ({"num_probes": 2}, "num_probes: expected an integer of 3 ... "),
        ({"num_probes": 1000}, "num_probes: expected an integer of 3 ... "),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1"),
        ({"direction": np.zeros(SHAPE)}, "direction: expected a nonzero image"),
        ({"direction": np.ones((2, 2, 1))}, r"direction: expected shape \(3, 4, 1\)"),
        ({"solver": "rk4"}, "solver: expected"),
        ({"eta": -1.0}, "eta: expected"),
    ],
)
def test_bad_input_is_named(change, match):
    settings = {"sigmas": LADDER} | change
    sigmas = settings.pop("sigmas")
    with pytest.raises(ValueError, match=match):
        guidance_window(prescribed, KEY, SHAPE, sigmas, **settings)


def test_a_batch_of_windows_is_each_window_and_has_no_single_status():
    values, keys = tables(gaussian(LADDER), 0.02, 4, 3, 1)
    windows = judge_all(values, keys, 0.0)
    with pytest.raises(ValueError, match="window: expected one window"):
        window_status(windows)
    for n in range(3):
        alone = judge(values[n], LADDER, 0.0, keys[n], 200)
        for name in ("sigma_low", "centre", "sigma_high", "centre_error", "response"):
            np.testing.assert_allclose(getattr(windows, name)[n], getattr(alone, name), rtol=1e-9)
