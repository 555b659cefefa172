"""A real server that benchmarks of recorded rollouts can watch from within, and clients in processes of their own."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import threading
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
from server.http.context import Context
from server.process.settings import ServerSettings
from store.blob_stores import BlobStore
from store.blob_stores.file import FileBlobStore
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
    app = create_app(ServerSettings(database_url, f"file://{blob_root}", "token"))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False, lifespan="on"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.05)
    try:
        yield Place(database, FileBlobStore(blob_root), f"http://127.0.0.1:{port}", key, team_id, app.state.context)
    finally:
        server.should_exit = True
        await serving
        await database.close()


async def lags(until: asyncio.Future[Any]) -> dict[str, Any]:
    """How late a timer of the event loop was, until something is done; and how late without the time in which its
    thread could have run and no core was free, which is what other work on the machine costs."""
    late, by_us = list[float](), list[float]()
    while not until.done():
        due, waited_s = time.perf_counter() + 0.002, _waited_for_a_core_s()
        await asyncio.sleep(0.002)
        late.append((time.perf_counter() - due) * 1e3)
        by_us.append(max(0.0, late[-1] - (_waited_for_a_core_s() - waited_s) * 1e3))
    return {**_percentiles(late), "with_a_core": _percentiles(by_us)}


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": -1}
    return {name: round(ordered[index], 2) for name, index in at.items()}


def _waited_for_a_core_s() -> float:
    """Of this thread, in all."""
    return int(Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()[1]) / 1e9


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
