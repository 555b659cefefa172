"""Blobs from one store into another, in pieces, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from store.blob_stores.base import BlobStore
from wire.errors import CorruptCheckpoint

_PIECE_BYTES = 2**20
_AT_ONCE = 8


def copy_blobs(source: BlobStore, target: BlobStore, names: Sequence[str], progress: Callable[[int, int], None]) -> int:
    """Copy these; how many were not there yet. What an interrupted copy brought over is not copied again.

    Raises CorruptCheckpoint for a blob that is missing or is not what its name says, OSError, Unavailable.
    """

    def copy(name: str) -> bool:
        if target.has(name):
            return False
        with source.open(name) as file:
            put_file(target, file, name)
        return True

    num_copied = 0
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="blob-copy") as threads:
        try:
            for done, is_new in enumerate(threads.map(copy, names), start=1):
                num_copied += is_new
                progress(done, len(names))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return num_copied


def put_file(blobs: BlobStore, file: BinaryIO, name: str) -> None:
    """Put what a file holds. Raises CorruptCheckpoint when that is not what its name says."""
    draft = blobs.draft()
    try:
        while piece := file.read(_PIECE_BYTES):
            draft.write(piece)
        if (found := draft.keep()) != name:
            raise CorruptCheckpoint(f"blob {name} was altered: its content is {found}")
    finally:
        draft.drop()
