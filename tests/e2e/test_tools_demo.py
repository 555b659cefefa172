"""A game of several tool calls, through the real SDK, its MCP tool and continued prompts: it climbs by training."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TINY_TOOLS = Path(__file__).parents[2] / ".headway-cache" / "tiny-tools"


@pytest.fixture(scope="module")
def tools_box(tiny_base: Path) -> Iterator[Box]:
    assert (TINY_TOOLS / "config.json").exists(), "run `make test-slow`, which builds the base of the game first"
    with database_folder() as folder:
        box = Box(folder / "data", tiny_base, "--base", f"tiny-tools={TINY_TOOLS}", "--seed", "0").start()
        yield box
        assert box.stop() == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_a_game_with_tools_climbs(tools_box: Box, seed: int):
    environment = {**os.environ, **tools_box.env, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "examples.tools_demo", f"--seed={seed}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    jobs = tools_box.call("GET", "/v2/jobs")["items"]
    traces = tools_box.call("GET", f"/v2/jobs/{jobs[0]['id']}/traces?limit=100")["items"]
    events = tools_box.call("GET", f"/v2/trace/{traces[0]['id']}/events")["events"]
    assert any(event["kind"] == "tool_call" and event["tool_name"] == "guess" for event in events), events
