"""Rollouts. Telemetry has two spellings, with and without the hosted service's prefix."""

from __future__ import annotations

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request
from fastapi.responses import Response

from server.catalog.repository import as_uuid
from server.hosted_rollouts.cancelling import cancel_rollout
from server.hosted_rollouts.reports import present_attempt, take_enter, take_exit
from server.http.access import ANYBODY
from server.http.authentication import CallerDep, TraceReporterDep
from server.http.context import ContextDep
from server.http.disconnects import unless_disconnected
from server.http.picture_bodies import UPLOAD_WITH_PICTURES
from server.protocols.hud.shared.openapi import json_body
from server.protocols.hud.shared.routing import HudRouter
from server.protocols.hud.shared.visibility import ReportedTrace, SeenTrace
from server.protocols.hud.trace_filters import FilterDep
from server.protocols.hud.trace_schemas import ScoreTrace, TelemetryUpload, TraceDetail, TraceEvents, TraceSpans
from server.rollouts import service
from server.rollouts.details import trace_detail, trace_events, trace_spans
from server.rollouts.types import (
    CancelRequest,
    Deleted,
    Pin,
    ScoredTrace,
    Trace,
    TraceCancelled,
    TraceEntered,
    TraceExited,
    TraceList,
)
from server.rollouts.uploads import take_upload
from server.rollouts.visibility import require_trace
from server.training.idempotency import IDEMPOTENCY_HEADER
from server.training.scoring import score_trace
from server.values.sanitizing import readable_json

router = HudRouter(tags=["traces"])

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=256)]


@router.post("/v2/trace/{trace_id}/enter", dependencies=[ReportedTrace])
async def enter(context: ContextDep, caller: TraceReporterDep, trace_id: UUID, body: TraceEntered) -> dict[str, str]:
    """A rollout begins."""
    if caller.runner_id is not None:
        await take_enter(context.database, caller, trace_id)
        return {"trace_id": str(trace_id)}
    await service.enter(context.database, caller, trace_id, body)
    return {"trace_id": str(trace_id)}


@router.post("/v2/trace/{trace_id}/exit", dependencies=[ReportedTrace])
async def exit_(context: ContextDep, caller: TraceReporterDep, trace_id: UUID, body: TraceExited) -> dict[str, str]:
    """A rollout ended."""
    if caller.runner_id is not None:
        await take_exit(context.database, caller, trace_id, body)
        return {"trace_id": str(trace_id)}
    async with context.database.session() as session:
        await service.exit_(session, caller.team_id, trace_id, body)
    return {"trace_id": str(trace_id)}


@router.get("/v2/trace/{trace_id}", dependencies=[SeenTrace])
async def get_trace(context: ContextDep, caller: CallerDep, trace_id: UUID) -> Trace:
    """One rollout."""
    return await service.get_trace(context.database, caller.team_id, trace_id)


@router.get("/v2/trace/{trace_id}/events", response_model=TraceEvents, dependencies=[SeenTrace])
async def get_events(context: ContextDep, caller: CallerDep, trace_id: UUID) -> Response:
    """What the agent said and what its tools answered, in order."""
    events = await trace_events(context.database, context.blobs, caller.team_id, trace_id)
    return Response(readable_json({"events": events}), media_type="application/json")


@router.get("/v2/traces")
async def list_traces(
    context: ContextDep,
    caller: CallerDep,
    wanted: FilterDep,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> TraceList:
    """The team's rollouts, newest first, as many as fit all filters."""
    return await service.page_of_traces(context.database, caller.team_id, wanted, limit, cursor)


@router.get("/v2/traces/{trace_id}", response_model=TraceDetail, dependencies=[SeenTrace])
async def get_detail(context: ContextDep, caller: CallerDep, trace_id: UUID, tokens: bool = True) -> Response:
    """One rollout with its turns: what was asked and answered, token ids, logprobs, checkpoints."""
    detail = await trace_detail(context.database, context.blobs, caller.team_id, trace_id, tokens=tokens)
    return Response(detail, media_type="application/json")


@router.get("/v2/traces/{trace_id}/spans", response_model=TraceSpans, dependencies=[SeenTrace])
async def get_spans(context: ContextDep, caller: CallerDep, trace_id: UUID) -> Response:
    """The spans that telemetry brought, as they were sent."""
    return Response(
        await trace_spans(context.database, context.blobs, caller.team_id, trace_id), media_type="application/json"
    )


@router.post("/v2/traces/{trace_id}/logprobs", dependencies=[SeenTrace])
async def score(
    context: ContextDep, caller: CallerDep, trace_id: UUID, body: ScoreTrace, request: Request
) -> ScoredTrace:
    """Have a model's trainer go over the rollout, so that its logprobs stand beside the sampler's."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    return await unless_disconnected(request, score_trace(context.training, caller, trace_id, body.model, key))


@router.delete("/v2/traces/{trace_id}", dependencies=[SeenTrace])
async def delete_trace(context: ContextDep, caller: CallerDep, trace_id: UUID) -> Deleted:
    """Delete a rollout and all that was recorded of it."""
    return await service.delete(context.database, caller, trace_id)


@router.put("/v2/traces/{trace_id}/pin", dependencies=[SeenTrace])
async def pin_trace(context: ContextDep, caller: CallerDep, trace_id: UUID) -> Pin:
    """Keep a rollout, whatever the retention policy says."""
    return await service.pin(context.database, caller.team_id, trace_id, True)


@router.delete("/v2/traces/{trace_id}/pin", dependencies=[SeenTrace])
async def unpin_trace(context: ContextDep, caller: CallerDep, trace_id: UUID) -> Pin:
    """Leave a rollout to the retention policy again."""
    return await service.pin(context.database, caller.team_id, trace_id, False)


@router.post("/v2/rollouts/cancel")
async def cancel(context: ContextDep, caller: CallerDep, body: CancelRequest) -> TraceCancelled:
    """Cancel a rollout. One that runs at a client is marked so, and the client not notified; one that runs here is
    stopped, for good."""
    trace_id = as_uuid(body.trace_id or "")
    if trace_id is None:
        return TraceCancelled(status="not_found")
    await require_trace(context.database, caller, trace_id)
    job_id = as_uuid(body.job_id or "")
    cancelled = await cancel_rollout(context.database, caller.team_id, trace_id, job_id)
    return TraceCancelled(status="accepted" if cancelled else "not_found")


@router.post(
    "/trace/{trace_id}/telemetry-upload",
    openapi_extra=json_body(TelemetryUpload),
    dependencies=[ReportedTrace, Depends(UPLOAD_WITH_PICTURES)],
)
@router.post(
    "/v3/api/trace/{trace_id}/telemetry-upload",
    include_in_schema=False,
    dependencies=[ReportedTrace, Depends(UPLOAD_WITH_PICTURES)],
)
async def upload_telemetry(
    context: ContextDep, caller: TraceReporterDep, trace_id: UUID, request: Request
) -> dict[str, int]:
    """A batch of spans, recorded before this returns: training may refer to them at once."""
    database, blobs, parser = context.database, context.blobs, context.upload_parser
    body = await request.body()
    present = None if caller.runner_id is None else partial(present_attempt, caller=caller, trace_id=trace_id)
    return {"accepted": await take_upload(database, blobs, parser, caller.team_id, trace_id, body, present)}


@router.post("/sdk-events/cli", dependencies=[ANYBODY])
@router.post("/v3/api/sdk-events/cli", include_in_schema=False, dependencies=[ANYBODY])
async def cli_event() -> dict[str, int]:
    """Usage events of the SDK's CLI, which asks for no key and expects no answer. They are not kept."""
    return {"accepted": 0}
