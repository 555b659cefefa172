"""Uploads of telemetry: read away from the event loop, one at a time, and recorded before they are answered."""

from __future__ import annotations

from uuid import UUID

from server.rollouts.upload_body import read_upload
from server.uploads.storing import stored_or_refused
from server.uploads.upload_parser import UploadParser
from store.blobs import BlobStore
from store.database import AsyncDatabase
from store.rollouts import TraceRecord, record


async def take_upload(
    database: AsyncDatabase, blobs: BlobStore, parser: UploadParser, team_id: UUID, trace_id: UUID, body: bytes
) -> int:
    """Record a batch of spans; how many there were, odd ones included.

    Raises InvalidRequest unless the body is `{"telemetry": [...]}`.
    """
    spans, samples = await parser.read(body, read_upload, team_id, trace_id)
    if spans:
        with stored_or_refused("upload"):
            await record(database, blobs, [TraceRecord(team_id, trace_id, samples, spans)])
    return len(spans)
