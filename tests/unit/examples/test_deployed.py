"""The folders that are deployed stand by themselves, and what is held out is trained on nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.arithmetic.problems import split_problems
from server.runs.defaults import RunDefaults

EXAMPLES = Path(__file__).parents[3] / "examples"
DUMP = """
import json, os, sys
from hud import Taskset
for file in sys.argv[1:]:
    os.chdir(os.path.dirname(file))
    for name in ("env", "game", "tasks"):
        sys.modules.pop(name, None)
    tasks = Taskset.from_file(file)
    print(json.dumps([task.model_dump(mode="json", include={"env", "id", "args"}) for task in tasks]))
"""


@pytest.fixture(scope="module")
def tasksets() -> list[list[dict]]:
    """As the SDK reads them, in a process that knows no other module of ours."""
    files = [str(EXAMPLES / name) for name in ("deployed/tasks.py", "deployed/held_out.jsonl", "guessing/tasks.py")]
    command = [sys.executable, "-P", "-c", DUMP, *files]
    environment = {"PATH": os.environ["PATH"], "HUD_API_KEY": "none"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_tasks_of_the_deployed_sums_are_trained_or_held_out(tasksets: list[list[dict]]):
    trained, held_out = ({(p.a, p.b) for p in side} for side in split_problems())
    tasks, others, _ = tasksets
    assert (len(tasks), len(others)) == (64, 32)
    assert {(task["env"], task["id"]) for task in [*tasks, *others]} == {("arithmetic", "add")}
    assert {tuple(task["args"].values()) for task in tasks} <= trained
    assert {tuple(task["args"].values()) for task in others} <= held_out


def test_the_game_has_a_task_for_every_number(tasksets: list[list[dict]]):
    assert [task["args"] for task in tasksets[2]] == [{"secret": n} for n in range(1, 16)]


def test_the_settings_of_the_demos_runs_are_settings_of_runs():
    assert set(RunDefaults.read(EXAMPLES / "run_defaults.json").by_base) == {"tiny-arith", "tiny-tools"}
