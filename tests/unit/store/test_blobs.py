from __future__ import annotations

from pathlib import Path

import pytest

from store.blobs import BlobStore
from wire.errors import CorruptCheckpoint


def test_blobs_are_verified_when_read(tmp_path: Path):
    blobs = BlobStore(tmp_path)
    name = blobs.put(b"payload")
    assert blobs.put(b"payload") == name
    path = next(p for p in tmp_path.rglob(name))
    path.write_bytes(b"pAyload")
    with pytest.raises(CorruptCheckpoint, match="altered"):
        blobs.get(name)
    path.unlink()
    with pytest.raises(CorruptCheckpoint, match="missing"):
        blobs.get(name)
