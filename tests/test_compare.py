# ruff: noqa: RUF001  (Greek letters belong in a report)
"""The comparison study: a patch model in the place of the network must be recognised; sentences, figures, command."""

import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from jax.tree_util import Partial
from programs import counting

from critjax import cli, studies
from critjax.banks import ImageBank
from critjax.data import ImageSet, embedded_fashion_mnist
from critjax.eigenmodes import leading_modes
from critjax.patch_score import patch_denoiser
from critjax.studies.compare import CompareSettings, run, settings_of
from critjax.studies.compare import findings as sentences
from critjax.studies.compare import findings_patches as patch_sentences
from critjax.studies.compare.nearest import nearest_patch_models
from critjax.studies.compare.patches import PATCH_FIELDS, probe
from critjax.studies.compare.problem import load

this = importlib.import_module("critjax.studies.compare.run")

GRID = (10, 8)
BANK = 6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Smooth random images in [-1, 1], as a file."""
    noise = np.random.default_rng(0).normal(size=(BANK + 8, *GRID))
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + np.roll(noise, (1, 1), (1, 2))
    images = np.tanh(smooth)[..., None].astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "pictures.npy"
    np.save(path, images)
    return path, images


@pytest.fixture(scope="module")
def settings(pictures):
    return CompareSettings(
        network="a-patch-model",
        data=str(pictures[0]),
        num_images=BANK,
        sizes=(3, 5, 7),
        num_levels=3,
        num_queries=3,
        num_samples=8,
        probe_samples=3,
        closure_samples=8,
        num_films=2,
        num_modes=2,
        quick=True,
    ).resolved()


def patch_model(pictures, positions):
    bank = ImageBank(jnp.asarray(pictures[1][:BANK]), 5, positions=positions)
    return patch_denoiser(bank, boundary="zero")


@pytest.fixture(scope="module")
def parts():
    """Parts of the run below, as they are saved."""
    return {}


@pytest.fixture(scope="module")
def result(settings, pictures, parts):
    return run(settings, patch_model(pictures, "all"), on_checkpoint=parts.__setitem__)


def test_another_seed_compiles_nothing(result, settings, pictures):
    with counting() as count:
        run(dataclasses.replace(settings, seed=1), patch_model(pictures, "all"))
    assert count.programs == 0


def test_a_patch_model_is_recognised_by_its_window(result):
    assert np.all(result.best_size.sel(model="ELS") == 5)
    np.testing.assert_allclose(result.relative_error.sel(model="ELS", size=5), 0, atol=2e-4)
    assert np.all(result.relative_error.sel(model="ELS", size=3) > 1e-3)
    assert np.all(result.relative_error.sel(model="LS") > 1e-3)
    np.testing.assert_allclose(result.film_correlation.sel(film_other="ELS at p*"), 1, atol=1e-3)
    np.testing.assert_allclose(result.film_explained.sel(film_other="ELS at p*"), 1, atol=1e-2)
    low = result.isel(level_sigma=0)
    near = result.sel(ensemble="noised data").interp(sigma=float(low.level_sigma))
    assert (
        abs(float(low.gap_patch) - float(near.gap)) < 5 * float(low.gap_patch_error + near.gap_error) + 0.01
    )
    assert "ELS models of the best size explain" in patch_sentences.explanation_sentence(result)
    assert "end in the same image" in sentences.films_sentence(result)


def test_probes_of_patch_models_find_the_leading_symbol_of_all_channels():
    """A correlation with a kernel of two channels: exact at every wavevector."""
    kernel = np.random.default_rng(3).normal(size=(3, 3, 2, 2))

    @Partial
    def denoise(x, sigma):
        shifts = [(a, b) for a in range(3) for b in range(3)]
        return sum(jnp.roll(x, (1 - a, 1 - b), (0, 1)) @ kernel[a, b].T for a, b in shifts) / (1 + sigma**2)

    k_y, k_x = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in (5, 6)), indexing="ij")
    down, across = (np.exp(1j * np.multiply.outer(np.arange(-1, 2), k)) for k in (k_y, k_x))
    symbol = np.einsum("ayx,byx,abcd->yxcd", down, across, kernel) / 1.25
    values = np.linalg.eigvals(symbol)
    expected = values.real.max(-1)
    found = probe(denoise, np.ones((5, 6, 2)), 0.5, jax.random.key(0))
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("grid", [(5, 6), (4, 4), (2, 7)])
def test_the_lowest_modes_of_a_patch_model_are_free_of_noise_from_probes(grid):
    """A dense Jacobian of two channels, invariant under no shift: plane waves and all its elements, in numpy."""
    shape = (*grid, 2)
    pixels = grid[0] * grid[1]
    matrix = np.random.default_rng(7).normal(size=(2 * pixels, 2 * pixels))

    @Partial
    def denoise(x, sigma):
        return (matrix @ x.ravel()).reshape(shape) / sigma

    found = np.asarray(probe(denoise, np.ones(shape), 0.5, jax.random.key(0)))
    elements = matrix.reshape(pixels, 2, pixels, 2) / 0.5
    y, x = (a.ravel() for a in np.indices(grid))
    near, far = [], []
    for row, column in np.ndindex(grid):
        wave = np.exp(2j * np.pi * (row * y / grid[0] + column * x / grid[1]))
        block = np.einsum("i,iajb,j->ab", wave.conj(), elements, wave) / pixels
        k = 2 * np.pi * np.hypot(*(n / m - round(n / m) for n, m in zip((row, column), grid, strict=True)))
        error = found[row, column] - np.linalg.eigvals(block).real.max()
        (near if round(k / (2 * np.pi / max(grid))) <= 1 else far).append(error)
    assert len(near) >= 3
    np.testing.assert_allclose(near, 0, atol=1e-10)
    assert np.abs(far).min() > 1e-3  # probes alone do not see them exactly


def test_gap_and_length_of_the_patch_model_with_fields_left_out(result, settings, pictures):
    """Fit and jackknife in numpy, on the eigenvalues at the single fields."""
    problem, shape = load(settings, patch_model(pictures, "all")), (*GRID, 1)
    k_y, k_x = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in GRID), indexing="ij")
    squared = k_y**2 + k_x**2
    lowest = np.rint(np.sqrt(squared) * max(GRID) / (2 * np.pi)) == 1

    def gap_and_length(values):
        gap = 1 - values[0, 0]
        excess = (1 - values[lowest] - gap) @ squared[lowest]
        return gap, np.sqrt(excess / np.sum(squared[lowest] ** 2) / abs(gap)) if excess > 0 else np.nan

    lengths = 0
    for level in range(settings.num_levels):
        here = result.isel(level_sigma=level)
        sigma = jnp.float32(here.level_sigma)
        model, size = (
            str(nearest_patch_models(result).model[level].values),
            int(here.best_size.sel(model="ELS")),
        )
        assert model == "ELS"
        denoise = patch_denoiser(ImageBank(problem.bank, size, positions="all"), boundary="zero")
        key = jax.random.fold_in(jax.random.key(settings.seed), 1000 + level)
        noise = jax.random.normal(key, (settings.num_queries, *shape), jnp.float32)
        fields = (problem.queries[: settings.num_queries] + float(here.level_sigma) * noise)[:PATCH_FIELDS]
        keys = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 2000 + level), len(fields))
        values = np.array(
            [probe(denoise, x, sigma, k) for x, k in zip(fields, keys, strict=True)], np.float64
        )
        count = len(values)
        assert count >= 3
        left = np.array([gap_and_length(np.delete(values, i, 0).mean(0)) for i in range(count)])
        errors = np.sqrt((count - 1) / count * np.sum((left - left.mean(0)) ** 2, axis=0))
        for name, value, error in zip(("gap", "xi_eq"), gap_and_length(values.mean(0)), errors, strict=True):
            np.testing.assert_allclose(here[f"{name}_patch"], value, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(here[f"{name}_patch_error"], error, rtol=2e-2, atol=1e-4)
        lengths += np.isfinite(errors[1])
    assert lengths  # some noise level has a length


def test_the_gap_of_the_gaussian_model_is_that_of_its_spectrum(result, pictures):
    images = pictures[1][:BANK, ..., 0].astype(np.float64)
    spectrum = (np.abs(np.fft.fft2(images - images.mean(0))) ** 2).mean(0) / (GRID[0] * GRID[1])
    for level in range(3):
        sigma = float(result.level_sigma[level])
        gap = sigma**2 / (spectrum + sigma**2)
        np.testing.assert_allclose(result.gap_gaussian[level], gap[0, 0], rtol=1e-4)


def test_products_of_eigenmodes_are_part_of_the_cost(result, settings, monkeypatch):
    counted = []

    def modes(denoise_fn, x, sigma, **rest):
        found = leading_modes(denoise_fn, x, sigma, **rest)
        counted.append(int(found.num_products))
        return found

    monkeypatch.setattr(this, "leading_modes", modes)
    problem = load(settings, lambda x, sigma: x / (1 + sigma**2))
    found = this.eigenmodes(problem, settings, lambda *_: None)
    assert found.attrs["num_products"] == sum(counted) > 0
    told = json.loads(result.attrs["cost"])["jacobian_products"]
    fields = 9 * settings.probe_samples  # levels times fields
    assert told > fields and told % fields  # those of the modes, too, which no field has


@pytest.mark.slow
def test_a_local_score_model_is_told_from_an_equivariant_one(settings, pictures):
    small = dataclasses.replace(settings, closure_samples=0, num_modes=0)
    found = run(small, patch_model(pictures, "same"))
    np.testing.assert_allclose(found.relative_error.sel(model="LS", size=5), 0, atol=2e-4)
    assert "LS models of the best size explain" in patch_sentences.explanation_sentence(found)
    assert "mode" not in found and "regression_closure" not in found
    assert sentences.local_modes_sentence(found) is None
    # The nearest patch model is the denoiser itself, and so is its response to a uniform push.
    assert np.all(nearest_patch_models(found)["model"] == "LS")
    # Finite differences in float64: at low noise the response bends within a step that float32 could resolve.
    bank = ImageBank(jnp.asarray(pictures[1][:BANK], jnp.float64), 5, positions="same")
    model, step = jax.jit(patch_denoiser(bank, boundary="zero")), 1e-6
    images = jnp.asarray(pictures[1][BANK : BANK + 3])
    for number, sigma in enumerate(found.level_sigma.values):
        key = jax.random.fold_in(jax.random.key(settings.seed), 1000 + number)
        x = np.asarray(images + float(sigma) * jax.random.normal(key, images.shape, jnp.float32), np.float64)
        pushed = [np.mean([model(one + sign * step, np.float32(sigma)) for one in x]) for sign in (1, -1)]
        slope = (pushed[0] - pushed[1]) / (2 * step)
        assert float(found.mean_jacobian_patch[number, 0]) == pytest.approx(slope, abs=1e-3)


def test_ideal_denoiser_losses_and_jackknife_against_loops(result, settings, pictures):
    images = pictures[1].astype(np.float64)
    bank, clean = images[:BANK], images[BANK : BANK + 3]
    model = patch_model(pictures, "all")
    for number, sigma in enumerate(result.level_sigma.values):
        key = jax.random.fold_in(jax.random.key(settings.seed), 1000 + number)
        noise = np.asarray(jax.random.normal(key, clean.shape, jnp.float32), np.float64)
        x = clean + sigma * noise
        ideal, entropy, network = [], [], []
        for one in x:
            logits = np.array([-((one - y) ** 2).sum() / (2 * sigma**2) for y in bank])
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            entropy.append(-sum(w * np.log(w) for w in weights if w > 0))
            ideal.append(sum(w * y for w, y in zip(weights, bank, strict=True)))
            network.append(np.asarray(model(jnp.asarray(one, jnp.float32), jnp.float32(sigma)), np.float64))
        ideal, network = np.array(ideal), np.array(network)
        centre = network.mean()

        def relative(keep, ideal=ideal, network=network, centre=centre):
            return np.sqrt(((ideal - network)[keep] ** 2).sum() / ((network[keep] - centre) ** 2).sum())

        level = result.isel(level_sigma=number)
        assert float(level.relative_error_ideal) == pytest.approx(relative([0, 1, 2]), rel=1e-4)
        left = np.array([relative(keep) for keep in ([1, 2], [0, 2], [0, 1])])
        assert float(level.relative_error_ideal_error) == pytest.approx(
            np.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum()), rel=1e-3
        )
        assert float(level.effective_images) == pytest.approx(np.exp(np.mean(entropy)), rel=1e-4)
        assert float(level.loss_ideal) == pytest.approx(((ideal - clean) ** 2).mean(), rel=1e-4)
        assert float(level.loss_network) == pytest.approx(((network - clean) ** 2).mean(), rel=1e-4)
        paired = ((ideal - clean) ** 2 - (network - clean) ** 2).mean(axis=(1, 2, 3))
        advantage = level.sel(rival="ideal")
        assert float(advantage.loss_advantage) == pytest.approx(paired.mean(), rel=1e-3)
        expected = paired.std(ddof=1) / np.sqrt(3)
        assert float(advantage.loss_advantage_error) == pytest.approx(expected, rel=1e-3)
        for name in ("ELS", "LS"):
            least = level.loss.sel(model=name).values.min()
            assert float(level.loss_advantage.sel(rival=name)) == pytest.approx(
                least - float(level.loss_network), abs=1e-9
            )


def test_gaussian_model_from_the_spectrum_of_the_bank(result, pictures):
    bank = pictures[1][:BANK, ..., 0].astype(np.float64)
    power = (np.abs(np.fft.fft2(bank - bank.mean(0))) ** 2).mean(0) / np.prod(GRID)
    for number, sigma in enumerate(result.level_sigma.values):
        expected = power[0, 0] / (power[0, 0] + sigma**2)
        assert float(result.mean_jacobian_gaussian[number, 0]) == pytest.approx(expected, rel=1e-4)


def test_saved_parts_are_not_computed_again(result, parts, settings, pictures):
    """Interruption and resumption themselves: tests/test_runner.py."""
    saved, told = {name: parts[name] for name in ("measurement", "patches")}, []
    assert list(parts) == [*saved, "films"]
    denoise = patch_model(pictures, "all")
    again = run(settings, denoise, saved=saved, on_checkpoint=lambda name, part: told.append(name))
    assert told == ["films"]
    xr.testing.assert_allclose(again, result)
    assert settings_of(result) == settings.resolved()
    with pytest.raises(ValueError, match="a result of the compare study"):
        settings_of(result.assign_attrs(study="landau"))


def test_figures_and_table(result):
    figures = studies.figures(result)
    assert {"softening", "patch-errors", "reach", "dispersion", "losses", "films", "eigenmodes"} <= set(
        figures
    )
    for kind in figures.values():
        kind.draw(result).canvas.draw()
    axes = figures["patch-errors"].draw(result).axes[0]
    lines = {c.get_label(): c.lines[0].get_ydata() for c in axes.containers}
    np.testing.assert_allclose(lines["p = 3"], result.relative_error.sel(model="ELS", size=3))
    rows = studies.content(result).rows
    assert any("p* = 5" in row.note for row in rows)
    assert any(row.quantity.strip().startswith("as ᾱ") for row in rows)
    level = result.isel(level_sigma=0)
    theory = {row.quantity.strip(): row.theory for row in rows}
    assert any(row.note.startswith("theory: nearest patch model; Gaussian model") for row in rows)
    shown = float(theory["λ(0), σ = 10.0"].split()[0])
    assert shown == pytest.approx(float(level.mean_jacobian_patch[0]), rel=0.05)
    assert "weight of the Jacobian outside the best window, σ = 10.0" in theory
    nearest = nearest_patch_models(result)
    assert np.all(nearest["model"] == "ELS") and np.all(nearest["size"] == 5)
    np.testing.assert_allclose(nearest["explained"], 1, atol=1e-6)
    np.testing.assert_allclose(
        nearest["weight_outside"], 0, atol=1e-12
    )  # a patch model of five pixels sees no more
    np.testing.assert_allclose(
        nearest["advantage"], result.loss.min(("model", "size")) - result.loss_network, atol=1e-9
    )
    assert np.all(result.weight_outside.sel(window=3) > 0.1 * result.weight_outside.sel(window=1))


# --- Sentences: opposite numbers, opposite words


def _curve(value, error=0.01):
    values = np.array([0.2, value, 0.5])
    return values, np.full(3, error)


def _data(**changes):
    ensembles, sigma = ["trajectories", "noised data"], np.array([4.0, 2.0, 1.0])
    uniform, uniform_error = _curve(0.7)
    both = {
        "mean_jacobian_uniform": uniform,
        "mean_jacobian_uniform_error": uniform_error,
        "regression_uniform": _curve(1.2)[0],
        "regression_uniform_error": _curve(1.2)[1],
        "receptive_radius": np.array([4.0, 3.0, 1.0]),
        "receptive_radius_error": np.full(3, 0.1),
        "xi_eq": np.array([1.0, 2.0, 1.5]),
        "xi_eq_error": np.full(3, 0.1),
    }
    single = {
        "minimal_gap": 0.3,
        "minimal_gap_error": 0.02,
        "minimal_gap_sigma": 2.0,
        "minimal_gap_sigma_error": 0.1,
        "critical_sigma_regression": 2.5,
        "critical_sigma_regression_error": 0.1,
    }
    levels = {
        "relative_error": np.array([[[0.2, 0.5], [0.5, 0.2]], [[0.6, 0.6], [0.6, 0.6]]]),
        "relative_error_error": np.full((2, 2, 2), 0.01),
        "best_size": np.array([[9, 3], [3, 3]]),
        "loss_advantage": np.array([[-0.1, 0.1], [0.3, 0.5], [-0.1, 0.3]]),
        "loss_advantage_error": np.full((3, 2), 0.02),
        "relative_error_ideal": np.array([0.9, 0.9]),
        "relative_error_ideal_error": np.array([0.01, 0.01]),
        "effective_images": np.array([5.0, 1.0]),
        "film_explained": np.array([[0.9, 0.8], [0.1, 0.0]]),
    }
    dims = {1: ("level_sigma",), 3: ("model", "level_sigma", "size")}
    data = {n: (("ensemble", "sigma"), np.stack([v, v])) for n, v in both.items()}
    data |= {n: (("ensemble",), [v, v]) for n, v in single.items()}
    data |= {n: (dims.get(v.ndim, ("model", "level_sigma")), v) for n, v in levels.items()}
    for name in ("loss_advantage", "loss_advantage_error"):
        data[name] = (("rival", "level_sigma"), levels[name])
    data["film_explained"] = (("film_other", "film_sample"), levels["film_explained"])
    data["film_correlation"] = (("film_other", "film_sigma"), np.array([[0.99, 0.95], [0.8, 0.3]]))
    data["film_correlation_error"] = (("film_other", "film_sigma"), np.full((2, 2), 0.02))
    for name, value in changes.items():
        dims_ = (
            data[name][0]
            if name in data
            else {0: (), 1: ("sigma",), 2: ("mode_sigma", "mode_number")}[np.ndim(value)]
        )
        old = np.asarray(data[name][1]) if name in data else np.asarray(value)
        data[name] = (dims_, np.broadcast_to(np.asarray(value, float), old.shape))
    coordinates = {"ensemble": ensembles, "sigma": sigma, "model": ["ELS", "LS"], "level_sigma": [8.0, 0.5]}
    coordinates |= {"film_other": ["ELS at p*", "ideal"], "mode_sigma": [5.0, 1.0]}
    coordinates |= {"rival": ["ELS", "LS", "ideal"], "size": [3, 9]}
    coordinates = {k: v for k, v in coordinates.items() if k != "mode_sigma" or "mode_eigenvalue" in data}
    return xr.Dataset(data, coordinates)


def test_the_gap_closes_or_not():
    assert "does not close" in sentences.softening_sentence(_data())
    assert "exceeds one" in sentences.softening_sentence(_data(minimal_gap=-0.3))
    assert "zero within its error" in sentences.softening_sentence(_data(minimal_gap=0.01))
    edge = sentences.softening_sentence(_data(minimal_gap=np.nan))
    assert "0.30 ± 0.01" in edge or "0.300 ± 0.010" in edge
    assert "softest at σ = 2.00: " in edge
    curve = {"minimal_gap": np.nan, "mean_jacobian_uniform": np.array([0.2, 0.69, 0.7])}
    text = sentences.softening_sentence(_data(**curve))  # levels off within error
    assert (
        "at σ = 1.00, the end of the ladder, and no softer there than from σ = 2.00 on within error" in text
    )
    curve["mean_jacobian_uniform"] = np.array([0.2, 0.5, 0.7])
    text = sentences.softening_sentence(_data(**curve))
    assert "softest at σ = 1.00, the end of the ladder: its gap" in text


def test_the_regression_symbol_passes_touches_or_stays_below():
    assert "passes one at σ = 2.5" in sentences.crossing_sentence(_data())
    above = _data(regression_uniform=1.2, critical_sigma_regression=np.nan)
    assert "is above one from the first level, most clearly with 1.20" in sentences.crossing_sentence(above)
    surest = _data(
        regression_uniform=np.array([0.2, 1.2, 1.4]), regression_uniform_error=np.array([0.01, 0.02, 0.3])
    )
    text = sentences.crossing_sentence(surest)  # 1.4 is larger, and only 1.3 errors above one
    assert "most clearly with 1.20 ± 0.02 at σ = 2.00" in text
    swapped = surest.assign(
        regression_uniform_error=surest.regression_uniform_error[:, ::-1].drop_vars("sigma")
    )
    assert "most clearly with 1.400 ± 0.010 at σ = 1.00" in sentences.crossing_sentence(swapped)
    touching = _data(regression_uniform=np.array([0.2, 1.005, 0.9]))
    assert "touches one" in sentences.crossing_sentence(touching)
    falling = _data(regression_uniform=np.array([1.005, 0.9, 0.8]), critical_sigma_regression=np.nan)
    assert "touches one, never above it" in sentences.crossing_sentence(falling)
    # 2.3 errors are sure at one level, not as the most of three.
    chance = _data(regression_uniform=np.array([0.2, 1.023, 0.9]))
    assert "touches one" in sentences.crossing_sentence(chance)
    assert "passes one" in sentences.crossing_sentence(chance.isel(sigma=[1]))
    below = _data(regression_uniform=0.8, critical_sigma_regression=np.nan)
    assert "stays below one" in sentences.crossing_sentence(below)
    closure = {"critical_sigma_closure": 2.4, "critical_sigma_closure_error": 0.1}
    assert "puts the crossing at 2.4" in sentences.crossing_sentence(_data(**closure))
    lost = {
        "critical_sigma_closure": np.nan,
        "critical_sigma_closure_error": np.nan,
        "regression_uniform_closure": np.array([0.2, 0.9, np.nan]),
        "regression_uniform_closure_error": np.full(3, 0.01),
    }
    text = sentences.crossing_sentence(_data(**lost))
    assert "closure of the network alone stays below one, nearest to it with 0.900 ± 0.010 at σ = 2" in text
    assert text.endswith("and diverges from σ = 1.00 on.")
    lost["regression_uniform_closure"] = np.array([0.2, 0.9, 0.8])
    assert "diverges" not in sentences.crossing_sentence(_data(**lost))


def test_patches_explain_or_not():
    text = patch_sentences.explanation_sentence(_data())
    assert "ELS models of the best size explain" in text and "at every noise level" in text
    assert "0.960 (0.960 to 0.960) against 0.640 (0.640 to 0.640)" in text
    assert "least 0.960 ± 0.004 at" in text  # 2 x 0.2 x 0.01
    uneven = np.array([[[0.2, 0.5], [0.5, 0.1]], [[0.6, 0.6], [0.6, 0.6]]])
    text = patch_sentences.explanation_sentence(_data(relative_error=uneven))
    assert "0.975 (0.960 to 0.990)" in text and "least 0.960 ± 0.004 at σ = 8" in text
    worse = np.array([[[0.6, 0.7], [0.5, 0.2]], [[0.65, 0.6], [0.6, 0.6]]])
    assert "No patch model reaches r² = 0.9 at σ = 8" in patch_sentences.explanation_sentence(
        _data(relative_error=worse)
    )
    swapped = _data().relative_error.values[::-1]
    assert patch_sentences.explanation_sentence(_data(relative_error=swapped)).startswith("LS models")


def _beyond(error, advantage=0.5, outside=0.3):
    """Every patch model with one relative error and one loss; a share of the Jacobian outside all windows."""
    data = _data(relative_error=error, loss_advantage=advantage)
    shape = (2, 3, 2)
    dims = ("ensemble", "sigma", "window")
    found = data.assign(
        weight_outside=(dims, np.full(shape, outside)), weight_outside_error=(dims, np.full(shape, 0.01))
    )
    # Levels of the comparison lie inside the ladder of the measurement.
    found["loss_network"] = (("level_sigma",), 1 - found["loss_advantage"].values[:2].min(0))
    return found.assign_coords(sigma=[10.0, 2.0, 0.1], window=[3, 9])


def test_what_no_patch_model_does_is_told_from_what_some_do():
    text = patch_sentences.beyond_patches_sentence(_beyond(0.6))
    assert "What no patch model of these images does: at σ = 8.00, 0.500 the network differs" in text
    assert "r² down to 0.640 ± 0.012 at σ = 8.00" in text
    assert "most by 0.50 ± 0.02 in squared error per pixel, 50 ± 2 % of the best (ELS), at σ = 8.00" in text
    assert "It looks further: 0.300 ± 0.010 of the absolute weight" in text
    text = patch_sentences.beyond_patches_sentence(_beyond(0.6, advantage=-0.5, outside=0.0))
    assert "differs from every patch model of these images (r² down to 0.640" in text
    assert "gains nothing by it" in text and "It looks no further" in text
    text = patch_sentences.beyond_patches_sentence(_beyond(0.2))
    assert "Patch models explain the network at every noise level (r² down to 0.960" in text
    assert "by what they leave it denoises better than all of them at σ = 8.00, 0.500" in text
    text = patch_sentences.beyond_patches_sentence(_beyond(0.2, advantage=0.0))
    assert "does nothing that patch models do not" in text and "no better beyond error" in text


def test_what_no_patch_model_does_holds_level_by_level_and_against_every_rival():
    error = np.array([[[0.6, 0.7], [0.8, 0.9]], [[0.65, 0.6], [0.85, 0.7]]])
    advantage = np.array(
        [[0.1, -0.1], [0.3, 0.5], [-0.9, -0.9]]
    )  # ELS, LS, ideal; the last is no patch model
    text = patch_sentences.beyond_patches_sentence(_beyond(error, advantage))
    assert "at σ = 8.00 the network differs from all of them (r² down to 0.640 ± 0.012 at σ = 8.00)" in text
    assert "most by 0.10 ± 0.02" in text and "(3 px)" in text
    text = patch_sentences.beyond_patches_sentence(_beyond(error, advantage[:, ::-1]))
    assert "at σ = 0.500 the network differs from all of them (r² down to 0.510 ± 0.014" in text
    assert "outside the best window there (9 px, the largest tried)" in text
    undecided = _beyond(0.6, outside=0.0).assign(weight_outside_error=lambda d: np.nan * d.weight_outside)
    assert "It looks" not in patch_sentences.beyond_patches_sentence(undecided)
    without = _beyond(error, advantage).drop_vars(["weight_outside", "weight_outside_error"])
    assert "window" not in patch_sentences.beyond_patches_sentence(without)


def test_whole_images_explain_the_network_better_than_patches_or_not():
    assert "whole images" not in patch_sentences.beyond_patches_sentence(_beyond(0.6))
    dims = ("level_sigma",)
    nearer = _beyond(0.6).assign(
        relative_error_ideal=(dims, np.array([0.3, 0.58]))
    )  # the second within its errors
    text = patch_sentences.beyond_patches_sentence(nearer)
    assert "At σ = 8.00 whole images explain it better than any patches" in text
    assert "up to r² 0.910 ± 0.006 against 0.640 ± 0.012" in text


def test_reach_shrinks_or_grows():
    text = sentences.reach_sentence(_data())
    assert "shrinks: radius 4.0" in text and "falls (9, 3 px" in text and "ξ_eq is largest, 2.00" in text
    assert "at σ = 2.00, against 1.00 ± 0.10 at σ = 4.00 and 1.50 ± 0.10 at σ = 1.00" in text
    falling = sentences.reach_sentence(_data(xi_eq=np.array([3.0, 2.0, np.nan])))
    assert "largest, 3.00 ± 0.10 px, at σ = 4.00, against 2.00 ± 0.10 at σ = 2.00." in falling
    unsure = _data(xi_eq=np.array([3.0, 2.0, 1.0]), xi_eq_error=np.array([np.nan, 0.1, 0.1]))
    assert "largest, 2.00 ± 0.10 px, at σ = 2.00, against 1.00 ± 0.10" in sentences.reach_sentence(unsure)
    once = sentences.reach_sentence(_data(xi_eq=np.array([np.nan, 2.0, np.nan])))
    assert once.endswith("ξ_eq is largest, 2.00 ± 0.10 px, at σ = 2.00.")
    grown = _data(receptive_radius=np.array([1.0, 3.0, 4.0]), best_size=np.array([[3, 9], [3, 3]]))
    text = sentences.reach_sentence(grown)
    assert "grows" in text and "rises (3, 9 px" in text
    assert "stays the same" in sentences.reach_sentence(_data(receptive_radius=2.0))
    vague = sentences.reach_sentence(_data(receptive_radius_error=np.array([0.1, 0.1, 3.0])))
    assert vague.startswith(
        "From σ = 4.00 to 2.00, the first and last level with an error of at most 25 %, the effective "
        "receptive field shrinks: radius 4.00 ± 0.10 to 3.00 ± 0.10 px; "
    )


def test_reach_between_its_ends_is_told_where_it_differs_beyond_error():
    dip = sentences.reach_sentence(_data(receptive_radius=np.array([4.0, 1.0, 4.1])))
    assert "From σ = 4.00 to 1.00 the effective receptive field ends as it began within error: " in dip
    assert "radius 4.00 ± 0.10 to 4.10 ± 0.10 px, smallest 1.00 ± 0.10 px at σ = 2.00; " in dip
    hill = sentences.reach_sentence(_data(receptive_radius=np.array([4.0, 6.0, 3.0])))
    assert "shrinks: radius 4.00 ± 0.10 to 3.00 ± 0.10 px, largest 6.00 ± 0.10 px at σ = 2.00; " in hill
    flat = sentences.reach_sentence(_data(receptive_radius=np.array([4.0, 3.8, 4.0])))
    assert "stays the same within error: radius 4.00 ± 0.10 to 4.00 ± 0.10 px; " in flat
    vague = _data(
        receptive_radius=np.array([4.0, 1.0, 4.1]), receptive_radius_error=np.array([0.1, 0.5, 0.1])
    )
    assert "stays the same within error: " in sentences.reach_sentence(vague)


def test_a_critical_noise_that_only_touches_one_says_so_in_the_table():
    def notes(**changes):
        data = _data(**changes).drop_vars("best_size")
        return [r.note for r in sentences.table(data) if r.quantity.startswith("effective critical")]

    theory = "theory: closure of the network alone"
    assert notes() == [theory] * 2
    touching = notes(regression_uniform=np.array([0.2, 1.005, 0.9]))
    assert touching == [f"touches one, never above it beyond error; {theory}"] * 2
    assert notes(regression_uniform=0.8, critical_sigma_regression=np.nan) == [theory] * 2


def test_single_modes_grow_or_not():
    grow = _data(mode_eigenvalue=np.array([[0.5, 0.4], [1.3, 1.1]]))
    assert "passes one between σ = 5.00 and 1.00" in sentences.local_modes_sentence(grow)
    assert "no mode grows" in sentences.local_modes_sentence(_data(mode_eigenvalue=np.full((2, 2), 0.5)))
    at_once = _data(mode_eigenvalue=np.full((2, 2), 1.5))
    assert "at σ = 5.00 already" in sentences.local_modes_sentence(at_once)


def test_films_and_losses():
    assert "end in the same image" in sentences.films_sentence(_data())
    assert "part (" in sentences.films_sentence(_data(film_explained=-0.5))
    assert "resemble" in sentences.films_sentence(_data(film_explained=0.5))
    text = sentences.films_sentence(_data())
    assert "median r² 0.850 (0.800 to 0.900)" in text and "0.0500 (0 to 0.100)" in text


def test_losses_differ_only_beyond_their_paired_errors():
    text = sentences.loss_sentence(_data())
    assert "below that of every patch model at σ = 0.500, above that of some at σ = 8.00" in text
    assert "where the ideal denoiser memorises (σ ≤ 0.500) the network beats it at every level" in text
    assert "in the end by 0.30 ± 0.02" in text
    text = sentences.loss_sentence(_data(loss_advantage=-0.9))
    assert "is beaten by some patch model at σ = 8.00, 0.500" in text and "in training" not in text
    text = sentences.loss_sentence(_data(loss_advantage=-0.9).assign_attrs(seen=1))
    assert text.startswith("On these images, which it saw in training, the network is beaten")
    assert "beats it at 0 of 1 levels and is beaten at 1" in text
    text = sentences.loss_sentence(_data(loss_advantage=0.9))
    assert "every patch model at σ = 8.00, 0.500, nowhere above one" in text
    text = sentences.loss_sentence(_data(loss_advantage_error=0.9))
    assert (
        "do not differ in their losses beyond error" in text
        and "beats it at 0 of 1 levels, in the end" in text
    )
    assert "nowhere rests on fewer" in sentences.loss_sentence(_data(effective_images=9.0))


# --- Settings and command


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sizes": (3, 4)}, "sizes: expected two or more different odd windows"),
        ({"sizes": (3, 3)}, "sizes: expected two or more different odd windows"),
        ({"num_queries": 2}, "num_queries: expected an integer >= 3, got 2"),
        ({"closure_samples": 6}, "closure_samples: expected a multiple of 4, got 6"),
    ],
)
def test_wrong_settings_are_told(change, text):
    with pytest.raises(ValueError, match=text):
        CompareSettings(**change)


def test_too_few_images_and_too_large_windows_are_told(pictures):
    with pytest.raises(ValueError, match="data: expected at least 58 images, got 14"):
        run(CompareSettings(data=str(pictures[0]), num_images=50), lambda x, s: pytest.fail("evaluated"))
    settings = CompareSettings(data=str(pictures[0]), num_images=BANK, sizes=(3, 11), num_queries=3)
    with pytest.raises(ValueError, match="windows up to 8, got 11"):
        run(settings, lambda x, s: pytest.fail("evaluated"))


def test_more_images_than_are_embedded_come_from_the_whole_set(monkeypatch, tmp_path):
    asked = []

    def whole(split, *, num_images, **options):
        asked.append((split, num_images))
        images = np.zeros((num_images, 8, 8, 1), np.float32) + np.arange(num_images)[:, None, None, None]
        return ImageSet(images, None, "fashion-mnist-train", ())

    few = CompareSettings(num_images=900, num_queries=8, num_samples=48, sizes=(3, 5)).resolved()
    many = CompareSettings(num_images=1200, num_queries=8, num_samples=48, sizes=(3, 5)).resolved()
    with monkeypatch.context() as patch:
        patch.setattr("critjax.data._files.load_fashion_mnist", whole)
        assert len(load(few, lambda x, s: x).bank) == 900 and not asked
        problem = load(many, lambda x, s: x)
    assert asked == [("train", 1248)]
    assert len(problem.bank) == 1200 and problem.queries[:, 0, 0, 0].tolist() == list(range(1200, 1248))
    monkeypatch.setattr("critjax.data._fashion_mnist._directories", lambda root: [tmp_path])
    with pytest.raises(FileNotFoundError, match="or lower num_images: 1,000 come with the package"):
        load(many, lambda x, s: x)


def test_a_class_conditions_the_network_and_chooses_the_images(pictures, tiny_network, tmp_path):
    images, labels = pictures[1], np.arange(len(pictures[1])) % 2
    np.savez(tmp_path / "labelled.npz", images=images, labels=labels)
    few = CompareSettings(
        network=tiny_network(num_classes=3),
        class_label=1,
        data=str(tmp_path / "labelled.npz"),
        num_images=4,
        num_queries=3,
        sizes=(3, 5),
    ).resolved()
    problem = load(few)
    np.testing.assert_array_equal(problem.bank, images[1::2][:4])
    np.testing.assert_array_equal(problem.queries, images[1::2][4:])
    assert problem.description.endswith("receptive field 3; network and images of class 1")
    every = load(dataclasses.replace(few, class_label=None))
    np.testing.assert_array_equal(every.bank, images[:4])
    assert every.description.endswith("receptive field 3")
    with pytest.raises(ValueError, match="data: expected at least 8 images of class 1, got 7; lower num_im"):
        load(dataclasses.replace(few, num_images=5))
    with pytest.raises(ValueError, match="data: expected at least 7 images of class 2, got 0"):
        load(dataclasses.replace(few, class_label=2))
    with pytest.raises(ValueError, match="class_label: expected images with labels, got .*npy without;"):
        load(dataclasses.replace(few, data=str(pictures[0])))


def test_a_class_of_fashion_mnist_is_named(monkeypatch, tmp_path):
    few = CompareSettings(
        class_label=8, num_images=60, num_queries=8, num_samples=40, sizes=(3, 5)
    ).resolved()
    problem, bags = load(few, lambda x, s: x), embedded_fashion_mnist(100, ["Bag"]).images
    np.testing.assert_array_equal(np.concatenate([problem.bank, problem.queries]), bags)
    assert problem.description == "a denoiser that was passed; network and images of class 8 (Bag)"
    monkeypatch.setattr("critjax.data._fashion_mnist._directories", lambda root: [tmp_path])
    with pytest.raises(FileNotFoundError, match="or lower num_images: 100 of a class come with the package"):
        load(dataclasses.replace(few, num_images=61), lambda x, s: x)


@pytest.mark.slow
def test_the_command_writes_a_report_and_tells_its_cost(
    tmp_path, pictures, tiny_network, capsys, monkeypatch
):
    monkeypatch.setattr(cli, "configure_jax", lambda precision: None)  # this process keeps its precision
    command = ["compare", tiny_network(), "--data", str(pictures[0]), "--num-images", str(BANK)]
    command += [
        "--sizes",
        "3,5",
        "--quick",
        "--num-samples",
        "8",
        "--num-modes",
        "2",
        "--closure-samples",
        "8",
    ]
    command += ["--no-progress", "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "predicted time" in printed and "windows 3, 5" in printed
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "models of the best size explain the network" in printed and "Quick run" in printed
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "critjax compare --from results.nc" in page and "receptive field 3" in page
    stored = settings_of(xr.load_dataset(tmp_path / "out" / "results.nc", engine="h5netcdf"))
    assert stored.num_images == BANK and stored.quick


def test_an_unknown_network_lists_the_shipped_ones(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "configure_jax", lambda precision: None)  # this process keeps its precision
    folder = tmp_path / "never"
    assert cli.main(["compare", "no-such-network", "--no-progress", "--out", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "network: expected a name or a file of weights" in said and "local-11" in said
    assert not folder.exists()
