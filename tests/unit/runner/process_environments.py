"""The port of environments by the simplest means: a process a session, with this interpreter, without isolation."""

from __future__ import annotations

import asyncio
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runner.environments.base import BuildFailed, Log, StartFailed
from store.unpacking import unpack
from wire.placements import EnvironmentSpec

_PORT = "HUD_SERVE_PORT="


class ProcessSession:
    def __init__(self, process: asyncio.subprocess.Process, port: int):
        self.address = f"tcp://127.0.0.1:{port}"
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.process = process
        self._watching = asyncio.create_task(self._watch())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", urlsplit(self.address).port)

    async def stop(self) -> None:
        self._watching.cancel()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def _watch(self) -> None:
        status = await self.process.wait()
        self.ended.set_result(f"the environment ended with status {status}")


class ProcessEnvironments:
    isolation = "none"

    def __init__(self) -> None:
        self.sessions: list[ProcessSession] = []

    async def build(self, spec: EnvironmentSpec, archive: Path | None, log: Log, timeout_s: float) -> dict[str, Any]:
        log(f"building {spec.name}")
        if archive is None or not (_unpacked(archive) / "env.py").exists():
            raise BuildFailed("there is no env.py")
        log("done")
        return {"tasks": [], "capabilities": []}

    async def start(
        self,
        spec: EnvironmentSpec,
        archive: Path | None,
        session_id: str,
        team: str,
        log: Log,
        trace_id: str | None = None,
    ) -> ProcessSession:
        assert archive is not None
        folder = _unpacked(archive)
        command = [sys.executable, "-m", "hud.environment.server", "env.py", "--env", spec.declared_name]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUNBUFFERED": "1"}
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        while line := await process.stdout.readline():
            if line.decode().startswith(_PORT):
                session = ProcessSession(process, int(line.decode().removeprefix(_PORT)))
                self.sessions.append(session)
                return session
        lines = (await process.stderr.read()).decode().splitlines()
        raise StartFailed(lines[-1] if lines else "it said nothing")

    async def close(self) -> None:
        for session in self.sessions:
            await session.stop()


def _unpacked(archive: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="environment-"))
    with tarfile.open(archive) as tar:
        unpack(tar, folder)
    return folder
