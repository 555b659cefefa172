"""Environments of other libraries, in their own Python environments, on models of the box."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.box import Box

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def run(command: list[str], folder: str, box: Box, **changes: str) -> str:
    environment = {**os.environ, **box.env, "NO_PROXY": "127.0.0.1", **changes}
    where = ROOT / "examples" / folder
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_environment_of_the_verifiers_library_trains_a_model(box: Box):
    python = ROOT / ".venv-verifiers" / "bin" / "python"
    assert python.exists(), "run `make .venv-verifiers/installed` first"
    box.fork("verified")
    shown = run([str(python), "train.py", "verified", "--steps=10", "--lr=7e-4"], "verifiers_loop", box)
    rewards = [float(line.split()[-1]) for line in shown.splitlines() if line.startswith("step")]
    assert len(rewards) == 10
    assert sum(rewards[-3:]) / 3 > 2 * sum(rewards[:3]) / 3, shown
    [job] = [job for job in box.call("GET", "/v2/jobs")["items"] if job["name"] == "verifiers verified"]
    traces = box.call("GET", f"/v2/jobs/{job['id']}/traces?limit=1000")["items"]
    assert len(traces) == 10 * 64
    assert {trace["status"] for trace in traces} == {"completed"}


def test_a_harbor_task_is_played_through_the_gateway(box: Box, tmp_path: Path):
    harbor = ROOT / ".venv-harbor" / "bin" / "harbor"
    if not harbor.exists():
        pytest.skip("Harbor needs Python 3.12: `make .venv-harbor/installed`")
    options = ["-p", "add", "-e", "namespaces:NamespaceEnvironment", "-o", str(tmp_path), "--yes"]
    local = {"PYTHONPATH": ".", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [str(harbor), "run", *options, "-a", "gateway_agent:GatewayAgent", "-m", "tiny-arith", "-k", "4"]
    run(command, "harbor_loop", box, **local)
    trials = [json.loads(file.read_text()) for file in tmp_path.glob("*/*/result.json")]
    assert len(trials) == 4
    for trial in trials:
        assert trial["verifier_result"]["rewards"]["reward"] in (0.0, 1.0), trial
        trace = box.call("GET", f"/v2/trace/{trial['agent_result']['metadata']['trace_id']}/events")
        assert [event["kind"] for event in trace["events"]] == ["agent_message"], trace
    run([str(harbor), "run", *options, "-a", "oracle"], "harbor_loop", box, **local)
    solved = [json.loads(file.read_text()) for file in tmp_path.glob("*/*/result.json")]
    rewards = [t["verifier_result"]["rewards"]["reward"] for t in solved if t["agent_info"]["name"] == "oracle"]
    assert rewards == [1.0]
