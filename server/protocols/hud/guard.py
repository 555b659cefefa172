"""`/v2/models/{model_id}/guard` and `/alarms`."""

from __future__ import annotations

from uuid import UUID

from server.catalog.service import get_callers_model
from server.guard import alarms, settings
from server.guard.types import Alarm, Guard, GuardRequest
from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.protocols.hud.shared.routing import HudRouter
from server.values.closed_requests import Closed
from server.values.paging import Page
from server.values.texts import Sentence


class AcknowledgeRequest(Closed):
    """Why an alarm needs no more attention."""

    comment: Sentence | None = None


router = HudRouter(prefix="/v2/models/{model_id}", tags=["guard"])


@router.get("/guard")
async def get_guard(context: ContextDep, caller: CallerDep, model_id: str) -> Guard:
    """The model's rules in full, with what each does. Who may not set the webhook does not see it either."""
    async with context.database.session() as session:
        model = await get_callers_model(session, caller, model_id)
        return settings.shown_to(caller, await settings.read_guard(session, model.id))


@router.put("/guard")
async def set_guard(context: ContextDep, caller: CallerDep, model_id: str, body: GuardRequest) -> Guard:
    """Replace what is set; what is left out gets its default. A webhook needs the scope `keys`."""
    await settings.check_webhook(context.settings.guard, caller, body)
    async with context.database.session() as session:
        model = await get_callers_model(session, caller, model_id)
        return await settings.set_guard(session, caller, model, body)


@router.get("/alarms")
async def list_alarms(
    context: ContextDep,
    caller: CallerDep,
    model_id: str,
    only_open: bool = False,
    cursor: CursorParam = None,
    limit: LimitParam = DEFAULT_LIMIT,
) -> Page[Alarm]:
    """What the guard found, newest first; `only_open`: what nobody has acknowledged."""
    async with context.database.session() as session:
        model = await get_callers_model(session, caller, model_id)
        return await alarms.list_alarms(session, model.id, only_open=only_open, cursor=cursor, limit=limit)


@router.post("/alarms/{alarm_id}/acknowledge")
async def acknowledge(
    context: ContextDep, caller: CallerDep, model_id: str, alarm_id: UUID, body: AcknowledgeRequest | None = None
) -> Alarm:
    """An alarm needs no more attention: its rule looks at what comes from here on."""
    async with context.database.session() as session:
        model = await get_callers_model(session, caller, model_id)
        return await alarms.acknowledge(session, caller, model, alarm_id, body.comment if body else None)


@router.post("/alarms/{alarm_id}/undo")
async def undo(context: ContextDep, caller: CallerDep, model_id: str, alarm_id: UUID) -> Alarm:
    """Take back what the guard did about it: the head goes where it was, and training goes on."""
    async with context.database.session() as session:
        model = await get_callers_model(session, caller, model_id)
    return await alarms.undo(context.heads, caller, model, alarm_id)
