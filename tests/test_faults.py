"""Nothing lost, nothing mixed: kills and full disks at every operation on files, flipped bits in every kind of file."""

import contextlib
import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_runner
import xarray as xr
from faults import strike
from test_networks import LOCAL, crops, random_parameters

from critjax.networks import (
    Classifier,
    ClassifierConfig,
    TrainingConfig,
    init_classifier,
    load_classifier,
    load_network,
    save_classifier,
    save_network,
    train,
)
from critjax.store import TEMPORARY
from critjax.studies._engine.runner import execute
from critjax.studies._engine.storage import open_store, read_settings
from critjax.sweeps import sweep

#: A study without figures, which take long to draw.
STUDY = dataclasses.replace(test_runner.TOY, figures=lambda dataset: {})
SETTINGS = test_runner.ToySettings(count=3)
POINTS = np.arange(7.0)
TRAINING = TrainingConfig(num_steps=4, batch_size=2)


def left_by_the_dead(folder):
    return [path.name for path in folder.rglob("*") if path.name.startswith(TEMPORARY)]


def saved(folder):
    found = (path for path in folder.rglob("*.part") if not path.name.startswith(TEMPORARY))
    return {path.name: path.read_bytes() for path in found}


def told(kind, error):
    """A killed process says nothing; one without room says it in one line, if it needed any."""
    if kind == "kill":
        assert error is None
    elif error:
        assert "No space left on device" in error and "; " in error and "\n" not in error


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "full"])
def test_a_study_goes_on_from_a_fault_at_every_operation(tmp_path, monkeypatch, kind):
    straight = execute(STUDY, SETTINGS, tmp_path / "straight").dataset

    def begin(number):
        execute(STUDY, SETTINGS, tmp_path / f"{number}")

    def go_on(number, error):
        folder = tmp_path / f"{number}"
        told(kind, error)
        kept = saved(folder)
        test_runner.CALLS.clear()
        finished = (folder / "results.nc").exists() and not kept
        if not finished:
            execute(STUDY, SETTINGS, folder)
            assert not {f"{name}.part" for name in test_runner.CALLS} & set(kept)
            assert {path.name for path in folder.iterdir()} == {"results.nc", "report.html", "figures"}
            assert not left_by_the_dead(folder)
        xr.testing.assert_equal(xr.load_dataset(folder / "results.nc", engine="h5netcdf"), straight)

    assert strike(kind, monkeypatch, begin, go_on) > 25


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "full"])
def test_a_sweep_goes_on_from_a_fault_at_every_operation(tmp_path, monkeypatch, kind):
    def evaluated(point):
        return {"square": point**2}

    def run(folder, progress=None):
        return sweep(evaluated, POINTS, batch_size=3, folder=folder, progress=progress)

    def go_on(number, error):
        folder, done = tmp_path / f"{number}", []
        told(kind, error)
        kept = saved(folder)
        np.testing.assert_array_equal(run(folder, lambda *at: done.append(at))["square"], POINTS**2)
        assert len(done) - bool(kept) == 3 - len(kept)
        assert not left_by_the_dead(folder) and len(saved(folder)) == 3

    run(tmp_path / "straight")
    assert strike(kind, monkeypatch, lambda number: run(tmp_path / f"{number}"), go_on) > 12


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "full"])
def test_training_goes_on_from_a_fault_at_every_operation(tmp_path, monkeypatch, kind):
    images, _ = crops(8)

    def run(folder, progress=None):
        options = {"folder": folder, "checkpoint_every": 1, "log_every": 1, "progress": progress}
        return jax.tree.leaves(train(LOCAL, TRAINING, images, **options).params)

    def go_on(number, error):
        folder, steps = tmp_path / f"{number}", []
        told(kind, error)
        kept = len(list(folder.glob("checkpoint*")))
        for mine, other in zip(run(folder, lambda step, *rest: steps.append(step)), straight, strict=True):
            np.testing.assert_array_equal(mine, other)
        assert (steps[:1] == [1]) == (kept == 0)
        assert not left_by_the_dead(folder)

    straight = run(tmp_path / "straight")
    assert strike(kind, monkeypatch, lambda number: run(tmp_path / f"{number}"), go_on) > 12


# --- Flipped bits: the numbers that were saved, or a word


def flips(path, count):
    """Yield ``count`` times after one bit of a file was flipped, and put it right afterwards."""
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for bit in rng.choice(8 * len(content), count, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        yield int(bit)
    path.write_bytes(content)


def trees_equal(mine, other):
    return all(map(np.array_equal, jax.tree.leaves(mine), jax.tree.leaves(other)))


def test_flipped_bits_of_parts_are_seen(tmp_path, capsys):
    parts = {"a": {"sum": np.arange(6.0)}, "b": xr.Dataset({"x": ("i", np.arange(5.0))})}
    with open_store(tmp_path / "run", SETTINGS, overwrite=False, resume=False) as store:
        for name, part in parts.items():
            store.save(name, part)
        for name in parts:
            for bit in flips(tmp_path / "run" / "partial" / f"{name}.part", 40):
                assert set(store.load()) == set(parts) - {name}, bit
                assert f"{name}.part: part: expected" in capsys.readouterr().err


def test_flipped_bits_of_a_sweep_are_seen(tmp_path):
    def run():
        return sweep(jnp.square, POINTS, batch_size=3, folder=tmp_path)

    np.testing.assert_array_equal(run(), POINTS**2)
    for bit in flips(tmp_path / "batch-00001.part", 40):
        with pytest.warns(UserWarning, match="batch-00001.part: part: expected"):
            np.testing.assert_array_equal(run(), POINTS**2, err_msg=str(bit))
    batches = saved(tmp_path)
    for _ in flips(tmp_path / "sweep.json", 40):
        with contextlib.suppress(ValueError):  # refused, or goes on with batches that tell whose they are
            np.testing.assert_array_equal(run(), POINTS**2)
        assert saved(tmp_path) == batches
    (tmp_path / "sweep.json").write_text("[1, 2")
    np.testing.assert_array_equal(run(), POINTS**2)
    assert saved(tmp_path) == batches and json.loads((tmp_path / "sweep.json").read_text())["num_points"] == 7


def test_flipped_bits_of_a_result_are_seen(tmp_path):
    path = execute(STUDY, SETTINGS, tmp_path / "run").result
    for bit in flips(path, 60):
        with contextlib.suppress(ValueError):
            settings, _ = read_settings(path, test_runner.ToySettings)
            assert settings == SETTINGS, bit


def test_flipped_bits_of_weights_are_seen(tmp_path):
    """All but those in the name of the digest itself: a file without one is of another program."""

    def refused(path, count, load, expected):
        seen = 0
        for bit in flips(path, count):
            try:
                assert trees_equal(load(path), expected), bit
            except ValueError as error:
                assert "expected" in str(error)
                seen += 1
        return seen

    params, path = random_parameters(LOCAL), tmp_path / "network.safetensors"
    save_network(path, LOCAL, params, {"seed": 1})
    assert refused(path, 60, lambda path: load_network(path).params, params) > 57
    config = ClassifierConfig(image_shape=(4, 4, 1), widths=(4,), num_classes=2)
    weights = init_classifier(config, jax.random.key(0))
    path = tmp_path / "classifier.safetensors"
    save_classifier(path, Classifier(config, weights, 1.5, {"seed": 1}))

    def load(path):
        found = load_classifier(path)
        return found.params, found.temperature

    assert refused(path, 60, load, (weights, 1.5)) > 57


def test_flipped_bits_of_a_checkpoint_are_seen(tmp_path):
    images, _ = crops(8)

    def run():
        return train(LOCAL, TRAINING, images, folder=tmp_path, checkpoint_every=2).params

    straight = run()
    contents = {path: path.read_bytes() for path in tmp_path.glob("checkpoint*")}
    assert len(contents) == 2
    for bit in flips(tmp_path / "checkpoint.safetensors", 40):
        with pytest.warns(UserWarning, match=r"checkpoint: expected .*: going on from"):
            assert trees_equal(run(), straight), bit
        for path, content in contents.items():
            path.write_bytes(content)
    for bit in flips(tmp_path / "checkpoint-previous.safetensors", 40):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert trees_equal(run(), straight), bit
