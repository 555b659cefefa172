"""`/v2/admin/bases`."""

from __future__ import annotations

from server.admin import bases
from server.admin.types import Base, BaseRequest
from server.audit.recording import actor_of
from server.http.authentication import AdminDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.protocols.hud.shared.routing import HudRouter
from server.values.paging import Page

router = HudRouter(prefix="/v2/admin")


@router.get("/bases")
async def list_bases(
    context: ContextDep, caller: AdminDep, cursor: CursorParam = None, limit: LimitParam = DEFAULT_LIMIT
) -> Page[Base]:
    """Base models, and who works on them."""
    async with context.database.session() as session:
        return await bases.list_bases(session, cursor, limit)


@router.post("/bases", status_code=201)
async def register_base(context: ContextDep, caller: AdminDep, body: BaseRequest) -> Base:
    """Register a base model; start its trainers and samplers with `--base NAME` then."""
    async with context.database.session() as session:
        return await bases.register_base(session, body, actor_of(caller))
