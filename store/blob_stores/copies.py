"""Copies of blobs on a local disk, shared by the processes of a machine, for stores that are not on one.

    <root>/<first two digits>/<name>   a copy, whole; checked against its name whenever it is read
    <root>/.drafts/…                   being written

Bounded in bytes; what was not used for longest goes first, and nothing but copies: a folder that has other files as
well keeps those. Who has a copy open may read on after it went. A disk that takes no copies makes reading slower, and
nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import structlog

log = structlog.get_logger(__name__)

_DRAFTS = ".drafts"
_FOLDER = re.compile(r"[0-9a-f]{2}|\.drafts")
_COPY = re.compile(r"[0-9a-f]{64}")
_FULL_SHARE = 0.9
"""What is left of the bound when room was made, so that it is not made again with the next copy."""
_LOOK_SHARE = 1 / 16
"""Of the bound: so many bytes are written by a process before it looks how many there are."""
_DEAD_S = 24 * 3600.0


class BlobCopies:
    """Files under a root. Threads may share it. Nothing is made before it is needed."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._unseen_bytes = max_bytes  # what other processes left is looked at with the first copy
        self._lock = threading.Lock()

    def open(self, name: str) -> BinaryIO | None:
        """The copy of this blob, if there is one that is what its name says."""
        path = self._path(name)
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return None  # whoever else may write there could have us wait for a pipe
            file = path.open("rb")
        except OSError:
            return None
        if hashlib.file_digest(file, "sha256").hexdigest() != name:
            file.close()
            log.warning("copy_harmed", copy=name)
            self.discard(name)
            return None
        with suppress(OSError):
            os.utime(path)
        file.seek(0)
        return file

    def draft(self) -> Path:
        """A new empty file, on the disk of the copies if that can be written to. Raises OSError."""
        folder = self._root / _DRAFTS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._leave_free()
            descriptor, path = tempfile.mkstemp(dir=folder)
        except OSError:
            descriptor, path = tempfile.mkstemp(prefix="headway-blob-")
        os.close(descriptor)
        return Path(path)

    @contextmanager
    def drafting(self) -> Generator[Path]:
        """A new empty file, which `keep` may take; removed at the end of the block otherwise. Raises OSError."""
        path = self.draft()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, draft: Path, name: str) -> None:
        """Take a file of `draft` as the copy of this blob, if it fits."""
        try:
            size, path = draft.stat().st_size, self._path(name)
            if size > self._max_bytes:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(path)
            self._make_room(size)
        except OSError as error:
            log.warning("copy_not_kept", copy=name, reason=error.strerror)

    def write(self, name: str, data: bytes) -> None:
        """Keep a copy, if that is possible."""
        try:
            with self.drafting() as draft:
                draft.write_bytes(data)
                self.keep(draft, name)
        except OSError as error:
            log.warning("copy_not_kept", copy=name, reason=error.strerror)

    def discard(self, name: str) -> None:
        """Remove the copy, if there is one."""
        with suppress(OSError):
            self._path(name).unlink()

    def clear(self) -> bool:
        """Remove every copy; whether there was one."""
        return self._remove(self._max_bytes) > 0

    def _leave_free(self) -> None:
        """Copies go before the disk is full: what comes now, and whatever else writes there, needs it more."""
        lacking = int(self._max_bytes * _LOOK_SHARE) - shutil.disk_usage(self._root).free
        if lacking > 0:
            self._remove(lacking)

    def _make_room(self, num_bytes: int) -> None:
        with self._lock:
            self._unseen_bytes += num_bytes
            if self._unseen_bytes < self._max_bytes * _LOOK_SHARE:
                return
            self._unseen_bytes = 0
        excess = sum(size for _, size, _ in _files(self._root)) - self._max_bytes
        self._remove(excess + int(self._max_bytes * (1 - _FULL_SHARE)) if excess > 0 else 0)

    def _remove(self, num_bytes: int) -> int:
        """Drafts of dead processes, and copies of so many bytes, those first that were not used for longest; how many
        bytes went."""
        removed = 0
        for used_at, size, path in sorted(_files(self._root)):
            is_dead = path.parent.name == _DRAFTS and time.time() - used_at > _DEAD_S
            if is_dead or (removed < num_bytes and path.parent.name != _DRAFTS):
                path.unlink(missing_ok=True)
                removed += size
        return removed

    def _path(self, name: str) -> Path:
        return self._root / name[:2] / name


def _files(root: Path) -> Generator[tuple[float, int, Path]]:
    """Copies and drafts: when each was used, and how large it is. Not what lies behind links, nor what is not ours."""
    folders = [folder for folder in root.iterdir() if _FOLDER.fullmatch(folder.name) and not folder.is_symlink()]
    for path in (path for folder in folders if folder.is_dir() for path in folder.iterdir()):
        with suppress(FileNotFoundError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and (path.parent.name == _DRAFTS or _COPY.fullmatch(path.name)):
                yield found.st_mtime, found.st_size, path
