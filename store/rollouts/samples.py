"""A sample that is to be stored: what it shares with its trace's earlier samples is found and left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from store.blob_stores.unwritten import TakesBlobs
from store.rollouts.arrays import pack
from store.rollouts.conversations import Conversation, pack_conversation
from store.rollouts.digests import boundary_digests, items_digests, longest_prefix, sample_digest, served_digest
from store.rollouts.media import named_in, pack_media
from wire.trajectories import Turn

_OF_A_CONVERSATION = (
    "conversation",
    "conversation_blob",
    "conversation_parent",
    "parent_items_digest",
    "items_shared",
    "num_items",
    "items_digest",
)

INLINE_BYTES = 64 * 1024
"""What is larger becomes a blob."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the gateway knows of a sample. `checkpoint_id` None: the base weights. `seconds`: request to last token.
    `num_bytes`: of the request, as far as it is known."""

    at: datetime
    completion_id: str
    model_id: UUID | None
    checkpoint_id: UUID | None
    sampling: dict[str, Any]
    finish_reason: str | None
    seconds: float
    conversation: Conversation | None
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NewSample:
    """A sampling call of a trace. `served` None: from telemetry, or imported. One of another vendor's model has no
    tokens, and is known by the call instead. attempt: of a rollout that runners carry out; it is recorded while that is
    the present one."""

    team_id: UUID
    trace_id: UUID
    turn: Turn
    served: Served | None = None
    attempt: int | None = None
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        if self.served is None or len(self.turn.output_ids):
            digest = sample_digest(self.turn)
        else:
            digest = served_digest(self.served.completion_id)
        object.__setattr__(self, "digest", digest)

    @property
    def is_of_upstream(self) -> bool:
        """Whether another vendor's model answered."""
        return self.served is not None and not len(self.turn.output_ids)

    @property
    def trace(self) -> tuple[UUID, UUID]:
        """Team and id of its trace."""
        return self.team_id, self.trace_id

    @property
    def num_bytes(self) -> int:
        """Of its token ids, and of its request: what there is to pack, roughly."""
        num_ids = len(self.turn.prompt_ids) + len(self.turn.output_ids)
        return 4 * num_ids + (self.served.num_bytes if self.served else 0)


@dataclass(frozen=True, slots=True)
class KnownSample:
    """A sample of the same trace, by what others may share with it."""

    digest: bytes
    prompt_length: int
    output_length: int
    prompt_digest: bytes
    end_digest: bytes
    num_items: int | None
    items_digest: bytes | None


@dataclass(frozen=True, slots=True)
class PackedSample:
    """A sample as columns of its row, the `parent_items_digest` by which its `conversation_parent` is found to be what
    it was taken for, and `pictures`: names of those that it brings to its trace."""

    sample: NewSample
    known: KnownSample
    values: dict[str, Any]


def pack_samples(
    samples: Sequence[NewSample], known: Sequence[KnownSample], blobs: TakesBlobs, *, share: bool = True
) -> list[PackedSample]:
    """Samples of one trace, in order; each may share with those before it, and with the `known`. Writes blobs."""
    earlier, packed = list(known), list[PackedSample]()
    for sample in samples:
        packed.append(_pack(sample, earlier if share else [], blobs))
        earlier.append(packed[-1].known)
    return packed


def _pack(sample: NewSample, known: list[KnownSample], blobs: TakesBlobs) -> PackedSample:
    turn, served = sample.turn, sample.served
    ends = [(k.prompt_length, k.prompt_digest, k.digest) for k in known]
    ends += [(k.prompt_length + k.output_length, k.end_digest, k.digest) for k in known]
    shared, parent = longest_prefix(turn.prompt, [end for end in ends if end[2] != sample.digest]) or (0, None)
    prompt_digest, end_digest = boundary_digests(turn)
    media = [item for item in turn.media if item.start >= shared]
    conversation = _conversation_values(sample, known, blobs)
    values: dict[str, Any] = {
        "team_id": sample.team_id,
        "trace_id": sample.trace_id,
        "digest": sample.digest,
        "prompt_length": len(turn.prompt_ids),
        "output_length": len(turn.output_ids),
        "parent_digest": parent,
        "prompt_shared": shared,
        "prompt_digest": prompt_digest,
        "end_digest": end_digest,
        "attempt": sample.attempt,
        **placed("tokens", pack(turn.prompt_ids[shared:], turn.output_ids, turn.sampling_logprobs), blobs),
        "media": pack_media(media),
        "pictures": sorted({item.name for item in media} | _named(sample, conversation["items_shared"])),
        "served_at": served.at if served else None,
        "completion_id": served.completion_id if served else None,
        "model_id": served.model_id if served else None,
        "checkpoint_id": served.checkpoint_id if served else None,
        "sampling": served.sampling if served else None,
        "finish_reason": served.finish_reason if served else None,
        "seconds": served.seconds if served else None,
        **conversation,
    }
    return PackedSample(
        sample,
        KnownSample(
            sample.digest,
            len(turn.prompt_ids),
            len(turn.output_ids),
            prompt_digest,
            end_digest,
            values["num_items"],
            values["items_digest"],
        ),
        values,
    )


def _conversation_values(sample: NewSample, known: list[KnownSample], blobs: TakesBlobs) -> dict[str, Any]:
    conversation = sample.served.conversation if sample.served else None
    if conversation is None:
        return dict.fromkeys(_OF_A_CONVERSATION)
    items = conversation.items()
    digests = items_digests(items)
    shared, parent = 0, None
    for other in known:
        n = other.num_items or 0
        if other.digest != sample.digest and shared < n <= len(items) and digests[n - 1] == other.items_digest:
            shared, parent = n, other
    return {
        **placed("conversation", pack_conversation(items[shared:], conversation.reply), blobs),
        "conversation_parent": parent.digest if parent else None,
        "parent_items_digest": parent.items_digest if parent else None,
        "items_shared": shared,
        "num_items": len(items),
        "items_digest": digests[-1],
    }


def _named(sample: NewSample, items_shared: int | None) -> set[str]:
    """Names of the pictures in what its conversation does not share. (Its first item is no message.)"""
    if items_shared is None or sample.served is None or sample.served.conversation is None:
        return set()
    return set(named_in(sample.served.conversation.messages[max(items_shared - 1, 0) :]))


def placed(column: str, data: bytes, blobs: TakesBlobs) -> dict[str, Any]:
    """A value inline, or the blob that holds it. Blocks on the disk."""
    if len(data) <= INLINE_BYTES:
        return {column: data, f"{column}_blob": None}
    return {column: None, f"{column}_blob": blobs.put(data)}
