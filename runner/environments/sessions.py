"""A session as the runner holds it: its process, its listener here, and how it ends."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from runner.environments.base import Log, StartFailed
from runner.environments.channels import Channel
from runner.environments.fork_servers import ForkServer, last_line, lines_of
from runner.environments.inside import messages
from runner.environments.inside.messages import Received
from runner.environments.isolation.base import SessionPlace
from runner.environments.splicing import splice

_PORT_LINE = "HUD_SERVE_PORT="
_TERM_S = 3.0
_CONNECT_S = 10.0
_HOST = "127.0.0.1"
_MAX_CONNECTIONS = 256
_SIGNALS = {
    signal.SIGKILL: "it was killed, for more memory than it may have or by itself",
    signal.SIGXCPU: "out of CPU time",
}

Release = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Around:
    """What surrounds a session. `entered`: called with its first process's id and the listener of its gateway, before
    the environment runs. `release`: called when no process is left. `kills_with_first`: whether its other processes end
    with its first one, however that ends; else that one has to be asked."""

    entered: Callable[[int, socket.socket | None], Awaitable[None]]
    release: Release
    kills_with_first: bool = True
    why_killed: Callable[[], str | None] = field(default=lambda: None)


class LocalSession:
    """`Session` of a fork server on this machine."""

    def __init__(self, place: SessionPlace, channel: Channel, around: Around, log: Log) -> None:
        self._place, self._channel, self._around, self._log = place, channel, around, log
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._gone = asyncio.Event()
        self._port: asyncio.Future[int] = self._loop.create_future()
        self._stderr: deque[str] = deque(maxlen=50)
        self._connections: dict[int, asyncio.Future[socket.socket]] = {}
        self._numbers = itertools.count()
        self._pid = 0
        self._pidfd: int | None = None
        self._why_killed: str | None = None
        self._has_own_network = False
        self._status: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._spliced: set[asyncio.Task[None]] = set()
        self._beside: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stop_wanted = False
        self.address = ""

    @classmethod
    async def start(
        cls, server: ForkServer, place: SessionPlace, around: Around, timeout_s: float, log: Log
    ) -> LocalSession:
        """Forked, and answering. Raises StartFailed; leaves nothing behind then, nor when cancelled."""
        ours, theirs = messages.socket_pair()
        out, out_inside = os.pipe()
        err, err_inside = os.pipe()
        session = cls(place, Channel(ours), around, log)
        try:
            server.fork(place, theirs.fileno(), out_inside, err_inside)
        except OSError as error:
            os.close(out)
            os.close(err)
            session._channel.close()
            await around.release()
            raise StartFailed(f"the environment's fork server has ended: {error}") from error
        finally:
            theirs.close()
            os.close(out_inside)
            os.close(err_inside)
        session._run(session._read(out, session._take_output), session._read(err, session._take_error))
        session._run(session._attend())
        try:
            await session._come_up(timeout_s)
        except BaseException:
            await session.stop()
            raise
        return session

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection made inside, whose descriptor is passed out: no byte is copied on the way."""
        port = await asyncio.shield(self._port)
        if not self._has_own_network:
            return await asyncio.open_connection(_HOST, port)
        number = next(self._numbers)
        made = self._connections[number] = self._loop.create_future()
        try:
            self._channel.send({"connect": port, "id": number})
            async with asyncio.timeout(_CONNECT_S):
                connection = await made
        finally:
            self._connections.pop(number, None)
        try:
            return await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise

    async def stop(self) -> None:
        """SIGTERM, then after 3 s SIGKILL to all."""
        if self._stopping is None:
            self._stop_wanted = True
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    def set_log(self, log: Log) -> None:
        """Where its lines go from now on."""
        self._log = log

    def run_beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Until it ends."""
        task = asyncio.create_task(work)
        self._beside.add(task)

    @property
    def pid(self) -> int | None:
        """Of its first process, on this machine; None before it is there."""
        return self._pid if self._pidfd is not None else None

    def kill(self, why: str) -> None:
        """At once, for a reason that `ended` gives."""
        self._why_killed = why
        if self._around.kills_with_first:
            self._signal_all()
        else:
            self._channel.close()

    async def _come_up(self, timeout_s: float) -> None:
        gone = asyncio.create_task(self._gone.wait())
        try:
            await asyncio.wait({self._port, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if self._gone.is_set():
            raise StartFailed(self._why_ended())
        if not self._port.done():
            said = last_line(self._stderr)
            raise StartFailed(
                f"the environment did not answer within {timeout_s:.0f} s" + (f"; it said last: {said}" if said else "")
            )
        self._server = await asyncio.start_server(self._accept, _HOST, 0)
        self.address = f"tcp://{_HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def _attend(self) -> None:
        """Messages of its first process until that is gone."""
        try:
            while (received := await self._channel.receive()) is not None:
                await self._take(received)
        except OSError:
            pass
        finally:
            await self._end()

    async def _take(self, received: Received) -> None:
        fields = received.fields
        if "entered" in fields and self._pidfd is None and received.pid:
            self._pid, self._pidfd = received.pid, os.pidfd_open(received.pid)
            listener = socket.socket(fileno=received.descriptors.pop()) if received.descriptors else None
            self._has_own_network = listener is not None
            await self._around.entered(received.pid, listener)
            self._channel.send({"go": True})
        elif "connection" in fields:
            self._take_connection(fields, received.descriptors)
        elif "exited" in fields and isinstance(fields["exited"], int):
            self._status = fields["exited"]
        messages.close_all(received.descriptors)

    def _take_connection(self, fields: dict[str, object], descriptors: list[int]) -> None:
        made = self._connections.get(fields["connection"]) if isinstance(fields["connection"], int) else None
        if made is None or made.done():
            return
        if not descriptors:
            made.set_exception(ConnectionRefusedError(str(fields.get("error", "refused"))))
            return
        connection = socket.socket(fileno=descriptors.pop())
        if connection.type != socket.SOCK_STREAM:
            connection.close()
            made.set_exception(ConnectionRefusedError("the environment gave something else than a connection"))
            return
        connection.setblocking(False)
        made.set_result(connection)

    async def _end(self) -> None:
        """Its first process is gone: with it, all others. Whoever waits for anything of it is answered."""
        if self._around.kills_with_first:
            self._signal_all()
        await self._wait_for_processes()
        self._signal_all()
        for made in self._connections.values():
            if not made.done():
                made.set_exception(ConnectionResetError("the environment has ended"))
        if self._server is not None:
            self._server.close()
        for task in [task for task in self._tasks if task is not asyncio.current_task()]:
            with suppress(TimeoutError):
                await asyncio.wait({task}, timeout=0.5)  # what it wrote last
        self._gone.set()
        if not self._stop_wanted and not self.ended.done():
            self.ended.set_result(self._why_ended())
        for task in self._beside:
            task.cancel()
        await self._around.release()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    async def _stop(self) -> None:
        if not self._gone.is_set():
            with suppress(OSError):
                self._channel.send({"stop": True})
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TERM_S if self._port.done() else 0.2):
                        await self._gone.wait()
        if self._around.kills_with_first:
            self._signal_all()
        self._channel.close()
        await self._gone.wait()
        if self._server is not None:
            self._server.close()
        attending = [task for task in self._tasks if not task.done()]
        for task in self._spliced:
            task.cancel()
        await asyncio.wait(attending, timeout=2.0) if attending else None
        for task in self._tasks | self._spliced:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._spliced, return_exceptions=True)

    def _signal_all(self) -> None:
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def _wait_for_processes(self) -> None:
        """Until its first process has ended, which is after all others of its namespace."""
        if self._pidfd is None:
            return
        readable = asyncio.Event()
        self._loop.add_reader(self._pidfd, readable.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await readable.wait()
        finally:
            self._loop.remove_reader(self._pidfd)

    def _why_ended(self) -> str:
        why = self._why_killed or self._around.why_killed()
        if why is not None:
            return f"the environment was ended: {why}"
        said = last_line(self._stderr)
        if self._status is not None and self._status < 0:
            number = -self._status
            why = _SIGNALS.get(signal.Signals(number), f"signal {number}") if number < 65 else f"signal {number}"
            return f"the environment has ended ({why})" + (f"; it said last: {said}" if said else "")
        if said:
            return said
        status = "" if self._status is None else f" with status {self._status}"
        return f"the environment has ended{status}, and said nothing"

    async def _read(self, pipe: int, take: Callable[[str], None]) -> None:
        reader = asyncio.StreamReader()
        file = os.fdopen(pipe, "rb", buffering=0)
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        try:
            async for line in lines_of(reader):
                take(line)
        finally:
            transport.close()

    def _take_output(self, line: str) -> None:
        port = line.removeprefix(_PORT_LINE)
        if port != line and port.strip().isdigit() and 0 < int(port) < 65536 and not self._port.done():
            self._port.set_result(int(port))
        else:
            self._log(line)

    def _take_error(self, line: str) -> None:
        self._stderr.append(line)
        self._log(line)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._spliced.add(task)
        task.add_done_callback(self._spliced.discard)
        try:
            if len(self._spliced) <= _MAX_CONNECTIONS:
                await splice((reader, writer), await self.connect())
        except (OSError, asyncio.CancelledError):
            pass  # asyncio's streams would log that this task was cancelled
        finally:
            writer.close()

    def _run(self, *work: Awaitable[None]) -> None:
        for each in work:
            task = asyncio.ensure_future(each)
            self._tasks.add(task)  # type: ignore[arg-type]
