"""Figures go with the machine that they were found on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.figures import write_figures

ROOT = Path(__file__).parents[3]


def test_a_line_and_a_file_say_on_what_machine_and_under_what_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_figures("some", {"ms": 3}, tmp_path / "new" / "some.json")
    line = json.loads(capsys.readouterr().out)
    assert line["bench"] == "some"
    assert line["ms"] == 3
    assert len(line["load_before"]) == len(line["load_after"]) == 3
    assert line["cores"] >= 1
    assert line["torch"].startswith("2.")
    assert json.loads((tmp_path / "new" / "some.json").read_text()).keys() == line.keys()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["some.json"]


def test_every_bench_that_ends_with_figures_says_on_what_machine():
    """A line that begins with the bench's name, or a file of figures, is written by `write_figures` alone."""
    by_hand = re.compile(r'json\.dumps\(\s*\{\s*"bench"|(out|write)\.write_text\(')
    files = [*ROOT.glob("bench/*.py"), *ROOT.glob("bench/peers/*.py")]
    assert [path.name for path in files if by_hand.search(path.read_text())] == ["figures.py"]
