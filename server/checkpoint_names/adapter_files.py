"""The files of an adapter out of the checkpoint store, verified before the first byte and again while they are read."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from store.checkpoint_stores import CheckpointStore
from store.checkpoint_stores.base import ADAPTER
from store.tables import CheckpointRow
from wire.errors import Conflict, CorruptCheckpoint, Unavailable

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""PEFT's layout."""

_CHUNK = 1024**2


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file to be read once. `sha256`: what it must come to; None: not known."""

    name: str
    size: int
    content: BinaryIO
    sha256: str | None = None


class AdapterFiles:
    """Reads adapters for downloads. `checkpoints` None: this server has no store."""

    def __init__(self, checkpoints: CheckpointStore | None) -> None:
        self._checkpoints = checkpoints
        self._turn = threading.Lock()

    @property
    def store(self) -> CheckpointStore:
        """Raises Unavailable where this server has none."""
        if self._checkpoints is None:
            raise Unavailable("this server reads no checkpoint store; give it --checkpoint-store")
        return self._checkpoints

    async def open(self, checkpoint: CheckpointRow, names: Sequence[str]) -> list[OpenFile]:
        """The files of these names, verified. Raises CorruptCheckpoint, Unavailable, or Conflict where the checkpoint
        has no files yet."""
        if not checkpoint.is_saved:
            raise Conflict(f"the files of {checkpoint.name} are not written; save it under a name")
        return await asyncio.to_thread(self._open, checkpoint, names)

    def _open(self, checkpoint: CheckpointRow, names: Sequence[str]) -> list[OpenFile]:
        store, where = self.store, (checkpoint.files_model_id, checkpoint.files_id)
        digests = checkpoint.manifest.get("files", {})
        with self._turn:  # a release counts for all reads of the process; what is open stays readable after it
            folder = store.fetch(*where, state=False).adapter
            try:
                return [_opened(folder / name, digests.get(f"{ADAPTER}/{name}", {}).get("sha256")) for name in names]
            finally:
                store.release(*where)


async def content(file: OpenFile, first: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
    """Its bytes from `first` to before `end`; the file is closed then.

    Raises CorruptCheckpoint instead of the last piece where all of it was read and is not what it must be: whoever
    counts the bytes gets too few.
    """
    stop = file.size if end is None else end
    digest = hashlib.sha256() if (first, stop) == (0, file.size) else None
    with contextlib.closing(file.content):
        await asyncio.to_thread(file.content.seek, first)
        while first < stop:
            chunk = await asyncio.to_thread(file.content.read, min(_CHUNK, stop - first))
            first += len(chunk)
            if digest is not None:
                digest.update(chunk)
            ended_wrong = first == stop and digest and file.sha256 and digest.hexdigest() != file.sha256
            if not chunk or ended_wrong:
                raise CorruptCheckpoint(f"{file.name} was altered while it was read")
            yield chunk


def _opened(path: Path, sha256: str | None) -> OpenFile:
    return OpenFile(path.name, path.stat().st_size, path.open("rb"), sha256)
