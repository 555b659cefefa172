"""Hosted rollouts of the deployed sums, by the SDK in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.e2e.box import Box
from tests.e2e.deployed import SUMS_NAME


def agent_of(model: str) -> Any:
    from hud.agents import create_agent
    from hud.utils.gateway import list_gateway_models

    list_gateway_models.cache_clear()
    body = {"extra_body": {"return_token_ids": True}, "max_tokens": 8, "temperature": 1.0}
    return create_agent(model, completion_kwargs=body, max_steps=2)


def task(name: str = "add", **args: Any) -> Any:
    from hud.eval.task import Task

    return Task(env=SUMS_NAME, id=name, args=args)


async def run_hosted(model: str, *tasks: Any, group: int = 1) -> Any:
    """The SDK's job."""
    from hud import Taskset
    from hud.eval.runtime import HostedRuntime

    runtime = HostedRuntime(poll_interval=0.1)
    return await Taskset("sums", list(tasks)).run(agent_of(model), runtime=runtime, group=group)


def runner_log(box: Box) -> str:
    return (box.data_dir / "logs" / "runner.log").read_text()


async def until(is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def num_running(box: Box) -> int:
    """Rollouts whose agent has reported that it began, and that are not over."""
    return sum(trace["status"] == "running" for trace in box.call("GET", "/v2/traces?limit=50")["items"])
