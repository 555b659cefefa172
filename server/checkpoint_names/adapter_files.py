"""The files of an adapter out of the checkpoint store: one by one, or as a tar archive."""

from __future__ import annotations

import asyncio
import contextlib
import tarfile
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from store.checkpoint_stores import CheckpointStore
from store.tables import CheckpointRow
from wire.errors import Conflict, Unavailable

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""PEFT's layout."""

_END_MARKER = "checkpoint_complete"
"""An empty file that older releases of the `tinker` command look for in an archive."""
_CHUNK = 1024**2
_TAR_BLOCK = 512


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file to be read once."""

    name: str
    size: int
    content: BinaryIO


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
        with self._turn:  # a release counts for all reads of the process; what is open stays readable after it
            folder = store.fetch(*where, state=False).adapter
            try:
                return [_opened(folder / name) for name in names]
            finally:
                store.release(*where)


def archive_size(files: Sequence[OpenFile]) -> int:
    """Bytes of the archive of these files."""
    return sum(len(piece) for piece in _frame(files)) + sum(file.size for file in files)


async def archive(files: Sequence[OpenFile]) -> AsyncGenerator[bytes]:
    """A tar archive of them, all at its top level."""
    frame = _frame(files)
    with contextlib.ExitStack() as opened:
        for file in files:
            opened.enter_context(file.content)
        for file in files:
            yield next(frame)
            async for chunk in content(file):
                yield chunk
            yield next(frame)
        yield next(frame)


async def content(file: OpenFile) -> AsyncGenerator[bytes]:
    """The file, which is closed at the end."""
    with contextlib.closing(file.content):
        while chunk := await asyncio.to_thread(file.content.read, _CHUNK):
            yield chunk


def _frame(files: Sequence[OpenFile]) -> Iterator[bytes]:
    """What stands in an archive before and after each file, and at its end."""
    for file in files:
        yield _header(file.name, file.size)
        yield b"\0" * (-file.size % _TAR_BLOCK)
    yield _header(_END_MARKER, 0) + b"\0" * (2 * _TAR_BLOCK)


def _header(name: str, size: int) -> bytes:
    about = tarfile.TarInfo(name)
    about.size = size
    return about.tobuf(tarfile.PAX_FORMAT)


def _opened(path: Path) -> OpenFile:
    return OpenFile(path.name, path.stat().st_size, path.open("rb"))
