from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.box import Box


def test_the_demo_runs_and_shows_what_it_promises(box: Box, tmp_path: Path):
    """A few steps of what `make demo` runs. That the reward climbs is the demo's own verdict, over forty steps."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--steps=3", "--groups=2", "--held-out=4", f"--out={tmp_path}"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=240,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 1, "three steps are no climb, and the demo says so"
    for shown in (
        "step  3/3",
        "kl ",
        "tok/s",
        "held-out problems, greedy",
        "← head",
        "rolled back to 0001-",
        "did NOT climb",
    ):
        assert shown in done.stdout, done.stdout
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert len(figures["steps"]) == 3
    assert all(abs(s["kl"]) < 1e-5 for s in figures["steps"])
    assert figures["rollback"]["trained"] == figures["rollback"]["restored"]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
