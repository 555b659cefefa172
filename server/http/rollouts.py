"""Which rollout a sampling call belongs to, in all protocols alike: the header `Trace-Id`, or `Headway-Rollout` where
not the rollout's agent asks but its environment."""

from __future__ import annotations

from fastapi import Request

from server.catalog.repository import as_uuid
from server.sampling.requests import Rollout

TRACE_HEADER = "Trace-Id"
ENVIRONMENT_HEADER = "Headway-Rollout"


async def rollout_of(request: Request) -> Rollout | None:
    """What to record the answers under: the `Trace-Id`; nothing, where there is none, or one that is no UUID (other
    tools send such)."""
    num_bytes = len(await request.body())
    if (trace_id := as_uuid(request.headers.get(TRACE_HEADER, ""))) is not None:
        return Rollout(trace_id, num_bytes)
    if (trace_id := as_uuid(request.headers.get(ENVIRONMENT_HEADER, ""))) is not None:
        return Rollout(trace_id, num_bytes, of_environment=True)
    return None
