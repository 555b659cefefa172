"""Uploads of telemetry: read away from the event loop, one at a time, and recorded before they are answered."""

from __future__ import annotations

from uuid import UUID

from fastapi import Request

from server.context import Context
from server.rollouts.upload_body import read_upload
from server.uploads.storing import stored_or_refused
from store.rollouts import TraceRecord, record


async def take_upload(context: Context, team_id: UUID, trace_id: UUID, request: Request) -> int:
    """Record a batch of spans; how many there were, odd ones included.

    Raises InvalidRequest unless the body is `{"telemetry": [...]}`.
    """
    body = await request.body()
    spans, samples = await context.upload_parser.read(body, read_upload, team_id, trace_id)
    if spans:
        with stored_or_refused("upload"):
            await record(context.database, context.blobs, [TraceRecord(team_id, trace_id, samples, spans)])
    return len(spans)
