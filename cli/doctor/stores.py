"""Stores of files, as they are reached from here: each right is used once, on a file or object that nobody else has."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from cli.doctor.finding import Finding, State
from store.disk.folder_url import folder_of_url
from store.object_store.location import Location

PROBE = "doctor-probe"
_LEAST_FREE_BYTES = 2**30


def check_store(part: str, url: str) -> list[Finding]:
    """Of the store at this URL."""
    try:
        return _check_folder(part, folder_of_url(url)) if url.startswith("file:") else _check_bucket(part, url)
    except ValueError as error:
        return [Finding(part, "reachable", State.NOT_OK, str(error), "mend the store's URL")]


def _check_bucket(part: str, url: str) -> list[Finding]:
    location = Location.parse(url, copies="")
    try:
        from cli.doctor.buckets import check_bucket
    except ModuleNotFoundError as missing:
        remedy = "pip install 'headway[s3]'"
        return [Finding(part, "reachable", State.NOT_OK, f"{missing.name} is not installed", remedy)]
    return check_bucket(part, location.bucket, location.prefix)


def disk_finding(part: str, folder: Path) -> Finding:
    """How much room is left where a folder is, or would be made."""
    while not _is_there(folder):
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.0f} GiB are free at {folder}"
    if usage.free >= _LEAST_FREE_BYTES:
        return Finding(part, "free disk", State.OK, found)
    return Finding(part, "free disk", State.NOT_OK, found, "make room, or `headway gc`; steps wait for it")


def _is_there(folder: Path) -> bool:
    """For all that this user can see."""
    try:
        return folder.exists()
    except PermissionError:
        return False


def _check_folder(part: str, folder: Path) -> list[Finding]:
    if not _is_there(folder):
        remedy = "made by the first plane that writes there; planes on several machines need one folder that all see"
        return [Finding(part, "reachable", State.NOTE, f"there is no {folder} yet", remedy), disk_finding(part, folder)]
    probe = folder / f".{PROBE}-{uuid.uuid4().hex}"
    try:
        _use(probe)
    except OSError as error:
        found, of_room = f"{folder}: {error.strerror}", disk_finding(part, folder)
        return [Finding(part, "rights", State.NOT_OK, found, _remedy(error)), of_room]
    finally:
        with suppress(OSError):
            probe.unlink()
    found = f"lists, writes, reads and deletes in {folder}"
    return [Finding(part, "rights", State.OK, found), disk_finding(part, folder)]


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room, or `headway gc`"
    if error.errno == errno.ENOTDIR:
        return "mend the store's URL: it names a file"
    if error.errno == errno.EROFS:
        return "mount it writable"
    return f"let this user (uid {os.geteuid()}) read and write there"


def _use(probe: Path) -> None:
    next(probe.parent.iterdir(), None)
    with probe.open("wb") as file:
        file.write(b"probe")
        os.fsync(file.fileno())
    probe.read_bytes()
    probe.unlink()
