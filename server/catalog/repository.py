"""Queries over the catalog and the checkpoint trees. A team sees the base models and its own forks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from server.values.sanitizing import is_storable
from store.checkpoint_references import CheckpointReference, as_uuid, referred_to
from store.listed_models import is_listed
from store.tables import CheckpointRow, ModelRow

BaseRow = aliased(ModelRow, name="base")

_Found = Select[ModelRow, ModelRow, CheckpointRow]


def visible_to(team_id: UUID) -> ColumnElement[bool]:
    """SQL: base models, and the team's own."""
    return or_(ModelRow.team_id.is_(None), ModelRow.team_id == team_id)


async def list_models(
    session: AsyncSession, team_id: UUID, limit: int | None, offset: int, only: Collection[UUID] | None = None
) -> tuple[Sequence[tuple[ModelRow, ModelRow | None]], int]:
    """A page of the catalog with each model's base, and the length of the whole: bases first, then forks by age.

    `only`: of these models (None: of all).
    """
    visible = and_(visible_to(team_id), is_listed())
    if only is not None:
        visible = and_(visible, ModelRow.id.in_(only))
    query = (
        select(ModelRow, BaseRow)
        .outerjoin(BaseRow, BaseRow.id == ModelRow.base_id)
        .where(visible)
        .order_by(ModelRow.base_id.is_not(None), ModelRow.created_at, ModelRow.id)
    )
    rows = [(model, base) for model, base in await session.execute(query.limit(limit).offset(offset))]
    total = await session.scalar(select(func.count()).select_from(ModelRow).where(visible))
    return rows, total or 0


async def find_model(
    session: AsyncSession, team_id: UUID, reference: str
) -> tuple[ModelRow, ModelRow | None, CheckpointRow | None] | None:
    """The model that an id, slug, name or last part of a slug means, with its base and its head."""
    query = _by_reference(team_id, reference)
    row = (await session.execute(query)).first() if query is not None else None
    return (row[0], row[1], row[2]) if row else None


def checkpoint_reference(reference: str) -> CheckpointReference:
    """What a text may mean where a checkpoint is asked for; nothing, where the database could not hold it."""
    return CheckpointReference.of(reference) if is_storable(reference) else CheckpointReference()


async def find_checkpoint(session: AsyncSession, model_id: UUID, reference: str) -> CheckpointRow | None:
    """The model's committed checkpoint of that sampler path, id, name, or `slug/name`."""
    return await session.scalar(referred_to(model_id, checkpoint_reference(reference)))


async def name_is_taken(session: AsyncSession, team_id: UUID, name: str) -> bool:
    """Whether a name already means some model that the team sees."""
    return await find_model(session, team_id, name) is not None


async def largest_context(session: AsyncSession) -> int | None:
    """The longest context of all bases, in tokens; None where one is unknown, for no trainer has read the base yet."""
    length = ModelRow.info["context_length"].as_integer()
    bases = select(func.max(length), func.count().filter(length.is_(None))).where(ModelRow.team_id.is_(None))
    largest, num_unknown = (await session.execute(bases)).one()
    return None if num_unknown else largest


async def any_base_reads_pictures(session: AsyncSession) -> bool:
    """Whether prompts of some base may hold pictures."""
    reading = ModelRow.info["pictures"].as_string().is_not(None)
    bases = select(func.count()).where(ModelRow.team_id.is_(None), reading)
    return (await session.execute(bases)).scalar_one() > 0


def as_reference(text: str) -> tuple[UUID | None, str | None]:
    """How the statements that look a model up are asked for it: by id, or else by a name in small letters."""
    model_id = as_uuid(text)
    return model_id, text.lower() if model_id is None and is_storable(text) else None


def _by_reference(team_id: UUID, reference: str) -> _Found | None:
    if not is_storable(reference):
        return None
    query = (
        select(ModelRow, BaseRow, CheckpointRow)
        .outerjoin(BaseRow, BaseRow.id == ModelRow.base_id)
        .outerjoin(CheckpointRow, CheckpointRow.id == ModelRow.head_checkpoint_id)
        .where(visible_to(team_id), ModelRow.removed_at.is_(None))
        .limit(1)
    )
    if (model_id := as_uuid(reference)) is not None:
        return query.where(ModelRow.id == model_id)
    wanted = reference.lower()
    by_slug: ColumnElement[bool] = func.lower(ModelRow.slug) == wanted
    by_name: ColumnElement[bool] = func.lower(ModelRow.name) == wanted
    last_segment = func.regexp_replace(ModelRow.slug, "^.*/", "")
    by_last_segment: ColumnElement[bool] = func.lower(last_segment) == wanted
    closest = case((by_slug, 0), (by_name, 1), else_=2)
    query = query.where(or_(by_slug, by_name, by_last_segment))
    return query.order_by(closest, ModelRow.team_id.is_(None), ModelRow.created_at)
