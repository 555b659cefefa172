"""`headway gc`, `pin`, `unpin`: remove and keep checkpoints and blobs."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from cli.ending import or_stop
from cli.in_session import in_session_or_stop
from cli.references import find_checkpoint, find_model
from cli.settings import (
    DEFAULT_DATA_DIR,
    BlobStoreUrl,
    CheckpointStoreUrl,
    DataDir,
    OptionalDatabaseUrl,
    database_url_or_embedded,
    open_blobs,
    open_checkpoints,
)
from cli.terminal.settings_options import Given, takes_settings
from cli.terminal.tables import Json
from store.retention.collecting import Removal
from store.retention.policy import RetentionPolicy

Model = Annotated[str, typer.Argument(help="A model's name, TEAM/NAME, its id or its first characters")]
Checkpoint = Annotated[str, typer.Argument(help="A checkpoint's name, its id or its first characters, or `head`")]


@takes_settings(RetentionPolicy)
def gc(
    given: Given,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, list what would be removed")] = False,
    strangers: Annotated[
        bool, typer.Option("--strangers", help="Also remove folders of models that this database does not know")
    ] = False,
    as_json: Json = False,
    checkpoint_store: CheckpointStoreUrl = None,
    blob_store: BlobStoreUrl = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Remove thinned optimizer states, files without a row, unread blobs, old rollouts and rows of dead processes."""
    from store.database import Database
    from store.retention.collecting import Collector

    policy = RetentionPolicy(**given[RetentionPolicy])
    database = Database(database_url_or_embedded(database_url, data_dir))
    checkpoints = open_checkpoints(checkpoint_store, data_dir)
    collector = Collector(database, open_blobs(blob_store, data_dir), checkpoints, policy)
    removed = or_stop(lambda: collector.collect(dry_run=dry_run, strangers=strangers))
    database.close()
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "removed": [asdict(removal) for removal in removed]}))
        return
    _print(removed, dry_run)


def _print(removed: list[Removal], dry_run: bool) -> None:
    by_kind: dict[str, list[Removal]] = defaultdict(list)
    for removal in removed:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {removal.what} {removal.name}")
        by_kind[removal.what].append(removal)
    for what, removals in by_kind.items():
        num_bytes = sum(removal.num_bytes or 0 for removal in removals)
        size = f", {num_bytes / 2**20:.1f} MiB" if num_bytes else ""
        typer.echo(f"{what}: {len(removals)}{size}")
    if not removed:
        typer.echo("nothing to remove")


def pin(
    model: Model, checkpoint: Checkpoint, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Keep a checkpoint whole, optimizer state included, whatever the retention policy says."""
    _pin(database_url_or_embedded(database_url, data_dir), model, checkpoint, pinned=True)


def unpin(
    model: Model, checkpoint: Checkpoint, database_url: OptionalDatabaseUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Leave a checkpoint to the retention policy again."""
    _pin(database_url_or_embedded(database_url, data_dir), model, checkpoint, pinned=False)


def _pin(database_url: str, model: str, checkpoint: str, *, pinned: bool) -> None:
    from store.database import Database
    from store.retention.pins import pin

    async def resolve(session: AsyncSession) -> tuple[str, str]:
        model_id = await find_model(session, model, trainable=True)
        return str(model_id), await find_checkpoint(session, model_id, checkpoint)

    model, checkpoint = in_session_or_stop(database_url, resolve)
    database = Database(database_url)

    def act() -> str:
        with database.session() as session:
            return pin(session, model, checkpoint, pinned=pinned).name

    typer.echo(f"{'pinned' if pinned else 'unpinned'} {or_stop(act)}")
    database.close()
