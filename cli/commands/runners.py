"""`headway runners`: what there is, and draining. (`headway runner` is one.)"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from cli.in_session import in_session_or_stop
from cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded
from cli.terminal.tables import Listing, show
from cli.terminal.whole_help import WholeHelp
from server.admin import draining
from server.audit.recording import COMMAND_LINE
from server.catalog.repository import as_uuid
from server.runners import operating
from store.tables import RunnerRow
from wire.errors import NotFound

app = typer.Typer(cls=WholeHelp, help="List, drain and undrain runners.", no_args_is_help=True)

RunnerId = Annotated[str, typer.Argument(help="The runner's id; see 'headway runners list'")]


@app.command("list")
def list_(database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show runners, with what they take and how many slots are in use."""
    url = database_url_or_embedded(database_url, data_dir)
    found = in_session_or_stop(url, lambda session: operating.list_runners(session, None, 500))
    table = Listing("id", "host", "pid", "state", "slots", "takes", "labels", "team", "isolation", "trouble")
    for runner in found.items:
        slots = f"{runner.num_held} of {runner.slots}"
        takes, labels = ", ".join(runner.kinds), ", ".join(runner.labels)
        more = runner.team or "all", runner.isolation, runner.trouble or ""
        table.add_row(str(runner.id), runner.host, str(runner.pid), runner.state, slots, takes, labels, *more)
    show(table)


@app.command()
def drain(runner: RunnerId, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Give a runner nothing new; what it holds is ended."""

    async def act(session: AsyncSession) -> None:
        await draining.drain(session, RunnerRow, _id(runner), COMMAND_LINE)

    in_session_or_stop(database_url_or_embedded(database_url, data_dir), act)
    typer.echo(f"drained {runner}")


@app.command()
def undrain(runner: RunnerId, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Have a drained runner take placements again."""

    async def act(session: AsyncSession) -> None:
        await draining.undrain(session, RunnerRow, _id(runner), COMMAND_LINE)

    in_session_or_stop(database_url_or_embedded(database_url, data_dir), act)
    typer.echo(f"{runner} works again")


def _id(text: str) -> UUID:
    found = as_uuid(text)
    if found is None:
        raise NotFound(f"there is no runner {text!r}; 'headway runners list' shows them with their ids")
    return found
