"""Every notebook runs from top to bottom as a script."""

import runpy
from pathlib import Path

import jax
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, capsys):
    with jax.enable_x64(False):
        runpy.run_path(str(path))
    assert "sigma_c = 9.0000" in capsys.readouterr().out
