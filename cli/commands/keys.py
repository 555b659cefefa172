"""`headway keys`: create, list, revoke."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cli.in_session import in_session, in_session_or_stop
from cli.references import find_id
from cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded
from cli.terminal.tables import Json, Listing, show_items
from cli.terminal.whole_help import WholeHelp
from server.audit.recording import COMMAND_LINE
from server.auth import issuing, service
from server.auth.spelling import tinker_spelling
from server.auth.types import KeyRequest
from server.principals.roles import ROLES, SCOPES, Role
from server.team import keys as team_keys
from server.team.types import TeamRequest
from store.tables import ApiKeyRow
from wire.errors import Forbidden, Unauthenticated
from wire.ids import as_uuid

app = typer.Typer(cls=WholeHelp, help="API keys. A key is shown once and stored as a hash.", no_args_is_help=True)


KeyReference = Annotated[
    str, typer.Argument(help="The key's id or its first characters, its name, or what `list` shows of the key")
]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for")],
    team: Annotated[str, typer.Option(help="The team whose models it opens; created if it does not exist")] = "default",
    admin: Annotated[bool, typer.Option("--admin", help="An operator's key: --role admin")] = False,
    role: Annotated[str, typer.Option(help=f"What it may do: {', '.join(ROLES)}")] = "member",
    scopes: Annotated[list[str] | None, typer.Option("--scope", help=f"Less than that: {', '.join(SCOPES)}")] = None,
    models: Annotated[list[str] | None, typer.Option("--model", help="These models alone")] = None,
    days: Annotated[float | None, typer.Option(min=0, max=36_500, help="It expires after so many days")] = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make a key and print it. It cannot be shown again."""
    url = database_url_or_embedded(database_url, data_dir)
    wanted = {"name": name, "role": "admin" if admin else role, "scopes": scopes, "models": models}

    async def act(session: AsyncSession) -> str:
        expires_at = None
        if days is not None:
            expires_at = (await session.scalars(select(func.clock_timestamp()))).one() + timedelta(days=days)
        request = KeyRequest.model_validate({**wanted, "expires_at": expires_at})
        team_id = await service.ensure_team(session, TeamRequest(name=team).name)
        grant = await team_keys.grant_of(session, team_id, request)
        key, _ = await issuing.issue(session, team_id, grant, COMMAND_LINE)
        return key

    _print(in_session_or_stop(url, act))


@app.command("list")
def list_(
    as_json: Json = False, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Show every key: its first characters, its team, what it may do, and whether it still works."""
    table = Listing("id", "key", "name", "team", "role", "scopes", "created", "expires", "last used", "revoked")
    found = in_session_or_stop(database_url_or_embedded(database_url, data_dir), service.list_keys)
    for key, team in found:
        times = (key.created_at, key.expires_at, key.last_used_at, key.revoked_at)
        shown = (f"{time:%Y-%m-%d %H:%M}" if time else "" for time in times)
        scopes = ", ".join(key.scopes) + (f" on {len(key.model_ids)} models" if key.model_ids is not None else "")
        table.add_row(str(key.id), key.prefix, key.name, team, key.role, scopes, *shown)
    show_items(table, [_facts(key, team) for key, team in found], as_json=as_json)


@app.command("rotate")
def rotate(
    key: KeyReference,
    grace_hours: Annotated[float, typer.Option(min=0, max=720, help="The old key works for so long")] = 24.0,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make another key with the same rights, and print it. The old one expires after --grace-hours."""

    async def act(session: AsyncSession) -> str:
        row = await _find_live(session, key)
        new, _ = await issuing.rotate(session, row, COMMAND_LINE, grace_hours * 3600)
        return new

    _print(in_session_or_stop(database_url_or_embedded(database_url, data_dir), act))


@app.command("revoke")
def revoke(
    key: KeyReference,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Revoke a key. Requests with it are refused from now on."""
    url = database_url_or_embedded(database_url, data_dir)

    async def act(session: AsyncSession) -> ApiKeyRow:
        return await service.revoke_key(session, str((await _find_live(session, key)).id))

    revoked = in_session_or_stop(url, act)
    typer.echo(f"revoked {revoked.prefix} ({revoked.name})")


def _facts(key: ApiKeyRow, team: str) -> dict[str, Any]:
    names = ("id", "prefix", "name", "role", "scopes", "model_ids")
    times = ("created_at", "expires_at", "last_used_at", "revoked_at")
    return {"team": team, **{name: getattr(key, name) for name in (*names, *times)}}


async def _find_live(session: AsyncSession, reference: str) -> ApiKeyRow:
    """By what `list` shows of it, its name, its id, or the beginning of that."""
    shown = reference.rstrip("…")
    if shown.startswith(("hw_", "tml-")) or as_uuid(shown) is not None:
        return await service.find_live_key(session, shown)
    live = [ApiKeyRow.revoked_at.is_(None), ApiKeyRow.runner_id.is_(None)]
    name: Any = ApiKeyRow.name
    found = await find_id(
        session, ApiKeyRow, reference, kind="live key", see="headway keys list", name=name, where=live
    )
    return await service.find_live_key(session, str(found))


def _print(key: str) -> None:
    """The key on stdout, for `$(…)`; its other spelling beside it, on stderr."""
    typer.echo(key)
    typer.echo(f"the same key for the Tinker SDK: {tinker_spelling(key)}", err=True)


def create_key(database_url: str, *, team: str, name: str, role: Role) -> str:
    """A new key for a team."""
    return in_session(database_url, lambda session: service.create_key(session, team, name, role=role))


def role_of(database_url: str, key: str) -> str | None:
    """What a key may do; None for one that is unknown, revoked or expired, or has less than its role's scopes."""
    try:
        caller = in_session(database_url, lambda session: service.authenticate(session, key))
    except (Unauthenticated, Forbidden):
        return None
    return next((role for role, scopes in ROLES.items() if role == caller.role and scopes == caller.scopes), None)
