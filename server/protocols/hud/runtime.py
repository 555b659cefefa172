"""`/runtime`: environments here whose agent is at the client (the SDK's `HUDRuntime`)."""

from __future__ import annotations

import contextlib
from uuid import UUID

from fastapi import WebSocket
from pydantic import BaseModel, Field
from starlette.websockets import WebSocketDisconnect

from server.catalog.repository import as_uuid
from server.environments.sessions import check_session, close_session, open_session
from server.environments.tunnels import ClientGone, refuse
from server.http.access import sent_key
from server.http.authentication import CallerDep, caller_of_socket
from server.http.context import Context, ContextDep
from server.http.sockets import deny
from server.protocols.hud.shared.errors import hud_error
from server.protocols.hud.shared.routing import HudRouter
from wire.environment_names import MAX_NAME
from wire.errors import HeadwayError, NotFound

router = HudRouter(tags=["runtime"])


class SessionRequest(BaseModel):
    """An environment by its name, declared or normalized, and the rollout that it is for."""

    environment: str = Field(min_length=1, max_length=MAX_NAME)
    trace_id: UUID | None = None


class RuntimeSession(BaseModel):
    """Its environment may not be up yet: tunnels wait for it."""

    id: str


class Closed(BaseModel):
    """The session has ended, or ends."""

    id: str


@router.post("/runtime/sessions")
async def create_session(context: ContextDep, caller: CallerDep, body: SessionRequest) -> RuntimeSession:
    """Have a runner play the environment's present version for this client."""
    async with context.database.session() as session:
        return RuntimeSession(id=await open_session(session, caller, body.environment, body.trace_id))


@router.delete("/runtime/sessions/{environment_session_id}")
async def delete_session(context: ContextDep, caller: CallerDep, environment_session_id: UUID) -> Closed:
    """End a session; again and again."""
    async with context.database.session() as session:
        await close_session(session, caller, environment_session_id)
    return Closed(id=environment_session_id.hex)


@router.websocket("/runtime/tunnels/{environment_session_id}")
async def tunnel(websocket: WebSocket, environment_session_id: str) -> None:
    """One connection to the session's environment: binary messages are its bytes."""
    context: Context = websocket.app.state.context
    try:
        caller = await caller_of_socket(websocket, sent_key(websocket), "train")
    except HeadwayError as refused:
        await deny(websocket, refused, hud_error)
        return
    await websocket.accept()
    client = _Client(websocket)
    try:
        found = as_uuid(environment_session_id)
        if found is None:
            raise NotFound("there is no such session of an environment; run the task again")
        async with context.database.session() as session:
            await check_session(session, caller, found)
    except HeadwayError as refused:
        await refuse(client, refused)
        await client.close(1000)
        return
    await client.close(await context.tunnels.carry(client, found))


class _Client:
    """The client's side of a tunnel."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> bytes | None:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        data = message.get("bytes")
        return data if data is not None else message["text"].encode()

    async def send(self, data: bytes) -> None:
        try:
            await self._websocket.send_bytes(data)
        except (WebSocketDisconnect, RuntimeError) as gone:  # RuntimeError: it has closed, and that was received
            raise ClientGone from gone

    async def close(self, code: int) -> None:
        """Unless it has closed."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._websocket.close(code)
