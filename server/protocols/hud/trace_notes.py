"""Labels of rollouts, and comments on them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Query

from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.protocols.hud.shared.routing import HudRouter
from server.protocols.hud.shared.visibility import SeenTrace
from server.rollouts import notes
from server.rollouts.note_types import (
    MOST_COMMENTS,
    Comment,
    CommentDeleted,
    CommentList,
    LabelChange,
    Labels,
    NewComment,
)

router = HudRouter(tags=["traces"])


@router.post("/v2/traces/{trace_id}/labels", dependencies=[SeenTrace])
async def change_labels(context: ContextDep, caller: CallerDep, trace_id: UUID, body: LabelChange) -> Labels:
    """Add labels to a rollout, and remove some of those that it has."""
    async with context.database.session() as session:
        return await notes.change_labels(session, caller, trace_id, body)


@router.get("/v2/traces/{trace_id}/comments", dependencies=[SeenTrace])
async def list_comments(
    context: ContextDep,
    caller: CallerDep,
    trace_id: UUID,
    limit: Annotated[int, Query(ge=1, le=MOST_COMMENTS)] = 50,
    cursor: Annotated[str | None, Query(max_length=256)] = None,
) -> CommentList:
    """What was written about a rollout, the oldest first."""
    async with context.database.session() as session:
        return await notes.list_comments(session, caller, trace_id, limit, cursor)


@router.post("/v2/traces/{trace_id}/comments", dependencies=[SeenTrace])
async def add_comment(context: ContextDep, caller: CallerDep, trace_id: UUID, body: NewComment) -> Comment:
    """Write something about a rollout, under the name of the key."""
    async with context.database.session() as session:
        return await notes.add_comment(session, caller, trace_id, body.text)


@router.delete("/v2/traces/{trace_id}/comments/{comment_id}", dependencies=[SeenTrace])
async def delete_comment(context: ContextDep, caller: CallerDep, trace_id: UUID, comment_id: UUID) -> CommentDeleted:
    """Delete a comment, whoever wrote it."""
    async with context.database.session() as session:
        return await notes.delete_comment(session, caller, trace_id, comment_id)
