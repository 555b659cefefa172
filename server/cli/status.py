"""`headway status`: what is alive, what waits, where each model stands."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from server.cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded, stop_with
from store.database import Database


def status(database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show trainers, samplers, models and the queue."""
    from sqlalchemy.exc import OperationalError

    database = Database(database_url_or_embedded(database_url, data_dir))
    console = Console()
    try:
        console.print(_planes(database), _bases(database), _models(database))
        missing = missing_table(database)
        if missing.row_count:
            console.print(missing)
    except OperationalError as error:
        stop_with(f"the database does not answer: {str(error.orig).splitlines()[0]}")
    finally:
        database.close()


def _planes(database: Database) -> Table:
    from sqlalchemy import select

    from store.planes import is_live
    from store.tables import ModelRow, SamplerRow, TrainerRow

    table = Table("plane", "base", "host", "pid", "state", "last heard of", title="Trainers and samplers")
    now = datetime.now(UTC)
    with database.session() as session:
        for kind, row_class in (("trainer", TrainerRow), ("sampler", SamplerRow)):
            query = (
                select(row_class, ModelRow.slug, is_live(row_class))
                .join(ModelRow, ModelRow.id == row_class.base_id)
                .where(row_class.stopped_at.is_(None))
                .order_by(row_class.started_at)
            )
            for row, slug, live in session.execute(query):
                age_s = (now - row.heartbeat_at).total_seconds()
                loading = live and isinstance(row, TrainerRow) and row.is_loading
                state = "starting" if loading else "live" if live else "silent"
                table.add_row(kind, slug, row.host, str(row.pid), state, f"{age_s:.0f} s ago")
    return table


def missing_table(database: Database) -> Table:
    """What live samplers should serve and do not: for that, the gateway sends nobody to them."""
    from store.promotion import missing_adapters

    table = Table("sampler", "base", "model", "checkpoint", "state", "why", title="Not served")
    with database.connection() as connection:
        for entry in missing_adapters(connection):
            state = "out of rotation" if entry.is_out_of_rotation else "loading"
            why = entry.error or f"missing for {entry.late_s:.0f} s"
            table.add_row(entry.url, entry.base, entry.model, entry.checkpoint or "base weights", state, why)
    return table


def _bases(database: Database) -> Table:
    from store.supply import supplies

    table = Table("base", "trainers", "queued operations", "", title="Bases")
    with database.session() as session:
        for supply in supplies(session):
            table.add_row(supply.base, str(supply.num_ready), str(supply.num_open), supply.shortage or "")
    return table


def _models(database: Database) -> Table:
    from sqlalchemy import func, select

    from store.tables import CheckpointRow, ModelRow, OperationRow, TeamRow

    open_operations = (
        select(OperationRow.model_id, func.count().label("open"))
        .where(OperationRow.state.in_(("queued", "running")))
        .group_by(OperationRow.model_id)
        .subquery()
    )
    query = (
        select(ModelRow.slug, TeamRow.name, CheckpointRow.name, CheckpointRow.mean_reward, open_operations.c.open)
        .outerjoin(TeamRow, TeamRow.id == ModelRow.team_id)
        .outerjoin(CheckpointRow, CheckpointRow.id == ModelRow.head_checkpoint_id)
        .outerjoin(open_operations, open_operations.c.model_id == ModelRow.id)
        .order_by(ModelRow.created_at)
    )
    table = Table("model", "team", "head", "mean reward", "queued operations", title="Models")
    with database.session() as session:
        for slug, team, head, reward, waiting in session.execute(query):
            shown = "" if reward is None else f"{reward:.3f}"
            table.add_row(slug, team or "(base)", head or "base weights", shown, str(waiting or 0))
    return table
