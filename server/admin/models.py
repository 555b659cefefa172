"""Models of all teams, as operators see them."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.admin.types import TeamModel
from server.catalog.repository import BaseRow, as_uuid
from server.catalog.service import catalog_model, no_such_model
from server.values.paging import Page, page_of
from store.listed_models import is_listed
from store.tables import ModelRow, TeamRow


async def list_models(session: AsyncSession, team_id: UUID | None, cursor: str | None, limit: int) -> Page[TeamModel]:
    """Every model, or those of one team, oldest first; of runs those of which something was saved."""
    query = _models().where(is_listed())
    if team_id is not None:
        query = query.where(ModelRow.team_id == team_id)
    rows, following = await page_of(session, query, (ModelRow.created_at, ModelRow.id), cursor, limit)
    return Page(items=[_describe(*row) for row in rows], next_cursor=following)


async def get_model(session: AsyncSession, model_id: str) -> ModelRow:
    """Any team's model, by id. Raises NotFound."""
    found = as_uuid(model_id)
    model = await session.get(ModelRow, found) if found else None
    if model is None or model.removed_at is not None:
        raise no_such_model(model_id)
    return model


async def describe_model(session: AsyncSession, model_id: UUID) -> TeamModel:
    """A model and its team."""
    row = (await session.execute(_models().where(ModelRow.id == model_id))).one()
    return _describe(*row)


def _models():
    query = select(ModelRow, BaseRow, TeamRow.name)
    return query.outerjoin(BaseRow, BaseRow.id == ModelRow.base_id).outerjoin(TeamRow, TeamRow.id == ModelRow.team_id)


def _describe(model: ModelRow, base: ModelRow | None, team: str | None) -> TeamModel:
    return TeamModel(**catalog_model(model, base).model_dump(), team_id=model.team_id, team=team)
