"""Blobs on a file system that server and trainer share. Durable before `put` returns."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import structlog

from store.blob_stores.base import OWNER, StoredBlob
from store.blob_stores.draft import LocalDraft
from store.disk.durable import DurableFolders, sync_file, sync_folder
from store.disk.folder_url import folder_of_url
from wire.errors import CorruptCheckpoint
from wire.process.faults import fault_point

log = structlog.get_logger(__name__)

_NAME = re.compile(r"[0-9a-f]{64}")
_ASIDE = ".removed-"
_OURS = re.compile(
    r"[0-9a-f]{2}/(\.removed-)*([0-9a-f]{64}|\.[0-9a-f]{64}\.[0-9a-f]{32})"
    r"|drafts/(\.removed-)*\.[0-9a-f]{32}"
)
"""All that a store writes in folders of its own. Whatever else is in its folder is somebody else's, and stays."""


class FileBlobStore:
    """Blobs as files under a folder, named by the SHA-256 of their content."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders = DurableFolders(root)

    @classmethod
    def from_url(cls, url: str) -> FileBlobStore:
        """From `file:///absolute/path`. Raises ValueError."""
        return cls(folder_of_url(url))

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        path = self._path(name)
        if not self._is_kept(path):
            self._folders.make(path.parent)
            draft = path.with_name(f".{name}.{uuid.uuid4().hex}")
            try:
                fault_point("blob:before-write")
                draft.write_bytes(data)
                fault_point("blob:before-fsync")
                sync_file(draft)
                fault_point("blob:before-rename")
                draft.rename(path)
            finally:
                draft.unlink(missing_ok=True)  # a full disk leaves no half blob behind
        fault_point("blob:before-folder-fsync")
        sync_folder(path.parent)  # also for a blob that another writer has just renamed
        fault_point("blob:after-folder-fsync")
        return name

    def has(self, name: str) -> bool:
        return self._path(name).exists()

    def draft(self) -> LocalDraft:
        folder = self._root / "drafts"
        self._folders.make(folder)
        return LocalDraft(folder / f".{uuid.uuid4().hex}", self._adopt)

    def open(self, name: str) -> BinaryIO:
        try:
            return self._found(name)
        except FileNotFoundError:
            raise CorruptCheckpoint(f"blob {name} is missing from {self._root}") from None

    def get(self, name: str) -> bytes:
        with self.open(name) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != name:
            raise CorruptCheckpoint(f"blob {name} in {self._root} was altered")
        return data

    def check(self, name: str) -> str | None:
        try:
            with self._found(name) as file:
                return None if hashlib.file_digest(file, "sha256").hexdigest() == name else "changed"
        except FileNotFoundError:
            return "missing"

    def stored(self) -> Iterator[StoredBlob]:
        for path in self._root.glob("*/*"):
            key = path.relative_to(self._root).as_posix()
            if not _OURS.fullmatch(key):
                continue
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # finished or removed this moment
            name = path.name if _NAME.fullmatch(path.name) else None
            yield StoredBlob(name, key, found.st_size, time.time() - found.st_mtime)

    def answers(self) -> bool:
        """A network's file system that is silent lets this wait."""
        self._root.exists()
        return True

    def owner(self) -> str | None:
        try:
            return (self._root / OWNER).read_text("ascii", "replace").strip()
        except FileNotFoundError:
            return None

    def claim(self, service: str) -> None:
        self._folders.make(self._root)
        draft = self._root / f".{OWNER}.{uuid.uuid4().hex}"
        try:
            draft.write_text(service)
            sync_file(draft)
            draft.rename(self._root / OWNER)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(self._root)

    def remove_older(self, blobs: Sequence[StoredBlob], age_s: float) -> list[StoredBlob]:
        return [blob for blob in blobs if self._remove_if_older(self._root / blob.key, age_s)]

    def _remove_if_older(self, path: Path, age_s: float) -> bool:
        """A file is moved aside before its age is looked at for the last time: a writer that found the blob there has
        either made it young by then, and it comes back, or finds it gone and writes it anew."""
        if _NAME.fullmatch(path.name.removeprefix(_ASIDE)) and path.name.startswith(_ASIDE):
            return self._bring_back(path)
        aside = path.with_name(f"{_ASIDE}{path.name}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return False
        if time.time() - aside.stat().st_mtime < age_s:
            aside.rename(path)
            return False
        aside.unlink()
        return True

    def _bring_back(self, aside: Path) -> bool:
        """What a collection that was killed moved aside: somebody may need it, which the next one finds out. True for
        one that was written anew meanwhile: then it goes."""
        path = aside.with_name(aside.name.removeprefix(_ASIDE))
        try:
            if path.exists():
                aside.unlink()
                return True
            aside.rename(path)
            os.utime(path)  # in case a writer put it between the two
        except FileNotFoundError:
            log.info("blob_removed_meanwhile", blob=path.name)
        return False

    def _adopt(self, draft: Path, name: str) -> None:
        path = self._path(name)
        if not self._is_kept(path):
            self._folders.make(path.parent)
            sync_file(draft)
            draft.rename(path)
        sync_folder(path.parent)

    def _is_kept(self, path: Path) -> bool:
        """Whether the blob is there, and is what its name says: one that was altered is written anew. It is young from
        now on, so that nobody collects it before its row commits."""
        try:
            os.utime(path)
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == path.name:
                    return True
            reason = "its content is another"
        except FileNotFoundError:
            return False
        except OSError as error:
            reason = error.strerror or type(error).__name__
        log.warning("altered_blob_replaced", blob=path.name, reason=reason)
        return False

    def _found(self, name: str) -> BufferedReader:
        """The blob, which may lie aside for an instant, or since a collection was killed: see `_remove_if_older`.
        Raises FileNotFoundError."""
        path = self._path(name)
        for place in (path, path.with_name(f"{_ASIDE}{name}")):
            with suppress(FileNotFoundError):
                return place.open("rb")
        return path.open("rb")

    def _path(self, name: str) -> Path:
        assert _NAME.fullmatch(name), name
        return self._root / name[:2] / name
