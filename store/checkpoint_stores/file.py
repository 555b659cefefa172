"""Checkpoints on a file system that server, trainer and samplers share: stage, rename, fsync."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from store.checkpoint_stores.base import (
    ADAPTER,
    STATE,
    CheckpointFiles,
    FileProblem,
    Manifest,
    StoredCheckpoint,
    part_path,
)
from store.checkpoint_stores.manifests import (
    MANIFEST,
    differences,
    files_under,
    measure,
    no_manifest,
    parse_manifest,
    verify_file,
    write_manifest,
)
from store.disk.durable import DurableFolders, sync_files, sync_folders
from store.disk.folder_url import folder_of_url
from wire.process.faults import fault_point

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
        """From `file:///absolute/path`. Raises ValueError."""
        return cls(folder_of_url(url))

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
        manifest = Manifest({p.relative_to(staged).as_posix(): measure(p) for p in files_under(staged)})
        fault_point("publish:before-manifest")
        (staged / MANIFEST).write_text(write_manifest(manifest))
        target = self._folder(model, checkpoint)
        self._folders.make(target.parent)
        fault_point("publish:before-rename")
        staged.rename(target)
        fault_point("publish:after-rename")
        return manifest

    def settle(self, model: UUID, checkpoint: UUID) -> None:
        folder = self._folder(model, checkpoint)
        fault_point("settle:before-fsync")
        sync_files([*files_under(folder / STATE), *files_under(folder / ADAPTER), folder / MANIFEST])
        fault_point("settle:before-folder-fsync")
        sync_folders([folder / ADAPTER, folder / STATE, folder, folder.parent])
        fault_point("settle:after-folder-fsync")

    def fetch(self, model: UUID, checkpoint: UUID, *, state: bool = True) -> CheckpointFiles:
        folder = self._folder(model, checkpoint)
        manifest = _read_manifest(folder)
        wanted = (ADAPTER, STATE) if state else (ADAPTER,)
        for path, expected in manifest.files.items():
            if path.split("/")[0] in wanted:
                verify_file(folder / path, expected, folder.name)
        has_state = any(path.startswith(f"{STATE}/") for path in manifest.files)
        return CheckpointFiles(folder / ADAPTER, folder / STATE if state and has_state else None)

    def release(self, model: UUID, checkpoint: UUID) -> None:
        """Nothing to do: there is no copy."""

    def describe(self, model: UUID, checkpoint: UUID, part: str) -> str:
        return part_path(model, checkpoint, part)

    def stored(self) -> Iterator[StoredCheckpoint]:
        for folder in self._root.glob("*/*"):
            try:
                model, checkpoint = UUID(hex=folder.parent.name), UUID(hex=folder.name)
                age_s = time.time() - folder.stat().st_mtime
            except (ValueError, FileNotFoundError):
                continue  # not ours, or removed this moment
            yield StoredCheckpoint(model, checkpoint, bool(files_under(folder / STATE)), age_s)

    def check(
        self, model: UUID, checkpoint: UUID, manifest: Manifest, parts: Collection[str], *, read: bool = True
    ) -> list[FileProblem]:
        folder = self._folder(model, checkpoint)
        found = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files_under(folder)}
        found.pop(MANIFEST, None)

        def is_as(path: str, expected: tuple[int, str]) -> bool:
            return not read or measure(folder / path) == expected

        return differences(manifest, parts, found, lambda: _read_manifest(folder), is_as)

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
        freed = sum(path.stat().st_size for path in files_under(folder))
        shutil.rmtree(folder)
        return freed

    def _folder(self, model: UUID, checkpoint: UUID) -> Path:
        return self._root / model.hex / checkpoint.hex


def _read_manifest(folder: Path) -> Manifest:
    try:
        return parse_manifest((folder / MANIFEST).read_bytes(), folder.name)
    except FileNotFoundError:
        raise no_manifest(folder.name) from None
