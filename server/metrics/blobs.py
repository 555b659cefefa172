"""A blob store that counts and times what goes through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from server.metrics.instruments import ServerMetrics
from store.blob_stores import BlobDraft, BlobStore, StoredBlob
from store.blob_stores.threads import BlobThreads, ThreadedBlobs


class MeasuredBlobs(ThreadedBlobs):
    """Another store's blobs: all that a server reads and writes, never on its event loop."""

    def __init__(self, store: BlobStore, metrics: ServerMetrics) -> None:
        self._store = store
        self._metrics = metrics
        self.threads = BlobThreads(store.answers)

    def put(self, data: bytes) -> str:
        with self._metrics.blob("write"):
            name = self._store.put(data)
        self._metrics.blob_bytes("write", len(data))
        return name

    def get(self, name: str) -> bytes:
        with self._metrics.blob("read"):
            data = self._store.get(name)
        self._metrics.blob_bytes("read", len(data))
        return data

    def has(self, name: str) -> bool:
        return self._store.has(name)

    def draft(self) -> BlobDraft:
        return self._store.draft()

    def open(self, name: str) -> BinaryIO:
        return self._store.open(name)

    def check(self, name: str) -> str | None:
        return self._store.check(name)

    def stored(self) -> Iterator[StoredBlob]:
        return self._store.stored()

    def answers(self) -> bool:
        return self._store.answers()

    def owner(self) -> str | None:
        return self._store.owner()

    def claim(self, service: str) -> None:
        self._store.claim(service)

    def remove_older(self, blobs: Sequence[StoredBlob], age_s: float) -> list[StoredBlob]:
        return self._store.remove_older(blobs, age_s)
