"""Files as one tar archive that is never held in memory, and of which a part can be asked for."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass

from server.checkpoint_names.adapter_files import OpenFile, content

_TAR_BLOCK = 512


@dataclass(frozen=True, slots=True)
class TarArchive:
    """All files at its top level, in this order; equal files make equal bytes. `last`: the name of an empty file behind
    them."""

    files: Sequence[OpenFile]
    last: str | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(part.size if isinstance(part, OpenFile) else len(part) for part in self._parts())

    async def stream(self, first: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        """The bytes from `first` to before `end`; every file is closed then. Raises CorruptCheckpoint in the middle."""
        stop, begins_at = self.size if end is None else end, 0
        with contextlib.ExitStack() as opened:
            for file in self.files:
                opened.enter_context(file.content)
            for part in self._parts():
                length = part.size if isinstance(part, OpenFile) else len(part)
                here = max(first - begins_at, 0), min(stop - begins_at, length)
                begins_at += length
                if here[0] >= here[1]:
                    continue
                if isinstance(part, bytes):
                    yield part[slice(*here)]
                    continue
                async for chunk in content(part, *here):
                    yield chunk

    def close(self) -> None:
        """Of an archive that nobody reads."""
        for file in self.files:
            file.content.close()

    def _parts(self) -> Iterator[bytes | OpenFile]:
        for file in self.files:
            yield _header(file.name, file.size)
            yield file
            yield b"\0" * (-file.size % _TAR_BLOCK)
        if self.last is not None:
            yield _header(self.last, 0)
        yield b"\0" * (2 * _TAR_BLOCK)


def _header(name: str, size: int) -> bytes:
    about = tarfile.TarInfo(name)
    about.size = size
    return about.tobuf(tarfile.PAX_FORMAT)
