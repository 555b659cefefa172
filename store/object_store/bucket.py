"""What we ask of a bucket, with boto3; and its many ways to fail as three errors of ours."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import botocore.loaders
import botocore.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from s3transfer.exceptions import RetriesExceededError
from urllib3.exceptions import HTTPError

from store.object_store.away import StoreAway

_PART_BYTES = 16 * 2**20
_TRANSFERS = 8
_DELETED_AT_ONCE = 1000
_READ_BYTES = 2**20
_CLOCK = "this machine's clock is over 15 minutes off the store's: set the clock of this machine, by NTP for example"
_MOST_SKEW = timedelta(minutes=15)
_BEFORE_DELETING: ContextVar[Callable[[], None] | None] = ContextVar("before_deleting", default=None)
_MISSING = {"404", "NoSuchKey", "NotFound"}

# With the pauses between them, some 15 seconds: a server that is restarted, or says SlowDown, is back by then.
_MAX_ATTEMPTS = 6


_READS = 3
_BROKEN_OFF = (ResponseStreamingError, IncompleteReadError, ReadTimeoutError)

T = TypeVar("T")


class NoSuchObject(Exception):
    """There is no object of this name."""


class DamagedObject(Exception):
    """What came is not what was once put there, says the store's own checksum."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """`key` is relative to the prefix; size in bytes. Its age is by the store's clock, in whole seconds: ours may be
    off by an hour."""

    key: str
    size: int
    age_s: float


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """Parts of an object that nobody has put together yet. No listing of objects shows them, and they cost money."""

    key: str
    upload_id: str
    age_s: float


_ONE_WORD = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"),
    "AWS_ENDPOINT_URL",
)
"""A Secret that was made of a file ends with the end of a line: boto3 would sign with it, and could not send that."""


def connect(max_attempts: int = _MAX_ATTEMPTS, read_timeout_s: float = 30.0, *, connect_timeout_s: float = 5.0) -> Any:
    """A client for what the environment names (AWS_*). Talks to nobody yet. Raises ValueError for an environment that
    names no endpoint, key or profile that there could be, without its words: an endpoint may hold secrets."""
    for variable in _ONE_WORD:
        if os.environ.get(variable, "") != os.environ.get(variable, "").strip():
            raise ValueError(f"{variable} has a blank or a line's end at its end: set it, or make its Secret, without")
    config = Config(
        retries={"mode": "standard", "max_attempts": max_attempts},
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        max_pool_connections=2 * _TRANSFERS,
        tcp_keepalive=True,
    )
    try:
        session = botocore.session.Session()
        session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
        return session.create_client("s3", config=config)
    except ValueError:
        raise ValueError("AWS_ENDPOINT_URL is no URL of an object store: write http(s)://HOST:PORT") from None
    except BotoCoreError as error:
        raise ValueError(f"AWS_* and the files of ~/.aws do not fit together: {type(error).__name__}") from None


@cache
def _loader(folders: str | None) -> Any:
    """Of botocore's descriptions of services and endpoints, 2 MB of JSON: read once a process, and not for each client.
    folders: with more of them, as AWS_DATA_PATH has it."""
    return botocore.loaders.create_loader(folders)


class Bucket:
    """The objects under a prefix. Every method raises Unavailable when the store does not answer, or refuses."""

    def __init__(self, name: str, prefix: str, client: Any, *, of: str = "checkpoint") -> None:
        """`client`: of `connect`; threads may share it. `of`: what lies there, for sentences."""
        self._of = of
        self._name = name
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = client
        config = TransferConfig(
            multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=_TRANSFERS
        )
        # After a request was signed, and for each of its repetitions: boto3 makes those within one call.
        client.meta.events.register("before-send.s3.DeleteObjects", _check_deletion, unique_id="headway-check")
        self._transfers: Any = create_transfer_manager(self._client, config)

    @property
    def called(self) -> str:
        """For people who read a sentence."""
        return f"s3://{self._name}/{self._prefix}"

    def list(self, under: str = "") -> Iterator[StoredObject]:
        """Every object whose key begins so."""
        pages = self._client.get_paginator("list_objects_v2")
        with self._answering():
            for page in pages.paginate(Bucket=self._name, Prefix=self._prefix + under):
                for row in page.get("Contents", ()):
                    yield StoredObject(self._relative(row["Key"]), row["Size"], _age_s(page, row["LastModified"]))

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.find(key) is not None

    def find(self, key: str) -> StoredObject | None:
        """The object of this key, without its content."""
        try:
            with self._answering():
                found = self._client.head_object(Bucket=self._name, Key=self._prefix + key)
        except NoSuchObject:
            return None
        if "LastModified" not in found:
            raise self._unavailable("what answers there is no object store, see AWS_ENDPOINT_URL")
        return StoredObject(key, found["ContentLength"], _age_s(found, found["LastModified"]))

    def answers(self, key: str) -> bool:
        """Whether the store says anything about this object, a refusal included."""
        try:
            self._client.head_object(Bucket=self._name, Key=self._prefix + key)
        except ClientError:
            return True
        except (BotoCoreError, HTTPError):
            return False
        return True

    def get(self, key: str) -> bytes:
        """A small object. Raises NoSuchObject, DamagedObject."""
        return self._reading(key, lambda found: found["Body"].read())

    def get_small(self, key: str) -> bytes | None:
        """An object's content, unless it is large enough to be worth `download`. Raises NoSuchObject, DamagedObject."""

        def read(found: Any) -> bytes | None:
            if found["ContentLength"] <= _PART_BYTES:
                return found["Body"].read()
            found["Body"].close()
            return None

        return self._reading(key, read)

    def make_young(self, key: str) -> None:
        """Copy an object over itself, which makes it as young as a new one. Raises NoSuchObject."""
        source: dict[str, str] = {"Bucket": self._name, "Key": self._prefix + key}
        # A copy is one part, whatever its source was: its checksum is another.
        how = {"MetadataDirective": "REPLACE", "ChecksumAlgorithm": "CRC32"}
        with self._answering():
            self._client.copy_object(**source, CopySource=source, **how)

    def put(self, key: str, data: bytes) -> None:
        """A small object, that lasts when this returns."""
        with self._answering():
            self._client.put_object(Bucket=self._name, Key=self._prefix + key, Body=data)

    def digest(self, key: str) -> str:
        """SHA-256 of an object's content. Raises NoSuchObject, DamagedObject."""

        def read(found: Any) -> str:
            digest = hashlib.sha256()
            for chunk in found["Body"].iter_chunks(_READ_BYTES):
                digest.update(chunk)
            return digest.hexdigest()

        return self._reading(key, read)

    @contextmanager
    def uploading(self, files: Mapping[str, Path | BinaryIO]) -> Generator[None]:
        """Files by key, all at once, large ones in parts. They travel while the block runs, and last after it."""
        uploads = (
            self._transfers.upload(str(file) if isinstance(file, Path) else file, self._name, self._prefix + key)
            for key, file in files.items()
        )
        try:
            with self._travelling(uploads):
                yield
        except NoSuchObject:  # its parts were removed, or it was finished and the answer lost
            raise self._unavailable("it forgot an upload that was under way") from None

    def download(self, files: Mapping[str, Path]) -> None:
        """Objects into files, all at once, large ones in ranges. Raises NoSuchObject, DamagedObject."""
        with self._travelling(
            self._transfers.download(self._name, self._prefix + key, str(path)) for key, path in files.items()
        ):
            pass

    def delete(self, keys: Collection[str], check: Callable[[], None] | None = None) -> None:
        """Objects that may be there or not. `check` is called right before each request and each repetition of one,
        which is not sent if it raises."""
        rows = [{"Key": self._prefix + key} for key in keys]
        with self._answering(), _checking(check):
            for start in range(0, len(rows), _DELETED_AT_ONCE):
                some = {"Objects": rows[start : start + _DELETED_AT_ONCE], "Quiet": True}
                refused = self._client.delete_objects(Bucket=self._name, Delete=some).get("Errors")
                if refused:
                    raise self._unavailable(f"it does not delete ({refused[0].get('Code')})")

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        """Of all processes: those under way, and those of processes that died."""
        pages = self._client.get_paginator("list_multipart_uploads")
        with self._answering():
            for page in pages.paginate(Bucket=self._name, Prefix=self._prefix):
                for row in page.get("Uploads", ()):
                    yield UnfinishedUpload(self._relative(row["Key"]), row["UploadId"], _age_s(page, row["Initiated"]))

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Remove the parts. Raises NoSuchObject when it was finished or aborted meanwhile."""
        with self._answering():
            self._client.abort_multipart_upload(Bucket=self._name, Key=self._prefix + key, UploadId=upload_id)

    def _reading(self, key: str, read: Callable[[Any], T]) -> T:
        """What `read` makes of an object; once more where its body breaks off: botocore repeats what failed before."""
        with self._answering():
            for attempt in range(1, _READS + 1):
                found = self._client.get_object(Bucket=self._name, Key=self._prefix + key)
                try:
                    return read(found)
                except _BROKEN_OFF:
                    if attempt == _READS:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def _relative(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    @contextmanager
    def _travelling(self, transfers: Iterator[Any]) -> Generator[None]:
        under_way: list[Any] = []
        try:
            with self._answering():
                under_way += transfers
                yield
                for transfer in under_way:
                    transfer.result()
        except BaseException:
            for transfer in under_way:
                transfer.cancel()
            for transfer in under_way:  # they write into files, or read them, until they have noticed
                with suppress(Exception):
                    transfer.result()
            raise

    @contextmanager
    def _answering(self) -> Generator[None]:
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code in _MISSING or code == "NoSuchUpload":
                raise NoSuchObject(code) from None
            raise self._unavailable(_CLOCK if _is_skewed(code, error) else f"it answers {code}") from None
        except FlexibleChecksumError as error:
            raise DamagedObject(str(error)) from None
        except NoCredentialsError:
            raise self._unavailable(
                "there are no credentials, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        except (BotoCoreError, Boto3Error, RetriesExceededError, HTTPError) as error:
            raise self._unavailable(f"it does not answer: {type(error).__name__}") from None

    def _unavailable(self, why: str) -> StoreAway:
        """Without the error's own words: they repeat endpoints, which may hold secrets."""
        endpoint = "" if _has_endpoint() else " (AWS_ENDPOINT_URL is not set: Amazon's own)"
        sentence = f"the {self._of} store {self.called}{endpoint} cannot be used, {why}"
        return StoreAway(f"{sentence}; what was stored is not lost, try again when it is back")


@contextmanager
def _checking(check: Callable[[], None] | None) -> Generator[None]:
    before = _BEFORE_DELETING.set(check)
    try:
        yield
    finally:
        _BEFORE_DELETING.reset(before)


def _check_deletion(**_: Any) -> None:
    if (check := _BEFORE_DELETING.get()) is not None:
        check()


def _is_skewed(code: str, error: ClientError) -> bool:
    """Whether the clock is why. An answer to HEAD has no body and says no more than 403: its time has to do."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if code != "403" or "date" not in headers:
        return code == "RequestTimeTooSkewed"
    return abs(parsedate_to_datetime(headers["date"]) - datetime.now(UTC)) > _MOST_SKEW


def _age_s(answer: Any, modified: datetime) -> float:
    """By the clock of whoever answered, which is the one that wrote `modified`; ours where it does not say."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    now = parsedate_to_datetime(date).replace(tzinfo=UTC) if date else datetime.now(UTC)
    return (now - modified).total_seconds()


def _has_endpoint() -> bool:
    return bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
