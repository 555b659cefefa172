"""The forms of a rollout's page for its labels and comments."""

from __future__ import annotations

from uuid import UUID

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.catalog.repository import as_uuid
from server.http.context import Context, ContextDep
from server.pages.shared.forms import as_request, submitted
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.rollouts import notes
from server.rollouts.note_types import LabelChange, NewComment
from server.rollouts.visibility import require_trace
from wire.errors import NotFound

router = PageRouter()


@router.post("/forms/traces/{trace_id}/labels")
async def change_labels(context: ContextDep, request: Request, visitor: VisitorDep, trace_id: str) -> Response:
    """Add the labels of the field, with commas between them, or remove that of the button."""
    fields, found_id = await _asked(context, request, visitor, trace_id)
    added = [label for label in fields.get("add", "").split(",") if label.strip()]
    removed = [fields["remove"]] if fields.get("remove") else []
    change = as_request(LabelChange, {"add": added, "remove": removed})
    async with context.database.session() as session:
        await notes.change_labels(session, visitor.caller, found_id, change)
    return RedirectResponse(f"/trace/{found_id}#notes", 303)


@router.post("/forms/traces/{trace_id}/comments")
async def add_comment(context: ContextDep, request: Request, visitor: VisitorDep, trace_id: str) -> Response:
    """Write a comment."""
    fields, found_id = await _asked(context, request, visitor, trace_id)
    said = as_request(NewComment, {"text": fields.get("text", "")})
    async with context.database.session() as session:
        await notes.add_comment(session, visitor.caller, found_id, said.text)
    return RedirectResponse(f"/trace/{found_id}#notes", 303)


@router.post("/forms/traces/{trace_id}/comments/{comment_id}/delete")
async def delete_comment(
    context: ContextDep, request: Request, visitor: VisitorDep, trace_id: str, comment_id: UUID
) -> Response:
    """Delete a comment."""
    _, found_id = await _asked(context, request, visitor, trace_id)
    async with context.database.session() as session:
        await notes.delete_comment(session, visitor.caller, found_id, comment_id)
    return RedirectResponse(f"/trace/{found_id}#notes", 303)


async def _asked(context: Context, request: Request, visitor: Visitor, trace_id: str) -> tuple[dict[str, str], UUID]:
    fields, found_id = await submitted(request, visitor), as_uuid(trace_id)
    if found_id is None:
        raise NotFound(f"there is no trace {trace_id}")
    await require_trace(context.database, visitor.caller, found_id)
    return fields, found_id
