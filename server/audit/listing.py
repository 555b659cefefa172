"""Reading the audit log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.types import Event
from server.values.paging import Page, page_of
from server.values.sanitizing import is_storable
from store.tables import ApiKeyRow, EventRow


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which lines; all of them where nothing is asked for."""

    action: str | None = None
    subject_id: UUID | None = None
    key_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


async def list_events(
    session: AsyncSession,
    team_id: UUID | None,
    wanted: EventFilter,
    cursor: str | None,
    limit: int,
    *,
    model_ids: Collection[UUID] | None = None,
) -> Page[Event]:
    """Lines about one team's things, or (None) all, newest first. `model_ids`: about these models alone."""
    query = _query(team_id, wanted)
    if model_ids is not None:
        query = query.where(EventRow.subject_id.in_(model_ids))
    rows, following = await page_of(session, query, [EventRow.id], cursor, limit, newest_first=True)
    return Page(items=[_event(row, key) for row, key in rows], next_cursor=following)


def _query(team_id: UUID | None, wanted: EventFilter) -> Select[EventRow, ApiKeyRow]:
    query = select(EventRow, ApiKeyRow).outerjoin(ApiKeyRow, ApiKeyRow.id == EventRow.key_id)
    if team_id is not None:
        query = query.where(EventRow.team_id == team_id)
    if wanted.action is not None:
        query = query.where(EventRow.action == wanted.action if is_storable(wanted.action) else EventRow.id < 0)
    if wanted.subject_id is not None:
        query = query.where(EventRow.subject_id == wanted.subject_id)
    if wanted.key_id is not None:
        query = query.where(EventRow.key_id == wanted.key_id)
    if wanted.since is not None:
        query = query.where(EventRow.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(EventRow.at < wanted.until)
    return query


def _event(row: EventRow, key: ApiKeyRow | None) -> Event:
    by_key = f"{key.name} ({key.prefix}…)" if key else "a key that was removed"
    return Event(
        id=row.id,
        at=row.at,
        team_id=row.team_id,
        key_id=row.key_id,
        actor=row.actor or (by_key if row.key_id else "command line"),
        action=row.action,
        subject_id=row.subject_id,
        detail=row.detail or {},
    )
