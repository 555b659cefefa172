"""`headway blobs`: move payloads, pictures and uploads to another store."""

from __future__ import annotations

from typing import Annotated

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
)
from cli.terminal.whole_help import WholeHelp

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
    what came since, and start them with --blob-store of the other store.
    """
    from store.blob_stores.copying import copy_blobs
    from store.database import Database
    from store.retention.lock import keeping_files
    from store.verification import kept_blobs

    database = Database(database_url_or_embedded(database_url, data_dir))
    source, target = open_blobs(blob_store, data_dir), open_blobs(to, data_dir)

    def carry_out() -> tuple[int, int]:
        with keeping_files(database), progress("copying") as show:
            names = kept_blobs(database)
            return len(names), copy_blobs(source, target, names, show)

    num_named, num_copied = or_stop(carry_out)
    database.close()
    typer.echo(f"copied {num_copied} blobs; {num_named - num_copied} were there already")
