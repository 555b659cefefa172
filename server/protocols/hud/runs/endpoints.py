"""`/v2/runs`: made, read, paused, resumed, cancelled, deleted, followed."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request
from fastapi.responses import JSONResponse, Response

from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.http.routing import KeyedRouter
from server.protocols.hud.runs.event_stream import EVENT_STREAM, RunEventStream, last_event_id
from server.runs import changing, describing, reading
from server.runs.creating import create
from server.runs.events import list_events
from server.runs.following import RunFollower
from server.runs.metrics import metrics_of
from server.runs.settings import RunRequest
from server.runs.steps import steps_of
from server.runs.types import Run, RunChange, RunDeleted, RunEvents, RunMetricsPage, RunStep, State
from server.training.idempotency import IDEMPOTENCY_HEADER
from server.values.paging import Page

router = KeyedRouter(prefix="/v2/runs", tags=["runs"])


@router.post("", status_code=201, response_model=Run)
async def create_run(context: ContextDep, caller: CallerDep, request: Request, body: RunRequest) -> Response:
    """Train a model on a taskset. 200 where the Idempotency-Key names a run that was made before."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    created = await create(context.training, caller, body, key, defaults=context.run_defaults)
    return JSONResponse(created.run.model_dump(mode="json"), 201 if created.is_new else 200)


@router.get("")
async def list_runs(
    context: ContextDep,
    caller: CallerDep,
    model: Annotated[str | None, Query(max_length=512)] = None,
    state: State | None = None,
    tag: Annotated[str | None, Query(max_length=50)] = None,
    cursor: CursorParam = None,
    limit: LimitParam = DEFAULT_LIMIT,
) -> Page[Run]:
    """The team's runs, newest first; of one model, in one state, or with a tag."""
    async with context.database.session() as session:
        wanted = {"model": model, "tag": tag, "cursor": cursor}
        return await reading.list_runs(session, caller, state=state, limit=limit, **wanted)


@router.get("/{run_id}")
async def get_run(context: ContextDep, caller: CallerDep, run_id: UUID) -> Run:
    """One run, with every setting."""
    async with context.database.session() as session:
        return await reading.get_run(session, caller, run_id)


@router.patch("/{run_id}")
async def change_run(context: ContextDep, caller: CallerDep, run_id: UUID, body: RunChange) -> Run:
    """Name it, or set its tags."""
    async with context.database.session() as session:
        return await describing.change_run(session, caller, run_id, body)


@router.post("/{run_id}/pause")
async def pause_run(context: ContextDep, caller: CallerDep, run_id: UUID) -> Run:
    """End after the present step, until it is resumed."""
    async with context.database.session() as session:
        return await changing.pause(session, caller, run_id)


@router.post("/{run_id}/resume")
async def resume_run(context: ContextDep, caller: CallerDep, run_id: UUID) -> Run:
    """Go on after the last committed step; a run that was stopped or failed, too."""
    return await changing.resume(context.database, caller, run_id)


@router.post("/{run_id}/cancel")
async def cancel_run(context: ContextDep, caller: CallerDep, run_id: UUID) -> Run:
    """End it now. The steps that are done stay."""
    async with context.database.session() as session:
        return await changing.cancel(session, caller, run_id)


@router.delete("/{run_id}")
async def delete_run(context: ContextDep, caller: CallerDep, run_id: UUID) -> RunDeleted:
    """Forget a run that has ended. Its rollouts and checkpoints stay."""
    async with context.database.session() as session:
        return await changing.remove(session, caller, run_id)


@router.get("/{run_id}/events", response_model=RunEvents)
async def run_events(
    context: ContextDep,
    caller: CallerDep,
    request: Request,
    run_id: UUID,
    after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: LimitParam = DEFAULT_LIMIT,
) -> Response:
    """What has happened since event `after`. With `Accept: text/event-stream` whatever happens from there on, as it
    happens, until the run has ended."""
    async with context.database.session() as session:
        run, _ = await reading.find_run(session, caller, run_id)
        if EVENT_STREAM not in request.headers.get("accept", ""):
            return JSONResponse((await list_events(session, run.id, after, limit)).model_dump(mode="json"))
    follower = RunFollower(context.background, context.training.listener, context.shutdown, run.id)
    return RunEventStream(follower, last_event_id(request, after))


@router.get("/{run_id}/metrics")
async def run_metrics(
    context: ContextDep, caller: CallerDep, run_id: UUID, after: Annotated[int, Query(ge=-1, lt=2**31)] = -1
) -> RunMetricsPage:
    """A row for each step and each evaluation that is done; of those after step `after`."""
    async with context.database.session() as session:
        run, _ = await reading.find_run(session, caller, run_id)
        return await metrics_of(session, run.id, after)


@router.get("/{run_id}/steps")
async def run_steps(
    context: ContextDep, caller: CallerDep, run_id: UUID, limit: Annotated[int, Query(ge=1, le=50)] = 3
) -> list[RunStep]:
    """The newest steps, newest first: which rollouts run where, and what they wait for."""
    async with context.database.session() as session:
        run, _ = await reading.find_run(session, caller, run_id)
        return await steps_of(session, run, limit)
