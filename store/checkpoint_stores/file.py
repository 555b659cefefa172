"""Checkpoints on a file system that server, trainer and samplers share: stage, fsync, rename."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from uuid import UUID

from store.checkpoint_stores.base import ADAPTER, STATE, CheckpointFiles, Manifest
from store.durable import make_folder, sync_file, sync_folder
from wire.errors import CorruptCheckpoint

_MANIFEST = "manifest.json"


class FileCheckpointStore:
    """`<root>/<model>/<checkpoint>/{adapter,state}/…` and `manifest.json`. A folder without manifest does not
    exist: the rename that brings the manifest into view brings everything."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def from_url(cls, url: str) -> FileCheckpointStore:
        """From `file:///absolute/path`."""
        return cls(Path(unquote(urlparse(url).path)))

    @contextmanager
    def stage(self, model: UUID, checkpoint: UUID) -> Generator[Path]:
        staged = self._root / ".staging" / f"{checkpoint.hex}-{uuid.uuid4().hex}"
        for part in (ADAPTER, STATE):
            (staged / part).mkdir(parents=True)
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def publish(self, model: UUID, checkpoint: UUID, staged: Path) -> Manifest:
        manifest = Manifest({p.relative_to(staged).as_posix(): _measure(p) for p in _files_under(staged)})
        (staged / _MANIFEST).write_text(json.dumps(manifest.to_json(), indent=1))
        for path in _files_under(staged):
            sync_file(path)
        for folder in (staged / ADAPTER, staged / STATE, staged):
            sync_folder(folder)
        target = self._folder(model, checkpoint)
        make_folder(target.parent)
        staged.rename(target)
        sync_folder(target.parent)
        return manifest

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

    def _folder(self, model: UUID, checkpoint: UUID) -> Path:
        return self._root / model.hex / checkpoint.hex


def _files_under(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


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
