"""The server, as a runner calls it (`wire/placements.py`).

Registering, `ready`, `log` and `end` are tried again while the server is away; a runner rides out its restart. A
heartbeat and a lease are tried once, for their loops repeat them.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import httpx
import structlog
from pydantic import BaseModel, ValidationError

from runner.worker.refusals import Away, KeyRefused, Lost, Refused, RunnerUnknown
from wire.placements import (
    Beat,
    End,
    Ended,
    Heartbeat,
    Leased,
    LeaseRequest,
    LogLines,
    Ready,
    Registered,
    Registration,
)
from wire.process.tls import trusting_context
from wire.process.tokens import Tokens

log = structlog.get_logger(__name__)

_Reply = TypeVar("_Reply", bound=BaseModel)

_PASSING = (429, 500, 502, 503, 504)
_TIMEOUT = httpx.Timeout(10.0, read=30.0, pool=None)
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.25, 4.0
_CHUNK = 1 << 20


class ServerApi:
    """Belongs to one event loop. Heartbeats have connections of their own: they do not wait for the reports of a
    thousand placements."""

    def __init__(self, origin: str, keys: Tokens, verify: ssl.SSLContext | bool = True) -> None:
        self._client, self._heartbeats = (_client(origin, keys, verify, number) for number in (64, 4))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._heartbeats.aclose()

    async def register(self, registration: Registration) -> Registered:
        """Raises KeyRefused, Refused."""
        return await self._until_answered("/runner/register", registration, Registered)

    async def heartbeat(self, runner_id: UUID, heartbeat: Heartbeat, timeout_s: float) -> Beat:
        """Raises Away, KeyRefused, RunnerUnknown."""
        return await self._as_runner(self._heartbeats, f"/runner/{runner_id}/heartbeat", heartbeat, Beat, timeout_s)

    async def lease(self, runner_id: UUID, request: LeaseRequest) -> Leased:
        """Raises Away, KeyRefused, RunnerUnknown."""
        timeout_s = request.wait_s + 30
        return await self._as_runner(self._client, f"/runner/{runner_id}/lease", request, Leased, timeout_s)

    async def stop(self, runner_id: UUID, timeout_s: float) -> None:
        """The runner ends; whatever it still holds is given to others. Raises Away."""
        try:
            await self._post(self._heartbeats, f"/runner/{runner_id}/stop", None, timeout_s)
        except (KeyRefused, Refused, RunnerUnknown):
            log.warning("stop_refused")

    async def ready(self, runner_id: UUID, placement_id: UUID, ready: Ready) -> None:
        """Raises Lost."""
        await self._until_answered(_placement(runner_id, placement_id, "ready"), ready, None)

    async def log(self, runner_id: UUID, placement_id: UUID, lines: LogLines) -> None:
        """Raises Lost."""
        await self._until_answered(_placement(runner_id, placement_id, "log"), lines, None)

    async def end(self, runner_id: UUID, placement_id: UUID, end: End) -> Ended:
        """Raises Lost."""
        return await self._until_answered(_placement(runner_id, placement_id, "end"), end, Ended)

    async def fetch_archive(self, runner_id: UUID, build_id: UUID, path: Path) -> str:
        """Write the archive of a build there; returns its SHA-256. Raises Away, Refused."""
        digest = hashlib.sha256()
        try:
            async with self._client.stream("GET", f"/runner/{runner_id}/builds/{build_id}/archive") as reply:
                if reply.is_error:
                    await reply.aread()
                    _raise_for(reply)
                with path.open("wb") as file:
                    async for chunk in reply.aiter_bytes(_CHUNK):
                        digest.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
        except httpx.TransportError as error:
            raise Away(_words(error)) from None
        return digest.hexdigest()

    async def _as_runner(
        self, client: httpx.AsyncClient, path: str, body: BaseModel, kind: type[_Reply], timeout_s: float
    ) -> _Reply:
        try:
            return _parsed(await self._post(client, path, body, timeout_s), kind)
        except (Lost, Refused) as error:
            raise RunnerUnknown(str(error)) from None

    async def _until_answered(self, path: str, body: BaseModel, kind: type[_Reply] | None) -> _Reply:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                reply = await self._post(self._client, path, body)
                return _parsed(reply, kind) if kind is not None else None  # pyright: ignore[reportReturnType]
            except Away as error:
                log.info("server_away", path=path, error=str(error))
            await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))  # noqa: S311
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)

    async def _post(
        self, client: httpx.AsyncClient, path: str, body: BaseModel | None, timeout_s: float | None = None
    ) -> httpx.Response:
        timeout = httpx.Timeout(timeout_s) if timeout_s is not None else _TIMEOUT
        content = body.model_dump_json() if body is not None else "{}"
        try:
            reply = await client.post(
                path, content=content, headers={"Content-Type": "application/json"}, timeout=timeout
            )
        except httpx.TransportError as error:
            raise Away(_words(error)) from None
        _raise_for(reply)
        return reply


def server_trust(ca: Path | None) -> ssl.SSLContext:
    """By what the server's certificate is checked: the file's CAs; or those that httpx knows, and the system's. Raises
    OSError, ValueError."""
    if ca is not None:
        return trusting_context(ca)
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


class _CurrentKey(httpx.Auth):
    """The runner's key as it is when a request goes out."""

    def __init__(self, keys: Tokens) -> None:
        self._keys = keys

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        request.headers["Authorization"] = f"Bearer {self._keys.sent}"
        yield request


def _client(origin: str, keys: Tokens, verify: ssl.SSLContext | bool, num_connections: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=num_connections, max_keepalive_connections=16)
    return httpx.AsyncClient(base_url=origin, auth=_CurrentKey(keys), timeout=_TIMEOUT, limits=limits, verify=verify)


def _placement(runner_id: UUID, placement_id: UUID, what: str) -> str:
    return f"/runner/{runner_id}/placements/{placement_id}/{what}"


def _raise_for(reply: httpx.Response) -> None:
    if reply.is_success:
        return
    sentence, code = _refusal(reply)
    if reply.status_code in _PASSING:
        raise Away(sentence)
    if reply.status_code in (401, 403):
        raise KeyRefused(sentence)
    if code == "placement_lost":
        raise Lost(sentence)
    raise Refused(sentence)


def _refusal(reply: httpx.Response) -> tuple[str, str | None]:
    try:
        body = reply.json()
        detail, code = body.get("detail"), body.get("code")
    except (ValueError, AttributeError):
        detail, code = None, None
    return (detail if isinstance(detail, str) else f"the server answered {reply.status_code}"), code


def _parsed(reply: httpx.Response, kind: type[_Reply]) -> _Reply:
    try:
        return kind.model_validate_json(reply.content)
    except ValidationError as error:
        wrong = f"{error.error_count()} fields of {kind.__name__} are not as this runner knows them"
        raise Refused(f"{wrong}; are server and runner of the same version?") from None


def _words(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__
