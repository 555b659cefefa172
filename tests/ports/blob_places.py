"""Where a test's blobs lie: in files or in an object store, with the hands of somebody who harms them there."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from store.blob_stores import BlobStore
from store.blob_stores.copies import BlobCopies
from store.blob_stores.file import FileBlobStore
from store.blob_stores.s3 import S3BlobStore
from tests.object_store import AgedBucket, ObjectPath, ObjectStore
from tests.ports.checkpoint_places import Place, S3Place

KINDS = ["file", "s3"]


class BlobPlace(Protocol):
    url: str

    def open(self) -> BlobStore:
        """As another process does, on another machine where that is possible."""
        ...

    def path(self, name: str) -> Any:
        """A blob, as something with read_bytes, write_bytes and unlink."""
        ...

    def age(self, by_s: float) -> None: ...

    def leave_behind(self, data: bytes) -> None:
        """What a writer leaves that was killed before its blob was whole."""
        ...


class FileBlobPlace:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "blobs"
        self.url = f"file://{self.root}"

    def open(self) -> FileBlobStore:
        return FileBlobStore(self.root)

    def path(self, name: str) -> Path:
        return self.root / name[:2] / name

    def age(self, by_s: float) -> None:
        for path in self.root.rglob("*"):
            past = path.stat().st_mtime - by_s
            os.utime(path, (time.time(), past))

    def leave_behind(self, data: bytes) -> None:
        self.open().draft().write(data)


class S3BlobPlace:
    def __init__(self, s3: ObjectStore, folder: Path) -> None:
        self.s3 = s3
        self.prefix = uuid.uuid4().hex
        self.url = s3.url(folder / "blob-cache", self.prefix)
        self._folder = folder
        self._older = dict[str, float]()

    def open(self) -> S3BlobStore:
        """Without copies, so that what was harmed is what is read."""
        copies = BlobCopies(self._folder / f"blob-cache-{uuid.uuid4().hex}", 2**30)
        return S3BlobStore(AgedBucket(self.s3, self.prefix, self._older), copies, fresh_s=0.0)

    def path(self, name: str) -> ObjectPath:
        return ObjectPath(self.s3, f"{self.prefix}/{name[:2]}/{name}")

    def age(self, by_s: float) -> None:
        AgedBucket(self.s3, self.prefix, self._older).age(by_s)

    def leave_behind(self, data: bytes) -> None:
        key = self.path("a" * 64).key
        upload = self.s3.client.create_multipart_upload(Bucket="checkpoints", Key=key)
        part = {"UploadId": upload["UploadId"], "PartNumber": 1, "Body": data}
        self.s3.client.upload_part(Bucket="checkpoints", Key=key, **part)


def blob_place_beside(place: Place, folder: Path) -> BlobPlace:
    """For blobs of a service whose checkpoints lie there."""
    return S3BlobPlace(place.s3, folder) if isinstance(place, S3Place) else FileBlobPlace(folder)


def blob_place_maker(kind: str, request: pytest.FixtureRequest) -> Callable[[Path], BlobPlace]:
    """A blob store with nothing in it, which belongs to this folder."""
    return FileBlobPlace if kind == "file" else partial(S3BlobPlace, request.getfixturevalue("s3"))
