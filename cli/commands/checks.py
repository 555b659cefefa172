"""`headway verify` compares files with the database; `headway doctor` checks the database's invariants."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Annotated

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
from store.invariants.base import Violation


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


def doctor(
    as_json: Json = False,
    files: Annotated[bool, typer.Option("--files", help="Also check that checkpoints have their files")] = False,
    checkpoint_store: CheckpointStoreUrl = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Check the database's invariants. Exit status 1 if one does not hold."""
    from store.database import Database
    from store.invariants import INVARIANTS, check_all, check_files

    database = Database(database_url_or_embedded(database_url, data_dir))
    checkpoints = open_checkpoints(checkpoint_store, data_dir) if files else None

    def examine() -> list[Violation]:
        with database.session() as session:
            found = check_all(session)
        return found + (check_files(database, checkpoints) if checkpoints else [])

    violations = or_stop(examine)
    database.close()
    if as_json:
        typer.echo(json.dumps({"violations": [asdict(violation) for violation in violations]}, default=str))
    else:
        _print(violations, len(INVARIANTS) + files)
    raise typer.Exit(1 if violations else 0)


def _print(violations: list[Violation], num_checked: int) -> None:
    for violation in violations:
        typer.echo(f"{violation.name}: does not hold. {violation.sentence}")
        for row in violation.rows:
            typer.echo("  " + ", ".join(f"{name}={value}" for name, value in row.items()))
    held = num_checked - len(violations)
    typer.echo(f"{held} of {num_checked} invariants hold")


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
