"""`headway envs`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from cli.environment_archive import pack_folder
from cli.in_session import in_session_or_stop
from cli.references import find_id, find_team
from cli.settings import (
    DEFAULT_DATA_DIR,
    BlobStoreUrl,
    DataDir,
    OptionalDatabaseUrl,
    database_url_or_embedded,
    open_blobs,
    stop_with,
)
from cli.terminal.tables import Json, Listing, show_items
from cli.terminal.whole_help import WholeHelp
from server.audit.recording import COMMAND_LINE
from server.environments.builds import ENDED
from server.environments.operating import Listed, Source, add_version, build_of_version, find_one, list_all
from server.environments.registry import BEGINNING, LogLine, builds_of, log_lines, remove_environment
from store.blob_stores import BlobStore
from store.tables import EnvironmentBuildRow, EnvironmentRow
from wire.errors import NotFound

app = typer.Typer(cls=WholeHelp, help="Environments, which runners play.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The environment's name, its id or first characters")]
Team = Annotated[str | None, typer.Option("--team", help="Of this team, by name or id")]
Everybody = Annotated[bool, typer.Option("--everybody", help="Of everybody: every team may run it")]
_POLL_S = 0.5
_LINES = 1000
_VERSIONS = 20


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help='As its code declares it: Environment("NAME")')],
    path: Annotated[Path | None, typer.Argument(help="Its folder", exists=True, file_okay=False)] = None,
    team: Team = None,
    everybody: Everybody = False,
    image: Annotated[str | None, typer.Option(help="A container image instead of a folder")] = None,
    variables: Annotated[
        list[str] | None, typer.Option("-e", "--env", help="NAME=VALUE, a secret of its processes; others are kept")
    ] = None,
    runtime_config: Annotated[
        Path | None, typer.Option(help="JSON file: caps and timeouts, as hud deploy takes it", dir_okay=False)
    ] = None,
    wait: Annotated[bool, typer.Option(help="Show its log until it is built")] = True,
    database_url: OptionalDatabaseUrl = None,
    blob_store: BlobStoreUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Have a folder built as the next version of an environment, as `hud deploy` does with a team's key."""
    if (team is None) == (not everybody):
        stop_with("whose shall it be? Give --team TEAM or --everybody")
    if (path is None) == (image is None):
        stop_with("give the environment's folder, or --image")
    config = _json_file(runtime_config)
    url = database_url_or_embedded(database_url, data_dir)
    archive = None if path is None else _stored(path, open_blobs(blob_store, data_dir))
    source = Source(team, name, archive, image, dict(_variable(each) for each in variables or []), config)

    async def act(session: AsyncSession) -> tuple[UUID, int]:
        build_id = await add_version(session, source)
        return build_id, (await session.get_one(EnvironmentBuildRow, build_id)).version or 0

    build_id, version = in_session_or_stop(url, act)
    typer.echo(f"version {version} of {name} is to be built", err=True)
    if wait:
        _follow(url, build_id)


@app.command("list")
def list_(
    as_json: Json = False, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Show every environment: whose it is, which version serves, and how the newest stands."""
    table = Listing("name", "team", "serving", "newest", "state", "id")
    found = in_session_or_stop(database_url_or_embedded(database_url, data_dir), list_all)
    for one in found:
        newest = one.newest
        table.add_row(
            one.row.name,
            one.team or "(everybody)",
            _version(one.serving),
            _version(newest),
            newest.state if newest else "-",
            str(one.row.id),
        )
    show_items(table, [_in_list(one) for one in found], as_json=as_json)


@app.command("show")
def show_(
    name: Name,
    team: Team = None,
    everybody: Everybody = False,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show one environment as JSON: its newest versions, and what the serving one offers. Secrets by name alone."""

    async def look(session: AsyncSession) -> dict[str, Any]:
        found = await _find(session, name, team, everybody)
        return _described(found, list(await builds_of(session, found.row.id, _VERSIONS)))

    described = in_session_or_stop(database_url_or_embedded(database_url, data_dir), look)
    typer.echo(json.dumps(described, indent=2, ensure_ascii=False))


@app.command("logs")
def logs(
    name: Name,
    version: Annotated[int | None, typer.Option(help="Which version; default: the newest")] = None,
    team: Team = None,
    everybody: Everybody = False,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show what building a version wrote; of one that is being built until it ends."""

    async def look(session: AsyncSession) -> UUID:
        found = await _find(session, name, team, everybody)
        return (await build_of_version(session, found.row, version)).id

    url = database_url_or_embedded(database_url, data_dir)
    _follow(url, in_session_or_stop(url, look))


@app.command("remove")
def remove(
    name: Name,
    team: Team = None,
    everybody: Everybody = False,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Have nothing new run on an environment. Deploying or adding it again brings it back."""

    async def act(session: AsyncSession) -> str:
        found = await _find(session, name, team, everybody)
        await remove_environment(session, COMMAND_LINE, found.row)
        return found.row.name

    removed = in_session_or_stop(database_url_or_embedded(database_url, data_dir), act)
    typer.echo(f"removed {removed}")


async def _find(session: AsyncSession, name: str, team: str | None, everybody: bool) -> Listed:
    """By name, or by its id or the beginning of that."""
    whose = str(await find_team(session, team)) if team is not None else None
    try:
        return await find_one(session, name, whose, everybody=everybody)
    except NotFound:
        called: Any = EnvironmentRow.name
        there_still = [EnvironmentRow.removed_at.is_(None)]
        see = "headway envs list"
        found = await find_id(
            session, EnvironmentRow, name, kind="environment", see=see, name=called, where=there_still
        )
        row = await session.get_one(EnvironmentRow, found)
        return await find_one(session, row.name, str(row.team_id) if row.team_id else None, everybody=not row.team_id)


def _follow(url: str, build_id: UUID) -> None:
    """Print the log until the build has ended; status 1 unless it succeeded."""
    place = BEGINNING

    async def look(session: AsyncSession) -> tuple[EnvironmentBuildRow, list[LogLine]]:
        build = await session.get_one(EnvironmentBuildRow, build_id)
        return build, list(await log_lines(session, build_id, place, _LINES))

    while True:
        build, lines = in_session_or_stop(url, look)
        for line in lines:
            typer.echo(line.message)
            place = line.place
        if build.state in ENDED and len(lines) < _LINES:
            break
        if len(lines) < _LINES:
            time.sleep(_POLL_S)
    if build.state != "succeeded":
        stop_with(f"version {build.version}: {build.error_message or build.state}")
    typer.echo(f"version {build.version} is built", err=True)


def _stored(folder: Path, blobs: BlobStore) -> tuple[str, int]:
    draft = blobs.draft()
    try:
        pack_folder(folder.resolve(), draft.write)
        return draft.keep(), draft.num_bytes
    except (OSError, ValueError) as error:
        stop_with(str(error))
    finally:
        draft.drop()


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        stop_with(f"--env takes NAME=VALUE, not {name!r}")
    return name, value


def _json_file(path: Path | None) -> dict[str, Any] | None:
    try:
        return None if path is None else json.loads(path.read_text())
    except (OSError, ValueError) as error:
        stop_with(f"--runtime-config: {error}")


def _version(build: EnvironmentBuildRow | None) -> str:
    return "-" if build is None else str(build.version)


def _in_list(found: Listed) -> dict[str, Any]:
    serving, newest = found.serving, found.newest
    return {
        "id": found.row.id,
        "name": found.row.name,
        "team": found.team,
        "serving": None if serving is None else serving.version,
        "newest": None if newest is None else {"version": newest.version, "state": newest.state},
    }


def _described(found: Listed, builds: list[EnvironmentBuildRow]) -> dict[str, Any]:
    serving = found.serving
    return {
        "id": str(found.row.id),
        "name": found.row.name,
        "declared_name": found.row.declared_name,
        "team": found.team,
        "serving": None if serving is None else serving.version,
        "variables": sorted(found.row.variables),
        "runtime_config": found.row.runtime_config,
        "manifest": None if serving is None else serving.manifest,
        "versions": [
            {
                "version": build.version,
                "state": build.state,
                "source": build.source,
                "image": build.image,
                "created_at": build.created_at.isoformat(),
                "ended_at": build.ended_at.isoformat() if build.ended_at else None,
                "error": build.error_message,
                "archive": build.archive_blob,
            }
            for build in builds
        ],
    }
