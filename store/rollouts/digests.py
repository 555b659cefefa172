"""What samples are known by: a digest of the whole, and of the ids up to where another sample may go on."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import TypeVar

from wire.trajectories import Int32Array, Turn

_ENDS = 16
"""Bytes of a digest that is compared within one trace only."""

Name = TypeVar("Name")


def sample_digest(turn: Turn) -> bytes:
    """SHA-256 over prompt ids, output ids (int32) and sampling logprobs (float32), and how many there are of each."""
    counts = struct.pack("<III", len(turn.prompt_ids), len(turn.output_ids), len(turn.sampling_logprobs))
    digest = hashlib.sha256(b"headway sample 1" + counts)
    digest.update(_id_bytes(turn.prompt_ids))
    digest.update(_id_bytes(turn.output_ids))
    digest.update(turn.sampling_logprobs.astype("<f4", copy=False).tobytes())
    return digest.digest()


def boundary_digests(turn: Turn) -> tuple[bytes, bytes]:
    """Of the prompt's ids, and of prompt and output."""
    digest = hashlib.sha256(_id_bytes(turn.prompt_ids))
    at_prompt = digest.digest()[:_ENDS]
    digest.update(_id_bytes(turn.output_ids))
    return at_prompt, digest.digest()[:_ENDS]


def longest_prefix(ids: Int32Array, ends: Iterable[tuple[int, bytes, Name]]) -> tuple[int, Name] | None:
    """The longest of the sequences (length, digest, name) that `ids` begins with. Each id is hashed once."""
    data, at, found = _id_bytes(ids), 0, None
    digest = hashlib.sha256()
    for length, wanted, name in sorted(ends, key=lambda end: end[0]):
        if not 0 < length <= len(ids):
            continue
        digest.update(data[4 * at : 4 * length])
        at = length
        if digest.digest()[:_ENDS] == wanted:
            found = length, name
    return found


def items_digests(items: Sequence[bytes]) -> list[bytes]:
    """Digests of the first item, the first two, …: by them a conversation is found to go on from another."""
    digest, found = hashlib.sha256(), list[bytes]()
    for item in items:
        digest.update(struct.pack("<I", len(item)) + item)
        found.append(digest.digest()[:_ENDS])
    return found


def _id_bytes(ids: Int32Array) -> bytes:
    return ids.astype("<i4", copy=False).tobytes()
