"""Checkpoints and blobs as the planes write them, recorded; and which of those that were promised a power cut took."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

from store.blob_stores.file import FileBlobStore
from store.checkpoint_stores.file import FileCheckpointStore
from tests.chaos.power_cut import Recorder, cuts
from wire.errors import CorruptCheckpoint

MODEL = uuid.UUID(int=7)


def write_checkpoints(root: Path, recorder: Recorder, ids: list[UUID]) -> None:
    """As a trainer does. What it marks may from then on be named by a committed row."""
    store = FileCheckpointStore(root / "data" / "checkpoints")
    for checkpoint in ids:
        with store.stage(MODEL, checkpoint) as staged:
            (staged / "adapter" / "adapter_model.safetensors").write_bytes(checkpoint.bytes * 10)
            (staged / "adapter" / "adapter_config.json").write_bytes(b"{}")
            (staged / "state" / "state.safetensors").write_bytes(checkpoint.bytes * 20)
            store.publish(MODEL, checkpoint, staged)
        store.settle(MODEL, checkpoint)
        recorder.mark(checkpoint)


def lost_checkpoints(left: Path, promised: list[UUID]) -> Iterator[str]:
    store = FileCheckpointStore(left / "data" / "checkpoints")
    for checkpoint in promised:
        try:
            store.fetch(MODEL, checkpoint)
        except CorruptCheckpoint as error:
            yield error.message


def put_blobs(root: Path, recorder: Recorder, contents: list[bytes]) -> None:
    store = FileBlobStore(root / "data" / "blobs")
    for content in contents:
        store.put(content)
        recorder.mark(content)


def lost_blobs(left: Path, promised: list[bytes]) -> Iterator[str]:
    store = FileBlobStore(left / "data" / "blobs")
    for content in promised:
        try:
            assert store.get(hashlib.sha256(content).hexdigest()) == content
        except CorruptCheckpoint as error:
            yield error.message


def recorded(disk: Path, work: Callable[[Recorder], None]) -> Recorder:
    recorder = Recorder(disk)
    with recorder.recording():
        (disk / "data").mkdir()
        fd = os.open(disk, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        work(recorder)
    return recorder


def lost_without_sync(folder: Path) -> list[str]:
    """What a power cut takes of a checkpoint and a blob when files are not pushed to the disk."""
    from store.blob_stores import file as blobs
    from store.checkpoint_stores import file as checkpoints

    (disk := folder / "disk").mkdir()
    kept = [
        (module, name, getattr(module, name)) for module, name in ((blobs, "sync_file"), (checkpoints, "sync_files"))
    ]
    for module, name, _ in kept:
        setattr(module, name, lambda _: None)
    try:
        ids, contents = [uuid.UUID(int=9)], [b"x"]
        recorder = recorded(disk, lambda r: (write_checkpoints(disk, r, ids), put_blobs(disk, r, contents)))
    finally:
        for module, name, sync in kept:
            setattr(module, name, sync)
    *_, (_, _, left) = cuts(recorder, disk, folder / "left", 0)
    return [*lost_checkpoints(left, ids), *lost_blobs(left, contents)]
