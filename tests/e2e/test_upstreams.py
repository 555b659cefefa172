"""Another vendor's models in a whole box, asked by the SDK: as the judge of `hud eval --full`, and as an agent that a
runner plays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.box import Box
from tests.e2e.deployed import SUMS_NAME, deploy
from tests.e2e.hud_command import run_hud
from tests.e2e.test_headway_command import headway
from tests.e2e.test_judge import ENVIRONMENT
from tests.vendor import Vendor, vendor_of_models


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    with vendor_of_models(tmp_path) as vendor:
        yield vendor


def upstreams(box: Box, *args: str) -> str:
    """What `headway upstreams ARGS` prints."""
    done = headway("upstreams", *args, "--data-dir", str(box.data_dir))
    assert done.returncode == 0, done.stderr
    return done.stdout


def _added(box: Box, vendor: Vendor, name: str, api: str) -> Iterator[str]:
    key = ("--key-file", str(vendor.key_file))
    upstreams(box, "add", name, "--api", api, "--base-url", vendor.base_url(api), "--model", f"vendor-{api}", *key)
    yield name
    upstreams(box, "remove", name)


@pytest.fixture
def judge(box: Box, vendor: Vendor) -> Iterator[str]:
    yield from _added(box, vendor, "gpt-5", "openai")


@pytest.fixture
def claude(box: Box, vendor: Vendor) -> Iterator[str]:
    yield from _added(box, vendor, "claude-sonnet-4-6", "anthropic")


def test_a_full_evaluation_asks_the_judge_and_the_rollout_stays_the_policy_s(
    box: Box, vendor: Vendor, judge: str, tmp_path: Path
):
    shown = json.loads(upstreams(box, "show", judge))
    assert shown["upstream"]["key_file"] == str(vendor.key_file)
    assert vendor.key not in upstreams(box, "list") + json.dumps(shown)
    (tmp_path / "tasks.py").write_text(ENVIRONMENT)
    model_id = box.fork("judged-by-another")
    vendor.text = "STOP"
    done = run_hud("eval", "tasks.py", "judged-by-another", "--full", "--yes", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Auto-respond failed" not in done.stdout + done.stderr
    assert [asked.path for asked in vendor.asked] == ["/v1/responses"]
    assert "What is the appropriate response?" in json.dumps(vendor.asked[0].body["input"])
    [trace] = box.call("GET", f"/v2/jobs/{box.call('GET', '/v2/jobs')['items'][0]['id']}/traces")["items"]
    assert box.call("GET", f"/v2/traces/{trace['id']}")["model_id"] == model_id


@pytest.mark.slow
def test_claude_plays_on_a_runner_and_its_rollouts_are_recorded(box: Box, vendor: Vendor, claude: str):
    assert deploy(box)["status"] == "SUCCEEDED"
    task: dict[str, Any] = {"name": "sum-0", "env": {"name": SUMS_NAME}, "task_id": "add", "args": {"a": 40, "b": 2}}
    box.call("POST", "/v2/tasks/upload", {"taskset_name": "vendor-sums", "tasks": [task]})
    done = run_hud("eval", "vendor-sums", "claude", "--full", "--yes", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    [run] = json.loads(done.stdout)["runs"]
    assert (run["reward"], run["is_error"]) == (1.0, False)
    assert {asked.path.partition("?")[0] for asked in vendor.asked} == {"/v1/messages"}
    trace = box.call("GET", f"/v2/traces/{run['trace_id']}")
    assert trace["status"] == "completed"
    model = box.call("GET", f"/v2/models/resolve?model={claude}")
    assert trace["model_id"] == model["id"]
