"""`hud rl` of hud-python 0.5.41, unmodified, against a whole box."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.e2e.deployed import SUMS_NAME, deploy
from tests.e2e.hud_rl_command import run_hud_rl

pytestmark = pytest.mark.slow  # each command imports for seconds


def test_hud_rl_trains_a_taskset_and_shows_how_that_goes(box, tmp_path):
    assert deploy(box)["status"] == "SUCCEEDED"
    name = f"rl-{uuid.uuid4().hex[:8]}"
    tasks = [
        {"name": f"add-{n}", "env": {"name": SUMS_NAME}, "task_id": "add", "args": {"a": n, "b": 2}} for n in (1, 2)
    ]
    box.call("POST", "/v2/tasks/upload", {"taskset_name": name, "tasks": tasks})
    model = box.fork(name)

    started = run_hud_rl(box, tmp_path, "rl", "run", name, "-m", name, "--reasoning-effort", "low", "-y")
    assert started.returncode == 0, started.stdout + started.stderr
    said = started.stdout + started.stderr
    assert "Loaded 2 task(s)" in said
    assert "Preflight passed" in said
    assert f"Model ID: {model}" in said
    status = box.call("GET", f"/training/jobs/{model}/raw-status")
    assert status["job_id"] in said
    run = box.call("GET", f"/v2/runs/{status['job_id']}")
    assert (run["num_tasks"], run["model"], run["config"]["max_tokens"]) == (2, name, 512)

    again = run_hud_rl(box, tmp_path, "rl", "run", name, "-m", model, "-y")
    assert again.returncode == 1
    assert status["job_id"] in again.stdout + again.stderr  # which trains the model

    shown = run_hud_rl(box, tmp_path, "rl", "status", model, "-v")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "Status: " in shown.stdout + shown.stderr
    box.call("POST", f"/v2/runs/{status['job_id']}/cancel")


def test_hud_rl_says_what_is_missing(box, tmp_path):
    task = {"env": {"name": "nowhere"}, "scenario": "nowhere:add", "args": {}, "slug": "one"}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    missing = run_hud_rl(box, tmp_path, "rl", "run", "tasks.json", "-m", "tiny-arith", "-y")
    assert missing.returncode == 1
    assert "Environment 'nowhere' not found" in missing.stdout + missing.stderr
