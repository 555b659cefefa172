"""Samples and spans into the database: any number of traces in one transaction, each thing once.

The rows of the traces are locked first, in order of their ids: so writers never wait for one another in a circle, what
a sample shares with another is there when it is written, and counts are exact. Deleting a trace takes the same lock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from psycopg import AsyncCursor
from psycopg.types.json import Jsonb

from store.blob_stores import BlobStore
from store.blob_stores.unwritten import TakesBlobs, UnwrittenBlobs
from store.database import AsyncConnection, AsyncDatabase
from store.rollouts.known import KnownSamples, Trace
from store.rollouts.samples import KnownSample, NewSample, PackedSample, pack_samples, placed
from store.rollouts.spans import SPAN_ID_REUSED, NewSpan
from store.rollouts.statements import COUNT_SPANS, INSERT_SAMPLE, INSERT_SPAN, KNOWN, LOCK_TRACE, NAME_CONTENTS
from wire.process.off_loop import off_loop

_ATTEMPTS = 3

Sent = TypeVar("Sent")
Preparation = Callable[[AsyncConnection], Awaitable[None]]


@dataclass(slots=True)
class TraceRecord:
    """What is to be recorded of one trace. `model`: the slug that the gateway served it under."""

    team_id: UUID
    trace_id: UUID
    samples: list[NewSample] = field(default_factory=list[NewSample])
    spans: list[NewSpan] = field(default_factory=list[NewSpan])
    model: str | None = None
    flags: set[str] = field(default_factory=set[str])

    @property
    def trace(self) -> Trace:
        """Team and id of the trace."""
        return self.team_id, self.trace_id


class _ParentGone(Exception):
    """A sample that others were to share with was deleted meanwhile, or is on record with another conversation."""


async def record(
    database: AsyncDatabase,
    blobs: BlobStore,
    records: Sequence[TraceRecord],
    *,
    first: Preparation | None = None,
    known: KnownSamples | None = None,
) -> None:
    """Put this on record. Without spans that is one round trip, besides one where a sample may go on from others of its
    trace that are not `known`.

    first: what is to happen at the beginning of the transaction; what it raises ends it. known: brought up to date.
    What is on record already stays as it is. No two records may be of one trace. Raises OSError or Unavailable when a
    blob cannot be written, and what `store.database.DATABASE_AWAY` lists; then nothing was recorded.
    """
    records = sorted(records, key=lambda record: (record.team_id.bytes, record.trace_id.bytes))
    num_bytes = sum(span.num_bytes for one in records for span in one.spans)
    unwritten = UnwrittenBlobs()
    spans = await off_loop(num_bytes, _pack_spans, records, unwritten)
    num_sample_bytes = sum(sample.num_bytes for one in records for sample in one.samples)
    for attempt in range(_ATTEMPTS):
        traces = {one.trace: any(map(_may_share, one.samples)) for one in records if one.samples}
        earlier = await _known_samples(database, traces, known if attempt == 0 else None)
        share = attempt < _ATTEMPTS - 1
        samples = await off_loop(num_sample_bytes, _pack_samples, records, earlier, unwritten, share)
        await unwritten.write(blobs)
        try:
            if first is None and attempt == 0 and known is not None and all(_is_turn(one, known) for one in records):
                counts = await _write_turns(database, samples)
            else:
                counts = await _write(database, records, samples, spans, first)
        except _ParentGone:
            continue
        if known is not None:
            _remember(known, samples, earlier, counts)
        return
    raise AssertionError("what shares nothing misses nothing")


def _may_share(sample: NewSample) -> bool:
    """Whether it may go on from others of its trace: not a chat that no answer is part of."""
    conversation = sample.served.conversation if sample.served else None
    if conversation is None or not conversation.messages:
        return True
    return any(message.get("role") == "assistant" for message in conversation.messages)


def _is_turn(record: TraceRecord, known: KnownSamples) -> bool:
    """Whether its trace is on record, and only its samples are to be added."""
    return bool(record.samples) and not record.spans and not record.flags and known.of(record.trace) is not None


async def _write_turns(database: AsyncDatabase, samples: Mapping[Trace, Sequence[PackedSample]]) -> dict[Trace, int]:
    """As `_write`, for traces that are on record: these are locked in turn, each when its first sample is written."""
    sent = [(trace, sample) for trace, packed in samples.items() for sample in packed]
    values = [_sample_values(one) for _, one in sent]
    async with database.connection() as connection, connection.cursor() as cursor:
        if len(sent) == 1:
            await cursor.execute(INSERT_SAMPLE, values[0])
        else:
            async with connection.pipeline():
                await cursor.executemany(INSERT_SAMPLE, values, returning=True)
        return await _sample_counts(cursor, sent)


async def _write(
    database: AsyncDatabase,
    records: Sequence[TraceRecord],
    samples: Mapping[Trace, Sequence[PackedSample]],
    spans: Sequence[tuple[Trace, dict[str, Any]]],
    first: Preparation | None,
) -> dict[Trace, int]:
    """How many samples each trace has then; 0 where some were on record before. Raises _ParentGone."""
    counts = dict[Trace, int]()
    async with database.connection() as connection, connection.cursor() as cursor:
        # Statements that are sent together are one transaction anyway: begin and commit are two statements less.
        is_one_go = not spans and first is None
        async with connection.pipeline(), nullcontext() if is_one_go else connection.transaction():
            if first is not None:
                await first(connection)
            async with connection.cursor() as locking:
                await locking.executemany(LOCK_TRACE, [_trace_values(one) for one in records])
            sent = [(trace, sample) for trace, packed in samples.items() for sample in packed]
            if sent:
                await cursor.executemany(INSERT_SAMPLE, [_sample_values(one) for _, one in sent], returning=True)
            if not is_one_go:
                counts = await _sample_counts(cursor, sent)
                await _write_spans(connection, spans)
        return await _sample_counts(cursor, sent) if is_one_go else counts


async def _sample_counts(cursor: AsyncCursor[Any], sent: Sequence[tuple[Trace, PackedSample]]) -> dict[Trace, int]:
    counts = dict[Trace, int]()
    async for written, (trace, _) in _results(cursor, sent):
        if written.is_past:
            counts[trace] = 0
            continue
        if not written.are_there:
            raise _ParentGone
        counts[trace] = written.num_samples if written.is_new and counts.get(trace, 1) else 0
    return counts


def _remember(
    known: KnownSamples,
    samples: Mapping[Trace, Sequence[PackedSample]],
    earlier: Mapping[Trace, Sequence[KnownSample]],
    counts: Mapping[Trace, int],
) -> None:
    for trace, packed in samples.items():
        now = [*earlier.get(trace, ()), *(one.known for one in packed)]
        if counts.get(trace) == len(now):
            known.remember(trace, now)
        else:
            known.forget(trace)


def _pack_spans(records: Sequence[TraceRecord], blobs: TakesBlobs) -> list[tuple[Trace, dict[str, Any]]]:
    return [(record.trace, _span_values(record, span, blobs)) for record in records for span in record.spans]


def _pack_samples(
    records: Sequence[TraceRecord], earlier: Mapping[Trace, Sequence[KnownSample]], blobs: TakesBlobs, share: bool
) -> dict[Trace, list[PackedSample]]:
    return {
        record.trace: pack_samples(_distinct(record.samples), earlier.get(record.trace, ()), blobs, share=share)
        for record in records
        if record.samples
    }


def _distinct(samples: Iterable[NewSample]) -> list[NewSample]:
    """One of each digest: the one that the gateway knows about, where there is one."""
    found = dict[bytes, NewSample]()
    for sample in samples:
        if sample.digest not in found or found[sample.digest].served is None:
            found[sample.digest] = sample
    return list(found.values())


def _span_values(record: TraceRecord, span: NewSpan, blobs: TakesBlobs) -> dict[str, Any]:
    return {
        "team_id": record.team_id,
        "trace_id": record.trace_id,
        "span_id": span.span_id,
        "digest": span.digest,
        "schema_tag": span.schema_tag,
        "name": span.name,
        "step_id": span.step_id,
        "source": span.source,
        "started_at": span.started_at,
        "ended_at": span.ended_at,
        "sample_digest": span.sample_digest,
        "flag": span.flag,
        "num_bytes": span.num_bytes,
        "span_id_reused": SPAN_ID_REUSED,
        **placed("payload", span.payload, blobs),
        "contents": sorted(map(blobs.put, span.contents.values())),
    }


async def _known_samples(
    database: AsyncDatabase, traces: Mapping[Trace, bool], known: KnownSamples | None
) -> dict[Trace, Sequence[KnownSample]]:
    """What is on record of these traces; the database is asked only about those of whom that matters."""
    found = {trace: samples for trace in traces if known and (samples := known.of(trace)) is not None}
    asked = [trace for trace, matters in traces.items() if matters and trace not in found]
    if asked:
        read: dict[Trace, list[KnownSample]] = defaultdict(list)
        values = {"teams": [team for team, _ in asked], "traces": [trace for _, trace in asked]}
        async with database.connection() as connection:
            async for team_id, trace_id, *facts in await connection.execute(KNOWN, values):
                read[team_id, trace_id].append(KnownSample(*facts))
        found |= read
    return found


def _trace_values(record: TraceRecord) -> dict[str, Any]:
    served = [sample.served for sample in record.samples if sample.served and not sample.is_of_upstream]
    others = [sample.served for sample in record.samples if sample.served and sample.is_of_upstream]
    scores = [span.evaluated_reward for span in record.spans if span.evaluated_reward is not None and not span.flag]
    return {
        "team_id": record.team_id,
        "id": record.trace_id,
        "model": record.model,
        "model_id": served[-1].model_id if served else None,
        "upstream_id": others[-1].model_id if others else None,
        "checkpoint_ids": list({one.checkpoint_id for one in served if one.checkpoint_id}),
        "attempt": record.samples[-1].attempt if record.samples else None,
        "flags": sorted(record.flags | {span.flag for span in record.spans if span.flag}),
        "evaluated_reward": scores[-1] if scores else None,
    }


def _sample_values(packed: PackedSample) -> dict[str, Any]:
    sampling = packed.values["sampling"]
    return {**packed.values, "sampling": None if sampling is None else Jsonb(sampling)}


async def _write_spans(connection: AsyncConnection, spans: Sequence[tuple[Trace, dict[str, Any]]]) -> None:
    if not spans:
        return
    flags, num_turns = defaultdict[Trace, set[str]](set), Counter[Trace]()
    async with connection.cursor() as cursor:
        await cursor.executemany(INSERT_SPAN, [values for _, values in spans], returning=True)
        async for inserted, (trace, _) in _results(cursor, spans):
            if inserted.flag is not None:
                flags[trace].add(inserted.flag)
            elif inserted.has_sample:
                num_turns[trace] += 1
        if named := [values for _, values in spans if values["contents"]]:
            await cursor.executemany(NAME_CONTENTS, named)
        if counts := [
            {"team_id": team, "id": trace, "num_turns": num_turns[team, trace], "flags": sorted(flags[team, trace])}
            for team, trace in sorted({*flags, *num_turns})
        ]:
            await cursor.executemany(COUNT_SPANS, counts)


async def _results(cursor: AsyncCursor[Any], sent: Sequence[Sent]) -> AsyncGenerator[tuple[Any, Sent]]:
    """(row, what was sent) of each statement that returned a row."""
    for one in sent:
        if (row := await cursor.fetchone()) is not None:
            yield row, one
        cursor.nextset()
