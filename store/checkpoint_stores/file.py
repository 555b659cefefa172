"""Checkpoints on a file system that server, trainer and samplers share: stage, rename, fsync."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from uuid import UUID

from store.checkpoint_stores.base import (
    ADAPTER,
    STATE,
    CheckpointFiles,
    FileProblem,
    Manifest,
    StoredCheckpoint,
)
from store.durable import DurableFolders, sync_file, sync_folder
from wire.errors import CorruptCheckpoint
from wire.faults import fault_point

_MANIFEST = "manifest.json"
_STAGING = ".staging"


class FileCheckpointStore:
    """`<root>/<model>/<checkpoint>/{adapter,state}/…` and `manifest.json`. A folder without manifest does not
    exist: the rename that brings the manifest into view brings everything. What a power cut leaves of a folder that was
    not settled fails its verification, and no committed checkpoint names it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders = DurableFolders(root)

    @classmethod
    def from_url(cls, url: str) -> FileCheckpointStore:
        """From `file:///absolute/path`."""
        return cls(Path(unquote(urlparse(url).path)))

    @contextmanager
    def stage(self, model: UUID, checkpoint: UUID) -> Generator[Path]:
        staged = self._root / _STAGING / f"{checkpoint.hex}-{uuid.uuid4().hex}"
        for part in (ADAPTER, STATE):
            (staged / part).mkdir(parents=True)
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def publish(self, model: UUID, checkpoint: UUID, staged: Path) -> Manifest:
        manifest = Manifest({p.relative_to(staged).as_posix(): _measure(p) for p in _files_under(staged)})
        fault_point("publish:before-manifest")
        (staged / _MANIFEST).write_text(json.dumps(manifest.to_json(), indent=1))
        target = self._folder(model, checkpoint)
        self._folders.make(target.parent)
        fault_point("publish:before-rename")
        staged.rename(target)
        fault_point("publish:after-rename")
        return manifest

    def settle(self, model: UUID, checkpoint: UUID) -> None:
        folder = self._folder(model, checkpoint)
        fault_point("settle:before-fsync")
        for path in (*_files_under(folder / ADAPTER), *_files_under(folder / STATE), folder / _MANIFEST):
            sync_file(path)
        fault_point("settle:before-folder-fsync")
        for folder_to_sync in (folder / ADAPTER, folder / STATE, folder, folder.parent):
            sync_folder(folder_to_sync)
        fault_point("settle:after-folder-fsync")

    def fetch(self, model: UUID, checkpoint: UUID, *, state: bool = True) -> CheckpointFiles:
        folder = self._folder(model, checkpoint)
        manifest = _read_manifest(folder)
        wanted = (ADAPTER, STATE) if state else (ADAPTER,)
        for path, expected in manifest.files.items():
            if path.split("/")[0] in wanted:
                _verify(folder / path, expected)
        has_state = any(path.startswith(f"{STATE}/") for path in manifest.files)
        return CheckpointFiles(folder / ADAPTER, folder / STATE if state and has_state else None)

    def describe(self, model: UUID, checkpoint: UUID, part: str) -> str:
        return f"checkpoints/{model.hex}/{checkpoint.hex}/{part}"

    def stored(self) -> Iterator[StoredCheckpoint]:
        for folder in self._root.glob("*/*"):
            try:
                model, checkpoint = UUID(hex=folder.parent.name), UUID(hex=folder.name)
                age_s = time.time() - folder.stat().st_mtime
            except (ValueError, FileNotFoundError):
                continue  # not ours, or removed this moment
            yield StoredCheckpoint(model, checkpoint, bool(_files_under(folder / STATE)), age_s)

    def check(
        self, model: UUID, checkpoint: UUID, manifest: Manifest, parts: Collection[str], *, read: bool = True
    ) -> list[FileProblem]:
        folder = self._folder(model, checkpoint)
        expected = {path: facts for path, facts in manifest.files.items() if path.split("/")[0] in parts}
        found = {path.relative_to(folder).as_posix() for path in _files_under(folder)}
        problems = [FileProblem(path, "missing") for path in expected.keys() - found]
        problems += [FileProblem(path, "extra") for path in found - expected.keys() - {_MANIFEST}]
        changed = [p for p in expected.keys() & found if not _is_as(folder / p, expected[p], read)]
        if not _says(folder, manifest, expected):
            changed.append(_MANIFEST)
        return sorted(problems + [FileProblem(path, "changed") for path in changed], key=lambda p: p.path)

    def remove(self, model: UUID, checkpoint: UUID, part: str | None = None) -> int:
        folder = self._folder(model, checkpoint)
        name = f"removed-{checkpoint.hex}-{uuid.uuid4().hex}"
        (self._root / _STAGING).mkdir(parents=True, exist_ok=True)
        try:
            (folder / part if part else folder).rename(self._root / _STAGING / name)
        except FileNotFoundError:
            return 0
        return self.remove_left_over(name)

    def left_over(self) -> Iterator[tuple[str, float]]:
        for folder in (self._root / _STAGING).glob("*"):
            try:
                changed = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            except FileNotFoundError:
                continue  # published or removed this moment
            yield folder.name, time.time() - changed

    def remove_left_over(self, name: str) -> int:
        folder = self._root / _STAGING / name
        freed = sum(path.stat().st_size for path in _files_under(folder))
        shutil.rmtree(folder)
        return freed

    def _folder(self, model: UUID, checkpoint: UUID) -> Path:
        return self._root / model.hex / checkpoint.hex


def _files_under(folder: Path) -> list[Path]:
    return sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names)


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    try:
        data: dict[str, Any] = json.loads((folder / _MANIFEST).read_bytes())
        return Manifest.from_json(data)
    except FileNotFoundError:
        raise CorruptCheckpoint(f"checkpoint {folder.name} has no manifest; its files are missing") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"the manifest of checkpoint {folder.name} was altered: {error}") from None


def _verify(path: Path, expected: tuple[int, str]) -> None:
    try:
        measured = _measure(path)
    except FileNotFoundError:
        raise CorruptCheckpoint(f"{path.name} of checkpoint {path.parent.parent.name} is missing") from None
    if measured != expected:
        raise CorruptCheckpoint(f"{path.name} of checkpoint {path.parent.parent.name} was altered")


def _is_as(path: Path, expected: tuple[int, str], read: bool) -> bool:
    return (_measure(path) == expected) if read else (path.stat().st_size == expected[0])


def _says(folder: Path, manifest: Manifest, expected: Collection[str]) -> bool:
    """Whether the store's own manifest says the same of these files. (Of others, it may say less: a restored
    checkpoint was published without the parts that had been thinned.)"""
    try:
        stored = _read_manifest(folder).files
    except CorruptCheckpoint:
        return False
    return all(stored.get(path) == manifest.files[path] for path in expected) and stored.keys() <= manifest.files.keys()
