"""The tests are tested: each deliberate mistake in the library must make some test fail."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "mutate.py"


def _breaks_down(*_):
    raise RuntimeError


@pytest.fixture
def mutate(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import mutate

    return mutate


@pytest.mark.skipif(not SCRIPT.exists(), reason="tools/ is not part of this copy")
def test_every_mutation_still_finds_its_text_exactly_once(mutate):
    for mutation in mutate.MUTATIONS:
        text = (ROOT / mutation.path).read_text(encoding="utf-8")
        assert text.count(mutation.old) == 1, mutation.name
        assert mutation.new not in (mutation.old, ""), mutation.name


@pytest.mark.skipif(not SCRIPT.exists(), reason="tools/ is not part of this copy")
def test_the_script_reports_survivors_and_lost_texts(tmp_path, mutate, monkeypatch):
    """A mutation that changes nothing survives, one without its text is named, a broken run is no success."""
    (tmp_path / "module.py").write_text("VALUE = 1\n", encoding="utf-8")
    (tmp_path / "test_module.py").write_text(
        "import module\n\ndef test_value():\n    assert module.VALUE == 1\n", encoding="utf-8"
    )

    def verdict(old, new, expression="value"):
        tests = ("test_module.py", expression)
        found = mutate.judge(mutate.Mutation("m", "module.py", old, new, tests), tmp_path, 60.0)[0]
        assert (tmp_path / "module.py").read_text(encoding="utf-8") == "VALUE = 1\n"
        return found

    assert verdict("1", "2") == "noticed"
    assert verdict("1", "1.0") == "SURVIVED"
    assert verdict("3", "2") == "NO MATCH"
    assert verdict("1", "2", expression="nothing") == "BROKEN RUN"
    monkeypatch.setattr(mutate, "_in_child", _breaks_down)
    assert verdict("1", "2") == "BROKEN RUN"


@pytest.mark.skipif(not SCRIPT.exists(), reason="tools/ is not part of this copy")
def test_one_mutation_of_every_package_can_be_chosen(mutate, capsys):
    assert mutate.main(["--list", "--one-each"]) == 0
    paths = [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines()]
    packages = [path.split("/")[1] for path in paths]
    assert len(set(packages)) == len(packages)
    assert set(packages) == {mutation.path.split("/")[1] for mutation in mutate.MUTATIONS}
    assert 5 < len(paths) < len(mutate.MUTATIONS) / 5


@pytest.mark.parametrize(
    "options",
    [pytest.param(["--one-each"], marks=pytest.mark.slow), pytest.param([], marks=pytest.mark.nightly)],
    ids=["one of every package", "all"],
)
@pytest.mark.skipif(not SCRIPT.exists(), reason="tools/ is not part of this copy")
def test_mutants_are_noticed(options):
    # No time limit here: the script has one for each mutant.
    command = [sys.executable, str(SCRIPT), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
