"""SIGTERM to a sampler: first it leaves the rotation, then it finishes what it has, then it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn

from sampler.admission.draining import DrainingServer, InFlight


class Work:
    """An app whose answers come when they are let go, and what happened in which order."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.events: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/generate":
            self.events.append("began")
            await self.may_end.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})
        self.events.append(scope["path"])

    def leave(self) -> None:
        self.events.append("left")


@asynccontextmanager
async def running(work: Work, drain_s: float) -> AsyncIterator[tuple[DrainingServer, httpx.AsyncClient]]:
    app = InFlight(work)
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = DrainingServer(config, app, work.leave, drain_s)
    task = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60) as client:
        yield server, client
        async with asyncio.timeout(60):
            await task


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.01)


async def test_what_is_under_way_and_what_still_comes_is_answered_before_it_ends():
    work = Work()
    async with running(work, drain_s=600) as (server, client):
        long = asyncio.create_task(client.post("/generate"))
        await until(lambda: work.events == ["began"])
        server.handle_exit(signal.SIGTERM, None)
        await until(lambda: "left" in work.events)
        late = await client.post("/render")
        assert late.text == "whole", "the gateway looked it up before it left"
        await asyncio.sleep(1)
        assert not server.should_exit, "something is under way"
        work.may_end.set()
        assert (await long).text == "whole"
        read_back = await client.post("/tokenize")
        assert read_back.text == "whole", "an answer is several calls"
    assert work.events[:2] == ["began", "left"]


async def test_what_takes_longer_than_the_limit_is_cut_off():
    work = Work()
    async with running(work, drain_s=0.5) as (server, client):
        long = asyncio.create_task(client.post("/generate"))
        await until(lambda: work.events == ["began"])
        server.handle_exit(signal.SIGTERM, None)
        await until(lambda: server.should_exit)
    [outcome] = await asyncio.gather(long, return_exceptions=True)
    assert isinstance(outcome, httpx.TransportError) or outcome.status_code >= 500


async def test_a_second_signal_does_not_wait():
    work = Work()
    async with running(work, drain_s=600) as (server, client):
        long = asyncio.create_task(client.post("/generate"))
        await until(lambda: work.events == ["began"])
        server.handle_exit(signal.SIGTERM, None)
        server.handle_exit(signal.SIGTERM, None)
        assert server.should_exit
    await asyncio.gather(long, return_exceptions=True)


async def test_health_checks_do_not_keep_it_alive():
    work = Work()
    async with running(work, drain_s=600) as (server, client):
        server.handle_exit(signal.SIGTERM, None)
        started = time.monotonic()
        while not server.should_exit and time.monotonic() - started < 60:
            with contextlib.suppress(httpx.TransportError):  # it ends while we ask
                await client.get("/healthz")
            await asyncio.sleep(0.01)
        assert server.should_exit
    assert "left" in work.events
