from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from store.blobs import BlobStore
from store.checkpoint_stores import open_checkpoint_store
from store.checkpoint_stores.file import FileCheckpointStore
from wire.errors import CorruptCheckpoint

MODEL, CHECKPOINT = uuid.uuid4(), uuid.uuid4()


@pytest.fixture
def store(tmp_path: Path) -> FileCheckpointStore:
    return FileCheckpointStore(tmp_path / "checkpoints")


def publish(store: FileCheckpointStore) -> None:
    with store.stage(MODEL, CHECKPOINT) as staged:
        (staged / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
        (staged / "state" / "state.safetensors").write_bytes(b"moments")
        store.publish(MODEL, CHECKPOINT, staged)


def test_a_published_checkpoint_is_fetched_whole(store: FileCheckpointStore):
    publish(store)
    files = store.fetch(MODEL, CHECKPOINT)
    assert (files.adapter / "adapter_model.safetensors").read_bytes() == b"weights"
    assert files.state is not None
    assert (files.state / "state.safetensors").read_bytes() == b"moments"


def test_what_was_staged_and_not_published_leaves_nothing(store: FileCheckpointStore, tmp_path: Path):
    with store.stage(MODEL, CHECKPOINT) as staged:
        (staged / "adapter" / "x").write_bytes(b"half")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    with pytest.raises(CorruptCheckpoint, match="missing"):
        store.fetch(MODEL, CHECKPOINT)


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "state/state.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "remove", "truncate"])
def test_harm_to_any_file_is_found_at_load(store: FileCheckpointStore, tmp_path: Path, name: str, harm: str):
    publish(store)
    path = tmp_path / "checkpoints" / MODEL.hex / CHECKPOINT.hex / name
    data = path.read_bytes()
    path.unlink()
    if harm != "remove":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:] if harm == "flip" else data[:-1])
    with pytest.raises(CorruptCheckpoint):
        store.fetch(MODEL, CHECKPOINT)


def test_samplers_do_not_read_the_optimizer_state(store: FileCheckpointStore, tmp_path: Path):
    publish(store)
    (tmp_path / "checkpoints" / MODEL.hex / CHECKPOINT.hex / "state" / "state.safetensors").unlink()
    assert store.fetch(MODEL, CHECKPOINT, state=False).state is None


def test_a_checkpoint_is_never_published_twice(store: FileCheckpointStore):
    publish(store)
    with pytest.raises(OSError):
        publish(store)


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
