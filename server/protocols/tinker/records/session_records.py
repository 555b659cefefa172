"""Sessions as their team looks at them later."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from server.catalog.run_ids import run_id_of
from server.client_sessions import listing
from server.client_sessions.service import get_session as get_client_session
from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.protocols.tinker.records.checkpoints import Changed, ReaderDep
from server.protocols.tinker.records.schemas import AccessScope, LimitParam, OffsetParam
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import Label, Metadata, TinkerReply, TinkerRequest
from server.values.metadata import as_texts
from store.tables import ClientSessionRow

router = TinkerRouter()

_NO_PROJECT = ""


class Sessions(TinkerReply):
    """A page of ids, newest first."""

    sessions: list[str]


class SessionContents(TinkerReply):
    """What was made in a session."""

    training_run_ids: list[str]
    sampler_ids: list[str]
    user_metadata: dict[str, str] | None
    display_name: str | None


class TraceExport(TinkerReply):
    """There is none."""

    status: Literal["failed"] = "failed"
    url: None = None
    error: str = "Headway exports no traces of sessions; it traces requests with OpenTelemetry (docs/monitoring.md)"


class ProjectOfSession(TinkerRequest):
    """The project that a session is counted to."""

    project_id: Label


class StatusQuery(TinkerRequest):
    """How a session shall stand; `reasons`: how its client shall have finished it."""

    type: Literal["active", "cancelled", "failed", "client_finished"]
    reasons: Annotated[list[Literal["success", "errored", "interrupted"]], Field(fail_fast=True)] | None = None


class SearchCursor(TinkerReply):
    """The last session of a page."""

    last_created_at: AwareDatetime
    last_session_id: Label


class SessionSearch(TinkerRequest):
    """Which sessions are searched for."""

    session_id: Label | None = None
    project_ids: Annotated[list[Label], Field(fail_fast=True, max_length=100)] | None = None
    user_metadata: Metadata | None = None
    display_name: Label | None = None
    statuses: Annotated[list[StatusQuery], Field(fail_fast=True, max_length=20)] | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: SearchCursor | None = None


class SessionSummary(TinkerReply):
    """A session. `status` null: it was not finished, and its client has fallen silent."""

    session_id: str
    created_at: datetime
    owner: str
    project_id: str
    status: dict[str, Any] | None
    checkpoints_count: int
    display_name: str | None
    user_metadata: dict[str, str] | None
    checkpoint_storage_bytes: int


class FoundSessions(TinkerReply):
    """A page of sessions, newest first."""

    sessions: list[SessionSummary]
    next_cursor: SearchCursor | None


@router.get("/sessions")
async def list_sessions(
    context: ContextDep,
    caller: CallerDep,
    limit: LimitParam = 20,
    offset: OffsetParam = 0,
    access_scope: AccessScope = "owned",
) -> Sessions:
    """The team's sessions, newest first."""
    async with context.database.session() as session:
        return Sessions(sessions=await listing.list_sessions(session, caller.team_id, limit, offset))


@router.post("/sessions/search")
async def search_sessions(context: ContextDep, caller: ReaderDep, body: SessionSearch) -> FoundSessions:
    """The team's sessions that are as the request says."""
    wanted = listing.SessionSearch(
        session_id=body.session_id,
        display_name=body.display_name,
        projects=body.project_ids,
        user_metadata=body.user_metadata or {},
        statuses=None if body.statuses is None else _statuses(body.statuses),
        before=(body.cursor.last_created_at, body.cursor.last_session_id) if body.cursor else None,
    )
    async with context.database.session() as session:
        found, more = await listing.search_sessions(session, caller.team_id, wanted, body.limit)
    last = found[-1].row if more else None
    following = SearchCursor(last_created_at=last.created_at, last_session_id=last.id) if last else None
    return FoundSessions(sessions=[_summary(one) for one in found], next_cursor=following)


@router.get("/sessions/{session_id}/trace_export")
async def export_trace(context: ContextDep, caller: CallerDep, session_id: str) -> TraceExport:
    """Headway keeps no timeline of a session: the SDK gets that as the reason why the export failed."""
    async with context.database.session() as session:
        await get_client_session(session, caller.team_id, session_id)
    return TraceExport()


@router.get("/sessions/{session_id}")
async def get_session(
    context: ContextDep, caller: CallerDep, session_id: str, access_scope: AccessScope = "owned"
) -> SessionContents:
    """What was made in a session."""
    async with context.database.session() as session:
        found = await listing.describe_session(session, caller, session_id)
    return SessionContents(
        training_run_ids=[run_id_of(found.row.id, index) for index in found.run_indexes],
        sampler_ids=list(found.sampler_ids),
        user_metadata=as_texts(found.row.user_metadata),
        display_name=found.row.display_name,
    )


@router.put("/sessions/{session_id}/project")
async def set_project(context: ContextDep, caller: CallerDep, session_id: str, body: ProjectOfSession) -> Changed:
    """Count a session to a project: a word by which runs and sessions can be listed."""
    async with context.database.session() as session:
        await listing.set_project(session, caller, session_id, body.project_id)
    return Changed()


def _statuses(queries: list[StatusQuery]) -> list[listing.Status]:
    """Sessions here are neither cancelled nor failed by the service."""
    wanted: list[listing.Status] = []
    for query in queries:
        if query.type == "active":
            wanted.append("active")
        elif query.type == "client_finished":
            wanted.extend(query.reasons or ["success", "errored", "interrupted"])
    return wanted


def _summary(found: listing.SessionSummary) -> SessionSummary:
    row = found.row
    return SessionSummary(
        session_id=row.id,
        created_at=row.created_at,
        owner=found.team,
        project_id=row.project or _NO_PROJECT,
        status=_status(row, is_alive=found.is_alive),
        checkpoints_count=found.num_checkpoints,
        display_name=row.display_name,
        user_metadata=as_texts(row.user_metadata),
        checkpoint_storage_bytes=found.checkpoint_bytes,
    )


def _status(row: ClientSessionRow, *, is_alive: bool) -> dict[str, Any] | None:
    if is_alive:
        return {"type": "active"}
    reason = (row.finish_reason or {}).get("reason")
    if row.finished_at is None or not reason:
        return None
    return {"type": "client_finished", "reason": reason, "detail": (row.finish_reason or {}).get("detail")}
