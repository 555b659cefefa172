"""The folders that are deployed stand by themselves, and what is held out is trained on nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from examples.arithmetic.problems import split_problems

EXAMPLES = Path(__file__).parents[3] / "examples"
DUMP = """
import json, sys
from hud import Taskset
tasks = Taskset.from_file(sys.argv[1])
print(json.dumps([task.model_dump(mode="json", include={"env", "id", "args"}) for task in tasks]))
"""


def tasks_of(file: str) -> list[dict]:
    """As the SDK reads them, in a process that knows no other module of ours."""
    folder = (EXAMPLES / file).parent
    environment = {"PATH": os.environ["PATH"], "HUD_API_KEY": "none"}
    command = [sys.executable, "-P", "-c", DUMP, str(EXAMPLES / file)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_the_tasks_of_the_deployed_sums_are_trained_or_held_out():
    trained, held_out = ({(p.a, p.b) for p in side} for side in split_problems())
    tasks, others = tasks_of("deployed/tasks.py"), tasks_of("deployed/held_out.jsonl")
    assert (len(tasks), len(others)) == (64, 32)
    assert {(task["env"], task["id"]) for task in [*tasks, *others]} == {("arithmetic", "add")}
    assert {tuple(task["args"].values()) for task in tasks} <= trained
    assert {tuple(task["args"].values()) for task in others} <= held_out


def test_the_game_has_a_task_for_every_number():
    assert [task["args"] for task in tasks_of("guessing/tasks.py")] == [{"secret": n} for n in range(1, 16)]
