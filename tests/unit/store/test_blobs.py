from __future__ import annotations

from pathlib import Path

import pytest

from store.blob_stores.file import FileBlobStore
from wire.errors import CorruptCheckpoint


def test_blobs_are_verified_when_read(tmp_path: Path):
    blobs = FileBlobStore(tmp_path)
    name = blobs.put(b"payload")
    assert blobs.put(b"payload") == name
    path = next(p for p in tmp_path.rglob(name))
    path.write_bytes(b"pAyload")
    with pytest.raises(CorruptCheckpoint, match="altered"):
        blobs.get(name)
    path.unlink()
    with pytest.raises(CorruptCheckpoint, match="missing"):
        blobs.get(name)


def test_a_blob_that_came_in_pieces_is_the_same_blob(tmp_path: Path):
    blobs = FileBlobStore(tmp_path)
    draft = blobs.draft()
    for piece in (b"pay", b"load"):
        draft.write(piece)
    assert draft.num_bytes == 7
    name = draft.keep()
    draft.drop()
    assert blobs.get(name) == b"payload"
    assert blobs.put(b"payload") == name
    assert [blob.name for blob in blobs.stored()] == [name]


def test_a_draft_that_is_dropped_leaves_nothing(tmp_path: Path):
    blobs = FileBlobStore(tmp_path)
    draft = blobs.draft()
    draft.write(b"half")
    assert [blob.name for blob in blobs.stored()] == [None]
    draft.drop()
    assert not list(blobs.stored())
