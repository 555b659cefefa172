"""Ctrl-C and SIGTERM while children are stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import heed_interrupts


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills_the_children_and_ends_with_one_sentence(
    tmp_path: Path, first: signal.Signals, second: signal.Signals
):
    command = [sys.executable, str(Path(__file__).with_name("interrupted.py")), str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    ) as up:
        assert up.stdout is not None
        assert up.stderr is not None
        assert up.stdout.readline() == "started\n"
        up.send_signal(first)
        with pytest.raises(subprocess.TimeoutExpired):
            up.wait(0.5)  # its children do not end by SIGTERM
        up.send_signal(second)
        assert up.wait(60) == (0 if first is signal.SIGINT else 128 + signal.SIGTERM)
        assert up.stdout.read() == "stopped\n"
        said = up.stderr.read()
    assert said.startswith("headway: interrupted again"), said
    assert said.count("\n") == 1, said
    for file in tmp_path.glob("*.pid"):
        assert not Path("/proc", file.read_text().strip()).exists(), file.name
