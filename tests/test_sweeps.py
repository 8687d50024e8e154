"""Sweeps agree with a plain loop, whatever the batches and devices, and go on where they were interrupted."""

import io
import itertools
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import counting

from critjax import PatchBank, patch_denoiser, random_pattern_bank, sweeps, symbol
from critjax.store import LOCK
from critjax.sweeps import grid_points, sweep

X = np.arange(3.0)


def test_grid_points_are_the_product_with_the_last_axis_fastest():
    axes = {
        "sigma": np.array([0.5, 2.0], np.float32),
        "seed": range(3),
        "eta": [0.0, 1.0, 0.25, 0.5],
        "on": [True, False],
    }
    points = grid_points(**axes)
    assert list(points) == list(axes)
    assert [points[name].dtype for name in axes] == [np.float32, np.int64, np.float64, np.bool_]
    rows = list(zip(*points.values(), strict=True))
    assert rows == list(itertools.product(*axes.values()))
    grid = points["seed"].reshape([len(values) for values in axes.values()])
    np.testing.assert_array_equal(grid, np.broadcast_to(np.arange(3)[None, :, None, None], (2, 3, 4, 2)))


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ({}, "axes: expected at least one axis, got none; pass"),
        ({"a": [1, 2], "b": []}, r"b: expected a non-empty one-dimensional array, got shape (0,); pass"),
        ({"a": np.ones((2, 2))}, r"a: expected a non-empty one-dimensional array, got shape (2, 2); pass"),
        ({"a": 3.0}, "a: expected a non-empty one-dimensional array, got shape (); pass"),
        ({"a": [[1], [1, 2]]}, "a: expected a non-empty one-dimensional array, got list ("),
        ({"key": jax.random.split(jax.random.key(0), 3)}, "for keys, of integer seeds"),
    ],
)
def test_wrong_axes_are_refused(axes, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        grid_points(**axes)


def denoise_and_respond(point):
    """Return a pytree of results of one point that holds a bank, a noise level and a key."""
    bank, sigma, (key,) = point["bank"], point["sigma"], point["keys"]
    x = sigma * jax.random.normal(key, (4, 5, 1), sigma.dtype)
    return {
        "denoised": patch_denoiser(bank)(x, sigma),
        "response": (symbol(bank, sigma, (2, 3)), jnp.sum(x) > 0),
        "constant": 3,
    }


@pytest.fixture(scope="module")
def looped():
    """Seven points, and the results of a plain loop over them."""
    bank = jax.jit(jax.vmap(lambda seed: random_pattern_bank(jax.random.key(seed), 3, 4)))(np.arange(7))
    sigma, keys = np.linspace(0.5, 2.0, 7), jax.random.split(jax.random.key(7), 7)
    points = {"bank": bank, "sigma": sigma, "keys": (keys,)}
    at = jax.jit(lambda points, i: denoise_and_respond(jax.tree.map(lambda leaf: leaf[i], points)))
    return points, jax.tree.map(lambda *leaves: np.stack(leaves), *[at(points, i) for i in range(7)])


def assert_trees_equal(got, expected, **tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert type(a) is np.ndarray
        assert a.dtype == b.dtype
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            assert a.shape == b.shape
            assert a.tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("batch_size", [None, 1, 3, 40])
def test_a_sweep_is_a_loop_over_points(batch_size, looped):
    points, expected = looped
    assert isinstance(points["bank"], PatchBank)
    got = sweep(denoise_and_respond, points, batch_size=batch_size)
    assert got["response"][0].shape == (7, 2, 3, 1, 1)
    assert_trees_equal(got, expected, rtol=1e-11, atol=1e-12)


def test_a_function_is_traced_and_compiled_once():
    """Also for a second sweep over other values; arrays of a function that is a pytree are arguments."""
    traces = []

    def fn(offset, x):
        traces.append(x.shape)
        return x**2 + offset

    for first, values in ((0.0, np.arange(10.0)), (1.0, np.arange(3.0, 13.0))):
        with counting() as count:
            got = sweep(jax.tree_util.Partial(fn, np.float64(first)), values, batch_size=4)
        np.testing.assert_array_equal(got, values**2 + first)
        assert count.programs == (1 if first == 0.0 else 0)
    assert traces == [()]


def test_default_batches_are_of_nearly_equal_size():
    for num, expected in [(64, [64]), (65, [33, 65]), (5, [5])]:
        done = []
        sweep(jnp.sin, np.arange(float(num)), progress=lambda k, n, done=done: done.append(k))
        assert done == expected


def test_neighbours_do_not_matter_and_values_that_are_not_finite_stay():
    def halvings(x):
        """Loop as often as the point wants."""
        return jax.lax.while_loop(lambda c: c[0] > 1, lambda c: (c[0] / 2, c[1] + jnp.sin(c[0])), (x, 0 * x))

    alone = sweep(halvings, np.full(4, 13.7))
    mixed = sweep(halvings, np.array([3.0, 13.7, np.nan, 1e30]))
    for a, b in zip(alone, mixed, strict=True):
        assert a[1] == b[1]
    assert np.isnan(mixed[0][2])
    values = sweep(lambda x: 1 / x, np.array([0.0, -0.0, np.nan, 2.0]), batch_size=3)
    np.testing.assert_array_equal(values, [np.inf, -np.inf, np.nan, 0.5])


class Stop(Exception):
    pass


def stop_after(num):
    def progress(done, total):
        if done >= num:
            raise Stop

    return progress


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}


def squares(point):
    return {"square": point["x"] ** 2, "normal": jax.random.normal(point["key"], (2,))}


def square_points(num=11, seed=0, **options):
    return {"x": np.linspace(-1, 2, num), "key": jax.random.split(jax.random.key(seed, **options), num)}


def test_an_interrupted_sweep_goes_on(tmp_path, monkeypatch):
    folder, points = tmp_path / "new" / "sweep", square_points()
    whole = sweep(squares, points, batch_size=3)
    with pytest.raises(Stop):
        sweep(squares, points, batch_size=3, folder=folder, progress=stop_after(6))
    before = contents(folder)
    assert list(before) == ["batch-00000.part", "batch-00001.part", "sweep.json"]

    (folder / "batch-00000.part").rename(folder / "aside.tmp")  # a gap at the start
    done = []
    again = sweep(squares, points, batch_size=3, folder=folder, progress=lambda *a: done.append(a))
    assert done == [(3, 11), (6, 11), (9, 11), (11, 11)]
    assert_trees_equal(again, whole)
    (folder / "aside.tmp").unlink()
    after = contents(folder)
    assert list(after) == [f"batch-{number:05d}.part" for number in range(4)] + ["sweep.json"]
    assert all(after[name] == before[name] for name in ("batch-00001.part", "sweep.json"))
    content = (folder / "batch-00003.part").read_bytes().partition(b"\n")[2]
    with np.load(io.BytesIO(content)) as file:  # the repetitions are not kept
        assert [file[name].shape for name in file.files] == [(2, 2), (2,)]

    def refuse(*arguments):
        raise AssertionError("evaluated")

    monkeypatch.setattr(sweeps, "_at_points", refuse)
    done.clear()
    loaded = sweep(squares, points, batch_size=3, folder=folder, progress=lambda *a: done.append(a))
    assert done == [(11, 11)]
    assert_trees_equal(loaded, whole)
    assert contents(folder) == after


def test_a_crash_while_saving_leaves_no_half_file(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    points = square_points()
    sweep(squares, points, batch_size=4, folder=tmp_path, progress=lambda done, total: None)
    (tmp_path / "batch-00001.part").unlink()
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            OSError, match=r"batch-00001.part: expected a place for .* No space left on device"
        ):
            sweep(squares, points, batch_size=4, folder=tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / ".critjax-killed.part").write_bytes(b"of a killed process")
    got = sweep(squares, points, batch_size=4, folder=tmp_path)
    assert_trees_equal(got, sweep(squares, points, batch_size=4))
    assert not list(tmp_path.glob(".critjax*"))


def test_a_folder_serves_one_sweep_at_a_time(tmp_path):
    def again(done, total):
        with pytest.raises(ValueError, match="folder: expected a folder that no other run uses"):
            sweep(squares, square_points(), batch_size=4, folder=tmp_path)

    sweep(squares, square_points(), batch_size=4, folder=tmp_path, progress=again)


def shifted(constant):
    return lambda point: squares(point) | {"square": point["x"] ** 2 + constant}


OTHERS = {
    "one number": (squares, square_points() | {"x": np.linspace(-1, 2.0000001, 11)}, 3, "points;"),
    "keys": (squares, square_points(seed=1), 3, "points;"),
    "kind of key": (squares, square_points(impl="rbg"), 3, "points"),
    "dtype": (squares, square_points() | {"x": np.linspace(-1, 2, 11).astype(np.float32)}, 3, "points, fn"),
    "name": (lambda p: squares({"x": p["y"], "key": p["key"]}), None, 3, "points;"),
    "fewer points": (squares, square_points(10), 3, "points, num_points (11 there, 10 here)"),
    "batch size": (squares, square_points(), 4, "batch_size (3 there, 4 here)"),
    "function": (shifted(1.0), square_points(), 3, "differs in fn;"),
    "closed-over array": (shifted(jnp.full((), 0.5)), square_points(), 3, "differs in fn;"),
    "results": (
        lambda p: squares(p)["square"],
        square_points(),
        3,
        "results ({\"['normal']\": 'float64 (2,)'",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_folder_of_another_sweep_is_refused_and_left_alone(tmp_path, name):
    fn, points, batch_size, text = OTHERS[name]
    if points is None:
        points = square_points()
        points["y"] = points.pop("x")
    with pytest.raises(Stop):
        sweep(squares, square_points(), batch_size=3, folder=tmp_path, progress=stop_after(3))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="folder: expected one of this very sweep, got ") as error:
        sweep(fn, points, batch_size=batch_size, folder=tmp_path)
    assert text in str(error.value)
    assert "; choose another folder or repeat that call" in str(error.value)
    assert contents(tmp_path) == before


def test_a_closed_over_array_is_part_of_the_function(tmp_path):
    values = np.random.default_rng(0).normal(size=50_000)
    other = values.copy()
    other[23_456] += 1e-9
    for array in (values, jnp.asarray(values)):
        folder = tmp_path / type(array).__name__
        sweep(lambda x, a=array: x * jnp.sum(jnp.sin(a)), np.arange(3.0), folder=folder)
        sweep(lambda y: y * jnp.sum(jnp.sin(values)), np.arange(3.0), folder=folder)
        with pytest.raises(ValueError, match="differs in fn;"):
            sweep(lambda x: x * jnp.sum(jnp.sin(other)), np.arange(3.0), folder=folder)


def test_the_kind_of_keys_is_part_of_the_points(tmp_path):
    numbers = np.arange(12, dtype=np.uint32).reshape(3, 4)

    def half(point):
        return point["x"] / 2

    def points(kind):
        return {"x": X, "key": jax.random.wrap_key_data(numbers, impl=kind)}

    sweep(half, points("rbg"), folder=tmp_path)
    with pytest.raises(ValueError, match="differs in points;"):
        sweep(half, points("unsafe_rbg"), folder=tmp_path)


def test_numbers_are_rounded_as_jax_would_and_its_precision_is_part_of_the_sweep(tmp_path):
    with jax.enable_x64(False):
        low = sweep(jnp.sin, X, folder=tmp_path)
    assert low.dtype == np.float32
    np.testing.assert_allclose(low, np.sin(X), rtol=1e-6)
    with pytest.raises(
        ValueError, match=re.escape("results ({'': 'float32 ()'} there, {'': 'float64 ()'} here)")
    ):
        sweep(jnp.sin, X, folder=tmp_path)


def test_another_version_is_refused(tmp_path):
    sweep(squares, square_points(), folder=tmp_path)
    record = tmp_path / "sweep.json"
    record.write_text(record.read_text().replace(jax.__version__, "0.0.1"))
    with pytest.raises(ValueError, match=r"differs in versions \(\{.*'jax': '0.0.1'\} there"):
        sweep(squares, square_points(), folder=tmp_path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def flip(path):
    data = bytearray(path.read_bytes())
    where = data.index((np.linspace(-1, 2, 11)[4:8] ** 2).tobytes())
    data[where] ^= 1
    path.write_bytes(data)


def swap(path):
    path.write_bytes(path.with_name("batch-00000.part").read_bytes())


@pytest.mark.parametrize("damage", [truncate, flip, swap, lambda path: path.write_bytes(b"")])
def test_a_damaged_batch_is_evaluated_again(tmp_path, damage):
    points = square_points()
    whole = sweep(squares, points, batch_size=4, folder=tmp_path)
    before = contents(tmp_path)
    damage(tmp_path / "batch-00001.part")
    done = []
    with pytest.warns(UserWarning, match="batch-00001.part: part: expected"):
        got = sweep(squares, points, batch_size=4, folder=tmp_path, progress=lambda k, n: done.append(k))
    assert done == [7, 11]
    assert_trees_equal(got, whole)
    after = contents(tmp_path)
    for name in ("batch-00000.part", "batch-00002.part", "sweep.json"):
        assert after[name] == before[name]
    assert_trees_equal(sweep(squares, points, batch_size=4, folder=tmp_path), whole)


def test_every_dtype_comes_back_from_the_folder(tmp_path):
    def fn(x):
        wide = jnp.stack([x, x + 1])
        return [
            *(
                wide.astype(d)
                for d in ("bfloat16", "float16", "float32", "complex64", "int8", "uint32", "bool")
            ),
            jnp.zeros((0, 3)),
        ]

    points = jnp.arange(5, dtype=jnp.bfloat16)
    whole = sweep(fn, points, batch_size=2, folder=tmp_path)
    assert whole[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(whole[0][:, 1].astype(float), np.arange(1.0, 6.0))
    assert_trees_equal(sweep(fn, points, batch_size=2, folder=tmp_path), whole)


def test_the_disk_is_waited_for_once_in_a_while(tmp_path, monkeypatch):
    """Of each sync there is one of the file and one of its folder; the record is always synced."""
    count = []
    monkeypatch.setattr(os, "fsync", count.append)
    sweep(squares, square_points(), batch_size=1, folder=tmp_path / "a")
    assert 4 <= len(count) <= 8  # eleven batches take less than two seconds
    count.clear()
    monkeypatch.setattr(sweeps, "SYNC_SECONDS", 0.0)
    sweep(squares, square_points(), batch_size=1, folder=tmp_path / "b")
    assert len(count) == 2 * 12


def test_folders_that_cannot_be_used_are_refused_before_anything_is_evaluated(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("evaluated")

    monkeypatch.setattr(sweeps, "_at_points", refuse)
    file = tmp_path / "file"
    file.write_text("mine")
    foreign, broken, locked = (tmp_path / name for name in ("foreign", "broken", "locked"))
    for folder in (foreign, broken, locked):
        folder.mkdir()
    (foreign / "results.nc").write_text("mine")
    (broken / "sweep.json").write_text("[1, 2")
    for folder, text in [
        (file, f"folder: expected a folder, got the file {file}; choose another folder"),
        (
            file / "under",
            f"folder: expected a folder that can be written, got {file / 'under'} (Not a directory);",
        ),
        (
            foreign,
            f"folder: expected a new or empty folder, or one of this sweep, got {foreign} with results.nc;",
        ),
        (
            broken,
            f"folder: expected a new or empty folder, or one of this sweep, got {broken} with sweep.json;",
        ),
    ]:
        with pytest.raises(ValueError, match=re.escape(text)):
            sweep(squares, square_points(), folder=folder)
    (broken / "sweep.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="or one of this sweep"):
        sweep(squares, square_points(), folder=str(broken))

    def denied(path, *rest, opened=os.open, **options):
        if LOCK in str(path):
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest, **options)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ValueError, match=r"a folder that can be written, got .*locked \(Permission denied\)"):
        sweep(squares, square_points(), folder=locked)
    assert file.read_text() == "mine"
    assert [path.name for path in foreign.iterdir()] == ["results.nc"]
    assert not list(locked.iterdir())


KEY = jax.random.key(0)
LEADING = "expected an array with a leading axis"
ADVICE = "stack the points along the first axis of every array"


@pytest.mark.parametrize(
    ("fn", "points", "options", "text"),
    [
        (jnp.sin, {}, {}, "points: expected at least one array, got none; pass e.g. grid_points("),
        (jnp.sin, None, {}, "points: expected at least one array, got none; pass e.g. grid_points("),
        (jnp.sin, {"a": X, "b": np.ones(())}, {}, f"points['b']: {LEADING}, got shape (); {ADVICE}"),
        (jnp.sin, [1.0, 2.0], {}, f"points[0]: {LEADING}, got float; {ADVICE}"),
        (jnp.sin, {"key": KEY}, {}, f"points['key']: {LEADING}, got shape (); {ADVICE}"),
        (jnp.sin, (X, X[1:]), {}, f"arrays of one length, got 3 in points[0], 2 in points[1]; {ADVICE}"),
        (jnp.sin, X[:0], {}, "points: expected at least one point, got 0 in points; sweep over something"),
        (jnp.sin, np.array(["a"]), {}, "points: expected numbers or keys, got dtype <U1; convert them"),
        (jnp.sin, X, {"batch_size": 0}, "batch_size: expected an integer >= 1, got 0; None chooses one"),
        (jnp.sin, X, {"batch_size": -2}, "batch_size: expected an integer >= 1, got -2; None chooses one"),
        (jnp.sin, X, {"batch_size": True}, "batch_size: expected an integer >= 1, got True; None chooses one"),
        (jnp.sin, X, {"axis": "p"}, "axis: expected a mesh with it, got 'p' alone; pass mesh, or no axis"),
        (jnp.sin, X, {"mesh": "p"}, "axis: expected one of the mesh axes ('p',), got None; name the axis"),
        (jnp.sin, X, {"mesh": "p", "axis": "q"}, "axis: expected one of the mesh axes ('p',), got 'q'; name the axis"),
        (lambda x: None, X, {}, "fn: expected a function that returns arrays, got none; return its results"),
        (lambda x: [KEY], X, {}, "fn: expected results that are numbers, got keys in ['result[0]']; return"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path, monkeypatch, fn, points, options, text
):
    if "mesh" in options:
        options = options | {"mesh": jax.make_mesh((1,), (options["mesh"],))}
    monkeypatch.setattr(sweeps, "_at_points", None)
    with pytest.raises(ValueError, match=re.escape(text)):
        sweep(fn, points, folder=tmp_path / "sweep", **options)
    assert not list(tmp_path.iterdir())


FUNCTION = """
import jax, jax.numpy as jnp, numpy as np
from critjax import patch_denoiser, random_pattern_bank
jax.config.update("jax_enable_x64", True)
bank = random_pattern_bank(jax.random.key(0), 3, 4)
traced = []
def fn(point):
    traced.append(jax.sharding.get_abstract_mesh().manual_axes)
    x = jax.random.normal(point["key"], (4, 5, 1))
    start = (point["sigma"], 0.0)  # a constant in the state of the loop
    steps = jax.lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] * 1.5, c[1] + c[0]), start)[1]
    # Written out, because the program of patch_denoiser depends on the number of devices.
    weights = jax.nn.softmax(bank.patches.reshape(10, 9) @ x[:3, :3].reshape(9) / point["sigma"] ** 2)
    return {"mean": weights @ bank.patches.reshape(10, 9), "fft": jnp.fft.fft2(x), "steps": steps}
points = {"key": jax.random.split(jax.random.key(1), 21), "sigma": np.linspace(0.4, 2, 21)}
"""
PROGRAM = """
import sys
from jax.sharding import AxisType
from critjax.sweeps import sweep
assert jax.device_count() == 8
put, get, spread = jax.device_put, jax.device_get, []
def record(arrays):
    for a in arrays:
        spread.append((a.sharding.spec[0], [s.data.shape[0] for s in a.addressable_shards]))
    return arrays
jax.device_put = lambda arrays, sharding=None: record(put(arrays, sharding))
jax.device_get = lambda arrays: get(record(arrays))
def same(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
meshes = {
    "explicit": (jax.make_mesh((8,), ("points",)), 2),
    "automatic": (jax.make_mesh((8,), ("points",), axis_types=(AxisType.Auto,)), 2),
    "one of two axes": (jax.make_mesh((4, 2), ("points", "other")), 3),
}
alone = {}
for name, (mesh, each) in meshes.items():
    spread.clear(), traced.clear()
    done = []
    got = sweep(
        fn, points, batch_size=9, mesh=mesh, axis="points", progress=lambda k, n: done.append((k, n))
    )
    assert done == ([(16, 21), (21, 21)] if each == 2 else [(12, 21), (21, 21)]), done
    assert spread == [("points", [each] * 8)] * 10, spread
    # The program of one device's points does not depend on the kind of the mesh: it is the first one's.
    assert not traced if name == "automatic" else len(traced) <= 2 and "points" in traced[-1], traced
    alone = alone or jax.tree.map(lambda *a: np.stack(a), *[
        fn(jax.tree.map(lambda leaf: leaf[i], points)) for i in range(21)
    ])
    same(got, alone)
    print(name, "agrees")
done = []
mesh = meshes["explicit"][0]
got = sweep(
    fn, points, batch_size=8, mesh=mesh, axis="points", folder=sys.argv[1], progress=lambda k, n: done.append(k)
)
same(got, alone)
print("resumed", done)
few = jax.tree.map(lambda leaf: leaf[:3], points)
denoise = lambda p: patch_denoiser(bank)(jax.random.normal(p["key"], (4, 5, 1)), p["sigma"])
denoised = sweep(denoise, few, mesh=mesh, axis="points")
same(denoised, np.stack([denoise(jax.tree.map(lambda leaf: leaf[i], few)) for i in range(3)]))
print("denoiser agrees")
"""


@pytest.mark.slow
def test_eight_devices_share_the_batches_and_go_on_with_a_sweep_of_one(tmp_path):
    room = {}
    exec(FUNCTION, room)
    with pytest.raises(Stop):
        sweep(room["fn"], room["points"], batch_size=8, folder=tmp_path, progress=stop_after(8))
    before = contents(tmp_path)
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", FUNCTION + PROGRAM, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:5] == [
        "explicit agrees",
        "automatic agrees",
        "one of two axes agrees",
        "resumed [8, 16, 21]",
        "denoiser agrees",
    ]
    after = contents(tmp_path)
    assert json.loads(after["sweep.json"][0])["batch_size"] == 8
    assert {name: after[name] for name in before} == before
    assert len(after) == 4
