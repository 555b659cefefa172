"""The websocket listener that servers open tunnels at: `/tunnels/{placement id}`, with the runner's token."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from uuid import UUID

import structlog
from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from runner.environments.base import Session
from runner.tunnels.doors import Closed, Door, Doors
from runner.tunnels.relay import answer_with_error, relay

log = structlog.get_logger(__name__)

_PATH = re.compile(r"/tunnels/([0-9a-fA-F-]{32,36})")
_MAX_MESSAGE = 1024 * 1024
_QUEUED_MESSAGES = 4
_WRITE_BUFFER = 256 * 1024


@asynccontextmanager
async def listening_for_tunnels(
    listening: socket.socket,
    token: str,
    doors: Doors,
    is_well: Callable[[], bool] = lambda: True,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[None]:
    """Take tunnels to sessions behind `doors` while the block lasts. Without the token, or elsewhere, nothing is
    answered but 401 and 404, and `/healthz`. Messages are not compressed: their bytes come compressed where that helps,
    as images."""

    def admit(connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/healthz":
            well = is_well()
            status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
            return connection.respond(status, "well\n" if well else "the server does not answer\n")
        given = request.headers.get("Authorization", "")
        if not secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "show the runner's token\n")
        if _PATH.fullmatch(request.path) is None:
            return connection.respond(HTTPStatus.NOT_FOUND, "there are only /tunnels/{placement id}\n")
        return None

    async def take(websocket: ServerConnection) -> None:
        assert websocket.request is not None
        found = _PATH.fullmatch(websocket.request.path)
        assert found is not None
        try:
            await _carry(websocket, doors, found.group(1))
        except ConnectionClosed:
            pass
        except OSError as error:
            log.warning("tunnel_broke", error=str(error))

    async with serve(
        take,
        sock=listening,
        ssl=tls,
        process_request=admit,
        compression=None,
        max_size=_MAX_MESSAGE,
        max_queue=_QUEUED_MESSAGES,
        write_limit=_WRITE_BUFFER,
    ):
        yield


async def _carry(websocket: ServerConnection, doors: Doors, placement: str) -> None:
    try:
        door = doors.find(UUID(placement))
        with door.passing() as opened:
            session = await _session(websocket, opened, door)
            try:
                reader, writer = await session.connect()
            except OSError:
                raise Closed("the environment has ended") from None
            await relay(websocket, reader, writer)
    except (Closed, ValueError) as closed:
        await answer_with_error(websocket, str(closed))


async def _session(websocket: ServerConnection, opened: asyncio.Future[Session], door: Door) -> Session:
    """Hold the tunnel while the environment starts. Raises Closed, ConnectionClosed."""
    gone = asyncio.create_task(websocket.wait_closed())
    try:
        await asyncio.wait({opened, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not opened.done():
        raise ConnectionClosed(None, None)
    return opened.result()
