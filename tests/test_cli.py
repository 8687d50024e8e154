# ruff: noqa: RUF001  (Greek letters belong in a report)
"""The command line: end to end on a tiny study, messages before heavy work, resuming, repeating."""

import os
import re
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
from critjax.studies import _settings, _storage
from critjax.studies.compare.settings import CompareSettings
from critjax.studies.criticality.ensemble import BatchSums, Kept

TINY = [
    *("criticality", "--bank", "two-pattern", "--size", "3", "--grid", "8x10", "--num-samples", "48"),
    *("--batch-size", "8", "--num-levels", "9", "--closure-samples", "2", "--probe-samples", "3"),
    *("--precision", "float64", "--no-progress"),
]


@pytest.fixture(autouse=True)
def leave_jax_alone(monkeypatch):
    """The command line configures JAX for its own process; the tests keep theirs."""
    monkeypatch.setattr(cli, "configure_jax", lambda precision: None)


def launch(*arguments):
    return cli.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "configure_jax", lambda precision: None)
        assert launch(*TINY, "--out", folder) == 0
    return folder


# --- End to end
# ------------------------------------------------------------------------------------------------


def test_a_run_writes_everything(finished, capsys):
    assert {p.name for p in finished.iterdir()} == {"results.nc", "report.html", "figures"}
    with xr.open_dataset(finished / "results.nc", engine="h5netcdf") as data:
        assert float(data.critical_sigma_bare) == pytest.approx(3.0, rel=1e-6)
        assert data.attrs["status"] == "complete"
    assert len(list((finished / "figures").glob("*.png"))) >= 6


def test_the_table_is_printed_and_the_report_named_last(tmp_path, capsys):
    assert launch(*TINY, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert re.search(r"critical noise σ_c, softest mode: bare theory +3\.000", printed)
    assert "* Linear theory puts the critical noise at σ_c = 3.000" in printed
    assert printed.strip().splitlines()[-1] == f"report {(tmp_path / 'run' / 'report.html').resolve()}"


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


def test_a_stored_result_repeats_its_run(finished, tmp_path, capsys):
    assert (
        launch("criticality", "--from", finished / "results.nc", "--out", tmp_path / "b", "--no-progress")
        == 0
    )
    with (
        xr.open_dataset(finished / "results.nc", engine="h5netcdf") as first,
        xr.open_dataset(tmp_path / "b" / "results.nc", engine="h5netcdf") as second,
    ):
        assert first.attrs["settings"] == second.attrs["settings"]
        for name in first.data_vars:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_an_interrupted_run_reports_what_was_done_and_goes_on(finished, tmp_path, capsys, monkeypatch):
    from critjax.studies import criticality

    original, folder = criticality.run, tmp_path / "run"

    def interrupted(settings, *, progress, **rest):
        def stop(stage, done, total):
            if stage == "simulation" and done == 2:
                raise KeyboardInterrupt

        return original(settings, progress=stop, **rest)

    monkeypatch.setattr(criticality, "run", interrupted)
    assert launch(*TINY, "--out", folder) == 130
    assert "Interrupted: 16 of 48 samples" in capsys.readouterr().out
    assert "Interrupted: 16 of 48" in (folder / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(criticality, "run", original)
    other = [*TINY[:-1], "--seed", 1, "--no-progress"]
    assert launch(*other, "--out", folder, "--resume") == 2
    assert "--resume: expected an interrupted run" in capsys.readouterr().err
    assert launch(*TINY, "--out", folder, "--resume") == 0
    assert "going on with 2 batches" in capsys.readouterr().err
    assert not (folder / "partial").exists()
    with (
        xr.open_dataset(finished / "results.nc", engine="h5netcdf") as straight,
        xr.open_dataset(folder / "results.nc", engine="h5netcdf") as resumed,
    ):
        for name in straight.data_vars:
            np.testing.assert_array_equal(straight[name], resumed[name], err_msg=name)


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
        (_settings.CriticalitySettings(bank=data, size=3).resolved(), CompareSettings(data=data).resolved())
    ):
        write(0)
        folder = tmp_path / f"run{number}"
        _storage.open_store(folder, settings, overwrite=False, resume=False)
        _storage.open_store(folder, settings, overwrite=False, resume=True)
        write(255)
        with pytest.raises(ValueError, match="--resume: expected an interrupted run"):
            _storage.open_store(folder, settings, overwrite=False, resume=True)
        if kind == "folder":
            write(0)
            write(0, "b")
            with pytest.raises(ValueError, match="--out: expected a new or empty folder"):
                _storage.open_store(folder, settings, overwrite=False, resume=False)
            (tmp_path / "data" / "b.png").unlink()


def test_interrupted_at_once_leaves_nothing_half_done(tmp_path, capsys, monkeypatch):
    from critjax.studies import criticality

    def stop(settings, **rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(criticality, "run", stop)
    assert launch(*TINY, "--out", tmp_path / "run") == 130
    assert "nothing to report" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_damaged_batch_is_simulated_again(tmp_path, capsys):
    settings = _settings.CriticalitySettings(bank="two-pattern").resolved()
    store = _storage.open_store(tmp_path / "run", settings, overwrite=False, resume=False)
    (tmp_path / "run" / "partial" / "batch-00000.npz").write_bytes(b"not a zip file")
    assert store.load() == {}
    assert "batch-00000.npz cannot be read; that batch is simulated again" in capsys.readouterr().err


def test_batches_of_an_older_format_are_simulated_again(tmp_path, capsys):
    settings = _settings.CriticalitySettings(bank="two-pattern").resolved()
    store = _storage.open_store(tmp_path / "run", settings, overwrite=False, resume=False)
    kinds = {"sums": BatchSums, "kept": Kept}
    arrays = {f"{kind}_{name}": np.zeros(2) for kind, fields in kinds.items() for name in fields._fields}
    np.savez(tmp_path / "run" / "partial" / "batch-00000.npz", **arrays)
    assert list(store.load()) == [0]
    del arrays["sums_soft"]
    np.savez(tmp_path / "run" / "partial" / "batch-00000.npz", **arrays)
    assert store.load() == {}
    assert "batch-00000.npz cannot be read; that batch is simulated again" in capsys.readouterr().err


# --- Output folder
# ------------------------------------------------------------------------------------------------


def test_an_existing_folder_is_not_overwritten_unless_asked(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.html").write_text("precious")
    (folder / "notes.txt").write_text("mine")
    assert launch(*TINY, "--out", folder) == 2
    error = capsys.readouterr().err
    assert "--out: expected a new or empty folder, got" in error and "pass --overwrite" in error
    assert (folder / "report.html").read_text() == "precious"
    assert launch(*TINY, "--out", folder, "--overwrite") == 0
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (folder / "notes.txt").read_text() == "mine"


def test_an_output_path_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert launch(*TINY, "--out", tmp_path / "file") == 2
    assert "--out: expected a folder, got the file" in capsys.readouterr().err
    assert launch(*TINY, "--out", tmp_path / "file" / "below") == 2
    assert "--out: expected a folder that can be written" in capsys.readouterr().err
    assert launch(*TINY, "--out", tmp_path / "new", "--overwrite", "--resume") == 2
    assert "--overwrite: expected no --resume beside it" in capsys.readouterr().err


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
        (["criticality", "--size", "many"], "argument --size: invalid int value: 'many'"),
        (["criticality", "--grid", "8x8x8"], "expected N or HxW, got '8x8x8'"),
        (["criticality", "--bank", "no-such"], "bank: expected 'random-pattern', 'two-pattern', 'stripe'"),
        (["criticality", "--eta", "-1"], "eta: expected a finite number >= 0"),
        (["criticality", "--solver", "rk4"], "invalid choice: 'rk4'"),
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
        ([], "required: COMMAND"),
        (["study"], "invalid choice: 'study'"),
    ],
)
def test_wrong_input_ends_in_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launch(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("critjax: error: ") and words in error
    assert "Traceback" not in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(("command", "hint"), [("compare", True), ("criticality", False)])
def test_only_commands_about_networks_advise_to_install_them(command, hint, capsys, monkeypatch):
    def missing(options):
        raise ImportError("No module named 'flax'")

    monkeypatch.setattr(cli, "_run", missing)
    assert launch(command) == 2
    error = capsys.readouterr().err
    assert "No module named 'flax'" in error and ("pip install" in error) == hint


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


def test_mistakes_are_told_before_anything_heavy_is_imported():
    code = (
        "import sys; from critjax import cli; status = cli.main(['criticality', '--size', '4']);"
        "heavy = {'jax', 'xarray', 'matplotlib'} & set(sys.modules); print(status, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    status, heavy = done.stdout.split(maxsplit=1)
    assert status == "2"
    assert "matplotlib" not in heavy and "xarray" not in heavy


# --- Help, version, dry run
# -----------------------------------------------------------------------------------------


def test_help_documents_every_setting(capsys):
    import dataclasses

    assert launch("criticality", "--help") == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(_settings.CriticalitySettings):
        assert f"--{field.name.replace('_', '-')}" in text
    for option in ("--out", "--overwrite", "--resume", "--from", "--dry-run", "--no-progress"):
        assert option in text
    assert "examples:" in text and "default: 512" in text and "default: random-pattern" in text


def test_help_states_the_true_defaults(capsys):
    launch("criticality", "--help")
    text = " ".join(capsys.readouterr().out.split())
    patterns = _settings.CriticalitySettings().resolved()
    images = _settings.CriticalitySettings(bank="fashion-mnist").resolved()
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


def test_dry_run_simulates_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launch(*TINY, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "predicted time" in printed and "predicted memory" in printed and "MiB" in printed
    assert list(tmp_path.iterdir()) == []


# --- A process of its own
# -------------------------------------------------------------------------------------------


def environment():
    root = str(Path(cli.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}


@pytest.mark.slow
def test_control_c_in_a_real_process(tmp_path):
    """The signal arrives while batches are simulated: a labelled report, status 130."""
    # Jobs in the background ignore the signal, and their children inherit that.
    listen = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [
        sys.executable,
        "-c",
        f"import runpy, signal; {listen}; runpy.run_module('critjax', run_name='__main__')",
        *TINY[:-1],
        "--num-samples",
        "400000",
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    partial = tmp_path / "run" / "partial"
    deadline = time.monotonic() + 240
    try:
        while time.monotonic() < deadline and len(list(partial.glob("batch-*.npz"))) < 3:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Interrupted" in out
    with xr.open_dataset(tmp_path / "run" / "results.nc", engine="h5netcdf") as data:
        assert data.attrs["status"] == "interrupted"
        assert data.sigma.dtype == np.float64
