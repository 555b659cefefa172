"""Draining a trainer or sampler in the browser: pages that say what it does, and the forms on them. For operators."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.admin import draining
from server.audit.recording import actor_of
from server.http.context import Context, ContextDep
from server.pages.shared.forms import submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import OperatorDep, VisitorDep
from store.planes.registration import is_live
from store.tables import ModelLeaseRow, ModelRow, SamplerRow, TrainerRow
from wire.errors import HeadwayError, NotFound

router = PageRouter()

Kind = Literal["trainer", "sampler"]
Verb = Literal["drain", "undrain"]
Plane = type[TrainerRow] | type[SamplerRow]
_ROWS: dict[Kind, Plane] = {"trainer": TrainerRow, "sampler": SamplerRow}


@router.get("/system/{kind}/{plane_id}/{verb}")
async def confirm(
    context: ContextDep, request: Request, visitor: VisitorDep, kind: Kind, plane_id: UUID, verb: Verb
) -> Response:
    """What it does to those who train and sample."""
    return await _ask(context, request, visitor, kind, plane_id, verb)


@router.post("/forms/system/{kind}/{plane_id}/{verb}")
async def drain_or_undrain(
    context: ContextDep, request: Request, visitor: OperatorDep, kind: Kind, plane_id: UUID, verb: Verb
) -> Response:
    """Do it. A refusal is shown on the page of the question."""
    await submitted(request, visitor)
    act = draining.drain if verb == "drain" else draining.undrain
    try:
        async with context.database.session() as session:
            await act(session, _ROWS[kind], plane_id, actor_of(visitor.caller))
    except HeadwayError as error:
        return await _ask(context, request, visitor, kind, plane_id, verb, error)
    return RedirectResponse("/system", 303)


async def _ask(
    context: Context,
    request: Request,
    visitor: Visitor,
    kind: Kind,
    plane_id: UUID,
    verb: Verb,
    error: HeadwayError | None = None,
) -> Response:
    visitor.caller.require("admin")
    async with context.database.session() as session:
        values = await _consequences(session, _ROWS[kind], kind, plane_id)
    return page(request, f"system/{verb}.html", visitor, error=error, kind=kind, **values)


async def _consequences(session: AsyncSession, plane: Plane, kind: Kind, plane_id: UUID) -> dict[str, Any]:
    row = await session.get(plane, plane_id)
    if row is None:
        raise NotFound(f"there is no {kind} {plane_id}; see /system")
    base = await session.get_one(ModelRow, row.base_id)
    others = is_live(plane), plane.base_id == base.id, plane.drained_at.is_(None), plane.id != row.id
    held = select(func.count()).where(ModelLeaseRow.trainer_id == row.id) if kind == "trainer" else None
    return {
        "plane": row,
        "base": base,
        "num_others": await session.scalar(select(func.count()).select_from(plane).where(*others)) or 0,
        "num_held": await session.scalar(held) or 0 if held is not None else 0,
    }
