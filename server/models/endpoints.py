"""`/v2/models`: catalog, forks, checkpoints, heads."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.auth.dependencies import CallerDep
from server.context import ContextDep
from server.models import forks, heads, repository, service
from wire.catalog import CatalogModel, CatalogPage, CheckpointNode, ForkRequest, Head, HeadRequest

router = APIRouter(prefix="/v2/models", tags=["models"])


@router.get("")
async def list_models(
    context: ContextDep,
    caller: CallerDep,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> CatalogPage:
    """Base models and the team's own; without `limit`, all of them."""
    async with context.database.session() as session:
        return await service.list_models(session, caller.team_id, limit, offset)


@router.get("/resolve")
async def resolve(context: ContextDep, caller: CallerDep, model: str) -> CatalogModel:
    """The model that an id, slug or name means."""
    async with context.database.session() as session:
        return await service.describe_model(session, caller.team_id, model)


@router.post("/fork", status_code=201)
async def fork(context: ContextDep, caller: CallerDep, body: ForkRequest) -> CatalogModel:
    """A new trainable model that starts from the source's current head."""
    async with context.database.session() as session:
        model = await forks.fork(session, caller, body, context.settings.default_lora)
        return await service.describe_model(session, caller.team_id, str(model.id))


@router.get("/{model_id}")
async def get_model(context: ContextDep, caller: CallerDep, model_id: str) -> CatalogModel:
    """One model of the catalog."""
    async with context.database.session() as session:
        return await service.describe_model(session, caller.team_id, model_id)


@router.get("/{model_id}/checkpoints")
async def list_checkpoints(context: ContextDep, caller: CallerDep, model_id: str) -> list[CheckpointNode]:
    """The model's checkpoint tree, oldest first."""
    async with context.database.session() as session:
        model = await service.get_model(session, caller.team_id, model_id)
        return await service.list_checkpoints(session, model)


@router.get("/{model_id}/head")
async def get_head(context: ContextDep, caller: CallerDep, model_id: str) -> Head:
    """The checkpoint that the gateway serves; null: the base weights."""
    async with context.database.session() as session:
        found = await repository.find_model(session, caller.team_id, model_id)
        if found is None:
            raise service.no_such_model(model_id)
        return heads.head_of(found[0], found[2])


@router.put("/{model_id}/head")
async def set_head(context: ContextDep, caller: CallerDep, model_id: str, body: HeadRequest) -> Head:
    """Serve and continue from this checkpoint (null: the base weights). Gradients not yet applied are dropped."""
    return await heads.set_head(context, caller, model_id, body.checkpoint_id)
