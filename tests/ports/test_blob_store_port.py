"""What every blob store does, on files and on an object store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from store.blob_stores import BlobStore, open_blob_store
from store.blob_stores.copying import copy_blobs
from store.blob_stores.file import FileBlobStore
from tests.ports.blob_places import KINDS, BlobPlace, blob_place_maker
from wire.errors import CorruptCheckpoint

LARGE = os.urandom(17 * 2**20)  # in two parts
GRACE_S = 3600.0


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> BlobPlace:
    return blob_place_maker(request.param, request)(tmp_path)


@pytest.fixture
def blobs(place: BlobPlace) -> BlobStore:
    return place.open()


def draft_of(blobs: BlobStore, *pieces: bytes) -> str:
    draft = blobs.draft()
    try:
        for piece in pieces:
            draft.write(piece)
        assert draft.num_bytes == sum(map(len, pieces))
        return draft.keep()
    finally:
        draft.drop()


def names(blobs: BlobStore) -> list[str | None]:
    return [blob.name for blob in blobs.stored()]


@pytest.mark.parametrize("data", [b"", b"payload", LARGE], ids=["empty", "small", "large"])
def test_what_was_put_is_read_elsewhere_by_the_digest_of_its_content(blobs: BlobStore, place: BlobPlace, data: bytes):
    name = blobs.put(data)
    assert blobs.check(name) is None
    assert name == hashlib.sha256(data).hexdigest() == blobs.put(data)
    elsewhere = open_blob_store(place.url)
    assert elsewhere.has(name)
    assert elsewhere.get(name) == data == elsewhere.get(name)
    with elsewhere.open(name) as file:
        assert file.read() == data
    assert elsewhere.check(name) is None
    assert [(blob.name, blob.size) for blob in blobs.stored()] == [(name, len(data))]


@pytest.mark.parametrize("altered", [b"", b"PAYLOAD", b"longer than it was"])
def test_a_blob_that_was_altered_is_replaced_when_it_is_put_again(blobs: BlobStore, place: BlobPlace, altered: bytes):
    name = blobs.put(b"payload")
    for put_again in (lambda: place.open().put(b"payload"), lambda: draft_of(place.open(), b"pay", b"load")):
        place.path(name).write_bytes(altered)
        assert blobs.check(name) == "changed"
        assert put_again() == name
        assert blobs.check(name) is None


def test_a_large_blob_that_lost_some_of_its_bytes_is_replaced_when_it_is_put_again(blobs: BlobStore, place: BlobPlace):
    name = blobs.put(LARGE)
    place.path(name).write_bytes(LARGE[:-1])
    assert place.open().put(LARGE) == name
    assert blobs.check(name) is None


def test_a_blob_that_came_in_pieces_is_the_same_blob(blobs: BlobStore, place: BlobPlace):
    name = draft_of(blobs, b"pay", b"load")
    assert name == blobs.put(b"payload") == draft_of(blobs, b"payload")
    assert place.open().get(name) == b"payload"
    assert names(blobs) == [name]
    large = draft_of(blobs, LARGE[:5], LARGE[5:])
    with place.open().open(large) as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == large


def test_a_draft_that_is_dropped_leaves_nothing(blobs: BlobStore):
    draft = blobs.draft()
    draft.write(b"half")
    draft.drop()
    draft.drop()
    assert names(blobs) == []


def test_blobs_are_verified_when_they_are_read(blobs: BlobStore, place: BlobPlace):
    name = blobs.put(b"payload")
    place.path(name).write_bytes(b"pAyload")
    assert place.open().check(name) == "changed"
    with pytest.raises(CorruptCheckpoint, match="altered"):
        place.open().get(name)
    place.path(name).unlink()
    assert place.open().check(name) == "missing"
    assert not place.open().has(name)
    for read in (place.open().get, place.open().open):
        with pytest.raises(CorruptCheckpoint, match="missing"):
            read(name)
    assert blobs.put(b"payload") == name
    assert place.open().get(name) == b"payload", "whoever sends the bytes again gives them back"


def test_old_blobs_are_removed_and_those_that_were_put_again_are_not(blobs: BlobStore, place: BlobPlace):
    old, again, drafted = blobs.put(b"old"), blobs.put(b"again"), draft_of(blobs, b"drafted")
    place.age(2 * GRACE_S)
    young = blobs.put(b"young")
    found = list(blobs.stored())
    assert {blob.name for blob in found if blob.age_s > GRACE_S} == {old, again, drafted}
    assert place.open().put(b"again") == again
    assert draft_of(place.open(), b"drafted") == drafted
    removed = blobs.remove_older(found, GRACE_S)
    assert [blob.name for blob in removed] == [old]
    assert set(names(blobs)) == {again, drafted, young}
    assert blobs.remove_older(removed, GRACE_S) == [], "it is gone already"
    assert blobs.put(b"old") == old
    assert place.open().get(old) == b"old"


def test_a_large_blob_that_is_there_becomes_young(blobs: BlobStore, place: BlobPlace):
    name = blobs.put(LARGE)
    place.age(2 * GRACE_S)
    found = list(blobs.stored())
    assert place.open().put(LARGE) == name
    assert blobs.remove_older(found, GRACE_S) == []
    assert place.open().check(name) is None


def test_what_a_dead_writer_left_is_found_and_removed_when_it_is_old(blobs: BlobStore, place: BlobPlace):
    place.leave_behind(b"half")
    (left,) = blobs.stored()
    assert left.name is None
    assert blobs.remove_older([left], GRACE_S) == []
    place.age(2 * GRACE_S)
    assert blobs.remove_older(list(blobs.stored()), GRACE_S)
    assert list(blobs.stored()) == []


def test_many_who_put_the_same_at_once_store_it_once(place: BlobPlace):
    with ThreadPoolExecutor(8) as threads:
        put = set(threads.map(lambda blobs: blobs.put(b"same"), [place.open() for _ in range(8)]))
    assert names(place.open()) == list(put)


def test_a_copy_into_another_store_goes_on_where_it_stopped(blobs: BlobStore, place: BlobPlace, tmp_path: Path):
    other = FileBlobStore(tmp_path / "other")
    names = [blobs.put(data) for data in (b"one", b"two", LARGE)]
    assert copied(blobs, other, names[:1]) == (1, [])
    assert copied(blobs, other, names) == (2, [])
    assert [other.check(name) for name in names] == [None] * 3
    assert copied(other, place.open(), names) == (0, [])


def test_a_copy_replaces_what_was_cut_short_there(blobs: BlobStore, place: BlobPlace, tmp_path: Path):
    other = FileBlobStore(tmp_path / "other")
    names = [other.put(data) for data in (b"one", LARGE)]
    assert copied(other, blobs, names) == (2, [])
    for name in names:
        place.path(name).write_bytes(b"o")
    assert copied(other, place.open(), names) == (2, [])
    assert [blobs.check(name) for name in names] == [None, None]


def test_a_copy_names_what_is_lost_and_copies_the_rest(blobs: BlobStore, place: BlobPlace, tmp_path: Path):
    other = FileBlobStore(tmp_path / "other")
    there, altered, missing, whole = names = [blobs.put(data) for data in (b"one", b"two", b"three", b"four")]
    assert copied(blobs, other, [there]) == (1, [])
    place.path(there).write_bytes(b"cut")
    place.path(altered).write_bytes(b"twO")
    place.path(missing).unlink()
    num_new, problems = copied(place.open(), other, names)
    assert num_new == 1
    assert other.check(whole) is other.check(there) is None
    assert len(problems) == 2
    assert any(altered in problem and "altered" in problem for problem in problems)
    assert any(missing in problem and "missing" in problem for problem in problems)


def copied(source: BlobStore, target: BlobStore, names: Sequence[str]) -> tuple[int, list[str]]:
    found = copy_blobs(source, target, names, lambda done, of: None)
    return found.num_new, found.problems


def test_a_store_says_whose_it_is_and_lists_no_blob_for_it(blobs: BlobStore, place: BlobPlace):
    assert blobs.owner() is None
    blobs.claim("first")
    blobs.claim("second")
    assert place.open().owner() == "second"
    assert list(blobs.stored()) == []
