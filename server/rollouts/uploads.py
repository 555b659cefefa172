"""Uploads of telemetry: read away from the event loop, one at a time, and recorded before they are answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from uuid import UUID

from server.rollouts.upload_body import read_upload
from server.uploads.storing import stored_or_refused
from server.uploads.upload_parser import UploadParser
from store.blob_stores import BlobStore
from store.database import AsyncConnection, AsyncDatabase
from store.pictures import PictureStore
from store.rollouts import NewSample, TraceRecord, record
from store.rollouts.recording import Preparation
from store.rollouts.spans import with_pictures
from wire.errors import Conflict

PresentAttempt = Callable[[AsyncConnection], Awaitable[int]]


async def take_upload(
    database: AsyncDatabase,
    blobs: BlobStore,
    parser: UploadParser,
    team_id: UUID,
    trace_id: UUID,
    body: bytes,
    present_attempt: PresentAttempt | None = None,
) -> int:
    """Record a batch of spans; how many there were, odd ones included. `present_attempt`: the one that they belong to,
    of a rollout that runners carry out, for as long as the transaction lasts; it raises where that is another's.

    Raises InvalidRequest unless the body is `{"telemetry": [...]}`.
    """
    spans, samples = await parser.read(body, read_upload, team_id, trace_id)
    if names := {name for span in spans for name in span.pictures}:
        known = await PictureStore(database).known(team_id, names)
        spans = [with_pictures(span, known) for span in spans]
        samples = [NewSample(team_id, trace_id, span.turn) for span in spans if span.turn is not None]
    if spans:
        first = None
        if present_attempt is not None:
            samples, first = await _of_the_present_attempt(database, samples, present_attempt)
        with stored_or_refused("upload"):
            await record(database, blobs, [TraceRecord(team_id, trace_id, samples, spans)], first=first)
    return len(spans)


async def _of_the_present_attempt(
    database: AsyncDatabase, samples: Sequence[NewSample], present_attempt: PresentAttempt
) -> tuple[list[NewSample], Preparation]:
    """The samples with their attempt, and what is to be found out when they are recorded: whether it still is that."""
    async with database.connection() as connection:
        attempt = await present_attempt(connection)

    async def stay(connection: AsyncConnection) -> None:
        if await present_attempt(connection) != attempt:
            raise Conflict("another attempt at this rollout has begun; the spans of this one are not kept")

    return [replace(sample, attempt=attempt) for sample in samples], stay
