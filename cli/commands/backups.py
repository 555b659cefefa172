"""`headway backup` and `headway restore`: a service as a folder or a tar file."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.checks import progress
from cli.ending import or_stop
from cli.settings import (
    DEFAULT_DATA_DIR,
    BlobStoreUrl,
    CheckpointStoreUrl,
    DataDir,
    OptionalDatabaseUrl,
    database_url_or_embedded,
    embedded_database_url,
    open_blobs,
    open_checkpoints,
    stop_with,
)
from store.database import Database
from store.disk.durable import sync_file, sync_folder
from store.private_files import private_data_folder, private_umask
from store.unpacking import unpack


def backup(
    to: Annotated[Path, typer.Option(help="A new folder, or a file that ends in .tar")],
    checkpoint_store: CheckpointStoreUrl = None,
    blob_store: BlobStoreUrl = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write database, checkpoints and blobs as of one moment; the service may run meanwhile."""
    from store.backup import BackupManifest, back_up

    private_umask()
    if to.is_file():
        stop_with(f"there is a file at {to}: a backup is written to a new folder, or to a new file that ends in .tar")
    database = Database(database_url_or_embedded(database_url, data_dir))
    checkpoints = open_checkpoints(checkpoint_store, data_dir)

    def write() -> BackupManifest:
        with progress("backing up") as show, _folder_to_write(to) as folder:
            return back_up(database, checkpoints, open_blobs(blob_store, data_dir), folder, show)

    manifest = or_stop(write)
    database.close()
    num_bytes = sum(size for size, _ in manifest.files.values())
    typer.echo(f"backed up {len(manifest.files)} files, {num_bytes / 2**20:.1f} MiB, to {to}")


def restore(
    source: Annotated[Path, typer.Option("--from", help="A folder or .tar file that `headway backup` wrote")],
    base: Annotated[
        list[str] | None,
        typer.Option(help="SLUG=ID_OR_PATH of a base model whose weights are elsewhere on this machine"),
    ] = None,
    checkpoint_store: CheckpointStoreUrl = None,
    blob_store: BlobStoreUrl = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Restore a backup into an empty database and an empty data folder; then start the service as usual."""
    from store.backup import BackupManifest
    from store.backup import restore as restore_all

    private_umask()
    bases = _bases(base or [])
    if not source.exists():
        stop_with(f"there is no backup at {source}")
    private_data_folder(data_dir)
    database = Database(database_url or embedded_database_url(data_dir))
    checkpoints = open_checkpoints(checkpoint_store, data_dir)

    def fill() -> BackupManifest:
        blobs = open_blobs(blob_store, data_dir)
        with progress("restoring") as show, _folder_to_read(source, data_dir) as folder:
            return restore_all(folder, database, checkpoints, blobs, base_weights=bases, progress=show)

    manifest = or_stop(fill)
    _tell_missing_bases(database)
    database.close()
    typer.echo(f"restored the backup of {manifest.created_at[:19]}Z; start the service as ever")


def _bases(entries: list[str]) -> dict[str, str]:
    from cli.commands.bases import parse_base

    if broken := [entry for entry in entries if "=" not in entry]:
        stop_with(f"--base wants SLUG=ID_OR_PATH, not {broken[0]!r}")
    return dict(or_stop(lambda: [parse_base(entry) for entry in entries]))


def _tell_missing_bases(database: Database) -> None:
    from sqlalchemy import select

    from store.tables import ModelRow

    with database.session() as session:
        bases = session.execute(select(ModelRow.slug, ModelRow.weights).where(ModelRow.weights.is_not(None))).all()
    for slug, weights in bases:
        if weights and weights.startswith("/") and not Path(weights).exists():
            typer.echo(
                f"headway: the weights of base {slug!r} are not at {weights} on this machine; put them there, or "
                f"restore again with --base {slug}=PATH",
                err=True,
            )


@contextmanager
def _folder_to_write(target: Path) -> Generator[Path]:
    """The folder itself; for a tar file one beside it, packed at the end."""
    if target.suffix != ".tar":
        yield target.resolve()
        return
    if target.exists():
        raise FileExistsError(f"{target} is there already")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        yield Path(folder) / "backup"
        draft = Path(folder) / target.name
        with tarfile.open(draft, "w") as tar:
            tar.add(Path(folder) / "backup", arcname=".")
        sync_file(draft)
        draft.rename(target)
        sync_folder(target.parent)


@contextmanager
def _folder_to_read(source: Path, data_dir: Path) -> Generator[Path]:
    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix=".restoring.", dir=data_dir) as folder:
        try:
            with tarfile.open(source) as tar:
                unpack(tar, Path(folder))
        except tarfile.TarError as error:
            raise ValueError(f"{source} is no backup: {error}") from None
        yield Path(folder)
