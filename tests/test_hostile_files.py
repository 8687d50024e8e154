"""Files from strangers: read right, or refused in one line before they take time or memory."""

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import critjax
from critjax.data import load_dataset, load_images
from critjax.networks import ClassifierConfig, load_classifier, load_network
from critjax.studies._engine.storage import read_settings
from critjax.studies.criticality import CriticalitySettings

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 8, 3), np.uint8)
SAVED = {
    **{
        "png": "PNG",
        "jpg": "JPEG",
        "jfif": "JPEG",
        "bmp": "BMP",
        "gif": "GIF",
        "tif": "TIFF",
        "webp": "WEBP",
    },
    **{"ppm": "PPM", "jp2": "JPEG2000", "tga": "TGA", "pcx": "PCX", "sgi": "SGI"},
}
LOSSLESS = ("png", "bmp", "tif", "ppm", "tga", "pcx", "sgi")


def encoded(kind, picture=PICTURE, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, SAVED[kind], **options)
    return file.getvalue()


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(compress=True, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue()


def header(shape, descr="|u1", order=False, version=1):
    """Return a numpy header that claims this."""
    text = repr({"descr": descr, "fortran_order": order, "shape": shape}).encode()
    text += b" " * (64 - (len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text


def zipped(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def zipped_zeros(gigabytes, shape):
    """Return a zip file of a few megabytes with one array of zeros."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(header(shape))
        for _ in range(int(gigabytes * 64)):
            member.write(bytes(2**24))
    return file.getvalue()


def png_claiming(width, height, depth=8, colour=2):
    """Return a PNG file with this header and next to no pixels."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def idx(shape, content=b"", kind=8):
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


def frames(kind, count=3, **options):
    file = io.BytesIO()
    first, *rest = (Image.fromarray(np.full((6, 8), 40 * n % 251, np.uint8)) for n in range(count))
    first.save(file, SAVED[kind], save_all=True, append_images=rest, **options)
    return file.getvalue()


def safetensors(text, content=b""):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(text)) + text + content


GLASS = np.concatenate([PICTURE, np.full((6, 8, 1), 99, np.uint8)], -1)
GREY = RNG.integers(0, 256, (5, 6, 8), np.uint8)
WHOLE = npy(GREY)
#: Names of files and what they hold, all to be refused.
IMAGES = {
    **{f"half.{kind}": encoded(kind)[: len(encoded(kind)) // 3] for kind in SAVED},
    **{f"empty.{kind}": b"" for kind in (*SAVED, "npy", "npz")},
    **{f"text.{kind}": b"hello, I am no picture" for kind in (*SAVED, "npy", "npz", "csv", "h5", "zip", "")},
    **{f"noise.{kind}": RNG.bytes(4000) for kind in (*SAVED, "npy", "npz", "bin")},
    **{
        f"script.{kind}": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
        for kind in ("png", "eps")
    },
    "keyed.png": encoded("png", transparency=tuple(PICTURE[0, 0].tolist())),
    "keyed-grey.png": encoded("png", PICTURE[..., 0], transparency=PICTURE[0, 0, 0].item()),
    "glass.png": encoded("png", GLASS),
    "glass.webp": encoded("webp", GLASS, lossless=True),
    "large.png": png_claiming(30_000, 30_000),
    "largest.png": png_claiming(2**31 - 1, 2**31 - 1),
    "bomb.png": png_claiming(9_000, 9_000),
    "narrow.png": png_claiming(1, 2**31 - 1),
    "none.png": png_claiming(0, 0),
    "deep.png": png_claiming(8, 8, 16, 6),
    "many.gif": frames("gif", 200)[:-900],
    "cut.npy": WHOLE[:-7],
    "long.npy": WHOLE + b"more",
    "header.npy": WHOLE[:20],
    "huge.npy": header((10**6, 1000, 1000)),
    "negative.npy": header((-1, 8, 8)) + bytes(64),
    "none.npy": header((0, 8, 8)),
    "overflow.npy": header((2**40, 2**40)),
    "deep-header.npy": header((1,) * 60),
    "pickle.npy": npy(np.array([{}, "x"], object), allow_pickle=True),
    "strings.npy": npy(np.array([["a", "b"]])),
    "complex.npy": npy(np.ones((3, 4, 5), complex)),
    "dates.npy": npy(np.zeros((3, 4, 5), "M8[s]")),
    "records.npy": npy(np.zeros((3, 4), [("a", "f4")])),
    "version.npy": header((1, 2, 3), version=9),
    "code.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 40) + b"__import__('os').abort()".ljust(39) + b"\n",
    "nan.npy": npy(np.full((2, 3, 4), np.nan)),
    "range.npy": npy(np.linspace(0, 300, 24).reshape(2, 3, 4)),
    "flat.npy": npy(np.zeros(7, np.uint8)),
    "five.npy": npy(np.zeros((1, 2, 3, 4, 5), np.uint8)),
    "one-photo.npy": npy(np.zeros((32, 32, 3), np.uint8)),
    "one-glass-photo.npy": npy(np.zeros((32, 32, 4), np.uint8)),
    "first.npy": npy(np.zeros((10, 3, 32, 32), np.uint8)),
    "latents.npy": npy(np.zeros((10, 4, 16, 16), np.float32) - 0.5),
    "wide-latents.npy": npy(np.zeros((10, 16, 32, 32), np.float32) - 0.5),
    "nothing.npz": npz(),
    "two.npz": npz(a=GREY, b=GREY),
    "labels.npz": npz(images=GREY, labels=np.array([0, 1, 2, 2**40, 1])),
    "few-labels.npz": npz(images=GREY, labels=np.arange(4)),
    "negative-labels.npz": npz(images=GREY, labels=np.array([0, -1, 2, 1, 0])),
    "float-labels.npz": npz(images=GREY, labels=np.zeros(5)),
    "name-labels.npz": npz(images=GREY, labels=np.array(list("abcde"))),
    "object-labels.npz": npz(images=GREY, labels=np.array([{}] * 5, object)),
    "cut.npz": npz(images=GREY)[:-30],
    "flipped.npz": npz(False, images=GREY).replace(GREY.tobytes()[:9], b"123456789"),
    "lies.npz": zipped("images.npy", header((1000, 1000, 1000)) + bytes(100)),
    "other.npz": zipped("readme.txt", b"hello"),
    "nested.npz": zipped("images.npy", zipped("images.npy", WHOLE)),
    "train-images-idx3-ubyte": idx((3, 4, 5), bytes(59)),
    "long-idx3-ubyte": idx((3, 4, 5), bytes(61)),
    "huge-idx3-ubyte": idx((2**31, 2**31, 2**31)),
    "rank-idx3-ubyte": idx((1,) * 9, b"x"),
    "labels-idx1-ubyte": idx((7,), bytes(7)),
    "cut-idx3-ubyte.gz": gzip.compress(idx((3, 4, 5), bytes(60)))[:-9],
    "text.gz": gzip.compress(b"hello"),
    "data_batch_1": b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03",
    "images.h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "set.zip": zipped("a.png", encoded("png")),
}


def refused(call, seconds=10.0):
    """Check how a call ends, and return the text."""
    began = time.monotonic()
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        call()
    assert time.monotonic() - began < seconds
    text = str(caught.value)
    assert ": expected " in text and ", got " in text and "; " in text, text
    assert text.isprintable() and "Traceback" not in text
    return text


@pytest.mark.parametrize("name", IMAGES)
def test_files_that_are_no_images(tmp_path, name):
    (tmp_path / name).write_bytes(IMAGES[name])
    text = refused(lambda: load_images(tmp_path / name))
    assert name in text or "path" in text


def test_there_are_enough_of_them():
    assert len(IMAGES) + len(NETWORKS) + len(PLACES) + len(RESULTS) >= 150


# --- Networks and classifiers

CONFIGS = {
    "dilations": {"dilations": [1] * 10**5},
    "far": {"dilations": [10**9]},
    "none": {"dilations": []},
    "number": {"dilations": 7},
    "text": {"dilations": "many"},
    "infinite": {"sigma_data": float("inf")},
    "nan": {"sigma_data": float("nan")},
    "zero": {"sigma_data": 0},
    "no-number": {"sigma_data": "one"},
    "null": {"sigma_data": None},
    "wide": {"width": 10**9},
    "wider": {"width": 10**30},
    "negative": {"width": -1},
    "fraction": {"width": 2.5},
    "deep": {"architecture": "unet", "multipliers": [1] * 1000},
    "blocks": {"architecture": "unet", "blocks": 10**6},
    "channels": {"channels": 2**40},
    "classes": {"num_classes": 2**40},
    "stem": {"stem": 2**20 + 1},
    "kind": {"architecture": "transformer"},
    "list-kind": {"architecture": ["local"]},
    "padding": {"padding": 3},
    "unknown": {"colour": "red"},
}
#: Texts in place of the configuration.
TEXTS = {
    "deep-json": "[" * 100_000,
    "list": "[1, 2]",
    "number": "7",
    "cut": '{"width": ',
    "digits": "9" * 5000,
}
NETWORKS = {
    "empty": b"",
    "zeros": bytes(64),
    "text": b"hello, I am no network" * 9,
    "noise": RNG.bytes(4000),
    "long-header": struct.pack("<Q", 2**60) + b"{}",
    "short-header": struct.pack("<Q", 200) + b"{}",
    "no-json": safetensors(b"not json"),
    "deep-json": safetensors(b"[" * 100_000),
    "no-metadata": safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "offsets": safetensors(
        {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}, bytes(4)
    ),
    "backwards": safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
    "overflow": safetensors(
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "negative": safetensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    "dtype": safetensors({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "duplicate": safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":7}', bytes(1)),
    **{
        f"config-{name}": safetensors({"__metadata__": {"critjax_config": json.dumps(changes)}})
        for name, changes in CONFIGS.items()
    },
    **{
        f"config-{name}": safetensors({"__metadata__": {"critjax_config": text}})
        for name, text in TEXTS.items()
    },
    "weightless": safetensors({"__metadata__": {"critjax_config": "{}"}}),
}


CLASSIFIERS = {
    "large": {"image_shape": [2**40, 1, 1]},
    "many": {"widths": [1] * 99},
    "number": {"widths": 7},
    "classes": {"num_classes": 2**40},
    "flat": {"image_shape": [8, 8]},
}


def network_outcomes(folder):
    """Print how loading each of the networks ended, and after how many seconds; in a process without type checks."""
    calls = {}
    for name, content in NETWORKS.items():
        path = Path(folder) / f"{name}.safetensors"
        path.write_bytes(content)
        calls[name] = lambda path=path: load_network(path)
        calls[f"classifier {name}"] = lambda path=path: load_classifier(path)
    for name, changes in CLASSIFIERS.items():
        calls[f"classifier {name}"] = lambda changes=changes: ClassifierConfig.from_json(json.dumps(changes))
    found = {}
    for name, call in calls.items():
        began, text = time.monotonic(), "loaded"
        try:
            call()
        except (ValueError, OSError) as error:
            text = str(error)
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        found[name] = text, time.monotonic() - began
    print(json.dumps(found))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    program = "import sys; sys.path.insert(0, sys.argv[1]); import test_hostile_files as t\n"
    program += "t.network_outcomes(sys.argv[2])"
    here = str(Path(__file__).parent)
    done = process(sys.executable, "-c", program, here, str(tmp_path_factory.mktemp("networks")))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [*NETWORKS, *(f"classifier {name}" for name in (*NETWORKS, *CLASSIFIERS))])
def test_files_that_are_no_networks(outcomes, name):
    text, seconds = outcomes[name]
    assert ": expected " in text and ", got " in text and "; " in text and text.isprintable(), text
    assert seconds < 10


# --- Results

RESULTS = {
    "empty": b"",
    "text": b"hello",
    "noise": RNG.bytes(5000),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(2000),
    "stamp": b"x\ncritjax digest " + b"0" * 32 + b"\n",
}


@pytest.mark.parametrize("name", RESULTS)
def test_files_that_are_no_results(tmp_path, name):
    (tmp_path / "results.nc").write_bytes(RESULTS[name])
    refused(lambda: read_settings(tmp_path / "results.nc", CriticalitySettings))


# --- Places


def loop(folder):
    (folder / "loop.png").symlink_to(folder / "loop.png")
    return folder / "loop.png"


def broken(folder):
    (folder / "set").mkdir()
    (folder / "set" / "a.png").symlink_to(folder / "nowhere.png")
    return folder / "set"


def pipe(folder, name="pipe.npy"):
    os.mkfifo(folder / name)
    return folder / name


def empty(folder):
    (folder / "set").mkdir()
    return folder / "set"


def hidden(folder):
    (folder / "set" / ".ipynb_checkpoints").mkdir(parents=True)
    for name in (".ipynb_checkpoints/a.png", "._b.png"):
        (folder / "set" / name).write_bytes(encoded("png"))
    return folder / "set"


def multipage(folder):
    (folder / "set").mkdir()
    (folder / "set" / "a.tif").write_bytes(frames("tif"))
    return folder / "set"


PLACES = {
    "pipe": pipe,
    "pipe-png": lambda folder: pipe(folder, "pipe.png"),
    "device": lambda folder: Path("/dev/zero"),
    "device-null": lambda folder: Path("/dev/null"),
    "loop": loop,
    "broken": broken,
    "empty": empty,
    "hidden": hidden,
    "multipage": multipage,
    "nowhere": lambda folder: folder / "nowhere.npy",
    "below-a-file": lambda folder: Path(__file__) / "a.png",
    "control": lambda folder: folder / "a\x1b[31m\n\rb.npy",
    "bytes": lambda folder: folder / os.fsdecode(b"\xff\xfe.npy"),
    "long": lambda folder: folder / ("a" * 300 + ".npy"),
    "zero-byte": lambda folder: folder / "a\0b.npy",
}


@pytest.mark.parametrize("name", PLACES)
def test_places_that_hold_no_images(tmp_path, name):
    path = PLACES[name](tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = refused(lambda: load_images(path))
    assert {"control": "\\x1b[31m", "bytes": "\\udcff"}.get(name, "expected") in text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(lambda: load_dataset(path))
    if name != "multipage":
        refused(lambda: load_network(path))


# --- What is legal, against numpy


@pytest.mark.parametrize("kind", SAVED)
def test_every_kind_of_picture_that_pillow_reads(tmp_path, kind):
    smooth = np.broadcast_to(np.linspace(20, 220, 32).astype(np.uint8)[:, None, None], (32, 32, 3)).copy()
    picture = PICTURE if kind in LOSSLESS else smooth
    (tmp_path / f"a.{kind}").write_bytes(encoded(kind, picture))
    found = load_images(tmp_path / f"a.{kind}").images[0]
    error = np.abs(found - (picture / 127.5 - 1)).max()
    assert error < (1e-6 if kind in LOSSLESS else 0.1)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / f"a.{kind}").write_bytes(encoded(kind, picture))
    np.testing.assert_array_equal(load_images(tmp_path / "set").images[0], found)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a.swapaxes(0, 1), 2)),
        (8, np.rot90),
    ],
)
def test_pictures_are_upright(tmp_path, orientation, upright):
    """What the tag says of the stored rows and columns: Exif 2.3, tag 274."""
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / "a.png").write_bytes(encoded("png", exif=exif.tobytes()))
    np.testing.assert_allclose(
        load_images(tmp_path / "a.png").images[0], upright(PICTURE) / 127.5 - 1, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["gif", "tif"])
def test_every_frame_of_a_file_is_an_image(tmp_path, kind):
    (tmp_path / f"a.{kind}").write_bytes(frames(kind))
    found = load_images(tmp_path / f"a.{kind}").images
    assert found.shape[0] == 3
    np.testing.assert_allclose(found[:, 2, 3, 0], np.array([0, 40, 80]) / 127.5 - 1, atol=0.02)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_of_pictures(tmp_path, suffix):
    content = idx(GREY.shape, GREY.tobytes())
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    np.testing.assert_allclose(load_images(path).images[..., 0], GREY / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("array", [np.asfortranarray(GREY), GREY.astype(">u2"), GREY[:, ::-1]])
def test_arrays_in_any_order_of_bytes_and_axes(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_allclose(
        load_images(tmp_path / "a.npy", value_range=(0, 255)).images[..., 0], array / 127.5 - 1, atol=1e-6
    )


def test_what_is_left_out_of_a_folder_is_told(tmp_path):
    folder = hidden(tmp_path)
    (folder / "real.png").write_bytes(encoded("png"))
    (folder / "notes\x07.txt").write_text("mine")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    names = r"\._b\.png, \.ipynb_checkpoints, gone\.png \(a broken link\), notes\\x07"
    expected = f"set: 4 other entries are left out: {names}"
    with pytest.warns(UserWarning, match=expected):
        assert len(load_images(folder).images) == 1


# --- Memory and the command line, in processes of their own

BOMBS = {
    "images.npz": lambda: zipped_zeros(5, (5 * 2**30 // 784, 28, 28)),
    "true.npz": lambda: zipped_zeros(1, (2**20, 32, 32)),
    "images.gz": lambda: gzip.compress(idx((2**20, 32, 32), bytes(2**30)), 1),
    "images.png": lambda: png_claiming(9_400, 9_400),
    "images.npy": lambda: header((10**6, 1000, 1000)),
}
PROGRAM = """
import resource, sys
from critjax.data import load_images
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_images(sys.argv[1])
except (ValueError, OSError) as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def process(*words, **options):
    root = str(Path(critjax.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_no_memory(tmp_path, name):
    (tmp_path / name).write_bytes(BOMBS[name]())
    began = time.monotonic()
    done = process(sys.executable, "-c", PROGRAM, str(tmp_path / name))
    text, kilobytes = done.stdout.splitlines()
    assert ": expected " in text and int(kilobytes) < 500_000
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_the_command_line_tells_what_is_left_out(tmp_path):
    """And goes on: what fails is the number of images."""
    folder = hidden(tmp_path)
    (folder / "real.png").write_bytes(encoded("png"))
    words = (
        "criticality",
        "--bank",
        str(folder),
        "--num-images",
        "2",
        "--no-progress",
        "--out",
        f"{tmp_path}/run",
    )
    told, refusal = process(sys.executable, "-m", "critjax", *words).stderr.splitlines()
    assert told == f"critjax: {folder}: 2 other entries are left out: ._b.png, .ipynb_checkpoints"
    assert refusal.startswith("critjax: error: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text.png", "data_batch_1", "pickle.npy", "lies.npz", "one-photo.npy"])
def test_the_command_line_says_it_in_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(IMAGES[name])
    words = ("criticality", "--bank", str(tmp_path / name), "--no-progress", "--out", str(tmp_path / "run"))
    done = process(sys.executable, "-m", "critjax", *words)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("critjax: error: ")
    assert not (tmp_path / "run").exists()
