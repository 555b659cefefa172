"""Sessions of a client: opened, kept alive, finished; and what it reports about itself."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends, Header, Request
from pydantic import Field

from server.client_sessions.service import NewSession, finish_session, open_session
from server.http.authentication import AnyCallerDep, ReporterDep
from server.http.context import ContextDep
from server.http.disconnects import body_chunks
from server.http.request_body import UPLOAD
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import Label, Metadata, TinkerReply, TinkerRequest
from server.values.sanitizing import storable_json, text_or_none

router = TinkerRouter()


class CreateSession(TinkerRequest):
    """A new session."""

    tags: Annotated[list[Label], Field(fail_fast=True, max_length=100)] = Field(default_factory=list[str])
    user_metadata: Metadata | None = None
    sdk_version: Label | None = None
    project_id: Label | None = None
    display_name: Label | None = None


class CreatedSession(TinkerReply):
    """Its id."""

    type: Literal["create_session"] = "create_session"
    session_id: str


class SessionHeartbeat(TinkerRequest):
    """The client is there."""

    session_id: str


class SessionAlive(TinkerReply):
    """So is its session."""

    type: Literal["session_heartbeat"] = "session_heartbeat"


class FinishSession(TinkerRequest):
    """How the client's work ended."""

    reason: Metadata | None = None
    detail: Annotated[str, Field(max_length=10_000)] | None = None


class Finished(TinkerReply):
    """The session takes no more work."""

    type: Literal["session_finish"] = "session_finish"


class TelemetryAccepted(TinkerReply):
    """Thank you."""

    status: Literal["accepted"] = "accepted"


@router.post("/create_session")
async def create_session(
    context: ContextDep,
    caller: ReporterDep,
    body: CreateSession,
    x_idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> CreatedSession:
    """Open a session, or find the one that this request has opened before."""
    new = NewSession(
        display_name=text_or_none(body.display_name),
        project=text_or_none(body.project_id),
        tags=[text_or_none(tag) or "" for tag in body.tags],
        user_metadata=storable_json(body.user_metadata, "user_metadata"),
        sdk_version=text_or_none(body.sdk_version),
    )
    async with context.database.session() as session:
        return CreatedSession(session_id=await open_session(session, caller, new, x_idempotency_key))


@router.post("/session_heartbeat")
async def session_heartbeat(context: ContextDep, caller: ReporterDep, body: SessionHeartbeat) -> SessionAlive:
    """The client is there, and its session stays open. 410: it was finished."""
    await context.heartbeats.beat(caller.team_id, body.session_id)
    return SessionAlive()


@router.post("/sessions/{session_id}/finish")
async def finish(context: ContextDep, caller: ReporterDep, session_id: str, body: FinishSession) -> Finished:
    """The session takes no more work, for the first reason that was given."""
    reason = {"reason": body.reason, "detail": body.detail}
    async with context.database.session() as session:
        await finish_session(session, caller.team_id, session_id, storable_json(reason, "reason"))
    return Finished()


@router.post("/telemetry", dependencies=[Depends(UPLOAD)])
async def telemetry(caller: AnyCallerDep, request: Request) -> TelemetryAccepted:
    """What the client reports about itself, which nobody keeps."""
    async for _ in body_chunks(request, "its telemetry"):
        pass
    return TelemetryAccepted()
