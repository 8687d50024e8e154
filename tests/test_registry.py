"""A study is one folder and one line of the registry: the toy study gets all that the others have."""

import dataclasses
import sys
import typing

import numpy as np
import pytest
import xarray as xr

from critjax import cli, studies
from critjax._stored import option_of
from critjax.studies import REGISTRY, Entry


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(cli, "configure_jax", lambda precision: None)  # the tests keep their own precision
    monkeypatch.setitem(REGISTRY, "toy", Entry("let walks go", "toy_study"))


def launch(*arguments):
    return cli.main([str(a) for a in arguments])


def load(folder):
    return xr.load_dataset(folder / "results.nc", engine="h5netcdf")


def test_the_command_is_listed_without_importing_the_study(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "toy_study"]:
        monkeypatch.delitem(sys.modules, name)
    assert launch("--help") == 0
    assert "toy                 let walks go\n" in capsys.readouterr().out
    assert not any(name.startswith("toy_study") for name in sys.modules)


def test_help_says_what_the_settings_say(capsys):
    assert launch("toy", "--help") == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    for line in (
        "usage: critjax toy",
        "Let walks go, and see how far they come.",
        "TEXT in the report (default: walks)",
        "--kind {walk,drift} steps at random, or all alike (default: walk)",
        "--num-walks N walks a block (default: 40)",
        "--times A,B steps after which they are measured (default: 1,2,4)",
        "physics of 100 % of the walks: --step L length of a random step (default: 1.0)",
        "--centre X Y where they start (default: 0 0)",
        "--start NAME names of the walks",
        "--seed N (default: 0)",
        "--mirrored, --no-mirrored count walks to the left, too (default: yes)",
        "--quick small defaults",
        "output: --out DIR folder to write (default: critjax-runs/toy-KIND)",
        "--from results.nc repeat the run of this result; further options change it",
    ):
        assert line in words, line
    assert text.endswith("examples:\n  critjax toy --num-walks 8\n") and "hidden" not in text


def test_a_run_leaves_result_figures_and_report(tmp_path, capsys):
    assert launch("toy", "--num-walks", 8, "--no-progress", "--out", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"results.nc", "report.html", "figures"}
    assert [p.name for p in (tmp_path / "run" / "figures").iterdir()] == ["displacement.png"]
    data, page = load(tmp_path / "run"), (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    sentence = "Walks come as far as theory says."
    assert data.attrs["study"] == "toy" and studies.content(data).sentences == [sentence]
    assert f"* {sentence}" in printed and sentence in page and "How far walks come." in page
    assert "critjax toy --from results.nc" in page and list(studies.figures(data)) == ["displacement"]
    assert printed.splitlines()[-1] == f"report {(tmp_path / 'run' / 'report.html').resolve()}"
    settings = studies.study_of(data).settings_of(data)
    assert settings == settings.resolved() and settings.num_walks == 8


def test_an_interrupted_run_goes_on(tmp_path, capsys, monkeypatch):
    from toy_study import run  # the function; its module is found by name

    module, done = sys.modules[run.__module__], []
    original = module.walk

    def stop(settings, block):
        if block == 2 and len(done) == 2:
            raise KeyboardInterrupt
        done.append(block)
        return original(settings, block)

    words = ("toy", "--num-walks", 8, "--no-progress", "--out")
    assert launch(*words, tmp_path / "straight") == 0
    monkeypatch.setattr(module, "walk", stop)
    assert launch(*words, tmp_path / "run") == 130
    told = "critjax: interrupted; 2 blocks are kept, the same command goes on from there"
    assert told in capsys.readouterr().err
    assert launch("toy", "--num-walks", 9, "--no-progress", "--out", tmp_path / "run", "--resume") == 2
    assert "--resume: expected an interrupted run" in capsys.readouterr().err
    done.append(None)  # go through this time
    assert launch(*words, tmp_path / "run", "--resume") == 0
    assert "going on with 2 blocks of an interrupted run" in capsys.readouterr().err
    assert done == [0, 1, None, 2] and not (tmp_path / "run" / "partial").exists()
    xr.testing.assert_equal(load(tmp_path / "run"), load(tmp_path / "straight"))


def test_texts_of_saved_parts_do_not_cut_longer_ones(tmp_path):
    """As where one bank is softest at k = 0, another at a finite wavelength."""
    from critjax.report import save_dataset
    from critjax.studies._engine.storage import open_store

    settings = studies.study("toy").settings().resolved()
    with open_store(tmp_path / "run", settings, overwrite=False, resume=False) as store:
        store.save("short", xr.Dataset({"kind": ("bank", ["uniform"])}))
        loaded = store.load()["short"]
    longer = xr.Dataset({"kind": ("bank", ["finite wavelength"])})
    path = save_dataset(xr.concat([loaded, longer], dim="bank"), tmp_path / "both.nc")
    assert xr.load_dataset(path, engine="h5netcdf").kind.values.tolist() == ["uniform", "finite wavelength"]


@pytest.mark.parametrize("seed", [-1, 2**32, 10**5000], ids=["negative", "wraps", "huge"])
def test_seeds_that_would_be_others_are_refused(seed):
    """Modulo 2^32, as which JAX takes them, 0 and 2^32 are one."""
    from critjax.networks import held_out_loss

    for name in ("criticality", "landau", "freeze-out", "compare", "guide"):
        with pytest.raises(ValueError, match="seed: expected "):
            studies.study(name).settings(seed=seed)
    with pytest.raises(ValueError, match="seed: expected "):
        held_out_loss(lambda x, sigma: x, np.zeros((2, 4, 4, 1)), seed=seed)


def test_a_stored_result_repeats_its_run_and_options_change_it(tmp_path):
    first = tmp_path / "first"
    assert launch("toy", "--num-walks", 8, "--seed", 3, "--no-progress", "--out", first) == 0
    again = ("toy", "--from", first / "results.nc", "--no-progress", "--out")
    assert launch(*again, tmp_path / "same") == 0
    xr.testing.assert_equal(load(first), load(tmp_path / "same"))
    assert launch(*again, tmp_path / "other", "--seed", 4) == 0
    assert not np.array_equal(load(first).displacement, load(tmp_path / "other").displacement)


def test_a_typo_is_told_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launch("toy", "--num-walk", 8) == 2
    assert (
        "--num-walk: expected a known option, got this one; did you mean --num-walks?"
        in capsys.readouterr().err
    )
    assert launch("tpy") == 2
    assert "got 'tpy'; did you mean toy?" in capsys.readouterr().err
    assert launch("toy", "--kind", "drift", "--step", 2) == 2
    assert "--step: expected the kind walk, got another; leave it out" in capsys.readouterr().err
    assert launch("toy", "--kind", "drift", "--start", "a") == 2
    assert "--start: expected the kind walk, got another" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- Every registered study
# ----------------------------------------------------------------------------------------------


@pytest.fixture(params=list(REGISTRY))
def settings(request):
    return studies.study(request.param).settings


def test_every_setting_has_an_option_that_says_something(settings):
    for field in dataclasses.fields(settings):
        said = option_of(field)
        assert said is not None, field.name
        assert said.help or field.name in ("seed", "precision", "solver"), field.name
        closed = field.default is not None or said.shown is not None
        assert closed or field.name == "classes", f"{field.name}: what does None stand for?"


def test_resolved_settings_are_of_their_own_type_with_nothing_open(settings):
    """And equal to what is read back from a result: the values are."""
    names = {field.name for field in dataclasses.fields(settings)}
    kinds = [{"bank": b} for b in ("stripe", "fashion-mnist")] if "bank" in names else [{}]
    kinds += [{"model": m} for m in ("ideal", "els", "unet-classes")] if "model" in names else []
    for kind in kinds:
        for quick in (False, True):
            open_ones = settings(quick=quick, **kind)
            full = open_ones.resolved()
            assert type(full) is not settings and isinstance(full, settings)
            hints = typing.get_type_hints(type(full))
            for name, value in full.values().items():
                assert value is not None or type(None) in typing.get_args(hints[name]), name
            stored = settings.from_json(full.to_json())
            assert type(stored) is settings and stored == full == full.resolved() and open_ones != full
            assert hash(stored) == hash(full) and dataclasses.replace(full, seed=7) != stored


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"kind": "run"}, "kind: expected 'walk' or 'drift', got 'run'"),
        ({"num_walks": 1}, "num_walks: expected an integer >= 2, got 1"),
        ({"num_walks": 4.0}, "num_walks: expected an integer >= 2, got 4.0"),
        ({"step": 0.0}, "step: expected a finite number > 0, got 0.0"),
        ({"step": float("inf")}, "step: expected a finite number > 0, got inf"),
        ({"step": None}, "step: expected a finite number > 0, got None"),
        ({"step": "1"}, "step: expected a finite number > 0, got 1"),
    ],
)
def test_settings_allow_what_their_options_say(value, words):
    """None is legal where it is the default; resolved settings, whose fields are declared anew, obey the same."""
    from toy_study.settings import ResolvedToy, ToySettings

    assert ToySettings().num_walks is None and ToySettings(step=np.float32(0.5)).step == 0.5
    with pytest.raises(ValueError, match=words):
        ToySettings(**value)
    with pytest.raises(ValueError, match=words):
        ResolvedToy(**{"num_walks": 2} | value)
