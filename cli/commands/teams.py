"""`headway team` and `headway quota`."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from cli.ending import or_stop
from cli.in_session import in_session_or_stop, with_database
from cli.references import find_team
from cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded, stop_with
from cli.terminal.tables import Json, Listing, print_json, show, show_items
from cli.terminal.whole_help import WholeHelp
from server.audit.recording import COMMAND_LINE
from server.team import service
from server.team.removal import remove_team
from server.team.removing import contents_of_team, in_words
from server.team.types import Quotas, TeamChange, TeamContents, TeamRequest, TeamWithUsage
from store.database import AsyncDatabase
from store.tables import TeamRow

teams = typer.Typer(cls=WholeHelp, help="Teams, which own models, keys, jobs and traces.", no_args_is_help=True)
quotas = typer.Typer(cls=WholeHelp, help="Quotas of teams.", no_args_is_help=True)

TeamName = Annotated[str, typer.Argument(help="The team's name, its id, or the first characters of that")]
_ALL = 10_000


@teams.command("list")
def list_(
    as_json: Json = False, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Show every team and what it uses of its quotas."""

    async def look(session: AsyncSession) -> list[TeamWithUsage]:
        found = await service.list_teams(session, None, _ALL)
        return [await service.describe_team(session, await service.get_team(session, str(t.id))) for t in found.items]

    table = Listing("id", "team", "models", "storage (bytes)", "rollouts at once", "training tokens today", "state")
    found = in_session_or_stop(database_url_or_embedded(database_url, data_dir), look)
    for team in found:
        table.add_row(*_row(team))
    show_items(table, found, as_json=as_json)


@teams.command("create")
def create(name: str, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Make a team. It has no key yet: `headway keys create NAME --team TEAM`."""

    async def act(session: AsyncSession) -> None:
        await service.create_team(session, TeamRequest(name=name).name, Quotas(), COMMAND_LINE)

    in_session_or_stop(database_url_or_embedded(database_url, data_dir), act)
    typer.echo(f"made the team {name}")


@teams.command("rename")
def rename(
    team: TeamName, name: str, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Give a team another name."""
    _change(database_url_or_embedded(database_url, data_dir), team, {"name": name})
    typer.echo(f"the team {team} is called {name} now")


@teams.command("disable")
def disable(team: TeamName, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Refuse all keys of a team. Operations that were accepted before are carried out."""
    _change(database_url_or_embedded(database_url, data_dir), team, {"disabled": True})
    typer.echo(f"disabled the team {team}")


@teams.command("enable")
def enable(team: TeamName, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Accept the keys of a team again."""
    _change(database_url_or_embedded(database_url, data_dir), team, {"disabled": False})
    typer.echo(f"enabled the team {team}")


@teams.command("delete")
def delete(
    team: TeamName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needs --models, and --runs where some live")] = False,
    models: Annotated[int | None, typer.Option(min=0, help="With --yes: how many models it has")] = None,
    runs: Annotated[int | None, typer.Option(min=0, help="With --yes: how many of its runs live")] = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Remove a team and all that it has, after that was shown and the team's name typed. Its runs are cancelled, its
    models deleted, its keys revoked."""
    where = database_url_or_embedded(database_url, data_dir)

    async def look(session: AsyncSession) -> tuple[str, TeamContents]:
        found = await _team(session, team)
        return str(found.id), await contents_of_team(session, found)

    team_id, found = in_session_or_stop(where, look)
    typer.echo(in_words(found), err=True)
    if not yes:
        models, runs = found.num_models, found.num_live_runs
        if typer.prompt(f"Type {found.team} to remove it", err=True) != found.team:
            stop_with("nothing was removed: that is not its name")

    async def act(database: AsyncDatabase) -> None:
        await remove_team(database, team_id, models, runs, COMMAND_LINE)

    or_stop(lambda: with_database(where, act))
    typer.echo(f"removed the team {found.team}")


@quotas.command("set")
def set_(
    team: TeamName,
    models: Annotated[str | None, typer.Option(help="How many models; none: any number")] = None,
    storage_bytes: Annotated[str | None, typer.Option(help="Bytes of checkpoints; none: any number")] = None,
    rollouts: Annotated[str | None, typer.Option(help="Rollouts at once; none: any number")] = None,
    tokens_per_day: Annotated[str | None, typer.Option(help="Training tokens a day; none: any number")] = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Set the quotas that are named; the others stay."""
    named = {
        "max_models": models,
        "max_storage_bytes": storage_bytes,
        "max_concurrent_rollouts": rollouts,
        "max_training_tokens_per_day": tokens_per_day,
    }
    wanted = {name: None if value == "none" else value for name, value in named.items() if value is not None}
    _change(database_url_or_embedded(database_url, data_dir), team, {"quotas": wanted})
    typer.echo(f"set {len(wanted)} quotas of the team {team}; see 'headway quota show {team}'")


@quotas.command("show")
def show_quotas(
    team: TeamName,
    as_json: Json = False,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show a team's quotas and what it uses of them."""

    async def look(session: AsyncSession) -> TeamWithUsage:
        return await service.describe_team(session, await _team(session, team))

    found = in_session_or_stop(database_url_or_embedded(database_url, data_dir), look)
    table = Listing("id", "team", "models", "storage (bytes)", "rollouts at once", "training tokens today", "state")
    table.add_row(*_row(found))
    if as_json:
        print_json(found)
    else:
        show(table)


async def _team(session: AsyncSession, reference: str) -> TeamRow:
    return await service.get_team(session, str(await find_team(session, reference)))


def _change(url: str, team: str, change: dict[str, object]) -> None:
    async def act(session: AsyncSession) -> None:
        wanted = TeamChange.model_validate(change)
        await service.change_team(session, await _team(session, team), wanted, COMMAND_LINE)

    in_session_or_stop(url, act)


def _row(team: TeamWithUsage) -> list[str]:
    used, may = team.usage, team.quotas
    return [
        str(team.id),
        team.name,
        _of(used.num_models, may.max_models),
        _of(used.storage_bytes, may.max_storage_bytes),
        "any number" if may.max_concurrent_rollouts is None else str(may.max_concurrent_rollouts),
        _of(used.training_tokens_today, may.max_training_tokens_per_day),
        "disabled" if team.disabled_at else "",
    ]


def _of(used: int, quota: int | None) -> str:
    return str(used) if quota is None else f"{used} of {quota}"
