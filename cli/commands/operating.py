"""`headway drain`, `undrain`, `pause`, `resume` and `audit`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cli.in_session import in_session_or_stop
from cli.matching import only_match
from cli.references import find_model, find_team
from cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded
from cli.terminal.tables import Json, Listing, show_items
from server.admin import draining, planes
from server.admin.types import Sampler, Trainer
from server.audit.listing import EventFilter, list_events
from server.audit.recording import COMMAND_LINE
from server.audit.types import Event
from server.catalog import pausing
from server.catalog.types import PauseRequest
from server.values.paging import Page
from store.tables import SamplerRow, TrainerRow

PlaneId = Annotated[
    str, typer.Argument(help="Id of a trainer or sampler, or its first characters; without one, they are listed")
]
ModelName = Annotated[
    str, typer.Argument(help="The model's name, its id or first characters; TEAM/MODEL where two teams have the name")
]
_ALL = 10_000


def drain(
    plane: PlaneId = "",
    as_json: Annotated[bool, typer.Option("--json", help="The list as one JSON object on stdout")] = False,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Give a trainer or sampler no new work. What it is doing is finished."""
    url = database_url_or_embedded(database_url, data_dir)
    if not plane:
        _list_planes(url, as_json=as_json)
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
    as_json: Json = False,
    cursor: Annotated[str | None, typer.Option(help="Continue where the previous list ended")] = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show who did what to which thing, newest first."""

    async def look(session: AsyncSession) -> Page[Event]:
        team_id = await find_team(session, team) if team else None
        return await list_events(session, team_id, EventFilter(action=action), cursor, limit)

    found = in_session_or_stop(database_url_or_embedded(database_url, data_dir), look)
    table = Listing("at", "who", "did", "to", "detail", prose=("detail",))
    for event in found.items:
        detail = ", ".join(f"{name}={value}" for name, value in event.detail.items())
        table.add_row(f"{event.at:%Y-%m-%d %H:%M:%S}", event.actor, event.action, str(event.subject_id or ""), detail)
    show_items(table, found.items, as_json=as_json, next_cursor=found.next_cursor)


def _list_planes(url: str, *, as_json: bool) -> None:
    async def look(session: AsyncSession) -> list[tuple[str, Trainer | Sampler]]:
        trainers = await planes.list_trainers(session, None, _ALL)
        samplers = await planes.list_samplers(session, None, _ALL)
        return [*(("trainer", trainer) for trainer in trainers.items), *(("sampler", each) for each in samplers.items)]

    table, found = Listing("id", "plane", "base", "host", "pid", "state", "drained"), in_session_or_stop(url, look)
    for kind, plane in found:
        drained = "drained" if plane.drained_at else ""
        table.add_row(str(plane.id), kind, plane.base, plane.host, str(plane.pid), plane.state, drained)
    show_items(table, [{"plane": kind, **plane.model_dump(mode="json")} for kind, plane in found], as_json=as_json)


async def _drain(session: AsyncSession, plane: str, *, drained: bool) -> None:
    known = {
        str(plane_id): kind for kind in (TrainerRow, SamplerRow) for plane_id in await session.scalars(select(kind.id))
    }
    things = ((plane_id, "trainer" if kind is TrainerRow else "sampler") for plane_id, kind in known.items())
    found = only_match(things, plane, kind="trainer or sampler", see="headway drain")
    await (draining.drain if drained else draining.undrain)(session, known[found], UUID(found), COMMAND_LINE)
