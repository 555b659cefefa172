"""One collection: mark rows, then remove the files of marked rows, and files that no row names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from store.blob_stores import BlobStore, StoredBlob
from store.checkpoint_stores import CheckpointStore
from store.checkpoint_stores.base import STATE, StoredCheckpoint
from store.database import Database
from store.environment_blobs import ENVIRONMENT_BLOBS
from store.file_blobs import FILE_BLOBS
from store.ownership import another_services_store, belongs_to_another, claim, service_id
from store.pictures import PICTURE_BLOBS
from store.retention import environments, marking, pictures, removed_models, rollouts, runs, sampling
from store.retention.lock import StillHeld, deleting_files
from store.retention.policy import RetentionPolicy
from store.rollouts.blob_names import ROLLOUT_BLOBS
from wire.errors import Conflict

_CHECKPOINTS = """
    select id, status, state_removed_at is not null as stateless, files_removed_at is not null as fileless
    from checkpoints where id = files_id and id = any(%(stored)s)
"""
_MODELS = "select id from models"
_BLOBS_AT_ONCE = 200
_NEEDED_BLOBS = f"""
    select unnest(array[payload_blob, result_blob]) as name from operations
    where blobs_dropped_at is null and id <> all(%(dropped)s) and (payload_blob is not null or result_blob is not null)
    union
    {ROLLOUT_BLOBS}
    union
    {ENVIRONMENT_BLOBS}
    union
    {FILE_BLOBS}
    union
    {PICTURE_BLOBS}
"""  # noqa: S608 - put together from constants
_KNOWS_NOTHING = """
    select not exists (select from operations) and not exists (select from checkpoints)
        and not exists (select from traces) and not exists (select from environment_builds)
        and not exists (select from files) and not exists (select from pictures) as so
"""


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that was removed, or with dry_run would be. `num_bytes` is None where it was not counted."""

    what: str
    name: str
    num_bytes: int | None = None


_Remove = Callable[[], int | None]
"""Removes something and returns the bytes that were freed; None when it was wanted after all."""
_Plan = tuple[Removal, _Remove]


@dataclass(frozen=True, slots=True)
class _Marked:
    stateless: set[UUID]
    fileless: set[UUID]


class Collector:
    """Removes what nobody needs. One at a time, in whichever process; blocks on the disk."""

    def __init__(
        self, database: Database, blobs: BlobStore, checkpoints: CheckpointStore, policy: RetentionPolicy
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._checkpoints = checkpoints
        self._policy = policy
        self._stop = threading.Event()

    def stop(self) -> None:
        """End after the removal that is under way. What was marked is removed by the next collection."""
        self._stop.set()

    def collect(self, *, dry_run: bool = False, strangers: bool = False) -> list[Removal]:
        """Collect, and say what was removed. `strangers`: also folders of models that this database does not know.

        Raises Conflict when somebody else collects or reads, and when the database has nothing to do with the stores.
        """
        with deleting_files(self._database) as still_held:
            self._refuse_other_peoples_stores(dry_run)
            return [*self._forgotten_rows(dry_run), *self._files(dry_run, strangers, still_held)]

    def _forgotten_rows(self, dry_run: bool) -> Iterator[Removal]:
        past = marking.forget_planes(self._database, self._policy, dry_run=dry_run)
        for table, ids in past.items():
            yield from (Removal(f"row of {table}", str(row_id), 0) for row_id in sorted(ids))
        for name_id in sorted(runs.forget_expired_names(self._database, dry_run=dry_run)):
            yield Removal("name of a checkpoint", str(name_id), 0)
        for model_id in sorted(runs.remove_unsaved_runs(self._database, self._policy, dry_run=dry_run)):
            yield Removal("run that saved nothing", str(model_id), 0)
        requests = sampling.forget_requests(self._database, self._policy, dry_run=dry_run)
        for session_id, number in sorted(requests.items()):
            yield Removal(f"{number} sampling requests", session_id, 0)
        for build_id in sorted(environments.forget_uploads(self._database, self._policy, dry_run=dry_run)):
            yield Removal("upload that was not deployed", str(build_id), 0)
        for build_id in sorted(environments.drop_archives(self._database, self._policy, dry_run=dry_run)):
            yield Removal("archive of an old version", str(build_id), 0)
        for build_id in sorted(environments.drop_logs(self._database, self._policy, dry_run=dry_run)):
            yield Removal("build log of an old version", str(build_id), 0)
        for what, found in rollouts.forget(self._database, self._policy, dry_run=dry_run).items():
            yield from (Removal(what, f"{team_id.hex}/{row_id.hex}", 0) for team_id, row_id in sorted(found))
        for team_id, name in sorted(pictures.forget(self._database, self._policy, dry_run=dry_run)):
            yield Removal("picture", f"{team_id.hex}/{name}", 0)

    def _files(self, dry_run: bool, strangers: bool, still_held: StillHeld) -> Iterator[Removal]:
        fileless = marking.thin_checkpoints(self._database, self._policy, dry_run=dry_run)
        stateless = marking.thin_states(self._database, self._policy, dry_run=dry_run)
        fileless |= marking.thin_unsaved(self._database, self._policy, dry_run=dry_run)
        fileless |= removed_models.free_files(self._database, dry_run=dry_run)
        dropped = marking.drop_blobs(self._database, self._policy, dry_run=dry_run)
        marked = _Marked(stateless, fileless)
        unneeded = self._unneeded_blobs(dropped)
        for removal, remove in [*self._checkpoint_plans(marked, strangers), *self._left_over_plans()]:
            if dry_run:
                yield removal
                continue
            if self._stop.is_set():
                return
            still_held()
            num_bytes = remove()
            if num_bytes is not None:
                yield Removal(removal.what, removal.name, num_bytes)
        for start in range(0, len(unneeded), _BLOBS_AT_ONCE):
            blobs = unneeded[start : start + _BLOBS_AT_ONCE]
            if not dry_run:
                if self._stop.is_set():
                    return
                still_held()
                blobs = self._blobs.remove_older(blobs, self._policy.grace_s)
            yield from map(_removal_of, blobs)

    def _checkpoint_plans(self, marked: _Marked, strangers: bool) -> Iterator[_Plan]:
        stored = list(
            self._checkpoints.stored()
        )  # before the rows are read: whoever published later has a row, or will
        with self._database.connection() as connection:
            here = {"stored": [entry.checkpoint for entry in stored]}
            rows = {row.id: row for row in connection.execute(_CHECKPOINTS, here)}
            models = {row.id for row in connection.execute(_MODELS)}
        for entry in stored:
            row, name = rows.get(entry.checkpoint), f"{entry.model.hex}/{entry.checkpoint.hex}"
            if row is None and entry.age_s > self._policy.grace_s and (strangers or entry.model in models):
                yield Removal("files without a row", name), self._remove_checkpoint(entry, entry.model in models)
            elif row is None:
                continue  # young, or another database's
            elif row.status == "rejected":
                yield Removal("files of a rejected checkpoint", name), self._remove(entry)
            elif row.fileless or row.id in marked.fileless:
                yield Removal("checkpoint", name), self._remove(entry)
            elif (row.stateless or row.id in marked.stateless) and entry.has_state:
                yield Removal("optimizer state", name), self._remove(entry, STATE)

    def _left_over_plans(self) -> Iterator[_Plan]:
        for name, age_s in self._checkpoints.left_over():
            if age_s > self._policy.grace_s:
                yield Removal("staging folder", name), lambda name=name: self._checkpoints.remove_left_over(name)

    def _unneeded_blobs(self, dropped: set[UUID]) -> list[StoredBlob]:
        """Blobs are listed before the rows are read, as folders are; and those that were put lately are left alone."""
        old = [blob for blob in self._blobs.stored() if blob.age_s > self._policy.grace_s]
        with self._database.connection() as connection:
            needed = {row.name for row in connection.execute(_NEEDED_BLOBS, {"dropped": list(dropped)})}
        return [blob for blob in old if blob.name not in needed]

    def _remove_checkpoint(self, entry: StoredCheckpoint, is_known: bool) -> _Remove:
        def remove() -> int | None:
            if is_known and not marking.mark_removed(self._database, entry.model, entry.checkpoint):
                return None  # its row has come meanwhile
            return self._checkpoints.remove(entry.model, entry.checkpoint)

        return remove

    def _remove(self, entry: StoredCheckpoint, part: str | None = None) -> _Remove:
        return lambda: self._checkpoints.remove(entry.model, entry.checkpoint, part)

    def _refuse_other_peoples_stores(self, dry_run: bool) -> None:
        with self._database.connection() as connection:
            (row,) = connection.execute(_KNOWS_NOTHING)
            service = service_id(connection)
        if row.so and (next(self._checkpoints.stored(), None) or next(self._blobs.stored(), None)):
            raise Conflict(
                "there are files in the stores, and this database knows of none; are these its data folders?"
            )
        if not dry_run:
            claim(self._blobs, service)
        elif belongs_to_another(self._blobs, service):
            raise another_services_store()


def _removal_of(blob: StoredBlob) -> Removal:
    if blob.name is None:
        return Removal("half a blob", blob.key.rpartition("/")[2], blob.size)
    return Removal("blob", blob.name, blob.size)
