"""Processes of `headway up` that end: started again, unless they say that it would not help."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from cli.box.children import Child, Children
from wire.process.exits import GAVE_UP_STATUS


@pytest.mark.parametrize(("status", "starts_again"), [(1, True), (GAVE_UP_STATUS, False)])
def test_a_process_that_gave_up_is_not_started_again(status, starts_again, tmp_path: Path, capsys):
    program = f"import sys; print('its vLLM died 5 times'); sys.exit({status})"
    with Children(tmp_path) as children:
        child = Child("sampler-x", [sys.executable, "-c", program], {})
        children.start(child)
        deadline = time.monotonic() + 60
        while not children.restart_dead():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (child.restart_at is not None) == starts_again
    said = capsys.readouterr().err
    assert "its vLLM died 5 times" in said
    assert ("gave up, and is not started again" in said) != starts_again
