"""One file of pictures, read with care: what it claims to hold is known, and fits the file, before memory is taken."""

from __future__ import annotations

import functools
import gzip
import io
import math
import os
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from critjax._checks import check, message, printable

#: What Pillow may take a file for: formats of pixels, none that an interpreter draws.
FORMATS = (
    *(
        "AVIF",
        "BMP",
        "DIB",
        "GIF",
        "JPEG",
        "JPEG2000",
        "MPO",
        "PCX",
        "PNG",
        "PPM",
        "QOI",
        "SGI",
        "TGA",
        "TIFF",
    ),
    "WEBP",
)
#: Bytes that a file may become whatever its size, and how many times its size beyond that.
SAFE_BYTES, SAFE_RATIO = 256 * 2**20, 100
#: Kinds of numbers that arrays of images and labels have.
NUMBERS = "buif"


def check_regular(path: Path, source: str) -> None:
    """Raise unless a path that exists is a file or a folder: no pipe or device, which may never end."""
    good = os.path.isfile(path) or os.path.isdir(path)
    check(good, source, "a file or a folder", "a pipe, socket or device", "copy it into a file")


def check_size(needed: int, size: int, source: str) -> None:
    """Raise if so small a file claims to become so many bytes."""
    got = f"{size:,} bytes that claim to become {needed:,}"
    expected = f"at most {SAFE_BYTES // 2**20} MiB, or {SAFE_RATIO} times the size of the file"
    check(needed <= max(SAFE_BYTES, SAFE_RATIO * size), source, expected, got, "store it uncompressed")


@functools.cache
def _formats() -> list[str]:
    """Return those of `FORMATS` that this Pillow can open; an MPO opens as JPEG."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the endings of files that hold one of `FORMATS`, in small letters."""
    from PIL import Image

    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def read_frames(path: Path, source: str) -> np.ndarray:
    """Read an image file as (frames, H, W, 1) or (frames, H, W, 3), upright; of a camera's MPO the main picture.

    A palette becomes RGB, opaque alpha is dropped.

    Raises
    ------
    ValueError
        If it is no image, has transparent pixels, or claims to be larger than such a file can be.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damage: what is left is an image, or is refused
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats()) as image:
                count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                check_size(count * math.prod(image.size) * 4, path.stat().st_size, source)
                frames = []
                for number in range(count):
                    image.seek(number)
                    frames.append(_pixels(ImageOps.exif_transpose(image), source))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            message(source, "an image of less than 89 million pixels", error, "crop it")
        ) from None
    except (
        OSError,
        EOFError,
        SyntaxError,
        TypeError,
        KeyError,
        IndexError,
        OverflowError,
        RuntimeError,
    ) as error:
        raise ValueError(message(source, "an image file", f"{error!r}", "remove or repair it")) from None
    except ValueError as error:
        if str(error).startswith(f"{printable(source)}: "):
            raise
        raise ValueError(message(source, "an image file", f"{error!r}", "remove or repair it")) from None
    kinds = sorted({f"{frame.dtype} of shape {frame.shape}" for frame in frames})
    check(len(kinds) == 1, source, "frames of one size and kind", ", ".join(kinds), "split the file")
    return np.stack(frames)


def _pixels(image: Any, source: str) -> np.ndarray:
    """Return the pixels of a frame (H, W, 1) or (H, W, 3)."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    elif "transparency" in image.info and image.mode in ("1", "L", "RGB"):  # a colour that stands for nothing
        image = image.convert("RGBA")
    mode, pixels = image.mode, np.asarray(image)
    if mode in ("LA", "RGBA"):
        opaque = bool(np.all(pixels[..., -1] == 255))
        check(opaque, source, "an opaque image", "transparent pixels", "flatten it on a background first")
        pixels, mode = pixels[..., :-1], mode[:-1]
    known = mode in ("1", "L", "RGB") or mode.startswith("I;16")
    check(known, source, "a greyscale or RGB image", f"mode {mode}", "convert it to RGB")
    return pixels[..., None] if pixels.ndim == 2 else pixels


def read_arrays(path: Path, source: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Read images and, where there are any, labels from a numpy file, or raise `ValueError`."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                file.seek(0)
                return _array(file, path.stat().st_size, path.stat().st_size, source), None
        with zipfile.ZipFile(path) as archive:
            members = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            names = [name for name in members if name != "labels"]
            key = "images" if "images" in names or len(names) != 1 else names[0]
            expected, got = "an array 'images' or one array only", ", ".join(names[:6]) or "none"
            check(key in members, source, expected, got, "name the images 'images'")
            arrays = {}
            for name in {key, "labels"} & members.keys():
                with archive.open(members[name]) as file:
                    arrays[name] = _array(file, members[name].file_size, path.stat().st_size, source)
    except (EOFError, OSError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        advice = "write it with np.save or np.savez"
        raise ValueError(message(source, "a numpy file", f"{error!r}", advice)) from None
    return arrays[key], arrays.get("labels")


def _array(file: Any, size: int, stored: int, source: str) -> np.ndarray:
    """Read one array whose header fits the ``size`` bytes that it takes, ``stored`` on the disk."""
    advice = "write it with np.save or np.savez"
    try:
        version = np.lib.format.read_magic(file)
        check(version[0] in (1, 2), source, "a numpy file", f"version {version}", advice)
        read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise ValueError(message(source, "a numpy file", f"{error!r}", advice)) from None
    if dtype.kind not in NUMBERS:
        raise TypeError(message(source, "numbers", f"dtype {dtype}", "convert to uint8 or float32"))
    needed, left = math.prod(shape) * dtype.itemsize, size - file.tell()
    got = f"{left:,} bytes"
    check(needed == left, source, f"{needed:,} bytes for shape {shape} of {dtype}", got, advice)
    check_size(needed, stored, source)
    array = np.frombuffer(file.read(needed), dtype)
    array = array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def decompressed(
    path: Path, source: str, advice: str = "delete it and install or download it again"
) -> bytes:
    """Read a raw or gzipped file, or raise `ValueError` that says what is wrong with it."""
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    most = max(SAFE_BYTES, SAFE_RATIO * len(data))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            found = file.read(most + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(message(source, "a whole gzip file", f"{error!r}", advice)) from None
    check_size(len(found), len(data), source)
    return found


def parse_idx(
    data: bytes, source: str, advice: str = "delete the file and install or download it again"
) -> np.ndarray:
    """Parse the IDX format of unsigned bytes: magic 0 0 8 rank, big-endian sizes, values."""
    good = len(data) >= 4 and data[:3] == b"\0\0\x08" and 1 <= data[3] <= 4 and len(data) >= 4 + 4 * data[3]
    check(good, source, "an IDX file of unsigned bytes", f"a file that starts {data[:4]!r}", advice)
    rank = data[3]
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", rank, 4))
    size, wanted = len(data) - 4 - 4 * rank, math.prod(shape)
    got = f"{size} (truncated or padded)"
    check(size == wanted, source, f"{wanted} values for shape {shape}", got, advice)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
