"""`headway blobs`: move payloads, pictures and uploads to another store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.checks import progress
from cli.ending import or_stop
from cli.settings import (
    DEFAULT_DATA_DIR,
    BlobStoreUrl,
    DataDir,
    OptionalDatabaseUrl,
    database_url_or_embedded,
    open_blobs,
    stop_with,
)
from cli.terminal.whole_help import WholeHelp

if TYPE_CHECKING:
    from store.blob_stores.copying import Copied

app = typer.Typer(cls=WholeHelp, help="Payloads, pictures and uploads.", no_args_is_help=True)


@app.callback()
def blobs() -> None:
    """Payloads, pictures and uploads."""


@app.command("copy")
def copy(
    to: Annotated[str, typer.Option(help="The other store: file:///FOLDER or s3://BUCKET/PREFIX")],
    blob_store: BlobStoreUrl = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Copy every blob that the database names into another store, each checked against its name.

    The service may run meanwhile. Interrupted, it goes on where it stopped. Copy once, stop servers and trainers, copy
    what came since, and start them with --blob-store of the other store, which is this service's from now on. Exit
    status 1 where blobs are missing or altered: the others are copied.
    """
    from store.blob_stores.copying import copy_blobs
    from store.database import Database
    from store.ownership import claim, service_id
    from store.retention.lock import keeping_files
    from store.verification import kept_blobs

    database = Database(database_url_or_embedded(database_url, data_dir))
    source, target = open_blobs(blob_store, data_dir), open_blobs(to, data_dir)

    def carry_out() -> tuple[int, Copied]:
        with keeping_files(database), progress("copying") as show:
            with database.connection() as connection:
                service = service_id(connection)
            claim(target, service)
            names = kept_blobs(database)
            return len(names), copy_blobs(source, target, names, show)

    num_named, copied = or_stop(carry_out)
    database.close()
    num_there = num_named - copied.num_new - len(copied.problems)
    typer.echo(f"copied {copied.num_new} blobs; {num_there} were there already")
    for problem in copied.problems:
        typer.echo(problem, err=True)
    if copied.problems:
        lost = f"{len(copied.problems)} blobs could not be copied"
        stop_with(f"{lost}; restore them from a backup, or go on without them: `headway verify` finds the same")
