# ruff: noqa: RUF001  (Greek letters belong in a report)
"""The command line: options into settings, messages before heavy work, the output folder, shell completion.

Runs are those of the toy study, which needs no compiled program; `test_registry` follows one from end to end.
"""

import dataclasses
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from critjax import __version__, cli
from critjax.cli import _parser
from critjax.report import save_dataset
from critjax.studies import REGISTRY, Entry, study
from critjax.studies._engine import runner
from critjax.studies._engine.results import attributes
from critjax.studies._engine.storage import open_store
from critjax.studies.compare.settings import CompareSettings
from critjax.studies.criticality.settings import CriticalitySettings
from critjax.studies.guide.settings import GuideSettings
from critjax.studies.landau.settings import LandauSettings

TINY = [
    *("criticality", "--bank", "two-pattern", "--size", "3", "--grid", "8x10", "--num-samples", "48"),
    *("--batch-size", "8", "--num-levels", "9", "--closure-samples", "2", "--probe-samples", "3"),
    *("--precision", "float64", "--no-progress"),
]
TOY = ["toy", "--num-walks", "8", "--no-progress"]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """The command line configures JAX for its own process; the tests keep theirs. The toy study is registered."""
    monkeypatch.setattr(cli, "configure_jax", lambda precision: None)
    monkeypatch.setitem(REGISTRY, "toy", Entry("let walks go", "toy_study"))


def launch(*arguments):
    return cli.main([str(a) for a in arguments])


# --- Options into settings
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected", "folder"),
    [
        ("criticality", CriticalitySettings(), "criticality-random-pattern"),
        (
            "criticality --bank fashion-mnist --classes 3,Bag --positions all --sigma-max 9 --size 5 --quick",
            CriticalitySettings(
                bank="fashion-mnist", classes=(3, "Bag"), positions="all", sigma_max=9.0, size=5, quick=True
            ),
            "criticality-fashion-mnist",
        ),
        (
            "criticality --bank . --value-range 0 0.5 --num-images 7",
            CriticalitySettings(bank=".", value_range=(0.0, 0.5), num_images=7),
            "criticality-images",
        ),
        (
            shlex.join(TINY[:-1]),
            CriticalitySettings(
                bank="two-pattern",
                size=3,
                grid=(8, 10),
                num_samples=48,
                batch_size=8,
                num_levels=9,
                closure_samples=2,
                probe_samples=3,
                precision="float64",
            ),
            "criticality-two-pattern",
        ),
        (
            "landau --bank stripe --bank two-pattern --grid 16",
            LandauSettings(banks=("stripe", "two-pattern"), grid=(16, 16)),
            "landau-stripe-two-pattern",
        ),
        (
            "compare my/own.safetensors --sizes 5,3",
            CompareSettings(network="my/own.safetensors", sizes=(3, 5)),
            "compare-own",
        ),
        ("compare", CompareSettings(), "compare-local-11"),
        (
            "guide els --budgets 0.5,1 --eta 1 --pool 2",
            GuideSettings(model="els", budgets=(0.5, 1.0), eta=1.0, pool=2),
            "guide-els",
        ),
    ],
)
def test_options_become_settings(words, expected, folder, monkeypatch):
    seen = []

    def execute(study, settings, folder, **rest):
        seen.extend((settings, folder))
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "execute", execute)
    assert launch(*words.split(), "--no-progress") == 130
    assert seen == [expected, Path("critjax-runs") / folder]


def test_what_a_field_is_decides_how_its_option_is_read(tmp_path):
    """Flags, pairs, grids, words that are repeated, and the word none for no value."""
    words = ["--centre", "0.5", "-1", "--box", "4x6", "--start", "a", "--start", "b", "--no-mirrored"]
    words += ["--times", "3, 5", "name"]
    assert launch(*TOY, *words, "--out", tmp_path / "run") == 0
    with xr.open_dataset(tmp_path / "run" / "results.nc", engine="h5netcdf") as data:
        found = study("toy").settings_of(data)
    expected = {
        "centre": (0.5, -1.0),
        "box": (4, 6),
        "starts": ("a", "b"),
        "times": (3, 5),
        "mirrored": False,
    }
    assert {name: found.values()[name] for name in expected} == expected and found.title == "name"
    fields = _parser.build_parser().parse_args(["freeze-out", "--binder-grids", "none"])
    assert fields.binder_grids == ()


# --- A run
# ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_of_the_default_study(tmp_path, capsys):
    folder = tmp_path / "run"
    assert launch(*TINY, "--out", folder) == 0
    printed = capsys.readouterr().out
    assert {p.name for p in folder.iterdir()} == {"results.nc", "report.html", "figures"}
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as data:
        assert float(data.critical_sigma_bare) == pytest.approx(3.0, rel=1e-6)
        assert shlex.split(data.attrs["command"])[:2] == ["critjax", "criticality"]
    assert len(list((folder / "figures").glob("*.png"))) >= 6
    assert re.search(r"critical noise σ_c, softest mode: bare theory +3\.000", printed)
    assert "* Linear theory puts the critical noise at σ_c = 3.000" in printed
    assert printed.strip().splitlines()[-1] == f"report {(folder / 'report.html').resolve()}"


def test_the_progress_bar_has_one_line_a_stage(capsys):
    bar = cli._Bar(True)
    for stage, done, total in (
        ("theory", 0, 1),
        ("simulation", 0, 4),
        ("simulation", 1, 4),
        ("simulation", 3, 4),
        ("probes", 1, 12),
    ):
        bar(stage, done, total)
    bar.close()
    bar.close()  # a second time: nothing more
    printed = capsys.readouterr()
    lines = [
        line.split("\r")[-1] for line in printed.err.rstrip("\n").split("\n")
    ]  # what is left on the screen
    assert len(lines) == 2 and not printed.out
    assert re.match(r"simulation *:  75%\|.*\| 3/4 \[.*batch", lines[0])
    assert re.match(r"probes *:   8%\|.*\| 1/12 \[.*level", lines[1])
    silent = cli._Bar(False)
    silent("simulation", 2, 4)
    silent.close()
    assert capsys.readouterr() == ("", "")


def test_interrupted_at_once_leaves_nothing_half_done(tmp_path, capsys, monkeypatch):
    def stop(settings, **rest):
        raise KeyboardInterrupt

    monkeypatch.setattr("toy_study.STUDY", dataclasses.replace(study("toy"), run=stop))
    assert launch(*TOY, "--out", tmp_path / "run") == 130
    assert "critjax: interrupted; nothing was saved yet" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_dry_run_simulates_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launch(*TOY, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "walks               8 in 3 blocks\n" in printed
    assert "evaluations         3 batches\n" in printed
    assert "predicted time      2 s, of which 1 s theory" in printed
    assert "predicted memory    1 MiB\n" in printed
    assert list(tmp_path.iterdir()) == []


# --- Output folder
# ------------------------------------------------------------------------------------------------


def test_an_existing_folder_is_not_overwritten_unless_asked(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.html").write_text("precious")
    (folder / "notes.txt").write_text("mine")
    assert launch(*TOY, "--out", folder) == 2
    error = capsys.readouterr().err
    assert "--out: expected a new or empty folder, got" in error and "pass --overwrite" in error
    assert (folder / "report.html").read_text() == "precious"
    assert launch(*TOY, "--out", folder, "--overwrite") == 0
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (folder / "notes.txt").read_text() == "mine"


def test_an_output_path_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert launch(*TOY, "--out", tmp_path / "file") == 2
    assert "--out: expected a folder, got the file" in capsys.readouterr().err
    assert launch(*TOY, "--out", tmp_path / "file" / "below") == 2
    assert "--out: expected a folder that can be written" in capsys.readouterr().err
    assert launch(*TOY, "--out", tmp_path / "new", "--overwrite", "--resume") == 2
    assert "--overwrite: expected no --resume beside it" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_other_images_at_the_same_path_are_another_run(tmp_path, kind):
    def write(value, name="a"):
        pixels = np.full((8, 8), value, np.uint8)
        if kind == "file":
            np.save(tmp_path / "data.npy", np.stack([pixels, pixels]))
        else:
            (tmp_path / "data").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / f"{name}.png")
        return tmp_path / ("data.npy" if kind == "file" else "data")

    data = str(write(0))
    for number, settings in enumerate(
        (CriticalitySettings(bank=data, size=3).resolved(), CompareSettings(data=data).resolved())
    ):
        write(0)
        folder = tmp_path / f"run{number}"
        with open_store(folder, settings, overwrite=False, resume=False) as store:
            store.save("batch-0000", {"sum": np.ones(2)})
        with open_store(folder, settings, overwrite=False, resume=True) as store:
            assert store.num_saved == 1
        write(255)
        refused = pytest.raises(ValueError, match="--resume: expected an interrupted run")
        with refused, open_store(folder, settings, overwrite=False, resume=True):
            pass
        if kind == "folder":
            write(0)
            write(0, "b")
            refused = pytest.raises(ValueError, match="--out: expected a new or empty folder")
            with refused, open_store(folder, settings, overwrite=False, resume=False):
                pass
            (tmp_path / "data" / "b.png").unlink()


# --- Messages
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["criticality", "--sampels", "3"], "--sampels: expected a known option, got this one; did you mean"),
        (["criticality", "--zzz"], "see critjax criticality --help"),
        (["landau", "--zzz"], "see critjax landau --help"),
        (
            ["landau", "--solver", "heun"],
            "--solver: expected a known option, got this one",
        ),
        (["criticality", "--size", "4"], "size: expected an odd window, got 4"),
        (["criticality", "--size", "many"], "--size: expected an integer, got 'many'; pass e.g. 7"),
        (["criticality", "--grid", "8x8x8"], "expected N or HxW, got '8x8x8'"),
        (["criticality", "--bank", "no-such"], "bank: expected 'random-pattern', 'two-pattern', 'stripe'"),
        (["criticality", "--eta", "-1"], "eta: expected a finite number >= 0"),
        (
            ["criticality", "--solver", "rk4"],
            "--solver: expected heun or euler, got 'rk4'; see critjax criticality --help",
        ),
        (["criticality", "--from", "missing.nc"], "--from: expected a results.nc, got no file missing.nc"),
        (["criticality", "--bank", "fashion-mnist", "--grid", "8"], "grid: expected none"),
        (
            ["criticality", "--wavelength", "8"],
            "--wavelength: expected the stripe bank, got another; leave it out",
        ),
        (["criticality", "--num-images", "50"], "--num-images: expected an image bank, got another"),
        (["criticality", "--bank", "stripe", "--positions", "all"], "--positions: expected an image bank"),
        (
            ["criticality", "--bank", "two-pattern", "--num-random", "8"],
            "--num-random: expected the random-pattern",
        ),
        (
            ["criticality", "--bank", "fashion-mnist", "--num-banks", "9"],
            "--num-banks: expected the random-pattern",
        ),
        (
            ["landau", "--bank", "stripe", "--num-random", "4"],
            "--num-random: expected the random-pattern bank",
        ),
        (["criticality", "--grid", "8", "--size", "9"], "size: expected a window that fits the 8 x 8 grid"),
        ([], "COMMAND: expected criticality, landau, "),
        (["study"], "got 'study'; see critjax --help"),
        (["criticalty"], "got 'criticalty'; did you mean criticality?"),
        (["--versoin"], "--versoin: expected a known option, got this one; did you mean --version?"),
        (
            ["landau", "--precision", "float46"],
            "expected float32 or float64, got 'float46'; did you mean float64",
        ),
        (
            ["criticality", "--size"],
            "--size: expected one argument, got fewer; see critjax criticality --help",
        ),
        (["criticality", "--eta", "one"], "--eta: expected a number, got 'one'; pass e.g. 0.5"),
        (["compare", "--sizes", "3,x"], "--sizes: expected integers with commas, got '3,x'; pass e.g. 1,2,2"),
        (
            ["guide", "--budgets", "1;2"],
            "--budgets: expected numbers with commas, got '1;2'; pass e.g. 0.5,1",
        ),
        (["train"], "--out: expected a value, got none; see critjax train --help"),
        (["train", "--norms", "3"], "--norms: expected 1 or 2, got '3'; see critjax train --help"),
        (["guide", "ideal", "extra"], "extra: expected a known option"),
    ],
)
def test_wrong_input_ends_in_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launch(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("critjax: error: ") and words in error
    assert "Traceback" not in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(("extra", "hint"), [("networks", True), ("", False)])
def test_only_studies_that_need_networks_advise_to_install_them(extra, hint, capsys, monkeypatch):
    def missing(settings, **rest):
        raise ImportError("No module named 'flax'")

    monkeypatch.setattr(
        "toy_study.STUDY", dataclasses.replace(study("toy"), estimate_cost=missing, extra=extra)
    )
    assert launch("toy", "--dry-run") == 2
    error = capsys.readouterr().err
    assert "No module named 'flax'" in error and ("pip install 'critjax[networks]'" in error) == hint
    assert study("compare").extra == study("guide").extra == "networks" and study("criticality").extra == ""


def test_training_without_networks_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "critjax.networks", None)
    assert launch("train", "--help") == 2
    assert "networks need pip install 'critjax[networks]'" in capsys.readouterr().err


def test_a_result_is_repeated_with_its_own_images_and_only_if_it_is_whole(tmp_path):
    images, path = tmp_path / "images.npy", tmp_path / "results.nc"
    np.save(images, np.zeros((3, 6, 6), np.uint8))
    settings = CriticalitySettings(bank=str(images), size=3).resolved()
    attrs = attributes("criticality", "images", settings, {})
    save_dataset(xr.Dataset({"sigma": ("level", np.arange(3.0))}, attrs=attrs), path)
    assert cli._settings(CriticalitySettings, {}, path) == settings
    np.save(images, np.ones((3, 6, 6), np.uint8))
    with pytest.raises(
        ValueError, match="--from: expected the files of that run, got others of --bank; restore them"
    ):
        cli._settings(CriticalitySettings, {}, path)
    assert cli._settings(CriticalitySettings, {"bank": str(images)}, path) == settings  # told to
    np.save(images, np.zeros((3, 6, 6), np.uint8))
    content = path.read_bytes()
    for position in range(0, len(content), 97):
        path.write_bytes(content[:position] + bytes([content[position] ^ 8]) + content[position + 1 :])
        with pytest.raises(ValueError, match=r"--from: expected a readable results.nc, got .*digest"):
            cli._settings(CriticalitySettings, {}, path)
    path.write_bytes(content)
    xr.load_dataset(path, engine="h5netcdf").to_netcdf(
        path, engine="h5netcdf"
    )  # as written by another program
    assert cli._settings(CriticalitySettings, {}, path) == settings


def test_unreadable_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.nc").write_bytes(b"\x89HDF broken")
    assert launch("criticality", "--from", "broken.nc") == 2
    assert "--from: expected a readable results.nc, got broken.nc" in capsys.readouterr().err
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    assert launch("criticality", "--from", "other.nc") == 2
    assert "--from: expected a result of this study, got other.nc without settings" in capsys.readouterr().err
    (tmp_path / "broken.npy").write_bytes(b"no numbers")
    assert launch("criticality", "--bank", "broken.npy", "--no-progress") == 2
    assert "broken.npy" in capsys.readouterr().err
    assert not (tmp_path / "critjax-runs" / "criticality-broken").exists()
    assert launch("criticality", "--from", "other.nc", "--quick") == 2
    assert "--quick: expected no --from beside it" in capsys.readouterr().err


# --- Help, version, completion
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["criticality", "landau", "freeze-out", "compare", "guide"])
def test_help_documents_every_setting(command, capsys):
    assert launch(command, "--help") == 0
    text = capsys.readouterr().out
    kind = study(command).settings
    said = {"banks": "--bank", "network": "NETWORK", "model": "MODEL"}
    for field in dataclasses.fields(kind):
        assert said.get(field.name, f"--{field.name.replace('_', '-')}") in text
    for option in ("--out", "--overwrite", "--resume", "--from", "--dry-run", "--no-progress"):
        assert option in text
    assert "examples:" in text and "default: " in text and study(command).description in text


def test_help_states_the_true_defaults(capsys):
    launch("criticality", "--help")
    text = " ".join(capsys.readouterr().out.split())
    patterns = CriticalitySettings().resolved()
    images = CriticalitySettings(bank="fashion-mnist").resolved()
    assert f"(default: {patterns.num_samples}; images: {images.num_samples})" in text
    assert f"(default: {patterns.num_levels}; images: {images.num_levels})" in text
    assert f"(default: {patterns.batch_size}; images: {images.batch_size})" in text
    assert f"0: none (default: {patterns.closure_samples}; images: {images.closure_samples})" in text
    assert f"0: none (default: {patterns.probe_samples}; images: {images.probe_samples})" in text
    assert f"odd (default: {patterns.size}; images: {images.size})" in text
    assert f"(default: {patterns.num_random})" in text and f"(default: {images.num_images})" in text
    assert f"(default: {images.positions})" in text and f"(default: {patterns.num_banks})" in text


def test_version(capsys):
    assert launch("--version") == 0
    assert capsys.readouterr().out.strip() == f"critjax {__version__}"


def test_help_of_one_command_imports_that_study_alone():
    code = (
        "import sys; from critjax import cli; print(cli.main(['--help']), cli.main(['landau', '--zzz']));"
        "print(sorted(m for m in sys.modules if m.count('.') == 2 and m.startswith('critjax.studies.')))"
    )
    first = "import sys; from critjax import cli; cli.main(['--help']); print('xarray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", first], capture_output=True, text=True, env=environment())
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    *_, status, imported = done.stdout.splitlines()
    assert status == "0 2", done.stderr
    others = [name for name in ("guide", "compare", "freeze_out") if f"critjax.studies.{name}'" in imported]
    assert not others and "critjax.studies.landau" in imported


@pytest.mark.parametrize("shell", _parser.SHELLS)
def test_completion_knows_commands_options_and_choices(shell, capsys):
    assert launch("--print-completion", shell) == 0
    text = capsys.readouterr().out
    for word in ("criticality", "landau", "toy", "train-classifier", "closure-samples", "float64"):
        assert word in text, word
    if shell == "bash":
        ask = "\n".join(
            f'COMP_WORDS=({words}); COMP_CWORD={number}; COMPREPLY=(); _shtab_critjax; echo "${{COMPREPLY[@]}}"'
            for words, number in (
                ("critjax crit", 1),
                ("critjax landau --prec", 2),
                ("critjax toy --kind ''", 3),
            )
        )
        done = subprocess.run(["bash", "-c", f"{text}\n{ask}"], capture_output=True, text=True)
        assert done.stdout.split("\n")[:3] == ["criticality", "--precision", "walk drift"], done.stderr


# --- A process of its own
# -------------------------------------------------------------------------------------------


def environment():
    root = str(Path(cli.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}


def signalled(number, folder, batches):
    """Run the tiny job until so many more batches are saved, send a signal; return status, output, errors, seconds."""
    # Jobs in the background ignore the signal, and their children inherit that.
    listen = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"import runpy, signal; {listen}; runpy.run_module('critjax', run_name='__main__')"
    command = [sys.executable, "-c", program, *TINY[:-1], "--num-samples", "400000", "--out", str(folder)]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, env=environment())
    deadline = time.monotonic() + 240

    def count():
        return len(list((folder / "partial").glob("batch-*.part")))

    batches += count()
    try:
        while time.monotonic() < deadline and count() < batches:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(number)
        told = time.monotonic()
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err, time.monotonic() - told
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["2>&-", ">/dev/full", "2>&1 | true"])
def test_a_run_is_saved_whoever_reads_of_it(tmp_path, where):
    """Closed, full and broken streams; the status is that of a broken pipe where something was to be written."""
    words = " ".join([sys.executable, "-m", "critjax", *TINY[:-1], "--quick", "--out", str(tmp_path / "run")])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} {where}"],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 141), done.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"figures", "report.html", "results.nc"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "expected", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_process_within_seconds_and_its_batches_stay(tmp_path, number, expected, word):
    for begun in (False, True):  # the second process goes on with what the first has left
        status, out, err, seconds = signalled(number, tmp_path / "run", 2)
        assert status == expected and not out, err
        assert seconds < 10
        kept = len(list((tmp_path / "run" / "partial").glob("batch-*.part")))
        text = f"critjax: {word}; {kept} batches are kept, the same command goes on from there"
        assert err.splitlines()[-1] == text
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"partial"}
        assert ("going on with" in err) == begun


#: A command that takes minutes, in a place that a signal reaches or not.
HELD = """
import signal, sys, time
import jax, jax.numpy as jnp
from critjax.cli._signals import obeyed
def stay():
    print("here", flush=True)
    {body}
with obeyed() as safe_point:
    stay()
    safe_point()
    print("went on", flush=True)
"""
IN_PYTHON = "time.sleep(60)"
#: A compiled loop without end, in which Python runs no handler.
IN_A_PROGRAM = (
    "jax.block_until_ready(jax.lax.while_loop(lambda i: i >= 0, lambda i: (i + 1) % 7, jnp.int32(0)))"
)
#: What waits in a destructor swallows what is raised there.
SWALLOWED = """
    class Waits:
        def __del__(self):
            time.sleep(1)
    Waits()"""


@pytest.mark.parametrize(
    ("body", "signals", "expected"),
    [
        (IN_PYTHON, [signal.SIGINT], -signal.SIGINT),
        (IN_PYTHON, [signal.SIGTERM], 143),
        pytest.param(IN_A_PROGRAM, [signal.SIGINT, signal.SIGINT], 130, marks=pytest.mark.slow),
        pytest.param(IN_A_PROGRAM, [signal.SIGINT, signal.SIGTERM], 143, marks=pytest.mark.slow),
        pytest.param(SWALLOWED, [signal.SIGTERM], 143, marks=pytest.mark.slow),
    ],
    ids=["INT", "TERM", "INT-INT", "INT-TERM", "swallowed"],
)
def test_the_first_signal_ends_python_the_second_everything(body, signals, expected):
    """An uncaught KeyboardInterrupt ends Python by the signal itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", HELD.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout.readline() == "here\n"
        for number in signals:
            time.sleep(0.5)
            process.send_signal(number)
        assert process.wait(timeout=20) == expected
        assert process.communicate()[0] == ""
    finally:
        process.kill()
