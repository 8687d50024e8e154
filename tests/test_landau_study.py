# ruff: noqa: RUF001  (Greek letters belong in a report)
"""The Landau study: its numbers against independent ones, its sentences, its command."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import xarray as xr
from programs import counting
from study_runs import LANDAU as TINY
from study_runs import landau_run

from critjax import cli, studies
from critjax.closed_form import two_pattern_denoiser
from critjax.sampling import sample
from critjax.studies import landau
from critjax.studies.landau import LandauSettings, holds_to, run, settings_of
from critjax.studies.landau import findings as sentences
from critjax.studies.landau.walls import wall_width


@pytest.fixture(scope="module")
def result():
    return landau_run().result


def test_the_result_holds_every_bank_and_its_settings(result):
    assert list(result.bank.values) == list(TINY.banks)
    assert settings_of(result) == TINY.resolved()
    assert (
        result.sigma.attrs["units"].startswith("image units") and result.wall_width.attrs["units"] == "pixels"
    )
    assert float(result.sel(bank="two-pattern").critical_sigma) == pytest.approx(5.0, rel=1e-6)
    assert float(result.sel(bank="stripe").critical_wavenumber) == pytest.approx(2 * np.pi / 4)


def test_both_runs_start_from_the_same_slow_field_and_part(result):
    np.testing.assert_allclose(result.field_error.isel(level=0), 0, atol=1e-12)
    np.testing.assert_allclose(result.overlap.isel(level=0), 1, atol=1e-12)
    last = result.field_error.sel(bank="two-pattern").isel(level=-1)
    assert np.all(last > 0.01) and np.all(np.isfinite(result.field_error))


def test_the_structure_factor_of_the_exact_run(result):
    """Shell zero by an independent simulation with the closed-form denoiser and the same keys."""
    part = result.sel(bank="two-pattern")
    key = jax.random.split(jax.random.fold_in(jax.random.key(TINY.seed), 2), 3)[2]
    denoise, sigmas = two_pattern_denoiser(5), part.sigma.values

    @jax.jit
    def modes(numbers):
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
        return jax.vmap(lambda key: sample(denoise, key, (12, 16, 1), sigmas).x.sum((1, 2, 3)))(keys)

    expected = (np.asarray(modes(np.arange(3))) ** 2 / (12 * 16)).mean(0)
    np.testing.assert_allclose(part.structure_factor_exact[:, 0], expected, rtol=1e-6)


def test_plateau_and_wall_of_two_patterns(result):
    """m = tanh(P m/sigma^2) solved by bisection; near the critical noise -r/u and the reduced width."""
    part = result.sel(bank="two-pattern")
    for sigma, found in zip(part.quench_sigma.values, part.plateau_squared.values, strict=True):
        low, high = 1e-6, 1.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if np.tanh(25 * middle / sigma**2) > middle else (low, middle)
        assert found == pytest.approx(low**2, rel=1e-4)
    np.testing.assert_allclose(part.plateau_squared[0] / part.plateau_squared_reduced[0], 1, atol=0.04)
    np.testing.assert_allclose(part.wall_width[0] / part.wall_width_reduced[0], 1, atol=0.04)
    ratio = (part.plateau_squared / part.plateau_squared_reduced).values
    assert np.all(np.diff(np.abs(ratio - 1)) > 0)  # the nearer to the critical noise, the better


def test_wall_width_reads_a_known_profile():
    x = np.arange(64)
    profiles = np.stack([0.7 * np.tanh((16 - np.abs(x - 32.3)) / 5.0), np.ones(64)])
    widths = jax.jit(jax.vmap(wall_width))(profiles, np.array([0.7, 1.0]))
    assert float(widths[0]) == pytest.approx(5.0, rel=0.02)
    assert np.isnan(widths[1])


def test_how_far_down_an_error_stays_within_its_limit():
    sigmas = np.array([4.0, 2.0, 1.0])
    assert holds_to(sigmas, np.array([0.0, 0.1, 0.3]), 0.2) == pytest.approx(np.sqrt(2.0))
    assert holds_to(sigmas, np.array([0.0, 0.1, 0.1]), 0.2) == 1.0
    assert np.isnan(holds_to(sigmas, np.array([0.3, 0.1, 0.1]), 0.2))
    assert holds_to(sigmas, np.array([0.0, 0.1, np.nan]), 0.2) == 2.0


def test_a_bank_that_is_saved_is_not_run_again(result):
    parts = landau_run().parts
    assert list(parts) == list(TINY.banks)
    told = []
    again = run(TINY, saved=parts, on_checkpoint=lambda *part: told.append(part))
    assert not told
    xr.testing.assert_identical(again.drop_attrs(), result.drop_attrs())


# --- Sentences: opposite numbers, opposite words


def _part(**changes):
    kinds, limits = ["bare", "renormalised", "slow"], [0.05, 0.2]
    data = xr.Dataset(
        {
            "holds_to_sigma": (("comparison", "error_limit"), [[5.0, 4.0], [4.0, 3.0], [4.5, 3.9]]),
            "holds_to_sigma_error": (("comparison", "error_limit"), [[0.1, 0.1], [0.1, 0.1], [0.1, 0.1]]),
            "escapes_at_sigma": (("comparison",), [np.nan, np.nan, np.nan]),
            "u_bare": (("level",), [0.5, 0.5]),
            "critical_sigma": ((), 4.0),
            "critical_wavenumber": ((), 0.0),
            "depth": (("quench",), [0.02]),
            "plateau_squared": (("quench",), [0.06]),
            "plateau_squared_reduced": (("quench",), [0.05]),
            "wall_width": (("quench",), [9.0]),
            "wall_width_reduced": (("quench",), [10.0]),
        },
        {
            "sigma": (("level",), [8.0, 4.0]),
            "comparison": kinds,
            "error_limit": limits,
            "bank": "two-pattern",
        },
    )
    for name, values in changes.items():
        data[name] = (data[name].dims, values)
    return data


def test_renormalisation_helping_and_hurting():
    assert "carries the reduction further" in sentences.validity_sentence(_part())
    worse = _part(holds_to_sigma=[[5.0, 4.0], [6.0, 5.0], [4.5, 3.9]])
    assert "makes it worse" in sentences.validity_sentence(worse)
    same = _part(holds_to_sigma=[[5.0, 4.0], [5.0, 4.0], [4.5, 3.9]])
    assert "changes little" in sentences.validity_sentence(same)
    never = _part(holds_to_sigma=[[np.nan, 4.0], [5.0, 4.0], [4.5, 3.9]])
    assert "to 5 % at no level" in sentences.validity_sentence(never)


def test_saturation_or_escape():
    assert "supercritical" in sentences.saturation_sentence(_part())
    runaway = _part(u_bare=[-0.5, -0.5], escapes_at_sigma=[3.0, np.nan, np.nan])
    text = sentences.saturation_sentence(runaway)
    assert "negative" in text and "leaves for infinity with bare coefficients at σ = 3.00" in text
    assert "before that shows" in sentences.saturation_sentence(_part(u_bare=[-0.5, -0.5]))


def test_patterns_are_judged_by_their_amplitude_equation():
    wave = _part(critical_wavenumber=1.0, u_bare=[-0.5, -0.5])
    assert "amplitude equation is supercritical" in sentences.saturation_sentence(wave)
    runaway = _part(critical_wavenumber=1.0, plateau_squared_reduced=[np.nan])
    assert "subcritical" in sentences.saturation_sentence(runaway)


def test_noise_leaves_the_cause_open():
    assert sentences.cause_sentence(_part().assign_attrs(probability_flow=False)) is None


def test_what_limits_the_bare_equation():
    assert "limits the bare equation, too" in sentences.cause_sentence(_part())
    fluctuations = _part(holds_to_sigma=[[5.0, 4.0], [4.0, 3.0], [2.5, 2.0]])
    assert "fluctuations, not the expansion" in sentences.cause_sentence(fluctuations)
    unknown = _part(holds_to_sigma=[[5.0, np.nan], [4.0, 3.0], [2.5, 2.0]])
    assert sentences.cause_sentence(unknown) is None


def test_ordered_states():
    text = sentences.states_sentence(_part())
    assert "1.20 times -r/u" in text and "0.900 times as wide" in text
    first_order = _part(plateau_squared=[0.98], plateau_squared_reduced=[np.nan])
    assert "orders at |x| = 0.990 at once" in sentences.states_sentence(first_order)
    nothing = _part(plateau_squared=[1e-8], plateau_squared_reduced=[np.nan])
    assert "does not order" in sentences.states_sentence(nothing)
    assert "one wave" in sentences.states_sentence(_part(critical_wavenumber=1.0))


# --- Report and command


def test_report_and_figures(result, tmp_path):
    page = studies.write_report(result, tmp_path).read_text(encoding="utf-8")
    assert "critjax landau --from results.nc" in page and "http" not in page.replace("http-equiv", "")
    names = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert names == set(studies.figures(result))
    assert {"film-stripe", "reduction-error", "ordered-states"} <= names
    axes = studies.figures(result)["reduction-error"].draw(result).axes
    assert len(axes) == 2 and all(a.get_xlim()[0] > a.get_xlim()[1] for a in axes)


def test_the_command_runs_another_seed_and_compiles_nothing(result, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "configure_jax", lambda precision: None)
    options = ["landau", "--bank", "two-pattern", "--bank", "stripe", "--size", "5", "--wavelength", "4"]
    options += ["--grid", "12x16", "--num-samples", "3", "--num-levels", "10", "--closure-samples", "2"]
    options += ["--precision", "float64", "--seed", "2", "--no-progress"]
    with counting() as count:
        assert cli.main([*options, "--out", str(tmp_path / "a")]) == 0
    assert count.programs == 0
    printed = capsys.readouterr().out
    assert "two-pattern: bare critical noise σ_c" in printed and "5.000" in printed
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"results.nc", "report.html", "figures"}
    stored = xr.load_dataset(tmp_path / "a" / "results.nc", engine="h5netcdf")
    assert settings_of(stored) == dataclasses.replace(TINY, seed=2).resolved()
    assert cli.main(["landau", "--bank", "two-pattern", "--size", "3", "--grid", "8", "--dry-run"]) == 0
    assert "predicted time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bank", "faces"], "banks: expected"),
        (["--size", "4"], "size: expected an odd window"),
        (["--num-samples", "1"], "num_samples: expected an integer >= 2"),
        (["--eta", "-1"], "eta: expected"),
        (["--bank", "stripe", "--bank", "stripe"], "each bank once"),
    ],
)
def test_wrong_input_ends_in_one_line(arguments, words, capsys, tmp_path):
    assert cli.main(["landau", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_settings_of_another_study_are_refused(result):
    with pytest.raises(ValueError, match="a result of the landau study"):
        landau.settings_of(result.drop_attrs())
    with pytest.raises(ValueError, match="known option names"):
        LandauSettings.from_json('{"bank": "x"}')
    with pytest.raises(ValueError, match="a JSON object"):
        LandauSettings.from_json("[")


def test_commands_are_listed_without_anything_heavy():
    code = (
        "import sys, critjax.cli._parser as p, critjax.studies._engine.options; p.build_parser();"
        "print('xarray' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )
    assert run.stdout.strip() == "False"
