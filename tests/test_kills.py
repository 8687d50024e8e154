"""Real processes that are killed at random: what they saved is gone on with, to the last bit; 112 kills.

Every command that saves is started again and again and killed after a random time, by each of three signals in turn,
until it has ended often enough; what it leaves in the end is what an undisturbed run leaves.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import critjax

pytestmark = pytest.mark.nightly

#: Of each command.
KILLS = 14
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STUDIES = {
    "criticality": "--bank two-pattern --size 3 --grid 8x10 --num-samples 96 --batch-size 8 --num-levels 9 "
    "--closure-samples 2 --probe-samples 3",
    "landau": "--bank two-pattern --bank stripe --size 5 --wavelength 4 --grid 12x16 --num-samples 3 "
    "--num-levels 10 --closure-samples 2",
    "freeze-out": "--steps-per-tau 10,20,40 --grid 24 --num-samples 64 --max-samples 256 --num-blocks 16 "
    "--fit-from 10 --binder-grids 8,16 --binder-steps-per-tau 60 --binder-levels 8",
    "guide": "patterns --size 3 --grid 12 --num-samples 24 --num-search 6 --num-levels 12 --num-positions 5 "
    "--budgets 0.5,1 --batch-size 12 --window-samples 3 --susceptibility-samples 2",
    "compare": "tiny.safetensors --data images.npz --num-images 12 --sizes 3,5 --num-levels 3 --num-queries 3 "
    "--num-samples 8 --probe-samples 3 --closure-samples 8 --num-films 2 --num-modes 2 --quick",
}
TRAININGS = {
    "train": "--data images.npz --width 4 --dilations 1 --num-steps 400 --batch-size 8 --sample-steps 4 "
    "--num-held-out 3 --log-every 10 --checkpoint-seconds 0.2",
    "train-classifier": "--data images.npz --widths 4 --num-steps 300 --batch-size 8 --num-held-out 4 --log-every 10",
}
#: A program of a user that sweeps into the folder after it.
SWEEP = """
import sys, jax, numpy as np
from critjax.sweeps import sweep
found = sweep(lambda p: {"x": p**2, "n": jax.random.normal(jax.random.key(p), (50,))}, np.arange(4000), batch_size=8,
              folder=sys.argv[-1])
np.savez(sys.argv[-1] + "/all.npz", **found)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, labels, a network and a compilation cache."""
    import jax

    from critjax.networks import NetworkConfig, init, save_network

    folder, rng = tmp_path_factory.mktemp("kills"), np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (80, 8, 8), np.uint8), rng.integers(0, 2, 80)
    np.savez(folder / "images.npz", images=images, labels=labels)
    config = NetworkConfig(width=4, dilations=(1,), sigma_data=0.7)
    save_network(folder / "tiny.safetensors", config, init(config, jax.random.key(0)))
    return folder


def start(place, words):
    root = str(Path(critjax.__file__).parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", ""),
        "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    # Jobs in the background ignore the signal, and their children inherit that.
    before = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    run = "import runpy; runpy.run_module('critjax', run_name='__main__')"
    program = SWEEP if words[0] == "sweep" else run
    return subprocess.Popen(
        [sys.executable, "-c", before + program, *words],
        cwd=place,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def numbers(folder):
    """Everything that a finished run says."""
    found = {}
    if (folder / "results.nc").exists():
        dataset = xr.load_dataset(folder / "results.nc", engine="h5netcdf")
        found = {name: dataset[name].values for name in dataset.variables}
    for path in (*folder.glob("*.safetensors"), *folder.glob("all.npz")):
        if path.suffix == ".npz":
            found |= dict(np.load(path))
        elif not path.name.startswith("checkpoint"):
            from critjax.networks._weights import read

            found |= read(path, "weights")[0]
    assert found
    return found


@pytest.mark.parametrize("command", [*STUDIES, *TRAININGS, "sweep"])
def test_killed_commands_go_on_to_the_last_bit(place, command):
    options = {**STUDIES, **TRAININGS}.get(command, "").split()
    words = [command, *options, *([] if command == "sweep" else ["--no-progress", "--out"])]
    for name in ("warm", "straight"):  # the first fills the cache
        began = time.monotonic()
        process = start(place, [*words, f"{command}-{name}"])
        assert process.communicate()[1].count("Traceback") == 0 and process.returncode == 0
    whole, straight = time.monotonic() - began, numbers(place / f"{command}-straight")
    rng, kills, runs = np.random.default_rng(len(command)), 0, 0
    while kills < KILLS or not finished:
        folder = f"{command}-{runs}"
        process = start(place, [*words, folder])
        wait = rng.uniform(0.2, 1.05) * whole if kills < KILLS else 600
        try:
            errors = process.communicate(timeout=wait)[1]
            was_through = (place / folder / "results.nc").exists() and "a new or empty folder" in errors
            assert process.returncode == 0 or was_through, errors
        except subprocess.TimeoutExpired:
            number = SIGNALS[kills % 3]
            process.send_signal(number)
            told = time.monotonic()
            errors = process.communicate(timeout=60)[1]
            assert time.monotonic() - told < 10, errors
            # By the signal itself before and after the command obeys it; 1 while Python imports; 0 if it was through.
            assert process.returncode in (0, 1, -number, 128 + number), errors
            kills += 1
        finished = process.returncode in (0, 2)
        if finished:
            found = numbers(place / folder)
            assert found.keys() == straight.keys()
            for name, value in found.items():
                np.testing.assert_array_equal(value, straight[name], err_msg=name)
            assert not [p.name for p in (place / folder).rglob("*") if p.name.startswith(".critjax-")]
            runs += 1
    assert runs
