"""A runner that carries out rollouts of runs: it samples one answer with its agent's key, and reports a reward."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.contract.stand_in_runner import StandInRunner


@dataclass
class Play:
    """How rollouts go. reward: of the rollout spec; None: its agent fails. Everything played is in `played`."""

    reward: Callable[[dict[str, Any]], float | None] = lambda rollout: float(rollout["args"]["a"] % 2)
    samples: bool = True
    held: asyncio.Event = field(default_factory=asyncio.Event)
    played: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held.set()


@asynccontextmanager
async def playing(runner: StandInRunner, play: Play) -> AsyncIterator[Play]:
    """Until the block ends."""
    task = asyncio.create_task(_play(runner, play))
    try:
        yield play
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _play(runner: StandInRunner, play: Play) -> None:
    while True:
        await play.held.wait()
        await runner.beat()
        placements = await runner.lease(wait_s=0.5)
        await asyncio.gather(*(_play_one(runner, play, placement) for placement in placements))


async def _play_one(runner: StandInRunner, play: Play, placement: dict[str, Any]) -> None:
    rollout = placement["rollout"]
    play.played.append(rollout)
    headers = {"Authorization": f"Bearer {placement['key']}"}
    config, trace = rollout["agent"]["config"], rollout["trace_id"]
    await _report(runner.http, trace, "enter", {"job_id": rollout["job_id"], "model": config["model"]}, headers)
    reward = play.reward(rollout)
    if play.samples:
        calls = {**config["completion_kwargs"]}
        body = {"model": config["model"], "messages": [{"role": "user", "content": "6*6"}], **calls.pop("extra_body")}
        body |= calls
        sent = {**headers, "Trace-Id": uuid.UUID(trace).hex}
        reply = await runner.http.post("/v1/chat/completions", json=body, headers=sent)
        if not reply.is_success:
            await runner.end(placement, "failed", error=reply.text)
            return
    status = {"status": "completed", "reward": reward} if reward is not None else {"status": "error", "error": "broke"}
    await _report(runner.http, trace, "exit", status, headers)
    await runner.end(placement)


async def _report(
    http: httpx.AsyncClient, trace: str, what: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    await http.post(f"/v2/trace/{trace}/{what}", json=body, headers=headers)
