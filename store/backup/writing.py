"""Write a backup of a service that may be running."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.rows import tuple_row

from store.backup.manifest import BLOBS, CHECKPOINTS, MANIFEST, TABLES, BackupManifest, Progress, dumped_tables, measure
from store.blob_stores import BlobStore
from store.checkpoint_stores import CheckpointStore
from store.checkpoint_stores.base import STATE
from store.database import Connection, Database, psycopg_dsn
from store.disk.durable import DurableFolders, sync_file, sync_folder
from store.retention.lock import keeping_files
from store.schema import newest_revision
from store.verification import KEPT_BLOBS, KEPT_CHECKPOINTS, Kept, kept_from_row
from wire.errors import Conflict, CorruptCheckpoint

_SEQUENCES = "select sequencename, last_value from pg_sequences where schemaname = 'public' and last_value is not null"
_PIECE_BYTES = 2**20


def back_up(
    database: Database,
    checkpoints: CheckpointStore,
    blobs: BlobStore,
    target: Path,
    progress: Progress = lambda done, of: None,
) -> BackupManifest:
    """Write a backup into a new or empty folder.

    Raises FileExistsError when it is not empty, CorruptCheckpoint when a file is not what its row says, Conflict for a
    database of another schema: its tables have columns that this release would leave out.
    """
    folders = DurableFolders(target)
    folders.make(target)
    if any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; a backup needs a folder of its own")
    created_at = datetime.now(UTC).isoformat()
    with keeping_files(database):
        with _snapshot(database) as connection:
            revision = str(_values(connection, "select version_num from alembic_version")[0][0])
            _refuse_later_schema(revision)
            tables, sequences = dumped_tables(), dict(_values(connection, _SEQUENCES))
            kept = [kept_from_row(row) for row in _values(connection, KEPT_CHECKPOINTS)]
            names = [row[0] for row in _values(connection, KEPT_BLOBS)]
            folders.make(target / TABLES)
            paths = [_dump(connection, table, columns, target) for table, columns in tables.items()]
        for done, written in enumerate(_copy_all(checkpoints, blobs, kept, names, target, folders), start=1):
            paths += written
            progress(done, len(kept) + len(names))
    files = {path.relative_to(target).as_posix(): measure(path) for path in paths}
    _refuse_altered(kept, names, files)
    manifest = BackupManifest(revision, created_at, tables, sequences, files)
    _conclude(target, manifest)
    return manifest


def _refuse_later_schema(revision: str) -> None:
    if revision != newest_revision():
        raise Conflict(
            f"the database has schema {revision}, and this Headway knows {newest_revision()}: back it up with the "
            "newest release that runs against it"
        )


@contextmanager
def _snapshot(database: Database) -> Generator[Connection]:
    """A connection of its own, on which everything is read as of one moment."""
    with psycopg.connect(psycopg_dsn(database.url), row_factory=tuple_row) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            yield connection


def _values(connection: Connection, query: str) -> list[Any]:
    return connection.execute(query.encode()).fetchall()


def _dump(connection: Connection, table: str, columns: list[str], target: Path) -> Path:
    path = target / TABLES / f"{table}.copy"
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("copy {} ({}) to stdout").format(sql.Identifier(table), listed)
    with connection.cursor() as cursor, cursor.copy(query) as rows, path.open("wb") as file:
        for chunk in rows:
            file.write(chunk)
    sync_file(path)
    return path


def _copy_all(
    checkpoints: CheckpointStore,
    blobs: BlobStore,
    kept: list[Kept],
    names: list[str],
    target: Path,
    folders: DurableFolders,
) -> Iterator[list[Path]]:
    for checkpoint in kept:
        try:
            yield _copy_checkpoint(checkpoints, checkpoint, target / CHECKPOINTS, folders)
        finally:
            checkpoints.release(checkpoint.model_id, checkpoint.id)
    folders.make(target / BLOBS)
    for name in names:
        path = target / BLOBS / name
        with blobs.open(name) as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy, _PIECE_BYTES)
        sync_file(path)
        yield [path]


def _copy_checkpoint(checkpoints: CheckpointStore, kept: Kept, target: Path, folders: DurableFolders) -> list[Path]:
    fetched = checkpoints.fetch(kept.model_id, kept.id, state=STATE in kept.parts)
    copies: list[Path] = []
    for path in kept.files():
        part, _, rest = path.partition("/")
        source = fetched.state if part == STATE else fetched.adapter
        if source is None or not (source / rest).is_file():
            raise CorruptCheckpoint(f"{path} of checkpoint {kept.name} is missing from the store")
        copy = target / kept.model_id.hex / kept.id.hex / path
        folders.make(copy.parent)
        shutil.copyfile(source / rest, copy)
        sync_file(copy)
        copies.append(copy)
    return copies


def _refuse_altered(kept: list[Kept], names: list[str], files: dict[str, tuple[int, str]]) -> None:
    for checkpoint in kept:
        for path, expected in checkpoint.files().items():
            if files[f"{CHECKPOINTS}/{checkpoint.model_id.hex}/{checkpoint.id.hex}/{path}"] != expected:
                raise CorruptCheckpoint(f"{path} of checkpoint {checkpoint.name} is not what the database says")
    for name in names:
        if files[f"{BLOBS}/{name}"][1] != name:
            raise CorruptCheckpoint(f"blob {name} was altered")


def _conclude(target: Path, manifest: BackupManifest) -> None:
    draft = target / f".{MANIFEST}"
    draft.write_text(manifest.to_json())
    sync_file(draft)
    for folder in [folder for folder in target.rglob("*") if folder.is_dir()]:
        sync_folder(folder)
    draft.rename(target / MANIFEST)
    sync_folder(target)
