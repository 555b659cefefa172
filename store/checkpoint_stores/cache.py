"""Copies of checkpoints on a local disk, shared by the processes of a machine, for stores that are not on one.

    <root>/<name>/…            a copy, whole; whoever reads it holds a shared lock on the folder
    <root>/.staging/<name>     being filled, locked by who fills it: what a dead process left is free, and goes
    <root>/.turns/00 … 0f      one at a time fills, by name: the others wait, and find it there

A name is `<model>.<checkpoint>.<part>`.
Bounded in bytes. What was not used for longest goes first, and never what somebody holds, nor what is no copy: a folder
that has other things as well keeps those.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import structlog

from store.checkpoint_stores.manifests import files_under
from store.disk.locks import lock

log = structlog.get_logger(__name__)

_STAGING, _TURNS = ".staging", ".turns"
_NUM_TURNS = 16
_COPY = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{32}\.[a-z]+")


class CheckpointCache:
    """Folders under a root, on a file system that knows flock and rename. Nothing is made before it is needed."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._held: dict[str, int] = {}
        self._filling: dict[Path, int] = {}

    @contextmanager
    def staging(self, name: str) -> Generator[Path]:
        """A new empty folder, which `keep` may take; removed at the end of the block otherwise."""
        staging = self._root / _STAGING
        staging.mkdir(parents=True, exist_ok=True)
        folder = staging / f"{name}-{uuid.uuid4().hex}"
        with self._turn(_STAGING):
            self._sweep(staging)
            folder.mkdir()
            descriptor = lock(folder, shared=True)
        assert descriptor is not None, "it is new"
        self._filling[folder] = descriptor
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if (descriptor := self._filling.pop(folder, None)) is not None:
                os.close(descriptor)

    @contextmanager
    def turn(self, name: str) -> Generator[None]:
        """Nobody else who asks for a turn with this name is in this block."""
        with self._turn(f"{zlib.crc32(name.encode()) % _NUM_TURNS:02x}"):
            yield

    def hold(self, name: str) -> Path | None:
        """The copy of this name, if there is one, which stays until `release`."""
        folder = self._root / name
        descriptor = lock(folder, shared=True)
        if descriptor is None:
            return None
        os.utime(folder)
        self._hold(name, descriptor)
        return folder

    def release(self, name: str) -> None:
        """End this process's hold, if it has one."""
        descriptor = self._held.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def keep(self, filled: Path, name: str, *, hold: bool) -> Path:
        """Give a folder of `staging` this name; what stands there already stays instead. Then make room."""
        folder = self._root / name
        try:
            filled.rename(folder)
        except OSError:
            if not folder.is_dir() or (hold and self.hold(name) is None):
                raise
        else:
            if hold:  # its lock came along, so that nobody can evict it in between
                self._hold(name, self._filling.pop(filled))
        self._make_room()
        return folder

    def discard(self, name: str) -> bool:
        """Remove the copy of this name. False when somebody else holds it."""
        self.release(name)
        return self._remove(self._root / name) or not (self._root / name).exists()

    @contextmanager
    def _turn(self, name: str) -> Generator[None]:
        turns = self._root / _TURNS
        turns.mkdir(parents=True, exist_ok=True)
        (turns / name).touch()
        descriptor = lock(turns / name)
        assert descriptor is not None, "nobody removes these"
        try:
            yield
        finally:
            os.close(descriptor)

    def _hold(self, name: str, descriptor: int) -> None:
        self.release(name)
        self._held[name] = descriptor

    def _sweep(self, staging: Path) -> None:
        for folder in staging.iterdir():
            self._remove(folder)

    def _make_room(self) -> None:
        copies = sorted((f for f in self._root.iterdir() if _COPY.fullmatch(f.name)), key=_last_used)
        sizes = {folder: _size(folder) for folder in copies}
        excess = sum(sizes.values()) - self._max_bytes
        for folder in copies:
            if excess <= 0:
                return
            if self._remove(folder):
                excess -= sizes[folder]
                log.info("copy_evicted", copy=folder.name, bytes=sizes[folder])
        if excess > 0:
            log.warning("checkpoint_cache_over_its_bound", excess_bytes=excess, reason="all that is left is in use")

    def _remove(self, folder: Path) -> bool:
        """Whether it was there and nobody held it."""
        descriptor = lock(folder, wait=False)
        if descriptor is None:
            return False
        try:
            aside = self._root / _STAGING / f"removed-{uuid.uuid4().hex}"
            aside.parent.mkdir(exist_ok=True)
            folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            os.close(descriptor)
        return True


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # evicted this moment


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in files_under(folder))
    except FileNotFoundError:
        return 0
