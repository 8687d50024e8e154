"""Linear structure factor and Gaussian closure against closed forms and independent integrations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.tree_util import Partial

from critjax import fluctuations
from critjax.closed_form import gaussian_denoiser, gaussian_symbol, two_pattern_denoiser

GRID = (6, 5)


def on_host(function):
    """Run one program, and return NumPy arrays: what a test picks from them is no further program."""
    return lambda *args, **options: jax.tree.map(np.asarray, function(*args, **options))


gaussian_closure = on_host(fluctuations.gaussian_closure)
linear_structure_factor = on_host(fluctuations.linear_structure_factor)
transformed_closure = on_host(fluctuations.transformed_closure)
two_pattern_closure = on_host(fluctuations.two_pattern_closure)


def covariances(seed=0, low=-3.0, high=20.0):
    """c(k) of any size and sign, with an imaginary part that must not matter."""
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, GRID) + 1j * rng.normal(size=GRID)


def bank_symbol(c):
    """Dhat = c/sigma^2; a pytree over c, so that all share a program."""
    return Partial(over_variance, np.asarray(c)[..., None, None])


def over_variance(c, sigma):
    return c / sigma**2


def closed_form(c, sigmas, eta):
    """S of THEORY section 5 for an equal-norm bank; the noise integral by brute-force quadrature in s."""
    start = sigmas[0] ** 2
    out = []
    for t in sigmas**2:
        grown = start * (t / start) ** (1 + eta) * np.exp((1 + eta) * c * (1 / t - 1 / start))
        nodes, weights = np.polynomial.legendre.leggauss(60)
        s = t + (start - t) * (nodes + 1) / 2
        kernel = (t / s) ** (1 + eta) * np.exp((1 + eta) * c[..., None] * (1 / t - 1 / s))
        out.append(grown + eta * (kernel * weights).sum(-1) * (start - t) / 2)
    return np.array(out)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0, 8.0])
def test_equal_norm_bank_in_closed_form(eta):
    c = covariances()
    sigmas = np.geomspace(8.0, 2.0, 31)
    got = linear_structure_factor(bank_symbol(c), sigmas, eta=eta)[..., 0, 0]
    np.testing.assert_allclose(got, closed_form(c.real, sigmas, eta), rtol=1e-6)


def test_reverse_sde_integral_in_elementary_functions():
    c = covariances(3)
    start, t = 64.0, 9.0
    got = linear_structure_factor(bank_symbol(c), np.geomspace(8.0, 3.0, 31), eta=1.0)[-1, ..., 0, 0]
    a = c.real
    rise = 1 / t - 1 / start
    expected = start * (t / start) ** 2 * np.exp(2 * a * rise) + t**2 / (2 * a) * np.expm1(2 * a * rise)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_without_structure_in_the_data_noise_stays_white_noise_of_std_sigma(eta):
    sigmas = np.geomspace(5.0, 1.0, 31)
    got = linear_structure_factor(bank_symbol(np.zeros(GRID) + 0j), sigmas, eta=eta)[..., 0, 0]
    np.testing.assert_allclose(got, np.broadcast_to((sigmas**2)[:, None, None], (31, *GRID)), rtol=1e-6)


def test_wiener_denoiser_leaves_the_exact_stationary_spectrum():
    """D the posterior mean of a Gaussian: S0 + sigma^2 solves the equation for every eta."""
    rng = np.random.default_rng(1)
    spectrum = np.abs(np.fft.fft2(rng.normal(size=GRID))) ** 2 / 10
    spectrum[0, 0] = 0.0
    sigmas = np.geomspace(400.0, 0.3, 90)
    for eta in (0.0, 1.0):
        got = linear_structure_factor(gaussian_symbol(spectrum), sigmas, eta=eta, num_substeps=4)[
            -1, ..., 0, 0
        ]
        np.testing.assert_allclose(got, spectrum + 0.09, rtol=2e-4)  # (S0/sigma_max^2) is left of the start


def channel_symbol(seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=(2, 3, 3, 3)) + 1j * rng.normal(size=(2, 3, 3, 3)) for _ in range(2))
    return Partial(two_powers, a, b)


def two_powers(a, b, sigma):
    return a / sigma**2 + b / sigma


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_three_channels_against_small_explicit_steps(eta):
    """Matrices that do not commute with themselves at other noise levels, against Runge-Kutta in numpy."""
    symbol = channel_symbol(5)
    sigmas = np.geomspace(3.0, 1.0, 25)

    def rate(tau, s):
        sigma = np.exp(-tau)
        drift = (1 + eta) * (symbol(sigma) - np.eye(3))
        return drift @ s + s @ np.conj(np.swapaxes(drift, -1, -2)) + 2 * eta * sigma**2 * np.eye(3)

    s, tau = np.broadcast_to(9.0 * np.eye(3, dtype=complex), (2, 3, 3, 3)), -np.log(3.0)
    h = np.log(3.0) / 4000
    for _ in range(4000):
        k1 = rate(tau, s)
        k2 = rate(tau + h / 2, s + h / 2 * k1)
        k3 = rate(tau + h / 2, s + h / 2 * k2)
        k4 = rate(tau + h, s + h * k3)
        s, tau = s + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), tau + h
    got = linear_structure_factor(symbol, sigmas, eta=eta, num_substeps=2)[-1]
    np.testing.assert_allclose(got, s, rtol=2e-6, atol=2e-6 * np.abs(s).max())
    np.testing.assert_allclose(got, np.conj(np.swapaxes(got, -1, -2)), atol=1e-12 * np.abs(s).max())


def test_error_falls_at_the_promised_order():
    c = covariances(2)
    exact = closed_form(c.real, np.array([8.0, 2.0]), 1.0)[-1]
    steps = np.array([3, 6, 12])
    errors = []
    for num in steps:
        got = linear_structure_factor(bank_symbol(c), np.array([8.0, 2.0]), eta=1.0, num_substeps=int(num))[
            -1, ..., 0, 0
        ]
        errors.append(np.abs(got / exact - 1).max())
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -7.5 < slope < -5.0


def test_float32_stays_float32_and_close():
    c = covariances(4)
    sigmas = np.geomspace(8.0, 2.0, 31)
    exact = linear_structure_factor(bank_symbol(c), sigmas, eta=0.5)
    single = linear_structure_factor(bank_symbol(c.astype(np.complex64)), sigmas.astype(np.float32), eta=0.5)
    assert single.dtype == jnp.complex64
    np.testing.assert_allclose(single, exact, rtol=2e-4)


def test_vmap_over_eta_equals_loop_and_gradient_is_the_slope():
    symbol, sigmas = bank_symbol(covariances(6)), np.geomspace(6.0, 3.0, 8)
    etas, step = np.array([0.0, 0.5, 2.0]), 1e-5

    def fn(eta):
        return fluctuations.linear_structure_factor(symbol, sigmas, eta=eta)[-1, 2, 1, 0, 0].real

    def everything(etas):
        return jax.vmap(fn)(etas), jax.lax.map(fn, etas), jax.grad(fn)(etas[1])

    together, loop, slope = jax.jit(everything)(etas)
    np.testing.assert_allclose(together, loop, rtol=1e-12)
    after, before = jax.jit(lambda etas: jax.lax.map(fn, etas))(0.5 + np.array([step, -step]))
    np.testing.assert_allclose(slope, (after - before) / (2 * step), rtol=1e-6)


def test_discrete_identity_of_one_euler_step():
    """S' = (1-h)^2 S + 2h(1-h) Re<conj(x_k) D_k>/N + h^2 <|D_k|^2>/N, to round-off, for any ensemble."""
    from critjax.sampling import sample

    sigmas = jax.device_put(np.geomspace(12.0, 3.0, 12))
    denoise = two_pattern_denoiser(5)

    @jax.jit
    def runs(key):
        keys = jax.random.split(key, 6)
        return jax.vmap(lambda key: sample(denoise, key, (10, 8, 1), sigmas, solver="euler"))(keys)

    run = jax.tree.map(np.asarray, runs(jax.random.key(0)))
    x = np.fft.fft2(np.asarray(run.x), axes=(2, 3))[..., 0]
    d = np.fft.fft2(np.asarray(run.denoised), axes=(2, 3))[..., 0]
    levels = np.asarray(run.sigma[0])
    power = (np.abs(x) ** 2).mean(0) / 80
    cross = (np.conj(x) * d).real.mean(0) / 80
    target = (np.abs(d) ** 2).mean(0) / 80
    for n in range(len(levels) - 1):
        h = 1 - levels[n + 1] / levels[n]
        predicted = (1 - h) ** 2 * power[n] + 2 * h * (1 - h) * cross[n] + h**2 * target[n]
        np.testing.assert_allclose(power[n + 1], predicted, rtol=1e-11)


# --- Gaussian closure
# -------------------------------------------------------------------------------------------


def test_closure_of_a_linear_denoiser_is_linear_theory():
    """D linear: regression finds the symbol exactly, however few the samples, and the mean relaxes to mu."""
    rng = np.random.default_rng(7)
    spectrum = np.abs(np.fft.fft2(rng.normal(size=(8, 6)))) ** 2 / 20
    sigmas = np.geomspace(5.0, 0.5, 200)
    denoise = gaussian_denoiser(np.full((8, 6, 1), 0.3), spectrum)
    closure = gaussian_closure(denoise, jax.random.key(1), sigmas, (8, 6), num_samples=4, eta=0.5)
    theory = gaussian_symbol(spectrum)
    np.testing.assert_allclose(closure.symbol[50], theory(sigmas[50]), atol=1e-9)
    linear = linear_structure_factor(theory, sigmas, eta=0.5)
    np.testing.assert_allclose(closure.structure_factor[-1], linear[-1], rtol=2e-3)


def test_closure_mean_obeys_its_own_equation():
    """D = a x + b: dm/dtau = (1+eta)((a - 1) m + b) exactly, S -> S exp(2 (1+eta)(a-1) tau)."""
    sigmas = np.geomspace(4.0, 1.0, 400)
    closure = gaussian_closure(
        lambda x, sigma: 0.25 * x + 0.6,
        jax.random.key(2),
        sigmas,
        (4, 4),
        num_samples=3,
        mean=np.array([0.1]),
    )
    drawn = closure.mean[:, 0]
    # The drawn fields have a sample mean of their own, so m relaxes to 0.8 + (a sampling offset that shrinks
    # with S).
    fixed = 0.6 / 0.75
    free = fixed + (0.1 - fixed) * (sigmas[-1] / sigmas[0]) ** 0.75
    np.testing.assert_allclose(closure.structure_factor[-1, ..., 0, 0].real, 16.0 * (1 / 4) ** 1.5, rtol=1e-9)
    many = gaussian_closure(
        lambda x, sigma: 0.25 * x + 0.6,
        jax.random.key(2),
        sigmas,
        (32, 32),
        num_samples=32,
        mean=np.array([0.1]),
    )
    # White noise of std <= 4 averaged over 32^3 numbers: standard error below 0.022 * 0.25.
    np.testing.assert_allclose(many.mean[-1, 0], free, atol=0.02)
    assert abs(float(drawn[0]) - 0.1) < 1e-12


def sech_squared_closure(size, grid, levels, table):
    """Solve the two-pattern closure by itself: lambda = (c_k/t) E[sech^2 u], u Gaussian."""
    n_y, n_x = np.meshgrid(np.fft.fftfreq(grid[0]), np.fft.fftfreq(grid[1]), indexing="ij")
    offsets = np.arange(size) - (size - 1) // 2
    line = [np.exp(2j * np.pi * n[..., None] * offsets).sum(-1).real for n in (n_y, n_x)]
    c = line[0] * line[1]
    spectrum, u = np.full(grid, levels[0] ** 2), np.linspace(-9, 9, 4001)
    found = {}
    for sigma, after in itertools.pairwise(levels):
        t = sigma**2
        std = np.sqrt((c**2 * spectrum).mean()) / t
        weight = np.exp(-(u**2) / 2)
        slope = (weight / np.cosh(std * u) ** 2).sum() / weight.sum()
        for target in table:
            if after**2 < target <= t:
                found[target] = c[0, 0] / t * slope
        spectrum = spectrum * np.exp(2 * (c / t * slope - 1) * np.log(sigma / after))
    return [found[target] for target in table]


def test_closure_of_the_two_pattern_bank():
    """Against the closure solved as one Gaussian integral, and against published check values."""
    table = [147.0, 108.0, 79.0, 58.0, 43.0, 20.0, 10.0]
    fine = np.geomspace(np.sqrt(200.0), np.sqrt(9.0), 2000)
    expected = sech_squared_closure(9, (64, 64), fine, table)
    np.testing.assert_allclose(expected, [0.386, 0.474, 0.572, 0.671, 0.763, 0.960, 1.073], atol=0.006)
    levels = np.geomspace(np.sqrt(200.0), np.sqrt(9.0), 60)
    closure = gaussian_closure(
        two_pattern_denoiser(9), jax.random.key(3), levels, (64, 64), num_samples=12, size=9
    )
    assert np.all(np.isnan(closure.symbol_error)) and np.all(np.isnan(closure.kurtosis_error))  # one replica
    got = np.interp(
        np.log(table), np.log(levels[::-1] ** 2), np.asarray(closure.symbol[::-1, 0, 0, 0, 0].real)
    )
    np.testing.assert_allclose(got, expected, rtol=0.03)
    ladder = np.geomspace(np.sqrt(200.0), np.sqrt(9.0), 200)
    without_sampling = np.asarray(two_pattern_closure(9, ladder, (64, 64)).symbol[::-1, 0, 0, 0, 0].real)
    got = np.interp(np.log(table), np.log(ladder[::-1] ** 2), without_sampling)
    # The oracle takes first-order steps and reads the level above: 5e-4 in ln sigma^2.
    np.testing.assert_allclose(got, expected, rtol=3e-3)


def test_closure_errors_are_those_of_the_sampling():
    """Replicas against the deterministic solution, for ten keys: all modes of one run deviate together."""
    levels, grid = np.geomspace(14.0, 6.0, 12), (24, 24)
    exact, denoise = two_pattern_closure(9, levels, grid), two_pattern_denoiser(9)

    def run(key, num_samples=16):
        return fluctuations.gaussian_closure(
            denoise, key, levels, grid, num_samples=num_samples, num_replicas=8, size=9
        )

    found = on_host(jax.jit(lambda key: jax.lax.map(run, jax.random.split(key, 10))))(jax.random.key(9))
    more = on_host(run)(jax.random.key(10), 64)
    later = slice(1, None), slice(0, 2), slice(0, 2)  # at the first level S is given
    for name in ("symbol", "structure_factor"):
        errors = getattr(found, f"{name}_error")[:, *later]
        deviations = np.abs(getattr(found, name)[:, *later] - getattr(exact, name)[later])
        # Ten draws, and errors from eight replicas with their tails.
        assert 0.5 < np.sqrt(np.mean((deviations / errors) ** 2)) < 2
        # Four times the samples, half the error, which eight replicas know within a quarter.
        assert 1.2 < np.mean(errors) / np.mean(getattr(more, f"{name}_error")[later]) < 3.4
    with pytest.raises(ValueError, match="num_replicas: expected a divisor of num_samples"):
        run(jax.random.key(9), 10)


@pytest.mark.parametrize("sigma", [0.2, 1.0, 8.9, 9.1, 300.0])
def test_two_pattern_closure_integrates_narrow_and_wide_distributions(sigma):
    """White noise of std sigma makes u of variance P/sigma^2, from 1e-3 to 2000."""
    found = two_pattern_closure(9, np.array([sigma, 0.9 * sigma]), (16, 16)).symbol[0]
    std = 9 / sigma
    expected = scipy.integrate.quad(
        lambda u: np.exp(-(u**2) / (2 * std**2)) / np.cosh(u) ** 2 / np.sqrt(2 * np.pi) / std,
        -min(30, 12 * std),
        min(30, 12 * std),
        points=[0],
        epsabs=1e-13,
        limit=200,
    )[0]
    np.testing.assert_allclose(found[0, 0, 0, 0], 81 / sigma**2 * expected, rtol=1e-9)


def test_kurtosis_of_the_closure_is_that_of_a_cubic_flow_to_first_order():
    """dx/dtau = -b x - c x^3 at every pixel is a Bernoulli equation: x, and its fourth moment, in closed form."""
    strength, decay, sigmas = 0.002, 0.5, np.geomspace(1.0, 0.4, 30)
    found = gaussian_closure(
        lambda x, sigma: (1 - decay) * x - strength * x**3,
        jax.random.key(6),
        sigmas,
        (64, 64),
        num_samples=64,
        num_replicas=8,
        size=1,  # all modes are soft
    )
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    tau = np.log(sigmas[0] / sigmas)[:, None]
    x = x * np.exp(-decay * tau)
    x = x / np.sqrt(1 + strength / decay * (x * np.exp(decay * tau)) ** 2 * (1 - np.exp(-2 * decay * tau)))
    exact = (x**4 @ weight) / (x**2 @ weight) ** 2 * weight.sum()
    assert exact[-1] < 2.98
    np.testing.assert_allclose(found.kurtosis - 3, exact - 3, rtol=0.06, atol=1e-6)
    errors = np.asarray(found.kurtosis_error)
    assert errors[0] == 0 and np.all(errors[1:] < 0.05 * (3 - exact[1:]))


def test_transformed_closure_starts_gaussian():
    sigmas = np.geomspace(14.0, 8.0, 9)
    gaussian, beyond = two_pattern_closure(9, sigmas, (24, 24)), transformed_closure(9, sigmas, (24, 24))
    np.testing.assert_allclose(beyond.symbol[0], gaussian.symbol[0], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(beyond.mean_jacobian[0], beyond.symbol[0], rtol=1e-7, atol=1e-12)  # Stein
    np.testing.assert_allclose(beyond.kurtosis[0], 3.0, rtol=1e-6)
    assert np.all(np.diff(beyond.kurtosis) < 0)
    with pytest.raises(ValueError, match="size: expected an odd window, got 4"):
        transformed_closure(4, sigmas, (24, 24))


def test_transformed_closure_knows_rows_from_columns():
    sigmas = np.geomspace(14.0, 4.5, 25)
    wide, tall = (transformed_closure(5, sigmas, grid, num_nodes=121) for grid in ((12, 24), (24, 12)))
    np.testing.assert_allclose(wide.mean_jacobian[:, 0, 0], tall.mean_jacobian[:, 0, 0], rtol=1e-9)
    np.testing.assert_allclose(wide.symbol[:, 1, 2], tall.symbol[:, 2, 1], rtol=1e-9)


def test_transformed_closure_against_a_small_simulation():
    """numpy, Euler steps: mean Jacobian and kurtosis past the point where a Gaussian field fails."""
    size, side, levels = 5, 32, np.geomspace(np.sqrt(60.0), np.sqrt(7.0), 241)
    rng = np.random.default_rng(4)
    offset = np.minimum(np.arange(side), side - np.arange(side))
    window = np.fft.rfft2(np.outer(offset <= 2, offset <= 2).astype(float))

    def argument(x, sigma):
        return np.fft.irfft2(np.fft.rfft2(x) * window) / sigma**2

    x = levels[0] * rng.normal(size=(320, side, side))
    for sigma, after in itertools.pairwise(levels):
        x = x + (1 - after / sigma) * (np.tanh(argument(x, sigma)) - x)
    u = argument(x, levels[-1])
    slope = (1 / np.cosh(u) ** 2).mean((1, 2)) * size**2 / levels[-1] ** 2
    error = slope.std(ddof=1) / np.sqrt(len(slope))
    beyond = transformed_closure(size, levels[::2], (side, side))
    gaussian = two_pattern_closure(size, levels[::2], (side, side)).symbol[-1, 0, 0, 0, 0].real
    assert abs(gaussian - slope.mean()) > 0.06  # what is to be explained
    np.testing.assert_allclose(
        beyond.mean_jacobian[-1, 0, 0, 0, 0].real, slope.mean(), atol=0.015 + 2 * error
    )
    blocks = [(b**4).mean() / (b**2).mean() ** 2 for b in np.split(u, 8)]
    spread = np.std(blocks, ddof=1) / np.sqrt(8)
    assert spread < 0.025
    np.testing.assert_allclose(
        beyond.kurtosis[-1], (u**4).mean() / (u**2).mean() ** 2, atol=0.025 + 1.5 * spread
    )


def test_closure_of_three_channels_recovers_a_channel_mixing_symbol():
    mix = np.array([[0.5, 0.3, 0.0], [-0.2, 0.4, 0.1], [0.0, 0.2, 0.6]])
    sigmas = np.geomspace(2.0, 1.0, 12)
    closure = gaussian_closure(
        lambda x, sigma: jnp.roll(x, -1, 1) @ mix.T,
        jax.random.key(4),
        sigmas,
        (4, 6),
        num_samples=16,
        channels=3,
    )
    phase = np.exp(2j * np.pi * np.fft.fftfreq(6))
    expected = np.broadcast_to(phase[None, :, None, None] * mix, (4, 6, 3, 3))
    # The ensemble mean is removed, not the sample means: at k = 0 only the ensemble centring is left. Linear
    # D: exact.
    np.testing.assert_allclose(closure.symbol[-1], expected, atol=1e-9)
    linear = linear_structure_factor(lambda sigma: expected, sigmas)
    np.testing.assert_allclose(closure.structure_factor[-1], linear[-1], rtol=1e-6, atol=1e-9)


def test_closure_of_a_denoiser_with_a_picture_of_its_own():
    """D = x/2 + picture: fluctuations at every pixel are halved, whatever the picture; a spatial mean leaves it in."""
    picture = 5 * np.random.default_rng(3).normal(size=(*GRID, 1))
    closures = {
        centre: gaussian_closure(
            lambda x, sigma: 0.5 * x + picture,
            jax.random.key(2),
            np.geomspace(3.0, 1.0, 4),
            GRID,
            num_samples=6,
            centre=centre,
        )
        for centre in ("ensemble", "spatial")
    }
    np.testing.assert_allclose(closures["ensemble"].symbol, 0.5, atol=1e-12)
    assert np.abs(closures["spatial"].symbol - 0.5).max() > 0.1
    with pytest.raises(ValueError, match="centre: expected 'ensemble' or 'spatial', got 'pixel'"):
        gaussian_closure(
            lambda x, sigma: x, jax.random.key(0), np.array([2.0, 1.0]), GRID, num_samples=4, centre="pixel"
        )


def test_messages():
    symbol = bank_symbol(np.zeros(GRID))
    with pytest.raises(ValueError, match="sigmas: expected positive, strictly decreasing"):
        linear_structure_factor(symbol, np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="eta: expected a finite number >= 0, got -1"):
        linear_structure_factor(symbol, np.array([2.0, 1.0]), eta=-1.0)
    with pytest.raises(ValueError, match="num_substeps: expected an integer >= 1, got 0"):
        linear_structure_factor(symbol, np.array([2.0, 1.0]), num_substeps=0)
    with pytest.raises(ValueError, match=r"symbol_fn\(sigma\): expected shape \(H, W, C, C\)"):
        linear_structure_factor(lambda sigma: jnp.zeros((4, 4)), np.array([2.0, 1.0]))
    with pytest.raises(ValueError, match="num_samples: expected at least 2, got 1"):
        gaussian_closure(
            two_pattern_denoiser(3), jax.random.key(0), np.array([2.0, 1.0]), (8, 8), num_samples=1
        )
