"""The inference gateway, under every spelling of its base URL that OpenAI clients produce."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request
from fastapi.responses import Response

from server.catalog import repository
from server.catalog.model_listing import VisibleModel, visible_models
from server.catalog.pinned_names import pinned_name, split_pinned
from server.catalog.service import get_checkpoint, input_modalities, no_such_model
from server.http.authentication import ModelUserDep
from server.http.context import ContextDep
from server.http.routing import KeyedRouter
from server.http.sampling_key import SamplingKeyDep
from server.protocols.openai import chat, completions
from server.protocols.openai.prompt_bodies import MANY_PROMPTS, ONE_PROMPT
from server.protocols.openai.schemas import ChatRequest, Completion, CompletionRequest, ListedModel, ModelList
from server.protocols.openai.shared.routing import OpenAIRoute, OpenAISamplingRoute
from store.tables import ModelRow

router = KeyedRouter(tags=["gateway"], route_class=OpenAIRoute)
sampling = KeyedRouter(tags=["gateway"], route_class=OpenAISamplingRoute)

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The completion, or with `stream` server-sent events that each carry a chunk of it",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@sampling.post("/chat/completions", response_model=Completion, responses=STREAMED, dependencies=[Depends(ONE_PROMPT)])
@sampling.post(
    "/v1/chat/completions", response_model=Completion, include_in_schema=False, dependencies=[Depends(ONE_PROMPT)]
)
async def chat_completions(context: ContextDep, key: SamplingKeyDep, request: Request, body: ChatRequest) -> Response:
    """OpenAI's chat completions, with token ids for training."""
    return await chat.chat(context, key, request, body)


@sampling.post("/completions", response_model=Completion, responses=STREAMED, dependencies=[Depends(MANY_PROMPTS)])
@sampling.post(
    "/v1/completions", response_model=Completion, include_in_schema=False, dependencies=[Depends(MANY_PROMPTS)]
)
async def text_completions(
    context: ContextDep, key: SamplingKeyDep, request: Request, body: CompletionRequest
) -> Response:
    """OpenAI's completions."""
    return await completions.complete(context, key, request, body)


@router.get("/models", response_model=ModelList)
@router.get("/v1/models", include_in_schema=False, response_model=ModelList)
async def list_models(context: ContextDep, caller: ModelUserDep) -> Response:
    """Every model that this key can sample."""
    async with context.database.connection() as connection:
        models = await visible_models(connection, caller.team_id, caller.model_ids)
    listed = ModelList(data=[_listed(model) for model in models])
    return Response(listed.model_dump_json(), media_type="application/json")


@router.get("/models/{model}")
@router.get("/v1/models/{model}", include_in_schema=False)
async def get_model(context: ContextDep, caller: ModelUserDep, model: str) -> ListedModel:
    """One of them, or a checkpoint of one, as `MODEL:CHECKPOINT`."""
    name, pinned = split_pinned(model)
    async with context.database.session() as session:
        found = await repository.find_model(session, caller.team_id, name)
        if found is None:
            raise no_such_model(model)
        caller.require_model(found[0].id, found[0].slug)
        listed = _listed(_visible(found[0], found[1]))
        if pinned is not None:
            checkpoint = await get_checkpoint(session, found[0], pinned)
            listed.id = listed.model = pinned_name(found[0].slug, checkpoint.name)
            listed.created = int(checkpoint.created_at.timestamp())
    return listed


def _listed(model: VisibleModel) -> ListedModel:
    return ListedModel(
        id=model.slug,
        created=int(model.created_at.timestamp()),
        owned_by="team" if model.team_id else model.api or "headway",
        name=model.name,
        model=model.slug,
        max_model_len=model.context_length,
        input_modalities=model.input_modalities,
    )


def _visible(model: ModelRow, base: ModelRow | None) -> VisibleModel:
    base_slug, api = base.slug if base else None, model.upstream["api"] if model.upstream else None
    length = ((base or model).info or {}).get("context_length")
    modalities = input_modalities(model, base)
    return VisibleModel(
        model.id, model.slug, model.name, model.team_id, model.created_at, base_slug, api, length, modalities
    )
