"""Image sets: Fashion-MNIST, a small part of it shipped with the package, and the user's own files.

Every loader returns an `ImageSet` of float32 images (N, H, W, C) in [-1, 1], the range on which every noise
level of the library depends (THEORY section 0). Nothing is rescaled by guesswork: a range that is not certain
is an error.
"""

from critjax.data._fashion_mnist import (
    FASHION_MNIST_CLASSES,
    ImageSet,
    embedded_fashion_mnist,
    load_fashion_mnist,
)
from critjax.data._files import load_dataset, load_images

__all__ = [
    "FASHION_MNIST_CLASSES",
    "ImageSet",
    "embedded_fashion_mnist",
    "load_dataset",
    "load_fashion_mnist",
    "load_images",
]
