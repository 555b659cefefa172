"""A managed run in a whole box: started by the command, which goes away; the model learns all the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.arithmetic.problems import split_problems
from tests.e2e.box import Box
from tests.e2e.deployed import deploy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DEPLOYED = Path(__file__).parents[2] / "examples" / "deployed"
STEPS = 12


def headway(box: Box, *arguments: str) -> str:
    """What `headway` prints."""
    command = [sys.executable, "-m", "cli", *arguments, "--data-dir", str(box.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tasksets(box: Box) -> None:
    assert deploy(box, DEPLOYED, "arithmetic")["status"] == "SUCCEEDED"
    training, held_out = split_problems()
    for name, problems in (("run sums", training), ("run held out", held_out[:32])):
        tasks = [
            {"name": f"{p.a}+{p.b}", "env": {"name": "arithmetic"}, "task_id": "add", "args": {"a": p.a, "b": p.b}}
            for p in problems
        ]
        box.call("POST", "/v2/tasks/upload", {"taskset_name": name, "tasks": tasks})


def test_a_run_learns_as_the_demo_does(box: Box, tasksets: None):
    box.fork("run-learns")
    settings = [
        "--steps",
        str(STEPS),
        "--tasks-per-step",
        "8",
        "--lr",
        "7e-4",
        "-c",
        "max_tokens=6",
        "-c",
        "max_turns=1",
    ]
    over = ["--model", "run-learns", "--taskset", "run sums", "--held-out", "run held out", "--every", str(STEPS)]
    started = headway(box, "runs", "start", *over, *settings)
    run_id = started.split("started run ")[1].split(":")[0]
    said = headway(box, "runs", "logs", run_id, "--follow")
    assert len(re.findall(r"\bstep \d+ of ", said)) == STEPS
    assert f"all {STEPS} steps are done" in said
    run = json.loads(headway(box, "runs", "show", run_id[:8], "--json"))
    assert run["state"] == "completed"
    metrics = box.call("GET", f"/v2/runs/{run_id}/metrics")["items"]
    first, last = (row["score"] for row in metrics if row["kind"] == "eval")
    assert (first < 0.4, last > first + 0.2) == (True, True), (first, last)
    rewards = [row["reward"] for row in metrics if row["kind"] == "step"]
    assert sum(rewards[-4:]) > sum(rewards[:4])
    assert all(row["policy_lag_max"] == 0 and row["num_errors"] == 0 for row in metrics if row["kind"] == "step")
    assert f"{STEPS}/{STEPS}" in headway(box, "runs", "list")
    checkpoints = box.call("GET", f"/v2/models/{run['model_id']}/checkpoints")
    assert len(checkpoints) == STEPS
