"""An object store that speaks S3 over HTTP: a process of its own, with nothing in it but what the tests put there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from store.object_store.bucket import Bucket, StoredObject, UnfinishedUpload, connect

BUCKET, OTHER_BUCKET = "checkpoints", "elsewhere"
Aged = TypeVar("Aged", StoredObject, UnfinishedUpload)


@dataclass(frozen=True)
class ObjectStore:
    """A bucket, and prefixes in it for whoever needs a place of their own."""

    endpoint: str
    client: Any
    bucket: str = BUCKET

    @property
    def other(self) -> ObjectStore:
        """Another bucket of the same server."""
        return replace(self, bucket=OTHER_BUCKET)

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.endpoint)

    def url(self, cache: Path, prefix: str | None = None) -> str:
        return f"s3://{self.bucket}/{prefix or uuid.uuid4().hex}?cache={cache}"

    def keys(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [row["Key"] for page in pages for row in page.get("Contents", ())]


@dataclass(frozen=True)
class ObjectPath:
    """An object as if it were a file."""

    store: ObjectStore
    key: str

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        return self.store.client.get_object(Bucket=self.store.bucket, Key=self.key)["Body"].read()

    def write_bytes(self, data: bytes) -> None:
        self.store.client.put_object(Bucket=self.store.bucket, Key=self.key, Body=data)

    def unlink(self) -> None:
        self.store.client.delete_object(Bucket=self.store.bucket, Key=self.key)


class AgedBucket(Bucket):
    """In which what was there when it aged is older than the server says: nobody can tell that when an object was put.
    Those of one prefix age together."""

    def __init__(self, store: ObjectStore, prefix: str, older: dict[str, float]) -> None:
        super().__init__(store.bucket, prefix, store.client)
        self._older = older

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self._older.pop(key, None)

    def make_young(self, key: str) -> None:
        super().make_young(key)
        self._older.pop(key, None)

    def age(self, by_s: float) -> None:
        found = [one.key for one in super().list()] + [one.key for one in super().unfinished_uploads()]
        self._older.update({key: self._older.get(key, 0.0) + by_s for key in found})

    def _as_aged(self, found: Aged) -> Aged:
        return replace(found, age_s=found.age_s + self._older.get(found.key, 0.0))

    def list(self, under: str = "") -> Iterator[StoredObject]:
        return map(self._as_aged, super().list(under))

    def find(self, key: str) -> StoredObject | None:
        found = super().find(key)
        return found and self._as_aged(found)

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        # The server says 2010 of every one.
        return (self._as_aged(replace(one, age_s=0.0)) for one in super().unfinished_uploads())


def environment(endpoint: str) -> dict[str, str]:
    """What a process needs to find the store. A proxy must not catch calls to this machine."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
    }


@contextmanager
def object_store(log: Path) -> Iterator[ObjectStore]:
    """Moto's server, for as long as the block runs; this process's environment points there meanwhile."""
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "0"], stdout=out, stderr=out)
    before = dict(os.environ)
    try:
        endpoint = _endpoint(process, log)
        os.environ.update(environment(endpoint))
        client = connect()
        for bucket in (BUCKET, OTHER_BUCKET):
            client.create_bucket(Bucket=bucket)
        yield ObjectStore(endpoint, client)
    finally:
        os.environ.clear()
        os.environ.update(before)
        process.kill()
        process.wait()


def _endpoint(process: subprocess.Popen[bytes], log: Path) -> str:
    import time

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text()):
            return found.group(1)
        time.sleep(0.05)
    raise AssertionError(f"the object store did not start\n{log.read_text()}")
