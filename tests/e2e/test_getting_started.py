"""The page for those who begin, and the script that does all of it with HUD's own commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.e2e.hud_command import run_hud

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
TINY_TOOLS = ROOT / ".headway-cache" / "tiny-tools"
PAGE = ROOT / "docs" / "getting-started.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def demo_box(tiny_base: Path) -> Iterator[Box]:
    """A box with the settings of `make demo-run`, and the base of the game."""
    assert (TINY_TOOLS / "config.json").exists(), "run `make test-slow`, which builds the base of the game first"
    with database_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_RUN_DEFAULTS", str(ROOT / "examples" / "run_defaults.json"))
        box = Box(folder / "data", tiny_base, "--seed", "0", "--base", f"tiny-tools={TINY_TOOLS}").start()
        yield box
        assert box.stop() == 0


def commands() -> list[str]:
    """Of HUD's clients, as the page's workflow gives them, up to the section about the folder."""
    workflow = PAGE.read_text().partition("## The workflow")[2].partition("## What is in the folder")[0]
    lines = [line for block in BLOCK.findall(workflow) for line in block.splitlines()]
    return [line.removeprefix("../../.venv-hud-rl/bin/") for line in lines if "hud " in line]


def run_example(box: Box, module: str, *args: str) -> str:
    environment = {**os.environ, **box.env, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", f"examples.{module}", *args]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1700)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_workflow_of_the_page_makes_the_reward_climb(demo_box: Box):
    shown = run_example(demo_box, "demo_run")
    run = [line.removeprefix("$ ").removesuffix(" --yes") for line in shown.splitlines() if line.startswith("$ ")]
    assert run == [command.removesuffix(" --yes") for command in commands()]


def test_a_run_with_held_out_tasks_makes_their_score_climb(demo_box: Box):
    run_example(demo_box, "demo_run", "--without-hud-rl", "--name=held-out-agent")
    [run] = demo_box.call("GET", "/v2/runs?model=held-out-agent")["items"]
    assert run["state"] in ("completed", "stopped"), run
    rows = demo_box.call("GET", f"/v2/runs/{run['id']}/metrics")["items"]
    scores = [row["score"] for row in rows if row["kind"] == "eval"]
    assert scores[0] < 0.4 < 0.8 < max(scores), scores


def test_the_guides_loop_trains_on_a_deployed_game_with_tools(demo_box: Box, tmp_path: Path):
    folder = Path(shutil.copytree(ROOT / "examples" / "guessing", tmp_path / "guessing"))
    for command in (("deploy",), ("sync", "tasks", "guessing", "tasks.py")):
        done = run_hud(*command, "--yes", cwd=folder, **demo_box.env)
        assert done.returncode == 0, done.stdout + done.stderr
    demo_box.fork("guesser", base_id(demo_box))
    run_example(demo_box, "guide_train", "guessing", "guesser", "--steps=2", "--tasks=4", "--lr=2e-3")
    [model] = [m for m in demo_box.call("GET", "/v2/models")["items"] if m["model_name"] == "guesser"]
    assert len(demo_box.call("GET", f"/v2/models/{model['id']}/checkpoints")) == 2


def base_id(box: Box) -> str:
    return next(m["id"] for m in box.call("GET", "/v2/models")["items"] if m["model_name"] == "tiny-tools")
