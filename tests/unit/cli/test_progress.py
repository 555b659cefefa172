"""What `headway up` says while it waits: how far its processes are, by their own logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.box.children import progress_in

AS_JSON = '{"said": "downloaded 1.2 GB of 14.5 GB (8 %)", "percent": 8, "event": "loading_weights", "plane": "trainer"}'
AS_TEXT = "2026-11-29T09:53 [info     ] loading_weights   percent=8 said='downloaded 1.2 GB of 14.5 GB (8 %)' seconds=0"


@pytest.mark.parametrize("line", [AS_JSON, AS_TEXT])
def test_the_last_line_of_a_log_says_how_far_loading_is(line: str, tmp_path: Path):
    (tmp_path / "trainer.log").write_text(f"something before\n{line}\n")
    assert progress_in(tmp_path / "trainer.log") == "downloaded 1.2 GB of 14.5 GB (8 %)"


def test_what_is_over_is_not_said(tmp_path: Path):
    (tmp_path / "trainer.log").write_text(f'{AS_JSON}\n{{"event": "trainer_ready"}}\n')
    assert progress_in(tmp_path / "trainer.log") is None
    assert progress_in(tmp_path / "another.log") is None
