"""`/v2/models`: catalog, forks, checkpoints, heads."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict

from server.audit.recording import actor_of
from server.catalog import forks, heads, pausing, repository, service
from server.catalog.changing import change_model, own_model
from server.catalog.contents import contents_of
from server.catalog.deleting import delete_model
from server.catalog.deleting_checkpoints import delete_checkpoint
from server.catalog.model_listing import VisibleModel, catalog_page, visible_models
from server.catalog.tree_listing import list_tree
from server.catalog.types import (
    CatalogModel,
    CatalogPage,
    CheckpointDeleted,
    CheckpointNode,
    ForkRequest,
    Head,
    ModelChange,
    ModelContents,
    PauseRequest,
    Provider,
    TeamModel,
    TeamModels,
)
from server.checkpoint_names.packing import pack_adapter
from server.http.archive_replies import archive_reply
from server.http.authentication import CallerDep, ModelUserDep
from server.http.context import ContextDep
from server.http.page_parameters import CursorParam
from server.protocols.hud.shared.routing import HudRouter
from store.database import driver_of


class HeadRequest(BaseModel):
    """Which checkpoint shall be the head: its sampler path, id, name, or `slug/name`; null for the base weights."""

    model_config = ConfigDict(extra="forbid")

    checkpoint_id: str | None


router = HudRouter(prefix="/v2/models", tags=["models"])
legacy = HudRouter(tags=["models"])


@legacy.get("/models/", response_model=TeamModels)
async def list_team_models(
    context: ContextDep,
    caller: ModelUserDep,
    team_only: bool = False,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
) -> Response:
    """The catalog for `hud rl run` of hud-python 0.5, which trains the first trainable row: `team_only` leaves out base
    models, which are forked and not trained."""
    only = caller.model_ids
    async with context.database.connection() as connection:
        models = await visible_models(connection, caller.team_id, only, limit, forks_only=team_only)
    page = TeamModels(models=[_team_model(model) for model in models])
    return Response(page.model_dump_json(), media_type="application/json")


@router.get("", response_model=CatalogPage)
async def list_models(
    context: ContextDep,
    caller: ModelUserDep,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> Response:
    """Base models and the team's own; without `limit`, all of them."""
    async with context.database.connection() as connection:
        page = await catalog_page(connection, caller.team_id, caller.model_ids, limit, offset)
    return Response(page, media_type="application/json")


@router.get("/resolve")
async def resolve(context: ContextDep, caller: ModelUserDep, model: str) -> CatalogModel:
    """The model that an id, slug or name means."""
    async with context.database.session() as session:
        return await service.describe_model_to(session, caller, model)


@router.post("/fork", status_code=201)
async def fork(context: ContextDep, caller: CallerDep, body: ForkRequest) -> CatalogModel:
    """A new trainable model that starts from the source's current head. `lora`: rank, alpha, targets (attn, mlp,
    unembed) and seed of its adapter; each may be left out."""
    await forks.save_source(context.heads, caller, body)
    async with context.database.session() as session:
        model = await forks.fork(session, caller, body, context.settings.default_lora)
        return await service.describe_model(session, caller.team_id, str(model.id))


@router.get("/{model_id}")
async def get_model(context: ContextDep, caller: ModelUserDep, model_id: str) -> CatalogModel:
    """One model of the catalog."""
    async with context.database.session() as session:
        return await service.describe_model_to(session, caller, model_id)


@router.patch("/{model_id}")
async def change(context: ContextDep, caller: CallerDep, model_id: str, body: ModelChange) -> CatalogModel:
    """Rename it, describe it, or tag it: what is named in the body. Requests under an old name are refused then."""
    async with context.database.session() as session:
        model = await change_model(session, caller, model_id, body)
        return await service.describe_model(session, caller.team_id, str(model.id))


@router.get("/{model_id}/contents")
async def get_contents(context: ContextDep, caller: CallerDep, model_id: str) -> ModelContents:
    """What hangs on a model, and what keeps it from being deleted."""
    async with context.database.session() as session:
        return await contents_of(session, await own_model(session, caller, model_id, lock=False))


@router.delete("/{model_id}")
async def delete(
    context: ContextDep,
    caller: CallerDep,
    model_id: str,
    checkpoints: Annotated[int | None, Query(ge=0, le=2**31)] = None,
) -> ModelContents:
    """Delete a model. `checkpoints` repeats how many it has; without the right number the refusal (409) counts what
    hangs on it. Rollouts and runs stay; files from which other models began stay as long as these do."""
    async with context.database.session() as session:
        model = await own_model(session, caller, model_id)
        return await delete_model(session, actor_of(caller), model, checkpoints)


@router.get("/{model_id}/checkpoints", response_model=list[CheckpointNode])
async def list_checkpoints(
    context: ContextDep,
    caller: CallerDep,
    request: Request,
    model_id: str,
    cursor: CursorParam = None,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
    newest_first: bool = False,
) -> Response:
    """The model's checkpoint tree, oldest first; without `limit`, all of it. Where more follows, the header `Link` says
    where (`rel="next"`)."""
    async with context.database.session() as session:
        model = await service.get_callers_model(session, caller, model_id)
        connection = await driver_of(session)
        listed = await list_tree(connection, model, cursor=cursor, limit=limit, newest_first=newest_first)
    headers = dict[str, str]()
    if listed.next_cursor is not None:
        query = request.url.include_query_params(cursor=listed.next_cursor).query
        headers["Link"] = f'<{quote(request.scope["path"])}?{query}>; rel="next"'
    return Response(listed.nodes, media_type="application/json", headers=headers)


@router.get("/{model_id}/checkpoints/{checkpoint}/adapter", response_class=StreamingResponse)
@router.head("/{model_id}/checkpoints/{checkpoint}/adapter", response_class=StreamingResponse)
async def download_adapter(
    context: ContextDep, caller: CallerDep, request: Request, model_id: str, checkpoint: str
) -> Response:
    """A tar archive of the adapter in PEFT's layout, with a README. `checkpoint`: an id, a name, or `head`."""
    packed = await pack_adapter(context.heads, context.adapter_files, caller, model_id, checkpoint)
    return archive_reply(request, packed)


@router.delete("/{model_id}/checkpoints/{checkpoint}")
async def remove_checkpoint(
    context: ContextDep, caller: CallerDep, model_id: str, checkpoint: str
) -> CheckpointDeleted:
    """Delete the files of a checkpoint (an id or a name) that nothing needs; the node stays in the tree as history."""
    async with context.database.session() as session:
        return await delete_checkpoint(session, caller, model_id, checkpoint)


@router.get("/{model_id}/head")
async def get_head(context: ContextDep, caller: CallerDep, model_id: str) -> Head:
    """The checkpoint that the gateway serves; null: the base weights."""
    async with context.database.session() as session:
        found = await repository.find_model(session, caller.team_id, model_id)
        if found is None:
            raise service.no_such_model(model_id)
        caller.require_model(found[0].id, found[0].slug)
        return heads.head_of(found[0], found[2])


@router.put("/{model_id}/head")
async def set_head(context: ContextDep, caller: CallerDep, model_id: str, body: HeadRequest) -> Head:
    """Serve and continue from this checkpoint (null: the base weights). Gradients not yet applied are dropped."""
    return await heads.set_head(context.heads, caller, model_id, body.checkpoint_id)


@router.post("/{model_id}/pause")
async def pause(context: ContextDep, caller: CallerDep, model_id: str, body: PauseRequest) -> CatalogModel:
    """Refuse training calls of this model, with the reason, until it is resumed. Sampling goes on."""
    async with context.database.session() as session:
        model = await service.get_model(session, caller.team_id, model_id)
        caller.require_model(model.id, model.slug)
        await pausing.pause(session, model.id, body.reason, actor_of(caller), "team")
        return await service.describe_model(session, caller.team_id, str(model.id))


@router.post("/{model_id}/resume")
async def resume(context: ContextDep, caller: CallerDep, model_id: str) -> CatalogModel:
    """Accept training calls of this model again."""
    async with context.database.session() as session:
        model = await service.get_model(session, caller.team_id, model_id)
        caller.require_model(model.id, model.slug)
        await pausing.resume(session, model.id, actor_of(caller), "team")
        return await service.describe_model(session, caller.team_id, str(model.id))


def _team_model(model: VisibleModel) -> TeamModel:
    """As hud-python 0.5 reads the catalog: what it finds there it trains as it is."""
    is_fork = model.base_slug is not None
    return TeamModel(
        id=str(model.id),
        name=model.name,
        model_name=model.slug,
        is_trainable=is_fork,
        public=not is_fork,
        provider=Provider(name=model.api) if model.api else Provider(),
        base_model=model.base_slug,
    )
