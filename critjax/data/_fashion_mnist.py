"""Fashion-MNIST, whole from its published files or the 1,000 images shipped with the package.

Also what every loader of images shares: the `ImageSet` and the selection of classes and numbers.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import os
import urllib.request
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from critjax._checks import check, check_count, check_option, message
from critjax.data._reading import decompressed, parse_idx
from critjax.store import write_file

FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # Debian and Ubuntu package dataset-fashion-mnist
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # no https there: hashes give the trust
# Of the decompressed files: distributors compress the same bytes differently.
_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
Classes = Sequence[int | np.integer | str] | None


class ImageSet(NamedTuple):
    """Images with what is known about them.

    Attributes
    ----------
    images : float32 array (N, H, W, C)
        Values in [-1, 1].
    labels : int32 array (N,) or None
        Index into ``class_names``; None where the source has no labels.
    name : str
        Where the images come from.
    class_names : tuple of str
        One name per class of the source, also of classes that were not selected; () without labels.
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    class_names: tuple[str, ...]


# ---------------------------------------------------------------- selection


def checked_number(num_images: Any) -> int | None:
    """Return ``num_images`` as an ``int`` >= 1 or None, or raise `ValueError`."""
    if num_images is None:
        return None
    return check_count("num_images", num_images, least=1, advice="None takes every image")


def class_indices(classes: Classes, class_names: tuple[str, ...]) -> list[int] | None:
    """Translate class names or indices to indices, or raise `ValueError`."""
    if classes is None:
        return None
    check(len(class_names) > 0, "classes", "a source with labels", "one without", "drop classes=")
    entries = [classes] if isinstance(classes, str) else list(classes)
    options = f"names or indices among {dict(enumerate(class_names))}"
    check(len(entries) > 0, "classes", options, "an empty list", "None takes every class")
    indices = []
    for entry in entries:
        whole = isinstance(entry, (int, np.integer)) and not isinstance(entry, bool)
        known = entry in class_names if isinstance(entry, str) else whole and 0 <= entry < len(class_names)
        check(bool(known), "classes", options, repr(entry), "choose one of the listed classes")
        indices.append(class_names.index(entry) if isinstance(entry, str) else int(entry))
    return indices


def choose(
    labels: np.ndarray | None, count: int, num_images: int | None, indices: list[int] | None
) -> np.ndarray:
    """Return the positions of the first ``num_images`` images of the chosen classes, in order."""
    keep = np.arange(count) if indices is None or labels is None else np.flatnonzero(np.isin(labels, indices))
    available = "no more images than " + ("there are" if indices is None else "the chosen classes have")
    if num_images is not None:
        got = f"{num_images} of {keep.size}"
        check(num_images <= keep.size, "num_images", available, got, f"ask for at most {keep.size}")
    check(keep.size > 0, "classes", "at least one image", "none of these classes", "choose other classes")
    return keep[:num_images]


def from_bytes(images: np.ndarray) -> np.ndarray:
    """Map bytes 0..255 to float32 -1..1."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


# ---------------------------------------------------------------- the published files


def _verify(data: bytes, name: str, source: str) -> None:
    digest = hashlib.sha256(data).hexdigest()
    good = digest == _SHA256[name]
    advice = "it is damaged or another data set; delete it, or load other data with load_images"
    check(good, source, f"the published {name} (SHA-256 {_SHA256[name]})", f"SHA-256 {digest}", advice)


def _cache_directory() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("critjax") / "fashion-mnist"


def _directories(root: str | os.PathLike[str] | None) -> list[Path]:
    """List the folders to search, first match wins."""
    if root is not None:
        bases = [Path(root)]
    else:
        variable = os.environ.get("CRITJAX_DATA")
        bases = [Path(variable)] if variable else []
        bases += [_DEBIAN, _cache_directory()]
    return [base / inner for base in bases for inner in ("", "fashion-mnist", "FashionMNIST/raw")]


def _find(name: str, directories: list[Path]) -> Path | None:
    found = (d / (name + suffix) for d in directories for suffix in ("", ".gz"))
    return next((path for path in found if path.is_file()), None)


def _fetch(name: str, directory: Path) -> Path:
    """Download one file, verify it, and only then write it."""
    url = f"{_URL}{name}.gz"
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            data = response.read()
    except (OSError, http.client.HTTPException) as error:
        advice = f"check the network, or put {name}.gz into {directory} yourself"
        raise ConnectionError(message("download", f"a file at {url}", f"{error!r}", advice)) from error
    try:
        raw = gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(message(url, "a whole gzip file", f"{error!r}", "try again")) from error
    _verify(raw, name, url)
    directory.mkdir(parents=True, exist_ok=True)
    return write_file(directory / f"{name}.gz", data)


def load_fashion_mnist(
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    num_images: int | None = None,
    classes: Classes = None,
    download: bool = False,
) -> ImageSet:
    """Load the whole Fashion-MNIST, verified against the published bytes.

    Parameters
    ----------
    split : "train" or "test"
        60,000 or 10,000 images of 28 x 28 pixels, one channel.
    root : path, optional
        The only place to look at, when given. Else, in this order: the folder in the environment variable
        ``CRITJAX_DATA``, ``/usr/share/datasets/fashion-mnist`` (Debian package ``dataset-fashion-mnist``),
        the user's cache. Each may hold the files themselves, in a folder ``fashion-mnist``, or as torchvision
        leaves them in ``FashionMNIST/raw``; gzipped or not.
    num_images : int, optional
        Keep the first so many, counted after ``classes``.
    classes : sequence of int or str, optional
        Keep these classes, by index or by name; labels keep their numbers.
    download : bool
        Fetch what is missing, 31 MB at most, into ``root`` or the user's cache; verified before it is stored.

    Returns
    -------
    ImageSet
        float32 images (N, 28, 28, 1), value v/127.5 - 1 for the byte v; labels 0..9; in the order of the
        files.

    Raises
    ------
    FileNotFoundError
        If a file is nowhere; the message lists the places and the remedies.
    ConnectionError
        If a download fails.
    ValueError
        If an argument is wrong, or a file is truncated, damaged, or of another data set.

    Notes
    -----
    Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747. About a second and 400 MB for the training split.

    Example
    -------
    >>> load_fashion_mnist("test", num_images=500, classes=["Bag"]).images.shape  # doctest: +SKIP
    (500, 28, 28, 1)
    """
    check_option("split", split, ("train", "test"))
    num_images = checked_number(num_images)
    indices = class_indices(classes, FASHION_MNIST_CLASSES)
    directories = _directories(root)
    prefix = {"train": "train", "test": "t10k"}[split]
    arrays = []
    for name in (f"{prefix}-labels-idx1-ubyte", f"{prefix}-images-idx3-ubyte"):
        path = _find(name, directories)
        if path is None and download:
            path = _fetch(name, _cache_directory() if root is None else Path(root))
        if path is None:
            places = ", ".join(dict.fromkeys(str(d) for d in directories))
            remedy = "install dataset-fashion-mnist (Debian, Ubuntu), set CRITJAX_DATA to a folder that holds it, or "
            remedy += (
                "in Python pass download=True or root=; embedded_fashion_mnist() has 1,000 that need no file"
            )
            files = f"{name} or {name}.gz"
            raise FileNotFoundError(message("Fashion-MNIST", files, f"none in {places}", remedy))
        data = decompressed(path, str(path))
        array = parse_idx(data, str(path))  # first, because it knows a truncated file from another one
        _verify(data, name, str(path))
        arrays.append(array)
    labels, images = arrays
    keep = choose(labels, len(labels), num_images, indices)
    images = from_bytes(images[keep][..., None])
    return ImageSet(images, labels[keep].astype(np.int32), f"fashion-mnist-{split}", FASHION_MNIST_CLASSES)


def embedded_fashion_mnist(num_images: int | None = None, classes: Classes = None) -> ImageSet:
    """Load the 1,000 training images of Fashion-MNIST that come with the package.

    Parameters
    ----------
    num_images : int, optional
        Keep the first so many, counted after ``classes``; at most 100 per class.
    classes : sequence of int or str, optional
        Keep these classes, by index or by name; labels keep their numbers.

    Returns
    -------
    ImageSet
        float32 images (N, 28, 28, 1) in [-1, 1], the first 100 of each class of the training split, one class
        after the other in turn: among the first n images, the numbers per class differ by one at most.

    Raises
    ------
    ValueError
        If an argument is wrong or asks for more than there is.

    Notes
    -----
    Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747; MIT licence, shipped beside the file. Needs no network.

    Example
    -------
    >>> bags = embedded_fashion_mnist(60, classes=["Bag"])
    >>> bags.images.shape, bags.labels[:3].tolist()
    ((60, 28, 28, 1), [8, 8, 8])
    """
    num_images = checked_number(num_images)
    indices = class_indices(classes, FASHION_MNIST_CLASSES)
    stored = resources.files("critjax").joinpath("_embedded", "fashion_mnist_1000.npz").read_bytes()
    with np.load(io.BytesIO(stored), allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    try:
        keep = choose(labels, len(labels), num_images, indices)
    except ValueError as error:
        raise ValueError(f"{error}, or use load_fashion_mnist for all 60,000") from None
    images = from_bytes(images[keep][..., None])
    return ImageSet(images, labels[keep].astype(np.int32), "fashion-mnist-1000", FASHION_MNIST_CLASSES)
