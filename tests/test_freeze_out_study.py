# ruff: noqa: RUF001  (Greek letters belong in a report)
"""The freeze-out study: simulated quenches against the equations they should obey, and what the result says."""

import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from programs import counting
from study_runs import FREEZE_OUT, freeze_out_run

from critjax import cli, studies
from critjax.closed_form import two_pattern_denoiser
from critjax.fluctuations import resolves_freeze_out
from critjax.studies import freeze_out
from critjax.studies.freeze_out import FreezeOutSettings, findings, quench, run
from critjax.studies.freeze_out.figures import binder_figure, frozen_length_figure
from critjax.studies.freeze_out.run import fit_exponent


@pytest.fixture(scope="module")
def result():
    return freeze_out_run().result


def pulls(dataset, prefix, name, level=0):
    """Deviation of the measurement from a prediction, in standard errors, over n."""
    found, error = dataset[name].values[:, level], dataset[f"{name}_error"].values[:, level]
    return (found - dataset[f"{prefix}_{name}"].values[:, level]) / error


def test_linear_dynamics_obeys_the_s_equation(monkeypatch):
    """Without the hyperbolic tangent every length and the walls are those of the linear structure factor."""

    def linear_denoiser(size):
        exact = two_pattern_denoiser(size)

        def denoise(x, sigma):
            return jnp.arctanh(exact(x * 1e-3, sigma)) * 1e3

        return denoise

    module = importlib.import_module("critjax.studies.freeze_out.run")
    monkeypatch.setattr(module, "two_pattern_denoiser", linear_denoiser)
    settings = FreezeOutSettings(
        steps_per_tau=(15, 40),
        grid=20,
        num_samples=384,
        max_samples=384,
        noise_ratios=(1.2, 1.0),
        binder_grids=(),
    )
    with jax.enable_x64(False):
        dataset = run(settings)
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
    assert json.loads(result.attrs["settings"])["size"] == 3
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
        assert bool(resolves_freeze_out(sigmas, 3.0, 3.0)) == good


def test_lengths_of_a_known_spectrum():
    """Ornstein-Zernike modes give their xi by both routes; signs of a Gaussian field obey the arcsine law."""
    side, size, xi = 32, 3, 1.7
    modes, window = quench.low_modes(side, size), np.asarray(quench.window_symbol(side, size))
    n = np.fft.fftfreq(side)
    lattice = 4 * (np.sin(np.pi * n[:, None]) ** 2 + np.sin(np.pi * n) ** 2)
    spectrum = 2.0 / (1 + xi**2 * lattice)
    found = jax.jit(lambda s, w: quench.gaussian_lengths(s, w, modes))(spectrum, window)
    np.testing.assert_allclose([found["xi_second_moment"], found["xi_fit"]], xi, rtol=1e-3)
    assert modes.rows.size == np.sum(np.hypot(*np.meshgrid(n, n)) * 2 * np.pi <= np.pi / size)
    walls = float(found["wall_density"])
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


def test_what_is_saved_is_not_simulated_again(result):
    parts = freeze_out_run().parts
    assert list(parts) == ["quench-10", "quench-40", "grid-8", "grid-16"]
    new = []
    again = run(FREEZE_OUT, saved=parts, on_checkpoint=lambda name, part: new.append(name))
    assert not new
    xr.testing.assert_identical(again.drop_attrs(), result.drop_attrs())


def test_another_seed_compiles_nothing(result):
    with jax.enable_x64(False):
        run(dataclasses.replace(FREEZE_OUT, seed=1))
        with counting() as count:
            other = run(dataclasses.replace(FREEZE_OUT, seed=2))
    assert count.programs == 0
    assert float(abs(other.wall_density - result.wall_density).max()) > 0


def test_the_command_goes_to_its_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "configure_jax", lambda precision: None)
    few = [
        "freeze-out",
        "--quick",
        "--grid",
        "8",
        "--num-samples",
        "4",
        "--max-samples",
        "4",
        "--num-blocks",
        "2",
    ]
    few += [
        "--steps-per-tau",
        "5,10",
        "--binder-grids",
        "8",
        "--binder-steps-per-tau",
        "10",
        "--binder-samples",
        "4",
    ]
    with jax.enable_x64(False):
        assert cli.main([*few, "--no-progress", "--out", str(tmp_path / "run")]) == 0
        printed = capsys.readouterr().out
        assert "bare critical noise σ_c" in printed and "Quick run" in printed
        page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
        assert "critjax freeze-out --from results.nc" in page and "At the bare critical noise" in page
        assert {p.stem for p in (tmp_path / "run" / "figures").glob("*.png")} == {"frozen-length", "binder"}
        assert cli.main([*few, "--dry-run"]) == 0
    assert "predicted time" in capsys.readouterr().out


def test_cost_counts_the_steps_of_all_samples():
    settings = FreezeOutSettings(
        steps_per_tau=(5, 10), grid=8, num_samples=4, max_samples=8, num_blocks=2, binder_grids=()
    )
    cost = freeze_out.estimate_cost(settings)
    steps = [quench.build_ladder(3 * np.array([1.0, 0.34, 0.28]), 3.0, n, 0.1, 1).num_steps for n in (5, 10)]
    assert cost["evaluations"] == pytest.approx(
        2 * steps[0] + steps[1]
    )  # twice as many samples at half the n
    assert cost["seconds"] > cost["overhead"] and cost["bytes"] > 0


# --- Sentences: opposite numbers, opposite words


def made_up(**changes):
    """Two rates, two levels and two grids: below linear theory, domains grow, the larger grid orders later."""
    by_both, by_grid = ("steps_per_tau", "sigma_ratio"), ("grid_side",)
    values = {
        "xi_fit": [[0.5, 1.0], [0.6, 2.0]],
        "xi_fit_error": [[0.01, 0.1], [0.01, 0.1]],
        "linear_xi_fit": [[0.8, np.nan], [1.1, np.nan]],
        "closure_xi_fit": [[0.5, 1.4], [0.61, 1.7]],
        "xi_denoised_sign": [[1.5, 2.0], [1.6, 3.0]],
        "xi_denoised_sign_error": [[0.01, 0.1], [0.01, 0.1]],
        "wall_density": [[0.24, 0.2], [0.23, 0.1]],
        "wall_density_error": [[0.01, 0.01], [0.01, 0.01]],
    }
    for name in ("xi_denoised_sign", "wall_density"):
        values |= {f"{kind}_{name}": [[1.0, 1.0], [1.0, 1.0]] for kind in ("linear", "closure")}
    powers = {
        "xi_fit_exponent": [0.1, 0.3],
        "xi_fit_exponent_error": [0.02, 0.1],
        "xi_fit_exponent_chi2": [1.0, 1.0],
        "xi_denoised_sign_exponent": [0.05, 0.3],
        "xi_denoised_sign_exponent_error": [0.01, 0.05],
        "xi_denoised_sign_exponent_chi2": [1.0, 1.0],
    }
    grids = {
        "binder_crossing": [0.33, 0.3],
        "binder_crossing_error": [0.005, 0.005],
        "relaxation_tau": [0.01, 0.04],
    }
    curves = {"binder": [[0.0, 0.63], [0.0, 0.62]], "binder_error": [[0.05, 0.005], [0.05, 0.005]]}
    rates = {
        "ladder_resolved": [True, True],
        "closure_critical_ratio": [0.29, 0.29],
        "num_samples": [64, 64],
    }
    variables = {name: (by_both, value) for name, value in values.items()}
    variables |= {name: (("sigma_ratio",), value) for name, value in powers.items()}
    variables |= {name: (by_grid, value) for name, value in grids.items()}
    variables |= {name: (("grid_side", "binder_ratio"), value) for name, value in curves.items()}
    variables |= {name: (("steps_per_tau",), value) for name, value in rates.items()}
    for name, value in changes.items():
        variables[name] = (variables[name][0], value)
    axes = {"steps_per_tau": [10, 100], "sigma_ratio": [1.0, 0.3], "grid_side": [16, 32]}
    dataset = xr.Dataset(variables, {**axes, "binder_ratio": [0.45, 0.26]})
    settings = FreezeOutSettings(binder_grids=(16, 32), steps_per_tau=(10, 100)).resolved()
    landmarks = {"fit_from": 10, "ising_binder": 0.6107, "critical_sigma_bare": 3.0}
    return dataset.assign_attrs(study="freeze-out", settings=settings.to_json(), **landmarks)


def test_the_length_at_the_critical_noise_beside_theory():
    below = findings.length_sentence(made_up())
    assert "(n = 100) has a correlation length of 0.60 ± 0.01 px" in below.replace(
        "0.600 ± 0.010", "0.60 ± 0.01"
    )
    assert "45.5 % below the 1.10 px of linear theory (50 standard errors)" in below
    assert "in agreement with the 0.610 px of the Gaussian closure (1.0 standard errors)" in below
    assert "Fluctuations limit the length" in below
    above = findings.length_sentence(made_up(linear_xi_fit=[[0.8, np.nan], [0.4, np.nan]]))
    assert "50.0 % above" in above and "longer distances" in above and "limit" not in above
    same = findings.length_sentence(made_up(xi_fit_error=[[0.3, 0.3], [0.3, 0.3]]))
    assert "Whether fluctuations limit the length is not decided" in same
    unknown = findings.length_sentence(made_up(xi_fit_error=[[np.nan] * 2] * 2))
    assert "how it stands to theory is not decided (1.10 px by linear theory, 0.610 px by" in unknown
    assert "has no correlation length" in findings.length_sentence(made_up(xi_fit=[[np.nan] * 2] * 2))
    assert findings.length_sentence(made_up().assign_coords(sigma_ratio=[0.9, 0.3])) is None


def test_the_power_at_the_critical_noise():
    assert "7.5 standard errors below the freeze-out power 1/4" in findings.exponent_sentence(made_up())
    above = findings.exponent_sentence(made_up(xi_fit_exponent=[0.4, 0.3]))
    assert "standard errors above the freeze-out power" in above and "saturates" not in above
    agree = findings.exponent_sentence(made_up(xi_fit_exponent=[0.26, 0.3]))
    assert "in agreement with the freeze-out power 1/4" in agree
    wide = findings.exponent_sentence(made_up(xi_fit_exponent_error=[0.3, 0.3]))
    assert "is not decided" in wide and "agreement" not in wide
    bent = findings.exponent_sentence(made_up(xi_fit_exponent_chi2=[9.0, 1.0]))
    assert "is no power of n" in bent
    assert findings.exponent_sentence(made_up(xi_fit_exponent=[np.nan, 0.3])) is None


def test_what_slower_quenches_leave():
    longer = findings.domains_sentence(made_up())
    assert "Slower quenches leave longer domains" in longer and "n^(0.30 ± 0.05)" in longer
    assert "no power fits" in findings.domains_sentence(made_up(xi_denoised_sign_exponent_chi2=[1.0, 9.0]))
    shorter = findings.domains_sentence(made_up(xi_denoised_sign=[[1.5, 3.0], [1.6, 2.0]]))
    assert "leave shorter domains" in shorter and "longer" not in shorter
    noisy = {"xi_denoised_sign_error": [[1.0, 1.0]] * 2, "wall_density_error": [[0.2, 0.2]] * 2}
    assert "is not decided" in findings.domains_sentence(made_up(**noisy))
    assert findings.walls_sentence(made_up()).startswith("Fewer walls")
    assert findings.walls_sentence(made_up(wall_density=[[0.2, 0.1], [0.2, 0.2]])).startswith("More walls")
    assert "is not decided" in findings.walls_sentence(made_up(**noisy))
    one = made_up().isel(steps_per_tau=slice(1))
    assert findings.domains_sentence(one) is None and findings.walls_sentence(one) is None


def test_where_samples_order():
    later = findings.transition_sentence(made_up())
    assert "0.330 ± 0.005 σ_c (16 x 16)" in later and "The larger grid orders later, at lower noise" in later
    earlier = findings.transition_sentence(made_up(binder_crossing=[0.3, 0.33]))
    assert "orders earlier, at higher noise" in earlier and "later" not in earlier
    noisy = findings.transition_sentence(made_up(binder_crossing_error=[0.1, 0.1]))
    assert "Whether larger grids order later is not decided" in noisy
    half = findings.transition_sentence(made_up(binder_crossing=[0.33, np.nan]))
    assert "on 32 x 32 not down to 0.260 σ_c" in half
    never = {"binder_crossing": [np.nan, np.nan], "binder": [[0.0, 0.3], [0.0, 0.2]]}
    assert "No grid orders down to 0.260 σ_c" in findings.transition_sentence(made_up(**never))
    near = findings.transition_sentence(made_up(**never, binder_error=[[0.1, 0.2], [0.1, 0.2]]))
    assert "is not decided" in near and "No grid" not in near
    assert findings.transition_sentence(made_up().drop_dims("grid_side")) is None


def test_equilibrium_or_freeze_out_of_the_grids_closure_and_ladders():
    assert "what the field is like at each noise" in findings.equilibrium_sentence(made_up())
    slow = findings.equilibrium_sentence(made_up(relaxation_tau=[0.1, 0.4]))
    assert "it shows freeze-out" in slow
    assert "reaches one at 0.290 σ_c" in findings.closure_sentence(made_up())
    assert "never turns unstable" in findings.closure_sentence(made_up(closure_critical_ratio=[np.nan] * 2))
    assert findings.ladder_sentence(made_up()) is None
    assert "The ladders of n = 100 are too coarse" in findings.ladder_sentence(
        made_up(ladder_resolved=[True, False])
    )


def test_the_page_holds_findings_and_units():
    page = studies.content(made_up())
    assert page.sentences[0].startswith("At the bare critical noise") and not page.labels
    rows = {row.quantity: row for row in page.rows}
    crossing = rows["noise at which 32 x 32 passes the Ising value"]
    assert (crossing.measured, crossing.error) == ("0.900", "0.015")  # in image units: times sigma_c = 3
    assert rows["power of n of the correlation length at 1.00 σ_c"].theory == "0.2500"
    assert [row.quantity.strip() for row in page.rows[:4]][1:] == ["as t_ou", "as ᾱ", "as log-SNR"]


def test_figures_show_the_numbers(result):
    before = dict(mpl.rcParams)
    figure = frozen_length_figure(result)
    bars = [c for c in figure.axes[0].containers if isinstance(c, mpl.container.ErrorbarContainer)]
    np.testing.assert_allclose(bars[0].lines[0].get_ydata(), result.xi_fit[:, 0])
    drawn = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    for theory in (result.linear_xi_fit[:, 0], result.closure_xi_fit[:, 0], result.freeze_out_length):
        assert any(np.allclose(y, theory) for y in drawn)
    assert all("n" in axes.get_xlabel() and axes.get_xscale() == "log" for axes in figure.axes)
    figure = binder_figure(result)
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
