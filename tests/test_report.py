# ruff: noqa: RUF001  (Greek letters belong in a report)
"""Reports: opposite numbers give the opposite sentence, numbers carry their units, the page stands alone."""

import json
import re

import numpy as np
import pytest
import xarray as xr

from critjax import report, studies
from critjax.observables.errors import Estimate
from critjax.report.numbers import in_units, noise, plain, text, with_error
from critjax.studies.criticality import findings as f
from critjax.studies.criticality.content import content
from critjax.studies.criticality.table import table

SIGMA = np.geomspace(9.8, 0.4, 24)
PROBES = SIGMA[::4]


def study(**changes):
    """A complete, made-up result: bare crossing at 4, simulated at 2, closure at 2.01."""
    levels, shells = len(SIGMA), 6
    wavenumber = np.linspace(0, 3, shells)
    falloff = np.exp(-(wavenumber**2))

    def curve(crossing):
        return np.minimum((crossing / SIGMA) ** 2, 1.4)

    scalars = {
        "critical_sigma_bare": 4.0,
        "critical_sigma_bare_ve": 4.0,
        "critical_sigma_uniform_bare": 4.0,
        "critical_sigma_closure": 2.01,
        "critical_sigma_closure_error": 0.03,
        "critical_sigma_uniform_closure": 2.01,
        "critical_sigma_measured": 2.0,
        "critical_sigma_measured_error": 0.02,
        "critical_sigma_uniform_measured": 2.0,
        "critical_sigma_uniform_measured_error": 0.02,
        "critical_wavenumber_bare": 0.0,
        "critical_wavenumber_measured": 0.0,
        "critical_wavenumber_measured_error": 0.0,
        "critical_imag_bare": 0.0,
        "critical_imag_measured": 0.0,
        "critical_imag_measured_error": 0.0,
        "nonreciprocal_bare": 0.6,
        "num_crossings": 1.0,
        "num_patches": 18.0,
        "mean_field_squared": 10.0,
        "mean_field_squared_spread": 3.0,
        "bank_critical_uniform_squared": 11.0,
        "bank_critical_softest_squared": 11.5,
    }
    over_sigma = {
        "lambda_bare_softest": (4.0 / SIGMA) ** 2,
        "homogeneous_growth_rate": (4.0 / SIGMA) ** 2 - 1,
        "lambda_closure_softest": curve(2.01),
        "lambda_reg_softest": curve(2.0),
        "lambda_reg_softest_error": np.full(levels, 0.01),
        "threshold": np.ones(levels),
        "linear_ratio_mean": np.where(SIGMA >= 7.9, 0.99, 0.7),
        "linear_ratio_mean_error": np.full(levels, 0.002),
        "binder": np.linspace(0.0, 0.05, levels),
        "binder_error": np.full(levels, 0.05),
        "wall_density": np.linspace(0.45, 0.1, levels),
        "wall_density_error": np.full(levels, 0.01),
        "soft_kurtosis": np.where(SIGMA > 2.2, 3.05, 2.4),
        "soft_kurtosis_error": np.full(levels, 0.03),
        "kurtosis_closure": np.where(SIGMA > 1.0, 3.0, 0.5),
        "kurtosis_closure_error": np.full(levels, 0.05),
        "reduced_cubic": np.full(levels, -0.1),
        "xi_eq_bare": np.full(levels, 2.0),
        "xi_eq_closure": np.full(levels, 2.0),
        "xi_second_moment_closure": np.full(levels, 2.0),
        **{n: np.linspace(1, 5, levels) for n in ("xi_raw", "xi_sign", "xi_denoised", "xi_second_moment")},
        **{
            f"{n}_error": np.full(levels, 0.1)
            for n in ("xi_raw", "xi_sign", "xi_denoised", "xi_second_moment")
        },
    }
    over_probes = {
        "mean_jacobian_softest": np.linspace(0.1, 0.7, len(PROBES)),
        "mean_jacobian_softest_error": np.full(len(PROBES), 0.02),
        "nonreciprocal": np.full(len(PROBES), 0.5),
        "nonreciprocal_error": np.full(len(PROBES), 0.02),
        "effective_patches": np.geomspace(15, 1.1, len(PROBES)),
        "effective_patches_error": np.full(len(PROBES), 0.1),
    }
    rng = np.random.default_rng(0)
    both = ("sigma", "wavenumber")
    fields = rng.normal(size=(2, 3, 6, 6, 1))
    film = (("film_sample", "film_sigma", "y", "x", "channel"), fields)
    variables = {
        **{n: ((), v) for n, v in scalars.items()},
        **{n: (("sigma",), v) for n, v in over_sigma.items()},
        **{n: (("probe_sigma",), v) for n, v in over_probes.items()},
        "growth_rate": (both, falloff * (4.0 / SIGMA[:, None]) ** 2 - 1),
        "lambda_closure_fastest": (both, falloff * (2.01 / SIGMA[:, None]) ** 2),
        "structure_factor_linear": (both, SIGMA[:, None] ** 2 * (1 + falloff)),
        "structure_factor_closure": (both, SIGMA[:, None] ** 2 * (1 + 0.8 * falloff)),
        "structure_factor_cleaned": (both, SIGMA[:, None] ** 2 * (1 + 0.9 * falloff)),
        "structure_factor_cleaned_error": (both, 0.01 * SIGMA[:, None] ** 2 * np.ones((levels, shells))),
        "lambda_reg_crossing": (("wavenumber",), np.where(wavenumber < 1, 2.0 - wavenumber, np.nan)),
        "lambda_reg_crossing_error": (("wavenumber",), np.full(shells, 0.05)),
        "linear_ratio": (("sigma", "checked_mode"), over_sigma["linear_ratio_mean"][:, None] * np.ones(10)),
        "linear_ratio_error": (("sigma", "checked_mode"), np.full((levels, 10), 0.002)),
        "closure_ratio": (("sigma", "checked_mode"), np.linspace(1, 0.6, levels)[:, None] * np.ones(10)),
        "draw_critical_uniform": (("draw",), rng.normal(10, 3, 200)),
        "draw_critical_softest": (("draw",), rng.normal(11, 3, 200)),
        "crossing_sigma": (("crossing",), np.array([4.0, np.nan, np.nan, np.nan])),
        "film_x": film,
        "film_denoised": film,
        "film_reduced": (("film_sigma", "y", "x"), fields[0, :, :, :, 0] * [[[1.0]], [[2.0]], [[np.nan]]]),
        "film_reduced_correlation": (("film_sigma",), np.array([1.0, 0.95, np.nan])),
        "film_closure": (("film_sigma", "y", "x"), fields[1, :, :, :, 0]),
        "film_closure_correlation": (("film_sigma",), np.array([1.0, 0.95, 0.91])),
    }
    for name, value in changes.items():
        if name in variables:
            variables[name] = (variables[name][0], np.broadcast_to(value, np.shape(variables[name][1])))
        else:
            variables[name] = value
    variables = {n: v for n, v in variables.items() if v[1] is not None and v[1] is not Ellipsis}
    dataset = xr.Dataset(
        variables,
        {
            "sigma": SIGMA,
            "wavenumber": wavenumber,
            "probe_sigma": PROBES,
            "checked_wavenumber": ("checked_mode", np.linspace(0, 0.5, 10)),
            "film_sigma": SIGMA[[0, 10, 20]],
        },
    )
    dataset.attrs = {
        "study": "criticality",
        "title": "critjax criticality: made up",
        "settings": json.dumps({"eta": 0.0, "num_samples": 64, "quick": False, "precision": "float32"}),
        "versions": json.dumps({"critjax": "1"}),
        "seconds": json.dumps({"theory": 1.0}),
        "frame": "ve",
        "instability_kind": "uniform",
        "bank_description": "made up",
    }
    return dataset


def drop(dataset, *names):
    return dataset.drop_vars([n for n in names if n in dataset])


# --- Numbers
# ------------------------------------------------------------------------------------------------------


def test_noise_units_by_their_definitions():
    units = in_units(Estimate(2.0, 0.1))
    assert units["t_ou"].value == pytest.approx(0.5 * np.log(5))
    assert units["ᾱ"].value == pytest.approx(0.2)
    assert units["log-SNR"].value == pytest.approx(-2 * np.log(2))
    for name, convert in (
        ("t_ou", lambda s: 0.5 * np.log(1 + s * s)),
        ("ᾱ", lambda s: 1 / (1 + s * s)),
        ("log-SNR", lambda s: -2 * np.log(s)),
    ):
        slope = abs(convert(2.001) - convert(1.999)) / 0.002
        assert units[name].error == pytest.approx(0.1 * slope, rel=1e-5)
    assert noise(Estimate(2.0, 0.1)).startswith("σ = 2.00 ± 0.10 (t_ou 0.80, ᾱ 0.200, log-SNR -1.39)")


def test_digits_follow_the_error():
    assert with_error(Estimate(3.14159, 0.021)) == ("3.14", "0.02")
    assert with_error(Estimate(3.14159, 0.013)) == ("3.142", "0.013")
    assert with_error(Estimate(123.4, 7.0)) == ("123", "7")
    assert with_error(Estimate(float("nan"), 1.0)) == ("-", "-")
    assert text(Estimate(1.5)) == "1.500"
    assert plain(0.000012345) == "1.23e-05" and plain(1234.5, 2) == "1234"


def test_an_estimate_knows_whether_it_is_one_and_how_far_from_another():
    assert Estimate(1.0).known and not Estimate(float("nan"), 0.1).known
    assert Estimate(2.0, 0.1).deviations(2.3) == pytest.approx(3.0)
    assert Estimate(2.0).deviations(2.3) == np.inf and Estimate(2.0).deviations(2.0) == 0.0
    assert Estimate(2.0, 0.0).deviations(1.0) == np.inf


# --- Findings: opposite numbers, opposite sentence
# ---------------------------------------------------------------


def test_bare_theory_with_and_without_a_critical_noise():
    assert "critical noise at σ_c = 4.000 (t_ou 1.417, ᾱ 0.05882, log-SNR -2.773)" in f.bare_sentence(study())
    never = study(critical_sigma_bare=np.nan, lambda_bare_softest=0.5)
    assert "no critical noise: no mode ever grows" in f.bare_sentence(never)
    always = study(critical_sigma_bare=np.nan, lambda_bare_softest=1.5)
    assert "grows at every noise level" in f.bare_sentence(always)


def test_the_uniform_state_itself_stable_or_not():
    turns = f.stability_sentence(study())
    assert "turns unstable at σ = 4.000 (t_ou 1.417" in turns and "generation has left." in turns
    never = f.stability_sentence(study(homogeneous_growth_rate=-0.5 + 0.01 * SIGMA / SIGMA[0]))
    assert "stays stable on the whole ladder (Γ(0) at most -0.490, at σ = 9.800" in never
    assert "has left" not in never and "can be followed" in never
    always = f.stability_sentence(study(homogeneous_growth_rate=0.25))
    assert "unstable from the first noise level on (Γ(0) = 0.250)" in always
    assert "turns unstable" not in always and "at once" in always
    # Stable again below, or unstable where the stored critical noise is not: read off the curve.
    first, last = SIGMA[SIGMA < 4.0][0], SIGMA[SIGMA < 1.0][0]
    again = study(homogeneous_growth_rate=np.where((SIGMA < 4.0) & (SIGMA >= 1.0), 0.2, -0.2))
    assert f"though the state is stable again at {noise(Estimate(last))}." in f.stability_sentence(again)
    assert f.stability_sentence(again).count("log-SNR") == 2
    other = f.stability_sentence(study(critical_sigma_uniform_bare=2.0))
    assert f"turns unstable at σ = {first:.3f}" in other
    again.attrs["frame"] = "vp"
    assert "unstable in the variance-preserving frame at" in f.stability_sentence(again)
    assert f.stability_sentence(drop(study(), "homogeneous_growth_rate")) is None


def test_growth_that_sets_in_once_or_returns():
    once = f.crossings_sentence(study())
    assert "sets in only once: below σ_c some mode grows" in once
    levels = np.array([4.0, 2.5, 1.25, np.nan])
    back = f.crossings_sentence(study(crossing_sigma=levels, num_crossings=3))
    assert "does not last" in back and "only once" not in back
    assert back.endswith(
        "it starts at σ = 4.000 (t_ou 1.417, ᾱ 0.05882, log-SNR -2.773), stops at σ = 2.500 (t_ou 0.9905, ᾱ 0.1379, "
        "log-SNR -1.833), starts at σ = 1.250 (t_ou 0.4705, ᾱ 0.3902, log-SNR -0.4463)."
    )
    many = f.crossings_sentence(study(crossing_sigma=np.array([4.0, 3.0, 2.0, 1.0]), num_crossings=7))
    assert many.endswith(
        "stops at σ = 1.000 (t_ou 0.3466, ᾱ 0.5000, log-SNR 0) (the first 4 of 7 crossings)."
    )
    from_the_top = study(critical_sigma_bare=np.nan, crossing_sigma=np.array([3.0, 1.0, np.nan, np.nan]))
    assert re.search(
        r"it stops at σ = 3\.000 \(.*\), starts at σ = 1\.000 \(", f.crossings_sentence(from_the_top)
    )
    assert f.crossings_sentence(study(crossing_sigma=np.nan, num_crossings=0)) is None
    assert f.crossings_sentence(drop(study(), "crossing_sigma")) is None


def test_simulation_below_at_or_above_bare_theory():
    assert "bare theory overestimates growth" in f.simulation_sentence(study())
    same = f.simulation_sentence(study(critical_sigma_measured=4.01))
    assert "do not shift" in same and "overestimates" not in same
    assert "earlier than bare theory" in f.simulation_sentence(study(critical_sigma_measured=5.0))
    never = study(critical_sigma_measured=np.nan, lambda_reg_softest=0.8)
    assert "never stops decaying" in f.simulation_sentence(never)
    always = study(critical_sigma_measured=np.nan, lambda_reg_softest=1.2)
    assert "grows from the first noise level" in f.simulation_sentence(always)


def test_closure_agreeing_and_not():
    assert "in agreement with it (0.3 standard errors)" in f.closure_sentence(study())
    off = f.closure_sentence(study(critical_sigma_closure=2.5))
    assert "20.0 % below it" in off and "agreement" not in off
    assert "20.0 % above it" in f.closure_sentence(study(critical_sigma_closure=2.0 / 1.2))
    assert "means little" in f.closure_sentence(study(critical_sigma_closure=0.5))
    assert "never crosses one" in f.closure_sentence(study(critical_sigma_closure=np.nan))
    neither = study(critical_sigma_closure=np.nan, critical_sigma_measured=np.nan)
    assert "like it, never crosses" in f.closure_sentence(neither)
    assert "does not show" in f.closure_sentence(study(critical_sigma_measured=np.nan))


def test_soft_modes_leaving_gaussianity_or_not():
    falls = f.gaussian_sentence(study())
    assert "is Gaussian down to about σ = " in falls and "the closure's premise fails" in falls
    first = SIGMA[SIGMA <= 2.2][0]
    assert f"σ = {first:.3f}" in falls and "where its kurtosis is 2.40 ± 0.03" in falls
    assert f"its own estimate of the kurtosis leaves 3 at σ = {SIGMA[SIGMA <= 1.0][0]:.3f}" in falls
    blind = f.gaussian_sentence(study(kurtosis_closure=3.1))
    assert "which its own estimate of the kurtosis does not show" in blind
    rises = f.gaussian_sentence(study(soft_kurtosis=6 - study().soft_kurtosis.values))
    assert "where its kurtosis is 3.60 ± 0.03" in rises and "premise fails" in rises
    never = f.gaussian_sentence(study(soft_kurtosis=3.1))
    assert "Gaussian on the whole ladder" in never and "fails" not in never and "3.10 ± 0.03" in never
    # Half a unit away, but within three standard errors: nothing is decided; nor by 0.2 with a tiny error.
    undecided = f.gaussian_sentence(study(soft_kurtosis=2.5, soft_kurtosis_error=0.2))
    assert "is not decided" in undecided and "fails" not in undecided
    assert "on the whole ladder" in f.gaussian_sentence(study(soft_kurtosis=2.8, soft_kurtosis_error=0.001))
    assert "not Gaussian from the first noise level on" in f.gaussian_sentence(study(soft_kurtosis=2.0))
    assert f.gaussian_sentence(study(soft_kurtosis_error=np.nan)) is None
    assert f.gaussian_sentence(drop(study(), "soft_kurtosis")) is None


def test_reduced_models_following_and_diverging():
    sentence = f.reduced_sentence(study())
    bare, closure = sentence.split(". With the closure's symbol")
    middle = f"{SIGMA[10]:.2f}"
    assert f"until it is lost between σ = {middle} and {SIGMA[20]:.3f}" in bare
    assert "the sign that drives growth instead of stopping it" in bare
    assert "follows the simulated field on the whole ladder (correlation above 0.9)" in closure
    damped = f.reduced_sentence(study(reduced_cubic=0.1))
    assert "its cubic term damps, but is too stiff" in damped and "drives growth" not in damped
    for last in (0.5, np.nan):  # NaN: a uniform field, finite, but without a correlation
        finite = {"film_reduced": 1.0, "film_reduced_correlation": np.array([1.0, 0.95, last])}
        loses = f.reduced_sentence(study(**finite))
        assert f"down to σ = {middle}." in loses and "is lost" not in loses and "damps" not in loses
    bad = f.reduced_sentence(study(film_closure_correlation=0.2))
    assert "does not follow the simulated field at all" in bad
    alone = drop(study(), "film_closure", "film_closure_correlation")
    assert "closure" not in f.reduced_sentence(alone)
    assert f.reduced_sentence(drop(study(), "film_reduced")) is None


def test_linear_theory_holding_and_failing():
    holds = f.linear_sentence(study(linear_ratio=0.99, linear_ratio_mean=0.99))
    assert "holds at the 5 % level" in holds and "it still holds" in holds
    assert "at most 1.0 %" in holds
    fails = f.linear_sentence(study(linear_ratio=0.9, linear_ratio_mean=0.9))
    assert "fails at the 5 % level" in fails and "measured and bare values part" in fails
    assert "0.9000 ± 0.002" in fails or "0.900 ± 0.002" in fails
    noisy = study(linear_ratio=0.9, linear_ratio_mean=0.97, linear_ratio_error=0.06)
    assert "samples do not decide at the 5 % level" in f.linear_sentence(noisy)
    assert f.linear_sentence(study(critical_sigma_bare_ve=np.nan)) is None
    assert "was not tested" in f.linear_sentence(study(critical_sigma_bare_ve=7.0))


def test_linear_ratios_are_read_at_the_stated_noise():
    ramp = np.log(SIGMA)
    dataset = study(linear_ratio_mean=ramp)
    for ratio, mean, _ in f.linear_ratios(dataset):
        assert mean.value == pytest.approx(np.log(4.0 * np.sqrt(ratio)), abs=1e-6)
    assert [r for r, *_ in f.linear_ratios(dataset)] == [4.0, 2.0, 1.5, 1.0, 0.7]


def test_kind_of_structure():
    assert "uniform change of grey" in f.kind_sentence(study())
    assert "confirms" in f.kind_sentence(study())
    pattern = study(critical_wavenumber_bare=1.2, critical_wavenumber_measured=1.2, critical_imag_bare=0.3)
    sentence = f.kind_sentence(pattern)
    assert "pattern with a wavelength" in sentence and "travelling at 0.300 rad" in sentence
    assert "confirms" in sentence
    other = f.kind_sentence(study(critical_wavenumber_bare=2.4, critical_wavenumber_measured=0.0))
    assert "but in the simulation |k| = 0" in other


def test_mean_field_typical_and_rare():
    assert "a typical draw" in f.mean_field_sentence(study())
    assert "an unusual draw" in f.mean_field_sentence(study(bank_critical_uniform_squared=15.0))
    rare = f.mean_field_sentence(study(bank_critical_uniform_squared=30.0))
    assert "a rare draw, above 100 %" in rare
    assert f.mean_field_sentence(drop(study(), "draw_critical_uniform")) is None


def test_mean_jacobian_crossing_or_not():
    assert "never reaches one: its smallest gap is 0.30 ± 0.02" in f.jacobian_sentence(study())
    assert "crosses one as well" in f.jacobian_sentence(study(mean_jacobian_softest=1.3))
    assert "within errors" in f.jacobian_sentence(study(mean_jacobian_softest=1.01))


def test_smallest_gap_by_the_parabola_or_by_the_best_level():
    def row(dataset):
        name = "smallest gap of the mean Jacobian, softest mode"
        return next(r for r in table(dataset) if r.quantity == name)

    best, last = row(study()), PROBES[-1]
    assert (best.measured, best.error) == ("0.30", "0.02") and f"at σ = {last:.4g}" in best.note
    assert "±" not in best.note
    scalars = {
        "minimal_gap": 0.25,
        "minimal_gap_error": 0.03,
        "minimal_gap_sigma": 1.5,
        "minimal_gap_sigma_error": 0.2,
    }
    found = study(**{name: ((), value) for name, value in scalars.items()})
    assert (row(found).measured, row(found).error) == ("0.25", "0.03")
    assert row(found).note.startswith("at σ = 1.5 ± 0.2 (t_ou 0.59 ± 0.09,")
    assert "smallest gap is 0.25 ± 0.03, near σ = 1.5 ± 0.2 (" in f.jacobian_sentence(found)
    beyond = found.assign(minimal_gap=-0.25)
    assert "crosses one as well: its gap reaches -0.25 ± 0.03" in f.jacobian_sentence(beyond)
    # Least at an end of the ladder, of some resamples or of all: the best level stands in.
    for lost in (["minimal_gap_error", "minimal_gap_sigma_error"], scalars):
        at_the_end = found.assign(dict.fromkeys(lost, np.nan))
        assert row(at_the_end) == best and "never reaches one" in f.jacobian_sentence(at_the_end)


def test_order_and_domains():
    sentence = f.order_sentence(study())
    assert "do not order" in sentence and "domains coarsen" in sentence
    ordered = f.order_sentence(study(binder=0.64, binder_error=0.01))
    assert "choose one state" in ordered
    assert "not decided" in f.order_sentence(study(binder=0.35, binder_error=0.1))
    assert "detail appears" in f.order_sentence(study(wall_density=np.linspace(0.1, 0.4, len(SIGMA))))
    assert "hardly changes" in f.order_sentence(study(wall_density=0.3))


def test_condensation():
    assert "condenses on fewer than 2 of 18 patches" in f.condensation_sentence(study())
    assert "does not condense: 9.00 of 18" in f.condensation_sentence(study(effective_patches=9.0))


def test_null_model():
    assert f.null_sentence(study()) is None
    near = study(lambda_null_softest=(("sigma",), study().lambda_reg_softest.values + 0.05))
    assert "within 0.1 at every noise" in f.null_sentence(near)
    reg = study().lambda_reg_softest.values
    late = study(lambda_null_softest=(("sigma",), np.where(SIGMA < 1.0, reg - 0.3, reg)))
    assert "the simulation lies above it" in f.null_sentence(late)
    early = study(lambda_null_softest=(("sigma",), reg + 0.3))
    assert "lies below the Gaussian null model" in f.null_sentence(early)


def test_all_findings_start_with_theory_and_simulation():
    sentences = f.findings(study())
    assert sentences[0].startswith("Linear theory") and sentences[1].startswith("In simulation")
    theory_only = drop(
        study(), "lambda_reg_softest", "linear_ratio", "mean_jacobian_softest", "binder", "effective_patches"
    )
    assert len(f.findings(theory_only)) < len(sentences)


# --- Table
# --------------------------------------------------------------------------------------------------------


def test_every_critical_noise_comes_in_all_units():
    rows = table(study(critical_wavenumber_bare=1.0))
    noises = [i for i, r in enumerate(rows) if "critical noise" in r.quantity and "σ_c²" not in r.quantity]
    noises = [i for i in noises if not r_is_length(rows[i])]
    assert len(noises) >= 5
    for i in noises:
        assert [r.quantity.strip() for r in rows[i + 1 : i + 4]] == ["as t_ou", "as ᾱ", "as log-SNR"]
    first = {r.quantity.strip(): r for r in rows[:4]}
    assert first["as ᾱ"].theory == "0.05882" and first["as ᾱ"].measured == "0.200"


def r_is_length(row):
    return row.quantity.startswith(("correlation length", "kurtosis"))


def test_effective_critical_noise_of_the_closure_has_its_own_error():
    rows = table(study())
    at = next(i for i, r in enumerate(rows) if r.quantity.startswith("effective critical noise, softest"))
    assert (rows[at].theory, rows[at].measured, rows[at].error) == ("2.01 ± 0.03", "2.00", "0.02")
    assert rows[at - 4].quantity.endswith("bare theory") and rows[at - 4].theory == "4.000"
    assert rows[at - 4].measured == "2.00"
    error = 2.01 / (1 + 2.01**2) * 0.03  # of t_ou = ln(1 + sigma^2)/2
    assert rows[at + 1].theory == f"{0.5 * np.log(1 + 2.01**2):.3f} ± {error:.3f}"
    assert "grazes" not in rows[at].note
    assert "grazes one" in table(study(critical_sigma_closure_error=1.0))[at].note
    unknown = table(study(critical_sigma_closure_error=np.nan))[at]
    assert unknown.theory == "2.010" and "±" not in unknown.note


def test_kurtosis_stands_beside_what_the_closure_expects():
    rows = {r.quantity: r for r in table(study())}
    turning = rows["kurtosis of the soft modes at the effective critical noise"]
    assert (turning.theory, turning.measured, turning.error) == ("3.00 ± 0.05", "2.40", "0.03")
    end = rows["kurtosis of the soft modes at the lowest noise"]
    assert (end.theory, end.measured) == ("-", "2.40")  # no field has a kurtosis of 0.5


def test_table_holds_wavenumber_frequency_nonreciprocity_and_mean_field():
    by_name = {r.quantity: r for r in table(study(critical_imag_bare=0.5, critical_imag_measured=0.4))}
    assert by_name["critical wavenumber |k_c| (rad per pixel)"].theory == "0"
    assert by_name["frequency of the softest mode (rad per e-fold of σ)"].theory == "0.5000"
    nonreciprocal = by_name["non-reciprocal size of the Jacobian"]
    assert (nonreciprocal.theory, nonreciprocal.measured, nonreciprocal.error) == ("0.6000", "0.50", "0.02")
    mean_field = next(r for n, r in by_name.items() if n.startswith("mean-field σ_c²"))
    assert (mean_field.theory, mean_field.measured, mean_field.error) == ("10.00", "11.00", "3.0")
    ratios = [r for n, r in by_name.items() if n.startswith("S(k) over linear theory")]
    assert len(ratios) == 5 and all(r.theory == "1.000" for r in ratios)


def test_frequency_scales_with_one_plus_eta():
    dataset = study(critical_imag_bare=0.5)
    dataset.attrs["settings"] = json.dumps({"eta": 1.0})
    row = next(r for r in table(dataset) if r.quantity.startswith("frequency"))
    assert row.theory == "1.000"


def test_printed_columns_align():
    lines = report.format_table(table(study())).splitlines()
    rule = lines[1]
    ends = [m.end() for m in re.finditer("-+", rule)]
    for line in lines[2:]:
        for end in ends[:3]:
            assert line[end : end + 2].strip() == ""


# --- Page
# -----------------------------------------------------------------------------------------------------------


def test_report_is_one_file_without_outside_references(tmp_path):
    page = studies.write_report(study(), tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", page)
    assert "http://" not in page and "https://" not in page
    for sentence in f.findings(study()):
        assert sentence.split("±")[0][:30].strip() in page
    names = {p.stem for p in (tmp_path / "figures").iterdir()}
    assert {"softest-mode", "growth-rate", "structure-factor", "correlation-length", "film-strip"} <= names
    assert page.count("data:image/png;base64,") == len(names)
    assert "critjax criticality --from results.nc" in page
    assert "Quick run" not in page


def test_legend_tells_what_the_errors_are_over():
    legend = content(study()).legend
    assert (
        "over batches of samples (jackknife); of the mean Jacobian, its smallest gap and the effective"
        in legend
    )
    assert "of patches over fields; of the closure over its replicas." in legend


def test_quick_runs_are_labelled():
    dataset = study()
    dataset.attrs["settings"] = json.dumps({"eta": 0.0, "num_samples": 64, "quick": True})
    assert "Quick run" in report.render(dataset, content(dataset), {})


def test_names_from_outside_are_escaped():
    dataset = study()
    dataset.attrs["title"] = "critjax criticality: <script>alert(1)</script>"
    assert "<script>" not in report.render(dataset, content(dataset), {})


def test_dataset_survives_storage(tmp_path):
    dataset = study()
    path = report.save_dataset(dataset, tmp_path / "results.nc")
    with xr.open_dataset(path, engine="h5netcdf") as stored:
        xr.testing.assert_identical(stored.load(), dataset)
