"""Rollouts with their pictures as one tar file: lines in `rollouts-000001.jsonl` and so on, and before the lines that
name it each picture once, `pictures/<name>.png`.

A tar file says how long each member is before it comes, so that lines come in portions rather than in one file.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence

from server.rollouts.formats.lines import JsonLines
from server.rollouts.formats.pictures import bytes_of, names_of
from store.blob_stores import BlobStore
from store.rollouts import Resolved

_BLOCK = 512


class PicturedTar:
    """Raises Gone where a picture's bytes are not there."""

    def __init__(self, lines: JsonLines, blobs: BlobStore) -> None:
        self._lines = lines
        self._blobs = blobs
        self._written = set[str]()
        self._num_portions = 0

    def write(self, rollouts: Sequence[Resolved]) -> Iterator[bytes]:
        """A picture at a time, then the lines."""
        for name in names_of(rollouts):
            if name not in self._written:
                self._written.add(name)
                yield _member(f"pictures/{name}.png", bytes_of(self._blobs, name))
        if lines := b"".join(self._lines.write(rollouts)):
            self._num_portions += 1
            yield _member(f"rollouts-{self._num_portions:06}.jsonl", lines)

    def close(self) -> bytes:
        """What ends the file."""
        return bytes(2 * _BLOCK)


def _member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % _BLOCK)
