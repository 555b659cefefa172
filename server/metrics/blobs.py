"""A blob store that counts and times what goes through it."""

from __future__ import annotations

from pathlib import Path

from server.metrics.instruments import ServerMetrics
from store.blobs import BlobStore


class MeasuredBlobs(BlobStore):
    """The same store. Its methods may run in any thread."""

    def __init__(self, root: Path, metrics: ServerMetrics) -> None:
        super().__init__(root)
        self._metrics = metrics

    def put(self, data: bytes) -> str:
        """See BlobStore."""
        with self._metrics.blob("write"):
            name = super().put(data)
        self._metrics.blob_bytes("write", len(data))
        return name

    def get(self, name: str) -> bytes:
        """See BlobStore."""
        with self._metrics.blob("read"):
            data = super().get(name)
        self._metrics.blob_bytes("read", len(data))
        return data
