"""What a save of a model's head is asked to leave: the payload of an operation of the kind `save`, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from wire.payload import decode, encode

SaveUse: TypeAlias = Literal["training", "sampler", "external", "snapshot", "inflight"]
"""The first three give the checkpoint a name of that kind (`checkpoint_names`); the others open a sampling session."""
NAMED: tuple[SaveUse, ...] = ("training", "sampler", "external")


@dataclass(frozen=True, slots=True)
class Save:
    """A name for the head, or a sampling session on it.

    name, overwrite, ttl_s, user_metadata: of a name. ttl_s: seconds until it expires, None for never.
    session_index: of a sampling session, its number within the run's client session.
    """

    use: SaveUse
    name: str | None = None
    overwrite: bool = False
    ttl_s: int | None = None
    user_metadata: Mapping[str, Any] | None = None
    session_index: int | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save has left. size_bytes: of the checkpoint's files. sampling_session_id: where one was opened."""

    use: SaveUse
    checkpoint_id: str
    name: str | None = None
    size_bytes: int = 0
    sampling_session_id: str | None = None


def encode_save(save: Save) -> bytes:
    """The payload."""
    return encode(asdict(save))


def decode_save(payload: bytes) -> Save:
    """What `encode_save` wrote."""
    header, _ = decode(payload)
    return Save(**header)


def encode_saved(saved: Saved) -> bytes:
    """The result."""
    return encode(asdict(saved))


def saved_of(header: Mapping[str, Any]) -> Saved:
    """What `encode_saved` wrote, from the header of its result."""
    return Saved(**header)
