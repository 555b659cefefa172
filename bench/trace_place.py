"""A real server that benchmarks of recorded rollouts can watch from within, and clients in processes of their own."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import uvicorn
from sqlalchemy import select

from bench.gateway import free_port
from server.app import create_app
from server.auth.service import create_key
from server.context import Context
from server.settings import ServerSettings
from store.blobs import BlobStore
from store.database import AsyncDatabase
from store.tables import TeamRow


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are, and whose rollouts they are."""

    database: AsyncDatabase
    blobs: BlobStore
    url: str
    key: str
    team_id: UUID
    context: Context


@asynccontextmanager
async def open_place(database_url: str, blob_root: Path) -> AsyncGenerator[Place]:
    """A server in this process, whose event loop can be watched."""
    database, port = AsyncDatabase(database_url), free_port()
    async with database.session() as session:
        name = f"bench-{secrets.token_hex(4)}"
        key = await create_key(session, name, "bench")
        team_id = await session.scalar(select(TeamRow.id).where(TeamRow.name == name))
    assert team_id is not None
    app = create_app(ServerSettings(database_url, blob_root, "token"))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False, lifespan="on"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.05)
    try:
        yield Place(database, BlobStore(blob_root), f"http://127.0.0.1:{port}", key, team_id, app.state.context)
    finally:
        server.should_exit = True
        await serving
        await database.close()


async def lags(until: asyncio.Future[Any]) -> dict[str, float]:
    """How late a timer of the event loop was, until something is done."""
    late = list[float]()
    while not until.done():
        due = time.perf_counter() + 0.002
        await asyncio.sleep(0.002)
        late.append((time.perf_counter() - due) * 1e3)
    late.sort()
    return {
        "p50": round(late[len(late) // 2], 2),
        "p99": round(late[len(late) * 99 // 100], 2),
        "max": round(late[-1], 2),
    }


async def client(place: Place, **orders: Any) -> dict[str, Any]:
    async with client_process(place, **orders) as process:
        return json.loads(await process.stdout.read())


@asynccontextmanager
async def client_process(place: Place, **orders: Any) -> AsyncGenerator[Any]:
    told = json.dumps({"url": place.url, "key": place.key, **orders})
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.trace_clients", told, stdin=pipe, stdout=pipe, limit=2**26
    )
    try:
        yield process
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
