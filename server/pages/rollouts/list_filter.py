"""The filter of a list of rollouts as a query: models and checkpoints may be named as people know them."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog import repository
from server.http.context import Context
from server.pages.shared.filters import Filter, wanted_traces
from server.principals.callers import Caller
from server.rollouts.visibility import models_of
from store.rollouts import TraceFilter
from store.tables import CheckpointRow, ModelRow
from wire.errors import InvalidRequest

_MOST_OF_A_NAME = 100


async def asked_traces(context: Context, caller: Caller, said: Filter, job_id: UUID | None = None) -> TraceFilter:
    """Of what the key sees. Raises InvalidRequest for what the filter cannot mean."""
    wanted = replace(wanted_traces(said, job_id), model_ids=models_of(caller))
    if not said["model"] and not said["checkpoint"]:
        return wanted
    async with context.database.session() as session:
        model_id = await _model_id(session, caller.team_id, said)
        checkpoints = await _checkpoint_ids(session, caller.team_id, said, model_id)
    return replace(wanted, model_id=model_id, checkpoint_ids=checkpoints)


async def _model_id(session: AsyncSession, team_id: UUID, said: Filter) -> UUID | None:
    name = said.text("model")
    if name is None:
        return None
    if (known := repository.as_uuid(name)) is not None:
        return known
    found = await repository.find_model(session, team_id, name)
    if found is None:
        raise InvalidRequest(f"there is no model {name!r}; give an id or a name from the list of models")
    return found[0].id


async def _checkpoint_ids(
    session: AsyncSession, team_id: UUID, said: Filter, model_id: UUID | None
) -> list[UUID] | None:
    name = said.text("checkpoint")
    if name is None:
        return None
    if (known := repository.as_uuid(name)) is not None:
        return [known]
    query = select(CheckpointRow.id).join(ModelRow, ModelRow.id == CheckpointRow.model_id)
    query = query.where(ModelRow.team_id == team_id, CheckpointRow.name == name.rpartition("/")[2])
    if model_id is not None:
        query = query.where(CheckpointRow.model_id == model_id)
    found = list(await session.scalars(query.limit(_MOST_OF_A_NAME)))
    if not found:
        raise InvalidRequest(f"there is no checkpoint {name!r}; give an id or a name from a model's tree")
    return found
