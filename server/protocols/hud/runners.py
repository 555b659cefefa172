"""`/v2/runners`: what there is, and draining. For operators."""

from __future__ import annotations

from uuid import UUID

from server.admin import draining
from server.audit.recording import actor_of
from server.http.authentication import AdminDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.protocols.hud.shared.routing import HudRouter
from server.runners import operating
from server.runners.operating import Runner
from server.values.paging import Page
from store.tables import RunnerRow

router = HudRouter(prefix="/v2/runners", tags=["runners"])


@router.get("")
async def list_runners(
    context: ContextDep, caller: AdminDep, cursor: CursorParam = None, limit: LimitParam = DEFAULT_LIMIT
) -> Page[Runner]:
    """Runners, oldest first."""
    async with context.database.session() as session:
        return await operating.list_runners(session, cursor, limit)


@router.post("/{runner_id}/drain")
async def drain(context: ContextDep, caller: AdminDep, runner_id: UUID) -> Runner:
    """Have it end what it holds, and take nothing new."""
    async with context.database.session() as session:
        await draining.drain(session, RunnerRow, runner_id, actor_of(caller))
        return await operating.describe_runner(session, runner_id)


@router.post("/{runner_id}/undrain")
async def undrain(context: ContextDep, caller: AdminDep, runner_id: UUID) -> Runner:
    """Have it take placements again."""
    async with context.database.session() as session:
        await draining.undrain(session, RunnerRow, runner_id, actor_of(caller))
        return await operating.describe_runner(session, runner_id)
