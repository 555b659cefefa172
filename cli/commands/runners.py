"""`headway runners`: what there is, and draining. (`headway runner` is one.)"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from cli.in_session import in_session_or_stop
from cli.references import find_id
from cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded
from cli.terminal.tables import Json, Listing, show_items
from cli.terminal.whole_help import WholeHelp
from server.admin import draining
from server.audit.recording import COMMAND_LINE
from server.runners import operating
from store.tables import RunnerRow

app = typer.Typer(cls=WholeHelp, help="List, drain and undrain runners.", no_args_is_help=True)

RunnerId = Annotated[str, typer.Argument(help="The runner's id or its first characters, or its host")]
_ALL = 10_000


@app.command("list")
def list_(
    as_json: Json = False, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Show runners, with what they take and how many slots are in use."""
    url = database_url_or_embedded(database_url, data_dir)
    found = in_session_or_stop(url, lambda session: operating.list_runners(session, None, _ALL))
    table = Listing("id", "host", "pid", "state", "slots", "takes", "labels", "team", "isolation", "trouble")
    for runner in found.items:
        slots = f"{runner.num_held} of {runner.slots}"
        takes, labels = ", ".join(runner.kinds), ", ".join(runner.labels)
        more = runner.team or "all", runner.isolation, runner.trouble or ""
        table.add_row(str(runner.id), runner.host, str(runner.pid), runner.state, slots, takes, labels, *more)
    show_items(table, found.items, as_json=as_json)


@app.command()
def drain(runner: RunnerId, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Give a runner nothing new; what it holds is ended."""

    async def act(session: AsyncSession) -> None:
        await draining.drain(session, RunnerRow, await _find(session, runner), COMMAND_LINE)

    in_session_or_stop(database_url_or_embedded(database_url, data_dir), act)
    typer.echo(f"drained {runner}")


@app.command()
def undrain(runner: RunnerId, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Have a drained runner take placements again."""

    async def act(session: AsyncSession) -> None:
        await draining.undrain(session, RunnerRow, await _find(session, runner), COMMAND_LINE)

    in_session_or_stop(database_url_or_embedded(database_url, data_dir), act)
    typer.echo(f"{runner} works again")


async def _find(session: AsyncSession, reference: str) -> UUID:
    host: Any = RunnerRow.host
    return await find_id(
        session,
        RunnerRow,
        reference,
        kind="runner",
        see="headway runners list",
        name=host,
        where=[RunnerRow.stopped_at.is_(None)],
    )
