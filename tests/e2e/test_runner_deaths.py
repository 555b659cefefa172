"""Hosted rollouts while their runner or their server dies: each has one result."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box, point_sdk_at
from tests.e2e.deployed import deploy
from tests.e2e.hosted import num_running, run_hosted, runner_log, task, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mortal(tiny_base: Path) -> Iterator[Box]:
    """A box with the sums and a model, whose processes the tests kill."""
    with database_folder() as folder, pytest.MonkeyPatch.context() as patch:
        box = Box(folder / "data", tiny_base).start()
        for name, value in {**box.env, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}.items():
            patch.setenv(name, value)
        point_sdk_at(box)
        assert deploy(box)["status"] == "SUCCEEDED"
        box.fork("m")
        yield box
        box.stop()


async def during_rollouts(box: Box, act: Any, wait_s: float = 3.0, count: int = 4) -> Any:
    """The job of rollouts that were under way when `act` was called."""
    job = asyncio.create_task(run_hosted("m", *[task(a=1, b=b, wait_s=wait_s) for b in range(count)]))
    await until(lambda: num_running(box) == count)
    act()
    return await job


def attempts(box: Box, job: Any) -> list[int]:
    """Of those that have ended on the runner, by its log."""
    return [int(found) for found in re.findall(r'"placement_ended".*?"attempt": (\d+)', runner_log(box))][
        -len(job.runs) :
    ]


def check_results(box: Box, job: Any) -> None:
    assert [run.trace.error for run in job.runs if run.grade.is_error] == []
    for run in job.runs:
        trace = box.call("GET", f"/v2/traces/{run.trace_id}")
        assert (trace["status"], len(trace["turns"])) == ("completed", 1)


async def test_a_server_that_is_killed_costs_no_attempt(mortal: Box):
    job = await during_rollouts(mortal, lambda: mortal.kill("server"))
    check_results(mortal, job)
    assert attempts(mortal, job) == [1, 1, 1, 1]


async def test_a_runner_that_is_told_to_end_hands_back_what_it_cannot_finish(mortal: Box):
    def end() -> None:
        (pid,) = pids(f"cli runner .*{mortal.data_dir}")
        os.kill(pid, signal.SIGTERM)

    job = await during_rollouts(mortal, end, wait_s=8.0)
    check_results(mortal, job)
    assert '"outcome": "handed_back"' in runner_log(mortal)
    assert attempts(mortal, job) == [2, 2, 2, 2]


async def test_a_runner_that_is_killed_loses_no_rollout_and_none_counts_twice(mortal: Box):
    job = await during_rollouts(mortal, lambda: mortal.kill("runner"))
    check_results(mortal, job)
    assert attempts(mortal, job) == [2, 2, 2, 2]


async def test_an_agent_process_that_is_killed_takes_no_rollout_with_it(mortal: Box):
    def kill_agents() -> None:
        (runner,) = pids(f"cli runner .*{mortal.data_dir}")
        agents = [pid for pid in pids("runner.agents.host") if parent_of(pid) == runner]
        assert agents
        for pid in agents:
            os.kill(pid, signal.SIGKILL)

    job = await during_rollouts(mortal, kill_agents)
    check_results(mortal, job)
    assert "the agent's process ended" in runner_log(mortal)


def pids(pattern: str) -> list[int]:
    return [int(pid) for pid in subprocess.check_output(["pgrep", "-f", pattern], text=True).split()]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
