"""A runner that speaks the API and carries nothing out by itself; what there is for runners to do, put into tables."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from server.auth.service import create_key, ensure_team
from store.database import AsyncDatabase
from store.placements.queueing import enqueue
from store.tables import EnvironmentBuildRow, EnvironmentRow, PlacementRow

TASKS = [{"id": "add", "args": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}]


@dataclass
class StandInRunner:
    """A registered runner."""

    http: httpx.AsyncClient
    id: str
    label: str

    async def call(self, path: str, body: Any = None) -> httpx.Response:
        """POST to one of its own routes."""
        return await self.http.post(f"/runner/{self.id}/{path}", json=body)

    async def lease(self, slots: int = 16, **more: Any) -> list[dict[str, Any]]:
        """What it is given."""
        reply = await self.call("lease", {"slots": slots, **more})
        assert reply.status_code == 200, reply.text
        return reply.json()["placements"]

    async def beat(self, *held: dict[str, Any]) -> dict[str, Any]:
        """A heartbeat that names these placements."""
        named = [{"placement_id": one["placement_id"], "attempt": one["attempt"]} for one in held]
        reply = await self.call("heartbeat", {"held": named})
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def say(self, placement: dict[str, Any], what: str, **more: Any) -> httpx.Response:
        """`ready`, `log` or `end` of a placement."""
        return await self.call(
            f"placements/{placement['placement_id']}/{what}", {"attempt": placement["attempt"], **more}
        )

    async def end(self, placement: dict[str, Any], outcome: str = "completed", **more: Any) -> dict[str, Any]:
        """It is over."""
        reply = await self.say(placement, "end", outcome=outcome, **more)
        assert reply.status_code == 200, reply.text
        return reply.json()


@asynccontextmanager
async def runners_of(
    origin: str, database: AsyncDatabase, *, connections: int = 100
) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key of runners."""
    async with database.session() as session:
        key = await create_key(session, "runners", "runner", role="runner")
    headers = {"Authorization": f"Bearer {key}"}
    options = {"timeout": 60, "trust_env": False, "limits": httpx.Limits(max_connections=connections)}
    async with httpx.AsyncClient(base_url=origin, headers=headers, **options) as http:
        yield http


async def new_runner(http: httpx.AsyncClient, label: str, slots: int = 16, **more: Any) -> StandInRunner:
    """Registered. Of all teams, it may get what other tests have queued: that asks for no label."""
    body = {
        "host": "here",
        "pid": 1,
        "slots": slots,
        "labels": [label],
        "isolation": "none",
        "url": "ws://127.0.0.1:1",
        "tunnel_token": "t" * 32,
        **more,
    }
    reply = await http.post("/runner/register", json=body)
    assert reply.status_code == 201, reply.text
    return StandInRunner(http, reply.json()["runner_id"], label)


async def add_environment(
    database: AsyncDatabase, team: str | None, name: str, *, archive: str | None = None
) -> uuid.UUID:
    """An environment with a version that serves; the id of its build."""
    async with database.session() as session:
        team_id = None if team is None else await ensure_team(session, team)
        environment = EnvironmentRow(team_id=team_id, name=name, declared_name=name, next_version=2)
        session.add(environment)
        await session.flush()
        build = EnvironmentBuildRow(
            team_id=team_id,
            state="succeeded",
            source="upload",
            environment_id=environment.id,
            version=1,
            declared_name=name,
            archive_blob=archive,
            manifest={"tasks": TASKS, "capabilities": []},
        )
        session.add(build)
        await session.flush()
        environment.current_build_id = build.id
        return build.id


async def place(
    database: AsyncDatabase,
    build_id: uuid.UUID,
    label: str,
    kind: str = "session",
    team: str | None = "",
    **more: Any,
) -> uuid.UUID:
    """Something for the runner with that label. `team`: by default one of the same name; None: everybody's."""
    async with database.session() as session:
        team_id = None if team is None else await ensure_team(session, team or label)
        row = PlacementRow(team_id=team_id, kind=kind, build_id=build_id, labels=[label], timeout_s=60, **more)
        await enqueue(session, row)
        return row.id
