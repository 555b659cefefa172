"""A service as a folder: tables as PostgreSQL's COPY writes them, the files that their rows name, and a manifest.

    manifest.json                             written last; a backup without it is none
    tables/<table>.copy                       COPY's text format
    checkpoints/<model>/<checkpoint>/<file>   as in the checkpoint store
    blobs/<sha256>

The tables are read in one REPEATABLE READ transaction, and the files copied afterwards: what a committed row names is
durable already and never changes, and the collector waits until the copy is complete (`store.retention.lock`). The
service may run meanwhile. Left out: leases, samplers, and what was staged, which belong to processes of the old
machine. Base models are not in it: they are where they came from, and are recognised by their fingerprint.
"""

from store.backup.manifest import BackupManifest, NotABackup
from store.backup.restoring import restore
from store.backup.writing import back_up

__all__ = ["BackupManifest", "NotABackup", "back_up", "restore"]
