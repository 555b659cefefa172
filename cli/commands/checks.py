"""`headway verify` compares files with the database."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict

import typer

from cli.ending import or_stop
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
from cli.terminal.tables import Json


def verify(
    as_json: Json = False,
    checkpoint_store: CheckpointStoreUrl = None,
    blob_store: BlobStoreUrl = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Read every checkpoint and blob that the database names, and list files that are missing, changed or not named.

    Exit status 1 if anything is. The service may run meanwhile.
    """
    from store.database import Database
    from store.verification import verify as verify_all

    database = Database(database_url_or_embedded(database_url, data_dir))
    checkpoints = open_checkpoints(checkpoint_store, data_dir)
    with progress("verifying") as show:
        damages = or_stop(lambda: verify_all(database, checkpoints, open_blobs(blob_store, data_dir), show))
    database.close()
    if as_json:
        typer.echo(json.dumps({"damages": [asdict(damage) for damage in damages]}))
    else:
        for damage in damages:
            typer.echo(f"{damage.what}: {damage.path} of {damage.where}")
        typer.echo(f"{len(damages)} files are not as they should be" if damages else "all files are as they should be")
    raise typer.Exit(1 if damages else 0)


def progress(doing: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """A bar on stderr while it is a terminal."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    @contextmanager
    def shown():
        console = Console(stderr=True)
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(doing, total=None)
            yield lambda done, of: bar.update(task, completed=done, total=of)

    return shown()
