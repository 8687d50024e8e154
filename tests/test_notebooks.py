"""Every notebook runs from top to bottom as a script and prints its key result."""

import re
import runpy
from pathlib import Path

import jax
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
KEY_LINES = {
    "quick_start": r"sigma_c = 9\.0000",
    "freeze_out": r"resolved ladder 0\.25 \(theory 0\.25\), coarse ladder 0\.49 ",
}


def test_every_notebook_has_its_key_line():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(KEY_LINES)


@pytest.mark.slow
@pytest.mark.parametrize("name", KEY_LINES)
def test_notebook(name, capsys):
    with jax.enable_x64(False):
        runpy.run_path(str(FOLDER / f"{name}.py"))
    printed = capsys.readouterr().out
    assert re.search(KEY_LINES[name], printed), printed
