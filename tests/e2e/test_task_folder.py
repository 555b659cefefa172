"""`headway init`, and after it the commands that it and the folder's README print, one by one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.box import Box
from tests.e2e.hud_command import HUD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
STEP = re.compile(r"^step +(\d+)/20 +reward (\d\.\d\d) \|", re.MULTILINE)
HELD_OUT = re.compile(r"^held-out tasks: (\d\.\d\d) ", re.MULTILINE)


class Terminal:
    """A shell in a folder in which the service was started, with `headway`, `hud` and `python` on its path."""

    def __init__(self, folder: Path, box: Box) -> None:
        self.folder = folder
        (folder / ".headway").symlink_to(box.data_dir)
        programs = folder / ".bin"
        programs.mkdir()
        for name, command in (("headway", f"{sys.executable} -m cli"), ("hud", HUD), ("python", sys.executable)):
            (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (programs / name).chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HUD_", "TINKER_"))}
        quiet = {"HUD_SKIP_VERSION_CHECK": "1", "HUD_CLI_ANALYTICS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
        self._env = {**kept, **quiet, "PATH": f"{programs}:{kept['PATH']}"}

    def run(self, commands: str) -> str:
        """What they print. The first that fails ends it."""
        done = subprocess.run(
            ["bash", "-e", "-c", commands], cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=3000
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_the_printed_commands_make_the_reward_climb_here_and_on_the_service(box: Box, tmp_path: Path):
    terminal = Terminal(tmp_path, box)
    printed = terminal.run("headway init my-sums")
    commands = printed.partition("Next:\n")[2].partition("\n\n")[0]
    shown = terminal.run(commands)
    rewards = [float(reward) for _, reward in STEP.findall(shown)]
    assert len(rewards) == 20, shown
    assert sum(rewards[:3]) / 3 < 0.4 < 0.7 < sum(rewards[-3:]) / 3, rewards
    before, after = map(float, HELD_OUT.findall(shown))
    assert before < 0.4 < 0.7 < after

    local, managed = BLOCK.findall((tmp_path / "my-sums" / "README.md").read_text())
    assert local.split("\n")[:3] == ["source .headway/env", "cd my-sums", "python train.py"]
    terminal.run(f"source .headway/env\ncd my-sums\n{managed}")
    [run] = box.call("GET", "/v2/runs?model=my-sums-run")["items"]
    assert run["state"] in ("completed", "stopped"), run
    rows = box.call("GET", f"/v2/runs/{run['id']}/metrics")["items"]
    scores = [row["score"] for row in rows if row["kind"] == "eval"]
    assert scores[0] < 0.4 < 0.7 < max(scores), scores
