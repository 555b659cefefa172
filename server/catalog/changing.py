"""What a team changes about its models: how they are called, and what is written about them."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.catalog import repository
from server.catalog.bases import untrained
from server.catalog.forks import check_name, name_taken
from server.catalog.model_claims import live_run_of, run_in_the_way
from server.catalog.service import get_callers_model, lock_model
from server.catalog.types import ModelChange
from server.principals.callers import Caller
from store.tables import ModelRow
from wire.errors import Forbidden, InvalidRequest


async def change_model(session: AsyncSession, caller: Caller, reference: str, change: ModelChange) -> ModelRow:
    """Change what is named. Raises NotFound, Forbidden for a model that is not the team's, InvalidRequest or Conflict
    for the name, ModelInRun where a run that samples by the old name would lose it."""
    model = await own_model(session, caller, reference)
    named = change.model_fields_set
    if "name" in named:
        if change.name is None:
            raise InvalidRequest("a model has a name; leave the field out to keep it", param="name")
        await _rename(session, caller, model, change.name)
    written: dict[str, Any] = {}
    if "description" in named and change.description != model.description:
        written["description"] = model.description = change.description
    if "tags" in named:
        tags = list(dict.fromkeys(change.tags or []))
        if tags != model.tags:
            written["tags"] = model.tags = tags
    if written:
        record(session, actor_of(caller), "describe_model", team_id=model.team_id, subject_id=model.id, **written)
    await session.flush()
    return model


async def own_model(session: AsyncSession, caller: Caller, reference: str, *, lock: bool = True) -> ModelRow:
    """A model of the team that the caller's key opens. Raises NotFound, Forbidden for a base."""
    found = await get_callers_model(session, caller, reference)
    if found.base_id is None:
        raise Forbidden(f"{found.slug!r} is {untrained(found)}, which is no team's; operators change those")
    return await lock_model(session, found.id, reference) if lock else found


async def _rename(session: AsyncSession, caller: Caller, model: ModelRow, name: str) -> None:
    if name == model.slug:
        return
    check_name(name)
    if (run := await live_run_of(session, model.id)) is not None:
        raise run_in_the_way(model.slug, run)
    other = await repository.find_model(session, caller.team_id, name)
    if other is not None and other[0].id != model.id:
        raise name_taken(name)
    record(
        session, actor_of(caller), "rename_model", team_id=model.team_id, subject_id=model.id, was=model.slug, name=name
    )
    model.slug = model.name = name
    try:
        await session.flush()
    except IntegrityError:  # another took it at this moment
        raise name_taken(name) from None
