"""One agent process, as the runner sees it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import structlog
from pydantic import BaseModel

from runner.agents.child_environment import child_environment
from runner.agents.messages import MAX_LINE_BYTES, Cancel, Drive, Driven, Hello, Settings

log = structlog.get_logger(__name__)

_MODULE = "runner.agents.host"
_STDERR = 2
_START_S = 120.0
_CANCEL_S = 15.0


class HostDied(Exception):
    """The process ended, or did not answer; all rollouts that it drove went with it."""


class HostProcess:
    """A process that drives rollouts with one key. Belongs to one event loop."""

    def __init__(self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._process, self._reader, self._writer = process, reader, writer
        self._waiting: dict[str, asyncio.Future[Driven]] = {}
        self._reading: asyncio.Task[None] | None = None
        self.num_started = 0
        self.is_dead = False

    @classmethod
    async def start(cls, server: str, key: str, folder: Path, server_ca: Path | None = None) -> HostProcess:
        """Returns when it has imported the SDK, which takes some seconds. Raises HostDied."""
        process, ours = await asyncio.to_thread(_spawn, server, folder, server_ca)
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        host = cls(process, reader, writer)
        try:
            await host._greet(Settings(server=server, key=key))
        except BaseException:
            await host.close()
            raise
        host._reading = asyncio.create_task(host._read())
        return host

    @property
    def num_driven(self) -> int:
        """Rollouts under way."""
        return len(self._waiting)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def drive(self, drive: Drive) -> Driven:
        """Carry a rollout out. Cancelling this stops it before it returns. Raises HostDied."""
        if self.is_dead:
            raise HostDied("it ended before it began")
        driven: asyncio.Future[Driven] = asyncio.get_running_loop().create_future()
        self._waiting[drive.id] = driven
        self.num_started += 1
        try:
            await self._send(drive)
            return await asyncio.shield(driven)
        except asyncio.CancelledError:
            await self._cancel(drive.id, driven)
            raise
        finally:
            self._waiting.pop(drive.id, None)
            driven.cancel()

    async def close(self) -> None:
        """End the process and wait for its end."""
        self.is_dead = True
        self._process.kill()
        self._writer.close()
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()
        await asyncio.to_thread(self._process.wait)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._fail("it was ended")

    async def _greet(self, settings: Settings) -> None:
        await self._send(settings)
        try:
            line = await asyncio.wait_for(self._reader.readline(), _START_S)
        except TimeoutError:
            raise HostDied(f"it did not start in {_START_S:.0f} s") from None
        if not line:
            raise HostDied(f"it ended with status {await asyncio.to_thread(self._process.wait)} when it started")
        log.info("agent_process_started", pid=self.pid, sdk=Hello.model_validate_json(line).sdk)

    async def _cancel(self, id: str, driven: asyncio.Future[Driven]) -> None:  # noqa: A002
        """One that does not stop in time is ended with its process."""
        with contextlib.suppress(HostDied):
            await self._send(Cancel(id=id))
        done, _ = await asyncio.wait({driven}, timeout=_CANCEL_S)
        if not done:
            log.warning("agent_process_stuck", pid=self.pid)
            self._process.kill()
        elif not driven.cancelled():
            driven.exception()

    async def _send(self, message: BaseModel) -> None:
        try:
            self._writer.write(message.model_dump_json().encode() + b"\n")
            await self._writer.drain()
        except OSError:
            raise HostDied("it ended") from None

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                driven = Driven.model_validate_json(line)
                future = self._waiting.get(driven.id)
                if future is not None and not future.done():
                    future.set_result(driven)
        except (OSError, ValueError) as error:
            log.warning("agent_process_unreadable", pid=self.pid, error=str(error))
        self.is_dead = True
        self._process.kill()
        status = await asyncio.to_thread(self._process.wait)
        log.warning("agent_process_ended", pid=self.pid, status=status, num_driven=self.num_driven)
        self._fail(f"status {status}")

    def _fail(self, why: str) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(HostDied(why))


def _spawn(server: str, folder: Path, server_ca: Path | None) -> tuple[subprocess.Popen[bytes], socket.socket]:
    folder.mkdir(parents=True, exist_ok=True)
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())],
            stdin=subprocess.PIPE,  # closes when we die, however we die (wire/process/lifeline.py)
            stdout=_STDERR,
            env=child_environment(server, folder, server_ca),
            cwd=folder,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return process, ours
