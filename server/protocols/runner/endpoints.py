"""`/runner`: register, live, take placements, say how they went. See `wire.placements`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Annotated, BinaryIO
from uuid import UUID

from fastapi import Depends, Request
from fastapi.responses import StreamingResponse

from server.http.access import sent_key
from server.http.authentication import LivingRunnerDep, RunnerDep
from server.http.context import ContextDep
from server.http.disconnects import unless_disconnected
from server.http.request_body import UPLOAD
from server.http.routing import KeyedRouter
from server.runners import registering, reporting
from server.runners.agent_keys import AgentKeys
from server.runners.archives import archive_of
from server.runners.leasing import Leasing
from server.runners.registering import own_runner
from store.blob_stores.threads import in_blob_thread
from wire.placements import (
    Beat,
    End,
    Ended,
    Heartbeat,
    Leased,
    LeaseRequest,
    LogLines,
    Ready,
    Registered,
    Registration,
)

router = KeyedRouter(prefix="/runner", tags=["runners"])

_CHUNK = 256 * 1024


async def _agent_keys(request: Request) -> AgentKeys:
    return AgentKeys(sent_key(request))


AgentKeysDep = Annotated[AgentKeys, Depends(_agent_keys)]


@router.post("/register", status_code=201)
async def register(context: ContextDep, caller: RunnerDep, body: Registration) -> Registered:
    """A process that will take placements."""
    async with context.database.session() as session:
        return await registering.register(session, caller, body)


@router.post("/{runner_id}/heartbeat", dependencies=[Depends(UPLOAD)])
async def heartbeat(
    context: ContextDep, caller: LivingRunnerDep, runner_id: UUID, keys: AgentKeysDep, body: Heartbeat
) -> Beat:
    """It lives; what it shall stop."""
    return await registering.heartbeat(context.runner_heartbeats, context.background, caller, runner_id, body, keys)


@router.post("/{runner_id}/lease")
async def lease(
    context: ContextDep,
    caller: RunnerDep,
    runner_id: UUID,
    keys: AgentKeysDep,
    body: LeaseRequest,
    request: Request,
) -> Leased:
    """Something to carry out; waits for it as long as the request says."""
    leasing = Leasing(context.database, context.waiting_runners, context.shutdown)
    taking = leasing.take(caller, runner_id, body, keys)
    return Leased(placements=await unless_disconnected(request, taking))


@router.post("/{runner_id}/placements/{placement_id}/ready")
async def ready(
    context: ContextDep, caller: RunnerDep, runner_id: UUID, placement_id: UUID, body: Ready
) -> dict[str, str]:
    """Its environment answers."""
    await reporting.ready(context.database, caller, runner_id, placement_id, body)
    return {"placement_id": str(placement_id)}


@router.post("/{runner_id}/placements/{placement_id}/log", dependencies=[Depends(UPLOAD)])
async def log(
    context: ContextDep, caller: RunnerDep, runner_id: UUID, placement_id: UUID, body: LogLines
) -> dict[str, str]:
    """Lines that a build wrote."""
    async with context.database.session() as session:
        await reporting.log_lines(session, await own_runner(session, caller, runner_id), placement_id, body)
    return {"placement_id": str(placement_id)}


@router.post("/{runner_id}/placements/{placement_id}/end", dependencies=[Depends(UPLOAD)])
async def end(context: ContextDep, caller: RunnerDep, runner_id: UUID, placement_id: UUID, body: End) -> Ended:
    """It is over, and all that it reported has arrived; or somebody else shall do it."""
    return await reporting.end(context.database, caller, runner_id, placement_id, body)


@router.get(
    "/{runner_id}/builds/{build_id}/archive",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def archive(context: ContextDep, caller: RunnerDep, runner_id: UUID, build_id: UUID) -> StreamingResponse:
    """The gzip tar of a build that something needs which the runner holds."""
    async with context.database.session() as session:
        build = await archive_of(session, await own_runner(session, caller, runner_id), build_id)
    assert build.archive_blob is not None, "it has an archive"
    file = await in_blob_thread(context.blobs, context.blobs.open, build.archive_blob)
    headers = {} if build.archive_bytes is None else {"Content-Length": str(build.archive_bytes)}
    return StreamingResponse(_pieces(file), media_type="application/gzip", headers=headers)


@router.post("/{runner_id}/stop")
async def stop(context: ContextDep, caller: RunnerDep, runner_id: UUID) -> dict[str, str]:
    """It goes: what it still holds goes to others."""
    await registering.stop(context.database, caller, runner_id)
    return {"runner_id": str(runner_id)}


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with closing(file):
        while piece := file.read(_CHUNK):
            yield piece
