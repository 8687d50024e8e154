"""What a guidance study pushes: a model with classes, its response, and what measures diversity."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from critjax._checks import check
from critjax._programs import Static
from critjax._typing import Array, DenoiseFn
from critjax.banks import ImageBank, PatchBank, select
from critjax.closed_form import ideal_denoiser, ideal_log_weights
from critjax.guidance import constant, guided
from critjax.patch_score import patch_denoiser
from critjax.studies.guide.settings import ResolvedGuide

#: Distractors of the pattern bank: pairs of random patterns, and the prior of each relative to a domain.
NUM_DISTRACTORS, DISTRACTOR_PRIOR = 2, 0.25
#: Bandwidth of the class posterior of a final image, image units: images of Fashion-MNIST are several units apart.
JUDGE_SIGMA = 1.0


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["unconditional", "conditional", "respond", "classify", "features", "direction"],
    meta_fields=["shape", "denoised_end", "baseline"],
)
@dataclasses.dataclass(frozen=True)
class Model:
    """A class-conditional model and the judge of its images: a pytree, so that models of one kind share programs.

    Attributes
    ----------
    unconditional : denoiser.
    conditional : label, traced or not, to the denoiser of its class.
    respond : final image and label to the response, differentiable.
    classify : final image to its class.
    features : final image to a vector, for diversity and distances.
    direction : (classes, H, W, C) of norm one, the mode that belongs to each class.
    shape : (H, W, C).
    denoised_end : whether the final image is the last state denoised once more, by the model at the baseline.
    baseline : weight about which the response is expanded.
    """

    # JAX rebuilds it around whatever its arrays are in a trace.
    unconditional: Any
    conditional: Any
    respond: Any
    classify: Any
    features: Any
    direction: Any
    shape: tuple[int, int, int]
    denoised_end: bool
    baseline: float

    def at_baseline(self, label: Any) -> DenoiseFn:
        """Return the model about which the response is expanded."""
        if self.baseline == 0:
            return self.unconditional
        return guided(self.unconditional, self.conditional(label), constant(self.baseline))

    def final_image(self, x: Array, sigma: Any, label: Any) -> Array:
        """Return the image that is judged: the last state, or what the model at the baseline makes of it."""
        return self.at_baseline(label)(x, sigma) if self.denoised_end else x


class System(NamedTuple):
    """What a study pushes, and what is known of it."""

    model: Model
    class_names: tuple[str, ...]
    response_name: str
    bank: tuple[np.ndarray, np.ndarray] | None = None
    """Training images (N, H, W, C) and labels of an exact image model."""
    references: np.ndarray | None = None
    """Features (R, F) of real images, for Frechet distances."""
    reference_labels: np.ndarray | None = None
    """Their classes, for their diversity."""
    reference_name: str = ""
    """What those images are, and whether the model was trained on them."""
    homogeneous: bool = False
    """Whether linear theory about the uniform state x = 0 applies."""
    size: int | None = None
    """Side of the kernel, if it is bounded."""


def _patches_of(boundary: str, bank: PatchBank | ImageBank, label: Any) -> DenoiseFn:
    return patch_denoiser(select(bank, label), boundary=boundary)


def _images_of(images: Array, of: Array, label: Any) -> DenoiseFn:
    return ideal_denoiser(images, log_prior=jnp.where(of == label, 0.0, -jnp.inf))


def _network_of(config: Any, params: Any, label: Any) -> DenoiseFn:
    from critjax.networks import network_denoiser

    return network_denoiser(config, params, label)


def _magnetisation(sign: Array, x: Array, label: Any) -> Array:
    return sign[label] * x.mean()


def _negative(x: Array) -> Array:
    return (x.mean() < 0).astype(jnp.int32)


def _pixels(x: Array) -> Array:
    return x.reshape(-1)


def class_posterior(images: Array, members: Array, sigma: Any, x: Array) -> Array:
    """Return the posterior (classes,) of an image at a bandwidth; members (classes, N) tell the class of each image."""
    return jnp.matmul(members, jnp.exp(ideal_log_weights(images, x, sigma)), precision="highest")


def _class_probability(images: Array, members: Array, sigma: Any, x: Array, label: Any) -> Array:
    return class_posterior(images, members, sigma, x)[label]


def _likeliest_class(images: Array, members: Array, sigma: Any, x: Array) -> Array:
    return jnp.argmax(class_posterior(images, members, sigma, x)).astype(jnp.int32)


def pattern_system(settings: ResolvedGuide) -> System:
    """Return plus and minus domains among distractors that both classes share; response: the magnetisation.

    The bank is symmetric under x -> -x, so that x = 0 is the homogeneous state at every noise level.
    """
    size, side = cast(int, settings.size), cast(int, settings.grid)
    key = jax.random.fold_in(jax.random.key(settings.seed), 5)
    random = np.sign(jax.random.normal(key, (NUM_DISTRACTORS, size, size, 1), jnp.float32))
    others, plus = np.concatenate([random, -random]), np.ones((1, size, size, 1), np.float32)
    patches = np.concatenate([plus, others, -plus, others])
    prior = np.log([1.0] + [DISTRACTOR_PRIOR] * len(others))
    labels = np.repeat([0, 1], 1 + len(others))
    bank = PatchBank(patches, np.tile(prior, 2).astype(np.float32), labels)
    shape = (side, side, 1)
    sign = np.asarray([1.0, -1.0], np.float32)
    model = Model(
        unconditional=patch_denoiser(bank),
        conditional=Partial(Static(_patches_of, "periodic"), bank),
        respond=Partial(_magnetisation, jnp.asarray(sign)),
        classify=Partial(_negative),
        features=Partial(_pixels),
        direction=jnp.asarray(sign[:, None, None, None] * np.full((1, *shape), 1 / side, np.float32)),
        shape=shape,
        denoised_end=False,
        baseline=float(settings.baseline),
    )
    name = "magnetisation along the target"
    return System(model, ("plus", "minus"), name, homogeneous=True, size=size)


def _pooled(images: np.ndarray, block: int) -> np.ndarray:
    count, height, width, channels = images.shape
    good = height % block == 0 and width % block == 0
    check(good, "pool", f"a divisor of {height} and {width}", block, "use 1, 2, 4, 7 or 14")
    shape = (count, height // block, block, width // block, block, channels)
    return images.reshape(shape).mean((2, 4))


def _directions(images: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the differences of class means from the mean, of norm one."""
    means = np.stack([images[labels == c].mean(0) for c in range(num_classes)]) - images.mean(0)
    return (means / np.sqrt((means**2).sum((1, 2, 3), keepdims=True))).astype(np.float32)


def image_system(settings: ResolvedGuide) -> System:
    """Return exact models of classes of Fashion-MNIST; response: the posterior of the class given the final image."""
    from critjax.data import load_dataset

    count, block = cast(int, settings.num_images), cast(int, settings.pool)
    found = load_dataset("fashion-mnist", num_images=max(count, 1000))
    check(found.labels is not None, "images", "labels", "none", "use Fashion-MNIST")
    every, names = np.asarray(found.labels), tuple(found.class_names)
    each = count // len(names)
    order = np.concatenate([np.flatnonzero(every == c)[:each] for c in range(len(names))])
    check(each >= 2, "num_images", f"at least {2 * len(names)}", count, "two of every class at least")
    check(len(order) == each * len(names), "num_images", "as many in every class", count, "ask for fewer")
    images, labels = _pooled(np.asarray(found.images)[order], block), every[order]
    data, of = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    if settings.kind == "ideal":
        size = None
        unconditional, conditional = ideal_denoiser(data), Partial(_images_of, data, of)
    else:
        size = cast(int, settings.size)
        bank = ImageBank(data, size, positions="all", labels=labels)
        unconditional = patch_denoiser(bank, boundary="zero")
        conditional = Partial(Static(_patches_of, "zero"), bank)
    # Pooling averages noise and distances alike: the bandwidth keeps its meaning per pixel.
    members = (labels == np.arange(len(names))[:, None]).astype(np.float32)
    judge = data, jnp.asarray(members), JUDGE_SIGMA / block
    model = Model(
        unconditional,
        conditional,
        respond=Partial(_class_probability, *judge),
        classify=Partial(_likeliest_class, *judge),
        features=Partial(_pixels),
        direction=jnp.asarray(_directions(images, labels, len(names))),
        shape=(images.shape[1], images.shape[2], images.shape[3]),
        denoised_end=True,
        baseline=float(settings.baseline),
    )
    return System(model, names, "posterior of the target class", bank=(images, labels), size=size)


def _judged(config: Any, params: Any, temperature: Any, x: Array) -> Array:
    from critjax.networks import Classifier, classify

    return classify(Classifier(config, params, temperature, {}), x[None])[0]


def _judged_probability(config: Any, params: Any, temperature: Any, x: Array, label: Any) -> Array:
    return _judged(config, params, temperature, x)[label]


def _judged_class(config: Any, params: Any, temperature: Any, x: Array) -> Array:
    return jnp.argmax(_judged(config, params, temperature, x)).astype(jnp.int32)


def _judged_features(config: Any, params: Any, temperature: Any, x: Array) -> Array:
    from critjax.networks import Classifier, classifier_features

    return classifier_features(Classifier(config, params, temperature, {}), x[None])[0]


def network_system(settings: ResolvedGuide) -> System:
    """Return a class-conditional network; response: an independent classifier's probability of the target class."""
    from critjax.data import FASHION_MNIST_CLASSES, load_dataset
    from critjax.networks import classifier_features, load_classifier, load_network, network_denoiser

    stored = load_network(settings.model)
    config, params = stored.config, stored.params
    got = "an unconditional network" if config.num_classes == 0 else f"{config.num_classes} classes"
    advice = "train one with critjax train --conditional"
    check(config.num_classes == len(FASHION_MNIST_CLASSES), "model", "a network of ten classes", got, advice)
    judge = load_classifier()
    weights = judge.params, float(judge.temperature)
    known = load_dataset("fashion-mnist", num_images=1000)
    images, labels = np.asarray(known.images), np.asarray(known.labels)
    real, real_labels, reference_name = _references()
    height, width, channels = judge.config.image_shape
    model = Model(
        unconditional=network_denoiser(config, params),
        conditional=Partial(Static(_network_of, config), params),
        respond=Partial(Static(_judged_probability, judge.config), *weights),
        classify=Partial(Static(_judged_class, judge.config), *weights),
        features=Partial(Static(_judged_features, judge.config), *weights),
        direction=jnp.asarray(_directions(images, labels, len(FASHION_MNIST_CLASSES))),
        shape=(height, width, channels),
        denoised_end=True,
        baseline=float(settings.baseline),
    )
    return System(
        model,
        tuple(FASHION_MNIST_CLASSES),
        "classifier's probability of the target class",
        references=np.concatenate(
            [classifier_features(judge, batch) for batch in np.split(real, len(real) // 50)]
        ),
        reference_labels=real_labels,
        reference_name=reference_name,
        size=config.receptive_field,
    )


def _references() -> tuple[np.ndarray, np.ndarray, str]:
    """Return test images if they are installed, else the embedded ones, a multiple of fifty, labels, what they are."""
    from critjax.data import embedded_fashion_mnist, load_fashion_mnist

    try:
        found, name = load_fashion_mnist(split="test"), "10,000 held-out images"
    except FileNotFoundError:
        found, name = embedded_fashion_mnist(), "1,000 training images (no test images were found)"
    return np.asarray(found.images), np.asarray(found.labels), name


def load_system(settings: ResolvedGuide) -> System:
    """Load what the settings name."""
    if settings.kind == "patterns":
        return pattern_system(settings)
    return image_system(settings) if settings.kind in ("ideal", "els") else network_system(settings)
