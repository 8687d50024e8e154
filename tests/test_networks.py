"""Networks: exact locality and equivariance, gradients, what training achieves, weights on disk."""

import argparse
import dataclasses
import functools
import importlib.util
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.cli import build_parser
from critjax.cli._train import load_training_data as training_data
from critjax.cli._train import run_train
from critjax.data import embedded_fashion_mnist
from critjax.networks import (
    NetworkConfig,
    TrainingConfig,
    apply,
    convolve,
    held_out_loss,
    init,
    load_network,
    network_denoiser,
    save_network,
    shipped_networks,
    train,
)
from critjax.networks._blocks import group_norm
from critjax.networks._training import _gradient as batch_gradient
from critjax.networks._training import loss

TOOLS = Path(__file__).resolve().parents[1] / "tools"
LOCAL = NetworkConfig(width=6, dilations=(1, 2), padding="periodic")
WIDE = dataclasses.replace(LOCAL, stem=5, dilations=(1,), norms=1)
UNET = NetworkConfig(
    architecture="unet", width=4, multipliers=(1, 2), blocks=1, num_classes=3, attention=True
)


def random_parameters(config, seed=0, scale=0.3):
    """Weights without the zeros of the start, in float64."""
    params = jax.jit(init, static_argnums=0)(config, jax.random.key(seed))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    drawn = [
        a + scale * jax.random.normal(k, a.shape, jnp.float64) for a, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


@pytest.mark.parametrize("outputs", [4, 7])  # windows unfolded by rows, and whole
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("padding", ["zero", "periodic"])
@pytest.mark.parametrize("dilation", [1, 2, 7])  # 7: taps beyond the image
def test_convolution_against_loops(padding, dilation, size, outputs):
    rng = np.random.default_rng(0)
    channels, reach = 6 // (size - 1), size // 2
    x, kernel = rng.normal(size=(2, 7, 6, channels)), rng.normal(size=(size, size, channels, outputs))
    expected = np.zeros((2, 7, 6, outputs))
    for i, j, a, b in itertools.product(range(7), range(6), range(size), range(size)):
        y, z = i + dilation * (a - reach), j + dilation * (b - reach)
        if padding == "periodic" or (0 <= y < 7 and 0 <= z < 6):
            expected[:, i, j] += x[:, y % 7, z % 6] @ kernel[a, b]
    found = convolve(jnp.asarray(x), jnp.asarray(kernel), padding=padding, dilation=dilation)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("outputs", [4, 7])
@pytest.mark.parametrize("padding", ["zero", "periodic"])
def test_derivatives_of_the_convolution_are_those_of_the_stock_one(padding, outputs):
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = ((2, 7, 6, 3), (3, 3, 3, outputs), (2, 7, 6, 3), (3, 3, 3, outputs), (2, 7, 6, outputs))
    x, kernel, dx, dkernel, cotangent = (
        jax.random.normal(k, s, jnp.float64) for k, s in zip(keys, shapes, strict=True)
    )

    def stock(x, kernel):
        padded = jnp.pad(
            x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="wrap" if padding == "periodic" else "constant"
        )
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            padded, kernel, (1, 1), "VALID", rhs_dilation=(2, 2), dimension_numbers=layout
        )

    def derivatives(function):
        value, forward = jax.jvp(function, (x, kernel), (dx, dkernel))
        return value, forward, jax.vjp(function, x, kernel)[1](cotangent)

    found = jax.jit(lambda: derivatives(functools.partial(convolve, padding=padding, dilation=2)))()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(derivatives(stock)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize(
    "config",
    [LOCAL, dataclasses.replace(LOCAL, padding="zero"), dataclasses.replace(WIDE, padding="zero"), UNET],
)
def test_gradient_of_the_loss_against_finite_differences(config):
    params = random_parameters(config)
    x0 = jax.random.normal(jax.random.key(2), (6, 8, 8, 1), jnp.float64)
    sigma, noise = jnp.geomspace(0.1, 3.0, 6), jax.random.normal(jax.random.key(3), x0.shape, jnp.float64)
    label = jnp.array([0, 1, 2, -1, 0, 1]) if config.num_classes else None

    @jax.jit
    def value(params):
        """Karras et al.'s loss, written out."""
        level = sigma[:, None, None, None]
        weight = (level**2 + config.sigma_data**2) / (level * config.sigma_data) ** 2
        return jnp.mean(weight * (apply(config, params, x0 + level * noise, sigma, label) - x0) ** 2)

    gradient = jax.jit(jax.grad(lambda p: loss(config, p, x0, sigma, noise, label)))(params)
    direction, step = random_parameters(config, seed=5), 1e-5
    ahead, behind = (jax.tree.map(lambda p, d, s=s: p + s * d, params, direction) for s in (step, -step))
    slope = (value(ahead) - value(behind)) / (2 * step)
    along = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    np.testing.assert_allclose(along, slope, rtol=1e-6)


def test_the_gradient_of_a_batch_is_summed_over_its_parts():
    params = random_parameters(UNET)
    x0 = jax.random.normal(jax.random.key(2), (6, 8, 8, 1), jnp.float64)  # two parts of three
    sigma, noise = jnp.geomspace(0.1, 3.0, 6), jax.random.normal(jax.random.key(3), x0.shape, jnp.float64)
    batch = (x0, sigma, noise, jnp.array([0, 1, 2, -1, 0, 1]))
    value, gradient = jax.jit(lambda p: batch_gradient(UNET, p, batch))(params)
    expected, slopes = jax.jit(jax.value_and_grad(lambda p: loss(UNET, p, *batch)))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * np.abs(b).max() + 1e-14)


def test_training_data_is_the_whole_set_and_never_the_embedded_thousand(monkeypatch):
    asked = []
    monkeypatch.setattr("critjax.data.load_fashion_mnist", lambda split: asked.append(split) or split)
    assert training_data(argparse.Namespace(data="fashion-mnist", num_images=None)) == ("train", "test")
    assert asked == ["train", "test"]
    fit, held_out = training_data(argparse.Namespace(data="fashion-mnist", num_images=40))
    assert len(fit.images) == 36 and len(held_out.images) == 4


@pytest.mark.parametrize(("config", "channels"), [(LOCAL, 1), (WIDE, 1), (WIDE, 3)])
@pytest.mark.parametrize("padding", ["zero", "periodic"])
def test_a_local_network_pixel_by_pixel(config, channels, padding):
    """The whole network in numpy, one window at a time."""
    config = dataclasses.replace(config, padding=padding, channels=channels)
    params = jax.tree.map(np.asarray, random_parameters(config))
    x = np.random.default_rng(9).normal(size=(7, 6, channels))
    sigma = 0.7

    def silu(a):
        return a / (1 + np.exp(-a))

    def norm(a):
        return a / np.sqrt(np.mean(a**2, -1, keepdims=True) + 1e-6)

    def affine(layer, a):
        return a @ layer["kernel"].reshape(-1, layer["kernel"].shape[-1]) + layer["bias"]

    def convolution(layer, a, dilation):
        reach = dilation * (len(layer["kernel"]) // 2)
        mode = {"mode": "wrap"} if padding == "periodic" else {"constant_values": 0}
        padded = np.pad(a, ((reach, reach), (reach, reach), (0, 0)), **mode)
        window = slice(0, 2 * reach + 1, dilation)
        rows = [[padded[i:, j:][window, window].ravel() for j in range(6)] for i in range(7)]
        return affine(layer, np.array(rows))

    total = np.hypot(sigma, config.sigma_data)
    frequencies, level = np.geomspace(0.5, 8, 16), np.log(sigma) / 4
    waves = np.concatenate([np.sin(level * frequencies), np.cos(level * frequencies), [level]])
    told = params["condition"]
    vector = silu(affine(told["second"], silu(affine(told["first"], waves))))
    h = x / total
    if config.stem > 1:
        h = np.concatenate([h, np.ones((7, 6, 1))], -1)
    h = convolution(params["stem"], h, 1)
    for number, dilation in enumerate(config.dilations):
        block = params["blocks"][str(number)]
        scale, shift = np.split(affine(block["condition"], vector), 2)
        inner = norm(convolution(block["spread"], norm(h) if config.norms == 2 else h, dilation))
        inner = silu(affine(block["expand"], silu(inner * (1 + scale) + shift)))
        h = h + affine(block["contract"], inner)
    expected = x * (config.sigma_data / total) ** 2
    expected = expected + affine(params["head"], silu(norm(h))) * sigma * config.sigma_data / total
    found = jax.jit(network_denoiser(config, params))(jnp.asarray(x), sigma)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("config", [LOCAL, WIDE])
@pytest.mark.parametrize("padding", ["zero", "periodic"])
def test_a_local_network_sees_its_receptive_field_and_no_more(config, padding):
    config = dataclasses.replace(config, padding=padding)
    assert config.receptive_field == 7
    denoise = network_denoiser(config, random_parameters(config))
    side = 10
    x = jax.random.normal(jax.random.key(4), (side, side, 1), jnp.float64)
    jacobian = np.asarray(jax.jit(jax.jacfwd(lambda x: denoise(x, 0.7)))(x))[..., 0, :, :, 0]
    offset = np.abs(np.arange(side)[:, None] - np.arange(side)[None, :])
    if padding == "periodic":
        offset = np.minimum(offset, side - offset)
    far = np.maximum(offset[:, None, :, None], offset[None, :, None, :])
    assert np.all(jacobian[far > 3] == 0)
    assert np.all(jacobian[far == 3] != 0)


@pytest.mark.parametrize("config", [LOCAL, WIDE])
def test_a_periodic_local_network_commutes_with_shifts(config):
    params = random_parameters(config)
    denoise = jax.jit(network_denoiser(config, params))
    x = jax.random.normal(jax.random.key(5), (9, 8, 1), jnp.float64)
    for shift in ((1, 0), (3, 5)):
        moved = jnp.roll(x, shift, (0, 1))
        np.testing.assert_allclose(denoise(moved, 0.4), jnp.roll(denoise(x, 0.4), shift, (0, 1)), atol=1e-12)
    unpadded = jax.jit(network_denoiser(dataclasses.replace(config, padding="zero"), params))
    moved = unpadded(jnp.roll(x, 3, 0), 0.4) - jnp.roll(unpadded(x, 0.4), 3, 0)
    assert np.abs(moved).max() > 1e-3  # so the test above can fail


@pytest.mark.parametrize("config", [LOCAL, UNET])
def test_preconditioning_in_its_limits(config):
    """Untrained, D = c_skip x; for any weights D -> x as sigma -> 0, and no x is left at large sigma."""
    x = jax.random.normal(jax.random.key(6), (3, 8, 8, 1), jnp.float64)
    sigma = jnp.array([0.1, 0.5, 5.0])
    run = jax.jit(lambda params, x, sigma: apply(config, params, x, sigma))
    found = run(init(config, jax.random.key(0)), x, sigma)
    np.testing.assert_allclose(found, x * (0.25 / (0.25 + sigma**2))[:, None, None, None], atol=1e-12)
    params = random_parameters(config)
    small = run(params, x, jnp.full(3, 1e-6))
    np.testing.assert_allclose(small, x, atol=1e-3)
    huge = run(params, 1e6 * x, jnp.full(3, 1e6))
    assert np.abs(huge).max() < 100


def test_labels_matter_and_none_is_a_class_of_its_own():
    params = random_parameters(UNET)
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(7), (8, 8, 1), jnp.float64), (4, 8, 8, 1))
    sigma = jnp.full(4, 0.5)
    found = jax.jit(lambda label: apply(UNET, params, x, sigma, label))(jnp.array([0, 1, 2, -1]))
    assert min(np.abs(found[i] - found[j]).max() for i in range(4) for j in range(i)) > 1e-4
    for label, row in ((1, 1), (None, 3)):
        denoise = jax.jit(network_denoiser(UNET, params, label))
        np.testing.assert_allclose(denoise(x[0], 0.5), found[row], atol=1e-12)
    traced = jax.jit(jax.vmap(lambda label: network_denoiser(UNET, params, label)(x[0], 0.5)))(jnp.arange(3))
    np.testing.assert_allclose(traced, found[:3], atol=1e-12)


def test_a_unet_without_attention_is_one_whose_attention_adds_nothing():
    plain = dataclasses.replace(UNET, attention=False)
    params = random_parameters(UNET)
    assert set(jax.eval_shape(lambda: init(plain, jax.random.key(0)))) == set(params) - {"attention"}
    x, sigma = jax.random.normal(jax.random.key(8), (2, 8, 6, 1), jnp.float64), jnp.array([0.3, 2.0])
    without = {name: value for name, value in params.items() if name != "attention"}
    found = jax.jit(lambda p: apply(plain, p, x, sigma))(without)
    run = jax.jit(lambda p: apply(UNET, p, x, sigma))
    assert np.abs(run(params) - found).max() > 1e-3
    params["attention"]["merge"] = jax.tree.map(jnp.zeros_like, params["attention"]["merge"])
    np.testing.assert_allclose(found, run(params), atol=1e-12)


def crops(count=64, side=8):
    found = embedded_fashion_mnist()
    return np.asarray(found.images[:count, 10 : 10 + side, 10 : 10 + side], np.float32), found.labels[
        :count
    ] % 3


def test_a_run_starts_from_stored_weights_and_takes_their_architecture(tmp_path):
    images, _ = crops(30)
    np.save(tmp_path / "images.npy", images)
    params, path = random_parameters(LOCAL), str(tmp_path / "first.safetensors")
    save_network(path, LOCAL, params, {"command": "the first"})
    # Adam's first step moves every parameter by at most its rate: after one tiny step the weights are still those.
    command = [
        "train",
        "--data",
        str(tmp_path / "images.npy"),
        "--from",
        path,
        "--out",
        str(tmp_path / "run"),
    ]
    command += ["--num-steps", "1", "--learning-rate", "1e-6", "--batch-size", "2", "--no-progress"]
    assert run_train(build_parser().parse_args(command), "critjax train") == 0
    found = load_network(tmp_path / "run" / "network.safetensors")
    assert found.config == LOCAL and found.info["training"]["start"] == path
    assert found.info["earlier"] == {"command": "the first"} and len(found.info["losses"]) == 1
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    with pytest.raises(ValueError, match=r"--from: expected no options of the architecture, got --width"):
        run_train(build_parser().parse_args([*command, "--width", "4"]), "critjax train")
    with pytest.raises(ValueError, match="start: expected a network with"):
        train(UNET, TrainingConfig(num_steps=1, batch_size=2, start=path), *crops(8))
    with pytest.raises(
        ValueError, match=r"checkpoint: expected one of the same settings, got one with start = "
    ):
        train(
            LOCAL,
            TrainingConfig(num_steps=1, batch_size=2, learning_rate=1e-6),
            images,
            folder=tmp_path / "run",
        )


def test_weights_survive_storage(tmp_path):
    params = random_parameters(UNET)
    path = tmp_path / "net.safetensors"
    save_network(path, UNET, params, {"seed": 4})
    stored = load_network(path)
    assert stored.config == UNET and stored.info == {"seed": 4}
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(stored.params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FileNotFoundError, match="expected a name or a file of weights"):
        load_network(tmp_path / "none.safetensors")
    save_network(path, dataclasses.replace(UNET, width=8), params)
    with pytest.raises(ValueError, match="pass weights of this config"):
        load_network(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="a whole safetensors file"):
        load_network(path)


def test_training_lowers_the_held_out_loss():
    """Six seconds: far below the untrained network, c_skip x, at the noise where structure can be used."""
    images, _ = crops(400)
    config = NetworkConfig(width=12, dilations=(1, 1), sigma_data=float(images.std()))
    training = TrainingConfig(
        num_steps=150, batch_size=32, learning_rate=4e-3, warmup_steps=20, ema_decay=0.9
    )
    steps = []
    result = train(config, training, images[:300], log_every=50, progress=lambda *a: steps.append(a))
    assert [s[0] for s in steps] == [1, 50, 100, 150] and steps[-1][3] == 0
    losses = {}
    for name, params in (("start", init(config, jax.random.key(0))), ("end", result.params)):
        losses[name] = held_out_loss(lambda x, s, p=params: apply(config, p, x, s), images[300:], (0.5, 1.0))
    assert np.all(losses["end"][:, 0] < 0.75 * losses["start"][:, 0])
    # The untrained loss in closed form: D = c x, c = s_d^2/(s^2 + s_d^2).
    c = config.sigma_data**2 / (np.array([0.25, 1.0]) + config.sigma_data**2)
    expected = (1 - c) ** 2 * np.mean(images[300:] ** 2) + c**2 * np.array([0.25, 1.0])
    np.testing.assert_allclose(losses["start"][:, 0], expected, rtol=0.03)


def small_run(folder, images):
    """Store images and return the command that trains a network of one block on them."""
    np.save(folder / "images.npy", images)
    return [
        *("train", "--data", str(folder / "images.npy"), "--out", str(folder / "run")),
        *("--width", "4", "--dilations", "1"),
    ]


@pytest.mark.parametrize(("mean", "std"), [(0.7, 1e-6), (-0.3, 0.4)])
def test_the_loss_and_its_noise_are_those_of_karras(mean, std, tmp_path):
    """An untrained network is c x with c = s_d^2/(s^2 + s_d^2), whose error is known at every noise level."""
    images, _ = crops(64)
    command = small_run(tmp_path, images)
    command += ["--num-steps", "200", "--log-every", "200", "--batch-size", "32"]
    command += ["--log-noise-mean", str(mean), "--log-noise-std", str(std), "--learning-rate", "1e-12"]
    options = build_parser().parse_args([*command, "--no-progress"])
    assert run_train(options, "critjax train") == 0
    log = json.loads((tmp_path / "run" / "training.json").read_text())
    sigma_data = log["config"]["sigma_data"]
    normal, weights = np.polynomial.hermite_e.hermegauss(60)
    sigma = np.exp(mean + std * normal)
    square = np.mean(training_data(options)[0].images ** 2)
    error = (sigma**2 * square + sigma_data**4) * sigma**2 / (sigma**2 + sigma_data**2) ** 2
    expected = (
        np.sum(weights * error * (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2) / weights.sum()
    )
    # 6,400 noised images; whole images differ most, by the spread of their mean squares.
    assert log["losses"][0][1] == pytest.approx(expected, rel=0.03)


def test_weights_are_written_last_because_they_say_done(tmp_path, monkeypatch):
    images, _ = crops(30)
    command = small_run(tmp_path, images)
    command += ["--num-steps", "2", "--batch-size", "4", "--no-progress"]
    options = build_parser().parse_args(command)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("critjax.networks.save_network", killed)
        run_train(options, "critjax train")
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert kept == {"checkpoint.safetensors", "training.json", "samples.png"}
    assert run_train(options, "critjax train") == 0  # not finished: the same command goes on
    assert load_network(tmp_path / "run" / "network.safetensors").config.width == 4
    with pytest.raises(ValueError, match="--out: expected a folder without a finished network"):
        run_train(options, "critjax train")


@pytest.mark.parametrize("name", shipped_networks())
def test_shipped_weights_have_the_loss_that_is_stored_with_them(name):
    """At sigma = 1 on 48 embedded images, within four standard errors of both; damaged weights leave that bound."""
    stored = load_network(name)
    mean, error = next(row[1:] for row in stored.info["held_out_loss"] if row[0] == 1.0)
    clean = jnp.asarray(embedded_fashion_mnist().images[:48], jnp.float32)
    x = clean + jax.random.normal(jax.random.key(0), clean.shape, jnp.float32)
    sigma = jnp.ones(len(clean), jnp.float32)
    losses = jax.jit(lambda params: ((apply(stored.config, params, x, sigma) - clean) ** 2).mean((1, 2, 3)))

    def deviations(params):
        found = np.asarray(losses(params), np.float64)
        return (found.mean() - mean) / np.hypot(error, found.std(ddof=1) / np.sqrt(len(found)))

    assert abs(deviations(stored.params)) < 4
    head = jax.tree.map(lambda a: 1.5 * a, stored.params["head"])
    assert deviations({**stored.params, "head": head}) > 4


@pytest.mark.parametrize(
    ("name", "reach"), [("local-11", 5), ("local-15", 7), ("local-45", 22), ("unet-classes", None)]
)
def test_shipped_networks_see_as_far_as_they_say(name, reach):
    """Rows of the Jacobian of a middle pixel and of a corner, at an embedded image."""
    stored = load_network(name)
    assert stored.config.receptive_field == (None if reach is None else 2 * reach + 1)
    denoise = network_denoiser(stored.config, stored.params)
    image = jnp.asarray(embedded_fashion_mnist().images[0], jnp.float32)
    x = image + jax.random.normal(jax.random.key(0), image.shape, jnp.float32)
    row_of_jacobian = jax.jit(jax.grad(lambda x, row, column: denoise(x, jnp.float32(1.0))[row, column, 0]))
    for row, column in ((14, 13), (0, 27)):
        gradient = row_of_jacobian(x, row, column)[..., 0]
        offset = np.abs(np.arange(28) - row)[:, None], np.abs(np.arange(28) - column)[None, :]
        far = np.maximum(*offset)
        seen = np.asarray(gradient) != 0
        limit = 28 if reach is None else reach
        assert not np.any(seen[far > limit])
        assert np.mean(seen[far <= limit]) > 0.99


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: NetworkConfig(architecture="transformer"), "architecture: expected"),
        (lambda: NetworkConfig(dilations=()), "dilations: expected one or more integers"),
        (lambda: NetworkConfig(padding="mirror"), "padding: expected"),
        (lambda: NetworkConfig(stem=4), "stem: expected an odd side"),
        (lambda: NetworkConfig(norms=3), "norms: expected 1 or 2"),
        (lambda: NetworkConfig(norms=True), "norms: expected an integer"),
        (lambda: NetworkConfig(sigma_data=0.0), "sigma_data: expected a standard deviation > 0"),
        (lambda: NetworkConfig.from_json("{"), "config: expected a JSON object"),
        (lambda: NetworkConfig.from_json('{"depth": 3}'), "config: expected known option names"),
        (
            lambda: network_denoiser(UNET, init(UNET, jax.random.key(0)))(jnp.zeros((7, 8, 1)), 1.0),
            "sides that 2",
        ),
        (
            lambda: network_denoiser(LOCAL, init(UNET, jax.random.key(0)))(jnp.zeros((8, 8, 1)), 1.0),
            "this config",
        ),
        *(
            (
                lambda label=label: network_denoiser(UNET, {}, label),
                "label: expected an integer from 0 to 2, got",
            )
            for label in (3, -1, np.int64(7), jnp.int32(3), 1.0, jnp.array([0, 1]))
        ),
        (
            lambda: train(
                LOCAL, TrainingConfig(num_steps=1), np.zeros((9, 8, 8, 1), np.float32), log_every=0
            ),
            "log_every: expected a number of steps >= 1",
        ),
        (lambda: network_denoiser(LOCAL, {}, 0), "label: expected none for an unconditional network, got 0"),
    ],
)
def test_wrong_input_is_refused_with_its_reason(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def load_tool(name):
    path = TOOLS / f"{name}.py"
    if not path.exists():
        pytest.skip("tools/ is not part of this copy")
    spec = importlib.util.spec_from_file_location(name, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize("shift", [0, 1])
def test_classes_that_are_asked_for_are_recognised_in_real_images(shift, monkeypatch, capsys):
    """Two images of each class in turn, as samples; moved by one, hardly any is what was asked for."""
    script = load_tool("recognised")
    found = embedded_fashion_mnist()
    labels = np.asarray(found.labels)
    kept = [np.flatnonzero(labels == (i + shift) % 10)[i // 10] for i in range(20)]
    monkeypatch.setattr(
        script, "draw_samples", lambda *_, count, **__: np.asarray(found.images)[kept][:count]
    )
    assert script.main(["unet-classes", "--num", "20"]) == 0
    share, error = (float(word) for word in capsys.readouterr().out.split()[-3::2])
    assert share >= 0.8 if shift == 0 else share <= 0.15
    assert error == pytest.approx(np.sqrt(share * (1 - share) / 19), abs=1e-3)


@pytest.fixture
def frozen_norms(monkeypatch):
    script = load_tool("frozen_norms")
    for module in (script._architectures, script._blocks):
        monkeypatch.setattr(module, "group_norm", group_norm)  # which the script replaces
    return script


def test_frozen_norms_have_the_value_of_group_norms_and_the_derivative_of_an_affine_map(frozen_norms):
    x, v = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)))
    parts = x.reshape(3, 20, 2, 3)
    deviation = np.sqrt(parts.var((1, 3)) + 1e-6)[:, None, :, None]
    expected = {"none": jax.jvp(lambda x: group_norm(x, 2), (x,), (v,))[1]}
    moved = v.reshape(parts.shape)
    expected["both"] = (moved / deviation).reshape(x.shape)
    shift = jnp.broadcast_to(moved.mean((1, 3), keepdims=True), parts.shape) / deviation
    expected["mean"] = expected["none"] + shift.reshape(x.shape)
    expected["scale"] = ((moved - moved.mean((1, 3), keepdims=True)) / deviation).reshape(x.shape)
    for name, change in expected.items():
        norm = frozen_norms.norm_with(frozen_norms.FROZEN[name])
        value, found = jax.jvp(lambda x, norm=norm: norm(x, 2), (x,), (v,))
        np.testing.assert_allclose(value, group_norm(x, 2), rtol=1e-12)
        np.testing.assert_allclose(found, change, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_freezing_reaches_the_norms_of_a_network(frozen_norms, monkeypatch, capsys):
    config = dataclasses.replace(UNET, num_classes=0, attention=False)
    stored = SimpleNamespace(config=config, params=random_parameters(config))
    monkeypatch.setattr(frozen_norms, "load_network", lambda name: stored)
    monkeypatch.setattr(frozen_norms, "SIGMAS", (1.0,))
    assert frozen_norms.main(["--num", "2"]) == 0
    rows = [line.split("|")[2:5] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == list(frozen_norms.FROZEN)
    assert len({row[1] for row in rows}) == 4
    stored.config = LOCAL
    with pytest.raises(ValueError, match="network: expected a U-Net, which has group norms, got a local one"):
        frozen_norms.main([])
