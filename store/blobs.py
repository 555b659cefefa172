"""Content-addressed blobs for payloads and results too large for a row. Durable before `put` returns."""

from __future__ import annotations

import hashlib
import re
import uuid
from pathlib import Path

from store.durable import make_folder, sync_file, sync_folder
from wire.errors import CorruptCheckpoint

_NAME = re.compile(r"[0-9a-f]{64}")


class BlobStore:
    """Blobs as files under a folder, named by the SHA-256 of their content."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, data: bytes) -> str:
        """Write a blob (or find it there) and return its name. Raises OSError when the disk does not take it."""
        name = hashlib.sha256(data).hexdigest()
        path = self._path(name)
        if not path.exists():
            make_folder(path.parent)
            draft = path.with_name(f".{name}.{uuid.uuid4().hex}")
            try:
                draft.write_bytes(data)
                sync_file(draft)
                draft.rename(path)
            finally:
                draft.unlink(missing_ok=True)  # a full disk leaves no half blob behind
        sync_folder(path.parent)  # also for a blob that another writer has just renamed
        return name

    def get(self, name: str) -> bytes:
        """A blob's content. Raises CorruptCheckpoint when it is missing or is not what its name says."""
        try:
            data = self._path(name).read_bytes()
        except FileNotFoundError:
            raise CorruptCheckpoint(f"blob {name} is missing from {self._root}") from None
        if hashlib.sha256(data).hexdigest() != name:
            raise CorruptCheckpoint(f"blob {name} in {self._root} was altered")
        return data

    def _path(self, name: str) -> Path:
        assert _NAME.fullmatch(name), name
        return self._root / name[:2] / name
