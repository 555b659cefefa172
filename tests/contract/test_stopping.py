"""What becomes of the requests that are under way when a server is asked to stop."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import delete, update

from server.app import create_app
from server.process.settings import GatewayLimits, ServerSettings, StopSettings, Timeouts
from server.process.shutdown import Shutdown
from store.tables import ModelRow, OperationRow, SamplerAdapterRow
from tests.contract.conftest import Team, batch, num_operations, serving
from tests.contract.stand_ins import add_checkpoint

FOR_EVER = 3600.0
PATIENT = Timeouts(operation_s=FOR_EVER, samplers_s=FOR_EVER)


@asynccontextmanager
async def second_server(
    database_url: str, blobs: Path, team: Team, stop: StopSettings, limits: GatewayLimits | None = None
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """Another server process of the same service, as one in a rolling update."""
    settings = ServerSettings(
        database_url, f"file://{blobs}", "token", timeouts=PATIENT, stop=stop, gateway_limits=limits or GatewayLimits()
    )
    app = create_app(settings)

    @app.get("/forgets-that-servers-stop")
    async def planted() -> None:
        await asyncio.sleep(FOR_EVER)

    # Routes are tried in turn, and the last one takes whatever is left.
    app.router.routes.insert(0, app.router.routes.pop())
    headers = {"Authorization": f"Bearer {team.key}"}
    async with (
        serving(app) as url,
        httpx.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False) as http,
    ):
        yield app, http


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
async def unloaded(model: dict[str, Any], database) -> str:
    """A checkpoint of the model that no sampler holds."""
    async with database.session() as session:
        row = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        checkpoint = await add_checkpoint(session, row)
        await session.execute(delete(SamplerAdapterRow).where(SamplerAdapterRow.adapter == checkpoint.adapter_name))
        return str(checkpoint.id)


def chat(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"model": model["model_name"], "messages": [{"role": "user", "content": "hi"}], **changes}


async def until(condition) -> None:
    while not condition():  # noqa: ASYNC110 - it happens in the server
        await asyncio.sleep(0.01)


def is_refusal(reply: httpx.Response) -> bool:
    said = reply.json()["detail"]
    return reply.status_code == 503 and int(reply.headers["retry-after"]) > 0 and "this server is stopping" in said


async def test_every_kind_of_waiting_call_is_refused_at_once_and_goes_on_without_its_caller(
    database_url, blobs, team, model, unloaded, trainer, database, sampler_script
):
    forwarded = await team.train(model["id"], "forward", batch())
    handle = {"forward_id": forwarded.json()["forward_id"], "weights": [[0, 1, 1], [0, 1, 1]]}
    calls, key = f"/v1/models/{model['id']}/train", {"Idempotency-Key": uuid.uuid4().hex}
    one_at_a_time = GatewayLimits(running_per_team=1)
    async with second_server(database_url, blobs, team, StopSettings(grace_s=FOR_EVER), one_at_a_time) as (app, http):
        shutdown: Shutdown = app.state.shutdown
        sampler_script.endless, trainer.paused = True, True
        running = asyncio.create_task(
            http.post("/chat/completions", json=chat(model, max_tokens=100_000, checkpoint=None))
        )
        await until(lambda: sampler_script.requests)
        waits = {
            "a gradient pass": http.post(f"{calls}/forward-backward", json=batch(), headers=key),
            "a forward": http.post(f"{calls}/forward", json=batch()),
            "a backward": http.post(f"{calls}/backward", json=handle),
            "a step": http.post(f"{calls}/optim-step", json={"learning_rate": 1e-3}),
            "a chat that waits for its turn": http.post("/chat/completions", json=chat(model)),
            "a stream that waits for its turn": http.post("/chat/completions", json=chat(model, stream=True)),
            "a completion that waits for its turn": http.post(
                "/completions", json={"model": model["id"], "prompt": "x"}
            ),
            "a chat that waits for a sampler": http.post("/chat/completions", json=chat(model, checkpoint=unloaded)),
            "a move of the head": http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": unloaded}),
        }
        tasks = {kind: asyncio.create_task(call) for kind, call in waits.items()}
        await until(lambda: shutdown.num_waiting == len(waits))
        draining = asyncio.create_task(shutdown.drain())
        replies = {kind: await task for kind, task in tasks.items()}
        assert {kind for kind, reply in replies.items() if not is_refusal(reply)} == set()
        assert not running.done()
        assert not draining.done()
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["stopping"]) == (503, True)
        this_server = await http.get("/readyz/server")
        assert (this_server.status_code, this_server.json()["ready"]) == (503, False)
        assert "this server is stopping" in this_server.json()["missing"][0]
        assert (await http.get("/healthz")).status_code == 200
        assert is_refusal(await http.get("/v2/models"))
        running.cancel()
        await draining
    before = await num_operations(database, model["id"])
    async with database.session() as session:  # the stand-in would not wait for a gradient's answer before a step
        others = OperationRow.model_id == uuid.UUID(model["id"]), OperationRow.kind != "forward_backward"
        await session.execute(update(OperationRow).where(*others).values(state="superseded"))
    trainer.paused = False
    again = await team.http.post(f"{calls}/forward-backward", json=batch(), headers=key)
    assert again.status_code == 200
    assert await num_operations(database, model["id"]) == before


async def test_what_does_not_end_in_time_is_refused_too_and_streams_end_with_an_error(
    database_url, blobs, team, model, sampler_script
):
    async with second_server(database_url, blobs, team, StopSettings(grace_s=0.0)) as (app, http):
        sampler_script.endless = True
        whole = asyncio.create_task(http.post("/chat/completions", json=chat(model, max_tokens=100_000)))
        forgetful = asyncio.create_task(http.get("/forgets-that-servers-stop"))
        body = chat(model, max_tokens=100_000, stream=True)
        async with http.stream("POST", "/chat/completions", json=body) as stream:
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            await until(lambda: len(sampler_script.requests) == 2)
            await app.state.shutdown.drain()
            events = [line async for line in lines if line]
        assert is_refusal(await whole)
        assert is_refusal(await forgetful)
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert error["code"] == "server_stopping"
        assert "stopping" in error["message"]
        await until(lambda: sampler_script.cancelled == 2)
