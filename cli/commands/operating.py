"""`headway drain`, `undrain`, `pause`, `resume` and `audit`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cli.in_session import in_session_or_stop
from cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded
from cli.terminal.tables import Listing, show
from server.admin import draining, planes
from server.audit.listing import EventFilter, list_events
from server.audit.recording import COMMAND_LINE
from server.audit.types import Event
from server.catalog import pausing
from server.catalog.repository import as_uuid
from server.catalog.types import PauseRequest
from server.team.service import get_team
from server.values.paging import Page
from store.tables import ModelRow, SamplerRow, TeamRow, TrainerRow
from wire.errors import Conflict, NotFound

PlaneId = Annotated[str, typer.Argument(help="Id of a trainer or sampler; without one, they are listed")]
ModelName = Annotated[str, typer.Argument(help="The model's id or name; TEAM/MODEL where two teams have the name")]


def drain(plane: PlaneId = "", database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Give a trainer or sampler no new work. What it is doing is finished."""
    url = database_url_or_embedded(database_url, data_dir)
    if not plane:
        _list_planes(url)
        return
    in_session_or_stop(url, lambda session: _drain(session, plane, drained=True))
    typer.echo(f"drained {plane}")


def undrain(plane: PlaneId, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Give a drained trainer or sampler work again."""
    url = database_url_or_embedded(database_url, data_dir)
    in_session_or_stop(url, lambda session: _drain(session, plane, drained=False))
    typer.echo(f"{plane} works again")


def pause(
    model: ModelName,
    reason: Annotated[str, typer.Option(help="Returned to callers in the error")],
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Refuse training calls of a model until it is resumed. Sampling goes on."""

    async def act(session: AsyncSession) -> None:
        found = await find_model(session, model)
        await pausing.pause(session, found, PauseRequest(reason=reason).reason, COMMAND_LINE, "admin")

    in_session_or_stop(database_url_or_embedded(database_url, data_dir), act)
    typer.echo(f"training of {model} is paused")


def resume(model: ModelName, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Accept training calls of a model again, whoever paused it."""

    async def act(session: AsyncSession) -> None:
        await pausing.resume(session, await find_model(session, model), COMMAND_LINE, "admin")

    in_session_or_stop(database_url_or_embedded(database_url, data_dir), act)
    typer.echo(f"{model} is trained again")


def audit(
    team: Annotated[str | None, typer.Option(help="Only events of this team")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, such as set_head")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Continue where the previous list ended")] = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show who did what to which thing, newest first."""

    async def look(session: AsyncSession) -> Page[Event]:
        team_id = (await get_team(session, team)).id if team else None
        return await list_events(session, team_id, EventFilter(action=action), cursor, limit)

    found = in_session_or_stop(database_url_or_embedded(database_url, data_dir), look)
    table = Listing("at", "who", "did", "to", "detail", prose=("detail",))
    for event in found.items:
        detail = ", ".join(f"{name}={value}" for name, value in event.detail.items())
        table.add_row(f"{event.at:%Y-%m-%d %H:%M:%S}", event.actor, event.action, str(event.subject_id or ""), detail)
    show(table)
    if found.next_cursor:
        typer.echo(f"more: --cursor {found.next_cursor}")


def _list_planes(url: str) -> None:
    table = Listing("id", "plane", "base", "host", "pid", "state", "drained")
    for plane in in_session_or_stop(url, lambda session: planes.list_trainers(session, None, 500)).items:
        table.add_row(str(plane.id), "trainer", plane.base, plane.host, str(plane.pid), plane.state, _drained(plane))
    for plane in in_session_or_stop(url, lambda session: planes.list_samplers(session, None, 500)).items:
        table.add_row(str(plane.id), "sampler", plane.base, plane.host, str(plane.pid), plane.state, _drained(plane))
    show(table)


def _drained(plane: object) -> str:
    return "drained" if getattr(plane, "drained_at", None) else ""


async def _drain(session: AsyncSession, plane: str, *, drained: bool) -> None:
    plane_id = as_uuid(plane)
    if plane_id is None:
        raise NotFound(f"there is no trainer or sampler {plane!r}; 'headway drain' lists them with their ids")
    is_trainer = await session.get(TrainerRow, plane_id) is not None
    kind = TrainerRow if is_trainer else SamplerRow
    await (draining.drain if drained else draining.undrain)(session, kind, plane_id, COMMAND_LINE)


async def find_model(session: AsyncSession, reference: str) -> UUID:
    """The model that an id, a name or TEAM/MODEL means. Raises NotFound, Conflict where several teams have it."""
    team, _, slug = reference.rpartition("/")
    query = select(ModelRow.id).outerjoin(TeamRow, TeamRow.id == ModelRow.team_id)
    query = query.where(ModelRow.slug == (slug if team else reference))
    if team:
        query = query.where(TeamRow.name == team)
    if (model_id := as_uuid(reference)) is not None:
        query = select(ModelRow.id).where(ModelRow.id == model_id)
    found = list(await session.scalars(query))
    if not found:
        raise NotFound(f"there is no model {reference!r}; see 'headway status'")
    if len(found) > 1:
        raise Conflict(f"{len(found)} teams have a model {reference!r}; write TEAM/MODEL")
    return found[0]
