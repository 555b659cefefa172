"""Tunnels: the bytes of one connection of a client, to the environment of its session and back.

A tunnel that comes before the environment is up is held until it is. Then its bytes go to the runner's own listener,
by a websocket of this process; each side is written to as fast as it takes, and no faster is read from the other.
Whatever goes wrong before the first byte came back is answered as the refusal of the client's first request, which its
user sees; a tunnel that is just closed would be tried again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, WebSocketException

from server.environments.inbox import Inbox
from server.environments.sessions import (
    RunnerAddress,
    end_what_is_over,
    runner_of,
    tunnel_closed,
    tunnel_opened,
    tunnels_seen,
)
from server.metrics.instruments import ServerMetrics
from server.process.shutdown import ServerStopping
from store.database import DATABASE_AWAY, AsyncDatabase
from store.notify import PLACEMENT_CHANGED, AsyncListener
from wire.errors import UNTIL_MENDED, HeadwayError, Unavailable
from wire.process.tls import PlaneTrust

log = structlog.get_logger(__name__)

MOST_BYTES = 64 * 1024
"""Of a message to the client."""
_POLL_S = 20.0
_TRIES, _PAUSE_S = 6, 0.5
_CONNECT_S = 10.0
_MOST_FROM_RUNNER = 1024 * 1024
_RPC_ERROR = -32000
DONE, GOING_AWAY = 1000, 1001
SEEN_EVERY_S = 10.0
_SETTLED_ROUNDS = 3
"""Rounds without a failure before sessions are ended for silence: after a time without a database nobody has said yet
that his tunnels are open."""


class RunnerUnreachable(Unavailable):
    """The runner of a session does not take its tunnels."""

    code: ClassVar[str] = "runner_unreachable"
    tries: ClassVar[int | None] = UNTIL_MENDED


class ClientGone(Exception):
    """The client's side takes nothing any more."""


class ClientEnd(Protocol):
    """The client's side of a tunnel."""

    async def receive(self) -> bytes | None:
        """The next message; None when it has closed."""
        ...

    async def send(self, data: bytes) -> None:
        """Returns when it was taken. Raises ClientGone."""
        ...


@dataclass(frozen=True, slots=True)
class _Ended:
    code: int


class Tunnels:
    """All tunnels of a server process."""

    def __init__(
        self,
        database: AsyncDatabase,
        background: AsyncDatabase,
        listener: AsyncListener,
        metrics: ServerMetrics,
        trust: PlaneTrust | None = None,
    ) -> None:
        self._database, self._background, self._listener = database, background, listener
        self._metrics, self._trust = metrics, trust or PlaneTrust()
        self._open = Counter[UUID]()
        self._settled = 0

    async def carry(self, client: ClientEnd, session_id: UUID) -> int:
        """Until one side ends; the code to close the client's side with."""
        inbox = Inbox(client.receive)
        async with inbox.reading():
            try:
                async with self._counted(session_id):
                    return await self._relayed(client, inbox, session_id)
            except ClientGone:
                return DONE
            except ServerStopping:
                raise
            except (HeadwayError, *DATABASE_AWAY) as error:
                await _refuse(client, inbox, error)
                return DONE

    async def keep_up(self) -> None:
        """One round: say which sessions have tunnels here, and end sessions that are over."""
        settled, self._settled = self._settled, 0
        if self._open:
            async with self._background.session() as session:
                await tunnels_seen(session, list(self._open))
        self._settled = settled + 1
        if self._settled > _SETTLED_ROUNDS:
            async with self._background.session() as session:
                await end_what_is_over(session)

    @asynccontextmanager
    async def _counted(self, session_id: UUID) -> AsyncGenerator[None]:
        async with self._database.session() as session:
            await tunnel_opened(session, session_id)
        self._open[session_id] += 1
        self._metrics.tunnel_opened()
        try:
            yield
        finally:
            self._metrics.tunnel_closed()
            self._open[session_id] -= 1
            if not self._open[session_id]:
                del self._open[session_id]
            await asyncio.shield(self._count_down(session_id))

    async def _count_down(self, session_id: UUID) -> None:
        try:
            async with self._background.session() as session:
                await tunnel_closed(session, session_id)
        except DATABASE_AWAY as error:
            log.warning("tunnel_not_counted", error=str(error).partition("\n")[0])  # silence ends the session anyway

    async def _relayed(self, client: ClientEnd, inbox: Inbox, session_id: UUID) -> int:
        runner = await _unless_closed(inbox, self._connected(session_id))
        if runner is None:
            return DONE
        try:
            return await _relay(client, inbox, runner, self._metrics)
        finally:
            await runner.close()

    async def _connected(self, session_id: UUID) -> ClientConnection:
        """A connection to the session's environment, as soon as it is up. Raises Gone, RunnerUnreachable."""
        with self._listener.subscribe(PLACEMENT_CHANGED, session_id.hex) as changed:
            for tried in range(_TRIES):
                while (address := await self._address(session_id)) is None:
                    await changed.wait(_POLL_S)
                try:
                    return await _connect(address, session_id, self._trust)
                except (OSError, WebSocketException, TimeoutError) as error:
                    log.warning(
                        "runner_unreachable", runner=str(address.runner_id), tried=tried, error=str(error)[:200]
                    )
                    await changed.wait(_PAUSE_S)
        raise RunnerUnreachable("the runner that plays this environment cannot be reached; run the task again")

    async def _address(self, session_id: UUID) -> RunnerAddress | None:
        async with self._database.session() as session:
            return await runner_of(session, session_id)


async def _unless_closed(inbox: Inbox, connecting: Awaitable[ClientConnection]) -> ClientConnection | None:
    """The connection; None when the client has closed before."""
    wanted, closed = asyncio.ensure_future(connecting), asyncio.ensure_future(inbox.closed())
    try:
        await asyncio.wait((wanted, closed), return_when=asyncio.FIRST_COMPLETED)
        return wanted.result() if wanted.done() else None
    finally:
        for task in (wanted, closed):
            task.cancel()
        await asyncio.gather(wanted, closed, return_exceptions=True)


async def _connect(address: RunnerAddress, session_id: UUID, trust: PlaneTrust) -> ClientConnection:
    parts = urlsplit(address.url)
    host = parts.hostname or ""
    try:
        return await _opened(address, session_id, trust.connection_options(host, is_tls=parts.scheme == "wss"))
    except ssl.SSLError as error:
        trust.note_failure(host, error)
        raise


async def _opened(address: RunnerAddress, session_id: UUID, tls: dict[str, Any]) -> ClientConnection:
    return await connect(
        f"{address.url.rstrip('/')}/tunnels/{session_id}",
        additional_headers={"Authorization": f"Bearer {address.token}"},
        compression=None,
        open_timeout=_CONNECT_S,
        max_size=_MOST_FROM_RUNNER,
        max_queue=4,
        write_limit=MOST_BYTES,
        proxy=None,
        **tls,
    )


async def _relay(client: ClientEnd, inbox: Inbox, runner: ClientConnection, metrics: ServerMetrics) -> int:
    """Carry bytes both ways until one side ends."""
    up = asyncio.create_task(_up(inbox, runner, metrics))
    down = asyncio.create_task(_down(client, runner, metrics))
    try:
        done, _ = await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        if down not in done and up.result().code != DONE:
            await down  # what the environment said last
        return down.result().code if down.done() else DONE
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _up(inbox: Inbox, runner: ClientConnection, metrics: ServerMetrics) -> _Ended:
    try:
        while (message := await inbox.get()) is not None:
            await runner.send(message)
            metrics.tunnel_carried(len(message), to_client=False)
    except ConnectionClosed:
        return _Ended(GOING_AWAY)
    return _Ended(DONE)


async def _down(client: ClientEnd, runner: ClientConnection, metrics: ServerMetrics) -> _Ended:
    try:
        async for message in runner:
            data = message if isinstance(message, bytes) else message.encode()
            for start in range(0, len(data), MOST_BYTES):
                await client.send(data[start : start + MOST_BYTES])
            metrics.tunnel_carried(len(data), to_client=True)
    except ConnectionClosedOK:
        return _Ended(DONE)
    except ConnectionClosed:
        return _Ended(GOING_AWAY)
    return _Ended(DONE)


async def refuse(client: ClientEnd, error: HeadwayError) -> None:
    """Answer the client's first request with what is wrong."""
    inbox = Inbox(client.receive)
    async with inbox.reading():
        await _refuse(client, inbox, error)


async def _refuse(client: ClientEnd, inbox: Inbox, error: Exception) -> None:
    sentence = error.message if isinstance(error, HeadwayError) else "the database does not answer; try again"
    answer = {"jsonrpc": "2.0", "id": await inbox.first_id(), "error": {"code": _RPC_ERROR, "message": sentence}}
    with contextlib.suppress(ClientGone):
        await client.send(json.dumps(answer).encode() + b"\n")
