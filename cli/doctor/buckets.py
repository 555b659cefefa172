"""A bucket, as it is reached from here: each right that planes use, one call each."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    NoCredentialsError,
    ParamValidationError,
)

from cli.doctor.clocks import Asked, http_clock_finding
from cli.doctor.finding import Finding, State
from cli.doctor.stores import PROBE
from store.object_store.bucket import connect

_ATTEMPTS, _READ_TIMEOUT_S = 2, 5.0
_CONTENT = b"probe"
_NO_ANSWER = "it does not answer"
_RIGHTS = {
    "list": "s3:ListBucket",
    "write": "s3:PutObject",
    "read": "s3:GetObject",
    "write in parts": "s3:PutObject and s3:AbortMultipartUpload",
    "list parts": "s3:ListBucketMultipartUploads",
    "delete": "s3:DeleteObject",
}

_OF_EVERYTHING = {
    "NoSuchBucket": "make the bucket, or mend its name in the store's URL",
    "RequestTimeTooSkewed": "set this machine's clock",
    "InvalidAccessKeyId": "mend AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "mend AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "renew the credentials, AWS_SESSION_TOKEN included",
    "InvalidToken": "mend AWS_SESSION_TOKEN, or unset it for keys that need none",
    "PermanentRedirect": "set AWS_DEFAULT_REGION to the bucket's region",
    "AuthorizationHeaderMalformed": "set AWS_DEFAULT_REGION to the bucket's region",
    "InvalidBucketName": "mend the bucket's name in the store's URL",
}
"""What a store answers to any call, once it has answered so to one."""


class Altered(Exception):
    """What was read is not what was written."""


def check_bucket(part: str, name: str, prefix: str) -> list[Finding]:
    """Of the objects under this prefix. Nothing of the probe is left, unless it may not delete."""
    try:
        bucket = _Probe(connect(_ATTEMPTS, _READ_TIMEOUT_S), name, f"{prefix}/{PROBE}/{uuid.uuid4().hex}".lstrip("/"))
    except ValueError as error:
        return [Finding(part, "reachable", State.NOT_OK, str(error), "mend the environment of this command")]
    return [*_examine(part, bucket)]


def _examine(part: str, probe: _Probe) -> Iterator[Finding]:
    asked_at = time.time()
    first = _tried(part, "list", probe.list)
    asked = Asked.since(asked_at)
    yield first
    if (clock := http_clock_finding(part, asked, probe.date)) is not None:
        yield clock
    if not probe.is_usable:
        return
    steps = {
        "write": probe.write,
        "read": probe.read,
        "write in parts": probe.write_in_parts,
        "list parts": probe.list_parts,
        "delete": probe.delete,
    }
    is_away = False
    for what, step in steps.items():
        if what == "read" and not probe.is_written:
            yield Finding(part, what, State.UNKNOWN, "nothing could be written that could be read")
        elif not is_away or what == "delete":  # which is tried whatever happens: nothing of the probe shall stay
            found = _tried(part, what, step)
            is_away = is_away or found.found.startswith(_NO_ANSWER)
            yield found


def _tried(part: str, what: str, step: Callable[[], None]) -> Finding:
    begun = time.perf_counter()
    try:
        step()
    except (ClientError, BotoCoreError, Altered) as error:
        return _refused(part, what, error)
    return Finding(part, what, State.OK, f"in {1000 * (time.perf_counter() - begun):.0f} ms")


def _refused(part: str, what: str, error: Exception) -> Finding:
    """Without the error's own words, which repeat endpoints and requests."""
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        remedy = _OF_EVERYTHING.get(code) or _remedy(error, what)
        return Finding(part, what, State.NOT_OK, f"it answers {code}", remedy)
    if isinstance(error, NoCredentialsError):
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role"
        return Finding(part, what, State.NOT_OK, "there are no credentials", remedy)
    if isinstance(error, ParamValidationError):
        remedy = "mend the bucket's name in the store's URL"
        return Finding(part, what, State.NOT_OK, "the URL names no bucket that there could be", remedy)
    if isinstance(error, Altered | FlexibleChecksumError):
        return Finding(part, what, State.NOT_OK, "what was read is not what was written", "do not use this store")
    at = "AWS_ENDPOINT_URL" if _has_endpoint() else "AWS_ENDPOINT_URL, which is not set: Amazon's own is asked"
    return Finding(part, what, State.NOT_OK, f"{_NO_ANSWER}: {type(error).__name__}", f"check {at}")


def _remedy(error: ClientError, what: str) -> str:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 403)
    if status in (401, 403):
        return f"allow {_RIGHTS.get(what, 'it')} to these credentials"
    if status >= 500:
        return "try again; where it stays, see the store's log, and that AWS_ENDPOINT_URL names an object store"
    return "see that AWS_ENDPOINT_URL names an object store that can do this"


def _has_endpoint() -> bool:
    return bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


@dataclass(slots=True)
class _Probe:
    """One object. date: what the store's clock showed when it listed. is_usable: it may allow the other calls.
    is_written: it is there."""

    client: Any
    bucket: str
    key: str
    date: str | None = None
    is_usable: bool = False
    is_written: bool = False

    def list(self) -> None:
        """One page, as short as can be."""
        try:
            reply = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.key, MaxKeys=1)
        except ClientError as error:
            self._note(error.response)
            self.is_usable = error.response.get("Error", {}).get("Code") not in _OF_EVERYTHING
            raise
        self._note(reply)
        self.is_usable = True

    def write(self) -> None:
        """At once."""
        self.client.put_object(Bucket=self.bucket, Key=self.key, Body=_CONTENT)
        self.is_written = True

    def read(self) -> None:
        """Raises Altered."""
        if self.client.get_object(Bucket=self.bucket, Key=self.key)["Body"].read() != _CONTENT:
            raise Altered

    def write_in_parts(self) -> None:
        """As large files are, and abort another, as those of dead processes are."""
        key = f"{self.key}-parts"
        upload = self._begun(key)
        try:
            part = self.client.upload_part(Body=_CONTENT, PartNumber=1, **upload)
            parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
            self.client.complete_multipart_upload(MultipartUpload=parts, **upload)
        except (ClientError, BotoCoreError):
            with suppress(ClientError, BotoCoreError):
                self.client.abort_multipart_upload(**upload)
            raise
        self.client.abort_multipart_upload(**self._begun(key))

    def list_parts(self) -> None:
        """Uploads that nobody has finished."""
        self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.key, MaxUploads=1)

    def delete(self) -> None:
        """Both objects. Raises ClientError as if they were one call each."""
        objects = [{"Key": self.key}, {"Key": f"{self.key}-parts"}]
        reply = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
        for error in reply.get("Errors", ()):
            raise ClientError({"Error": {"Code": error.get("Code", "unknown")}}, "DeleteObjects")

    def _begun(self, key: str) -> dict[str, str]:
        reply = self.client.create_multipart_upload(Bucket=self.bucket, Key=key)
        return {"Bucket": self.bucket, "Key": key, "UploadId": reply["UploadId"]}

    def _note(self, response: Any) -> None:
        self.date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
