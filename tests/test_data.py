"""Image loaders: bytes against hand-written files, the search order, downloads that fail, stated ranges."""

import gzip
import hashlib
import importlib.util
import inspect
import os
import struct
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from critjax.data import (
    FASHION_MNIST_CLASSES,
    _fashion_mnist,
    embedded_fashion_mnist,
    load_dataset,
    load_fashion_mnist,
    load_images,
)

REPOSITORY = Path(__file__).parents[1]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
published = pytest.mark.skipif(not DEBIAN.is_dir(), reason="package dataset-fashion-mnist is not installed")
IMAGES_SHA256 = "7576fdcdddc8f8d97d68a93a5d235e23f2c25a64e4bd2bba19ae7f0af49d45f7"
LABELS_SHA256 = "793e48347f02ec9f49b10d30a93de91d185c4cfb957f09d953b1576548404082"
SHAPES = {"train": (30, 28, 28), "t10k": (12, 28, 28)}


def idx_bytes(array):
    """The IDX format, written from its description: 0 0 8 rank, big-endian sizes, row-major bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_files(seed):
    """Return {name: raw bytes} of a data set with the format of Fashion-MNIST, and its arrays."""
    rng, files, arrays = np.random.default_rng(seed), {}, {}
    for prefix, shape in SHAPES.items():
        images = rng.integers(0, 256, shape, np.uint8)
        labels = rng.permutation(np.arange(shape[0]) % 10).astype(np.uint8)
        files[f"{prefix}-images-idx3-ubyte"], files[f"{prefix}-labels-idx1-ubyte"] = map(
            idx_bytes, (images, labels)
        )
        arrays[prefix] = images, labels
    return files, arrays


def write(files, folder, *, compress=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / (name + ".gz" * compress)).write_bytes(gzip.compress(data) if compress else data)
    return folder


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Make the library take a small data set for the published one, with no real folder in reach."""
    files, arrays = small_files(0)
    monkeypatch.setattr(
        _fashion_mnist, "_SHA256", {n: hashlib.sha256(d).hexdigest() for n, d in files.items()}
    )
    monkeypatch.setattr(_fashion_mnist, "_DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(_fashion_mnist, "_cache_directory", lambda: tmp_path / "cache")
    monkeypatch.delenv("CRITJAX_DATA", raising=False)
    return files, arrays


# ---------------------------------------------------------------- Fashion-MNIST from files


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_every_byte_arrives(small, tmp_path, compress, split, prefix):
    files, arrays = small
    loaded = load_fashion_mnist(split, root=write(files, tmp_path / "here", compress=compress))
    images, labels = arrays[prefix]
    assert loaded.images.dtype == np.float32
    assert loaded.labels.dtype == np.int32
    np.testing.assert_array_equal(loaded.labels, labels)
    np.testing.assert_allclose(loaded.images[..., 0], images / 127.5 - 1, atol=1e-7)
    assert (loaded.name, loaded.class_names) == (f"fashion-mnist-{split}", FASHION_MNIST_CLASSES)


@pytest.mark.parametrize("inner", ["", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("compress", [True, False])
def test_known_layouts_below_a_root(small, tmp_path, inner, compress):
    files, arrays = small
    write(files, tmp_path / "data" / inner, compress=compress)
    np.testing.assert_array_equal(load_fashion_mnist(root=str(tmp_path / "data")).labels, arrays["train"][1])


def test_search_order_is_root_environment_debian_cache(small, tmp_path, monkeypatch):
    monkeypatch.setattr(_fashion_mnist, "_verify", lambda *a: None)  # the places must differ to be told apart
    places = [tmp_path / name for name in ("root", "environment", "debian", "cache")]
    labels = []
    for seed, place in enumerate(places):
        files, arrays = small_files(seed + 10)
        write(files, place)
        labels.append(arrays["train"][1])
    monkeypatch.setenv("CRITJAX_DATA", str(places[1]))
    np.testing.assert_array_equal(load_fashion_mnist(root=places[0]).labels, labels[0])
    for place, expected in zip(places[1:], labels[1:], strict=True):
        np.testing.assert_array_equal(load_fashion_mnist().labels, expected)
        for file in place.iterdir():
            file.unlink()
    with pytest.raises(FileNotFoundError):
        load_fashion_mnist()


def test_selection_keeps_order_and_labels(small, tmp_path):
    files, arrays = small
    root = write(files, tmp_path / "here")
    images, labels = arrays["train"]
    chosen = load_fashion_mnist(root=root, classes=["Bag", 2], num_images=5)
    positions = [i for i in range(30) if labels[i] in (8, 2)][:5]
    np.testing.assert_array_equal(chosen.labels, labels[positions])
    np.testing.assert_allclose(chosen.images[..., 0], images[positions] / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(load_fashion_mnist(root=root, num_images=7).labels, labels[:7])


def test_missing_files_name_places_and_remedies(small, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_fashion_mnist("test")
    text = str(caught.value)
    for part in (
        "t10k-labels-idx1-ubyte",
        str(tmp_path / "debian"),
        str(tmp_path / "cache"),
        "download=True",
        "set CRITJAX_DATA to a folder",
    ):
        assert part in text
    with pytest.raises(FileNotFoundError, match=r"none in .*elsewhere.*FashionMNIST/raw; install dataset"):
        load_fashion_mnist(root=tmp_path / "elsewhere")


def test_a_given_root_is_the_only_place(small, tmp_path):
    write(small[0], tmp_path / "debian")
    assert len(load_fashion_mnist().labels) == 30
    with pytest.raises(FileNotFoundError):
        load_fashion_mnist(root=tmp_path / "empty")


def test_damaged_files_say_what_is_wrong(small, tmp_path):
    files, _ = small
    name = "train-images-idx3-ubyte"
    raw, packed = files[name], gzip.compress(files[name])
    root = write(files, tmp_path / "here")
    path = root / f"{name}.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(
        ValueError, match=r"images-idx3-ubyte\.gz: expected a whole gzip file, got .*; delete it"
    ):
        load_fashion_mnist(root=root)
    path.write_bytes(packed[:40] + bytes(64) + packed[104:])
    with pytest.raises(ValueError, match="expected a whole gzip file"):
        load_fashion_mnist(root=root)
    path.write_bytes(raw[:-100])
    with pytest.raises(
        ValueError, match=r"expected 23520 values for shape \(30, 28, 28\), got 23420 \(truncated"
    ):
        load_fashion_mnist(root=root)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(
        ValueError, match=r"expected an IDX file of unsigned bytes, got a file that starts b'<htm'"
    ):
        load_fashion_mnist(root=root)
    path.write_bytes(raw[:3])
    with pytest.raises(ValueError, match="expected an IDX file of unsigned bytes"):
        load_fashion_mnist(root=root)
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))  # one bit
    with pytest.raises(ValueError, match=r"expected the published train-images-idx3-ubyte .* got SHA-256"):
        load_fashion_mnist(root=root)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"split": "valid"}, "split: expected 'train' or 'test', got 'valid'"),
        ({"num_images": 0}, "num_images: expected an integer >= 1, got 0"),
        ({"num_images": True}, "num_images: expected an integer >= 1, got True"),
        ({"classes": ["Hat"]}, r"classes: expected names or indices among \{0: 'T-shirt/top', .* got 'Hat'"),
        ({"classes": [10]}, "classes: expected names or indices .* got 10"),
        ({"classes": [-1]}, "classes: expected names or indices .* got -1"),
        ({"classes": []}, "classes: expected names or indices .* got an empty list"),
    ],
)
def test_arguments_are_checked_before_any_file_is_looked_for(small, arguments, text):
    with pytest.raises(ValueError, match=text):  # a search would raise FileNotFoundError
        load_fashion_mnist(**arguments)


@pytest.mark.parametrize("entry", [1.5, 1.0, True, None])
def test_a_class_is_a_name_or_a_whole_number(entry):
    with pytest.raises(ValueError, match=f"classes: expected names or indices .* got {entry}; choose"):
        inspect.unwrap(_fashion_mnist.class_indices)([entry], FASHION_MNIST_CLASSES)


def test_asking_for_too_many_says_how_many_there_are(small, tmp_path):
    root = write(small[0], tmp_path / "here")
    with pytest.raises(
        ValueError, match=r"num_images: expected no more images than there are, got 31 of 30; ask"
    ):
        load_fashion_mnist(root=root, num_images=31)
    with pytest.raises(
        ValueError, match="no more images than the chosen classes have, got 4 of 3; ask for at most 3"
    ):
        load_fashion_mnist(root=root, num_images=4, classes=[0])


# ---------------------------------------------------------------- downloads


@pytest.fixture
def server(small, tmp_path, monkeypatch):
    folder = write(small[0], tmp_path / "server")
    monkeypatch.setattr(_fashion_mnist, "_URL", folder.as_uri() + "/")
    return folder


def test_download_fills_the_cache_once(small, server, tmp_path, monkeypatch):
    loaded = load_fashion_mnist(download=True)
    np.testing.assert_array_equal(loaded.labels, small[1]["train"][1])
    names = ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == names
    assert (tmp_path / "cache" / names[0]).read_bytes() == (server / names[0]).read_bytes()
    monkeypatch.setattr(_fashion_mnist, "_URL", "file:///nowhere/")
    np.testing.assert_array_equal(load_fashion_mnist(download=True).images, loaded.images)
    np.testing.assert_array_equal(load_fashion_mnist().images, loaded.images)


def test_download_goes_to_the_root_that_is_given(small, server, tmp_path):
    load_fashion_mnist("test", root=tmp_path / "mine" / "deep", download=True)
    assert len(list((tmp_path / "mine" / "deep").iterdir())) == 2
    assert not (tmp_path / "cache").exists()


def test_a_bad_download_leaves_nothing_behind(small, server, tmp_path, monkeypatch):
    path = server / "train-labels-idx1-ubyte.gz"
    good = path.read_bytes()
    path.write_bytes(good[:-12])
    with pytest.raises(ValueError, match=r"file://.*expected a whole gzip file"):
        load_fashion_mnist(download=True)
    path.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ValueError, match=r"file://.*expected the published train-labels-idx1-ubyte"):
        load_fashion_mnist(download=True)
    path.unlink()
    with pytest.raises(
        ConnectionError, match=r"download: expected a file at file://.*check the network, or put"
    ):
        load_fashion_mnist(download=True)
    assert not list(tmp_path.glob("cache/*"))
    path.write_bytes(good)

    def full_disk(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="disk full"):
        load_fashion_mnist(download=True)
    assert not list(tmp_path.glob("cache/*"))
    assert not list(tmp_path.glob("cache/.*"))


def test_an_interrupted_connection_is_reported(small, monkeypatch):
    import http.client
    import urllib.request

    def broken(*_, **__):
        raise http.client.IncompleteRead(b"half")

    monkeypatch.setattr(urllib.request, "urlopen", broken)
    with pytest.raises(ConnectionError, match="IncompleteRead"):
        load_fashion_mnist(download=True)


# ---------------------------------------------------------------- the embedded part


def test_embedded_bytes_are_those_of_the_training_set():
    """Digests of the arrays that a loop over the published files selects."""
    loaded = embedded_fashion_mnist()
    values = np.rint((loaded.images.astype(np.float64) + 1) * 127.5).astype(np.uint8)
    np.testing.assert_allclose(loaded.images, values / 127.5 - 1, atol=1e-7)
    assert values.shape == (1000, 28, 28, 1)
    assert hashlib.sha256(values.tobytes()).hexdigest() == IMAGES_SHA256
    assert hashlib.sha256(loaded.labels.astype(np.uint8).tobytes()).hexdigest() == LABELS_SHA256


def test_every_prefix_of_the_embedded_set_is_balanced():
    labels = embedded_fashion_mnist().labels
    for n in range(1, 1001):
        counts = np.bincount(labels[:n], minlength=10)
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(labels[::10], np.zeros(100))


def test_embedded_selection_and_its_limits():
    everything = embedded_fashion_mnist()
    some = embedded_fashion_mnist(7, classes=["Sneaker", 1])
    positions = np.flatnonzero((everything.labels == 7) | (everything.labels == 1))[:7]
    np.testing.assert_array_equal(some.images, everything.images[positions])
    np.testing.assert_array_equal(some.labels, [1, 7, 1, 7, 1, 7, 1])
    np.testing.assert_array_equal(embedded_fashion_mnist(classes="Bag").labels, np.full(100, 8))
    with pytest.raises(
        ValueError, match=r"got 1001 of 1000; ask for at most 1000, or use load_fashion_mnist"
    ):
        embedded_fashion_mnist(1001)
    with pytest.raises(ValueError, match=r"num_images: expected an integer >= 1, got -3"):
        embedded_fashion_mnist(-3)


def test_the_licence_is_shipped_beside_the_images():
    text = resources.files("critjax").joinpath("_embedded", "LICENSE-fashion-mnist.txt").read_text()
    for part in (
        "MIT License",
        "Copyright (c) 2017 Zalando SE, https://tech.zalando.com",
        "WITHOUT WARRANTY OF ANY",
    ):
        assert part in text
    size = len(resources.files("critjax").joinpath("_embedded", "fashion_mnist_1000.npz").read_bytes())
    assert size < 500_000  # a wheel should stay light


@published
def test_the_script_makes_the_same_file_again():
    spec = importlib.util.spec_from_file_location("make_embedded", REPOSITORY / "tools" / "make_embedded.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    built = script.build(DEBIAN)
    with np.load(REPOSITORY / "critjax" / "_embedded" / "fashion_mnist_1000.npz") as stored:
        for name in ("images", "labels"):
            assert built[name].dtype == np.uint8
            np.testing.assert_array_equal(built[name], stored[name])


@published
def test_the_published_test_split():
    loaded = load_fashion_mnist("test", root=DEBIAN)
    assert loaded.images.shape == (10000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(loaded.labels), np.full(10, 1000))
    with gzip.open(DEBIAN / "t10k-images-idx3-ubyte.gz") as file:
        file.seek(16 + 784 * 1234)
        last = np.frombuffer(file.read(784), np.uint8).reshape(28, 28, 1)
    np.testing.assert_allclose(loaded.images[1234], last / 127.5 - 1, atol=1e-7)


# ---------------------------------------------------------------- the user's own arrays


def saved(tmp_path, array, name="mine.npy"):
    np.save(tmp_path / name, array)
    return tmp_path / name


def test_bytes_need_no_range(tmp_path):
    array = np.random.default_rng(1).integers(0, 256, (3, 4, 5, 3), np.uint8)
    loaded = load_images(saved(tmp_path, array))
    np.testing.assert_allclose(loaded.images, array / 127.5 - 1, atol=1e-7)
    assert (loaded.images.dtype, loaded.labels, loaded.name, loaded.class_names) == (
        np.float32,
        None,
        "mine",
        (),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
def test_a_stated_range_is_mapped_linearly(tmp_path, dtype):
    array = np.array([[[20, 40], [60, 70]]], dtype)
    loaded = load_images(saved(tmp_path, array), value_range=(20, 70))
    np.testing.assert_allclose(loaded.images[..., 0], [[[-1, -0.2], [0.6, 1]]], atol=1e-7)


def test_floats_on_the_library_s_range_pass_unchanged(tmp_path):
    array = np.array([[[-0.25, 1.0], [0.5, 0.0]]], np.float32)
    np.testing.assert_array_equal(load_images(saved(tmp_path, array)).images[..., 0], array)
    np.testing.assert_array_equal(
        load_images(saved(tmp_path, array > 0)).images[0, ..., 0], [[-1, 1], [1, -1]]
    )


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.array([0.0, 0.5, 1.0]), "float64 values from 0 to 1"),
        (np.array([-1.0, 0.5, 1.5], np.float32), "float32 values from -1 to 1.5"),
        (np.array([-3.5, 0.0]), "float64 values from -3.5 to 0"),
        (np.array([0, 255], np.int32), "int32 values from 0 to 255"),
        (np.array([-1, 1], np.int8), "int8 values from -1 to 1"),
    ],
)
def test_an_uncertain_range_is_an_error_that_names_it(tmp_path, array, found):
    with pytest.raises(ValueError, match=rf"below 0, got {found}; pass value_range=\(low, high\)"):
        load_images(saved(tmp_path, array.reshape(1, 1, -1)))


def test_values_outside_the_stated_range_are_an_error(tmp_path):
    path = saved(tmp_path, np.array([[[0.0, 1.01]]]))
    with pytest.raises(
        ValueError, match=r"expected values within value_range \(0, 1\), got float64 values from 0 to 1"
    ):
        load_images(path, value_range=(0, 1))
    for bad in ((1, 0), (0, np.inf), (np.nan, 1)):
        with pytest.raises(ValueError, match="value_range: expected two finite numbers"):
            load_images(path, value_range=bad)


@pytest.mark.parametrize(
    ("array", "error", "text"),
    [
        (
            np.zeros((4, 5), np.uint8),
            ValueError,
            r"expected shape \(N, H, W\) or \(N, H, W, C\), got shape \(4, 5\)",
        ),
        (np.zeros((0, 4, 5), np.uint8), ValueError, r"got shape \(0, 4, 5\)"),
        (
            np.zeros((2, 3, 8, 8), np.uint8),
            ValueError,
            r"expected channels last, got shape \(2, 3, 8, 8\); move them",
        ),
        (np.full((1, 2, 2), np.nan), ValueError, "expected finite values, got 4 non-finite of 4"),
        (np.zeros((1, 2, 2), complex), TypeError, "expected numbers, got dtype complex128"),
        (np.array([[["a"]]]), TypeError, "expected numbers, got dtype <U1"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, array, error, text):
    with pytest.raises(error, match=text):
        load_images(saved(tmp_path, array))


def test_archives_with_and_without_labels(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (6, 3, 4), np.uint8)
    np.savez(tmp_path / "one.npz", anything=images)
    np.testing.assert_allclose(
        load_images(tmp_path / "one.npz").images[..., 0], images / 127.5 - 1, atol=1e-7
    )
    np.savez_compressed(
        tmp_path / "two.npz", other=np.zeros(3), images=images, labels=np.array([3, 0, 3, 1, 0, 3])
    )
    loaded = load_images(tmp_path / "two.npz", classes=[3, 1], num_images=3)
    np.testing.assert_array_equal(loaded.labels, [3, 3, 1])
    np.testing.assert_allclose(loaded.images[..., 0], images[[0, 2, 3]] / 127.5 - 1, atol=1e-7)
    assert loaded.class_names == ("0", "1", "2", "3")
    with pytest.raises(ValueError, match="classes: expected at least one image, got none of these classes"):
        load_images(tmp_path / "two.npz", classes=[2])
    np.savez(tmp_path / "bad.npz", a=images, b=images)
    with pytest.raises(ValueError, match=r"expected an array 'images' or one array only, got a, b"):
        load_images(tmp_path / "bad.npz")
    for labels in (np.zeros(5, int), np.zeros(6), np.full(6, -1)):
        np.savez(tmp_path / "bad.npz", images=images, labels=labels)
        with pytest.raises(ValueError, match=r"labels: expected integers >= 0 of shape \(6,\)"):
            load_images(tmp_path / "bad.npz")
    with pytest.raises(ValueError, match="classes: expected a source with labels, got one without"):
        load_images(tmp_path / "one.npz", classes=[0])


def test_broken_or_foreign_files(tmp_path):
    whole = saved(tmp_path, np.zeros((4, 30, 30), np.uint8)).read_bytes()
    (tmp_path / "half.npy").write_bytes(whole[:2000])
    with pytest.raises(
        ValueError, match=r"half\.npy: expected 3,600 bytes for shape \(4, 30, 30\) of uint8, got 1,872"
    ):
        load_images(tmp_path / "half.npy")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.npz: expected a numpy file"):
        load_images(tmp_path / "text.npz")
    np.save(tmp_path / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    with pytest.raises(TypeError, match=r"objects\.npy: expected numbers"):  # pickles can run code
        load_images(tmp_path / "objects.npy")
    (tmp_path / "table.csv").write_text("1,2")
    with pytest.raises(
        ValueError, match=r"path: expected a folder, an image, \.npy, \.npz or IDX, got .*table\.csv"
    ):
        load_images(tmp_path / "table.csv")
    with pytest.raises(FileNotFoundError, match=r"path: expected a file or folder, got .*nothing"):
        load_images(tmp_path / "nothing")


# ---------------------------------------------------------------- folders of images


def picture(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)


def test_a_folder_in_the_order_of_names(tmp_path):
    arrays = np.random.default_rng(3).integers(0, 256, (3, 4, 5, 3), np.uint8)
    for name, array in zip(("b.png", "c.bmp", "a.PNG"), arrays, strict=True):
        picture(tmp_path / "set" / name, array)
    (tmp_path / "set" / "notes.txt").write_text("ignored")
    with pytest.warns(UserWarning, match="set: 1 other entries are left out: notes.txt"):
        loaded = load_images(tmp_path / "set")
    (tmp_path / "set" / "notes.txt").unlink()
    np.testing.assert_allclose(loaded.images, arrays[[2, 0, 1]] / 127.5 - 1, atol=1e-7)
    assert (loaded.labels, loaded.name) == (None, "set")
    np.testing.assert_array_equal(load_images(tmp_path / "set", num_images=2).images, loaded.images[:2])
    alone = load_images(tmp_path / "set" / "c.bmp")
    np.testing.assert_array_equal(alone.images, loaded.images[2:])
    assert alone.name == "c"


def test_class_folders_are_taken_in_turn(tmp_path):
    for name, count, base in (("dog", 2, 100), ("cat", 4, 0)):
        for i in range(count):
            picture(tmp_path / "set" / name / f"{i}.png", np.full((2, 3), base + i, np.uint8))
    loaded = load_images(tmp_path / "set")
    values = np.rint((loaded.images[:, 0, 0, 0] + 1) * 127.5)
    np.testing.assert_array_equal(values, [0, 100, 1, 101, 2, 3])
    np.testing.assert_array_equal(loaded.labels, [0, 1, 0, 1, 0, 0])
    assert loaded.class_names == ("cat", "dog")
    assert loaded.images.shape == (6, 2, 3, 1)
    dogs = load_images(tmp_path / "set", classes=["dog"], num_images=1)
    np.testing.assert_array_equal(dogs.images, loaded.images[1:2])
    np.testing.assert_array_equal(dogs.labels, [1])
    with pytest.raises(
        ValueError, match=r"classes: expected names or indices among \{0: 'cat', 1: 'dog'\}, got 'cow'"
    ):
        load_images(tmp_path / "set", classes=["cow"])
    picture(tmp_path / "set" / "stray.png", np.zeros((2, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"expected files or class folders, not both, got 1 files beside folders"
    ):
        load_images(tmp_path / "set")


def test_kinds_of_pixels(tmp_path):
    rng = np.random.default_rng(4)
    rgb = rng.integers(0, 256, (4, 5, 3), np.uint8)
    few = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], np.uint8)
    opaque = np.concatenate([rgb, np.full((4, 5, 1), 255, np.uint8)], axis=-1)
    picture(tmp_path / "opaque.png", opaque)
    np.testing.assert_allclose(load_images(tmp_path / "opaque.png").images[0], rgb / 127.5 - 1, atol=1e-7)
    picture(tmp_path / "palette.png", few, "P", optimize=True)
    stored = np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))
    np.testing.assert_allclose(load_images(tmp_path / "palette.png").images[0], stored / 127.5 - 1, atol=1e-7)
    picture(tmp_path / "bits.png", rgb[..., 0] > 99)
    np.testing.assert_array_equal(
        load_images(tmp_path / "bits.png").images[0, ..., 0], np.where(rgb[..., 0] > 99, 1, -1)
    )
    deep = rng.integers(0, 65536, (4, 5), np.uint16)
    picture(tmp_path / "deep.png", deep)
    np.testing.assert_allclose(
        load_images(tmp_path / "deep.png", value_range=(0, 65535)).images[0, ..., 0],
        deep / 32767.5 - 1,
        atol=1e-7,
    )
    with pytest.raises(ValueError, match="got uint16 values from"):
        load_images(tmp_path / "deep.png")
    opaque[1, 2, 3] = 254
    picture(tmp_path / "glass.png", opaque)
    with pytest.raises(
        ValueError, match=r"glass\.png: expected an opaque image, got transparent pixels; flatten it"
    ):
        load_images(tmp_path / "glass.png")
    picture(tmp_path / "print.jpg", np.full((8, 8, 3), 99, np.uint8), "CMYK")
    with pytest.raises(ValueError, match=r"print\.jpg: expected a greyscale or RGB image, got mode CMYK"):
        load_images(tmp_path / "print.jpg")
    picture(tmp_path / "flat.jpg", np.full((8, 8, 3), 128, np.uint8))
    np.testing.assert_allclose(load_images(tmp_path / "flat.jpg").images, 128 / 127.5 - 1, atol=1e-7)


def test_folders_that_are_no_set_of_equal_images(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none: expected image files \(AVIF, .*got none"):
        load_images(tmp_path / "none")
    grey = np.zeros((4, 5), np.uint8)
    picture(tmp_path / "sizes" / "a.png", grey)
    picture(tmp_path / "sizes" / "b.png", grey.T)
    expected = (
        r"b\.png: expected uint8 of shape \(4, 5, 1\) like a\.png, got uint8 of shape \(5, 4, 1\); resize"
    )
    with pytest.raises(ValueError, match=expected):
        load_images(tmp_path / "sizes")
    picture(tmp_path / "kinds" / "a.png", grey)
    picture(tmp_path / "kinds" / "b.png", grey.astype(np.uint16))
    with pytest.raises(
        ValueError, match=r"expected uint8 of .* like a\.png, got uint16"
    ):  # two ranges, one stack
        load_images(tmp_path / "kinds")
    (tmp_path / "sizes" / "b.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(ValueError, match=r"b\.png: expected an image file, got .*; remove or repair it"):
        load_images(tmp_path / "sizes")
    for header in (b"P6\n4 x\n255\n", b"P6\n4 4\n99999\n", b"P3\n1 1\n255\n999 0 0\n"):
        (tmp_path / "bad.ppm").write_bytes(header)
        with pytest.raises(
            ValueError, match=r"bad\.ppm: expected an image file, got .*; remove or repair it"
        ):
            load_images(tmp_path / "bad.ppm")


# ---------------------------------------------------------------- the front door


def test_the_name_means_the_embedded_images_until_they_run_out(small, tmp_path):
    files, arrays = small
    assert load_dataset("fashion-mnist").name == "fashion-mnist-1000"
    np.testing.assert_array_equal(
        load_dataset("fashion-mnist", num_images=60).labels, np.tile(np.arange(10), 6)
    )
    assert len(load_dataset("fashion-mnist", num_images=200, classes=[0, "Bag"]).labels) == 200
    with pytest.raises(FileNotFoundError, match="train-labels-idx1-ubyte"):
        load_dataset("fashion-mnist", num_images=1001)
    with pytest.raises(FileNotFoundError, match="train-labels-idx1-ubyte"):
        load_dataset("fashion-mnist", num_images=201, classes=[0, "Bag", 0])
    root = write(files, tmp_path / "here")
    np.testing.assert_array_equal(load_dataset("fashion-mnist", root=root).labels, arrays["train"][1])
    found = load_dataset("fashion-mnist", split="test", root=root, num_images=5)
    np.testing.assert_array_equal(found.labels, arrays["t10k"][1][:5])


def test_a_path_means_the_user_s_images(tmp_path, monkeypatch):
    array = np.random.default_rng(5).uniform(0, 10, (4, 3, 2))
    path = saved(tmp_path, array)
    loaded = load_dataset(path, value_range=(0, 10), num_images=3)
    np.testing.assert_allclose(loaded.images[..., 0], array[:3] / 5 - 1, atol=1e-7)
    picture(tmp_path / "fashion-mnist" / "a.png", np.zeros((2, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    assert load_dataset(Path("fashion-mnist")).images.shape == (1, 2, 3, 1)
    assert load_dataset("fashion-mnist", num_images=1).images.shape == (1, 28, 28, 1)


def test_messages_of_the_front_door(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"name_or_path: expected 'fashion-mnist' or an existing .* got 'mnist'"
    ):
        load_dataset("mnist")
    with pytest.raises(ValueError, match="num_images: expected an integer >= 1, got 0"):
        load_dataset("mnist", num_images=0)
    with pytest.raises(ValueError, match="split: expected 'train' or 'test', got 'valid'"):
        load_dataset("fashion-mnist", split="valid")
    with pytest.raises(ValueError, match="value_range: expected None for a named data set"):
        load_dataset("fashion-mnist", value_range=(0, 1))
    with pytest.raises(ValueError, match="split, download: expected no option of Fashion-MNIST with a path"):
        load_dataset(saved(tmp_path, np.zeros((1, 2, 2), np.uint8)), split="test", download=True)


def test_heavy_imports_wait_until_they_are_needed():
    code = "import critjax.data, sys; print([m for m in ('PIL', 'platformdirs') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout.strip() == "[]"


def test_the_cache_is_the_user_s():
    import platformdirs

    assert _fashion_mnist._cache_directory() == Path(platformdirs.user_cache_dir("critjax")) / "fashion-mnist"
