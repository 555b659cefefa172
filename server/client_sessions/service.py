"""Opening, finding and finishing the sessions of a team."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.principals.callers import Caller
from store.tables import ClientSessionRow
from wire.errors import FINAL, Gone, NotFound

_MOST_SHOWN = 100


class SessionFinished(Gone):
    """The client, or another of its processes, has finished the session."""

    code, tries = "session_finished", FINAL


@dataclass(frozen=True, slots=True)
class NewSession:
    """What a client says of the session that it opens."""

    display_name: str | None = None
    project: str | None = None
    tags: Sequence[str] = ()
    user_metadata: Mapping[str, Any] | None = None
    sdk_version: str | None = None


async def open_session(session: AsyncSession, caller: Caller, new: NewSession, idempotency_key: str | None) -> str:
    """The id of a new session, or of the one that a request with the same key has opened."""
    row = insert(ClientSessionRow).values(
        id=str(uuid.uuid4()),
        team_id=caller.team_id,
        key_id=caller.key_id,
        idempotency_key=idempotency_key,
        display_name=new.display_name,
        project=new.project,
        tags=list(new.tags),
        user_metadata=dict(new.user_metadata) if new.user_metadata else None,
        sdk_version=new.sdk_version,
    )
    opened = await session.scalar(row.on_conflict_do_nothing().returning(ClientSessionRow.id))
    if opened is not None:
        return opened
    mine = ClientSessionRow.team_id == caller.team_id, ClientSessionRow.idempotency_key == idempotency_key
    return (await session.scalars(select(ClientSessionRow.id).where(*mine))).one()


async def get_session(session: AsyncSession, team_id: UUID, session_id: str) -> ClientSessionRow:
    """A session of the team. Raises NotFound."""
    row = await session.get(ClientSessionRow, session_id)
    if row is None or row.team_id != team_id:
        raise no_such_session(session_id)
    return row


async def get_open_session(session: AsyncSession, team_id: UUID, session_id: str) -> ClientSessionRow:
    """A session that still takes work. Raises NotFound, or SessionFinished."""
    row = await get_session(session, team_id, session_id)
    if row.finished_at is not None:
        raise session_finished(session_id)
    return row


async def finish_session(session: AsyncSession, team_id: UUID, session_id: str, reason: Mapping[str, Any]) -> None:
    """The session takes no work any more. The first reason stays. Raises NotFound."""
    await get_session(session, team_id, session_id)
    is_open = ClientSessionRow.id == session_id, ClientSessionRow.finished_at.is_(None)
    ended = {"finished_at": func.clock_timestamp(), "finish_reason": dict(reason)}
    await session.execute(update(ClientSessionRow).where(*is_open).values(**ended))


def no_such_session(session_id: str) -> NotFound:
    """The refusal for a session that is not there, or not the team's."""
    return NotFound(f"there is no session {session_id[:_MOST_SHOWN]!r}")


def session_finished(session_id: str) -> SessionFinished:
    """The refusal of work in a session that has ended."""
    return SessionFinished(f"the session {session_id!r} was finished; open another one (a new ServiceClient does)")
