"""The common runner, once for all studies: folders, saved parts, resumption, reports."""

import dataclasses
import html
import json
import os

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from critjax._stored import Stored
from critjax.plotting import FigureKind
from critjax.report import Content, Row, files, labels, save_dataset
from critjax.studies._engine import storage
from critjax.studies._engine.results import attributes
from critjax.studies._engine.run import Run
from critjax.studies._engine.runner import execute
from critjax.studies._engine.storage import open_store
from critjax.studies._engine.study import Study

CALLS: list[str] = []


@dataclasses.dataclass(frozen=True)
class ToySettings(Stored):
    """A study of squares."""

    count: int = 4
    tail: bool = True
    quick: bool = False
    data: str = ""

    def resolved(self):
        return self

    @property
    def inputs(self):
        return {"data": os.stat(self.data).st_size} if self.data else {}


def run_toy(settings, *, progress=None, on_checkpoint=None, saved=None):
    """Squares as arrays, then a dataset, then a stage that is not saved."""
    run = Run(progress, on_checkpoint, saved)

    def square(index):
        CALLS.append(f"square-{index}")
        return {"value": np.array(index**2)}

    def table(index):
        CALLS.append("table")
        return xr.Dataset({"doubled": ("i", 2 * np.arange(settings.count))})

    squares = list(run.parts("squares", [f"square-{i}" for i in range(settings.count)], square))
    tables = list(run.parts("tables", ["table"], table))
    dataset = xr.Dataset({"square": ("i", [int(part["value"]) for part in squares])})
    for part in tables:
        dataset["doubled"] = part["doubled"]
    if settings.tail:
        with run.stage("tail"):
            run.report("tail", 1, 1)
            dataset["tail"] = 1.0
    dataset.attrs = attributes("toy", "squares", settings, run.seconds)
    return dataset


def draw(dataset):
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot(dataset["square"])
    return figure


TOY = Study(
    name="toy",
    settings=ToySettings,
    run=run_toy,
    figures=lambda dataset: {
        "squares": FigureKind(draw, ("square",), "Squares."),
        "lost": FigureKind(draw, ("no_such",), "Never drawn."),
    },
    content=lambda dataset: Content(
        "squares",
        [f"{dataset.sizes['i']} squares & more."],
        1,
        [Row("largest", "-", str(int(dataset["square"].max())), "-")],
        "",
        labels(dataset),
    ),
    estimate_cost=lambda settings: {},
    describe=lambda settings: [],
    description="squares",
)


def stop_at(stage, done):
    def progress(name, count, total):
        if (name, count) == (stage, done):
            raise KeyboardInterrupt

    return progress


@pytest.fixture(autouse=True)
def forget_calls():
    CALLS.clear()


def test_a_run_leaves_result_report_and_figures_and_no_parts(tmp_path):
    told = []
    finished = execute(TOY, ToySettings(), tmp_path / "a" / "b", progress=lambda *step: told.append(step))
    assert finished.seconds > 0
    assert {p.name for p in (tmp_path / "a" / "b").iterdir()} == {"results.nc", "report.html", "figures"}
    assert [p.name for p in (tmp_path / "a" / "b" / "figures").iterdir()] == ["squares.png"]
    page = finished.report.read_text(encoding="utf-8")
    assert "4 squares &amp; more." in page and "Quick run" not in page
    assert "critjax toy --from results.nc" in page and "data:image/png;base64," in page
    with xr.open_dataset(finished.result, engine="h5netcdf") as stored:
        xr.testing.assert_identical(stored.load(), finished.dataset)
        assert TOY.settings_of(stored) == ToySettings()
        assert set(json.loads(stored.attrs["seconds"])) == {"squares", "tables", "tail"}
    assert told[0] == ("squares", 0, 4) and told[-1] == ("figures", 1, 1)
    assert [step for step in told if step[0] == "squares"] == [("squares", i, 4) for i in range(5)]


def interrupted(settings, folder, stage, done):
    """Run until an interruption, which goes through."""
    with pytest.raises(KeyboardInterrupt):
        execute(TOY, settings, folder, progress=stop_at(stage, done))


@pytest.mark.parametrize(
    ("stage", "done", "kept"),
    [("squares", 1, 1), ("squares", 3, 3), ("tables", 0, 4), ("tail", 1, 5), ("figures", 0, 5)],
)
def test_an_interrupted_run_ends_at_once_and_goes_on_from_there(tmp_path, stage, done, kept):
    folder = tmp_path / "run"
    interrupted(ToySettings(), folder, stage, done)
    assert ("results.nc" in os.listdir(folder)) == (stage == "figures")
    parts = [*(f"square-{i}" for i in range(4)), "table"]
    assert parts[:kept] == CALLS
    CALLS.clear()
    found = []
    whole = execute(
        TOY, ToySettings(), folder, resume=True, on_open=lambda store: found.append(store.num_saved)
    )
    assert found == [kept] and parts[kept:] == CALLS and not (folder / "partial").exists()
    straight = execute(TOY, ToySettings(), tmp_path / "straight").dataset
    xr.testing.assert_equal(whole.dataset, straight)


def test_interrupted_before_the_first_part_nothing_stays(tmp_path):
    interrupted(ToySettings(), tmp_path / "run", "squares", 0)
    assert not (tmp_path / "run").exists()


def test_a_run_killed_before_its_first_part_is_no_obstacle(tmp_path):
    (tmp_path / "partial").mkdir()
    execute(TOY, ToySettings(), tmp_path)
    with pytest.raises(ValueError, match="--out: expected a new or empty folder"):
        execute(TOY, ToySettings(), tmp_path)
    for path in (*tmp_path.glob("*.*"), *tmp_path.glob("figures/*")):
        path.unlink()
    (tmp_path / "figures").rmdir()
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="--out: expected a new or empty folder, got .* with partial"):
        execute(TOY, ToySettings(), tmp_path)


def test_a_failing_run_leaves_no_folder(tmp_path):
    def fail(*step):
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        execute(TOY, ToySettings(), tmp_path / "run", progress=fail)
    assert not (tmp_path / "run").exists()


def test_a_part_that_cannot_be_read_is_computed_again(tmp_path, capsys):
    folder = tmp_path / "run"
    interrupted(ToySettings(), folder, "tail", 1)
    partial = folder / "partial"
    assert {p.name for p in partial.iterdir()} == {
        "table.part",
        *(f"square-{i}.part" for i in range(4)),
    }
    (partial / "square-1.part").write_bytes((partial / "square-3.part").read_bytes())  # a copy
    flipped = bytearray((partial / "square-2.part").read_bytes())
    flipped[-60] ^= 4
    (partial / "square-2.part").write_bytes(flipped)
    (partial / "table.part").write_bytes(b"")
    (partial / ".critjax-half.part").write_bytes(b"of a killed process")
    CALLS.clear()
    whole = execute(TOY, ToySettings(), folder)
    assert CALLS == ["square-1", "square-2", "table"] and whole.dataset["square"].values.tolist() == [
        0,
        1,
        4,
        9,
    ]
    printed = capsys.readouterr().err
    assert "square-1.part: part: expected one of this run, got another name; it is computed again" in printed
    assert (
        "square-2.part: part: expected what was saved, got damaged bytes" in printed
        and "table.part" in printed
    )


def test_parts_of_another_run_are_not_mixed_in(tmp_path, capsys):
    """Three squares of one run find their way into the folder of another."""
    interrupted(ToySettings(tail=False), tmp_path / "other", "squares", 3)
    interrupted(ToySettings(), tmp_path / "run", "squares", 4)
    for path in (tmp_path / "other" / "partial").glob("*.part"):
        (tmp_path / "run" / "partial" / path.name).write_bytes(path.read_bytes())
    CALLS.clear()
    execute(TOY, ToySettings(), tmp_path / "run")
    assert [*(f"square-{i}" for i in range(3)), "table"] == CALLS
    assert capsys.readouterr().err.count("got another run; it is computed again") == 3


def test_a_folder_serves_one_run_at_a_time(tmp_path):
    def second(name, done, total):
        for options in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(
                ValueError, match="--out: expected a folder that no other run uses, got .* writing"
            ):
                execute(TOY, ToySettings(count=5), tmp_path, **options)

    assert execute(TOY, ToySettings(), tmp_path, progress=second).dataset["square"].values.tolist() == [
        0,
        1,
        4,
        9,
    ]
    assert {p.name for p in tmp_path.iterdir()} == {"results.nc", "report.html", "figures"}


@pytest.mark.parametrize(
    "error", [RuntimeError("latex could not be found"), MemoryError(), ValueError("<x>\n^")]
)
def test_a_figure_that_fails_costs_nothing_else(tmp_path, capsys, error):
    def fails(dataset):
        raise error

    kinds = {
        "first": FigureKind(fails, ("square",), "Lost."),
        "squares": TOY.figures(xr.Dataset())["squares"],
    }
    finished = execute(dataclasses.replace(TOY, figures=lambda dataset: kinds), ToySettings(), tmp_path)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["squares.png"]
    told = f"The figure first could not be drawn: {type(error).__name__}: {error}".replace("\n", " ")
    assert f"critjax: {told}" in capsys.readouterr().err
    assert html.escape(told) in finished.report.read_text(encoding="utf-8")
    assert finished.result.exists() and not (tmp_path / "partial").exists()


def test_a_full_disk_loses_nothing_that_was_saved(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:

        def full(path, content):
            raise OSError(28, f"{path}: no room")

        patch.setattr(files, "write_file", full)
        with pytest.raises(OSError, match="results.nc: no room"):
            execute(TOY, ToySettings(), tmp_path / "run")
    CALLS.clear()
    execute(TOY, ToySettings(), tmp_path / "run", resume=True)
    assert CALLS == []


def test_parts_of_other_settings_versions_or_files_are_not_used(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.write_text("one")
    settings, folder = ToySettings(data=str(data)), tmp_path / "run"
    interrupted(settings, folder, "squares", 2)
    for other in (dataclasses.replace(settings, count=3), dataclasses.replace(settings, quick=True)):
        with pytest.raises(ValueError, match="--resume: expected an interrupted run .* got parts of other"):
            execute(TOY, other, folder, resume=True)
        with pytest.raises(ValueError, match="--out: expected a new or empty folder, .* pass --overwrite"):
            execute(TOY, other, folder)
    data.write_text("another")
    with pytest.raises(ValueError, match="--resume: expected an interrupted run"):
        execute(TOY, settings, folder, resume=True)
    data.write_text("two")  # as long as the first
    with monkeypatch.context() as patch:
        patch.setattr(storage, "__version__", "0.0")
        with pytest.raises(ValueError, match="--resume: expected an interrupted run"):
            execute(TOY, settings, folder, resume=True)
    assert len(list((folder / "partial").glob("*.part"))) == 2
    with pytest.raises(ValueError, match="--resume: expected an interrupted run .* got no interrupted run"):
        execute(TOY, settings, tmp_path / "elsewhere", resume=True)


def test_only_what_a_run_writes_is_overwritten(tmp_path):
    folder = tmp_path / "run"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "old.png").write_text("old")
    (folder / "report.html").write_text("precious")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(
        ValueError, match="--out: expected a new or empty folder, got .* with figures, notes.txt"
    ):
        execute(TOY, ToySettings(), folder)
    assert (folder / "report.html").read_text() == "precious"
    with pytest.raises(ValueError, match="--overwrite: expected no --resume beside it"):
        execute(TOY, ToySettings(), folder, overwrite=True, resume=True)
    execute(TOY, ToySettings(), folder, overwrite=True)
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (folder / "notes.txt").read_text() == "mine" and not (folder / "figures" / "old.png").exists()


def test_overwriting_forgets_saved_parts(tmp_path):
    interrupted(ToySettings(), tmp_path / "run", "squares", 2)
    with open_store(tmp_path / "run", ToySettings(), overwrite=True, resume=False) as store:
        assert store.num_saved == 0 and store.load() == {}


def test_a_path_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--out: expected a folder, got the file"):
        execute(TOY, ToySettings(), tmp_path / "file")
    with pytest.raises(ValueError, match="--out: expected a folder that can be written"):
        execute(TOY, ToySettings(), tmp_path / "file" / "below")


def test_a_quick_run_says_so(tmp_path):
    page = execute(TOY, ToySettings(quick=True), tmp_path / "run").report.read_text(encoding="utf-8")
    assert "Quick run: few samples" in page


def test_parts_report_for_themselves_where_a_stage_is_not_shown():
    told = []
    run = Run(lambda *step: told.append(step))
    assert list(run.parts("hidden", ["a", "b"], lambda i: i, shown=False)) == [0, 1] and told == []
    with pytest.raises(KeyboardInterrupt), run.stage("needed"):
        raise KeyboardInterrupt
    assert set(run.seconds) == {"hidden", "needed"}


def test_results_of_another_study_are_refused(tmp_path):
    dataset = execute(TOY, ToySettings(), tmp_path / "run").dataset
    with pytest.raises(ValueError, match="dataset: expected a result of the toy study"):
        TOY.settings_of(dataset.drop_attrs())
    path = save_dataset(dataset, tmp_path / "again.nc")
    again = execute(TOY, TOY.settings_of(xr.load_dataset(path, engine="h5netcdf")), tmp_path / "b").dataset
    xr.testing.assert_equal(again, dataset)
