"""Writes the files of nodes that have none: staged, hashed, published, durable; then their rows say so."""

from __future__ import annotations

import errno
from pathlib import Path
from uuid import UUID

from store.checkpoint_stores import CheckpointStore, Manifest
from store.checkpoint_stores.base import ADAPTER, STATE
from store.checkpoint_stores.manifests import files_under, measure
from store.database import Database
from store.oplog.leases import require_lease
from store.oplog.unsaved import mark_saved
from store.oplog.work import Lease
from wire.engine import Snapshot

_THERE_ALREADY = (errno.ENOTEMPTY, errno.EEXIST)
_PARTS = (ADAPTER, STATE)


class NodeFiles:
    """Blocks on the disk. May be used by several threads at once, for different nodes."""

    def __init__(self, database: Database, checkpoints: CheckpointStore) -> None:
        self._database = database
        self._checkpoints = checkpoints

    def save(self, lease: Lease, checkpoint_id: UUID, snapshot: Snapshot) -> bool:
        """Write a committed node's files. False where it has files already, or is not kept any longer.

        Raises OSError or Unavailable if the store refuses, LeaseLost.
        """
        manifest = self.write(lease, checkpoint_id, snapshot)
        with self._database.connection() as connection:
            return mark_saved(connection, lease, checkpoint_id, manifest.to_json())

    def write(self, lease: Lease, checkpoint_id: UUID, snapshot: Snapshot) -> Manifest:
        """Write the files alone, which no row names yet."""
        with self._checkpoints.stage(lease.model_id, checkpoint_id) as staged:
            snapshot.write(staged / ADAPTER, staged / STATE)
            with self._database.connection() as connection:
                require_lease(connection, lease.model_id, lease.token)
            manifest = self._publish(lease.model_id, checkpoint_id, staged)
        self._checkpoints.settle(lease.model_id, checkpoint_id)
        return manifest

    def _publish(self, model_id: UUID, checkpoint_id: UUID, staged: Path) -> Manifest:
        """A trainer that died before it could say so may have left the files. Computed again they are the same to the
        bit; if they are not (another kind of device, a power cut), they are replaced: no row names them."""
        try:
            return self._checkpoints.publish(model_id, checkpoint_id, staged)
        except OSError as error:
            if error.errno not in _THERE_ALREADY:
                raise
        manifest = _measured(staged)
        if not self._checkpoints.check(model_id, checkpoint_id, manifest, _PARTS):
            return manifest
        self._checkpoints.remove(model_id, checkpoint_id)
        return self._checkpoints.publish(model_id, checkpoint_id, staged)


def _measured(staged: Path) -> Manifest:
    files = [file for part in _PARTS for file in files_under(staged / part)]
    return Manifest({file.relative_to(staged).as_posix(): measure(file) for file in files})
