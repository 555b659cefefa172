"""Blobs whose names are needed before they are in a store: packed on an event loop, written from a thread."""

from __future__ import annotations

import hashlib
from typing import Protocol

from store.blob_stores.base import BlobStore
from store.blob_stores.threads import in_blob_thread


class TakesBlobs(Protocol):
    """What blobs are put into."""

    def put(self, data: bytes) -> str:
        """The blob's name."""
        ...


class UnwrittenBlobs(TakesBlobs):
    """Blobs in memory."""

    def __init__(self) -> None:
        self._contents = dict[str, bytes]()

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self._contents[name] = data
        return name

    async def write(self, blobs: BlobStore) -> None:
        """Put them into a store, and forget them; nothing where there are none. Raises OSError, Unavailable."""
        if self._contents:
            await in_blob_thread(blobs, self._write, blobs)

    def _write(self, blobs: BlobStore) -> None:
        """In several threads at once, where a caller that gave up begins anew."""
        for name, data in [*self._contents.items()]:
            blobs.put(data)
            self._contents.pop(name, None)
