"""Which rollout a sampling call belongs to, in all protocols alike: the header `Trace-Id`."""

from __future__ import annotations

from fastapi import Request

from server.catalog.repository import as_uuid
from server.sampling.requests import Rollout

TRACE_HEADER = "Trace-Id"


async def rollout_of(request: Request) -> Rollout | None:
    """What to record the answers under: the `Trace-Id`; nothing, where there is none, or one that is no UUID (other
    tools send such)."""
    trace_id = as_uuid(request.headers.get(TRACE_HEADER, ""))
    return None if trace_id is None else Rollout(trace_id, len(await request.body()))
