"""What the guard found, above a model's tabs, and what its buttons do."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.repository import as_uuid
from server.guard import alarms
from server.http.context import Context, ContextDep
from server.pages.shared.forms import submitted
from server.pages.shared.model_states import model_states
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.pages.shared.visible_models import find_fork, find_model
from store.tables import AlarmRow, CheckpointRow
from wire.errors import HeadwayError, NotFound

router = PageRouter()


@router.post("/forms/models/{model_id}/alarms/{alarm_id}/acknowledge")
async def acknowledge(
    context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, alarm_id: UUID
) -> Response:
    """It needs no more attention."""
    await submitted(request, visitor)
    async with context.database.session() as session:
        model, _ = await find_model(session, visitor, model_id)
        await alarms.acknowledge(session, visitor.caller, model, alarm_id, None)
    return RedirectResponse(f"/models/{model.id}", 303)


@router.get("/models/{model_id}/alarms/{alarm_id}/undo")
async def ask_to_undo(
    context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, alarm_id: UUID
) -> Response:
    """What taking back what the guard did means."""
    return await _ask(context, request, visitor, model_id, alarm_id)


@router.post("/forms/models/{model_id}/alarms/{alarm_id}/undo")
async def undo(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, alarm_id: UUID) -> Response:
    """Take back what the guard did about it. A refusal is shown on the page of the question."""
    await submitted(request, visitor)
    async with context.database.session() as session:
        model, _ = await find_model(session, visitor, model_id)
    try:
        await alarms.undo(context.heads, visitor.caller, model, alarm_id)
    except HeadwayError as error:
        return await _ask(context, request, visitor, model_id, alarm_id, error)
    return RedirectResponse(f"/models/{model.id}", 303)


async def _ask(
    context: Context,
    request: Request,
    visitor: Visitor,
    model_id: str,
    alarm_id: UUID,
    error: HeadwayError | None = None,
) -> Response:
    visitor.caller.require("train")
    async with context.database.session() as session:
        model, base = await find_fork(session, visitor, model_id)
        alarm = await session.get(AlarmRow, alarm_id)
        if alarm is None or alarm.model_id != model.id:
            raise NotFound(f"this model has no alarm {alarm_id}")
        states = await model_states(session, [model], {base.id})
        moved = alarm.head_after is not None and alarm.head_after != alarm.head_before
        before, after = [await _name(session, head) for head in (alarm.head_before, alarm.head_after)]
    values: dict[str, Any] = {"model": model, "alarm": alarm, "state": states[model.id]}
    heads: dict[str, Any] = {"head_moved": moved, "head_before": before, "head_after": after}
    return page(request, "guard/undo.html", visitor, error=error, **values, **heads)


async def _name(session: AsyncSession, head: str | None) -> str:
    """The name of a checkpoint that an alarm names."""
    checkpoint_id = as_uuid(head) if head else None
    row = await session.get(CheckpointRow, checkpoint_id) if checkpoint_id else None
    return row.name if row else "the base weights"
