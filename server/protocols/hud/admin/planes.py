"""`/v2/admin/trainers` and `/v2/admin/samplers`: what there is, and draining."""

from __future__ import annotations

from uuid import UUID

from server.admin import draining, planes
from server.admin.types import Sampler, Trainer
from server.audit.recording import actor_of
from server.http.authentication import AdminDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.protocols.hud.shared.routing import HudRouter
from server.values.paging import Page
from store.tables import SamplerRow, TrainerRow

router = HudRouter(prefix="/v2/admin")


@router.get("/trainers")
async def list_trainers(
    context: ContextDep, caller: AdminDep, cursor: CursorParam = None, limit: LimitParam = DEFAULT_LIMIT
) -> Page[Trainer]:
    """Trainers, oldest first."""
    async with context.database.session() as session:
        return await planes.list_trainers(session, cursor, limit)


@router.post("/trainers/{trainer_id}/drain")
async def drain_trainer(context: ContextDep, caller: AdminDep, trainer_id: UUID) -> Trainer:
    """Have it finish its operation, hand back its models, and take no other."""
    async with context.database.session() as session:
        await draining.drain(session, TrainerRow, trainer_id, actor_of(caller))
        return await planes.describe_trainer(session, trainer_id)


@router.post("/trainers/{trainer_id}/undrain")
async def undrain_trainer(context: ContextDep, caller: AdminDep, trainer_id: UUID) -> Trainer:
    """Have it work again."""
    async with context.database.session() as session:
        await draining.undrain(session, TrainerRow, trainer_id, actor_of(caller))
        return await planes.describe_trainer(session, trainer_id)


@router.get("/samplers")
async def list_samplers(
    context: ContextDep, caller: AdminDep, cursor: CursorParam = None, limit: LimitParam = DEFAULT_LIMIT
) -> Page[Sampler]:
    """Samplers, oldest first."""
    async with context.database.session() as session:
        return await planes.list_samplers(session, cursor, limit)


@router.post("/samplers/{sampler_id}/drain")
async def drain_sampler(context: ContextDep, caller: AdminDep, sampler_id: UUID) -> Sampler:
    """Send it no new request, and have it load no new adapter."""
    async with context.database.session() as session:
        await draining.drain(session, SamplerRow, sampler_id, actor_of(caller))
        return await planes.describe_sampler(session, sampler_id)


@router.post("/samplers/{sampler_id}/undrain")
async def undrain_sampler(context: ContextDep, caller: AdminDep, sampler_id: UUID) -> Sampler:
    """Have it work again."""
    async with context.database.session() as session:
        await draining.undrain(session, SamplerRow, sampler_id, actor_of(caller))
        return await planes.describe_sampler(session, sampler_id)
