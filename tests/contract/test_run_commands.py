"""`headway runs` against a server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.contract.conftest import Team
from tests.contract.runs_player import Play, playing
from tests.contract.runs_scene import deploy, taskset
from tests.contract.stand_in_runner import new_runner, runners_of


async def headway(team: Team, *arguments: str, command: str = "runs") -> tuple[int, str]:
    """Exit status and what was printed."""
    environment = {**os.environ, "HUD_API_URL": str(team.http.base_url), "HUD_API_KEY": team.key}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli",
        command,
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_names_stand_for_ids_and_a_list_is_json(team: Team, model: dict[str, str], tmp_path: Path):
    status, said = await headway(team, "list", "--json")
    assert (status, json.loads(said)) == (0, {"items": [], "next_cursor": None})
    status, said = await headway(team, "show", "nothing")
    assert (status, said) == (1, "headway: there is no run 'nothing'; see 'headway runs list'\n")
    out = ("--out", str(tmp_path / "rollouts.jsonl"))
    status, said = await headway(team, *out, "--model", model["model_name"], command="export")
    assert (status, said.startswith("0 of 0 rollouts")) == (0, True), said


@pytest.mark.slow
async def test_runs_are_started_followed_and_deleted_from_the_command_line(team, model, database, origin):
    await deploy(database, team.name)
    tasks = [
        {"name": task["slug"], "env": {"name": "sums"}, "task_id": "sum", "args": task["args"]}
        for task in taskset()["tasks"]
    ]
    upload = await team.http.post("/v2/tasks/upload", json={"taskset_name": "sums", "tasks": tasks})
    assert upload.status_code == 200, upload.text
    over = ("--model", model["model_name"], "--taskset", "sums", "--steps", "1", "--group-size", "2")
    status, said = await headway(team, "start", *over, "-c", "top_p=0.9")
    assert (status != 0, "config.top_p" in said) == (True, True), said
    status, said = await headway(team, "start", *over, "-c", "max_tokens=16", "--tasks-per-step", "2")
    assert (status, "1 steps of" in said) == (0, True), said
    run_id = said.split("started run ")[1].split(":")[0]
    async with runners_of(origin, database) as http:
        runner = await new_runner(http, "any", team=team.name)
        async with playing(runner, Play()):
            status, said = await headway(team, "logs", run_id[:8], "--follow")
    assert status == 0, said
    assert [line.split()[2] for line in said.splitlines()] == ["created", "started", "step", "completed"]
    status, said = await headway(team, "show", run_id, "--json")
    assert (status, json.loads(said)["state"]) == (0, "completed")
    status, said = await headway(team, "list")
    assert (run_id in said, "1/1" in said) == (True, True), said
    assert await headway(team, "delete", run_id) == (0, f"deleted run {run_id}\n")
