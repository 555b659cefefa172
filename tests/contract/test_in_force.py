"""Who was told of a change never meets what was before, at any server process, however many others ask meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy import func, update

from server.app import create_app
from server.auth.service import create_key
from server.http.context import ContextDep
from server.process.settings import ServerSettings
from store import cache_barrier
from store.tables import ApiKeyRow
from tests.contract.conftest import serving

MOVES = 6
CACHE_LIFETIME_S = 0.2
"""Much longer than it is, so that what nobody waited out would be seen."""


def chat(model) -> dict[str, object]:
    return {"model": model["id"], "messages": [{"role": "user", "content": "12*3?"}]}


async def served(http: httpx.AsyncClient, model) -> str | None:
    reply = await http.post("/chat/completions", json=chat(model))
    assert reply.status_code == 200, reply.text
    checkpoint = reply.json()["checkpoint"]
    return checkpoint["id"] if checkpoint else None


def with_a_forgetful_route(app: FastAPI) -> FastAPI:
    """A route that revokes a key and knows nothing of caches."""

    async def revoke(context: ContextDep, key_id: UUID) -> None:
        async with context.database.session() as session:
            await session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(revoked_at=func.now()))

    app.router.routes.insert(0, APIRoute("/planted/keys/{key_id}", revoke, methods=["DELETE"]))
    return app


@pytest.fixture
async def processes(team, database_url, tmp_path, monkeypatch) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two servers on one database."""
    monkeypatch.setattr(cache_barrier, "CACHE_LIFETIME_S", CACHE_LIFETIME_S)
    settings = ServerSettings(database_url, f"file://{tmp_path}", "token")
    options = {
        "headers": {"Authorization": team.http.headers["Authorization"]},
        "trust_env": False,
        "timeout": 30,
        "verify": False,
    }
    async with (
        serving(with_a_forgetful_route(create_app(settings))) as one,
        serving(create_app(settings)) as two,
        httpx.AsyncClient(base_url=one, **options) as here,
        httpx.AsyncClient(base_url=two, **options) as there,
    ):
        yield [here, there]


@contextlib.asynccontextmanager
async def others_asking(processes: list[httpx.AsyncClient], model) -> AsyncIterator[None]:
    """Chats without a pause, so that there is always an answer that was just given."""

    async def ask(http: httpx.AsyncClient) -> None:
        while True:
            await served(http, model)

    asking = [asyncio.create_task(ask(http)) for http in processes for _ in range(3)]
    try:
        yield
    finally:
        for task in asking:
            task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


async def test_a_head_that_moved_is_what_everybody_is_served(team, model, processes):
    first = (await team.step(model["id"]))["checkpoint_id"]
    here = processes[0]
    async with others_asking(processes, model):
        for move in range(MOVES):
            head = None if move % 2 else first
            moved = await here.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": head})
            assert moved.status_code == 200, moved.text
            assert await asyncio.gather(*(served(http, model) for http in processes)) == [head, head]


async def test_a_step_is_served_when_it_has_replied(team, model, processes):
    steps = dataclasses.replace(team, http=processes[0])
    async with others_asking(processes, model):
        for _ in range(MOVES):
            head = (await steps.step(model["id"]))["checkpoint_id"]
            assert await asyncio.gather(*(served(http, model) for http in processes)) == [head, head]


@pytest.mark.parametrize("route", ["/v2/team/keys", "/planted/keys"])
async def test_a_revoked_key_is_refused_at_once(route, team, model, processes, database):
    async with database.session() as session:
        boss = {"Authorization": f"Bearer {await create_key(session, team.name, 'boss', role='team_admin')}"}

    async def statuses(key: str) -> list[int]:
        body = {"model": model["id"], "prompt": "x", "max_tokens": 1}
        headers = {"Authorization": f"Bearer {key}"}
        replies = [http.post("/completions", json=body, headers=headers) for http in processes]
        replies += [http.get("/v2/models", params={"limit": 1}, headers=headers) for http in processes]
        return [reply.status_code for reply in await asyncio.gather(*replies)]

    for _ in range(MOVES):
        made = (await team.http.post("/v2/team/keys", json={"name": "brief"}, headers=boss)).json()
        assert await statuses(made["key"]) == [200] * 4
        asking = asyncio.create_task(statuses(made["key"]))
        revoked = await processes[0].delete(f"{route}/{made['id']}", headers=boss)
        assert revoked.status_code == 200, revoked.text
        assert await statuses(made["key"]) == [401] * 4
        await asking
