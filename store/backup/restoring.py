"""Bring a service back from a backup, into an empty database and empty stores."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import psycopg
from psycopg import sql

from store.backup.manifest import (
    BLOBS,
    CHECKPOINTS,
    OF_SCHEMA,
    TABLES,
    BackupManifest,
    NotABackup,
    Progress,
    dumped_tables,
)
from store.blob_stores import BlobStore
from store.blob_stores.copying import put_file
from store.checkpoint_stores import CheckpointStore
from store.database import Connection, Database, psycopg_dsn
from store.migrations import upgrade
from store.schema import newest_revision
from store.tables import Base
from wire.errors import Conflict, NotFound

_CHUNK_BYTES = 1024**2

# Heads point at checkpoints and checkpoints at models, so that references are checked when everything is there.
_REFERENCES = "select conrelid::regclass::text as of, conname as name from pg_constraint where contype = 'f'"
_DEFERRED, _AT_ONCE = "deferrable initially deferred", "not deferrable"
_CHECK = "set constraints all immediate"

# What a trainer that takes a lease finds left behind by the last one: as `store.oplog.leases.acquire`.
_END_PROCESSES = (
    "update operations set state = 'queued', started_at = null where state = 'running'",
    "update checkpoints set status = 'rejected' where status = 'staged'",
    "update trainers set stopped_at = clock_timestamp() where stopped_at is null",
)


def restore(
    source: Path,
    database: Database,
    checkpoints: CheckpointStore,
    blobs: BlobStore,
    *,
    base_weights: Mapping[str, str] | None = None,
    progress: Progress = lambda done, of: None,
) -> BackupManifest:
    """Fill an empty service. `base_weights`: base models (by slug) whose weights lie elsewhere on this machine.

    The database comes last, in one transaction: until then nothing names the files. Raises NotABackup for a backup that
    is incomplete, altered or of another schema, Conflict for a service that is not empty, NotFound for a base's slug.
    """
    manifest = BackupManifest.read(source)
    _refuse_other_schema(manifest)
    upgrade(database.url.render_as_string(hide_password=False))
    _refuse_what_is_not_empty(database, checkpoints, blobs)
    manifest.check(source, progress)
    _place_blobs(source, manifest, blobs)
    _place_checkpoints(source, manifest, checkpoints)
    with psycopg.connect(psycopg_dsn(database.url)) as connection, connection.transaction():
        _fill(connection, source, manifest)
        for slug, weights in (base_weights or {}).items():
            _move_base(connection, slug, weights)
    return manifest


def _refuse_other_schema(manifest: BackupManifest) -> None:
    if manifest.revision != newest_revision() or manifest.tables != dumped_tables():
        raise NotABackup(
            f"the backup has schema {manifest.revision}, this Headway has {newest_revision()}: restore it with the "
            "version that wrote it, and upgrade then"
        )


def _refuse_what_is_not_empty(database: Database, checkpoints: CheckpointStore, blobs: BlobStore) -> None:
    with database.connection() as connection:
        for table in (each for each in Base.metadata.sorted_tables if each.name not in OF_SCHEMA):
            query = sql.SQL("select exists (select from {}) as filled").format(sql.Identifier(table.name))
            (row,) = connection.execute(query)
            if row.filled:
                raise Conflict(f"the database is not empty: there are {table.name}; restore into a new one")
    if next(checkpoints.stored(), None) or next(checkpoints.left_over(), None):
        raise Conflict("the checkpoint store is not empty; restore into a new one")
    if next(blobs.stored(), None):
        raise Conflict("the blob store is not empty; restore into a new data folder")


def _place_blobs(source: Path, manifest: BackupManifest, blobs: BlobStore) -> None:
    for path in manifest.files:
        if path.startswith(f"{BLOBS}/"):
            with (source / path).open("rb") as file:
                put_file(blobs, file, path.rpartition("/")[2])


def _place_checkpoints(source: Path, manifest: BackupManifest, checkpoints: CheckpointStore) -> None:
    by_checkpoint: dict[tuple[UUID, UUID], list[str]] = defaultdict(list)
    for path in manifest.files:
        if path.startswith(f"{CHECKPOINTS}/"):
            _, model, checkpoint, inner = path.split("/", 3)
            by_checkpoint[UUID(hex=model), UUID(hex=checkpoint)].append(inner)
    for (model, checkpoint), inner_paths in by_checkpoint.items():
        with checkpoints.stage(model, checkpoint) as staged:
            for inner in inner_paths:
                (staged / inner).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / CHECKPOINTS / model.hex / checkpoint.hex / inner, staged / inner)
            checkpoints.publish(model, checkpoint, staged)
        checkpoints.settle(model, checkpoint)


def _fill(connection: Connection, source: Path, manifest: BackupManifest) -> None:
    _let_references_be(connection, _DEFERRED)
    for table, columns in manifest.tables.items():
        _load(connection, table, columns, source / TABLES / f"{table}.copy")
    for statement in (*_END_PROCESSES, _CHECK):
        connection.execute(statement.encode())
    _let_references_be(connection, _AT_ONCE)
    for sequence, last in manifest.sequences.items():
        connection.execute("select setval(%s::regclass, %s)", (sequence, last))


def _let_references_be(connection: Connection, when: str) -> None:
    for table, name in connection.execute(_REFERENCES).fetchall():
        connection.execute(f'alter table {table} alter constraint "{name}" {when}'.encode())


def _load(connection: Connection, table: str, columns: list[str], path: Path) -> None:
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(table), listed)
    with connection.cursor() as cursor, cursor.copy(query) as rows, path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            rows.write(chunk)


def _move_base(connection: Connection, slug: str, weights: str) -> None:
    query = "update models set weights = %s where weights is not null and lower(slug) = lower(%s)"
    if connection.execute(query, (weights, slug)).rowcount != 1:
        raise NotFound(f"the backup has no base model {slug!r}")
