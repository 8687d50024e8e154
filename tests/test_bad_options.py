"""Every option of every command with six bad values: one line, exit code 2, at once, and nothing written."""

import re
import time

import pytest

from critjax import cli, networks
from critjax.cli._parser import TRAINING
from critjax.studies import REGISTRY
from critjax.studies._engine import runner

pytestmark = pytest.mark.slow
BAD = ("", "abc", "nan", "inf", "-1", "1" + "0" * 30)
#: What takes any text, which a run looks up before it computes anything, and a weight that may be negative.
TEXTS, NEGATIVE = {"--out", "--data", "--bank", "--network", "--model"}, {"--baseline"}


class Reached(Exception):
    """A command has taken all options and begins."""


def reach(*arguments, **options):
    raise Reached


@pytest.mark.parametrize("command", [*REGISTRY, *TRAINING])
def test_bad_values_are_refused_in_one_line(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "configure_jax", lambda precision: None)
    monkeypatch.setattr(runner, "execute", reach)
    for name in ("train", "train_classifier"):
        monkeypatch.setattr(networks, name, reach)
    assert cli.main([command, "--help"]) == 0
    options = re.findall(r"^  (--[a-z0-9-]+) [A-Z]", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(options) > 8
    place = ["--out", str(tmp_path / "run")] if command in TRAINING else []
    tried = 0
    for option in options:
        for value in BAD:
            began, told = time.monotonic(), f"{command} {option}={value[:6]}"
            rest = [] if option == "--out" else place
            try:
                status = cli.main([command, f"{option}={value}", "--no-progress", *rest])
            except Reached:
                legal = (value and option in TEXTS) or (value == "-1" and option in NEGATIVE)
                assert legal, told
                continue
            error = capsys.readouterr().err
            assert status == 2 and len(error.splitlines()) == 1, (told, error)
            assert error.startswith("critjax: error: ") and ": expected " in error and "; " in error, error
            assert time.monotonic() - began < 10, told
            tried += 1
    assert tried > 4 * len(options)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
