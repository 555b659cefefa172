"""Blobs in a folder: what else lies there, and what a collection that was killed leaves."""

from __future__ import annotations

import os
from pathlib import Path

from store.blob_stores.file import FileBlobStore

DATA = b"somebody needs it"
GRACE_S = 3600.0


def aged(path: Path) -> Path:
    os.utime(path, (1.0, 1.0))
    return path


def test_what_is_not_the_stores_own_is_neither_listed_nor_removed(tmp_path: Path):
    others = [
        tmp_path / "postgres" / "base" / "1",
        tmp_path / "photos" / "one.jpg",
        tmp_path / "ab" / "notes.txt",
        tmp_path / "drafts" / "a novel.txt",
    ]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(b"mine")
        aged(other)
        aged(other.parent)
    blobs = FileBlobStore(tmp_path)
    name = blobs.put(DATA)
    assert [blob.name for blob in blobs.stored()] == [name]
    assert blobs.remove_older([*blobs.stored()], GRACE_S) == []
    assert all(other.read_bytes() == b"mine" for other in others)


def test_a_blob_that_a_killed_collection_moved_aside_is_read_and_comes_back(tmp_path: Path):
    blobs = FileBlobStore(tmp_path)
    name = blobs.put(DATA)
    path = tmp_path / name[:2] / name
    aside = aged(path.rename(path.with_name(f".removed-{name}")))
    assert blobs.get(name) == DATA
    assert blobs.check(name) is None
    assert blobs.remove_older([*blobs.stored()], GRACE_S) == []
    assert (path.read_bytes(), aside.exists()) == (DATA, False)


def test_a_blob_that_was_written_anew_meanwhile_does_not_come_back(tmp_path: Path):
    blobs = FileBlobStore(tmp_path)
    name = blobs.put(DATA)
    path = tmp_path / name[:2] / name
    aside = aged(path.rename(path.with_name(f".removed-{name}")))
    blobs.put(DATA)
    left = [blob for blob in blobs.stored() if blob.name is None]
    assert blobs.remove_older(left, GRACE_S) == left
    assert (path.read_bytes(), aside.exists()) == (DATA, False)
