"""Networks: exact locality and equivariance, gradients, what training achieves, weights on disk."""

import argparse
import dataclasses
import functools
import importlib.util
import itertools
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
from critjax.networks._step import _gradient as batch_gradient
from critjax.networks._step import loss

TOOLS = Path(__file__).resolve().parents[1] / "tools"
LOCAL = NetworkConfig(width=6, dilations=(1, 2), padding="periodic")
WIDE = dataclasses.replace(LOCAL, stem=5, dilations=(1,), norms=1)
UNET = NetworkConfig(
    architecture="unet", width=4, multipliers=(1, 2), blocks=1, num_classes=3, attention=True
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def random_parameters(config, seed=0, scale=0.3):
    """Weights without the zeros of the start, in float64, drawn without a program."""
    rng = np.random.default_rng(seed)

    def draw(a):
        kernel = rng.normal(size=a.shape) / np.sqrt(np.prod(a.shape[:-1])) if a.ndim > 1 else 0
        return kernel + scale * rng.normal(size=a.shape)

    return jax.tree.map(draw, jax.eval_shape(functools.partial(init, config), jax.random.key(0)))


@pytest.mark.parametrize("outputs", [4, 7])  # windows unfolded by rows, and whole
@pytest.mark.parametrize("size", [3, 5])
def test_convolution_against_loops(size, outputs):
    rng = np.random.default_rng(0)
    channels, reach = 6 // (size - 1), size // 2
    x, kernel = rng.normal(size=(2, 7, 6, channels)), rng.normal(size=(size, size, channels, outputs))
    cases = list(itertools.product(("zero", "periodic"), (1, 2, 7)))  # 7: taps beyond the image
    found = jax.jit(lambda x, kernel: [convolve(x, kernel, padding=p, dilation=d) for p, d in cases])(
        x, kernel
    )
    for (padding, dilation), result in zip(cases, found, strict=True):
        expected = np.zeros((2, 7, 6, outputs))
        for i, j, a, b in itertools.product(range(7), range(6), range(size), range(size)):
            y, z = i + dilation * (a - reach), j + dilation * (b - reach)
            if padding == "periodic" or (0 <= y < 7 and 0 <= z < 6):
                expected[:, i, j] += x[:, y % 7, z % 6] @ kernel[a, b]
        np.testing.assert_allclose(result, expected, atol=1e-12, err_msg=f"{padding}, {dilation}")


@pytest.mark.parametrize("outputs", [4, 7])
def test_derivatives_of_the_convolution_are_those_of_the_stock_one(outputs):
    shapes = ((2, 7, 6, 3), (3, 3, 3, outputs), (2, 7, 6, 3), (3, 3, 3, outputs), (2, 7, 6, outputs))
    arrays = [normal(seed, *shape) for seed, shape in enumerate(shapes)]

    def stock(x, kernel, padding):
        padded = jnp.pad(
            x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="wrap" if padding == "periodic" else "constant"
        )
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            padded, kernel, (1, 1), "VALID", rhs_dilation=(2, 2), dimension_numbers=layout
        )

    def own(x, kernel, padding):
        return convolve(x, kernel, padding=padding, dilation=2)

    def derivatives(function, x, kernel, dx, dkernel, cotangent):
        value, forward = jax.jvp(function, (x, kernel), (dx, dkernel))
        return value, forward, jax.vjp(function, x, kernel)[1](cotangent)

    @jax.jit
    def run(*arrays):
        both = [
            functools.partial(function, padding=p) for function in (own, stock) for p in ("zero", "periodic")
        ]
        return [derivatives(function, *arrays) for function in both]

    results = run(*arrays)
    found, expected = results[:2], results[2:]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * np.abs(b).max())


#: Images, noise and labels of a batch, two parts of three.
BATCH = normal(2, 6, 8, 8, 1), np.geomspace(0.1, 3.0, 6), normal(3, 6, 8, 8, 1), np.array([0, 1, 2, -1, 0, 1])


@pytest.mark.parametrize(
    "config",
    [LOCAL, dataclasses.replace(LOCAL, padding="zero"), dataclasses.replace(WIDE, padding="zero"), UNET],
)
def test_gradients_of_the_loss_against_finite_differences(config):
    """Its own, and the one that is summed over the parts of a batch."""
    params, direction, step = random_parameters(config), random_parameters(config, seed=5), 1e-5
    batch = BATCH if config.num_classes else (*BATCH[:3], None)

    def value(params, x0, sigma, noise, label):
        """Karras et al.'s loss, written out."""
        level = sigma[:, None, None, None]
        weight = (level**2 + config.sigma_data**2) / (level * config.sigma_data) ** 2
        return jnp.mean(weight * (apply(config, params, x0 + level * noise, sigma, label) - x0) ** 2)

    @jax.jit
    def run(params, direction, batch):
        ahead_behind = jax.lax.map(
            lambda s: value(jax.tree.map(lambda p, d: p + s * d, params, direction), *batch),
            np.array([step, -step]),
        )
        own = jax.value_and_grad(lambda p: loss(config, p, *batch))(params)
        return ahead_behind, own, batch_gradient(config, params, batch)

    (ahead, behind), (expected, slopes), (found, gradient) = run(params, direction, batch)
    along = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (slopes, direction)), strict=True))
    np.testing.assert_allclose(along, (ahead - behind) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * np.abs(b).max() + 1e-14)


def test_training_data_is_the_whole_set_and_never_the_embedded_thousand(monkeypatch):
    asked = []
    monkeypatch.setattr("critjax.data.load_fashion_mnist", lambda split: asked.append(split) or split)
    assert training_data(argparse.Namespace(data="fashion-mnist", num_images=None)) == ("train", "test")
    assert asked == ["train", "test"]
    fit, held_out = training_data(argparse.Namespace(data="fashion-mnist", num_images=40))
    assert len(fit.images) == 36 and len(held_out.images) == 4


@jax.jit
def denoised(denoisers, x, sigma):
    """Several denoisers of the same image, one program."""
    return [denoise(x, sigma) for denoise in denoisers]


@pytest.mark.parametrize(("config", "channels"), [(LOCAL, 1), (WIDE, 1), (WIDE, 3)])
def test_a_local_network_pixel_by_pixel(config, channels):
    """The whole network in numpy, one window at a time."""
    configs = [dataclasses.replace(config, padding=p, channels=channels) for p in ("zero", "periodic")]
    params = random_parameters(configs[0])
    x, sigma = normal(9, 7, 6, channels), 0.7
    found = denoised([network_denoiser(config, params) for config in configs], x, sigma)
    for config, result in zip(configs, found, strict=True):
        expected = written_out(config, params, x, sigma)
        np.testing.assert_allclose(result, expected, atol=1e-12, err_msg=config.padding)


def written_out(config, params, x, sigma):
    def silu(a):
        return a / (1 + np.exp(-a))

    def norm(a):
        return a / np.sqrt(np.mean(a**2, -1, keepdims=True) + 1e-6)

    def affine(layer, a):
        return a @ layer["kernel"].reshape(-1, layer["kernel"].shape[-1]) + layer["bias"]

    def convolution(layer, a, dilation):
        reach = dilation * (len(layer["kernel"]) // 2)
        mode = {"mode": "wrap"} if config.padding == "periodic" else {"constant_values": 0}
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
    return expected + affine(params["head"], silu(norm(h))) * sigma * config.sigma_data / total


@pytest.mark.parametrize("config", [LOCAL, WIDE])
def test_a_local_network_sees_its_receptive_field_and_no_more(config):
    configs = [dataclasses.replace(config, padding=padding) for padding in ("zero", "periodic")]
    params, side = random_parameters(config), 10
    denoisers = [network_denoiser(config, params) for config in configs]
    jacobians = jax.jit(lambda denoisers, x: [jax.jacfwd(lambda x, d=d: d(x, 0.7))(x) for d in denoisers])(
        denoisers, normal(4, side, side, 1)
    )
    for config, jacobian in zip(configs, jacobians, strict=True):
        assert config.receptive_field == 7
        jacobian = np.asarray(jacobian)[..., 0, :, :, 0]
        offset = np.abs(np.arange(side)[:, None] - np.arange(side)[None, :])
        if config.padding == "periodic":
            offset = np.minimum(offset, side - offset)
        far = np.maximum(offset[:, None, :, None], offset[None, :, None, :])
        assert np.all(jacobian[far > 3] == 0), config.padding
        assert np.all(jacobian[far == 3] != 0), config.padding


@pytest.mark.parametrize("config", [LOCAL, WIDE])
def test_a_periodic_local_network_commutes_with_shifts(config):
    x, shifts = normal(5, 9, 8, 1), ((1, 0), (3, 5), (3, 0))
    params, images = (
        random_parameters(config),
        np.stack([x, *(np.roll(x, shift, (0, 1)) for shift in shifts)]),
    )
    denoisers = [network_denoiser(c, params) for c in (config, dataclasses.replace(config, padding="zero"))]
    run = jax.jit(lambda denoisers, x: [jax.vmap(denoise, (0, None))(x, 0.4) for denoise in denoisers])
    periodic, unpadded = map(np.asarray, run(denoisers, images))
    for shift, moved in zip(shifts, periodic[1:], strict=True):
        np.testing.assert_allclose(moved, np.roll(periodic[0], shift, (0, 1)), atol=1e-12)
    moved = unpadded[3] - np.roll(unpadded[0], 3, 0)
    assert np.abs(moved).max() > 1e-3  # so the test above can fail


@pytest.mark.parametrize("config", [LOCAL, UNET])
def test_preconditioning_in_its_limits(config):
    """Untrained, D = c_skip x; for any weights D -> x as sigma -> 0, and no x is left at large sigma."""
    x, sigma = normal(6, 3, 8, 8, 1), np.array([0.1, 0.5, 5.0])
    params = init(config, jax.random.key(0))
    found = apply(config, params, x, sigma)
    np.testing.assert_allclose(found, x * (0.25 / (0.25 + sigma**2))[:, None, None, None], atol=1e-12)
    params = jax.tree.map(lambda a, b: np.asarray(a, b.dtype), random_parameters(config), params)
    small = apply(config, params, x, np.full(3, 1e-6))
    np.testing.assert_allclose(small, x, atol=1e-3)
    huge = apply(config, params, 1e6 * x, np.full(3, 1e6))
    assert np.abs(huge).max() < 100


def test_labels_matter_and_none_is_a_class_of_its_own():
    params, x = random_parameters(UNET), normal(7, 8, 8, 1)
    images = np.broadcast_to(x, (4, 8, 8, 1))
    found = apply(UNET, params, images, np.full(4, 0.5), np.array([0, 1, 2, -1]))
    assert min(np.abs(found[i] - found[j]).max() for i in range(4) for j in range(i)) > 1e-4
    for label, row in ((1, 1), (np.int64(0), 0), (None, 3)):
        denoise = network_denoiser(UNET, params, label)
        np.testing.assert_allclose(denoise(x, 0.5), found[row], atol=1e-12)
    traced = jax.jit(jax.vmap(lambda label: network_denoiser(UNET, params, label)(x, 0.5)))(np.arange(3))
    np.testing.assert_allclose(traced, found[:3], atol=1e-12)


def test_a_unet_without_attention_is_one_whose_attention_adds_nothing():
    plain = dataclasses.replace(UNET, attention=False)
    params = random_parameters(UNET)
    assert set(jax.eval_shape(lambda: init(plain, jax.random.key(0)))) == set(params) - {"attention"}
    x, sigma = normal(8, 2, 8, 6, 1), np.array([0.3, 2.0])
    without = {name: value for name, value in params.items() if name != "attention"}
    found = apply(plain, without, x, sigma)
    assert np.abs(apply(UNET, params, x, sigma) - found).max() > 1e-3
    params["attention"]["merge"] = jax.tree.map(np.zeros_like, params["attention"]["merge"])
    np.testing.assert_allclose(found, apply(UNET, params, x, sigma), atol=1e-12)


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
    losses, run = {}, functools.partial(apply, config)
    for name, params in (("start", init(config, jax.random.key(0))), ("end", result.params)):
        losses[name] = held_out_loss(jax.tree_util.Partial(run, params), images[300:], (0.5, 1.0))
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
def test_the_loss_and_its_noise_are_those_of_karras(mean, std):
    """An untrained network is c x with c = s_d^2/(s^2 + s_d^2), whose error is known at every noise level."""
    images, _ = crops(64)
    sigma_data = float(images.std())
    config = NetworkConfig(width=4, dilations=(1,), sigma_data=sigma_data)
    training = TrainingConfig(
        num_steps=200, batch_size=32, learning_rate=1e-12, log_noise_mean=mean, log_noise_std=std
    )
    found = train(config, training, images, log_every=200).losses
    normal, weights = np.polynomial.hermite_e.hermegauss(60)
    sigma = np.exp(mean + std * normal)
    square = np.mean(images**2)
    error = (sigma**2 * square + sigma_data**4) * sigma**2 / (sigma**2 + sigma_data**2) ** 2
    expected = (
        np.sum(weights * error * (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2) / weights.sum()
    )
    # 6,400 noised images; whole images differ most, by the spread of their mean squares.
    assert found[0, 1] == pytest.approx(expected, rel=0.03)


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
    clean = embedded_fashion_mnist().images[:48]
    x = clean + normal(0, *clean.shape).astype(np.float32)

    def deviations(params):
        found = np.asarray(apply(stored.config, params, x, np.ones(48, np.float32)), np.float64)
        found = ((found - clean) ** 2).mean((1, 2, 3))
        return (found.mean() - mean) / np.hypot(error, found.std(ddof=1) / np.sqrt(len(found)))

    assert abs(deviations(stored.params)) < 4
    head = jax.tree.map(lambda a: np.float32(1.5) * np.asarray(a), stored.params["head"])
    assert deviations({**stored.params, "head": head}) > 4


@pytest.mark.parametrize(
    ("name", "reach"), [("local-11", 5), ("local-15", 7), ("local-45", 22), ("unet-classes", None)]
)
def test_shipped_networks_see_as_far_as_they_say(name, reach):
    """Rows of the Jacobian of a middle pixel and of a corner, at an embedded image."""
    stored = load_network(name)
    assert stored.config.receptive_field == (None if reach is None else 2 * reach + 1)
    denoise = network_denoiser(stored.config, stored.params)
    image = embedded_fashion_mnist().images[0]
    x = image + normal(0, *image.shape).astype(np.float32)

    @jax.jit
    def row_of_jacobian(denoise, x, row, column):
        return jax.grad(lambda x: denoise(x, 1.0)[row, column, 0])(x)

    for row, column in ((14, 13), (0, 27)):
        gradient = row_of_jacobian(denoise, x, row, column)[..., 0]
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
        (lambda: NetworkConfig(sigma_data=0.0), "sigma_data: expected a finite standard deviation > 0"),
        (lambda: NetworkConfig.from_json("{"), "config: expected a JSON object"),
        (lambda: NetworkConfig.from_json('{"depth": 3}'), "config: expected known option names"),
        (
            lambda: network_denoiser(UNET, random_parameters(UNET))(np.zeros((7, 8, 1)), 1.0),
            "sides that 2",
        ),
        (
            lambda: network_denoiser(LOCAL, random_parameters(UNET))(np.zeros((8, 8, 1)), 1.0),
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
            "log_every: expected an integer >= 1, got 0; it is a number of steps",
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
    x, v = normal(0, 2, 3, 4, 5, 6)
    value, change = jax.jit(lambda x, v: jax.jvp(lambda x: group_norm(x, 2), (x,), (v,)))(x, v)
    parts, moved = x.reshape(3, 20, 2, 3), v.reshape(3, 20, 2, 3)
    deviation = np.sqrt(parts.var((1, 3)) + 1e-6)[:, None, :, None]
    expected = {"none": np.asarray(change), "both": (moved / deviation).reshape(x.shape)}
    shift = np.broadcast_to(moved.mean((1, 3), keepdims=True), parts.shape) / deviation
    expected["mean"] = expected["none"] + shift.reshape(x.shape)
    expected["scale"] = ((moved - moved.mean((1, 3), keepdims=True)) / deviation).reshape(x.shape)
    norms = [frozen_norms.norm_with(frozen_norms.FROZEN[name]) for name in expected]
    run = jax.jit(lambda x, v: [jax.jvp(lambda x, n=n: n(x, 2), (x,), (v,)) for n in norms])
    for name, (same, found) in zip(expected, run(x, v), strict=True):
        np.testing.assert_allclose(same, value, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(found, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


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
