"""An adapter from the service: the archive as a file, or its files in a folder."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import quote

from cli.service.client import checked
from cli.weights.progress import Advance, progress_of

if TYPE_CHECKING:
    import httpx

FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")
CONFIG, WEIGHTS, README = FILES
_CHUNK = 1024**2
_FILE_NAME = re.compile(r'filename="([A-Za-z0-9_][A-Za-z0-9._-]*)\.tar"')


def name_of_adapter(http: httpx.Client, model: str, checkpoint: str) -> str:
    """What the service calls it: the model's slug and the checkpoint's name."""
    reply = http.head(_path(model, checkpoint))
    if not reply.is_success:
        checked(http.get(_path(model, checkpoint)))  # a refusal with its sentence, which has no place in the other
    found = _FILE_NAME.search(reply.headers.get("content-disposition", ""))
    return found[1] if found else "adapter"


def download_archive(http: httpx.Client, model: str, checkpoint: str, target: Path) -> None:
    """The archive as it comes. Raises OSError."""
    with http.stream("GET", _path(model, checkpoint)) as reply, target.open("wb") as file:
        size = _size(checked(reply))
        with progress_of("downloading", size) as advance:
            for chunk in reply.iter_raw(_CHUNK):
                file.write(chunk)
                advance(len(chunk))


def download_adapter(http: httpx.Client, model: str, checkpoint: str, folder: Path) -> None:
    """Its files. Raises OSError, ValueError for weights that are not those whose digest was announced."""
    with http.stream("GET", _path(model, checkpoint)) as reply:
        size = _size(checked(reply))
        with progress_of("downloading", size) as advance:
            _unpack(_Pieces(reply.iter_raw(_CHUNK), advance), folder)
        expected = reply.headers.get("x-adapter-sha256")
    with (folder / WEIGHTS).open("rb") as file:
        if expected is not None and hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise ValueError(f"{WEIGHTS} was altered on its way here; try again")


def _unpack(pieces: _Pieces, folder: Path) -> None:
    try:
        with tarfile.open(fileobj=cast(BinaryIO, pieces), mode="r|") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() and member.name in FILES else None
                if content is None:
                    raise ValueError(f"the archive has {member.name[:100]!r}, which no adapter has")
                with (folder / member.name).open("wb") as file:
                    while chunk := content.read(_CHUNK):
                        file.write(chunk)
    except tarfile.TarError as error:
        raise ValueError(f"the archive is damaged ({error}); try again") from None
    pieces.drain()
    if missing := [name for name in FILES if not (folder / name).exists()]:
        raise ValueError(f"the archive has no {missing[0]}")


class _Pieces:
    """A stream of pieces, read as a file."""

    def __init__(self, pieces: Iterator[bytes], advance: Advance) -> None:
        self._pieces, self._advance, self._left = pieces, advance, b""

    def read(self, size: int) -> bytes:
        """So many bytes, fewer at the end."""
        parts, wanted = list[bytes](), size
        while wanted and (self._left or self._next()):
            parts.append(self._left[:wanted])
            self._left = self._left[wanted:]
            wanted -= len(parts[-1])
        return b"".join(parts)

    def drain(self) -> None:
        """To the end, where the length is compared with what was announced."""
        while self._next():
            pass

    def _next(self) -> bool:
        self._left = next(self._pieces, b"")
        self._advance(len(self._left))
        return bool(self._left)


def _path(model: str, checkpoint: str) -> str:
    return f"/v2/models/{quote(model, safe='')}/checkpoints/{quote(checkpoint, safe='')}/adapter"


def _size(reply: httpx.Response) -> int | None:
    return int(reply.headers["content-length"]) if "content-length" in reply.headers else None
