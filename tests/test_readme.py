"""The README's example runs and prints matching numbers; its tables name functions and modules that exist."""

import importlib
import re
from pathlib import Path

import jax

import critjax

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_examples_print_numbers_beside_their_analytic_values(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example, sweep = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    with jax.enable_x64(False):
        exec(compile(example + sweep, "README.md", "exec"), {})
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "critical noise 9.0000, exact 9.0000, uniform"
    measured, exact = map(float, second.split())
    assert abs(measured - exact) < 1e-5
    mean, error, exact = map(float, re.fullmatch(r"(.*) \+- (.*), exact mean (.*)", third).groups())
    assert abs(mean - exact) < 2 * error < 0.5
    assert (tmp_path / "sweep-of-banks" / "sweep.json").exists()


def test_named_functions_exist():
    rows = re.search(r"\| quantity \|.*?\n\n", README, re.S).group(0)
    for row in rows.splitlines()[2:]:
        if not row.startswith("|"):
            continue
        for name in re.findall(r"`([\w.]+)`", row):
            if name.startswith("jax."):
                continue
            if name.startswith("critjax."):
                importlib.import_module(name)  # a module
            else:
                assert hasattr(critjax, name), name
