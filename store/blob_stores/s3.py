"""Blobs as objects of a bucket. What a bucket has acknowledged lasts, and every later read sees it."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import structlog

from store.blob_stores.base import OWNER, StoredBlob
from store.blob_stores.copies import BlobCopies
from store.blob_stores.draft import LocalDraft
from store.blob_stores.sharing import Fetches
from store.blob_stores.tombstones import FOLDER, LIFE_S, Tombstones
from store.object_store.bucket import Bucket, DamagedObject, NoSuchObject, connect
from store.object_store.location import Location
from wire.errors import CorruptCheckpoint, Unavailable
from wire.process.faults import fault_point

T = TypeVar("T")
log = structlog.get_logger(__name__)

_KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
_PARTS_OF = "#"
_FRESH_S = 60.0
"""A blob that was put so lately is not put again."""
_CHEAP_BYTES = 2**20
"""Up to so many are sent without a look whether they are there."""
_LARGE_BYTES = 16 * 2**20
_MOST_COPIED_BYTES = 5 * 2**30
"""S3's own bound of a copy."""
_ATTEMPTS, _READ_TIMEOUT_S = 5, 15.0
"""Of each request: requests of clients wait for it."""
_ANSWER_TIMEOUT_S = 2.0
_REMOVED_AT_ONCE = 200
_LOOKS = 8
_MOST_ROUNDS = 10
"""A writer that met so many collections one after another, or a bucket that does not show what was put, gives up."""
_MOST_REMEMBERED = 10_000
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Altered(CorruptCheckpoint):
    """What came is not what its name says."""


class S3BlobStore:
    """`<prefix>/<first two digits>/<name>`, and verified copies of some on a local disk. Nothing younger than twice
    `fresh_s` is ever removed, whatever a collection's grace period is."""

    def __init__(
        self, bucket: Bucket, copies: BlobCopies, *, fresh_s: float = _FRESH_S, asked: Bucket | None = None
    ) -> None:
        """asked: the same bucket by a client that waits little, for `answers`."""
        self._bucket = bucket
        self._asked = asked or bucket
        self._copies = copies
        self._fresh_s = fresh_s
        self._tombstones = Tombstones(bucket)
        self._fetches = Fetches()
        self._put_at: OrderedDict[str, float] = OrderedDict()

    @classmethod
    def from_url(cls, url: str) -> S3BlobStore:
        """From a `Location`. Raises ValueError."""
        location = Location.parse(url, copies="headway-blobs", copies_gib=4.0)
        bucket, asked = (
            Bucket(location.bucket, location.prefix, client, of="blob")
            for client in (
                connect(_ATTEMPTS, _READ_TIMEOUT_S),
                connect(1, _ANSWER_TIMEOUT_S, connect_timeout_s=_ANSWER_TIMEOUT_S),
            )
        )
        return cls(bucket, BlobCopies(location.cache, location.cache_bytes), asked=asked)

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self._put(name, len(data), lambda: self._upload(name, data))
        return name

    def has(self, name: str) -> bool:
        return self._bucket.exists(_key(name))

    def draft(self) -> LocalDraft:
        return LocalDraft(self._copies.draft(), self._adopt)

    def open(self, name: str) -> BinaryIO:
        return self._copy_or(name, lambda copy: copy, self._download)

    def get(self, name: str) -> bytes:
        return self._copy_or(name, _whole, self._get)

    def check(self, name: str) -> str | None:
        """Of the bucket, not of copies. What is wrong is looked at twice: it may have been so on its way alone."""
        return self._problem(name) and self._problem(name)

    def stored(self) -> Iterator[StoredBlob]:
        for row in self._bucket.list():
            if _KEY.fullmatch(row.key):
                yield StoredBlob(row.key.rpartition("/")[2], row.key, row.size, row.age_s)
            elif row.key.startswith(FOLDER):
                yield StoredBlob(None, row.key, row.size, row.age_s)
        try:
            for upload in self._bucket.unfinished_uploads():
                if _KEY.fullmatch(upload.key):
                    yield StoredBlob(None, f"{upload.key}{_PARTS_OF}{upload.upload_id}", 0, upload.age_s)
        except Unavailable as refused:  # some keys may not list them: no reason to collect nothing at all
            log.warning("unfinished_uploads_not_listed", reason=refused.message)

    def answers(self) -> bool:
        return self._asked.answers(OWNER)

    def owner(self) -> str | None:
        try:
            return self._bucket.get(OWNER).decode("ascii", "replace").strip()
        except NoSuchObject:
            return None
        except DamagedObject:
            raise self._altered(OWNER) from None

    def claim(self, service: str) -> None:
        self._bucket.put(OWNER, service.encode())

    def remove_older(self, blobs: Sequence[StoredBlob], age_s: float) -> list[StoredBlob]:
        removed = [blob for blob in blobs if blob.name is None and self._remove_unfinished(blob, age_s)]
        named = [blob for blob in blobs if blob.name is not None]
        for start in range(0, len(named), _REMOVED_AT_ONCE):
            removed += self._remove(named[start : start + _REMOVED_AT_ONCE], max(age_s, 2 * self._fresh_s))
        return removed

    def _put(self, name: str, size: int, upload: Callable[[], None]) -> None:
        """Store a blob, as `store.blob_stores.tombstones` says."""
        key = _key(name)
        if time.monotonic() - self._put_at.get(name, float("-inf")) < self._fresh_s:
            return
        for _ in range(_MOST_ROUNDS):
            begun = time.monotonic()
            if size <= _CHEAP_BYTES or not self._made_young(key, size):
                fault_point("blob:before-write")
                upload()
                if time.monotonic() - begun > self._fresh_s:
                    self._made_young(key, size)  # an object that came in parts is as old as the first of them
            fault_point("blob:before-look")
            if not self._tombstones.wait(name) and self._bucket.exists(key):
                fault_point("blob:after-look")
                self._remember(name, begun)
                return
        raise Unavailable(f"{self._bucket.called} does not show blob {name}, which was put there; try again")

    def _made_young(self, key: str, size: int) -> bool:
        """Whether there is such an object, which is young from now on."""
        found = self._bucket.find(key)
        if found is None or found.size != size or size > _MOST_COPIED_BYTES:
            return False
        if found.age_s < self._fresh_s:
            return True
        try:
            self._bucket.make_young(key)
        except NoSuchObject:
            return False
        return True

    def _remember(self, name: str, put_at: float) -> None:
        self._put_at[name] = put_at
        if len(self._put_at) > _MOST_REMEMBERED:
            self._put_at.popitem(last=False)

    def _upload(self, name: str, data: bytes) -> None:
        if len(data) <= _LARGE_BYTES:
            self._bucket.put(_key(name), data)
            return
        with self._bucket.uploading({_key(name): io.BytesIO(data)}):
            pass

    def _adopt(self, draft: Path, name: str) -> None:
        def upload() -> None:
            with self._bucket.uploading({_key(name): draft}):
                pass

        self._put(name, draft.stat().st_size, upload)
        self._copies.keep(draft, name)

    def _copy_or(self, name: str, read: Callable[[BinaryIO], T], fetch: Callable[[str], T]) -> T:
        """What `read` makes of the blob's copy, or `fetch` of the blob: by one thread, and then there is a copy for
        those that asked meanwhile. What came altered may have been so on its way, and is fetched twice."""
        if (copy := self._copies.open(name)) is not None:
            return read(copy)
        with self._fetches.turn(name) as is_first:
            if is_first:
                try:
                    return fetch(name)
                except _Altered:
                    log.warning("blob_came_altered", blob=name, then="it is fetched once more")
                    return fetch(name)
        copy = self._copies.open(name)
        return fetch(name) if copy is None else read(copy)

    def _problem(self, name: str) -> str | None:
        try:
            return None if self._bucket.digest(_key(name)) == name else "changed"
        except NoSuchObject:
            return "missing"
        except DamagedObject:
            return "changed"

    def _get(self, name: str) -> bytes:
        try:
            data = self._bucket.get_small(_key(name))
        except NoSuchObject:
            raise self._missing(name) from None
        except DamagedObject:
            raise self._altered(name) from None
        if data is None:
            return _whole(self._download(name))
        if hashlib.sha256(data).hexdigest() != name:
            raise self._altered(name)
        self._copies.write(name, data)
        return data

    def _download(self, name: str) -> BinaryIO:
        """Into a file: what is large does not fit into memory many times. Raises Unavailable where no disk takes it."""
        try:
            return self._download_where_room_is(name)
        except OSError as error:
            why = f"no disk of this machine takes a copy of blob {name} ({error.strerror or type(error).__name__})"
            raise Unavailable(f"{why}; make room in its data folder or in its folder for temporary files") from error

    def _download_where_room_is(self, name: str) -> BinaryIO:
        try:
            with self._copies.drafting() as draft:
                return self._download_to(draft, name)
        except OSError as error:
            if error.errno not in _FULL or not self._copies.clear():
                raise
        with self._copies.drafting() as draft:
            return self._download_to(draft, name)

    def _download_to(self, draft: Path, name: str) -> BinaryIO:
        try:
            self._bucket.download({_key(name): draft})
        except NoSuchObject:
            raise self._missing(name) from None
        except DamagedObject:
            raise self._altered(name) from None
        file = draft.open("rb")
        if hashlib.file_digest(file, "sha256").hexdigest() != name:
            file.close()
            raise self._altered(name)
        self._copies.keep(draft, name)
        file.seek(0)
        return file

    def _remove_unfinished(self, blob: StoredBlob, age_s: float) -> bool:
        if blob.age_s < age_s or (blob.key.startswith(FOLDER) and blob.age_s < LIFE_S):
            return False
        key, is_parts, upload_id = blob.key.partition(_PARTS_OF)
        if not is_parts:
            self._bucket.delete([key])
            return True
        try:
            self._bucket.abort_upload(key, upload_id)
        except NoSuchObject:
            log.info("upload_gone_already", key=key)
        return True

    def _remove(self, blobs: Sequence[StoredBlob], age_s: float) -> list[StoredBlob]:
        with self._tombstones.standing([blob.name or "" for blob in blobs]) as check:
            with ThreadPoolExecutor(_LOOKS, thread_name_prefix="blob-ages") as threads:
                found = list(threads.map(lambda blob: self._bucket.find(blob.key), blobs))
            old = [blob for blob, now in zip(blobs, found, strict=True) if now is not None and now.age_s >= age_s]
            self._bucket.delete([blob.key for blob in old], check)
        for blob in old:
            self._copies.discard(blob.name or "")
        return old

    def _missing(self, name: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"blob {name} is missing from {self._bucket.called}")

    def _altered(self, name: str) -> _Altered:
        return _Altered(f"blob {name} in {self._bucket.called} was altered")


def _whole(file: BinaryIO) -> bytes:
    with file:
        return file.read()


def _key(name: str) -> str:
    return f"{name[:2]}/{name}"
