"""A runner in this process whose environments are functions: the real worker and the real listener for tunnels."""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.environments.base import BuildFailed, Log, StartFailed
from runner.tunnels.doors import Doors
from runner.tunnels.listener import listening_for_tunnels
from runner.worker.api import ServerApi, server_trust
from runner.worker.archives import Archives
from runner.worker.builds import Builds
from runner.worker.sessions import Sessions
from runner.worker.worker import Worker, WorkerSettings
from server.auth.service import create_key
from store.database import AsyncDatabase
from wire.placements import EnvironmentSpec, Registration
from wire.process.origins import listen
from wire.process.tls import TlsSettings, listening_context
from wire.process.tokens import Tokens

TOKEN = "t" * 32
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MANIFEST: dict[str, Any] = {
    "tasks": [{"id": "reply", "args": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}],
    "capabilities": [{"name": "tools"}],
}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@dataclass
class Served:
    """One session of an environment that is a function."""

    server: asyncio.Server
    ended: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    writers: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.address.rpartition(":")[2]))
        self.writers.append(writer)
        return reader, writer

    def die(self, sentence: str) -> None:
        self.ended.set_result(sentence)
        for writer in self.writers:
            writer.transport.abort()

    async def stop(self) -> None:
        self.server.close()


@dataclass
class FunctionEnvironments:
    """`serve` answers connections. A build fails whose archive has a file `broken`, with the text in it; so does a
    session with the variable `BROKEN`. `may_start`: sessions wait for it."""

    serve: Serve = echo
    isolation: str = "none"
    built: list[EnvironmentSpec] = field(default_factory=list[EnvironmentSpec])
    started: list[EnvironmentSpec] = field(default_factory=list[EnvironmentSpec])
    sessions: dict[str, Served] = field(default_factory=dict[str, Served])
    may_start: asyncio.Event = field(default_factory=asyncio.Event)

    async def build(self, spec: EnvironmentSpec, archive: Path | None, log: Log, timeout_s: float) -> dict[str, Any]:
        self.built.append(spec)
        log("unpacking")
        assert archive is not None
        with tarfile.open(archive) as tar:
            broken = next((tar.extractfile(member) for member in tar.getmembers() if member.name == "broken"), None)
            if broken is not None:
                raise BuildFailed(broken.read().decode())
        log("built")
        return MANIFEST

    async def start(
        self,
        spec: EnvironmentSpec,
        archive: Path | None,
        session_id: str,
        team: str,
        log: Log,
        trace_id: str | None = None,
    ) -> Served:
        self.started.append(spec)
        await self.may_start.wait()
        if "BROKEN" in spec.variables:
            raise StartFailed(spec.variables["BROKEN"])
        self.sessions[session_id] = Served(await asyncio.start_server(self.serve, "127.0.0.1", 0))
        return self.sessions[session_id]

    async def close(self) -> None: ...


@asynccontextmanager
async def running_runner(
    origin: str,
    database: AsyncDatabase,
    team: str,
    environments: FunctionEnvironments,
    folder: Path,
    tls: TlsSettings | None = None,
    server_ca: Path | None = None,
) -> AsyncGenerator[None]:
    """A runner that takes the team's work alone, while the block lasts."""
    tls = tls or TlsSettings()
    environments.may_start.set()
    async with database.session() as session:
        key = await create_key(session, "runners", "a runner", role="runner")
    doors, listening, stopping = Doors(), listen("127.0.0.1", 0), asyncio.Event()
    address = f"{'wss' if tls.is_on else 'ws'}://127.0.0.1:{listening.getsockname()[1]}"
    registration = Registration(
        host="here",
        pid=1,
        slots=64,
        kinds=["build", "session"],
        team=team,
        isolation="none",
        url=address,
        tunnel_token=TOKEN,
    )
    carriers = {"build": Builds(environments), "session": Sessions(environments, doors)}
    archives = Archives(folder, 1 << 30)
    api = ServerApi(origin, Tokens(key), server_trust(server_ca))
    worker = Worker(api, registration, WorkerSettings(64, 2.0), carriers, archives, {})
    async with listening_for_tunnels(listening, TOKEN, doors, tls=listening_context(tls)):
        running = asyncio.create_task(worker.run(stopping))
        try:
            yield
        finally:
            stopping.set()
            await running
