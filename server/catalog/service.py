"""The catalog as clients see it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog import repository
from server.catalog.lora import shape_of
from server.catalog.types import (
    CatalogModel,
    Provider,
    UpstreamModel,
)
from server.principals.callers import Caller
from store.tables import CheckpointRow, ModelRow
from wire.errors import Conflict, ModelNotFound, NotFound

HEAD = "head"
"""Means the model's head where a checkpoint is asked for, whose names begin with a number."""
_MOST_SHOWN = 200
_AGENT_TYPES = {"openai": "openai_compatible", "anthropic": "claude", "gemini": "gemini"}
"""By the API in which a model is asked: the SDK's agent that does so."""


async def get_model(session: AsyncSession, team_id: UUID, reference: str) -> ModelRow:
    """A model by id, slug or name. Raises NotFound, for another team's too."""
    found = await repository.find_model(session, team_id, reference)
    if found is None:
        raise no_such_model(reference)
    return found[0]


async def get_callers_model(session: AsyncSession, caller: Caller, reference: str) -> ModelRow:
    """As `get_model`. Raises Forbidden where the caller's key is for other models."""
    model = await get_model(session, caller.team_id, reference)
    caller.require_model(model.id, model.slug)
    return model


async def describe_model(session: AsyncSession, team_id: UUID, reference: str) -> CatalogModel:
    """A model's catalog row."""
    found = await repository.find_model(session, team_id, reference)
    if found is None:
        raise no_such_model(reference)
    return catalog_model(found[0], found[1])


async def describe_model_to(session: AsyncSession, caller: Caller, reference: str) -> CatalogModel:
    """A model's catalog row. Raises Forbidden where the caller's key is for other models."""
    model = await describe_model(session, caller.team_id, reference)
    caller.require_model(UUID(model.id), model.model_name)
    return model


async def get_checkpoint(session: AsyncSession, model: ModelRow, reference: str) -> CheckpointRow:
    """A committed checkpoint of this model, as `store.checkpoint_references` reads the text. Raises NotFound."""
    checkpoint = await repository.find_checkpoint(session, model.id, reference)
    if checkpoint is None:
        raise NotFound(f"model {model.slug!r} has no checkpoint {reference!r}")
    return checkpoint


async def get_node(session: AsyncSession, model: ModelRow, reference: str) -> CheckpointRow:
    """As `get_checkpoint`, and by `head`. Raises Conflict where that is the base weights."""
    if reference != HEAD:
        return await get_checkpoint(session, model, reference)
    if model.head_checkpoint_id is None:
        raise Conflict(f"the head of {model.slug!r} is the base weights, which have no adapter; train a step")
    return await session.get_one(CheckpointRow, model.head_checkpoint_id)


async def lock_model(session: AsyncSession, model_id: UUID, reference: str) -> ModelRow:
    """The model, its row locked for update. Raises NotFound, as for `reference`, where somebody else deleted it while
    the lock was waited for."""
    model = await session.get_one(ModelRow, model_id, with_for_update=True, populate_existing=True)
    if model.removed_at is not None:
        raise no_such_model(reference)
    return model


def no_such_model(reference: str) -> ModelNotFound:
    """The refusal for a model that is not there, or not the team's."""
    shown = reference if len(reference) <= _MOST_SHOWN else f"{reference[:_MOST_SHOWN]}…"
    return ModelNotFound(f"there is no model {shown!r}; see 'hud models list'", param="model")


def input_modalities(model: ModelRow, base: ModelRow | None) -> list[str] | None:
    """What prompts of the model may hold. None where that is not known: of another vendor's model, and before a trainer
    has loaded the base."""
    info = (base or model).info
    if info is None or model.upstream is not None:
        return None
    return ["text", "image"] if info.get("pictures") else ["text"]


def catalog_model(model: ModelRow, base: ModelRow | None) -> CatalogModel:
    """A model as the catalog shows it."""
    info = (base or model).info or {}
    return CatalogModel(
        id=str(model.id),
        name=model.name,
        model_name=model.slug,
        sdk_agent_type=_AGENT_TYPES[model.upstream["api"] if model.upstream else "openai"],
        is_trainable=model.upstream is None,
        provider=Provider(name=model.upstream["api"]) if model.upstream else Provider(),
        created_at=model.created_at,
        base_model=base.slug if base else None,
        head_checkpoint_id=str(model.head_checkpoint_id) if model.head_checkpoint_id else None,
        sharing=info.get("sharing"),
        lora=shape_of(model, base),
        paused_at=model.paused_at,
        pause_reason=model.pause_reason,
        upstream=UpstreamModel.model_validate(model.upstream) if model.upstream else None,
        description=model.description,
        tags=model.tags,
        input_modalities=input_modalities(model, base),
    )
