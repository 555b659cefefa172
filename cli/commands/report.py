"""`headway report`: what a model's rollouts say about its tasks."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from cli.commands.operating import ModelName
from cli.in_session import in_session_or_stop
from cli.references import find_model
from cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded
from cli.terminal.tables import Listing, show_items
from cli.terminal.whole_help import WholeHelp
from server.guard.types import TrainabilityReport
from server.trainability.report import trainability
from store.tables import ModelRow

app = typer.Typer(cls=WholeHelp, help="Reports on training.", no_args_is_help=True)


@app.callback()
def report() -> None:
    """Reports on models."""


@app.command("trainability")
def show_trainability(
    model: ModelName,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every task's figures over time")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Continue where the previous list ended")] = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Which tasks teach: reward, spread, share of groups with a signal, and what to do about each."""

    async def look(session: AsyncSession) -> TrainabilityReport:
        row = await session.get_one(ModelRow, await find_model(session, model))
        return await trainability(session, row, cursor=cursor, limit=limit)

    found = in_session_or_stop(database_url_or_embedded(database_url, data_dir), look)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    show_items(_table(found), found.items, as_json=False, next_cursor=found.next_cursor)


def _table(found: TrainabilityReport) -> Listing:
    headings = ("task", "rollouts", "reward", "over time", "spread", "signal", "advice", "why")
    table = Listing(*headings, prose=("over time", "why"))
    for task in found.items:
        spread = "-" if task.reward_spread is None else f"{task.reward_spread:.3f}"
        signal = "-" if task.signal is None else f"{task.signal:.0%}"
        means = " ".join(f"{period.reward_mean:.2f}" for period in task.over_time)
        figures = (str(task.num_rollouts), f"{task.reward_mean:.3f}", means, spread, signal)
        table.add_row(task.task, *figures, task.advice.replace("_", " "), task.reason)
    return table
