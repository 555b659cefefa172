"""What people write about a rollout: labels, by which lists are filtered, and comments.

Whoever may train for the team may change both: such a key may delete the whole rollout. Each change is in the audit
log.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.principals.callers import Caller
from server.rollouts.note_types import (
    MOST_COMMENTS,
    MOST_LABELS,
    Comment,
    CommentDeleted,
    CommentList,
    LabelChange,
    Labels,
)
from server.rollouts.service import no_such_trace
from store.tables import ApiKeyRow, TraceCommentRow, TraceRow
from wire.cursors import make_cursor, parse_cursor
from wire.errors import InvalidRequest, NotFound


async def change_labels(session: AsyncSession, caller: Caller, trace_id: UUID, change: LabelChange) -> Labels:
    """Raises NotFound, and InvalidRequest where there would be too many."""
    row = (await session.execute(_trace(caller, trace_id).with_for_update())).scalar_one_or_none()
    if row is None:
        raise no_such_trace(trace_id)
    kept = [label for label in row.labels if label not in change.remove]
    labels = list(dict.fromkeys([*kept, *(label for label in change.add if label not in change.remove)]))
    if len(labels) > MOST_LABELS:
        raise InvalidRequest(f"a rollout has at most {MOST_LABELS} labels; remove some first")
    if labels != row.labels:
        row.labels = labels
        _audit(session, caller, "label_trace", trace_id, labels=labels)
    return Labels(labels=labels)


async def list_comments(
    session: AsyncSession, caller: Caller, trace_id: UUID, limit: int, cursor: str | None = None
) -> CommentList:
    """Raises NotFound, and InvalidRequest for a cursor that is none."""
    await _require(session, caller, trace_id)
    place = (TraceCommentRow.created_at, TraceCommentRow.id)
    query = _comments(caller, trace_id).order_by(*place).limit(limit + 1)
    if cursor is not None:
        query = query.where(tuple_(*place) > tuple_(*parse_cursor(cursor, datetime, UUID)))
    rows = list(await session.scalars(query))
    last = rows[limit - 1] if len(rows) > limit else None
    return CommentList(
        items=[_shown(row) for row in rows[:limit]],
        next_cursor=make_cursor(last.created_at, last.id) if last else None,
    )


async def add_comment(session: AsyncSession, caller: Caller, trace_id: UUID, text: str) -> Comment:
    """Raises NotFound, and InvalidRequest where there are too many."""
    await _require(session, caller, trace_id)
    number = await session.scalar(select(func.count()).select_from(_comments(caller, trace_id).subquery()))
    if (number or 0) >= MOST_COMMENTS:
        raise InvalidRequest(f"a rollout has at most {MOST_COMMENTS} comments; delete some first")
    author = await session.scalar(select(ApiKeyRow.name).where(ApiKeyRow.id == caller.key_id)) or caller.role
    row = TraceCommentRow(team_id=caller.team_id, trace_id=trace_id, author=author, text=text)
    session.add(row)
    await session.flush()
    await session.refresh(row)
    _audit(session, caller, "comment_on_trace", trace_id, comment_id=str(row.id))
    return _shown(row)


async def delete_comment(session: AsyncSession, caller: Caller, trace_id: UUID, comment_id: UUID) -> CommentDeleted:
    """Raises NotFound."""
    await _require(session, caller, trace_id)
    of_it = (TraceCommentRow.team_id == caller.team_id, TraceCommentRow.trace_id == trace_id)
    query = delete(TraceCommentRow).where(*of_it, TraceCommentRow.id == comment_id).returning(TraceCommentRow.author)
    author = (await session.execute(query)).scalar_one_or_none()
    if author is None:
        raise NotFound(f"there is no comment {comment_id} on the trace {trace_id}")
    _audit(session, caller, "delete_trace_comment", trace_id, comment_id=str(comment_id), author=author)
    return CommentDeleted(deleted=True)


def _trace(caller: Caller, trace_id: UUID) -> Select[TraceRow]:
    return select(TraceRow).where(TraceRow.team_id == caller.team_id, TraceRow.id == trace_id)


def _comments(caller: Caller, trace_id: UUID) -> Select[TraceCommentRow]:
    return select(TraceCommentRow).where(
        TraceCommentRow.team_id == caller.team_id, TraceCommentRow.trace_id == trace_id
    )


async def _require(session: AsyncSession, caller: Caller, trace_id: UUID) -> None:
    """The rollout stays while the transaction goes on. Raises NotFound."""
    query = _trace(caller, trace_id).with_only_columns(TraceRow.id).with_for_update(key_share=True)
    if (await session.execute(query)).first() is None:
        raise no_such_trace(trace_id)


def _shown(row: TraceCommentRow) -> Comment:
    return Comment(id=row.id, author=row.author, text=row.text, created_at=row.created_at)


def _audit(session: AsyncSession, caller: Caller, action: str, trace_id: UUID, **detail: str | Sequence[str]) -> None:
    record(session, actor_of(caller), action, team_id=caller.team_id, subject_id=trace_id, **detail)
