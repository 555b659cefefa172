"""The port of a blob store: content-addressed bytes, durable before they have a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

OWNER = "owner"
"""The file or object that says whose store it is."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """What lies in a store. `name` is None for what a writer that died left half written; `key` is what the store
    itself calls it. The age is by the store's own clock."""

    name: str | None
    key: str
    size: int
    age_s: float


class BlobDraft(Protocol):
    """A blob that comes in pieces, whose name is known when all of it is there. Used by one thread at a time."""

    num_bytes: int

    def write(self, data: bytes) -> object:
        """Append. Raises OSError when the disk does not take it."""
        ...

    def keep(self) -> str:
        """It is whole: its name, once it is durable. Raises OSError, Unavailable."""
        ...

    def drop(self) -> None:
        """Remove what `keep` did not take over; again and again."""
        ...


class BlobStore(Protocol):
    """Blobs named by the SHA-256 of their content. All methods block, on a disk or a network: threads may share one
    store, and an event loop calls none of them.

    Every method raises Unavailable when a store on the network does not answer.
    """

    def put(self, data: bytes) -> str:
        """Write a blob (or find it there) and return its name. One that was altered is replaced, but for a large one of
        the same length in a bucket. It is young from now on: no collection removes it within its grace period. Raises
        OSError when the disk does not take it."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is a blob of this name; what is in it is not looked at."""
        ...

    def draft(self) -> BlobDraft:
        """A blob that comes in pieces: written to, then `keep`, or `drop`. One that is left over is collected. Raises
        OSError."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A blob to be read in pieces; its digest is for its reader to check. Raises CorruptCheckpoint when it is
        missing."""
        ...

    def get(self, name: str) -> bytes:
        """A blob's content. Raises CorruptCheckpoint when it is missing or is not what its name says."""
        ...

    def check(self, name: str) -> str | None:
        """`missing` or `changed`, or None for a blob that is what its name says."""
        ...

    def stored(self) -> Iterator[StoredBlob]:
        """Everything that is there, unfinished ones included."""
        ...

    def answers(self) -> bool:
        """Whether the store answers at all, within two seconds or so. Raises nothing."""
        ...

    def owner(self) -> str | None:
        """The service that claimed the store, if one has."""
        ...

    def claim(self, service: str) -> None:
        """The store is this service's from now on, whosever it was."""
        ...

    def remove_older(self, blobs: Sequence[StoredBlob], age_s: float) -> list[StoredBlob]:
        """Remove blobs, except those that were put again within `age_s`; those that were removed. A writer that finds a
        blob there meanwhile has made it young, or writes it anew."""
        ...
