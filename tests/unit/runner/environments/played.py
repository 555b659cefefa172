"""Environments of this user, opened for tests, and what to ask of their sessions."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import tarfile
import textwrap
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.environments.base import Session
from runner.environments.local import LocalEnvironments
from runner.environments.opening import open_environments
from runner.environments.settings import EnvironmentSettings, Gateway
from wire.placements import EnvironmentSpec

RUNS_CODE = """
from hud.environment import Environment

env = Environment("Runs Code")


@env.template(id="run")
async def run(code: str):
    names = {}
    exec(code, names)
    yield str(names.get("result"))
    yield 1.0
"""
"""An environment that executes what its task is given."""

SMALL = EnvironmentSettings(
    isolation=os.environ.get("HEADWAY_TEST_ISOLATION", "auto"),
    memory_bytes=192 << 20,
    disk_bytes=16 << 20,
    processes=48,
    start_timeout_s=120,
    warm_sessions=0,
)
"""Little of everything: what hostile code takes is taken from the machine that runs the tests."""


def archive_of(files: Mapping[str, str], folder: Path) -> tuple[Path, str]:
    """A gzip tar of them, and its digest."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    path = folder / f"{digest}.tar.gz"
    path.write_bytes(packed.getvalue())
    return path, digest


@dataclass
class Played:
    """Environments, and one version in them."""

    environments: LocalEnvironments
    folder: Path
    spec: EnvironmentSpec
    archive: Path
    lines: list[str] = field(default_factory=list)

    async def start(self, team: str = "reds", trace_id: str | None = None) -> Session:
        return await self.environments.start(
            self.spec, self.archive, uuid.uuid4().hex, team, self.lines.append, trace_id
        )

    @asynccontextmanager
    async def session(self, team: str = "reds", trace_id: str | None = None) -> AsyncIterator[Session]:
        session = await self.start(team, trace_id)
        try:
            yield session
        finally:
            await session.stop()


@asynccontextmanager
async def playing(
    files: Mapping[str, str],
    folder: Path,
    name: str = "runs-code",
    settings: EnvironmentSettings = SMALL,
    gateway: Gateway | None = None,
    **spec: Any,
) -> AsyncIterator[Played]:
    archive, digest = archive_of(files, folder)
    gateway = gateway or Gateway("http://127.0.0.1:9", lambda team: None)
    environments = await open_environments(folder / "environments", settings, gateway)
    assert isinstance(environments, LocalEnvironments)
    described = EnvironmentSpec(
        build_id=uuid.uuid4(),
        name=name,
        declared_name=name,
        version=1,
        source="upload",
        archive_digest=digest,
        **spec,
    )
    try:
        yield Played(environments, folder, described, archive)
    finally:
        await environments.close()


async def ask(session: Session, method: str, timeout_s: float = 30, **params: Any) -> dict[str, Any]:
    """What it answers over its control port, through the listener that agents use."""
    host, port = session.address.removeprefix("tcp://").split(":")
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
        try:
            writer.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
        finally:
            writer.close()
    assert line, "the environment closed the connection"
    return json.loads(line)


async def run(session: Session, code: str, timeout_s: float = 30) -> str:
    """What `code`, run inside, left under the name `result`."""
    answer = await ask(session, "tasks.start", timeout_s, id="run", args={"code": textwrap.dedent(code)})
    assert "result" in answer, answer
    return answer["result"]["prompt"]
