"""What samples are known by: a digest of the whole, and of the ids up to where another sample may go on."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import TypeVar

from wire.extension import TokenSequence, prefix_digests
from wire.trajectories import Turn

_ENDS = 16
"""Bytes of a digest that is compared within one trace only."""

Name = TypeVar("Name")


def sample_digest(turn: Turn) -> bytes:
    """SHA-256 over prompt ids, output ids (int32) and sampling logprobs (float32), and how many there are of each."""
    counts = struct.pack("<III", len(turn.prompt_ids), len(turn.output_ids), len(turn.sampling_logprobs))
    digest = hashlib.sha256(b"headway sample 1" + counts)
    digest.update(turn.prompt.key)
    digest.update(turn.output.key)
    digest.update(turn.sampling_logprobs.astype("<f4", copy=False).tobytes())
    return digest.digest()


def served_digest(completion_id: str) -> bytes:
    """Of a call of which no tokens are known, by its id."""
    return hashlib.sha256(b"headway served 1" + completion_id.encode("utf-8", "replace")).digest()


def boundary_digests(turn: Turn) -> tuple[bytes, bytes]:
    """Of the prompt, and of prompt and output."""
    at_prompt, at_end = prefix_digests([turn.prompt, turn.output])
    return at_prompt[:_ENDS], at_end[:_ENDS]


def longest_prefix(prompt: TokenSequence, ends: Iterable[tuple[int, bytes, Name]]) -> tuple[int, Name] | None:
    """The longest of the sequences (length, digest, name) that a prompt begins with. Each id is hashed once."""
    possible = (end for end in ends if 0 < end[0] <= len(prompt) and not prompt.cuts_a_run(end[0]))
    ordered = sorted(possible, key=lambda end: end[0])
    starts = [0, *(length for length, _, _ in ordered)]
    parts = (prompt.part(start, length) for start, (length, _, _) in zip(starts, ordered, strict=False))
    found = None
    for (length, wanted, name), digest in zip(ordered, prefix_digests(parts), strict=True):
        if digest[:_ENDS] == wanted:
            found = length, name
    return found


def items_digests(items: Sequence[bytes]) -> list[bytes]:
    """Digests of the first item, the first two, …: by them a conversation is found to go on from another."""
    digest, found = hashlib.sha256(), list[bytes]()
    for item in items:
        digest.update(struct.pack("<I", len(item)) + item)
        found.append(digest.digest()[:_ENDS])
    return found
