"""The unmodified SDK shares tasksets through a box: `hud sync` there and back, and a run over one that was read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.box import Box
from tests.e2e.hud_command import run_hud
from tests.e2e.test_sdk import client_of

ROWS = [
    {"env": "arithmetic", "id": "addition", "args": {"a": 12, "b": 30}, "slug": "first"},
    {
        "env": "arithmetic",
        "id": "addition",
        "args": {"b": 1e22, "a": 1.0, "text": "é \u0000 \u2028"},
        "slug": "second",
        "columns": {"level": 1.0, "suite": "sums"},
        "agent_config": {"system_prompt": "Add."},
        "validation": [{"name": "reply", "arguments": {}}],
        "runtime_config": {"image": "python:3.12", "resources": {"cpu": 2}},
        "verifier": {"env": "arithmetic", "id": "judge", "args": {"strict": True}, "slug": "judge"},
    },
]


class Directory:
    """A directory in which somebody works with `hud`, with a key and a taskset file."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        folder.mkdir()

    def write(self, rows: list[dict[str, Any]]) -> None:
        (self._folder / "tasks.json").write_text(json.dumps(rows))

    def read(self, name: str) -> list[dict[str, Any]]:
        return json.loads((self._folder / name).read_text())

    def hud(self, *args: str) -> subprocess.CompletedProcess[str]:
        return run_hud(*args, cwd=self._folder, HUD_API_KEY=self._key)

    def sync(self, *args: str) -> dict[str, Any]:
        done = self.hud("sync", "tasks", *args, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def mine(box: Box, tmp_path: Path) -> Directory:
    directory = Directory(tmp_path / "mine", box.env["HUD_API_KEY"])
    directory.write(ROWS)
    return directory


def test_what_one_syncs_another_of_the_team_exports_and_finds_unchanged(box: Box, mine: Directory, tmp_path: Path):
    made = mine.sync("shared", "tasks.json", "--yes")
    assert (made["status"], made["tasks_created"], made["tasks_updated"]) == ("synced", 2, 0)
    with httpx.Client(base_url=box.url, headers={"Accept": "text/html"}, trust_env=False) as browser:
        browser.post("/login", data={"key": box.env["HUD_API_KEY"]})
        page = browser.get(f"/tasksets/{made['taskset_id']}")  # the link that it prints
    assert page.status_code == 200
    assert "addition" in page.text

    second = {**ROWS[1], "args": {**ROWS[1]["args"], "a": 2.0}}
    mine.write([ROWS[0], second, {**ROWS[0], "slug": "third"}])
    again = mine.sync(made["taskset_id"], "tasks.json", "--yes", "--project", "default")
    counts = [again[name] for name in ("create_count", "update_count", "unchanged_count", "remote_only_count")]
    assert counts == [1, 1, 1, 0]
    assert (again["tasks_created"], again["tasks_updated"]) == (1, 1)

    # Another key of the team is another user to the client, with a directory of its own.
    colleague = Directory(
        tmp_path / "colleague", box.call("POST", "/v2/team/keys", {"name": "colleague"}, admin=True)["key"]
    )
    exported = colleague.sync("shared", "--export", "copy.json")
    assert exported["task_count"] == 3
    rows = colleague.read("copy.json")
    assert [row["slug"] for row in rows] == ["first", "second", "third"]
    assert rows[1]["args"] == second["args"]
    assert [type(value) for value in rows[1]["args"].values()] == [float, float, str]
    assert colleague.sync("shared", "copy.json")["status"] == "up_to_date"


async def test_a_taskset_from_the_api_runs_with_a_runtime_of_one_s_own(box: Box):
    from hud.eval import HostedRuntime, LocalRuntime, Shared, Taskset
    from hud.eval.sync import diff, upload_taskset
    from hud.utils.platform import PlatformClient

    from examples.arithmetic.env import env, taskset
    from examples.arithmetic.problems import split_problems
    from examples.grpo import sampling_agent

    local = taskset("remote sums", split_problems()[0][:2])
    upload_taskset(PlatformClient.from_settings(), "remote sums", list(local))
    remote = Taskset.from_api("remote sums")
    plan = diff(local, remote)
    assert (len(plan.unchanged), plan.to_apply, plan.remote_only) == (2, [], [])
    assert Taskset.from_api(remote.taskset_id).name == "remote sums"

    box.fork("remote-sums")
    client_of("remote-sums")
    agent = sampling_agent("remote-sums", temperature=1.0)
    async with Shared(LocalRuntime(env), width=2) as runtime:
        job = await remote.run(agent, runtime=runtime, max_concurrent=2)
    assert [run.trace.status for run in job.runs] == ["completed"] * 2
    jobs = box.call("GET", "/v2/jobs")["items"]
    assert (jobs[0]["taskset_id"], jobs[0]["taskset_name"]) == (remote.taskset_id, "remote sums")

    refused = await remote.filter([next(iter(remote)).slug]).run(agent, runtime=HostedRuntime(poll_interval=0.1))
    (run,) = refused.runs
    assert "no environment 'arithmetic' is deployed here: deploy it with 'hud deploy'" in str(run.trace.steps[-1].error)

    with pytest.raises(ValueError, match="taskset not found: no such taskset"):
        Taskset.from_api("no such taskset")
