"""Compare the stores with the database, byte by byte: every file of every checkpoint, and every blob."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from store.blob_stores import BlobStore
from store.checkpoint_stores import CheckpointStore, Manifest
from store.checkpoint_stores.base import ADAPTER, STATE
from store.database import Database
from store.environment_blobs import ENVIRONMENT_BLOBS
from store.file_blobs import FILE_BLOBS
from store.pictures import PICTURE_BLOBS
from store.retention.lock import keeping_files
from store.rollouts.blob_names import ROLLOUT_BLOBS

KEPT_CHECKPOINTS = """
    select id, model_id, name, manifest, state_removed_at is null as has_state
    from checkpoints
    where status = 'committed' and id = files_id and files_removed_at is null and is_saved
    order by committed_at, id
"""
KEPT_BLOBS = f"""
    select distinct name
    from operations, unnest(array[payload_blob, result_blob]) as name
    where blobs_dropped_at is null and name is not null
    union
    {ROLLOUT_BLOBS}
    union
    {ENVIRONMENT_BLOBS}
    union
    {FILE_BLOBS}
    union
    {PICTURE_BLOBS}
    order by name
"""  # noqa: S608 - put together from constants

_NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Kept:
    """A committed checkpoint with files of its own, and which parts of it should be there."""

    id: UUID
    model_id: UUID
    name: str
    manifest: Manifest
    parts: tuple[str, ...]

    def files(self) -> dict[str, tuple[int, str]]:
        """Path to size and SHA-256, of the parts that should be there."""
        return {path: facts for path, facts in self.manifest.files.items() if path.split("/")[0] in self.parts}


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is `missing`, `changed` or `extra`, and what it belongs to."""

    where: str
    path: str
    what: str


Progress = Callable[[int, int], None]
"""Told how many of how many things are done."""


def verify(
    database: Database, checkpoints: CheckpointStore, blobs: BlobStore, progress: Progress = lambda done, of: None
) -> list[Damage]:
    """Read everything that the database names, and list what is not as it should be. A running service may go on."""
    with keeping_files(database):
        kept, names = kept_checkpoints(database), kept_blobs(database)
        damages: list[Damage] = []
        for done, damage in enumerate(_check_all(checkpoints, blobs, kept, names), start=1):
            damages += damage
            progress(done, len(kept) + len(names))
    return damages


def kept_checkpoints(database: Database) -> list[Kept]:
    """The checkpoints whose files must be there."""
    with database.connection() as connection:
        return [kept_from_row(row) for row in connection.execute(KEPT_CHECKPOINTS)]


def kept_blobs(database: Database) -> list[str]:
    """The blobs that must be there."""
    with database.connection() as connection:
        return [row.name for row in connection.execute(KEPT_BLOBS)]


def missing_files(database: Database, checkpoints: CheckpointStore) -> list[Damage]:
    """As `verify` of the checkpoints, by names and sizes alone: quick, and blind for flipped bytes."""
    with keeping_files(database):
        return [d for kept in kept_checkpoints(database) for d in _check(checkpoints, kept, read=False)]


def missing_blobs(database: Database, blobs: BlobStore) -> list[Damage]:
    """As `verify` of the blobs, by one listing: quick, and blind for flipped bytes. An empty one lost its content."""
    with keeping_files(database):
        missing, empty = set(kept_blobs(database)), set[str]()
        for blob in blobs.stored():
            if blob.name in missing:
                missing.discard(blob.name)
                if not blob.size and blob.name != _NOTHING:
                    empty.add(blob.name)
    return [Damage("blobs", name, "changed" if name in empty else "missing") for name in sorted(missing | empty)]


def _check_all(
    checkpoints: CheckpointStore, blobs: BlobStore, kept: list[Kept], names: list[str]
) -> Iterator[list[Damage]]:
    for checkpoint in kept:
        yield _check(checkpoints, checkpoint, read=True)
    for name in names:
        what = blobs.check(name)
        yield [Damage("blobs", name, what)] if what else []


def _check(checkpoints: CheckpointStore, kept: Kept, *, read: bool) -> list[Damage]:
    where = f"checkpoint {kept.name} ({kept.model_id.hex}/{kept.id.hex})"
    problems = checkpoints.check(kept.model_id, kept.id, kept.manifest, kept.parts, read=read)
    # A state that was marked as thinned and is still there awaits the next collection.
    harmful = [p for p in problems if p.what != "extra" or p.path not in kept.manifest.files]
    return [Damage(where, problem.path, problem.what) for problem in harmful]


def kept_from_row(row: tuple[UUID, UUID, str, dict[str, object], bool]) -> Kept:
    """From (id, model_id, name, manifest, has_state)."""
    checkpoint_id, model_id, name, manifest, has_state = row
    parts = (ADAPTER, STATE) if has_state else (ADAPTER,)
    return Kept(checkpoint_id, model_id, name, Manifest.from_json(manifest), parts)
