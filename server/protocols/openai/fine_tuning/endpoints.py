"""`/v1/fine_tuning/jobs`."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Query, Request

from server.catalog.pinned_names import pinned_name
from server.fine_tuning import reading
from server.fine_tuning.creating import Asked, FineTuning, create_job
from server.fine_tuning.requests import MAX_METADATA, JobRequest
from server.fine_tuning.types import Job
from server.http.authentication import CallerDep
from server.http.context import Context, ContextDep
from server.http.routing import KeyedRouter
from server.principals.callers import Caller
from server.protocols.openai.files.schemas import FILE
from server.protocols.openai.fine_tuning.schemas import (
    CHECKPOINT,
    EVENT,
    JOB,
    CheckpointObject,
    EventObject,
    JobObject,
    Objects,
    checkpoint_object,
    event_object,
    job_object,
)
from server.protocols.openai.shared.platform_routes import PlatformRoute, id_of
from server.runs import changing
from server.runs.events import newest_events
from server.training.idempotency import IDEMPOTENCY_HEADER
from wire.errors import NotFound

router = KeyedRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=PlatformRoute)

_RETRIES = "x-stainless-retry-count"
"""How often OpenAI's client has sent this request before."""
_METADATA = re.compile(r"metadata\[(.{1,64})\]")
_EVENT_ID = re.compile(rf"{EVENT}([0-9a-f]{{32}})-(\d{{1,9}})")

After = Annotated[str | None, Query(max_length=100)]


@router.post("")
async def create(context: ContextDep, caller: CallerDep, request: Request, body: JobRequest) -> JobObject:
    """Train a model on a file. A base is forked first; `suffix` becomes a part of the fork's name."""
    asked = Asked(
        body,
        id_of(FILE, body.training_file),
        id_of(FILE, body.validation_file or ""),
        request.headers.get(IDEMPOTENCY_HEADER),
        request.headers.get(_RETRIES, "0") != "0",
    )
    return await _shown(context, caller, await create_job(_services(context), caller, asked))


@router.get("")
async def list_jobs(
    context: ContextDep,
    caller: CallerDep,
    request: Request,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Objects[JobObject]:
    """The team's jobs, newest first; with `metadata[KEY]=VALUE`, those that have it."""
    wanted = {found[1]: value for name, value in request.query_params.items() if (found := _METADATA.fullmatch(name))}
    async with context.database.session() as session:
        place = (await reading.find_job(session, caller, id_of(JOB, after))).run.id if after else None
        few = dict(list(wanted.items())[:MAX_METADATA])
        jobs, has_more = await reading.list_jobs(session, caller, place, limit, few)
        tokens = await reading.trained_tokens(session, jobs)
    shown = [job_object(job, tokens.get(job.run.id, 0), caller.team_id) for job in jobs]
    return Objects(data=shown, has_more=has_more)


@router.get("/{fine_tuning_job_id}")
async def get_job(context: ContextDep, caller: CallerDep, fine_tuning_job_id: str) -> JobObject:
    """One job."""
    async with context.database.session() as session:
        job = await reading.find_job(session, caller, id_of(JOB, fine_tuning_job_id))
    return await _shown(context, caller, job)


@router.post("/{fine_tuning_job_id}/cancel")
async def cancel(context: ContextDep, caller: CallerDep, fine_tuning_job_id: str) -> JobObject:
    """End it. The steps that are done stay."""
    async with context.database.session() as session:
        job = await reading.find_job(session, caller, id_of(JOB, fine_tuning_job_id))
        await changing.cancel(session, caller, job.run.id)
    return await get_job(context, caller, fine_tuning_job_id)


@router.post("/{fine_tuning_job_id}/pause")
async def pause(context: ContextDep, caller: CallerDep, fine_tuning_job_id: str) -> JobObject:
    """End after the present step, until it is resumed."""
    async with context.database.session() as session:
        job = await reading.find_job(session, caller, id_of(JOB, fine_tuning_job_id))
        await changing.pause(session, caller, job.run.id)
    return await get_job(context, caller, fine_tuning_job_id)


@router.post("/{fine_tuning_job_id}/resume")
async def resume(context: ContextDep, caller: CallerDep, fine_tuning_job_id: str) -> JobObject:
    """Go on after the last step."""
    async with context.database.session() as session:
        job = await reading.find_job(session, caller, id_of(JOB, fine_tuning_job_id))
    await changing.resume(context.database, caller, job.run.id)
    return await get_job(context, caller, fine_tuning_job_id)


@router.get("/{fine_tuning_job_id}/events")
async def list_events(
    context: ContextDep,
    caller: CallerDep,
    fine_tuning_job_id: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Objects[EventObject]:
    """What happened to a job, newest first."""
    async with context.database.session() as session:
        job = await reading.find_job(session, caller, id_of(JOB, fine_tuning_job_id))
        before = _event_number(job, after) if after else None
        events = await newest_events(session, job.run.id, before, limit + 1)
    return Objects(data=[event_object(job, event) for event in events[:limit]], has_more=len(events) > limit)


@router.get("/{fine_tuning_job_id}/checkpoints")
async def list_checkpoints(
    context: ContextDep,
    caller: CallerDep,
    fine_tuning_job_id: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Objects[CheckpointObject]:
    """The checkpoints of a job that can be sampled, newest first."""
    async with context.database.session() as session:
        job = await reading.find_job(session, caller, id_of(JOB, fine_tuning_job_id))
        if after and id_of(CHECKPOINT, after) is None:
            raise NotFound("the job has no such checkpoint", param="after")
        place = id_of(CHECKPOINT, after) if after else None
        found, has_more = await reading.checkpoints_of(session, job, place, limit)
    shown = [checkpoint_object(job, one, pinned_name(job.run.model, one.name)) for one in found]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return Objects(data=shown, has_more=has_more, first_id=first, last_id=last)


def _event_number(job: Job, event_id: str) -> int:
    found = _EVENT_ID.fullmatch(event_id)
    if found is None or found[1] != job.run.id.hex:
        raise NotFound("the job has no such event", param="after")
    return int(found[2])


async def _shown(context: Context, caller: Caller, job: Job) -> JobObject:
    async with context.database.session() as session:
        tokens = await reading.trained_tokens(session, [job])
    return job_object(job, tokens.get(job.run.id, 0), caller.team_id)


def _services(context: Context) -> FineTuning:
    return FineTuning(
        context.training,
        context.heads,
        context.blobs,
        context.upload_parser,
        context.settings.default_lora,
        context.run_defaults,
    )
