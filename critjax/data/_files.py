"""The user's own images, and the one front door to every data set."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from critjax._checks import check, check_option, message, printable
from critjax.data._fashion_mnist import (
    FASHION_MNIST_CLASSES,
    Classes,
    ImageSet,
    checked_number,
    choose,
    class_indices,
    embedded_fashion_mnist,
    from_bytes,
    load_fashion_mnist,
)
from critjax.data._reading import (
    FORMATS,
    check_regular,
    decompressed,
    image_suffixes,
    parse_idx,
    read_arrays,
    read_frames,
)

Range = Sequence[float | int] | None
#: Each class has a name, so a label of 2^40 must not make that many.
MOST_CLASSES = 2**16


def _rescale(images: np.ndarray, value_range: Range, source: str) -> np.ndarray:
    """Map the images to float32 in [-1, 1] by the rules of `load_images`, or raise."""
    kind = images.dtype.kind
    if kind == "f":
        bad = int(images.size - np.count_nonzero(np.isfinite(images)))
        check(bad == 0, source, "finite values", f"{bad} non-finite of {images.size}", "repair those entries")
    low, high = float(images.min()), float(images.max())
    found = f"{images.dtype} values from {low:g} to {high:g}"
    if value_range is None:
        if images.dtype == np.uint8:
            return from_bytes(images)
        if kind == "b":
            value_range = (0.0, 1.0)
        else:
            certain = kind == "f" and -1 <= low < 0 and high <= 1
            expected = "uint8, or floats within [-1, 1] of which some are below 0"
            check(certain, source, expected, found, "pass value_range=(low, high), e.g. (0, 1)")
            return images.astype(np.float32)
    black, white = value_range
    inside = black <= low and high <= white
    check(inside, source, f"values within value_range ({black:g}, {white:g})", found, "pass the true range")
    scaled = (images.astype(np.float64) - black) * (2 / (white - black)) - 1
    return np.clip(scaled, -1, 1).astype(np.float32)  # rounding alone can leave the interval


def _with_channels(images: np.ndarray, source: str) -> np.ndarray:
    shape = images.shape
    good = len(shape) in (3, 4) and 0 not in shape
    check(good, source, "shape (N, H, W) or (N, H, W, C)", f"shape {shape}", "add axes with reshape")
    if len(shape) == 3:
        one = min(shape[:2]) > 4 and shape[2] in (1, 3, 4)
        expected, advice = (
            "shape (N, H, W) or (N, H, W, C)",
            "pass images[None], or for many images[..., None]",
        )
        check(not one, source, expected, f"shape {shape}, as of one picture with its channels", advice)
        return images[..., None]
    first = shape[3] > 4 and ((shape[1] <= 4 and shape[2] > 4) or shape[2] == shape[3] != shape[1])
    check(not first, source, "channels last", f"shape {shape}", "move them with np.moveaxis(images, 1, -1)")
    return images


def _read_image(path: Path) -> np.ndarray:
    """Read the one picture of a file of a folder."""
    frames = read_frames(path, str(path))
    check(
        len(frames) == 1,
        str(path),
        "one picture",
        f"{len(frames)} frames",
        "split it, or pass this file alone",
    )
    return frames[0]


def _list_folder(path: Path) -> tuple[list[Path], np.ndarray | None, tuple[str, ...]]:
    """List the image files of a folder; of subfolders, one of each class in turn. What is left out is told."""
    left: list[str] = []

    def images_in(folder: Path) -> list[Path]:
        found = []
        for file in sorted(folder.iterdir()):
            hidden = file.name.startswith((".", "__MACOSX"))
            if not hidden and file.is_dir() and folder == path:
                continue
            if not hidden and file.suffix.lower() in image_suffixes() and file.is_file():
                found.append(file)
            else:
                broken = " (a broken link)" if file.is_symlink() and not file.exists() else ""
                left.append(f"{file.relative_to(path)}{broken}")
        return found

    flat = images_in(path)
    visible = (f for f in sorted(path.iterdir()) if f.is_dir() and not f.name.startswith((".", "__MACOSX")))
    groups = {f.name: images_in(f) for f in visible}
    groups = {name: files for name, files in groups.items() if files}
    if left:
        shown = ", ".join(left[:4]) + (", ..." if len(left) > 4 else "")
        warnings.warn(printable(f"{path}: {len(left)} other entries are left out: {shown}"), stacklevel=1)
    expected = f"image files ({', '.join(FORMATS)})"
    check(bool(flat or groups), str(path), expected, "none", "check the path")
    mixed = f"{len(flat)} files beside folders {sorted(groups)}"
    check(not (flat and groups), str(path), "files or class folders, not both", mixed, "move one kind away")
    if flat:
        return flat, None, ()
    members = enumerate(groups.values())
    order = sorted((rank, label, file) for label, files in members for rank, file in enumerate(files))
    return [f for _, _, f in order], np.array([label for _, label, _ in order]), tuple(groups)


def _read_other(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a file of arrays: of numpy, or IDX as MNIST is published; name other kinds that hold pictures."""
    source, suffix = str(path), path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return read_arrays(path, source)
    with path.open("rb") as file:
        start = file.read(4)
    advice = "copy or write it again"
    if start[:3] == b"\0\0\x08" or start[:2] == b"\x1f\x8b":
        return parse_idx(decompressed(path, source, advice), source, advice), None
    kinds = {
        b"\x80": "a Python pickle, as of CIFAR, which may run code",
        b"PK": "a zip archive",
        b"\x89HDF": "HDF5",
    }
    got = next((f"{source}, {kind}" for head, kind in kinds.items() if start.startswith(head)), source)
    expected = "a folder, an image, .npy, .npz or IDX"
    raise ValueError(message("path", expected, got, "convert the file, e.g. with np.savez(images=...)"))


def images_digest(name_or_path: str | os.PathLike[str]) -> str | None:
    """Return the SHA-256 of the files that `load_dataset` reads, by which two states of one path are told apart.

    None for a named data set, whose bytes the loaders know, and for a path that does not exist.
    """
    path = Path(name_or_path)
    if name_or_path == "fashion-mnist" or not os.path.exists(path):
        return None
    digest = hashlib.sha256()
    for file in _list_folder(path)[0] if path.is_dir() else [path]:
        digest.update(f"{file.relative_to(path)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _check_range(value_range: Range) -> Range:
    if value_range is None:
        return None
    try:
        black, white = (float(v) for v in value_range)
        good = math.isfinite(black) and math.isfinite(white) and black < white
    except (TypeError, ValueError):
        good = False
    expected = "two finite numbers (low, high), low < high"
    check(good, "value_range", expected, repr(value_range), "pass e.g. (0, 1)")
    return black, white


def load_images(
    path: str | os.PathLike[str],
    *,
    value_range: Range = None,
    num_images: int | None = None,
    classes: Classes = None,
) -> ImageSet:
    """Load images from a numpy file or a folder, and map a stated range of values to [-1, 1].

    Parameters
    ----------
    path : path
        One of: a ``.npy`` file of shape (N, H, W) or (N, H, W, C); a ``.npz`` file with an array ``images``
        (or a single array) of such a shape and optionally integer ``labels`` (N,); an IDX file of images, gzipped or
        not; one image file, every frame of which is an image; a folder of image files of one size and one number of
        channels, taken in the order of their names; a folder of such folders, one per class, from which the images
        are taken in turn, so that every prefix is nearly balanced. Pictures are turned upright as their EXIF data say.
        What a folder holds besides, hidden files among it, is left out with a warning.
    value_range : (low, high), optional
        What is mapped to (-1, 1), linearly. Values outside are an error; nothing is clipped. Without it:
        ``uint8`` is mapped by v/127.5 - 1; booleans to -1 and 1; floats are taken unchanged if all lie within
        [-1, 1] and at least one is negative; anything else is an error that names the range found.
    num_images : int, optional
        Keep the first so many, counted after ``classes``.
    classes : sequence of int or str, optional
        Keep these classes; for a folder by index or folder name, for a ``.npz`` by label. Labels keep their
        numbers.

    Returns
    -------
    ImageSet
        float32 images (N, H, W, C), C = 1 for greyscale, named after the file or folder.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ValueError, TypeError
        If the content is no set of equal images, its range of values is not certain, or a small file claims to become
        large: more than 256 MiB and than a hundred times its size.

    Notes
    -----
    An array is read whole, also when ``num_images`` is small; of a folder only the files that are kept.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/ramp.npy", np.linspace(0, 10, 24).reshape(2, 3, 4))
    ...     ramp = load_images(f"{folder}/ramp.npy", value_range=(0, 10))
    >>> ramp.images.shape, float(ramp.images.min()), float(ramp.images.max())
    ((2, 3, 4, 1), -1.0, 1.0)
    """
    value_range, num_images, path = _check_range(value_range), checked_number(num_images), Path(path)
    if not os.path.exists(path):
        raise FileNotFoundError(message("path", "a file or folder", str(path), "check the spelling"))
    source, suffix, name = str(path), path.suffix.lower(), printable(path.stem)
    check_regular(path, source)
    if path.is_dir():
        files, labels, class_names = _list_folder(path)
        keep = choose(labels, len(files), num_images, class_indices(classes, class_names))
        arrays = [_read_image(files[i]) for i in keep]
        for i, array in zip(keep, arrays, strict=True):
            kinds = [f"{a.dtype} of shape {a.shape}" for a in (arrays[0], array)]
            expected = f"{kinds[0]} like {files[keep[0]].name}"
            check(kinds[0] == kinds[1], str(files[i]), expected, kinds[1], "resize or convert it")
        images = _rescale(np.stack(arrays), value_range, source)
        labels = None if labels is None else labels[keep]
        name = printable(path.name)
    else:
        array, labels = (read_frames(path, source), None) if suffix in image_suffixes() else _read_other(path)
        images = _rescale(_with_channels(array, source), value_range, source)
        class_names = ()
        if labels is not None:
            integers = labels.shape == images.shape[:1] and labels.dtype.kind in "ui"
            good = integers and bool(labels.min() >= 0)
            got = f"{labels.dtype} of shape {labels.shape}"
            expected = f"integers >= 0 of shape ({len(images)},)"
            check(good, f"{source}: labels", expected, got, "one class index each")
            most, good = f"labels below {MOST_CLASSES}", bool(labels.max() < MOST_CLASSES)
            check(good, f"{source}: labels", most, labels.max(), "count classes from 0")
            class_names = tuple(str(i) for i in range(int(labels.max()) + 1))
        keep = choose(labels, len(images), num_images, class_indices(classes, class_names))
        images, labels = images[keep], None if labels is None else labels[keep]
    return ImageSet(images, None if labels is None else labels.astype(np.int32), name, class_names)


def load_dataset(
    name_or_path: str | os.PathLike[str],
    *,
    split: str = "train",
    num_images: int | None = None,
    classes: Classes = None,
    value_range: Range = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> ImageSet:
    """Load a named data set or the user's own images: one front door for studies and the command line.

    Parameters
    ----------
    name_or_path : str or path
        ``"fashion-mnist"``, or anything `load_images` reads. The string wins over a folder of that name; pass
        ``Path("fashion-mnist")`` for the folder.
    split, root, download
        For ``"fashion-mnist"``; see `load_fashion_mnist`. The images embedded in the package are used unless
        one of these three is set or more images are asked for than they have (1,000, or 100 per chosen
        class).
    num_images, classes
        As in the loaders.
    value_range : (low, high), optional
        For paths; see `load_images`.

    Returns
    -------
    ImageSet
        float32 images (N, H, W, C) in [-1, 1].

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError, TypeError
        As the loaders; a name that is neither known nor a path lists the known names.

    Example
    -------
    >>> load_dataset("fashion-mnist", num_images=60).images.shape
    (60, 28, 28, 1)
    """
    num_images = checked_number(num_images)
    if name_or_path == "fashion-mnist":
        check(value_range is None, "value_range", "None for a named data set", value_range, "drop it")
        check_option("split", split, ("train", "test"))
        indices = class_indices(classes, FASHION_MNIST_CLASSES)
        embedded = 100 * len(FASHION_MNIST_CLASSES if indices is None else set(indices))
        if split == "train" and root is None and not download and (num_images or 0) <= embedded:
            return embedded_fashion_mnist(num_images, classes)
        return load_fashion_mnist(split, root=root, num_images=num_images, classes=classes, download=download)
    if not os.path.exists(name_or_path):
        expected, got = "'fashion-mnist' or an existing file or folder", repr(str(name_or_path))
        raise FileNotFoundError(message("name_or_path", expected, got, "check the spelling"))
    options = {"split": split != "train", "root": root is not None, "download": download}
    given = [name for name, was_set in options.items() if was_set]
    check(not given, ", ".join(given), "no option of Fashion-MNIST with a path", "one", "drop it")
    return load_images(name_or_path, value_range=value_range, num_images=num_images, classes=classes)
