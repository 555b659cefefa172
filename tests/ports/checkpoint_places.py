"""Where a test's checkpoints lie: in files or in an object store, with the hands of somebody who harms them there."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from store.checkpoint_stores import CheckpointStore
from store.checkpoint_stores.cache import CheckpointCache
from store.checkpoint_stores.file import FileCheckpointStore
from store.checkpoint_stores.s3 import S3CheckpointStore
from tests.object_store import AgedBucket, ObjectPath, ObjectStore

KINDS = ["file", "s3"]


class Place(Protocol):
    url: str

    def open(self) -> CheckpointStore:
        """As another process does, on another machine where that is possible."""
        ...

    def path(self, name: str) -> Any:
        """Something with read_bytes, write_bytes, unlink and name."""
        ...

    def age(self, by_s: float) -> None: ...

    def names(self) -> list[str]: ...

    def leave_behind(self, data: bytes) -> None:
        """What a process leaves that was killed before its checkpoint was published."""
        ...


class FilePlace:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkpoints"
        self.url = f"file://{self.root}"

    def open(self) -> FileCheckpointStore:
        return FileCheckpointStore(self.root)

    def path(self, name: str) -> Path:
        return self.root / name

    def age(self, by_s: float) -> None:
        past = time.time() - by_s
        for path in self.root.rglob("*"):
            os.utime(path, (past, past))

    def names(self) -> list[str]:
        return sorted(p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file())

    def leave_behind(self, data: bytes) -> None:
        left = self.root / ".staging" / "dead" / "state"
        left.mkdir(parents=True)
        (left / "state.safetensors").write_bytes(data)


class S3Place:
    def __init__(self, s3: ObjectStore, folder: Path) -> None:
        self.s3 = s3
        self.prefix = uuid.uuid4().hex
        self.url = s3.url(folder / "cache", self.prefix)
        self._folder = folder
        self._older = dict[str, float]()

    def open(self) -> S3CheckpointStore:
        """Without copies, so that what was harmed is what is read."""
        cache = CheckpointCache(self._folder / f"cache-{uuid.uuid4().hex}", 2**30)
        return S3CheckpointStore(self._bucket(), cache)

    def path(self, name: str) -> ObjectPath:
        return ObjectPath(self.s3, f"{self.prefix}/{name}")

    def age(self, by_s: float) -> None:
        self._bucket().age(by_s)

    def names(self) -> list[str]:
        return sorted(key.removeprefix(f"{self.prefix}/") for key in self.s3.keys(self.prefix))

    def _bucket(self) -> AgedBucket:
        return AgedBucket(self.s3, self.prefix, self._older)

    def leave_behind(self, data: bytes) -> None:
        self.path(f"{uuid.uuid4().hex}/{uuid.uuid4().hex}/state/state.safetensors").write_bytes(data)


def place_maker(kind: str, request: pytest.FixtureRequest) -> Callable[[Path], Place]:
    """A checkpoint store with nothing in it, which belongs to this folder."""
    return FilePlace if kind == "file" else partial(S3Place, request.getfixturevalue("s3"))
