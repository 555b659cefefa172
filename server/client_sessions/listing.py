"""Sessions as their team looks at them: lists, searches, and what was made in one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from server.client_sessions.service import get_session
from server.principals.callers import Caller
from store.tables import CheckpointNameRow, ClientSessionRow, ModelRow, SamplingSessionRow, TeamRow

_SILENT_AFTER = timedelta(seconds=120)
"""The client warns of lost heartbeats after as long."""

Status: TypeAlias = Literal["active", "success", "errored", "interrupted"]


@dataclass(frozen=True, slots=True)
class SessionContents:
    """A session, the numbers of its runs, and its sampling sessions."""

    row: ClientSessionRow
    run_indexes: Sequence[int]
    sampler_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session, its team's name, and what is saved of its runs. `is_alive`: a heartbeat came lately."""

    row: ClientSessionRow
    team: str
    is_alive: bool
    num_checkpoints: int
    checkpoint_bytes: int


@dataclass(frozen=True, slots=True)
class SessionSearch:
    """What sessions shall have: all of it, but of `session_id` and `display_name` one is enough."""

    session_id: str | None = None
    display_name: str | None = None
    projects: Collection[str] | None = None
    user_metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    statuses: Collection[Status] | None = None
    before: tuple[datetime, str] | None = None
    """Those that are listed after this one, by when it was made and its id."""


async def list_sessions(session: AsyncSession, team_id: UUID, limit: int, offset: int) -> list[str]:
    """A page of the ids of a team's sessions, newest first."""
    query = select(ClientSessionRow.id).where(ClientSessionRow.team_id == team_id)
    order = ClientSessionRow.created_at.desc(), ClientSessionRow.id.desc()
    return list(await session.scalars(query.order_by(*order).limit(limit).offset(offset)))


async def describe_session(session: AsyncSession, caller: Caller, session_id: str) -> SessionContents:
    """A session and what was made in it. Raises NotFound."""
    row = await get_session(session, caller.team_id, session_id)
    runs = select(ModelRow.session_index).where(ModelRow.session_id == row.id, ModelRow.removed_at.is_(None))
    if caller.model_ids is not None:
        runs = runs.where(ModelRow.id.in_(caller.model_ids))
    samplers = select(SamplingSessionRow.id).where(SamplingSessionRow.session_id == row.id)
    return SessionContents(
        row,
        [index for index in await session.scalars(runs.order_by(ModelRow.session_index)) if index is not None],
        list(await session.scalars(samplers.order_by(SamplingSessionRow.session_index))),
    )


async def set_project(session: AsyncSession, caller: Caller, session_id: str, project: str) -> None:
    """Count the session to a project from now on. Raises NotFound."""
    row = await get_session(session, caller.team_id, session_id)
    row.project = project
    await session.flush()


async def search_sessions(
    session: AsyncSession, team_id: UUID, wanted: SessionSearch, limit: int
) -> tuple[list[SessionSummary], bool]:
    """A page of a team's sessions, newest first, and whether there are more."""
    place = tuple_(ClientSessionRow.created_at, ClientSessionRow.id)
    query = _summaries().where(ClientSessionRow.team_id == team_id, *_conditions(wanted))
    if wanted.before is not None:
        query = query.where(place < wanted.before)
    query = query.order_by(ClientSessionRow.created_at.desc(), ClientSessionRow.id.desc()).limit(limit + 1)
    found = [SessionSummary(*row) for row in await session.execute(query)]
    return found[:limit], len(found) > limit


def _summaries() -> Select[ClientSessionRow, str, bool, int, int]:
    names = (
        select(
            ModelRow.session_id.label("session_id"),
            func.count().label("count"),
            func.sum(CheckpointNameRow.size_bytes).label("bytes"),
        )
        .join(CheckpointNameRow, CheckpointNameRow.model_id == ModelRow.id)
        .where(ModelRow.session_id.is_not(None))
        .group_by(ModelRow.session_id)
        .subquery("names")
    )
    return (
        select(
            ClientSessionRow,
            TeamRow.name,
            _is_alive(),
            func.coalesce(names.c.count, 0),
            func.coalesce(names.c.bytes, 0),
        )
        .join(TeamRow, TeamRow.id == ClientSessionRow.team_id)
        .outerjoin(names, names.c.session_id == ClientSessionRow.id)
    )


def _conditions(wanted: SessionSearch) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    identities: list[ColumnElement[bool]] = []
    if wanted.session_id is not None:
        identities.append(ClientSessionRow.id == wanted.session_id)
    if wanted.display_name is not None:
        words = (ClientSessionRow.display_name.icontains(w, autoescape=True) for w in wanted.display_name.split())
        identities.append(and_(ClientSessionRow.display_name.is_not(None), *words))
    if identities:
        conditions.append(or_(*identities))
    if wanted.projects is not None:
        conditions.append(ClientSessionRow.project.in_(wanted.projects))
    if wanted.user_metadata:
        conditions.append(ClientSessionRow.user_metadata.contains(dict(wanted.user_metadata)))
    if wanted.statuses is not None:
        conditions.append(or_(*(_has_status(status) for status in wanted.statuses)))
    return conditions


def _has_status(status: Status) -> ColumnElement[bool]:
    if status == "active":
        return _is_alive()
    return ClientSessionRow.finish_reason["reason"]["type"].as_string() == status


def _is_alive() -> ColumnElement[bool]:
    is_heard = ClientSessionRow.heartbeat_at > func.clock_timestamp() - _SILENT_AFTER
    return and_(ClientSessionRow.finished_at.is_(None), is_heard)
