"""Training step by step: rates, clipping, draws, averages, checkpoints, the log, and what is told meanwhile."""

import dataclasses
import json
import math
import re
import shlex
import types

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_networks import LOCAL, crops, random_parameters

from critjax import _stored, karras_sigmas, sample
from critjax.cli import build_parser
from critjax.cli._train import NUM_SAMPLES, draw_samples, load_training_data, run_train
from critjax.data import ImageSet
from critjax.networks import (
    NetworkConfig,
    TrainingConfig,
    held_out_loss,
    init,
    load_network,
    network_denoiser,
    save_network,
    shipped_networks,
    train,
)
from critjax.networks import _step as step_module
from critjax.networks import _training as module
from critjax.networks._checkpoints import CHECKPOINT, PREVIOUS, load_checkpoint
from critjax.networks._step import TrainingState, make_step, start_training
from critjax.networks._weights import read, write

TINY = NetworkConfig(width=2, dilations=(1,))
LABELLED = dataclasses.replace(TINY, num_classes=3)
ONE_STEP = TrainingConfig(num_steps=1, batch_size=2)
GRADIENT = step_module._gradient


#: Images of one shape for all tests of a single step; what is drawn from them does not depend on their number.
FIELD = np.random.default_rng(0).normal(size=(12, 4, 6, 1)).astype(np.float32)


def with_gradient(monkeypatch, function):
    """Train on ``function(config, params, (x0, sigma, noise, label)) -> (loss, gradient)``, not the network's."""
    monkeypatch.setattr(step_module, "_gradient", function)


def constant(config, params, batch):
    return jnp.zeros(()), jax.tree.map(lambda a: jnp.full_like(a, 0.3), params)


def along_a_direction(config, params, batch):
    """A gradient whose norm is the mean of the images."""
    parts = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), params)
    norm = jnp.mean(batch[0])
    return norm, jax.tree.map(lambda a: a * (norm / optax.tree.norm(parts)), parts)


def drawn(config, params, batch):
    """Return a loss that tells what was drawn, and a gradient of its size."""
    x0, sigma, noise, _ = batch
    value = jnp.mean(x0 + sigma[:, None, None, None] * noise)
    return value, jax.tree.map(lambda a: jnp.full_like(a, value), params)


def batch_itself(config, params, batch):
    """In place of the loss: what was drawn."""
    return batch, jax.tree.map(jnp.zeros_like, params)


def squares(config, params, batch):
    return sum(jnp.sum(a**2) for a in jax.tree.leaves(params)), constant(config, params, batch)[1]


def as_vector(params):
    return np.concatenate([np.array(a, np.float64).ravel() for a in jax.tree.leaves(params)])


@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_rates_rise_and_fall(warmup_steps, monkeypatch):
    """Under a constant gradient Adam moves every parameter by the learning rate: a line up, then half a cosine."""
    with_gradient(monkeypatch, constant)
    training = TrainingConfig(num_steps=12, batch_size=1, learning_rate=0.02, warmup_steps=warmup_steps)
    state, step = start_training(TINY, training), make_step(TINY, training)
    here = as_vector(state.params)
    for number in range(12):
        state, _ = step(state, FIELD, None)
        there = as_vector(state.params)
        phase = np.pi * (number - warmup_steps) / (12 - warmup_steps)
        rate = 0.02 * (number / warmup_steps if number < warmup_steps else (1 + np.cos(phase)) / 2)
        np.testing.assert_allclose(here - there, rate, rtol=1e-3, atol=1e-6)
        here = there


@pytest.mark.parametrize("norm", [0.25, 5.0])
def test_gradients_are_clipped_by_their_norm(norm, monkeypatch):
    """Adam's memory after a step is a tenth of the gradient it got: as it was, or shortened to the bound."""
    with_gradient(monkeypatch, along_a_direction)
    training = TrainingConfig(num_steps=2, batch_size=1, clip_norm=1.5)
    state = start_training(TINY, training)
    parts = jax.tree.map(lambda a: np.cos(np.arange(a.size)), state.params)
    direction = as_vector(parts) / np.linalg.norm(as_vector(parts))
    state, found = make_step(TINY, training)(state, np.full_like(FIELD, norm), None)
    assert found == pytest.approx(norm, rel=1e-6)
    memory = as_vector(optax.tree_utils.tree_get(state.optimiser, "mu"))
    np.testing.assert_allclose(memory, 0.1 * min(1.5, norm) * direction, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("flip", [None, True])
def test_images_are_mirrored_left_to_right_if_asked(flip, monkeypatch):
    with_gradient(monkeypatch, batch_itself)
    options = {} if flip is None else {"flip": flip}
    training = TrainingConfig(num_steps=1, batch_size=2000, **options)
    _, (seen, *_) = make_step(LABELLED, training)(
        start_training(LABELLED, training), FIELD, np.arange(12) % 3
    )
    equal = [
        (np.asarray(seen)[:, None] == known).all((2, 3, 4)).any(1) for known in (FIELD, FIELD[:, :, ::-1])
    ]
    assert np.all(equal[0] ^ equal[1])
    if flip is None:
        assert np.all(equal[0])
    else:
        assert abs(equal[1].mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize("label_dropout", [0.0, 0.2, 1.0])
def test_labels_are_left_out_as_often_as_asked(label_dropout, monkeypatch):
    """The image says what its label is: what is not left out is still its own."""
    with_gradient(monkeypatch, batch_itself)
    training = TrainingConfig(num_steps=1, batch_size=2000, label_dropout=label_dropout)
    labels = np.arange(12) % 3
    images = np.broadcast_to(labels[:, None, None, None], FIELD.shape).astype(np.float32)
    state = start_training(LABELLED, training)
    _, (x0, _, _, label) = make_step(LABELLED, training)(state, images, labels)
    known, label = np.asarray(x0)[:, 0, 0, 0], np.asarray(label)
    dropped = label == -1
    error = np.sqrt(label_dropout * (1 - label_dropout) / 2000)
    assert abs(dropped.mean() - label_dropout) <= 4 * error
    np.testing.assert_array_equal(label[~dropped], known[~dropped])


@pytest.mark.parametrize("label_dropout", [0.0, 1.0])
def test_without_labels_only_the_row_of_none_learns(label_dropout, tmp_path):
    start = str(tmp_path / "start.safetensors")
    save_network(start, LABELLED, random_parameters(LABELLED))
    training = TrainingConfig(
        num_steps=6, batch_size=4, warmup_steps=2, label_dropout=label_dropout, start=start
    )
    images, labels = crops()
    step, state = make_step(LABELLED, training), start_training(LABELLED, training)
    for _ in range(4):  # sixteen images
        state, _ = step(state, images, labels.astype(np.int32))
    memory = optax.tree_utils.tree_get(state.optimiser, "mu")["condition"]["classes"]
    learns = np.abs(memory).max(1) > 0
    np.testing.assert_array_equal(learns, [label_dropout == 0.0] * 3 + [label_dropout == 1.0])


@pytest.mark.parametrize(
    ("step", "ema_decay", "expected"), [(0, 0.9, 0.1), (8, 0.9, 0.5), (8, 0.3, 0.3), (10**6, 0.999, 0.999)]
)
def test_averages_start_fast_and_then_keep_their_decay(step, ema_decay, expected, monkeypatch):
    """The average keeps ``expected`` of itself, (1 + n)/(10 + n) at first and its decay later."""
    with_gradient(monkeypatch, constant)
    training = TrainingConfig(num_steps=12, batch_size=1, warmup_steps=0, ema_decay=ema_decay)
    state = start_training(TINY, training)
    ones = jax.tree.map(lambda a: jax.device_put(np.ones_like(a)), state.params)
    state = state._replace(step=jax.device_put(np.int32(step)), average=ones)
    state, _ = make_step(TINY, training)(state, FIELD, None)
    assert isinstance(state, TrainingState) and int(state.step) == step + 1
    found = as_vector(state.average) - as_vector(state.params)
    np.testing.assert_allclose(found, expected * (1 - as_vector(state.params)), atol=1e-6)


def test_seeds_decide(monkeypatch):
    with_gradient(monkeypatch, drawn)
    images, _ = crops(20)
    training = TrainingConfig(num_steps=7, batch_size=2, warmup_steps=0)
    first, second, other = (
        train(TINY, dataclasses.replace(training, seed=seed), images, log_every=1) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.losses, second.losses)
    np.testing.assert_array_equal(as_vector(first.params), as_vector(second.params))
    assert np.abs(first.losses[:, 1] - other.losses[:, 1]).min() > 1e-3
    assert np.abs(as_vector(first.params) - as_vector(other.params)).max() > 1e-2


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_get_convolutions_of_the_whole_batch(platform):
    """Two 3 x 3 convolutions, each with two gradients; on CPUs products of rows of windows, 18 numbers each."""
    x, sigma = np.zeros((8, 8, 8, 1), np.float32), np.ones(8, np.float32)
    gradient = jax.jit(lambda params, batch: GRADIENT(LOCAL, params, batch))
    params = jax.eval_shape(lambda: init(LOCAL, jax.random.key(0)))
    text = jax.export.export(gradient, platforms=[platform])(params, (x, sigma, x, None)).mlir_module()
    products = len(re.findall(r"stablehlo\.dot_general.* : \(tensor<\d+x18x", text))
    found = text.count("stablehlo.convolution"), products, text.count("stablehlo.while")
    assert found == ((0, 6, 1) if platform == "cpu" else (6, 0, 0))


def test_a_killed_run_goes_on_to_the_same_bits_and_the_same_log(tmp_path):
    """The checkpoint of step 3 lies between the entries 2 and 4 of the log."""
    images, labels = crops()
    training = TrainingConfig(num_steps=6, batch_size=4, warmup_steps=2, seed=3)
    whole = train(
        LABELLED, training, images, labels, folder=tmp_path / "whole", checkpoint_every=100, log_every=2
    )

    class Killed(Exception):
        pass

    def kill(step, *rest):
        if step == 4:
            raise Killed

    def go_on(progress):
        folder = tmp_path / "part"
        return train(
            LABELLED,
            training,
            images,
            labels,
            folder=folder,
            checkpoint_every=3,
            log_every=2,
            progress=progress,
        )

    with pytest.raises(Killed):
        go_on(kill)
    # What is there so far can be measured: the average of the weights.
    stored = load_network(tmp_path / "part" / CHECKPOINT)
    state, _, _ = load_checkpoint(tmp_path / "part" / CHECKPOINT, LABELLED, training)
    assert stored.config == LABELLED and int(state.step) == 3
    np.testing.assert_array_equal(as_vector(stored.params), as_vector(state.average))
    assert np.any(as_vector(state.average) != as_vector(state.params))
    seen = []
    rest = go_on(lambda step, *other: seen.append(step))
    assert seen == [4, 6]
    np.testing.assert_array_equal(as_vector(whole.params), as_vector(rest.params))
    np.testing.assert_array_equal(whole.losses, rest.losses)
    np.testing.assert_array_equal(whole.losses[:, 0], [2, 4, 6])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_run_loses_no_step(tmp_path, stop):
    images, labels = crops()
    training = TrainingConfig(num_steps=6, batch_size=4, warmup_steps=2, seed=3)
    often = {"checkpoint_every": 100, "log_every": 2}
    whole = train(LABELLED, training, images, labels, folder=tmp_path / "whole", **often)

    def interrupt(step, *rest):
        if step == 4:
            raise stop

    part = tmp_path / "part"
    with pytest.raises(stop):
        train(LABELLED, training, images, labels, folder=part, progress=interrupt, **often)
    assert int(load_checkpoint(part / CHECKPOINT, LABELLED, training)[0].step) == 4
    rest = train(LABELLED, training, images, labels, folder=part, **often)
    np.testing.assert_array_equal(as_vector(whole.params), as_vector(rest.params))
    np.testing.assert_array_equal(whole.losses, rest.losses)


def test_a_checkpoint_is_due_after_some_time(tmp_path):
    """However rare by steps; and one of another number of processors says so."""
    images, _ = crops(8)
    training = TrainingConfig(num_steps=4, batch_size=2)

    def stop(step, *rest):
        if step == 3:
            raise RuntimeError

    often = {"checkpoint_every": 100, "log_every": 1, "checkpoint_seconds": 1e-9}
    with pytest.raises(RuntimeError):
        train(LOCAL, training, images, folder=tmp_path, progress=stop, **often)
    assert int(load_checkpoint(tmp_path / CHECKPOINT, LOCAL, training)[0].step) == 2
    arrays, header = read(tmp_path / CHECKPOINT, "checkpoint")
    write(tmp_path / CHECKPOINT, arrays, {**header, "processors": json.dumps("64 of cpu")})
    with pytest.warns(
        UserWarning, match=r"processors as now .* got 64 of cpu; the last bits of the run may differ"
    ):
        load_checkpoint(tmp_path / CHECKPOINT, LOCAL, training)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def with_step_999(path):
    arrays, header = read(path, "checkpoint")
    write(path, {**arrays, "step": np.int32(999)}, header)


def with_a_nan(path):
    arrays, header = read(path, "checkpoint")
    name = next(name for name in arrays if name.startswith("params."))
    write(path, {**arrays, name: np.full_like(arrays[name], np.nan)}, header)


@pytest.mark.parametrize("damage", [flip, with_step_999, with_a_nan, lambda path: path.write_bytes(b"")])
def test_the_checkpoint_before_stands_in_for_a_damaged_one(tmp_path, damage):
    images, _ = crops(8)
    training = TrainingConfig(num_steps=3, batch_size=2)
    whole = train(LOCAL, training, images, folder=tmp_path, checkpoint_every=1)
    damage(tmp_path / CHECKPOINT)
    seen = []
    with pytest.warns(UserWarning, match=r"checkpoint.*: going on from .*checkpoint-previous"):
        again = train(
            LOCAL, training, images, folder=tmp_path, progress=lambda step, *rest: seen.append(step)
        )
    assert seen == [3]
    np.testing.assert_array_equal(as_vector(whole.params), as_vector(again.params))
    train(LOCAL, training, images, folder=tmp_path)  # neither is damaged any more
    damage(tmp_path / CHECKPOINT)
    damage(tmp_path / PREVIOUS)
    with pytest.warns(UserWarning, match="going on"), pytest.raises(ValueError, match="checkpoint: expected"):
        train(LOCAL, training, images, folder=tmp_path)


def test_a_folder_serves_one_run_at_a_time(tmp_path):
    images, _ = crops(8)
    training = TrainingConfig(num_steps=2, batch_size=2)

    def second(step, *rest):
        with pytest.raises(ValueError, match="folder: expected a folder that no other run uses"):
            train(LOCAL, dataclasses.replace(training, seed=1), images, folder=tmp_path)

    train(LOCAL, training, images, folder=tmp_path, progress=second)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_checkpoint_without_a_later_option_has_its_default(tmp_path):
    training = ONE_STEP
    train(LOCAL, training, crops(8)[0], folder=tmp_path)
    path = tmp_path / CHECKPOINT
    arrays, header = read(path, "checkpoint")
    older = {name: json.loads(text) for name, text in header.items() if name != "data"}
    del older["config"]["norms"], older["training"]["start"]
    write(path, arrays, {name: json.dumps(values) for name, values in older.items()})
    assert int(load_checkpoint(path, LOCAL, training)[0].step) == 1
    with pytest.raises(ValueError, match="got one with norms = 2; repeat the settings"):
        load_checkpoint(path, dataclasses.replace(LOCAL, norms=1), training)
    train(LOCAL, training, crops(8)[0][::-1], folder=tmp_path)  # of unknown images: nothing to compare
    write(path, arrays, {"config": header["config"]})
    with pytest.raises(ValueError, match="checkpoint: expected a header with its training, got none"):
        load_checkpoint(path, LOCAL, training)


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path):
    images, _ = crops(8)
    training = TrainingConfig(num_steps=1, batch_size=2)
    train(LOCAL, training, images, folder=tmp_path)
    other = dataclasses.replace(training, seed=1)
    with pytest.raises(
        ValueError, match=r"checkpoint: expected one of the same settings, got one with seed = 0"
    ):
        train(LOCAL, other, images, folder=tmp_path)
    with pytest.raises(ValueError, match=r"got one with width = 6"):
        train(dataclasses.replace(LOCAL, width=8), training, images, folder=tmp_path)
    path = tmp_path / CHECKPOINT
    arrays, header = read(path, "checkpoint")
    older = {name: array for name, array in arrays.items() if name not in ("step", "recent")}
    write(path, older, {**header, "step": "1"})
    expected = r"exactly the arrays of the run, got .* differs in recent, step; it is of another version"
    with pytest.raises(ValueError, match=expected):
        train(LOCAL, training, images, folder=tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="a whole safetensors file"):
        train(LOCAL, training, images, folder=tmp_path)


def test_a_run_goes_on_only_with_its_own_images_labels_and_starting_weights(tmp_path):
    images, labels = crops(8)
    start, folder = tmp_path / "start.safetensors", tmp_path / "run"
    save_network(start, LABELLED, random_parameters(LABELLED))
    training = TrainingConfig(num_steps=1, batch_size=2, start=str(start))
    first = train(LABELLED, training, images, labels, folder=folder)
    again = train(LABELLED, training, images.copy(), list(labels), folder=folder)
    np.testing.assert_array_equal(as_vector(first.params), as_vector(again.params))
    expected = "checkpoint: expected one of the same data, got one of other {}; go on with those of its start"
    with pytest.raises(ValueError, match=expected.format("images")):
        train(LABELLED, training, images[::-1], labels, folder=folder)
    with pytest.raises(ValueError, match=expected.format("labels")):
        train(LABELLED, training, images, (labels + 1) % 3, folder=folder)
    with pytest.raises(ValueError, match=expected.format("images and labels")):
        train(LABELLED, training, images[:7], labels[:7], folder=folder)
    save_network(start, LABELLED, random_parameters(LABELLED, seed=1))
    with pytest.raises(ValueError, match=expected.format("starting weights")):
        train(LABELLED, training, images, labels, folder=folder)


@pytest.mark.parametrize(
    ("bad_loss", "bad_params", "words"),
    [
        (math.nan, 1.0, "training: expected a finite loss, got nan at step 3; lower the learning rate"),
        (math.inf, 1.0, "training: expected a finite loss, got inf at step 3; lower the learning rate"),
        (1.0, math.nan, "training: expected finite parameters, got others after step 4"),
    ],
)
def test_what_is_not_finite_is_never_kept(bad_loss, bad_params, words, tmp_path, monkeypatch):
    """The third step goes wrong; checkpoints are due after 2 and 4, the log only after 10."""

    def make(config, training):
        def step(state, images, labels):
            number = int(state.step) + 1
            params = jax.tree.map(lambda a: np.asarray(a) * bad_params if number == 3 else a, state.params)
            return state._replace(step=np.int32(number), params=params), bad_loss if number == 3 else 1.0

        return step

    monkeypatch.setattr(module, "make_step", make)
    training = TrainingConfig(num_steps=10, batch_size=2)
    with pytest.raises(ValueError, match=words):
        train(TINY, training, crops(8)[0], folder=tmp_path, checkpoint_every=2, log_every=10)
    state, losses, recent = load_checkpoint(tmp_path / CHECKPOINT, TINY, training)
    assert int(state.step) == 2 and losses == [] and recent == [1.0, 1.0]
    assert np.all(np.isfinite(as_vector(state.params)))


def test_a_rate_far_too_large_ends_the_run_before_its_first_checkpoint(tmp_path, monkeypatch):
    """A loss of squares: parameters of 1e200 after one step are still finite, their squares are not."""
    with_gradient(monkeypatch, squares)
    monkeypatch.setattr(_stored, "LARGEST", math.inf)  # such a rate is refused otherwise
    training = TrainingConfig(num_steps=9, batch_size=2, learning_rate=1e200, warmup_steps=0)
    with pytest.raises(ValueError, match=r"training: expected a finite loss, got inf at step 2"):
        train(TINY, training, crops(8)[0], folder=tmp_path, checkpoint_every=4, log_every=9)
    assert not (tmp_path / CHECKPOINT).exists()


def test_the_first_step_is_told_at_once_and_the_log_is_of_means(monkeypatch):
    with_gradient(monkeypatch, drawn)
    images, _ = crops(20)
    training = TrainingConfig(num_steps=7, batch_size=2, warmup_steps=0)
    each = train(TINY, training, images, log_every=1).losses[:, 1]
    done, told = [], []

    def counted(*arguments):
        step = make_step(*arguments)
        return lambda *state: done.append(1) or step(*state)

    monkeypatch.setattr(module, "make_step", counted)
    result = train(TINY, training, images, log_every=3, progress=lambda *row: told.append((len(done), *row)))
    means = [each[:3].mean(), each[3:6].mean(), each[6]]
    np.testing.assert_allclose(result.losses, np.column_stack([[3, 6, 7], means]), rtol=1e-12)
    assert [row[:3] for row in told] == [(n, n, 7) for n in (1, 3, 6, 7)]
    np.testing.assert_allclose([row[3] for row in told], [each[0], *means], rtol=1e-12)
    quiet = train(TINY, training, images, log_every=3)
    np.testing.assert_array_equal(quiet.losses, result.losses)


def test_the_time_left_leaves_out_compilation(monkeypatch):
    clock = [0.0]

    def make(config, training):
        def step(state, images, labels):
            clock[0] += 1000.0 if int(state.step) == 0 else 10.0
            return state._replace(step=np.int32(int(state.step) + 1)), 1.0

        return step

    monkeypatch.setattr(module, "make_step", make)
    monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    told = []
    training = TrainingConfig(num_steps=9, batch_size=2)
    train(TINY, training, crops(8)[0], log_every=4, progress=lambda *row: told.append(row))
    np.testing.assert_array_equal(told, [(1, 9, 1, np.nan), (4, 9, 1, 50), (8, 9, 1, 10), (9, 9, 1, 0)])


class Taken(Exception):
    """Carries what the command line hands to `train`."""


def taken(arguments, monkeypatch):
    """Return configuration and training settings that a command line makes, after three steps are told."""

    def take(config, training, images, labels, *, progress, **rest):
        if progress is not None:
            progress(1, 3, 0.5, math.nan)
            progress(3, 3, 0.25, 0.0)
        raise Taken(config, training)

    with monkeypatch.context() as patch, pytest.raises(Taken) as caught:
        patch.setattr("critjax.networks.train", take)
        run_train(build_parser().parse_args(arguments), "critjax train")
    return caught.value.args


@pytest.mark.parametrize("name", shipped_networks())
def test_the_recorded_commands_build_the_shipped_network(name, tmp_path, monkeypatch):
    stored = load_network(name)
    few = ImageSet(crops(20)[0], np.arange(20) % 10, "few", ())
    monkeypatch.setattr("critjax.cli._train.load_training_data", lambda options: (few, few))
    monkeypatch.chdir(tmp_path)
    for info in [stored.info["earlier"], stored.info] if "earlier" in stored.info else [stored.info]:
        start = info["training"].get("start")
        if start is not None:  # what the earlier command left
            (tmp_path / start).parent.mkdir(parents=True)
            save_network(tmp_path / start, stored.config, stored.params)
        config, training = taken(shlex.split(info["command"])[1:], monkeypatch)
        assert dataclasses.replace(config, sigma_data=stored.config.sigma_data) == stored.config
        assert dataclasses.asdict(training) == {"start": None} | info["training"]


@pytest.mark.parametrize(
    ("words", "foreign"), [("unet --stem 5", "--stem"), ("local --attention", "--attention")]
)
def test_options_of_the_other_architecture_are_refused(words, foreign, tmp_path):
    command = ["train", "--out", str(tmp_path / "run"), "--architecture", *words.split()]
    with pytest.raises(
        ValueError, match=f"options of the {words.split()[0]} architecture, got {foreign}; leave"
    ):
        run_train(build_parser().parse_args(command), "critjax train")


def test_every_value_of_training_is_an_option_with_the_same_default(tmp_path, monkeypatch, capsys):
    command = ["train", "--num-images", "30", "--out", str(tmp_path / "run"), "--no-progress"]
    assert taken(command, monkeypatch)[1] == TrainingConfig()
    chosen = TrainingConfig(
        num_steps=7,
        batch_size=3,
        learning_rate=0.5,
        warmup_steps=2,
        clip_norm=0.25,
        ema_decay=0.75,
        log_noise_mean=-2.5,
        log_noise_std=0.125,
        label_dropout=0.375,
        flip=True,
        seed=11,
    )
    values = {
        name: value for name, value in dataclasses.asdict(chosen).items() if name not in ("start", "flip")
    }
    options = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert taken([*command, "--flip", *options], monkeypatch)[1] == chosen
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in values:
        default = re.escape(str(getattr(TrainingConfig(), name)))
        assert re.search(rf"--{name.replace('_', '-')} [A-Z] ((?! --).)*\(default: {default}\)", text), name


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--sample-steps", "0", "a number of steps >= 1, got 0"),
        ("--sample-eta", "-1", "a finite number >= 0, got -1"),
        ("--sample-guidance", "nan", "a finite number, got nan"),
        ("--num-held-out", "1", "two images or more, got 1"),
        ("--sample-guidance", "2", "a network with classes that is trained without them, too, got none; add"),
    ],
)
def test_illegal_samples_are_refused_before_training(option, value, words, tmp_path):
    command = ["train", "--num-images", "30", "--out", str(tmp_path / "run"), option, value]
    with pytest.raises(ValueError, match=f"{option}: expected {words}"):
        run_train(build_parser().parse_args(command), "critjax train")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("weight", [1.0, 1.7])
def test_samples_are_those_of_the_sampler_of_all_classes_in_turn(weight):
    config = dataclasses.replace(LABELLED, width=4)
    params = random_parameters(config)
    found = draw_samples(config, params, (6, 5, 1), 3, num_steps=5, eta=2.0, guidance=weight)
    assert found.shape == (NUM_SAMPLES, 6, 5, 1)
    keys, sigmas = jax.random.split(jax.random.key(3), NUM_SAMPLES), karras_sigmas(80.0, 0.02, 5)

    @jax.jit
    def expected(params, label, key):
        def denoise(x, sigma):
            told = network_denoiser(config, params, label)(x, sigma)
            return weight * told + (1 - weight) * network_denoiser(config, params)(x, sigma)

        return sample(denoise, key, (6, 5, 1), sigmas, eta=2.0).denoised[-1]

    for i in (0, 4, 35):
        np.testing.assert_allclose(found[i], expected(params, i % 3, keys[i]), rtol=1e-4, atol=1e-5)


def test_guidance_of_samples_needs_training_without_the_class(tmp_path):
    command = ["train", "--conditional", "--label-dropout", "0", "--sample-guidance", "2"]
    with pytest.raises(ValueError, match="--sample-guidance: expected .* got --label-dropout 0"):
        run_train(build_parser().parse_args([*command, "--out", str(tmp_path / "run")]), "critjax train")


def test_held_out_classes_that_were_not_trained_on_are_refused(tmp_path):
    images, _ = crops(40)
    np.savez(tmp_path / "sorted.npz", images=images, labels=np.arange(40) // 4)
    command = ["train", "--conditional", "--data", str(tmp_path / "sorted.npz")]
    command += ["--out", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="--data: expected held-out labels below 9, got 9; shuffle images"):
        run_train(build_parser().parse_args(command), "critjax train")
    assert not (tmp_path / "run").exists()


def test_held_out_labels_go_with_their_images():
    """Three batches, the last one short; images of grey k, answers min(k, 7)."""
    labels = np.random.default_rng(0).permutation(10)
    images = np.broadcast_to(labels[:, None, None, None].astype(np.float32), (10, 4, 4, 1))

    def answer(x, sigma, label):
        return jnp.broadcast_to(jnp.minimum(label, 7)[:, None, None, None], x.shape)

    found = held_out_loss(answer, images, (0.5,), labels=labels, batch_size=4)
    np.testing.assert_allclose(found, [[0.5, np.std([1, 4, *8 * [0]], ddof=1) / np.sqrt(10)]], rtol=1e-6)
    for wrong in (labels[:-1], labels.astype(float), labels[:, None]):
        with pytest.raises(ValueError, match="labels: expected 10 integers, got"):
            held_out_loss(answer, images, (0.5,), labels=wrong)


def test_held_out_losses_of_a_network_that_is_told_the_class(tmp_path, capsys):
    """By the network's own denoiser, image by image; the log holds both losses."""
    run = tmp_path / "run"
    start = dataclasses.replace(LABELLED, width=4, num_classes=10)
    save_network(tmp_path / "start.safetensors", start, random_parameters(start), {})
    command = ["train", "--from", str(tmp_path / "start.safetensors"), "--num-images", "60", "--no-progress"]
    command += ["--num-steps", "1", "--batch-size", "2", "--sample-steps", "1", "--out", str(run)]
    options = build_parser().parse_args(command)
    assert run_train(options, "critjax train") == 0
    assert "6 images, then told the class" in capsys.readouterr().out
    stored, held_out = load_network(run / "network.safetensors"), load_training_data(options)[1]
    for name, told in (("held_out_loss", False), ("held_out_loss_with_class", True)):
        for index, sigma in ((3, 0.5), (5, 2.0)):
            # The noise of the first batch of this level.
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), index), 0)
            noise = np.asarray(jax.random.normal(key, held_out.images.shape, jnp.float32))
            losses = []
            for image, label, n in zip(held_out.images, held_out.labels, noise, strict=True):
                denoise = network_denoiser(stored.config, stored.params, int(label) if told else None)
                losses.append(np.mean((denoise(image + np.float32(sigma) * n, sigma) - image) ** 2))
            assert stored.info[name][index][:2] == pytest.approx([sigma, np.mean(losses)], rel=1e-4)
    without, told = (np.array(stored.info[n]) for n in ("held_out_loss", "held_out_loss_with_class"))
    assert np.all(np.abs(told / without - 1)[[3, 5], 1] > 1e-3)


def test_the_progress_line(tmp_path, monkeypatch, capsys):
    taken(["train", "--num-images", "30", "--out", str(tmp_path / "run")], monkeypatch)
    before, first, last = capsys.readouterr().err.split("\r")
    assert before == "compiling the training step"
    assert first.rstrip() == "step 1 of 3, loss 0.5000"
    assert last.rstrip() == "step 3 of 3, loss 0.2500, 0.0 min left"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: TrainingConfig(num_steps=0), "num_steps: expected an integer >= 1"),
        (lambda: TrainingConfig(ema_decay=1.0), "ema_decay: expected"),
        (
            lambda: train(LOCAL, TrainingConfig(), np.zeros((4, 8, 8, 3), np.float32)),
            "images: expected 1 channels",
        ),
        (lambda: train(LOCAL, TrainingConfig(), *crops(4)), "labels: expected none for an unconditional"),
        (lambda: train(LABELLED, TrainingConfig(), crops(4)[0]), "labels: expected labels of 3 classes"),
        (
            lambda: train(LABELLED, TrainingConfig(), crops(4)[0], np.full(4, 7)),
            "labels: expected one of 0 ... 2",
        ),
    ],
)
def test_wrong_input_is_refused_with_its_reason(build, words):
    with pytest.raises(ValueError, match=words):
        build()
