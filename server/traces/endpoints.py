"""Reports about rollouts. Telemetry has two spellings, with and without the hosted service's prefix."""

from __future__ import annotations

import asyncio
from uuid import UUID

from fastapi import APIRouter, Request

from server.auth.dependencies import CallerDep, ReporterDep
from server.context import ContextDep
from server.traces import service
from server.training.openapi import json_body
from wire.reports import TelemetryUpload, Trace, TraceEntered, TraceExited

router = APIRouter(tags=["traces"])


@router.post("/v2/trace/{trace_id}/enter")
async def enter(context: ContextDep, caller: ReporterDep, trace_id: UUID, body: TraceEntered) -> dict[str, str]:
    """A rollout begins."""
    async with context.database.session() as session:
        await service.enter(session, caller.team_id, trace_id, body)
    return {"trace_id": str(trace_id)}


@router.post("/v2/trace/{trace_id}/exit")
async def exit_(context: ContextDep, caller: ReporterDep, trace_id: UUID, body: TraceExited) -> dict[str, str]:
    """A rollout ended."""
    async with context.database.session() as session:
        await service.exit_(session, caller.team_id, trace_id, body)
    return {"trace_id": str(trace_id)}


@router.get("/v2/trace/{trace_id}")
async def get_trace(context: ContextDep, caller: CallerDep, trace_id: UUID) -> Trace:
    """One rollout."""
    async with context.database.session() as session:
        return await service.get_trace(session, caller.team_id, trace_id)


@router.post("/trace/{trace_id}/telemetry-upload", openapi_extra=json_body(TelemetryUpload))
@router.post("/v3/api/trace/{trace_id}/telemetry-upload", include_in_schema=False)
async def upload_telemetry(
    context: ContextDep, caller: ReporterDep, trace_id: UUID, request: Request
) -> dict[str, int]:
    """A batch of spans, stored before this returns: training may refer to them at once."""
    num_spans, packed = await asyncio.to_thread(service.pack_telemetry, await request.body())
    async with context.database.session() as session:
        await service.keep_telemetry(session, caller.team_id, trace_id, num_spans, packed)
    return {"accepted": num_spans}


@router.post("/sdk-events/cli")
@router.post("/v3/api/sdk-events/cli", include_in_schema=False)
async def cli_event() -> dict[str, int]:
    """Usage events of the SDK's CLI, which asks for no key and expects no answer. They are not kept."""
    return {"accepted": 0}
