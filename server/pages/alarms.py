"""What the guard found, above a model's tabs, and the buttons below it."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from server.context import ContextDep
from server.guard import alarms
from server.pages.forms import submitted
from server.pages.model_page import find_model
from server.pages.routing import PageRoute
from server.pages.signing_in import VisitorDep

router = APIRouter(route_class=PageRoute)


@router.post("/forms/models/{model_id}/alarms/{alarm_id}/acknowledge")
async def acknowledge(
    context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, alarm_id: UUID
) -> Response:
    """It needs no more attention."""
    await submitted(request, visitor)
    visitor.caller.require("train")
    async with context.database.session() as session:
        model, _ = await find_model(session, visitor, model_id)
        await alarms.acknowledge(session, visitor.caller, model, alarm_id, None)
    return RedirectResponse(f"/models/{model.id}", 303)


@router.post("/forms/models/{model_id}/alarms/{alarm_id}/undo")
async def undo(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, alarm_id: UUID) -> Response:
    """Take back what the guard did about it."""
    await submitted(request, visitor)
    visitor.caller.require("train")
    async with context.database.session() as session:
        model, _ = await find_model(session, visitor, model_id)
    await alarms.undo(context, visitor.caller, model, alarm_id)
    return RedirectResponse(f"/models/{model.id}", 303)
