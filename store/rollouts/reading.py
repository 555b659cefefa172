"""Recorded rollouts, back as arrays: three statements for any number of traces."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import numpy as np

from store.blob_stores import BlobStore
from store.blob_stores.threads import in_blob_thread
from store.database import AsyncConnection, AsyncDatabase
from store.rollouts.arrays import unpack
from store.rollouts.conversations import Conversation, from_items, unpack_conversation
from store.rollouts.media import unpack_media
from store.rollouts.payloads import unpack_payload
from store.rollouts.traces import TRACE_COLUMNS, TraceFacts
from wire.errors import CorruptCheckpoint
from wire.trajectories import Turn

T = TypeVar("T")

_BLOB_COLUMNS = ("tokens_blob", "conversation_blob", "payload_blob")

_TRACES = f"select {TRACE_COLUMNS} from traces t where t.team_id = %(team_id)s and t.id = any(%(ids)s)"  # noqa: S608

_SAMPLES = """
    select
        trace_id, digest, recorded_at, parent_digest, prompt_shared, tokens, tokens_blob, media, served_at,
        completion_id, model_id, checkpoint_id, sampling, finish_reason, seconds, conversation_parent, items_shared,
        {conversation}
    from samples where team_id = %(team_id)s and trace_id = any(%(ids)s)
    order by coalesce(served_at, recorded_at), prompt_length, digest
"""
_WITH_CONVERSATIONS = _SAMPLES.format(conversation="conversation, conversation_blob")
_WITHOUT_CONVERSATIONS = _SAMPLES.format(conversation="null as conversation, null as conversation_blob")

# A span that was sent with two contents counts once: see store.rollouts.recording.
_TURNS = """
    select trace_id, step_id, sample_digest from spans
    where team_id = %(team_id)s and trace_id = any(%(ids)s) and sample_digest is not null and flag is null
    order by trace_id, step_id, received_at, span_id
"""

_SPANS = """
    select
        span_id, digest, received_at, schema_tag, name, step_id, source, started_at, ended_at, sample_digest, flag,
        num_bytes, payload, payload_blob
    from spans where team_id = %(team_id)s and trace_id = %(trace_id)s
    order by step_id nulls last, started_at nulls last, received_at, span_id
"""


@dataclass(frozen=True, slots=True)
class RecordedSample:
    """One sampling call. `turn`: prompt_ids and output_ids (int32), sampling_logprobs (float32 nats, may be empty), and
    the pictures of the prompt.

    `step_id`: its place among the steps of telemetry; None where telemetry lacks it. From `served_at` on: what
    the gateway recorded; all None where only telemetry has the sample. `checkpoint_id` None with a `served_at`: the
    base weights. `conversation` is None too where it was not asked for.
    """

    digest: bytes
    recorded_at: datetime
    turn: Turn
    step_id: int | None
    served_at: datetime | None
    completion_id: str | None
    model_id: UUID | None
    checkpoint_id: UUID | None
    sampling: dict[str, Any] | None
    finish_reason: str | None
    seconds: float | None
    conversation: Conversation | None

    @property
    def is_of_upstream(self) -> bool:
        """Whether another vendor's model answered, whose tokens are not known."""
        return not len(self.turn.output_ids)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A trace and its samples.

    `reported`: those of its agent's steps, by ascending step; a step that repeats another's tokens repeats its sample.
    `others`: what the gateway recorded besides, in order of time: all there is without telemetry, otherwise answers
    that were lost and asked for again, and calls that were not the agent's.
    """

    trace: TraceFacts
    reported: tuple[RecordedSample, ...]
    others: tuple[RecordedSample, ...]


@dataclass(frozen=True, slots=True)
class RecordedSpan:
    """One span of telemetry. `span`: as it was sent, token arrays included; any JSON value where a `flag` says so."""

    span_id: str
    received_at: datetime
    schema_tag: str | None
    name: str | None
    step_id: int | None
    source: str | None
    started_at: datetime | None
    ended_at: datetime | None
    sample_digest: bytes | None
    flag: str | None
    num_bytes: int
    span: Any


async def read_rollouts(
    database: AsyncDatabase,
    blobs: BlobStore,
    team_id: UUID,
    trace_ids: Iterable[UUID],
    *,
    conversations: bool = False,
) -> dict[UUID, Rollout]:
    """The team's rollouts with these ids, as far as there are any. A trace without samples has none in both lists.

    conversations: also what was asked and answered. Raises CorruptCheckpoint where a blob is missing.
    """
    asked = {"team_id": team_id, "ids": list(set(trace_ids))}
    query = _WITH_CONVERSATIONS if conversations else _WITHOUT_CONVERSATIONS
    async with database.connection() as connection:
        traces = {row.id: TraceFacts(*row) for row in await _all(connection, _TRACES, asked)}
        samples = await _all(connection, query, asked)
        turns = await _all(connection, _TURNS, asked)
    return await _in_thread(blobs, samples, lambda: _assemble(traces, samples, turns, blobs))


async def read_spans(database: AsyncDatabase, blobs: BlobStore, team_id: UUID, trace_id: UUID) -> list[RecordedSpan]:
    """The telemetry of a trace: steps in order, then everything else by time. Empty for an unknown trace."""
    asked = {"team_id": team_id, "trace_id": trace_id, "ids": [trace_id]}
    async with database.connection() as connection:
        spans = await _all(connection, _SPANS, asked)
        samples = await _all(connection, _WITHOUT_CONVERSATIONS, asked)
    return await in_blob_thread(blobs, lambda: _unpacked_spans(spans, _Unpacking(samples, blobs), blobs))


async def read_recorded(
    database: AsyncDatabase, blobs: BlobStore, team_id: UUID, trace_id: UUID, *, arrays: bool = True
) -> tuple[Rollout, list[RecordedSpan]] | None:
    """What `read_rollouts` reads of one rollout, with conversations, and `read_spans`: in three statements. Pictures in
    spans stay what `store.rollouts.contents` marks. Without `arrays`, spans do not repeat the tokens of their samples
    either: a long rollout's would be megabytes each."""
    asked = {"team_id": team_id, "trace_id": trace_id, "ids": [trace_id]}
    async with database.connection() as connection:
        traces = await _all(connection, _TRACES, asked)
        if not traces:
            return None
        samples = await _all(connection, _WITH_CONVERSATIONS, asked)
        spans = await _all(connection, _SPANS, asked)

    def assemble() -> tuple[Rollout, list[RecordedSpan]]:
        unpacking = _Unpacking(samples, blobs)
        turns = [row for row in spans if row.sample_digest is not None and row.flag is None]
        turns.sort(key=lambda row: (row.step_id is None, row.step_id or 0, row.received_at, row.span_id))
        steps = [(row.step_id, row.sample_digest) for row in turns]
        rollout = _rollout(TraceFacts(*traces[0]), unpacking, steps)
        return rollout, _unpacked_spans(spans, unpacking, blobs, arrays=arrays, contents=False)

    return await _in_thread(blobs, [*samples, *spans], assemble)


def _assemble(
    traces: dict[UUID, TraceFacts], samples: Sequence[Any], turns: Sequence[Any], blobs: BlobStore
) -> dict[UUID, Rollout]:
    rows_of, steps_of = defaultdict[UUID, list[Any]](list), defaultdict[UUID, list[tuple[int, bytes]]](list)
    for row in samples:
        rows_of[row.trace_id].append(row)
    for row in turns:
        steps_of[row.trace_id].append((row.step_id, row.sample_digest))
    return {
        trace_id: _rollout(trace, _Unpacking(rows_of[trace_id], blobs), steps_of[trace_id])
        for trace_id, trace in traces.items()
    }


def _rollout(trace: TraceFacts, unpacking: _Unpacking, steps: list[tuple[int, bytes]]) -> Rollout:
    reported = tuple(unpacking.sample(digest, step_id) for step_id, digest in steps if digest in unpacking.rows)
    named = {digest for _, digest in steps}
    others = tuple(unpacking.sample(digest, None) for digest in unpacking.rows if digest not in named)
    return Rollout(trace, reported, others)


def _unpacked_spans(
    spans: Sequence[Any], unpacking: _Unpacking, blobs: BlobStore, *, arrays: bool = True, contents: bool = True
) -> list[RecordedSpan]:
    found = list[RecordedSpan]()
    for row in spans:
        turn = unpacking.turn(row.sample_digest) if row.sample_digest in unpacking.rows else None
        payload = _content(row.payload, row.payload_blob, blobs)
        span = unpack_payload(payload, turn, arrays=arrays, read=blobs.get if contents else None)
        found.append(
            RecordedSpan(
                row.span_id,
                row.received_at,
                row.schema_tag,
                row.name,
                row.step_id,
                row.source,
                row.started_at,
                row.ended_at,
                row.sample_digest,
                row.flag,
                row.num_bytes,
                span,
            )
        )
    return found


class _Unpacking:
    """The samples of one trace, each put together once from its own row and its parents'."""

    def __init__(self, rows: Sequence[Any], blobs: BlobStore) -> None:
        self.rows = {row.digest: row for row in rows}
        self._blobs = blobs
        self._turns = dict[bytes, Turn]()
        self._items = dict[bytes, tuple[list[Any], Any]]()

    def sample(self, digest: bytes, step_id: int | None) -> RecordedSample:
        row = self.rows[digest]
        return RecordedSample(
            digest,
            row.recorded_at,
            self.turn(digest),
            step_id,
            row.served_at,
            row.completion_id,
            row.model_id,
            row.checkpoint_id,
            row.sampling,
            row.finish_reason,
            row.seconds,
            self._conversation(digest),
        )

    def turn(self, digest: bytes) -> Turn:
        for link in self._chain(digest, "parent_digest", self._turns):
            row = self.rows[link]
            tail, output, logprobs = unpack(_content(row.tokens, row.tokens_blob, self._blobs))
            prompt, media = tail, unpack_media(row.media)
            if row.parent_digest is not None:
                parent = self._turns[row.parent_digest]
                history = np.concatenate([parent.prompt_ids, parent.output_ids])
                prompt = np.concatenate([history[: row.prompt_shared], tail])
                media = (*(item for item in parent.media if item.stop <= row.prompt_shared), *media)
            self._turns[link] = Turn(prompt, output, logprobs, media)
        return self._turns[digest]

    def _conversation(self, digest: bytes) -> Conversation | None:
        row = self.rows[digest]
        if row.conversation is None and row.conversation_blob is None:
            return None
        for link in self._chain(digest, "conversation_parent", self._items):
            row = self.rows[link]
            parent = row.conversation_parent
            shared = self._items[parent][0][: row.items_shared] if parent is not None else []
            content = _content(row.conversation, row.conversation_blob, self._blobs)
            self._items[link] = unpack_conversation(content, shared)
        return from_items(*self._items[digest])

    def _chain(self, digest: bytes, parent: str, done: dict[bytes, Any]) -> list[bytes]:
        """What is not done yet, ancestors first. (A loop: a thousand turns are a thousand links.)"""
        links, link = list[bytes](), digest
        while link is not None and link not in done:
            if link not in self.rows:
                raise CorruptCheckpoint(f"the sample {link.hex()} is missing, from which a later one goes on")
            links.append(link)
            link = getattr(self.rows[link], parent)
        return links[::-1]


async def _in_thread(blobs: BlobStore, rows: Sequence[Any], work: Callable[[], T]) -> T:
    """What was recorded without blobs can be read while their store is away."""
    if any(getattr(row, column, None) for row in rows for column in _BLOB_COLUMNS):
        return await in_blob_thread(blobs, work)
    return await asyncio.to_thread(work)


def _content(inline: bytes | None, blob: str | None, blobs: BlobStore) -> bytes:
    if inline is not None:
        return inline
    assert blob is not None
    return blobs.get(blob)


async def _all(connection: AsyncConnection, query: str, values: dict[str, Any]) -> list[Any]:
    return await (await connection.execute(query.encode(), values)).fetchall()
