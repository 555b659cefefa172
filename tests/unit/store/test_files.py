from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from store.blobs import BlobStore
from store.checkpoint_stores import CheckpointStore, open_checkpoint_store
from tests.unit.store.places import KINDS, Place
from wire.errors import CorruptCheckpoint

MODEL, CHECKPOINT = uuid.uuid4(), uuid.uuid4()


@pytest.fixture(params=KINDS)
def place_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def place(make_place: Callable[[Path], Place], tmp_path: Path) -> Place:
    return make_place(tmp_path)


@pytest.fixture
def store(place: Place) -> CheckpointStore:
    return place.open()


def publish(store: CheckpointStore) -> None:
    with store.stage(MODEL, CHECKPOINT) as staged:
        (staged / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
        (staged / "state" / "state.safetensors").write_bytes(b"moments")
        store.publish(MODEL, CHECKPOINT, staged)


def test_a_published_checkpoint_is_fetched_whole(store: CheckpointStore, place: Place):
    publish(store)
    for reader in (store, place.open()):
        files = reader.fetch(MODEL, CHECKPOINT)
        assert (files.adapter / "adapter_model.safetensors").read_bytes() == b"weights"
        assert files.state is not None
        assert (files.state / "state.safetensors").read_bytes() == b"moments"
        reader.release(MODEL, CHECKPOINT)


def test_what_was_staged_and_not_published_leaves_nothing(store: CheckpointStore, place: Place, tmp_path: Path):
    with store.stage(MODEL, CHECKPOINT) as staged:
        (staged / "adapter" / "x").write_bytes(b"half")
    assert not [p for p in tmp_path.rglob("x") if p.is_file()]
    assert place.names() == []
    with pytest.raises(CorruptCheckpoint, match="missing"):
        store.fetch(MODEL, CHECKPOINT)


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "state/state.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "remove", "truncate"])
def test_harm_to_any_file_is_found_at_load(store: CheckpointStore, place: Place, name: str, harm: str):
    publish(store)
    path = place.path(f"{MODEL.hex}/{CHECKPOINT.hex}/{name}")
    data = path.read_bytes()
    path.unlink()
    if harm != "remove":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:] if harm == "flip" else data[:-1])
    with pytest.raises(CorruptCheckpoint):
        place.open().fetch(MODEL, CHECKPOINT)


def test_a_manifest_that_points_outside_of_its_checkpoint_is_refused(store: CheckpointStore, place: Place):
    publish(store)
    path = place.path(f"{MODEL.hex}/{CHECKPOINT.hex}/manifest.json")
    path.write_bytes(path.read_bytes().replace(b"adapter/adapter_model", b"adapter/../../../x"))
    with pytest.raises(CorruptCheckpoint, match="outside"):
        place.open().fetch(MODEL, CHECKPOINT)


def test_samplers_do_not_read_the_optimizer_state(store: CheckpointStore, place: Place):
    publish(store)
    place.path(f"{MODEL.hex}/{CHECKPOINT.hex}/state/state.safetensors").unlink()
    assert place.open().fetch(MODEL, CHECKPOINT, state=False).state is None


def test_a_checkpoint_is_never_published_twice(store: CheckpointStore, place: Place):
    publish(store)
    before = place.names()
    with pytest.raises(OSError):
        publish(store)
    assert place.names() == before


def test_a_part_and_then_the_rest_are_removed_and_their_bytes_counted(store: CheckpointStore, place: Place):
    publish(store)
    assert [stored.has_state for stored in store.stored()] == [True]
    assert store.remove(MODEL, CHECKPOINT, "state") == len(b"moments")
    assert store.remove(MODEL, CHECKPOINT, "state") == 0
    assert [stored.has_state for stored in store.stored()] == [False]
    with pytest.raises(CorruptCheckpoint, match="missing"):
        store.fetch(MODEL, CHECKPOINT)
    assert store.fetch(MODEL, CHECKPOINT, state=False).state is None
    store.release(MODEL, CHECKPOINT)
    assert store.remove(MODEL, CHECKPOINT) > len(b"weights")
    assert store.remove(MODEL, CHECKPOINT) == 0
    assert not list(store.stored())
    assert not list(store.left_over())
    assert place.names() == []


def test_unknown_store_schemes_are_refused():
    with pytest.raises(ValueError, match="no checkpoint store for ftp://"):
        open_checkpoint_store("ftp://somewhere")


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
