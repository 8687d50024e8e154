"""The freeze-out study: simulated quenches against the equations they should obey, and what the result says."""

import json

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

from critjax import plotting
from critjax.closed_form import two_pattern_denoiser
from critjax.studies import _quench as quench
from critjax.studies import freeze_out
from critjax.studies.freeze_out import FreezeOutSettings, fit_exponent, run

SMALL = FreezeOutSettings(
    steps_per_tau=(10, 40),
    grid=24,
    num_samples=64,
    max_samples=256,
    num_blocks=16,
    fit_from=10,
    binder_grids=(8, 16),
    binder_steps_per_tau=60,
    binder_range=(0.6, 0.2),
    binder_levels=8,
)


@pytest.fixture(scope="module")
def result():
    with jax.enable_x64(False):
        return run(SMALL)


def pulls(dataset, prefix, name, level=0):
    """Deviation of the measurement from a prediction, in standard errors, over n."""
    found, error = dataset[name].values[:, level], dataset[f"{name}_error"].values[:, level]
    return (found - dataset[f"{prefix}_{name}"].values[:, level]) / error


def test_linear_dynamics_obeys_the_s_equation(monkeypatch):
    """Without the hyperbolic tangent every length and the walls are those of the linear structure factor."""

    def linear_denoiser(size):
        def denoise(x, sigma):
            window = two_pattern_denoiser(size)(x * 1e-3, sigma)
            return jnp.arctanh(window) * 1e3

        return denoise

    monkeypatch.setattr(quench, "two_pattern_denoiser", linear_denoiser)
    quench.make_quench.cache_clear()
    settings = FreezeOutSettings(
        steps_per_tau=(15, 40),
        grid=20,
        num_samples=768,
        max_samples=768,
        noise_ratios=(1.2, 1.0),
        binder_grids=(),
    )
    with jax.enable_x64(False):
        dataset = run(settings)
    quench.make_quench.cache_clear()
    for level in (0, 1):
        for name in ("xi_fit", "xi_sign", "xi_denoised_sign", "wall_density"):
            assert np.abs(pulls(dataset, "linear", name, level)).max() < 4, name
    # The test has teeth: xi at sigma_c is known to better than a tenth, and closures are far away.
    assert np.all(dataset.xi_fit_error[:, 1] < 0.08 * dataset.xi_fit[:, 1])
    assert np.abs(pulls(dataset, "closure", "wall_density", 1)).min() > 20


def test_at_the_bare_critical_noise_the_closure_holds_and_linear_theory_does_not(result):
    for name in ("xi_sign", "xi_denoised_sign", "wall_density"):
        found, closure = result[name].values[:, 0], result[f"closure_{name}"].values[:, 0]
        np.testing.assert_allclose(found, closure, rtol=0.035)
    assert np.all(pulls(result, "linear", "wall_density") > 5)
    assert np.all(np.abs(pulls(result, "closure", "xi_fit")) < 4)


def test_slower_quenches_leave_longer_domains_and_fewer_walls(result):
    assert np.all(np.diff(result.xi_denoised_sign[:, 1:], axis=0) > 3 * result.xi_denoised_sign_error[1:, 1:])
    assert np.all(np.diff(result.wall_density[:, 1:], axis=0) < -3 * result.wall_density_error[1:, 1:])
    # Two points: the exponent is their slope.
    slope = np.diff(np.log(result.wall_density), axis=0)[0] / np.log(4)
    np.testing.assert_allclose(result.wall_density_exponent, slope, rtol=1e-5)


def test_binder_goes_from_gaussian_to_ordered_later_on_the_larger_grid(result):
    first, last = result.binder[:, 0], result.binder[:, -1]
    assert np.all(np.abs(first) < 4 * result.binder_error[:, 0] + 0.15)
    assert float(last[0]) > 0.45 and float(last[1]) < float(last[0])
    stiffness = 8 / 24
    expected = [1 / (60 * 0.5 * stiffness * 4 * np.sin(np.pi / side) ** 2) for side in (8, 16)]
    np.testing.assert_allclose(result.relaxation_tau, expected, rtol=1e-6)
    assert result.binder_num_samples.values.tolist() == [128, 64]


def test_result_is_labelled_and_survives_a_file(result, tmp_path):
    assert result.attrs["status"] == "complete" and json.loads(result.attrs["settings"])["size"] == 3
    assert result.xi_fit.attrs["units"] == "pixels" and result.ladder_resolved.values.all()
    np.testing.assert_allclose(result.rate, [1.0, 4.0])
    result.to_netcdf(tmp_path / "r.nc", engine="h5netcdf")


def test_coarse_ladder_is_flagged():
    for steps_per_level, good in ((1, True), (10, False)):
        ladder = quench.build_ladder(np.array([3.0, 1.0]), 3.0, 30, 0.1, steps_per_level)
        sigmas = ladder.sigmas
        np.testing.assert_allclose(sigmas[ladder.measured], [3.0, 1.0], rtol=1e-12)
        assert ladder.num_steps == ladder.measured[-1] * steps_per_level
        # The rate is n up to rounding to whole levels; above sigma_c it is n exactly.
        np.testing.assert_allclose(np.diff(np.log(sigmas))[0], -steps_per_level / 30, rtol=1e-12)
        assert bool(freeze_out.resolves_freeze_out(sigmas, 3.0, 3.0)) == good


def test_lengths_of_a_known_spectrum():
    """Ornstein-Zernike modes give their xi by both routes; signs of a Gaussian field obey the arcsine law."""
    side, size, xi = 32, 3, 1.7
    modes = quench.low_modes(side, size)
    n = np.fft.fftfreq(side)
    lattice = 4 * (np.sin(np.pi * n[:, None]) ** 2 + np.sin(np.pi * n) ** 2)
    spectrum = 2.0 / (1 + xi**2 * lattice)
    found = quench.spectral_lengths(jnp.asarray(spectrum[modes.rows, modes.columns]), modes)
    np.testing.assert_allclose([found["xi_second_moment"], found["xi_fit"]], xi, rtol=1e-3)
    assert modes.rows.size == np.sum(np.hypot(*np.meshgrid(n, n)) * 2 * np.pi <= np.pi / size)
    window = quench.window_symbol(side, size)
    walls = float(quench.gaussian_lengths(jnp.asarray(spectrum), window, modes)["wall_density"])
    rng = np.random.default_rng(0)
    white = np.fft.fft2(rng.normal(size=(200, side, side)))
    field = np.sign(np.fft.ifft2(white * np.sqrt(spectrum) * np.asarray(window)).real)
    drawn = [np.mean(field != np.roll(field, 1, axis)) for axis in (1, 2)]
    np.testing.assert_allclose(np.mean(drawn), walls, rtol=0.02)


def test_fit_of_an_exponent():
    x = np.array([10.0, 100.0, 1000.0, 3000.0])
    slope, error, chi2 = fit_exponent(x, 3 * x**0.25, 0.01 * x**0.25)
    assert slope == pytest.approx(0.25, abs=1e-12) and error > 0 and chi2 < 1e-12
    assert fit_exponent(x, np.log(x), 0.01 * np.log(x))[2] > 10  # a logarithm is no power
    # The quoted error is the scatter of the fit, and a useless point takes no part.
    rng = np.random.default_rng(1)
    slopes, errors = [], []
    for _ in range(300):
        relative = np.array([0.02, 0.05, 0.03, 0.1])
        y = x**-0.3 * (1 + relative * rng.normal(size=4))
        s, e, _ = fit_exponent(np.append(x, 1e4), np.append(y, np.nan), np.append(relative * y, 1.0))
        slopes.append(s)
        errors.append(e)
    assert abs(np.mean(slopes) + 0.3) < 0.003 and 0.7 < np.std(slopes) / np.median(errors) < 1.4
    assert np.isnan(fit_exponent(x[:1], x[:1], x[:1])[0])


def test_interrupted_run_keeps_what_was_done():
    settings = FreezeOutSettings(
        steps_per_tau=(5, 10, 20),
        grid=8,
        num_samples=16,
        max_samples=16,
        noise_ratios=(1.0,),
        binder_grids=(8,),
    )

    def stop_after(count):
        def progress(stage, done, total):
            assert total == {"quenches": 3, "binder": 1}[stage]
            if done == count:
                raise KeyboardInterrupt

        return progress

    with jax.enable_x64(False):
        part = run(settings, progress=stop_after(2))
        assert part.attrs["status"] == "interrupted"
        assert part.steps_per_tau.values.tolist() == [5, 10] and "binder" not in part
        whole = run(settings)
        np.testing.assert_array_equal(part.wall_density, whole.wall_density[:2])
        with pytest.raises(KeyboardInterrupt):
            run(settings, progress=stop_after(0))


def test_figures_show_the_numbers(result):
    before = dict(mpl.rcParams)
    figure = plotting.frozen_length_figure(result)
    bars = [c for c in figure.axes[0].containers if isinstance(c, mpl.container.ErrorbarContainer)]
    np.testing.assert_allclose(bars[0].lines[0].get_ydata(), result.xi_fit[:, 0])
    drawn = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    for theory in (result.linear_xi_fit[:, 0], result.closure_xi_fit[:, 0], result.freeze_out_length):
        assert any(np.allclose(y, theory) for y in drawn)
    assert all("n" in axes.get_xlabel() and axes.get_xscale() == "log" for axes in figure.axes)
    figure = plotting.binder_figure(result)
    bars = [c for c in figure.axes[0].containers if isinstance(c, mpl.container.ErrorbarContainer)]
    for index, bar in enumerate(bars):
        np.testing.assert_allclose(bar.lines[0].get_ydata(), result.binder[index])
    left, right = figure.axes[0].get_xlim()
    assert left > right and dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 4}, "size: expected an odd window, got 4"),
        ({"grid": 2}, "grid: expected an integer >= 4, got 2"),
        ({"size": 9, "grid": 8}, "grid: expected more pixels than the window's 9, got 8"),
        ({"step_size": 1.0}, r"step_size: expected a number in \(0, 1\), got 1.0"),
        ({"steps_per_tau": (30, 10)}, "steps_per_tau: expected increasing integers >= 1"),
        ({"steps_per_tau": ()}, "steps_per_tau: expected increasing integers >= 1"),
        ({"noise_ratios": (0.5, 1.0)}, "noise_ratios: expected decreasing numbers > 0"),
        ({"binder_range": (1.0,)}, "binder_range: expected two ratios"),
        ({"num_blocks": 1}, "num_blocks: expected an integer >= 2, got 1"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(ValueError, match=words):
        FreezeOutSettings(**options)
