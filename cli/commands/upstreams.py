"""`headway upstreams`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from cli.ending import stop_with
from cli.in_session import in_session_or_stop
from cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded
from cli.terminal.tables import Json, Listing, show_items
from cli.terminal.whole_help import WholeHelp
from server.audit.recording import COMMAND_LINE
from server.upstreams import catalog
from server.upstreams.types import APIS, Upstream, UpstreamEntry

app = typer.Typer(cls=WholeHelp, help="Other vendors' models in the catalog.", no_args_is_help=True)

UpstreamName = Annotated[str, typer.Argument(help="The model's name in the catalog")]


@app.command("add")
def add(
    name: UpstreamName,
    api: Annotated[str, typer.Option(help=f"The vendor's API: {', '.join(APIS)}")],
    base_url: Annotated[str, typer.Option(help="As the vendor's own client takes it: https://api.openai.com/v1, say")],
    model: Annotated[str, typer.Option(help="What the vendor calls the model")],
    key_file: Annotated[Path, typer.Option(help="File with the vendor's key, which servers read when they use it")],
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Put a vendor's model into the catalog of all teams, or change where the one of this name is reached."""
    try:
        upstream = Upstream.model_validate(
            {"api": api, "base_url": base_url, "model": model, "key_file": str(key_file.expanduser().absolute())}
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        option = "--" + ".".join(map(str, problem["loc"])).replace("_", "-")
        stop_with(f"{option}: {problem['msg'].removeprefix('Value error, ')}")
    if not key_file.expanduser().is_file():
        missing = f"there is no file {upstream.key_file} on this machine"
        if database_url is None:
            stop_with(f"{missing}, on which the server of {data_dir} reads it: write the vendor's key to it first")
        typer.echo(f"headway: {missing}; servers read it on theirs", err=True)

    async def act(session: AsyncSession) -> UpstreamEntry:
        return await catalog.add_upstream(session, name, upstream, COMMAND_LINE)

    added = in_session_or_stop(database_url_or_embedded(database_url, data_dir), act)
    typer.echo(f"{added.name} is asked as {upstream.model!r} at {upstream.base_url} ({upstream.api})")


@app.command("list")
def list_(
    as_json: Json = False, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Show every upstream."""
    table = Listing("name", "api", "vendor's name", "base URL", "key file")
    found = in_session_or_stop(database_url_or_embedded(database_url, data_dir), catalog.list_upstreams)
    for entry in found:
        upstream = entry.upstream
        table.add_row(entry.name, upstream.api, upstream.model, upstream.base_url, upstream.key_file)
    show_items(table, found, as_json=as_json)


@app.command("show")
def show_(name: UpstreamName, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show one upstream, as JSON. The key stays in its file."""

    async def look(session: AsyncSession) -> UpstreamEntry:
        return await catalog.get_upstream(session, name)

    entry = in_session_or_stop(database_url_or_embedded(database_url, data_dir), look)
    typer.echo(entry.model_dump_json(indent=2))


@app.command("remove")
def remove(name: UpstreamName, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Take an upstream out of the catalog, with its held-out scores. Rollouts that it sampled stay."""

    async def act(session: AsyncSession) -> None:
        await catalog.remove_upstream(session, name, COMMAND_LINE)

    in_session_or_stop(database_url_or_embedded(database_url, data_dir), act)
    typer.echo(f"removed {name} from the catalog")
