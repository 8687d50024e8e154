"""The classifier: its network written out, training that repeats, calibration, stored weights, messages."""

import dataclasses
import functools
import json
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_networks import random_parameters

from critjax import cli
from critjax.data import embedded_fashion_mnist, load_fashion_mnist
from critjax.networks import (
    Classifier,
    ClassifierConfig,
    ClassifierTraining,
    NetworkConfig,
    classifier_features,
    classifier_logits,
    classify,
    evaluate_classifier,
    expected_calibration_error,
    fit_temperature,
    init_classifier,
    load_classifier,
    save_classifier,
    save_network,
    shipped_classifiers,
    shipped_networks,
    train_classifier,
)
from critjax.networks._classifier_training import augment, classification_loss
from critjax.networks._step import summed_gradient

SMALL = ClassifierConfig(image_shape=(4, 6, 3), widths=(6, 8), num_classes=3)
TOY = ClassifierConfig(image_shape=(8, 8, 1), widths=(8, 8), num_classes=3)
SHIPPED = json.loads(
    resources.files("critjax.networks").joinpath("classifiers", "fashion-classifier.json").read_text("utf-8")
)


def random_classifier(config=SMALL, temperature=1.7):
    """All parameters drawn, none at its start, in float64."""
    shapes = jax.eval_shape(functools.partial(init_classifier, config), jax.random.key(0))
    rng = np.random.default_rng(1)

    def draw(a):
        inputs, noise = np.prod(a.shape[:-1]), rng.normal(size=(2, *a.shape))
        starts = {1: 0.5, 3: 1 / inputs}  # scales and shifts; the mean over pixels
        return starts.get(a.ndim, noise[1] / np.sqrt(inputs)) + 0.3 * noise[0]

    return Classifier(config, jax.tree.map(draw, shapes), temperature, {})


def toy_images(count, seed=0):
    """Stripes along x, stripes along y, and neither, among noise: classes that are known."""
    rng = np.random.default_rng(seed)
    wave, labels = np.where(np.arange(8) % 4 < 2, 0.8, -0.8), np.arange(count) % 3
    patterns = np.stack([np.tile(wave, (8, 1)), np.tile(wave[:, None], (1, 8)), np.zeros((8, 8))])
    images = patterns[labels] + 0.2 * rng.normal(size=(count, 8, 8))
    return images[..., None].astype(np.float32), labels


def write_out(classifier, images):
    """The network by loops over pixels, in numpy."""
    config, params = classifier.config, classifier.params
    result = []
    for x in np.asarray(images):
        for index in range(len(config.widths)):
            stage = jax.tree.map(np.asarray, params["stages"][str(index)])
            if index > 0:
                x = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
            height, width, _ = x.shape
            h = np.zeros((height, width, config.widths[index])) + stage["spread"]["bias"]
            for i, j, a, b in np.ndindex(height, width, 3, 3):
                if 0 <= i + a - 1 < height and 0 <= j + b - 1 < width:
                    h[i, j] += x[i + a - 1, j + b - 1] @ stage["spread"]["kernel"][a, b]
            groups = {6: 2, 8: 8}[config.widths[index]]
            for part in np.split(np.arange(config.widths[index]), groups):
                own = h[..., part]
                h[..., part] = (own - own.mean()) / np.sqrt(own.var() + 1e-6)
            h = h * stage["scale"] + stage["shift"]
            x = h / (1 + np.exp(-h))
        result.append(np.sum(x * np.asarray(params["pool"]), axis=(0, 1)))
    features = np.array(result)
    logits = features @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    powers = np.exp(logits / classifier.temperature)
    return features, powers / powers.sum(axis=1, keepdims=True)


def test_features_and_probabilities_against_loops():
    classifier = random_classifier()
    images = np.random.default_rng(2).normal(size=(3, 4, 6, 3))
    features, probabilities = write_out(classifier, images)
    np.testing.assert_allclose(classifier_features(classifier, images), features, rtol=1e-10)
    np.testing.assert_allclose(classify(classifier, images), probabilities, rtol=1e-10)
    np.testing.assert_allclose(np.sum(classify(classifier, images), axis=1), 1, rtol=1e-12)
    short = classify(classifier, images.astype(np.float32))
    assert short.dtype == np.float32
    np.testing.assert_allclose(short, probabilities, rtol=1e-3)


def test_gradient_with_respect_to_images():
    """The response of a reverse-mode susceptibility, for the shipped weights; forward mode agrees."""
    classifier = load_classifier()
    images = embedded_fashion_mnist(2).images.astype(np.float64)
    direction, h = np.random.default_rng(3).normal(size=images.shape), 1e-5

    def response(x):
        return classify(classifier, x)[np.arange(2), np.array([3, 4])].sum()

    @jax.jit
    def run(x, v):
        values = jax.lax.map(response, jnp.stack([x + h * v, x - h * v]))
        return values, jnp.sum(jax.grad(response)(x) * v), jax.jvp(response, (x,), (v,))[1]

    (ahead, behind), slope, along = run(images, direction)
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(along, slope, rtol=1e-9)


def test_loss_with_smoothed_labels_and_its_fast_gradient():
    classifier = random_classifier(temperature=1.0)
    images = np.random.default_rng(4).normal(size=(6, 4, 6, 3))  # two parts of three
    labels, smoothing, h = np.array([0, 1, 2, 2, 1, 0]), 0.1, 1e-5
    _, probabilities = write_out(classifier, images)
    wanted = np.full((6, 3), smoothing / 3)
    wanted[np.arange(6), labels] += 1 - smoothing
    expected = -np.mean(np.sum(wanted * np.log(probabilities), axis=1))

    def loss(params, images, labels):
        return classification_loss(SMALL, smoothing, params, images, labels)

    @jax.jit
    def run(params, images, labels):
        moved = jax.lax.map(
            lambda s: loss(jax.tree.map(lambda p: p + s, params), images, labels), np.array([h, -h])
        )
        return summed_gradient(loss, params, (images, labels)), moved

    (value, gradient), losses = run(classifier.params, images, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    slope = sum(np.sum(g) for g in jax.tree.leaves(gradient))
    np.testing.assert_allclose(slope, (losses[0] - losses[1]) / (2 * h), rtol=1e-6)


def test_augmentation_mirrors_moves_and_adds_noise():
    images = np.random.default_rng(5).normal(size=(64, 5, 4, 2))

    @jax.jit
    def run(images, key):
        return (
            augment(images, key, flip=True, shift=0, noise_std=0.0),
            augment(images, key, flip=False, shift=1, noise_std=0.0),
            augment(jnp.zeros((4000, 5, 4, 2)), key, flip=False, shift=0, noise_std=0.3),
        )

    mirrored, shifted, noise = map(np.asarray, run(images, jax.random.key(0)))
    is_same = np.array([np.array_equal(a, b) for a, b in zip(images, mirrored, strict=True)])
    turned = [np.array_equal(a[:, ::-1], b) for a, b in zip(images, mirrored, strict=True)]
    np.testing.assert_array_equal(is_same, np.logical_not(turned))
    assert 16 < is_same.sum() < 48  # four standard deviations about a half
    seen = set()
    for image, other in zip(images, shifted, strict=True):
        fits = []
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                rows, columns = np.clip(np.arange(5) + a, 0, 4), np.clip(np.arange(4) + b, 0, 3)
                if np.array_equal(image[rows][:, columns], other):
                    fits.append((a, b))
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) == 9
    levels = noise.std(axis=(1, 2, 3))
    # Levels even in [0, 0.3]: mean square 0.03; that of 4000 draws is known to 2 per cent.
    np.testing.assert_allclose(np.mean(noise**2), 0.03, rtol=0.08)
    assert levels.min() < 0.01 and 0.25 < levels.max() < 0.45


def test_training_learns_known_classes_and_repeats_bitwise():
    images, labels = toy_images(90)
    training = ClassifierTraining(
        num_steps=60, batch_size=12, learning_rate=2e-2, warmup_steps=5, ema_decay=0.8, flip=False
    )
    seen = []
    result = train_classifier(TOY, training, images, labels, log_every=20, progress=lambda *a: seen.append(a))
    assert [s[:2] for s in seen] == [(1, 60), (20, 60), (40, 60), (60, 60)]
    assert np.isnan(seen[0][3]) and seen[-1][3] == 0
    np.testing.assert_array_equal(result.losses[:, 0], [20, 40, 60])
    assert result.losses[-1, 1] < 0.3 * result.losses[0, 1]
    judged = evaluate_classifier(Classifier(TOY, result.params, 1.0, {}), *toy_images(60, seed=1))
    assert judged.accuracy == 1.0 and judged.accuracy_error == 0.0
    again = train_classifier(TOY, training, images, labels, log_every=20)
    other = train_classifier(TOY, dataclasses.replace(training, seed=1), images, labels, log_every=20)
    for a, b, c in zip(*map(jax.tree.leaves, (result.params, again.params, other.params)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.any(np.asarray(a) != np.asarray(c))


def test_a_training_that_loses_its_way_stops():
    images, labels = toy_images(12)
    images[3] = np.nan
    with pytest.raises(ValueError, match="training: expected a finite loss, got nan at step"):
        train_classifier(TOY, ClassifierTraining(num_steps=6, batch_size=12), images, labels, log_every=3)


def test_evaluation_against_loops():
    classifier = random_classifier()
    rng = np.random.default_rng(6)
    images, labels = rng.normal(size=(21, 4, 6, 3)).astype(np.float32), rng.integers(0, 3, 21)
    report = evaluate_classifier(classifier, images, labels, batch_size=8)
    _, probabilities = write_out(classifier, images)
    confusion, losses = np.zeros((3, 3), int), []
    for row, label in zip(probabilities, labels, strict=True):
        confusion[label, np.argmax(row)] += 1
        losses.append(-np.log(row[label]))
    np.testing.assert_array_equal(report.confusion, confusion)
    right = np.trace(confusion) / 21
    assert report.accuracy == right
    assert report.accuracy_error == pytest.approx(np.sqrt(right * (1 - right) / 21), rel=1e-12)
    assert report.negative_log_likelihood == pytest.approx(np.mean(losses), rel=1e-4)
    spread = np.sqrt(np.sum((losses - np.mean(losses)) ** 2) / 20 / 21)
    assert report.negative_log_likelihood_error == pytest.approx(spread, rel=1e-4)
    expected = expected_calibration_error(probabilities, labels)
    assert report.calibration_error == pytest.approx(expected, abs=1e-4)


# Shipped weights -------------------------------------------------------------------------------------------


def test_the_shipped_classifier_is_as_good_as_its_record_says():
    classifier = load_classifier("fashion-classifier")
    record = SHIPPED["test"]
    assert record["accuracy"] >= 0.91 and record["images"] == 10_000
    assert record["negative_log_likelihood"] < record["negative_log_likelihood_before"]
    assert np.trace(record["confusion"]) == round(record["accuracy"] * 10_000)
    assert classifier.temperature == SHIPPED["temperature"] == classifier.info["temperature"]
    assert json.loads(classifier.config.to_json()) == SHIPPED["config"]
    found = embedded_fashion_mnist()
    report = evaluate_classifier(classifier, found.images, found.labels)
    # Most of these it has seen, so it does no worse on them than on new ones, but for chance.
    assert report.accuracy > record["accuracy"] - 4 * np.sqrt(record["accuracy"] * 0.09 / 1000)
    assert report.confusion.sum() == 1000 and report.calibration_error < 0.05


@pytest.mark.slow
def test_the_shipped_classifier_repeats_its_record_on_all_test_images():
    try:
        found = load_fashion_mnist("test")
    except FileNotFoundError:
        pytest.skip("Fashion-MNIST is not installed")
    report = evaluate_classifier(load_classifier(), found.images, found.labels)
    record = SHIPPED["test"]
    assert report.accuracy == pytest.approx(record["accuracy"], abs=5e-4)  # rounding tips a few images
    assert report.negative_log_likelihood == pytest.approx(record["negative_log_likelihood"], abs=1e-4)
    assert report.calibration_error == pytest.approx(record["calibration_error"], abs=1e-3)


def test_classifiers_and_denoisers_are_listed_apart():
    assert "fashion-classifier" in shipped_classifiers()
    assert "fashion-classifier" not in shipped_networks() and "local-11" in shipped_networks()


def test_storage_and_its_failures(tmp_path):
    classifier, path = random_classifier()._replace(info={"seed": 4}), tmp_path / "a.safetensors"
    save_classifier(path, classifier)
    stored = load_classifier(path)
    assert stored.config == SMALL and stored.temperature == 1.7 and stored.info == {"seed": 4}
    for a, b in zip(jax.tree.leaves(classifier.params), jax.tree.leaves(stored.params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FileNotFoundError, match=r"classifier: expected a name or .*: fashion-classifier"):
        load_classifier(tmp_path / "none.safetensors")
    save_classifier(path, classifier._replace(config=dataclasses.replace(SMALL, num_classes=4)))
    with pytest.raises(ValueError, match=r"params\['head'\].*pass weights of this config"):
        load_classifier(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="classifier: expected a whole safetensors file"):
        load_classifier(path)
    config = NetworkConfig(width=4, dilations=(1,))
    save_network(path, config, random_parameters(config))
    with pytest.raises(ValueError, match="classifier: expected weights of a classifier"):
        load_classifier(path)


def test_the_command_trains_calibrates_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "configure_jax", lambda precision: None)  # this process keeps its precision
    images, labels = toy_images(200)
    images[::7] += np.random.default_rng(1).normal(size=images[::7].shape)  # or none would be wrong
    np.savez(tmp_path / "toy.npz", images=np.clip(images, -1, 1), labels=labels)
    command = [
        "train-classifier",
        "--data",
        str(tmp_path / "toy.npz"),
        "--num-images",
        "200",
        "--widths",
        "4,4",
    ]
    command += [
        "--num-steps",
        "8",
        "--batch-size",
        "12",
        "--num-held-out",
        "60",
        "--no-flip",
        "--no-progress",
    ]
    command += ["--warmup-steps", "2", "--learning-rate", "0.02", "--ema-decay", "0.5"]
    command += ["--out", str(tmp_path / "run")]
    assert cli.main(command) == 0
    assert "accuracy" in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "classifier.json").read_text("utf-8"))
    stored = load_classifier(tmp_path / "run" / "classifier.safetensors")
    assert record["command"].startswith("critjax train-classifier --data")
    assert record["training"]["flip"] is False and record["config"]["widths"] == [4, 4]
    assert (record["held_out"]["images"], record["test"]["images"]) == (60, 20)
    assert "the first 120 of 180" in record["data"]
    # The temperature is that of the held-out images, which are the last of the training images.
    bare = stored._replace(temperature=1.0)
    held_out = np.clip(images, -1, 1)[120:180], labels[120:180]
    fitted = fit_temperature(classifier_logits(bare, held_out[0]), held_out[1])
    assert stored.temperature == pytest.approx(fitted, rel=1e-3)
    report = evaluate_classifier(stored, np.clip(images, -1, 1)[180:], labels[180:])
    assert record["test"]["accuracy"] == pytest.approx(report.accuracy, abs=1e-6)
    assert cli.main(command) == 2
    assert "--out: expected a folder without a finished classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ClassifierConfig(widths=()), "widths: expected one or more integers"),
        (lambda: ClassifierConfig(image_shape=(28, 28)), r"image_shape: expected \(H, W, C\)"),
        (lambda: ClassifierConfig(image_shape=(30, 28, 1)), "image_shape: expected sides that 4 divides"),
        (lambda: ClassifierConfig(num_classes=1), "num_classes: expected an integer >= 2"),
        (lambda: ClassifierConfig.from_json('{"depth": 3}'), "config: expected known option names"),
        (lambda: ClassifierTraining(num_steps=0), "num_steps: expected an integer >= 1"),
        (lambda: ClassifierTraining(learning_rate=0.0), "learning_rate: expected a finite number > 0"),
        (lambda: ClassifierTraining(noise_std=-0.1), "noise_std: expected a number >= 0"),
        (lambda: ClassifierTraining(label_smoothing=1.0), r"label_smoothing: expected a number in \[0, 1\)"),
        (
            lambda: classify(random_classifier(), np.zeros((2, 6, 4, 3))),
            r"images: expected 4 x 6 x 3 \(H x W x C\) each, got 6 x 4 x 3",
        ),
        (
            lambda: classifier_features(random_classifier(), np.zeros((4, 6, 3))),
            r"images: expected shape \(B, H, W, C\)",
        ),
        (
            lambda: train_classifier(TOY, ClassifierTraining(), *toy_images(4)[:1], np.array([0, 1, 2, 3])),
            "labels: expected one of 0 ... 2 for each of 4 images",
        ),
        (
            lambda: fit_temperature(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 1])),
            "logits: expected a best temperature from 0.05 to 20.0",
        ),
        (
            lambda: classifier_logits(random_classifier(), np.zeros((0, 4, 6, 3))),
            "images: expected one or more, got 0",
        ),
        (
            lambda: classifier_logits(random_classifier(), np.zeros((2, 4, 6, 3)), batch_size=0),
            "batch_size: expected an integer >= 1, got 0",
        ),
        (
            lambda: train_classifier(TOY, ClassifierTraining(), *toy_images(4), log_every=0),
            "log_every: expected an integer >= 1, got 0",
        ),
        (lambda: fit_temperature(np.zeros((3, 2)), np.array([0, 2, 1])), "labels: expected one of 0 ... 1"),
        (
            lambda: expected_calibration_error(np.full((1, 2), 0.5), np.array([0]), num_bins=0),
            "num_bins: expected an integer >= 1, got 0",
        ),
        (
            lambda: evaluate_classifier(random_classifier(), np.zeros((1, 4, 6, 3)), np.array([0])),
            "images: expected two or more",
        ),
    ],
)
def test_wrong_input_is_refused_with_its_reason(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_images_of_integers_are_refused():
    with pytest.raises(TypeError, match="images: expected a floating-point array, got dtype int"):
        classify(random_classifier(), np.zeros((2, 4, 6, 3), int))
