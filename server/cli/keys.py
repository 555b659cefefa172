"""`headway keys`: create, list, revoke."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncSession

from server.auth import service
from server.cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded, stop_with
from store.database import AsyncDatabase
from wire.errors import HeadwayError, Unauthenticated

app = typer.Typer(help="API keys: made once, shown once, kept as a hash.", no_args_is_help=True)
T = TypeVar("T")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for")],
    team: Annotated[str, typer.Option(help="Whose models it opens; made if it does not exist")] = "default",
    admin: Annotated[bool, typer.Option("--admin", help="An operator's key")] = False,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make a key and print it. It cannot be shown again."""
    url = database_url_or_embedded(database_url, data_dir)
    typer.echo(create_key(url, team=team, name=name, admin=admin))


@app.command("list")
def list_(database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show every key: its first characters, its team, and whether it was revoked."""
    table = Table("id", "key", "name", "team", "role", "created", "revoked")
    for key, team in _in_session(database_url_or_embedded(database_url, data_dir), service.list_keys):
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        table.add_row(
            str(key.id), f"{key.prefix}…", key.name, team, key.role, f"{key.created_at:%Y-%m-%d %H:%M}", revoked
        )
    Console().print(table)


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, or its first characters as `list` shows them")],
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Revoke a key. Requests with it are refused from now on."""
    url = database_url_or_embedded(database_url, data_dir)
    try:
        revoked = _in_session(url, lambda session: service.revoke_key(session, key.rstrip("…")))
    except HeadwayError as error:
        stop_with(error.message)
    typer.echo(f"revoked {revoked.prefix}… ({revoked.name})")


def create_key(database_url: str, *, team: str, name: str, admin: bool) -> str:
    """A new key for a team."""
    return _in_session(
        database_url, lambda session: service.create_key(session, team, name, role="admin" if admin else "member")
    )


def key_works(database_url: str, key: str) -> bool:
    """Whether a key is known and not revoked."""
    try:
        _in_session(database_url, lambda session: service.authenticate(session, key))
    except Unauthenticated:
        return False
    return True


def _in_session(database_url: str, act: Callable[[AsyncSession], Awaitable[T]]) -> T:
    async def run() -> T:
        database = AsyncDatabase(database_url, pool_size=1)
        try:
            async with database.session() as session:
                return await act(session)
        finally:
            await database.close()

    return asyncio.run(run())
