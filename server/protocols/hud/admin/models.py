"""`/v2/admin/models`: pause, resume and roll back any team's model."""

from __future__ import annotations

from uuid import UUID

from server.admin import models
from server.admin.types import TeamModel
from server.audit.recording import actor_of
from server.catalog import pausing
from server.catalog.heads import roll_to
from server.catalog.types import Head, PauseRequest
from server.http.authentication import AdminDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.protocols.hud.shared.routing import HudRouter
from server.values.closed_requests import Closed
from server.values.paging import Page
from server.values.texts import Sentence


class AdminHeadRequest(Closed):
    """Which checkpoint shall be the head (id or name; null: the base weights), and why."""

    checkpoint_id: str | None
    reason: Sentence


router = HudRouter(prefix="/v2/admin")


@router.get("/models")
async def list_models(
    context: ContextDep,
    caller: AdminDep,
    team_id: UUID | None = None,
    cursor: CursorParam = None,
    limit: LimitParam = DEFAULT_LIMIT,
) -> Page[TeamModel]:
    """Models of all teams, or of one, oldest first."""
    async with context.database.session() as session:
        return await models.list_models(session, team_id, cursor, limit)


@router.post("/models/{model_id}/pause")
async def pause(context: ContextDep, caller: AdminDep, model_id: str, body: PauseRequest) -> TeamModel:
    """Refuse training calls, until an operator resumes the model. Sampling goes on."""
    async with context.database.session() as session:
        model = await models.get_model(session, model_id)
        await pausing.pause(session, model.id, body.reason, actor_of(caller), "admin")
        return await models.describe_model(session, model.id)


@router.post("/models/{model_id}/resume")
async def resume(context: ContextDep, caller: AdminDep, model_id: str) -> TeamModel:
    """Accept training calls again, whoever paused the model."""
    async with context.database.session() as session:
        model = await models.get_model(session, model_id)
        await pausing.resume(session, model.id, actor_of(caller), "admin")
        return await models.describe_model(session, model.id)


@router.put("/models/{model_id}/head")
async def set_head(context: ContextDep, caller: AdminDep, model_id: str, body: AdminHeadRequest) -> Head:
    """Serve and continue from this checkpoint (null: the base weights). The reason is kept in the audit log."""
    async with context.database.session() as session:
        model = await models.get_model(session, model_id)
    return await roll_to(context.heads, model, body.checkpoint_id, actor_of(caller), body.reason)
