"""The answer to a request to sample, as `retrieve_future` gives it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from server.http.context import Context
from server.principals.callers import Caller
from server.protocols.tinker.sampling.results import as_json, as_protobuf
from server.sampling_sessions.futures import Failed
from server.sampling_sessions.results import Sampled
from server.sampling_sessions.running import Wait
from server.sampling_sessions.sessions import require_request
from wire.process.off_loop import off_loop

_PROTOBUF, _JSON = "application/x-protobuf", "application/json"


@dataclass(frozen=True, slots=True)
class Content:
    """A body, and its media type."""

    body: bytes
    media_type: str


async def sampling_answer(
    context: Context, caller: Caller, request_id: UUID, timeout_s: float, *, wants_protobuf: bool
) -> Content | Failed | Wait:
    """The answer as soon as it is there, why there will be none, or what it waits for. Raises NotFound, Gone,
    Forbidden."""
    await require_request(context.database, caller, request_id)
    outcome = await context.sampling_futures.result(caller.team_id, request_id, timeout_s)
    if not isinstance(outcome, Sampled):
        return outcome
    encode, media_type = (as_protobuf, _PROTOBUF) if wants_protobuf else (as_json, _JSON)
    return Content(await off_loop(outcome.num_bytes, encode, outcome), media_type)
