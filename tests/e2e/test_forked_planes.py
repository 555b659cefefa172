"""`headway up` forks trainer and sampler from one process, which they do not depend on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.box import Box

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="planes are forked on Linux alone"),
    pytest.mark.slow,
]


def test_planes_share_their_imports_and_start_again_when_they_die_and_when_what_they_come_from_does(own_box: Box):
    own_box.start()
    assert own_box.process is not None
    up = own_box.process.pid
    assert all(shared_mib(child(up, f"cli {plane}")) > 150 for plane in ("trainer", "sampler"))

    os.kill(child(up, "cli.box.forking"), signal.SIGKILL)
    for is_forked in (False, True):
        dead = child(up, "cli trainer")
        os.kill(dead, signal.SIGKILL)
        assert (shared_mib(trainer_after(own_box, dead)) > 150) == is_forked
    assert "trainer-tiny-arith ended with status -9" in (own_box.data_dir / "up.log").read_text()


def child(up: int, command: str) -> int:
    found = subprocess.run(["pgrep", "-P", str(up), "-f", command], capture_output=True, text=True, check=False)
    pids = found.stdout.split()
    return int(pids[0]) if pids else 0


def trainer_after(box: Box, dead: int) -> int:
    """The one that has come up in its place."""
    assert box.process is not None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ready = httpx.get(f"{box.url}/readyz", trust_env=False).json()
        if ready["bases"][0]["trainers"] and (trainer := child(box.process.pid, "cli trainer")) not in (0, dead):
            return trainer
        time.sleep(0.2)
    raise AssertionError(f"no trainer\n{box.logs()}")


def shared_mib(pid: int) -> float:
    """What it has in common with others, libraries' files apart."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in rollup if line.startswith("Shared_Dirty:")).split()[1]) / 1024
