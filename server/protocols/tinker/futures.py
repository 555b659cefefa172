"""Fetching the result of a request that was accepted before: a long poll, which holds no thread and no connection.

The SDK asks again at once after a 408, so that a poll takes its time; it gives one up after 45 s.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field
from pydantic_core import to_json

from server.catalog.repository import as_uuid
from server.http.authentication import ReporterDep
from server.http.context import Context, ContextDep
from server.http.disconnects import unless_disconnected
from server.principals.callers import Caller
from server.protocols.tinker.sampling.endpoints import sampling_request_of
from server.protocols.tinker.sampling.futures import Content, sampling_answer
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import TinkerReply, TinkerRequest
from server.protocols.tinker.training import settled
from server.protocols.tinker.training.passes import protobuf
from server.protocols.tinker.training.results import Reads, result_body
from server.sampling_sessions.futures import Failed as SamplingFailed
from server.sampling_sessions.running import Wait
from server.sampling_sessions.sessions import require_request
from server.training.promises import Failed, Pending, find_promise, follow_promise
from wire.errors import HeadwayError, NotFound
from wire.process.off_loop import off_loop

router = TinkerRouter()

POLL_S = 35.0
_FAULT, _FAULT_PAUSE_S = 500, 2.0
"""Before a poll is answered with a fault, such as a database that is away: the SDK asks again at once."""
_SHOWN_AT_ONCE_BYTES = 1_000_000
_JSON = "application/json"
_SDK, _READS_MIXED = re.compile(r"Tinker/Python 0\.([0-9]+)\."), 25

RequestId = Annotated[str, Field(max_length=2000)]


class RetrieveFuture(TinkerRequest):
    """Which result; allow_metadata_only: of a large one its size first."""

    request_id: RequestId
    allow_metadata_only: bool = False


class CancelFuture(TinkerRequest):
    """Which request nobody waits for any more."""

    request_id: RequestId


class Cancelled(TinkerReply):
    """Noted."""

    type: Literal["cancel_future"] = "cancel_future"


@router.post("/retrieve_future", response_class=Response)
async def retrieve_future(context: ContextDep, caller: ReporterDep, request: Request, body: RetrieveFuture) -> Response:
    """The result of a request, or of a failed one why; 408 while it is not there."""
    reads = _reads(request)
    started = time.monotonic()
    try:
        return await unless_disconnected(request, _retrieved(context, caller, body, reads))
    except Exception as error:
        if not isinstance(error, HeadwayError) or error.status >= _FAULT:
            await asyncio.sleep(max(0.0, started + _FAULT_PAUSE_S - time.monotonic()))
        raise


@router.post("/cancel_future")
async def cancel_future(context: ContextDep, caller: ReporterDep, body: CancelFuture) -> Cancelled:
    """Nobody waits for this request any more. Sampling ends; training goes on, for others follow it in its order."""
    if (operation_id := as_uuid(body.request_id)) is not None:
        await find_promise(context.training, caller, operation_id)
    elif (sampling_id := sampling_request_of(body.request_id)) is not None:
        await require_request(context.database, caller, sampling_id)
        await context.sampling_futures.cancel(caller.team_id, sampling_id)
    elif (known := settled.read_id(body.request_id)) is not None:
        await settled.result(context, caller, known)
    else:
        raise no_such_request(body.request_id)
    return Cancelled()


def no_such_request(request_id: str) -> NotFound:
    """The refusal for a request that is not there, or another team's."""
    return NotFound(f"there is no request {request_id[:100]!r}", param="request_id")


def _reads(request: Request) -> Reads:
    if protobuf.MEDIA_TYPE not in request.headers.get("accept", ""):
        return Reads.JSON
    version = _SDK.search(request.headers.get("user-agent", ""))
    is_old = version is not None and int(version[1]) < _READS_MIXED
    return Reads.UNIFORM_PROTOBUF if is_old else Reads.PROTOBUF


async def _retrieved(context: Context, caller: Caller, body: RetrieveFuture, reads: Reads) -> Response:
    if (operation_id := as_uuid(body.request_id)) is not None:
        return await _of_operation(context, caller, body, operation_id, reads)
    if (sampling_id := sampling_request_of(body.request_id)) is not None:
        return await _of_sampling(context, caller, body, sampling_id, reads)
    if (known := settled.read_id(body.request_id)) is not None:
        return _json(await settled.result(context, caller, known))
    raise no_such_request(body.request_id)


async def _of_operation(
    context: Context, caller: Caller, body: RetrieveFuture, operation_id: UUID, reads: Reads
) -> Response:
    promise, outcome = await follow_promise(context.training, caller, operation_id, POLL_S)
    match outcome:
        case Pending(state, reason):
            return try_again(body.request_id, state, reason)
        case Failed(error, is_user_s):
            return failed(error.message, "user" if is_user_s else "server")
        case (header, arrays):
            num_bytes = sum(array.nbytes for array in arrays.values())
            content, media_type = await off_loop(num_bytes, result_body, promise, header, arrays, reads)
    return _result(body, content, media_type)


async def _of_sampling(
    context: Context, caller: Caller, body: RetrieveFuture, sampling_id: UUID, reads: Reads
) -> Response:
    outcome = await sampling_answer(context, caller, sampling_id, POLL_S, wants_protobuf=reads is not Reads.JSON)
    match outcome:
        case Wait(state, reason):
            return try_again(body.request_id, state, reason)
        case SamplingFailed(category, message):
            return failed(message, category)
        case Content(content, media_type):
            return _result(body, content, media_type)


def _result(body: RetrieveFuture, content: bytes, media_type: str) -> Response:
    """The whole, or of a large one its size first: the client makes room for it and asks again."""
    if body.allow_metadata_only and len(content) > _SHOWN_AT_ONCE_BYTES:
        size = {"request_id": body.request_id, "response_payload_size": len(content)}
        return _json({"status": "complete_metadata", **size})
    return Response(content, media_type=media_type)


def try_again(request_id: str, queue_state: str, reason: str | None) -> Response:
    """The result is not there; why."""
    body = {"type": "try_again", "request_id": request_id, "queue_state": queue_state, "queue_state_reason": reason}
    return Response(to_json(body), 408, media_type=_JSON)


def failed(error: str, category: str) -> Response:
    """The request has failed, for a reason of the user's or of ours."""
    return _json({"error": error, "category": category})


def _json(body: dict[str, Any]) -> Response:
    return Response(to_json(body), media_type=_JSON)
