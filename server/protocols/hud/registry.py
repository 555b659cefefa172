"""`/v2/registry`: environments that were deployed, and the same as HUD's client of 0.5.41 asks for them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel

from server.audit.recording import actor_of
from server.environments.finding import environment_of_id
from server.environments.registry import (
    SortBy,
    get_environment,
    list_environments,
    remove_environment,
)
from server.environments.types import Environment, EnvironmentPage
from server.http.authentication import DeployerDep, EnvironmentReaderDep
from server.http.context import ContextDep
from server.protocols.hud.shared.routing import HudRouter
from wire.errors import Forbidden

router = HudRouter(tags=["environments"])
legacy = HudRouter(include_in_schema=False)

SearchParam = Annotated[str, Query(max_length=500)]
OffsetParam = Annotated[int, Query(ge=0, le=2**31)]
LimitParam = Annotated[int, Query(ge=1, le=1000)]


class Removed(BaseModel):
    """What was removed."""

    name: str


@router.get("/v2/registry")
async def environments(
    context: ContextDep,
    caller: EnvironmentReaderDep,
    search: SearchParam = "",
    limit: LimitParam = 100,
    offset: OffsetParam = 0,
    sort_by: SortBy = "name",
) -> EnvironmentPage:
    """Environments that the team may run: its own, and those of everybody."""
    async with context.database.session() as session:
        return await list_environments(session, caller, search, limit, offset, sort_by)


@router.get("/v2/registry/{environment_id}")
@legacy.get("/registry/envs/{environment_id}")
async def environment(context: ContextDep, caller: EnvironmentReaderDep, environment_id: UUID) -> Environment:
    """One of them."""
    async with context.database.session() as session:
        return await get_environment(session, caller, environment_id)


@router.delete("/v2/registry/{environment_id}")
async def remove(context: ContextDep, caller: DeployerDep, environment_id: UUID) -> Removed:
    """Nothing new runs on it from now on. A deployment of the same name brings it back."""
    async with context.database.session() as session:
        row = await environment_of_id(session, caller, environment_id, lock=True)
        if row.team_id is None and not caller.is_admin:
            raise Forbidden(f"the environment {row.name!r} is everybody's: an operator can remove it")
        await remove_environment(session, actor_of(caller), row)
        return Removed(name=row.name)


@legacy.get("/registry/envs")
async def environments_for_old_client(
    context: ContextDep,
    caller: EnvironmentReaderDep,
    search: SearchParam = "",
    limit: LimitParam = 20,
    sort_by: SortBy = "name",
) -> list[Environment]:
    """As a plain list."""
    async with context.database.session() as session:
        return (await list_environments(session, caller, search, limit, 0, sort_by)).items
