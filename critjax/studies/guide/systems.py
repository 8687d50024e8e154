"""What a guidance study pushes: a model with classes, its response, and what measures diversity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check
from critjax._typing import Array, DenoiseFn
from critjax.banks import ImageBank, PatchBank, select
from critjax.patch_score import patch_denoiser
from critjax.studies.guide.settings import GuideSettings

#: Distractors of the pattern bank: pairs of random patterns, and the prior of each relative to a domain.
NUM_DISTRACTORS, DISTRACTOR_PRIOR = 2, 0.25
#: Bandwidth of the class posterior of a final image, image units: images of Fashion-MNIST are several units apart.
JUDGE_SIGMA = 1.0


class System(NamedTuple):
    """A class-conditional model and the judge of its images."""

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    unconditional: DenoiseFn
    conditional: Callable[[Any], DenoiseFn]
    """Label, traced or not, to the denoiser of its class."""
    denoised_end: bool
    """Whether the final image is the last state denoised once more, by the model at the baseline."""
    respond: Callable[[Array, Any], Array]
    """Final image and label to the response, differentiable."""
    classify: Callable[[Array], Array]
    """Final image to its class."""
    features: Callable[[Array], Array]
    """Final image to a vector, for diversity and distances."""
    direction: Array
    """(classes, H, W, C) of norm one: the mode that belongs to each class."""
    bank: tuple[np.ndarray, np.ndarray] | None
    """Training images (N, H, W, C) and labels of an exact image model."""
    references: np.ndarray | None
    """Features (R, F) of real images, for Frechet distances."""
    reference_labels: np.ndarray | None
    """Their classes, for their diversity."""
    reference_name: str
    """What those images are, and whether the model was trained on them."""
    response_name: str
    homogeneous: bool
    """Whether linear theory about the uniform state x = 0 applies."""
    window: int | None
    """Width of the kernel, if it is bounded."""


def pattern_system(settings: GuideSettings) -> System:
    """Return plus and minus domains among distractors that both classes share; response: the magnetisation.

    The bank is symmetric under x -> -x, so that x = 0 is the homogeneous state at every noise level.
    """
    size, side = settings.size or 0, settings.grid or 0
    key = jax.random.fold_in(jax.random.key(settings.seed), 5)
    random = jnp.sign(jax.random.normal(key, (NUM_DISTRACTORS, size, size, 1), jnp.float32))
    others = jnp.concatenate([random, -random])
    plus = jnp.ones((1, size, size, 1), jnp.float32)
    patches = jnp.concatenate([plus, others, -plus, others])
    prior = np.log([1.0] + [DISTRACTOR_PRIOR] * len(others))
    labels = np.repeat([0, 1], 1 + len(others))
    bank = PatchBank(patches, np.tile(prior, 2).astype(np.float32), labels)
    shape = (side, side, 1)
    sign = jnp.asarray([1.0, -1.0], jnp.float32)
    uniform = jnp.full((1, *shape), 1 / side, jnp.float32)
    return System(
        shape,
        ("plus", "minus"),
        patch_denoiser(bank),
        lambda label: patch_denoiser(select(bank, label)),
        False,
        lambda x, label: sign[label] * x.mean(),
        lambda x: (x.mean() < 0).astype(jnp.int32),
        lambda x: x.reshape(-1),
        sign[:, None, None, None] * uniform,
        None,
        None,
        None,
        "",
        "magnetisation along the target",
        True,
        size,
    )


def _pooled(images: np.ndarray, block: int) -> np.ndarray:
    count, height, width, channels = images.shape
    good = height % block == 0 and width % block == 0
    check(good, "pool", f"a divisor of {height} and {width}", block, "use 1, 2, 4, 7 or 14")
    shape = (count, height // block, block, width // block, block, channels)
    return images.reshape(shape).mean((2, 4))


def _directions(images: np.ndarray, labels: np.ndarray, num_classes: int) -> Array:
    """Return the differences of class means from the mean, of norm one."""
    means = np.stack([images[labels == c].mean(0) for c in range(num_classes)]) - images.mean(0)
    return jnp.asarray(means / np.sqrt((means**2).sum((1, 2, 3), keepdims=True)), jnp.float32)


def image_system(settings: GuideSettings) -> System:
    """Return exact models of classes of Fashion-MNIST; response: the posterior of the class given the final image."""
    from critjax.data import load_dataset

    count, block = settings.num_images or 0, settings.pool or 1
    found = load_dataset("fashion-mnist", num_images=max(count, 1000))
    check(found.labels is not None, "images", "labels", "none", "use Fashion-MNIST")
    every, names = np.asarray(found.labels), tuple(found.class_names)
    each = count // len(names)
    order = np.concatenate([np.flatnonzero(every == c)[:each] for c in range(len(names))])
    check(each >= 2, "num_images", f"at least {2 * len(names)}", count, "two of every class at least")
    check(len(order) == each * len(names), "num_images", "as many in every class", count, "ask for fewer")
    images, labels = _pooled(np.asarray(found.images)[order], block), every[order]
    data, label_array = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    flat = data.reshape(len(data), -1)

    def log_weights(x: Array, sigma: Any) -> Array:
        return -0.5 * jnp.sum((flat - x.reshape(-1)) ** 2, axis=1) / sigma**2

    if settings.kind == "ideal":

        def mean(log_weight: Array, shape: tuple[int, ...]) -> Array:
            return (jax.nn.softmax(log_weight) @ flat).reshape(shape)

        def unconditional(x: Array, sigma: Any) -> Array:
            return mean(log_weights(x, sigma), x.shape)

        def conditional(label: Any) -> DenoiseFn:
            outside = jnp.where(label_array == label, 0.0, -jnp.inf)
            return lambda x, sigma: mean(log_weights(x, sigma) + outside, x.shape)

        window = None
    else:
        window = settings.size or 0
        bank = ImageBank(data, window, positions="all", labels=labels)
        unconditional = patch_denoiser(bank, boundary="zero")

        def conditional(label: Any) -> DenoiseFn:
            return patch_denoiser(select(bank, label), boundary="zero")

    # Pooling averages noise and distances alike: the bandwidth keeps its meaning per pixel.
    bandwidth = JUDGE_SIGMA / block

    def posterior(x: Array) -> Array:
        weights = jax.nn.softmax(log_weights(x, bandwidth))
        return jax.ops.segment_sum(weights, label_array, len(names))

    return System(
        (images.shape[1], images.shape[2], images.shape[3]),
        names,
        unconditional,
        conditional,
        True,
        lambda x, label: posterior(x)[label],
        lambda x: jnp.argmax(posterior(x)).astype(jnp.int32),
        lambda x: x.reshape(-1),
        _directions(images, labels, len(names)),
        (images, labels),
        None,
        None,
        "",
        "posterior of the target class",
        False,
        window,
    )


def network_system(settings: GuideSettings) -> System:
    """Return a class-conditional network; response: an independent classifier's probability of the target class."""
    from critjax.data import FASHION_MNIST_CLASSES, load_dataset
    from critjax.networks import (
        classifier_features,
        classify,
        load_classifier,
        load_network,
        network_denoiser,
    )

    stored = load_network(settings.model)
    config, params = stored.config, stored.params
    got = "an unconditional network" if config.num_classes == 0 else f"{config.num_classes} classes"
    advice = "train one with critjax train --conditional"
    check(config.num_classes == len(FASHION_MNIST_CLASSES), "model", "a network of ten classes", got, advice)
    judge, unconditional = load_classifier(), network_denoiser(config, params)
    height, width, channels = judge.config.image_shape
    known = load_dataset("fashion-mnist", num_images=1000)
    images, labels = np.asarray(known.images), np.asarray(known.labels)
    real, real_labels, reference_name = _references()

    def probabilities(x: Array) -> Array:
        return classify(judge, x[None])[0]

    def features(x: Array) -> Array:
        return classifier_features(judge, x[None])[0]

    several = jax.jit(lambda batch: classifier_features(judge, batch))
    references = np.concatenate([np.asarray(several(batch)) for batch in np.split(real, len(real) // 50)])
    return System(
        (height, width, channels),
        tuple(FASHION_MNIST_CLASSES),
        unconditional,
        lambda label: network_denoiser(config, params, label),
        True,
        lambda x, label: probabilities(x)[label],
        lambda x: jnp.argmax(probabilities(x)).astype(jnp.int32),
        features,
        _directions(images, labels, len(FASHION_MNIST_CLASSES)),
        None,
        references,
        real_labels,
        reference_name,
        "classifier's probability of the target class",
        False,
        config.receptive_field,
    )


def _references() -> tuple[np.ndarray, np.ndarray, str]:
    """Return test images if they are installed, else the embedded ones, a multiple of fifty, labels, what they are."""
    from critjax.data import embedded_fashion_mnist, load_fashion_mnist

    try:
        found, name = load_fashion_mnist(split="test"), "10,000 held-out images"
    except FileNotFoundError:
        found, name = embedded_fashion_mnist(), "1,000 training images (no test images were found)"
    return np.asarray(found.images), np.asarray(found.labels), name


def load_system(settings: GuideSettings) -> System:
    """Load what the settings name."""
    if settings.kind == "patterns":
        return pattern_system(settings)
    return image_system(settings) if settings.kind in ("ideal", "els") else network_system(settings)
