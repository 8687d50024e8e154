r"""A classifier of images as pure functions: a small convolutional network whose probabilities are calibrated.

.. math:: p(c | x) = \mathrm{softmax}(z(x) / T)_c

z are the network's logits and T the temperature that makes its confidence right (Guo et al. 2017, arXiv:1706.04599).
It judges what denoisers generate and shares no weights with them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from critjax._checks import check, check_count, check_counts, check_floating, check_rank, message
from critjax._programs import program
from critjax._stored import Stored, json_object, option
from critjax._typing import Array, ArrayLike, PRNGKey
from critjax.networks._architectures import Parameters, named, ordered
from critjax.networks._blocks import Convolution, Dense, group_norm
from critjax.networks._weights import SUFFIX, flatten, read, unflatten, write

FOLDER = "classifiers"


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(Stored):
    """What a classifier is, apart from its weights.

    Parameters
    ----------
    image_shape : (H, W, C)
        Of the images, in pixels.
    widths : tuple of int
        One stage each: a 3 x 3 convolution of so many channels, group norm and SiLU. Means of 2 x 2 pixels are taken
        between stages. The last width is the number of features.
    num_classes : int

    Raises
    ------
    ValueError
        If a value is illegal, naming it.

    Example
    -------
    >>> ClassifierConfig().num_features
    128
    """

    _called, _advice = "config", "use a file written by save_classifier"

    image_shape: tuple[int, ...] = (28, 28, 1)
    widths: tuple[int, ...] = option((32, 64, 128), "channels of each stage", metavar="A,B,...")
    num_classes: int = 10

    def __post_init__(self) -> None:
        """Validate every value."""
        for name, example in (("image_shape", "(28, 28, 1)"), ("widths", "(32, 64, 128)")):
            values = check_counts(name, getattr(self, name), 16, advice=f"pass e.g. {example}")
            check(max(values) <= 8192, name, "integers <= 8192", max(values), "pass smaller ones")
        check(len(self.image_shape) == 3, "image_shape", "(H, W, C)", self.image_shape, "pass three integers")
        check_count("num_classes", self.num_classes, least=2, most=2**16, advice="correct it")
        factor = 2 ** (len(self.widths) - 1)
        height, width, _ = self.image_shape
        fits = height % factor == 0 and width % factor == 0
        got = f"{height} x {width}"
        check(
            fits, "image_shape", f"sides that {factor} divides", got, "use fewer widths, or crop the images"
        )

    @property
    def num_features(self) -> int:
        """Length of the vector before the last layer."""
        return self.widths[-1]


class Classifier(NamedTuple):
    """A trained classifier; `classify` and `classifier_features` use it."""

    config: ClassifierConfig
    params: Parameters
    temperature: float
    """Divides the logits; 1 for a classifier that was not calibrated."""
    info: dict[str, Any]
    """Whatever was stored beside: training settings, accuracy, the command."""


class _Stage(nnx.Module):
    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.spread = Convolution(inputs, width, 3, rngs=rngs, padding="zero")
        self.scale = nnx.Param(jnp.ones((width,)))
        self.shift = nnx.Param(jnp.zeros((width,)))
        self.groups = math.gcd(8, width)

    def __call__(self, x: Array) -> Array:
        h = group_norm(self.spread(x), self.groups)
        return jax.nn.silu(h * self.scale[...].astype(x.dtype) + self.shift[...].astype(x.dtype))


class _Network(nnx.Module):
    def __init__(self, config: ClassifierConfig, rngs: nnx.Rngs) -> None:
        height, width, channels = config.image_shape
        inputs = (channels, *config.widths[:-1])
        self.stages = nnx.List([_Stage(i, o, rngs=rngs) for i, o in zip(inputs, config.widths, strict=True)])
        factor = 2 ** (len(config.widths) - 1)
        pixels = (height // factor, width // factor)
        # Starts as the mean over pixels, and learns which pixels matter to which feature.
        self.pool = nnx.Param(jnp.full((*pixels, config.num_features), 1 / math.prod(pixels)))
        self.head = Dense(config.num_features, config.num_classes, rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        for index, stage in enumerate(self.stages):
            if index > 0:
                batch, height, width, channels = x.shape
                x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
            x = stage(x)
        features = jnp.einsum("bhwc,hwc->bc", x, self.pool[...].astype(x.dtype))
        return features, self.head(features)


@functools.lru_cache(maxsize=32)
def _skeleton(config: ClassifierConfig) -> tuple[Any, Any]:
    """Return graph and abstract parameters; no weights are drawn."""
    build = functools.partial(_Network, config)
    return nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(params=jax.random.key(0)))), nnx.Param)


def init_classifier(config: ClassifierConfig, key: PRNGKey) -> Parameters:
    """Draw the weights of a classifier.

    Parameters
    ----------
    config : ClassifierConfig
    key : PRNG key

    Returns
    -------
    dict
        Nested dictionary of float32 arrays.

    Example
    -------
    >>> sorted(init_classifier(ClassifierConfig(widths=(4, 8, 8)), jax.random.key(0)))
    ['head', 'pool', 'stages']
    """
    return _init(config, key)


@program(static_argnames="config")
def _init(config: ClassifierConfig, key: PRNGKey) -> Parameters:
    return named(nnx.to_pure_dict(nnx.state(_Network(config, nnx.Rngs(params=key)), nnx.Param)))


class Judgement(NamedTuple):
    """All that a classifier says of images."""

    features: Array
    logits: Array
    probabilities: Array


def judge(classifier: Classifier, images: ArrayLike) -> Judgement:
    """Apply a classifier to images (B, H, W, C): one program for all weights of a configuration."""
    return _judge(classifier.config, classifier.params, classifier.temperature, images)


@program(static_argnames="config")
def _judge(config: ClassifierConfig, params: Parameters, temperature: Any, images: Array) -> Judgement:
    features, logits = apply_classifier(config, params, images)
    return Judgement(features, logits, jax.nn.softmax(logits / temperature, axis=-1))


def apply_classifier(config: ClassifierConfig, params: Parameters, images: Array) -> tuple[Array, Array]:
    """Return features (B, F) and logits (B, num_classes) of images (B, H, W, C), before any temperature."""
    check_rank("images", images, "B H W C")
    check_floating("images", images)
    expected, got = (" x ".join(map(str, s)) for s in (config.image_shape, images.shape[1:]))
    fits = tuple(images.shape[1:]) == tuple(config.image_shape)
    check(fits, "images", f"{expected} (H x W x C) each", got, "pass images like those of training")
    graph, state = _skeleton(config)
    leaves = jax.tree.leaves(ordered(nnx.to_pure_dict(state), params))
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), leaves))(images)


def classify(classifier: Classifier, images: ArrayLike) -> Array:
    r"""Give the calibrated probability of every class, ``softmax(z(x) / T)``.

    Parameters
    ----------
    classifier : Classifier
        Of `load_classifier`.
    images : array (B, H, W, C)
        In [-1, 1], of the size of training.

    Returns
    -------
    array (B, num_classes)
        Rows sum to one; in the dtype of the images. Differentiable with respect to the images, in both modes.

    Raises
    ------
    ValueError, TypeError
        If the images do not fit the classifier.

    Notes
    -----
    The probabilities are right on average for real images. Noisy, soft or otherwise odd ones are outside of what was
    calibrated. THEORY section 8.

    Example
    -------
    >>> from critjax.data import embedded_fashion_mnist
    >>> found = embedded_fashion_mnist(3)
    >>> probabilities = classify(load_classifier(), found.images)
    >>> [found.class_names[i] for i in np.argmax(probabilities, -1)]
    ['T-shirt/top', 'Trouser', 'Pullover']
    """
    return judge(classifier, images).probabilities


def classifier_features(classifier: Classifier, images: ArrayLike) -> Array:
    """Give the vector before the last layer, for distances and diversity of ensembles.

    Parameters
    ----------
    classifier : Classifier
        Of `load_classifier`.
    images : array (B, H, W, C)
        In [-1, 1], of the size of training.

    Returns
    -------
    array (B, num_features)
        In the dtype of the images; the logits are an affine map of it. Differentiable.

    Raises
    ------
    ValueError, TypeError
        If the images do not fit the classifier.

    Example
    -------
    >>> print(classifier_features(load_classifier(), np.zeros((3, 28, 28, 1), np.float32)).shape)
    (3, 128)
    """
    return judge(classifier, images).features


def shipped_classifiers() -> tuple[str, ...]:
    """List the names of the classifiers that come with the package, for `load_classifier`.

    Example
    -------
    >>> shipped_classifiers()
    ('fashion-classifier',)
    """
    folder = resources.files("critjax.networks").joinpath(FOLDER)
    names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
    return tuple(sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)))


def save_classifier(path: str | Path, classifier: Classifier) -> None:
    """Store a classifier in one file, usually ``.safetensors``: weights, configuration, temperature and info.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_classifier(f"{folder}/mine.safetensors", load_classifier()._replace(info={"seed": 0}))
    ...     load_classifier(f"{folder}/mine.safetensors").info
    {'seed': 0}
    """
    header = {
        "critjax_classifier": classifier.config.to_json(),
        "critjax_temperature": json.dumps(float(classifier.temperature)),
        "critjax_info": json.dumps(classifier.info),
    }
    write(Path(path), flatten(classifier.params), header)


def load_classifier(name_or_path: str | Path = "fashion-classifier") -> Classifier:
    """Read a shipped classifier by its name, or one written by `save_classifier`.

    Parameters
    ----------
    name_or_path : str or path
        One of `shipped_classifiers`, or a file. The name wins over a file of that name.

    Returns
    -------
    Classifier

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it is corrupt or no classifier, or its weights do not fit its configuration.

    Notes
    -----
    ``fashion-classifier`` was trained by ``critjax train-classifier`` on the first 55,000 training images of
    Fashion-MNIST; temperature and augmentation were chosen on the other 5,000. There, white noise of up to 0.05 in
    training (5,500 steps) had accuracy 0.929 ± 0.004, none (4,500 steps) 0.927, up to 0.2 (4,500 steps) 0.919: the
    first is shipped. The json file beside the weights holds its test accuracy, 0.925 ± 0.003, also in noise, where it
    falls: the judge is meant for samples at the end of generation.

    Example
    -------
    >>> load_classifier("fashion-classifier").config.image_shape
    (28, 28, 1)
    """
    if str(name_or_path) in shipped_classifiers():
        path = Path(str(resources.files("critjax.networks").joinpath(FOLDER, f"{name_or_path}{SUFFIX}")))
    else:
        path = Path(name_or_path)
    if not os.path.isfile(path):
        advice = f"check the path, or use a shipped classifier: {', '.join(shipped_classifiers())}"
        expected = "a name or a file of weights"
        raise FileNotFoundError(message("classifier", expected, f"no file {path}", advice))
    arrays, header = read(path, "classifier")
    known = "critjax_classifier" in header
    advice = "use a file written by save_classifier"
    check(known, "classifier", "weights of a classifier", f"{path} without its configuration", advice)
    config = ClassifierConfig.from_json(header["critjax_classifier"])
    params = unflatten(jax.device_put(arrays))
    # Names and shapes fit, or the error says which do not.
    image = jax.ShapeDtypeStruct((1, *config.image_shape), jnp.float32)
    jax.eval_shape(lambda x: apply_classifier(config, params, x), image)
    info = json_object(header.get("critjax_info", "{}"), "classifier", advice)
    try:
        temperature = float(header.get("critjax_temperature", "1.0"))
    except ValueError:
        temperature = math.nan
    good = math.isfinite(temperature) and temperature > 0
    check(good, "classifier", "a temperature > 0", header.get("critjax_temperature"), advice)
    return Classifier(config, params, temperature, info)
