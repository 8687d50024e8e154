"""Oracles: quadrature written out, parts recombined, martingale identity, closed forms, opposite numbers."""

import dataclasses
import functools
import importlib
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from jax.tree_util import Partial
from programs import counting
from scipy import stats

from critjax import susceptibility
from critjax.cli import main
from critjax.closed_form import gaussian_denoiser
from critjax.data import embedded_fashion_mnist
from critjax.guidance import WindowStatus, guided, pulse, quadrature_weights, weights_on, with_budget
from critjax.networks import classifier_features, classify, load_classifier
from critjax.observables import frechet_distance
from critjax.sampling import sample
from critjax.studies import guide
from critjax.studies.guide.arms import (
    first_step,
    fixed_arms,
    ladder,
    num_evaluations,
    pulse_centres,
    pulse_positions,
    random_positions,
    resolved_edges,
    sample_seeds,
    searched_arms,
)
from critjax.studies.guide.findings import (
    content,
    diversity_sentences,
    peak_sentences,
    units_sentence,
    verdict_sentences,
    window_sentence,
)
from critjax.studies.guide.gaussian import (
    _affine,
    _patch_models,
    gaussian_patch_response,
    gaussian_response,
)
from critjax.studies.guide.sampled import player, susceptibilities
from critjax.studies.guide.settings import GuideSettings
from critjax.studies.guide.summary import _real_distances, peaks_of, spread_of, summarise
from critjax.studies.guide.systems import JUDGE_SIGMA, load_system
from critjax.studies.guide.theory import (
    closure_response,
    predict,
    small_push_samples,
)

this = importlib.import_module("critjax.studies.guide.run")

SMALL = GuideSettings(
    size=3,
    grid=12,
    num_samples=24,
    num_search=6,
    num_levels=12,
    num_positions=5,
    budgets=(0.5, 1.0),
    batch_size=12,
    window_samples=3,
    susceptibility_samples=2,
)


@pytest.fixture(scope="module")
def small():
    told = []
    result = guide.run(SMALL, on_checkpoint=lambda *part: told.append(part))
    names = [name for name, _ in told]
    assert len(names) == len(set(names)) and "0-none" in names and "1-none" not in names
    return result, dict(told)


def test_another_seed_compiles_nothing(small):
    with counting() as count:
        guide.run(dataclasses.replace(SMALL, seed=1))
    assert count.programs == 0


def test_every_schedule_spends_the_same_budget():
    settings = GuideSettings(baseline=0.5, pulse_width=0.7).resolved()
    for budget in (0.3, 2.0):
        for arm in fixed_arms(settings, budget)[1:] + searched_arms(settings, budget):
            tau = -np.log(np.geomspace(settings.sigma_max, settings.sigma_min, settings.num_levels + 1))
            above = arm.table.astype(np.float64) - 0.5
            spent = np.sum(0.5 * (above[1:] + above[:-1]) * np.diff(tau))
            assert spent == pytest.approx(budget, rel=1e-6), arm.name
    none = fixed_arms(settings, 1.0)[0]
    assert np.all(none.table == np.float32(0.5))


def test_a_chosen_schedule_that_is_a_pulse_has_the_images_of_the_pulse(small, monkeypatch):
    _, parts = small
    sampled = []

    def counted_player(system, settings):
        play = player(system, settings)

        def counted(arm, purpose):
            sampled.append((purpose, arm.table.tobytes()))
            return play(arm, purpose)

        return counted

    monkeypatch.setattr(this, "player", counted_player)
    chosen = {"window", "theory", "susceptibility"}
    # The pulse that the search chose is recommended, too.
    best = parts["0-best-interval"]
    middle = {"centre": math.sqrt(best.attrs["low"] * best.attrs["high"])}
    saved = {n: p.assign(middle) if n == "window" else p for n, p in parts.items() if n in chosen}
    found = {}
    guide.run(dataclasses.replace(SMALL, budgets=(0.5,)), saved=saved, on_checkpoint=found.__setitem__)
    assert len(sampled) == len(set(sampled))
    again = found["0-best-interval"]
    assert again.identical(best) and again.attrs["kind"] == "interval"
    pulses = [found[f"0-pulse-{i:02d}"] for i in range(SMALL.num_positions)]
    same = [p for p in pulses if np.array_equal(p["weight"], again["weight"])]
    assert (
        len(same) == 1 and same[0].attrs["kind"] == "pulse" and same[0]["response"].equals(again["response"])
    )
    critical = found["0-critical-pulse"]
    assert critical.attrs["name"] == critical.attrs["kind"] == "critical pulse"
    assert critical["response"].equals(again["response"])


@pytest.mark.parametrize(("solver", "baseline", "eta"), [("heun", 0.0, 0.0), ("euler", 0.5, 1.0)])
def test_schedules_that_go_on_from_common_states_are_whole_runs(solver, baseline, eta):
    settings = dataclasses.replace(
        SMALL,
        solver=solver,
        baseline=baseline,
        eta=eta,
        num_samples=5,
        num_search=5,
        batch_size=3,
    ).resolved()
    system, sigmas = load_system(settings), ladder(settings)
    play, model = player(system, settings), system.model
    arms = fixed_arms(settings, 1.0)
    steps = [first_step(arm, settings) for arm in arms]
    assert steps[:2] == [12, 0] and len(set(steps)) > 4

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def whole(table, key, label):
        denoise = guided(model.unconditional, model.conditional(label), weights_on(sigmas, table))
        x = sample(denoise, key, model.shape, sigmas, eta=eta, solver=solver).x[-1]
        return jnp.vdot(model.direction[label], x)

    for purpose, count in (("search", 5), ("test", 5)):
        seeds = sample_seeds(settings, purpose, count)
        for arm in (*arms[3:6:2], *arms[:2]):  # the first needs the common states before they were asked for
            found = play(arm, purpose)
            expected = whole(arm.table, seeds, found["label"].values)
            # Both in float32; amplitudes are of the order of one.
            np.testing.assert_allclose(found["amplitude"], expected, atol=2e-4, err_msg=arm.name)


@pytest.mark.parametrize("solver", ["heun", "euler"])
@pytest.mark.parametrize("baseline", [0.0, 1.0, 0.5])
def test_evaluations_of_a_schedule_are_counted(solver, baseline):
    settings = GuideSettings(baseline=baseline, solver=solver).resolved()
    arms = fixed_arms(settings, 0.7)
    assert num_evaluations(arms[0], settings) == 1
    for arm in arms[1:]:
        count, begun = 1, False  # of the image that is judged
        for step in range(settings.num_levels):
            used = arm.table[step : step + (2 if solver == "heun" else 1)]
            begun = begun or any(w != np.float32(baseline) for w in used)
            count += begun * sum(int(w != 0) + int(w != 1) for w in used)
        assert num_evaluations(arm, settings) == count


def test_the_plan_comes_first_and_holds_seeds_schedules_and_statistic(small):
    result, parts = small
    assert next(iter(parts)) == "plan"
    plan = json.loads(parts["plan"].attrs["plan"])
    assert plan["primary_statistic"] == guide.PRIMARY
    assert sorted(plan["arms"]) == ["0.5", "1"]
    stored = {arm["name"]: arm["weight"] for arm in plan["arms"]["1"]}
    used = result.sel(budget=1.0, arm="pulse 02")["weight"].values
    np.testing.assert_array_equal(np.float32(stored["pulse 02"]), np.float32(used))
    assert json.loads(result.attrs["plan"]) == plan


def test_random_positions_are_pulses_of_the_same_seeds(small):
    result, parts = small
    chosen = random_positions(SMALL.resolved())
    expected = np.mean([parts[f"1-pulse-{c:02d}"]["response"].values[i] for i, c in enumerate(chosen)])
    assert float(result.sel(budget=1.0, arm="random positions")["response"]) == pytest.approx(expected)
    assert len(set(chosen.tolist())) > 1


def test_seeds_are_shared_and_differences_paired(small):
    result, parts = small
    change = parts["0-pulse-03"]["response"].values - parts["0-none"]["response"].values
    row = result.isel(budget=0, position_sigma=3)
    assert float(row["pulse_response"]) == pytest.approx(change.mean() / 0.5)
    assert float(row["pulse_response_error"]) == pytest.approx(change.std(ddof=1) / np.sqrt(24) / 0.5)
    # Plus and minus are the targets in turn; a pulse pushes every image towards its own.
    assert float(row["pulse_response"]) > 0


def test_judged_schedules_are_compared_image_by_image(small):
    result, parts = small
    budget = result.isel(budget=1)
    for judged in ("critical pulse", "window"):
        found = parts[f"1-{judged.replace(' ', '-')}"]["response"].values
        difference = found - parts["1-constant"]["response"].values
        row = budget.sel(arm="constant", judged=judged)
        assert float(row["advantage"]) == pytest.approx(difference.mean())
        assert float(row["advantage_error"]) == pytest.approx(difference.std(ddof=1) / np.sqrt(24))
        assert float(row["advantage_p"]) == pytest.approx(stats.ttest_1samp(difference, 0.0).pvalue)
        # McNemar: of the images that one schedule gets right and the other wrong, each has half on average.
        ours, theirs = (parts[f"1-{n}"]["correct"].values for n in (judged.replace(" ", "-"), "constant"))
        differ = ours != theirs
        exact = stats.binomtest(int(ours[differ].sum()), int(differ.sum())).pvalue if differ.any() else 1.0
        assert float(row["advantage_accuracy_p"]) == pytest.approx(exact)
        change = float(budget.sel(arm=judged)["diversity"] - budget.sel(arm="constant")["diversity"])
        assert float(row["change_diversity"]) == pytest.approx(change)
        assert float(row["change_diversity_error"]) > 0
        assert float(budget.sel(arm=judged, judged=judged)["advantage"]) == 0.0
    # The critical pulse has the common width and sits where the window has its centre.
    arm = budget.sel(arm="critical pulse")
    assert np.log(arm["arm_high"] / arm["arm_low"]) == pytest.approx(SMALL.pulse_width)
    assert np.sqrt(arm["arm_high"] * arm["arm_low"]) == pytest.approx(float(result["window_centre"]))


def test_diversity_of_correct_images_is_that_of_those_alone(small):
    result, parts = small
    part = parts["1-critical-pulse"]
    kept, labels = part["correct"].values, part["label"].values
    variances = []
    for label in (0, 1):
        own = part["features"].values[kept & (labels == label)].astype(np.float64)
        if len(own) >= 3:
            variances.append(np.trace(np.cov(own, rowvar=False)))
    row = result.isel(budget=1).sel(arm="critical pulse")
    assert int(row["classes_correct"]) == len(variances) > 0
    assert float(row["diversity_correct"]) == pytest.approx(np.mean(variances), rel=1e-6)


def test_a_pulse_is_placed_where_it_spends(small):
    """On a coarse ladder that is not where its edges have their middle."""
    result, _ = small
    tau = -np.log(result["sigma"].values)
    nodes = np.concatenate([[tau[1] - tau[0]], tau[2:] - tau[:-2], [tau[-1] - tau[-2]]]) / 2
    for number, position in enumerate(result["position_sigma"].values):
        weight = result["weight"].isel(budget=0).sel(arm=f"pulse {number:02d}").values
        assert -np.log(position) == pytest.approx(np.sum(nodes * weight * tau) / np.sum(nodes * weight))
    assert np.abs(np.log(result["position_sigma"].values / pulse_centres(SMALL.resolved()))).max() > 0.01


def test_windows_are_cut_to_the_ladder_and_widened_to_a_step():
    sigma = np.geomspace(16.0, 1.0, 5)  # steps of a factor two
    assert resolved_edges(np.nan, np.nan, sigma) is None
    assert resolved_edges(3.0, 7.0, sigma) == pytest.approx((3.0, 7.0))
    assert resolved_edges(0.1, 7.0, sigma) == pytest.approx((1.0, 7.0))
    assert resolved_edges(3.9, 4.1, sigma) == pytest.approx(
        tuple(np.sqrt(3.9 * 4.1) * 2.0 ** np.array([-0.5, 0.5]))
    )
    assert resolved_edges(12.0, 22.0, sigma) == pytest.approx((8.0, 16.0))
    assert resolved_edges(0.7, 1.4, sigma) == pytest.approx((1.0, 2.0))
    for low, high in ((3.9, 4.1), (12.0, 22.0), (0.7, 1.4)):
        edges = resolved_edges(low, high, sigma)
        assert edges is not None
        with_budget(pulse(*edges, 1.0), np.float32(sigma), 1.0)  # not refused


def test_saved_parts_are_not_computed_again(small):
    """Interruption and resumption themselves: tests/test_runner.py."""
    result, parts = small
    missing, again = ["theory", "0-search-01", "1-constant"], []
    kept = {name: part for name, part in parts.items() if name not in missing}
    other = guide.run(SMALL, saved=kept, on_checkpoint=lambda name, part: again.append(name))
    assert again == missing
    for name in result.data_vars:
        np.testing.assert_array_equal(other[name].values, result[name].values, err_msg=str(name))
    assert guide.settings_of(other) == SMALL.resolved()


def _posterior_of(data, of, sigma, x, label):
    distance = jnp.sum((data - x) ** 2, axis=(1, 2, 3))
    return jax.nn.softmax(-0.5 * distance / sigma**2) @ (of == label)


def _tiny_images(**options):
    """Twenty images of 2 x 2 pixels."""
    settings = GuideSettings(
        model="ideal",
        num_images=20,
        pool=14,
        sigma_max=20.0,
        sigma_min=0.3,
        num_levels=70,
        batch_size=1000,
        **options,
    ).resolved()
    return settings, load_system(settings)


@pytest.mark.parametrize("eta", [0.5, *[pytest.param(eta, marks=pytest.mark.slow) for eta in (0.0, 1.0)]])
def test_small_pushes_of_images_have_the_response_of_reverse_mode(eta):
    """Integration by parts against derivatives through the sampler: amplitude, and class probability of the end."""
    settings, system = _tiny_images(eta=eta)
    sigmas, count = ladder(settings), 3000
    data, of = system.bank
    respond = Partial(_posterior_of, data, of, sigmas[-1])
    model = dataclasses.replace(system.model, denoised_end=False, respond=respond)
    exact = np.stack(
        [
            small_push_samples(system._replace(model=model), settings, count, lambda *_: None)[:, :-1, 0],
            small_push_samples(system, settings, count, lambda *_: None)[:, :-1, 1],
        ]
    )
    labels = np.arange(count) % 10

    @jax.jit
    @jax.vmap
    def chi(key, label):
        def both(x):
            return jnp.stack([respond(x, label), jnp.vdot(model.direction[label], x)])

        own = model.conditional(label)
        found = susceptibility(model.unconditional, own, both, key, model.shape, sigmas, eta=eta)
        return found.value[:, :-1]

    measured = np.asarray(chi(jax.random.split(jax.random.key(1), count), labels)).swapaxes(0, 1)
    # Over all classes what D_u does to one cancels against what it does to another, and J D_c alone would pass.
    for ours, theirs in zip(*(a.reshape(2, count // 10, 10, -1) for a in (exact, measured)), strict=True):
        expected = ours.mean(0)
        error = np.hypot(ours.std(0), theirs.std(0)) / np.sqrt(count // 10)
        assert expected.max() > 6 * error.ravel()[expected.argmax()]
        # Steps of 0.06 in tau bias both sides by about as much.
        bias = 0.06 * expected.max(axis=1, keepdims=True)
        assert np.all(np.abs(theirs.mean(0) - expected) < 4.5 * error + bias)


def test_a_response_that_nothing_changes_has_no_small_push():
    """Of a constant only the integral by parts of the class posterior is left, which must cancel its gradient."""
    settings, system = _tiny_images(eta=0.0)
    model = dataclasses.replace(system.model, respond=Partial(lambda x, label: jnp.ones((), x.dtype)))
    constant = system._replace(model=model)
    found, gradient = (
        small_push_samples(constant, s, 6000, lambda *_: None)[..., 0]
        for s in (settings, dataclasses.replace(settings, eta=1.0))
    )
    error = found.std(0) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(0)) < 4.5 * error)
    assert np.max(gradient.mean(0) / 2 / error) > 4


def test_small_pushes_under_the_reverse_sde_uncover_the_class():
    """Twice the prior times the rate of class information, from noised images of the class."""
    settings, system = _tiny_images(eta=1.0)
    found = small_push_samples(system, settings, 4000, lambda *_: None)[..., 0]
    data, of = (np.asarray(a, np.float64) for a in system.bank)
    flat, rng = data.reshape(len(of), -1), np.random.default_rng(0)
    of, sigmas = of.astype(int), np.asarray(ladder(settings), np.float64)
    rates = np.zeros((4000, len(sigmas)))
    for n, (own, z) in enumerate(zip(rng.integers(0, 20, 4000), rng.normal(size=(4000, 4)), strict=True)):
        x = flat[own] + sigmas[:, None] * z
        logits = -0.5 * ((x[:, None] - flat) ** 2).sum(2) / sigmas[:, None] ** 2
        weights = (
            np.exp(logits - logits.max(1, keepdims=True)) * np.stack([np.ones(20), of == of[own]])[:, None]
        )
        free, inside = weights @ flat / weights.sum(2, keepdims=True)
        rates[n] = 2 * 0.1 * ((inside - free) ** 2).sum(1) / sigmas**2
    error = np.hypot(found.std(0), rates.std(0)) / np.sqrt(4000)
    assert rates.mean(0).max() > 20 * error[rates.mean(0).argmax()]
    assert np.all(np.abs(found.mean(0) - rates.mean(0)) < 4.5 * error + 1e-6)


def test_linear_theory_of_images_is_that_of_gaussians_in_one_dimension():
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(1.0, 0.5, 4000), rng.normal(-1.0, 0.5, 4000)])
    labels = np.repeat([0, 1], 4000)
    sigmas = np.geomspace(10.0, 0.2, 400)
    found = gaussian_response(
        values.reshape(-1, 1, 1, 1), labels, np.array([1.0, -1.0]).reshape(2, 1, 1, 1), sigmas, 0.0
    )
    total, own = values.var(), np.mean([values[:4000].var(), values[4000:].var()])
    shift = (values[:4000].mean() - values[4000:].mean()) / 2
    # exp(int (lambda - 1) d tau) = sqrt((C + s_end^2)/(C + s^2)) for a Gaussian of variance C.
    kept = np.sqrt((total + 0.2**2) / (total + sigmas**2))
    expected = sigmas**2 / (own + sigmas**2) * shift * kept
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_windows_that_hold_the_whole_image_respond_like_gaussian_images():
    """Of 3 x 3 pixels in windows of 5 every pixel is of its own kind; means of zero stay zero."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    mixing = rng.normal(size=(2, 9, 9))
    flat = np.einsum("nij,nj->ni", mixing[labels], rng.normal(size=(400, 9))) + 0.4 * labels[:, None]
    images = (flat - flat.mean(0)).reshape(-1, 3, 3, 1)
    direction = rng.normal(size=(2, 3, 3, 1))
    sigmas = np.geomspace(20.0, 0.3, 400)
    for eta in (0.0, 1.0):
        whole = gaussian_response(images, labels, direction, sigmas, eta)
        found = gaussian_patch_response(images, labels, direction, sigmas, eta, 5)
        np.testing.assert_allclose(found, whole, rtol=2e-3, atol=2e-3 * np.abs(whole).max())


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_windows_of_white_images_respond_pixel_by_pixel(eta):
    """lambda = 1/(1 + sigma^2) wherever the border lies, and a class that shifts all pixels a little."""
    labels, shift = np.arange(3000) % 2, 0.02
    images = np.random.default_rng(1).normal(size=(3000, 6, 6))
    for label, sign in ((0, 1), (1, -1)):
        images[labels == label] += sign * shift - images[labels == label].mean(0)
    direction = np.stack([np.full((6, 6), 1 / 6), np.full((6, 6), -1 / 6)])[..., None]
    sigmas = np.geomspace(10.0, 0.3, 120)
    found = gaussian_patch_response(images[..., None], labels, direction, sigmas, eta, 3)
    kept = ((1 + sigmas[-1] ** 2) / (1 + sigmas**2)) ** ((1 + eta) / 2)
    expected = (1 + eta) * 6 * shift * sigmas**2 / (1 + sigmas**2) * kept
    # Covariances of 3,000 images: of the largest pushes about one per cent.
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_pushes_of_gaussian_patches_evolve_as_steps_written_out():
    """Weights of single levels raised a little; near the border the estimate of a from b is not that of b from a."""
    rng, labels = np.random.default_rng(2), np.arange(60) % 2
    images = np.cumsum(rng.normal(size=(60, 4, 4)), axis=1) + labels[:, None, None]
    direction = rng.normal(size=(2, 4, 4, 1))
    sigmas = np.geomspace(10.0, 0.3, 300)
    found = gaussian_patch_response(images[..., None], labels, direction, sigmas, 0.5, 3)
    free, *own = (
        [_affine(_patch_models(part, 3), (4, 4), 3, s) for s in sigmas]
        for part in (images, images[labels == 0], images[labels == 1])
    )
    step, levels, push = np.log(sigmas[0] / sigmas[1]), (40, 150, 280), 1e-4
    change = np.zeros(len(levels))
    for label in (0, 1):
        for number, level in enumerate(levels):

            def drift(x, n, weight, label=label, level=level):
                d, c = (a @ x + b for a, b in (free[n], own[label][n]))
                return 1.5 * (d + weight * (n == level) * (c - d) - x)

            ends = []
            for weight in (push, -push):
                x = np.zeros(16)
                for n in range(len(sigmas) - 1):
                    first = drift(x, n, weight)
                    x = x + step / 2 * (first + drift(x + step * first, n + 1, weight))
                ends.append(direction[label].reshape(-1) @ x)
            change[number] += (ends[0] - ends[1]) / (2 * push * step) / 2
    np.testing.assert_allclose(found[list(levels)], change, rtol=0.02)


def _shifted(shifts, spectrum, label):
    return gaussian_denoiser(jnp.asarray(shifts)[label], spectrum)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_closure_of_gaussian_images_responds_mode_by_mode(eta):
    """lambda = S/(S + sigma^2) of every wavevector; classes are shifts of the mean."""
    settings, system = _tiny_images(eta=eta)
    rng, shape = np.random.default_rng(3), (8, 8, 1)
    frequency = np.fft.fftfreq(8)
    spectrum = 4 / (1 + 20 * (frequency[:, None] ** 2 + frequency**2))
    shifts = 0.3 * rng.normal(size=(10, *shape)).astype(np.float32)
    direction = rng.normal(size=(10, *shape)).astype(np.float32)
    model = dataclasses.replace(
        system.model,
        shape=shape,
        unconditional=gaussian_denoiser(np.zeros(shape), spectrum),
        conditional=Partial(_shifted, shifts, spectrum),
        direction=direction,
    )
    system = system._replace(model=model)
    found = closure_response(system, settings)
    sigmas = np.asarray(ladder(settings), np.float64)[:, None, None]
    kept = ((spectrum + sigmas[-1] ** 2) / (spectrum + sigmas**2)) ** ((1 + eta) / 2)
    shift, mode = (np.fft.fft2(a[..., 0]) for a in (shifts, direction))
    overlap = (shift * mode.conj()).real.mean(0) / 64
    push = sigmas**2 / (spectrum + sigmas**2) * overlap
    expected = (1 + eta) * (push * kept).sum((1, 2))
    np.testing.assert_allclose(found["chi_closure"], expected, rtol=0.02, atol=0.01 * np.abs(expected).max())
    np.testing.assert_allclose(found["push_closure"], push.sum((1, 2)), rtol=1e-3, atol=1e-4)


def test_peaks_are_vertices_of_parabolas_or_ends():
    x = np.linspace(0.0, 3.0, 7)
    curves = np.stack([5 - (x - 1.3) ** 2, x, -x])
    np.testing.assert_allclose(peaks_of(x, curves), [1.3, 3.0, 0.0], atol=1e-12)
    assert peaks_of(x, curves[0]) == pytest.approx(1.3)
    ends = np.full(200, 0.12848897960831243)
    assert ends.std(ddof=1) > 0 and spread_of(ends) == 0.0
    assert spread_of(x) == pytest.approx(np.std(x, ddof=1))


def _verdict(advantage, p_value):
    """The critical pulse against three arms; no window was recommended."""
    names = ["critical pulse", "constant", "random positions"]
    values = {"advantage": advantage, "advantage_error": 0.01, "advantage_p": p_value}
    values["advantage_accuracy_p"] = p_value
    data = {n: (("budget", "arm", "judged"), np.full((1, 3, 2), [v, np.nan])) for n, v in values.items()}
    coordinates = {"budget": [1.0], "arm": names, "judged": ["critical pulse", "window"]}
    return xr.Dataset(data, coordinates, {"response": "magnetisation"})


def test_opposite_differences_give_opposite_verdicts():
    (better,) = verdict_sentences(_verdict(0.2, 1e-6))
    (worse,) = verdict_sentences(_verdict(-0.2, 1e-6))
    (equal,) = verdict_sentences(_verdict(0.01, 0.4))
    assert "the critical pulse is better than random positions (by 0.20" in better and "worse" not in better
    assert "worse than random positions (by 0.20" in worse and "better" not in worse
    assert "not distinguishable from constant" in equal


@pytest.mark.parametrize(
    ("change", "word"), [(-30.0, "below"), (30.0, "above"), (1.0, "not distinguishable")]
)
def test_opposite_costs_in_diversity_give_opposite_sentences(change, word):
    arms = ["none", "pulse 00", "critical pulse"]
    values = {"diversity": [100.0, 90.0, 100 + change], "frechet": [5.0, 6.0, 5 + change / 10]}
    values["diversity_correct"] = [50.0, 50.0, 40.0]
    values |= {f"{n}_error": [1.0] * 3 for n in tuple(values)} | {"classes_correct": [9.0] * 3}
    data = {n: (("budget", "arm"), [v]) for n, v in values.items()}
    for name, scale in (("diversity", 1.0), ("frechet", 0.1)):
        for end, value in (("", scale * change), ("_error", scale)):
            data[f"change_{name}{end}"] = (("budget", "arm", "judged"), np.full((1, 3, 1), value))
    coordinates = {"budget": [2.0], "arm": arms, "judged": ["critical pulse"]}
    dataset = xr.Dataset(data, coordinates, {"references": "held-out images"})
    dataset = dataset.assign(real_diversity=60.0, real_diversity_error=0.5)
    (sentence,) = diversity_sentences(dataset)
    others = {"below", "above", "not distinguishable"} - {word}
    assert sentence.count(word) == 2 and not any(other in sentence for other in others)
    assert "(9 classes) the diversity is 40.0 ± 1.0, that of held-out images 60.0 ± 0.5" in sentence


def test_a_window_is_told_in_every_unit_and_a_truncated_one_is_called_so():
    data = {"window_sigma_low": 1.0, "window_sigma_high": 3.0, "window_centre": 2.0, "window_softest": np.nan}
    cost = '{"evaluations": 7, "jacobian_products": 9}'
    dataset = xr.Dataset(data, {"sigma": np.geomspace(16.0, 1.0, 5)})
    dataset.attrs = {"cost": cost, "window_status": WindowStatus.FOUND.message}
    assert "cuts it off" not in window_sentence(dataset)
    dataset.attrs["window_status"] = WindowStatus.OPEN.message
    assert "to 1.000, where the ladder cuts it off," in window_sentence(dataset)
    sentence = units_sentence(dataset)
    for piece in (
        "OU time 1.15 to 0.347",
        "ᾱ 0.1 to 0.5",
        "rectified-flow time 0.75 to 0.5",
        "of this ladder of 4: 3 to 3",
    ):
        assert piece in sentence
    # Of 50 steps t = 1 - n/50: from t = 0.75 to above 0.5.
    assert "rectified-flow steps of 50: 13 to 24" in sentence
    assert "EDM steps of 50: 24 to 29" in sentence


def test_peaks_off_by_more_than_the_margin_are_said_to_be():
    data = {
        "peak_amplitude": 2.0,
        "peak_amplitude_error": 0.1,
        "peak_response": 2.1,
        "peak_predicted_closure": 2.2,
        "peak_predicted_linear": 3.0,
    }
    data |= {"peak_predicted_regression": 0.5, "peak_predicted_closure_error": 0.11}
    coordinates = {"budget": [1.0], "position_sigma": [4.0, 2.0, 0.5]}
    dataset = xr.Dataset({n: (("budget",), [v]) for n, v in data.items()}, coordinates)
    dataset.attrs["response"] = "magnetisation"
    _, theory = peak_sentences(dataset)  # no derivatives were taken, and none are spoken of
    assert "closure σ = 2.20 ± 0.11 (+10 %, within 15 %)" in theory  # noqa: RUF001
    assert "linear theory σ = 3.000 (+50 %, not within 15 %)" in theory  # noqa: RUF001
    assert "regression σ = 0.5000, the last position (-75 %" in theory  # noqa: RUF001


@pytest.mark.parametrize(("share", "said"), [(0.9, False), (1e-6, True)])
def test_derivatives_that_see_nothing_are_called_so(share, said):
    single = {"peak_amplitude": 2.0, "peak_response": 2.1, "peak_predicted_response": 2.2}
    data = {n: (("budget",), [v]) for n, v in single.items()}
    curve = np.array([[0.1, 1.0, 0.2]])
    data["pulse_response"] = (("budget", "position_sigma"), curve)
    data["predicted_response"] = (("budget", "position_sigma"), share * curve)
    coordinates = {"budget": [1.0], "position_sigma": [4.0, 2.0, 0.5]}
    found = peak_sentences(xr.Dataset(data, coordinates, {"response": "magnetisation"}))
    assert any("hold nothing of what pulses do to the magn" in sentence for sentence in found) == said
    assert any("single trajectories σ = 2.200 (+5 %" in sentence for sentence in found) != said  # noqa: RUF001


@pytest.mark.parametrize(("softest", "less"), [(1.0, True), (3.0, False)])
def test_what_is_left_where_a_mode_is_softest_is_said_only_below_the_centre(softest, less):
    values = {"sigma_low": 1.0, "sigma_high": 4.0, "centre": 2.0, "softest": softest}
    dataset = xr.Dataset(
        {f"window_{n}": v for n, v in values.items()},
        attrs={
            "cost": '{"evaluations": 7, "jacobian_products": 9}',
            "window_status": WindowStatus.FOUND.message,
        },
    )
    assert ("less of it is left to decide" in window_sentence(dataset)) == less


def test_real_images_have_a_distance_of_their_own():
    """Of as many features as an arm has to the others; none where there are too few."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(900, 20))
    settings = GuideSettings(num_samples=60).resolved()
    mean, spread = _real_distances(features, settings)
    by_hand = [
        float(frechet_distance(features[order[:60]], features[order[60:]]))
        for order in (np.random.default_rng(k).permutation(900) for k in range(40))
    ]
    assert abs(mean - np.mean(by_hand)) < 4 * np.std(by_hand) / np.sqrt(5)
    assert 0.2 < spread / np.std(by_hand) < 2.5
    assert _real_distances(features[:100], settings) is None


def test_errors_of_predicted_peaks_are_those_of_resampled_trajectories(small):
    result, parts = small
    chi = parts["theory"]["chi_regression_resampled"].values
    np.testing.assert_allclose(
        chi.std(0, ddof=1), parts["theory"]["chi_regression_error"].values, rtol=1e-5, atol=1e-7
    )
    nodes = np.asarray(quadrature_weights(ladder(SMALL.resolved()), "heun"), np.float64)
    pulses = [parts[f"0-pulse-{i:02d}"]["weight"].values for i in range(result.sizes["position_sigma"])]
    curves = chi @ np.stack([nodes * weight for weight in pulses]).T
    log_sigma = np.log(result["position_sigma"].values)
    expected = np.std([np.exp(peaks_of(log_sigma, curve)) for curve in curves], ddof=1)
    assert expected > 0
    assert float(result["peak_predicted_regression_error"][0]) == pytest.approx(expected, rel=1e-3)
    assert "resample" not in result.dims


def test_a_theory_that_diverges_predicts_no_peak(small):
    _, parts = small
    levels = parts["theory"]["chi_closure"].copy()
    levels[-3:] = np.nan
    diverging = parts | {"theory": parts["theory"].assign(chi_closure=levels)}
    result = summarise(diverging, load_system(SMALL.resolved()), SMALL.resolved())
    assert "peak_predicted_closure" not in result and "peak_predicted_regression" in result


def test_a_missing_window_is_said_and_no_timestep_invented():
    nothing = xr.Dataset(
        {n: np.nan for n in ("window_sigma_low", "window_sigma_high", "window_centre", "window_softest")},
        attrs={"cost": '{"evaluations": 7, "jacobian_products": 9}', "window_status": "not distinguishable"},
    )
    sentence = window_sentence(nothing)
    assert "recommends no window: not distinguishable" in sentence and "DDPM" not in sentence


def test_the_report_of_a_run_has_verdict_and_table(small):
    page = content(small[0])
    assert any("best interval" in row.quantity for row in page.rows)
    assert any("theory predicts the peak" in sentence for sentence in page.sentences)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"budgets": (0.5, -1.0)}, "budgets: expected one or more different numbers > 0"),
        ({"pulse_width": 0.01}, "pulse_width: expected at least one step of the ladder"),
        ({"num_positions": 60}, "num_positions: expected at most 37, a step of the ladder apart"),
        ({"sigma_min": 30.0}, "sigma_min: expected less than sigma_max"),
        ({"model": "ideal", "grid": 16}, "grid: expected a model of patterns"),
        ({"size": 4}, "size: expected an odd window"),
    ],
)
def test_wrong_settings_say_what_is_wrong(values, text):
    with pytest.raises(ValueError, match=text.split(":")[0]) as caught:
        GuideSettings(**values).resolved()
    assert text in str(caught.value)


def test_an_unconditional_network_cannot_be_guided(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "critjax.cli.configure_jax", lambda precision: None
    )  # the tests have their own precision
    assert main(["guide", "local-11", "--out", str(tmp_path / "a"), "--no-progress"]) == 2
    assert "a network of ten classes, got an unconditional network" in capsys.readouterr().err


def test_exact_models_need_no_network_library_and_networks_say_that_they_do(tmp_path):
    program = (
        "import sys; sys.modules['flax'] = None\n"
        "from critjax.cli import main\n"
        "from critjax.studies.guide.settings import GuideSettings\n"
        "from critjax.studies._engine.storage import open_store\n"
        "from pathlib import Path\n"
        f"open_store(Path({str(tmp_path / 'a')!r}), GuideSettings(), overwrite=False, resume=False).__enter__()\n"
        f"sys.exit(main(['guide', 'unet-classes', '--no-progress', '--out', {str(tmp_path / 'b')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "networks need pip install 'critjax[networks]'" in done.stderr, (
        done.stderr
    )


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("model", ["patterns", "ideal", "els", "unet-classes"])
def test_defaults_of_every_model_are_legal(model, quick):
    settings = GuideSettings(model=model, quick=quick).resolved()
    assert settings.num_samples >= settings.num_search
    for budget in settings.budgets:
        arms = fixed_arms(settings, budget) + searched_arms(settings, budget)
        assert all(np.all(np.isfinite(arm.table)) for arm in arms)


def test_the_command_end_to_end(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("critjax.cli.configure_jax", lambda precision: None)
    options = ["guide", "--size", "3", "--grid", "12", "--num-samples", "24", "--num-search", "6"]
    options += ["--num-levels", "12", "--num-positions", "5", "--window-samples", "3", "--budgets", "0.5"]
    options += ["--susceptibility-samples", "2", "--batch-size", "12", "--no-progress"]
    assert main([*options, "--dry-run", "--out", str(tmp_path / "a")]) == 0
    assert "predicted time" in capsys.readouterr().out and not (tmp_path / "a").exists()
    assert main([*options, "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert "random positions" in printed and "pulse 03" in printed
    expected = small[0].isel(budget=0)  # of the same numbers, with two budgets
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"results.nc", "report.html", "figures"}
    assert len(list((tmp_path / "a" / "figures").glob("guide-*.png"))) == 5
    found = xr.load_dataset(tmp_path / "a" / "results.nc", engine="h5netcdf")
    for name in ("pulse_response", "response", "chi_regression", "gap"):
        np.testing.assert_allclose(found[name].squeeze(), expected[name], rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_network_is_judged_by_the_classifier(tiny_network, monkeypatch):
    known = embedded_fashion_mnist()
    few = known.images[:200], known.labels[:200], "200 images"
    monkeypatch.setattr("critjax.studies.guide.systems._references", lambda: few)
    settings = GuideSettings(
        model=tiny_network(num_classes=10),
        budgets=(1.0,),
        num_samples=30,
        num_search=4,
        num_positions=4,
        pulse_width=0.8,
        num_levels=6,
        sigma_max=8.0,
        sigma_min=0.1,
        window_samples=2,
        susceptibility_samples=2,
    )
    parts = {}
    result = guide.run(settings, on_checkpoint=parts.__setitem__)
    judge = load_classifier()
    kept = jnp.asarray(parts["0-constant"]["kept"].values)
    found = np.asarray(classify(judge, kept))[np.arange(20), np.arange(20) % 10]
    np.testing.assert_allclose(parts["0-constant"]["response"].values[:20], found, atol=1e-5)
    features = np.asarray(classifier_features(judge, kept))
    np.testing.assert_allclose(parts["0-constant"]["features"].values[:20], features, rtol=1e-4, atol=1e-4)
    assert np.all(np.isfinite(result["frechet"])) and np.all(np.isfinite(result["diversity"]))
    assert "images" in result.attrs["references"]


@pytest.fixture(scope="module")
def laboratory():
    return guide.run(GuideSettings(budgets=(0.25,), num_samples=192, susceptibility_samples=0))


@pytest.mark.nightly
def test_theory_puts_the_peak_of_the_pattern_laboratory_where_pulses_do(laboratory):
    """Bar of 15 per cent in sigma; linear theory misses it, see the next test."""
    measured = float(laboratory["peak_amplitude"][0])
    assert float(laboratory["peak_amplitude_error"][0]) < 0.1 * measured
    for name in ("regression", "closure"):
        assert abs(float(laboratory[f"peak_predicted_{name}"][0]) / measured - 1) < 0.15, name
    # From the softening of the mean Jacobian alone, without classes.
    assert abs(float(laboratory["window_centre"]) / measured - 1) < 0.15


def _pulses_by_hand(means, judge, start, settings, positions, levels=60):
    """Change of what is judged per unit of budget (pulses, ...): Heun steps written out, another ladder.

    ``means(x, sigma)`` returns posterior means, of all and of the class; ``judge(x)`` what the last state is worth. For
    eta > 0 a step adds white noise of variance eta (sigma_n^2 - sigma_{n+1}^2), the same under every pulse.
    """
    rate = 1 + settings.eta
    tau = np.linspace(-np.log(settings.sigma_max), -np.log(settings.sigma_min), levels + 1)
    step = tau[1] - tau[0]

    def final(weight):
        x, rng = start, np.random.default_rng(1)
        for n in range(levels):
            free, own = means(x, np.exp(-tau[n]))
            first = rate * (free + weight[n] * (own - free) - x)
            noise = 0.0
            if settings.eta:
                size = np.sqrt(settings.eta * (np.exp(-2 * tau[n]) - np.exp(-2 * tau[n + 1])))
                noise = (size * rng.standard_normal(x.shape)).astype(x.dtype)
            y = x + step * first + noise
            free, own = means(y, np.exp(-tau[n + 1]))
            x = x + step * (first + rate * (free + weight[n] * (own - free) - y)) / 2 + noise
        return judge(x)

    none, found = final(np.zeros(levels)), []
    middle = -(tau[1:] + tau[:-1]) / 2
    for position in np.log(positions):
        inside = np.abs(middle - position) < settings.pulse_width / 2
        found.append(final(inside / (inside.sum() * step) * settings.budgets[0]) - none)
    return np.array(found) / settings.budgets[0]


def _pattern_means(patterns, log_prior, num_plus, side):
    """Posterior means of fields (count, side, side) over periodic patterns, of all and of those of the class."""
    size, half = patterns.shape[1], patterns.shape[1] // 2
    kernels = np.zeros((len(patterns), side, side))
    for i in range(size):
        for j in range(size):
            kernels[:, (i - half) % side, (j - half) % side] = patterns[:, i, j]
    spectra, centre = np.conj(np.fft.rfft2(kernels)), patterns[:, half, half, None, None]

    def means(x, sigma):
        logits = np.fft.irfft2(np.fft.rfft2(x)[:, None] * spectra, s=(side, side)) / sigma**2
        logits += log_prior[:, None, None]
        found = []
        for part in (slice(None), slice(0, num_plus)):
            weights = np.exp(logits[:, part] - logits[:, part].max(1, keepdims=True))
            found.append((weights * centre[part]).sum(1) / weights.sum(1))
        return found

    return means


@pytest.mark.nightly
def test_the_miss_of_linear_theory_is_reproduced_by_hand(laboratory):
    """Bare linear theory puts the peak 16 per cent too high: fluctuations delay the softening, and it has none."""
    settings = GuideSettings(budgets=(0.25,)).resolved()
    key = jax.random.fold_in(jax.random.key(settings.seed), 5)
    random = np.asarray(jnp.sign(jax.random.normal(key, (2, 5, 5, 1), jnp.float32)), np.float64)[..., 0]
    others, plus = np.concatenate([random, -random]), np.ones((1, 5, 5))
    patterns = np.concatenate([plus, others, -plus, others])
    log_prior = np.log(([1.0] + [0.25] * 4) * 2)
    side, positions = settings.grid, pulse_centres(settings)
    means = _pattern_means(patterns, log_prior, 5, side)
    start = settings.sigma_max * np.random.default_rng(0).normal(size=(32, side, side))
    change = _pulses_by_hand(means, lambda x: x.mean((1, 2)), start, settings, positions)
    log_sigma = np.log(positions)
    draws = np.random.default_rng(1).integers(0, change.shape[1], (500, change.shape[1]))
    peak = np.exp(peaks_of(log_sigma, change.mean(1)))
    error = np.exp(peaks_of(log_sigma, change[:, draws].mean(2).T)).std(ddof=1)
    both = np.hypot(error, float(laboratory["peak_amplitude_error"][0]))
    # 1 % for different ladders: pulses begin and end between levels.
    assert abs(peak - float(laboratory["peak_amplitude"][0])) < 3 * both + 0.01 * peak
    miss = float(laboratory["peak_predicted_linear"][0]) / peak - 1
    assert 0.10 < miss < 0.22


@pytest.mark.nightly
@pytest.mark.parametrize(("eta", "expected"), [(0.0, (-0.12, -0.10)), (1.0, (-0.35, -0.27))])
def test_pulses_of_an_ideal_model_peak_below_small_ones_by_hand_too(eta, expected):
    """By how much the peaks of pulses of budget 0.25 lie below the exact ones of small pushes: class and amplitude.

    Expected: what docs/GUIDANCE.md says, from more trajectories, with errors of 0.02 to 0.05.
    """
    settings = GuideSettings(
        model="ideal", eta=eta, budgets=(0.25,), num_samples=256, susceptibility_samples=0
    ).resolved()
    system = load_system(settings)
    images, of = system.bank
    flat = images.reshape(len(images), -1).astype(np.float32)
    squares, count = (flat**2).sum(1) / 2, 1500
    labels = np.arange(count) % 10
    same = labels[:, None] == of
    v = np.asarray(system.model.direction).reshape(10, -1)[labels]

    def softmax(logits):
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    def means(x, sigma):
        logits = (x @ flat.T - squares) / sigma**2
        return softmax(logits) @ flat, softmax(np.where(same, logits, -np.inf)) @ flat

    def judge(x):
        image = means(x, settings.sigma_min)[0]
        probability = (softmax((image @ flat.T - squares) / JUDGE_SIGMA**2) * same).sum(1)
        return np.stack([probability, (x * v).sum(1)], axis=1)

    start = np.random.default_rng(0).normal(size=(count, flat.shape[1])).astype(np.float32)
    positions = pulse_centres(settings)[3:8]
    hand = _pulses_by_hand(means, judge, np.float32(settings.sigma_max) * start, settings, positions)
    nodes = np.asarray(quadrature_weights(ladder(settings), settings.solver), np.float64)
    arms = [arm for arm in fixed_arms(settings, 0.25) if arm.kind == "pulse"][3:8]
    chi = small_push_samples(system, settings, 4000, lambda *_: None)
    small = np.einsum("pn,inq->piq", np.stack([nodes * arm.table for arm in arms]) / 0.25, chi)

    def peak(change, sigma):
        log_sigma = np.log(sigma)
        draws = np.random.default_rng(1).integers(0, change.shape[1], (500, change.shape[1]))
        found = np.exp(peaks_of(log_sigma, change.mean(1).T))
        others = np.exp(peaks_of(log_sigma, np.moveaxis(change[:, draws].mean(2), 0, -1)))
        return found, others.std(0, ddof=1)

    pulses, error = peak(hand, positions)
    exact, exact_error = peak(small, pulse_positions(settings)[3:8])
    miss = pulses / exact - 1
    print("pulses by hand", pulses, error, "small pushes", exact, exact_error, "miss", miss)
    # The same pulses by the library, other seeds and ladder.
    play = player(system, settings)
    none, *pushed = (play(arm, "test") for arm in [fixed_arms(settings, 0.25)[0], *arms])
    for i, part in enumerate(pushed):
        for q, name in enumerate(("response", "amplitude")):
            change = (part[name].values - none[name].values) / 0.25
            off = change.mean() - hand[i, :, q].mean()
            assert abs(off) < 3.5 * np.hypot(
                change.std() / np.sqrt(len(change)), hand[i, :, q].std() / np.sqrt(count)
            )
    both = np.hypot(error / pulses, exact_error / exact)
    assert np.all(both < (0.08, 0.05)) and np.all(miss < -2 * both)
    assert np.all(np.abs(miss - expected) < 2.5 * both)


@pytest.mark.nightly
@pytest.mark.parametrize(("eta", "small", "positions"), [(0.0, 0.06, (4, 5)), (1.0, 0.03, (5,))])
def test_small_pulses_of_an_ideal_model_have_the_exact_response_and_large_ones_do_not(eta, small, positions):
    """Integration by parts gives the responses as the budget vanishes; a quarter is far from that.

    The excess is largest at low noise, which is why finite pulses have their peak below that of small ones.
    """
    settings = GuideSettings(
        model="ideal", eta=eta, num_images=200, num_samples=2400, susceptibility_samples=0, batch_size=400
    ).resolved()
    system = load_system(settings)
    play = player(system, settings)
    samples = small_push_samples(system, settings, 4000, lambda *_: None)
    nodes = np.asarray(quadrature_weights(ladder(settings), settings.solver), np.float64)
    none = play(fixed_arms(settings, 1.0)[0], "test")

    def excess(budget, position):
        """Response of pulses, what they have more than the exact rate, and its error: class and amplitude."""
        arm = fixed_arms(settings, budget)[2 + position]
        pushed = play(arm, "test")
        names = ("response", "amplitude")
        found = np.stack([pushed[n].values - none[n].values for n in names], axis=1) / budget
        exact = np.einsum("n,inq->iq", nodes * arm.table, samples) / budget
        error = np.hypot(*(a.std(0, ddof=1) / np.sqrt(len(a)) for a in (found, exact)))
        return found.mean(0), found.mean(0) - exact.mean(0), error

    for position in positions:
        value, off, error = excess(small, position)
        assert np.all(value > 3.5 * error) and np.all(np.abs(off) < 3.5 * error)
    _, off, error = excess(0.25, 5)
    assert off[0] > 4 * error[0]


@pytest.mark.nightly
def test_tangent_dynamics_of_a_patch_model_peak_within_the_bar_of_its_pulses_and_regression_does_not():
    """Reverse mode and pulses on the same seeds; so many images do not tell reverse mode from the regression."""
    settings = GuideSettings(
        model="els", budgets=(2.0,), num_samples=40, susceptibility_samples=40, batch_size=40
    ).resolved()
    system = load_system(settings)
    play = player(system, settings)
    near = np.flatnonzero(np.abs(np.log(pulse_centres(settings) / 2.4)) < 1.2)  # a range of eleven in sigma
    arms = fixed_arms(settings, 2.0)
    pulses = [[arm for arm in arms if arm.kind == "pulse"][i] for i in near]
    none = play(arms[0], "test")["amplitude"].values
    change = np.stack([play(arm, "test")["amplitude"].values - none for arm in pulses])
    log_sigma = np.log(pulse_centres(settings))[near]
    nodes = np.asarray(quadrature_weights(ladder(settings), settings.solver), np.float64)
    spent = np.stack([nodes * arm.table for arm in pulses])
    tangent = spent @ susceptibilities(system, settings, lambda *_: None)["chi_amplitude"].values.T

    def peaks(curves):
        return np.exp(peaks_of(log_sigma, np.moveaxis(curves, 0, -1)))

    measured = peaks(change.mean(1))
    # The same noise on both sides: their ratio is known better than either.
    draws = np.random.default_rng(1).integers(0, change.shape[1], (500, change.shape[1]))
    ratios = peaks(tangent[:, draws].mean(2)) / peaks(change[:, draws].mean(2))
    miss = peaks(tangent.mean(1)) / measured - 1
    print(f"pulses {measured:.3f}, tangent dynamics {miss:+.3f} +- {ratios.std(ddof=1):.3f}")
    # The bar is that of the report, on the estimate; 40 images know the ratio to 11 per cent.
    assert abs(miss) < 0.15 and ratios.std(ddof=1) < 0.15
    regression = peaks(spent @ predict(system, settings, lambda *_: None)["chi_regression"].values)
    print(f"regression {regression / measured - 1:+.3f}")
    assert -0.35 < regression / measured - 1 < -0.15
