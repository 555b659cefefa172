"""Blobs from one store into another, in pieces, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from store.blob_stores.base import BlobStore
from wire.errors import CorruptCheckpoint

_PIECE_BYTES = 2**20
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Copied:
    """num_new: blobs that were not there yet, or of another size. problems: of blobs that could not be copied."""

    num_new: int
    problems: list[str]


def copy_blobs(
    source: BlobStore, target: BlobStore, names: Sequence[str], progress: Callable[[int, int], None]
) -> Copied:
    """Copy these. What an interrupted copy brought over is not copied again; a blob that is missing or is not what its
    name says keeps no other from being copied.

    Raises OSError, Unavailable.
    """
    here, there = _sizes(source), _sizes(target)
    problems = list[str]()

    def copy(name: str) -> bool:
        if name in there and there[name] == here.get(name):
            return False
        try:
            with source.open(name) as file:
                put_file(target, file, name)
        except CorruptCheckpoint as lost:
            if target.check(name) is not None:
                problems.append(lost.message)
            return False
        return True

    num_new = 0
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="blob-copy") as threads:
        try:
            for done, is_new in enumerate(threads.map(copy, names), start=1):
                num_new += is_new
                progress(done, len(names))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return Copied(num_new, sorted(problems))


def _sizes(blobs: BlobStore) -> dict[str, int]:
    return {blob.name: blob.size for blob in blobs.stored() if blob.name is not None}


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
