"""The answer of one side of the playground as it comes: a line of JSON for each piece, for the page's script."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from server.http.context import Context, ContextDep
from server.http.disconnects import unless_disconnected
from server.http.errors import REFUSED, refusal_of
from server.pages.playground.asking import SIDES, Asked, Side, asked_by
from server.pages.playground.recording import end_recorded
from server.pages.shared.forms import submitted
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import SamplingVisitorDep
from server.sampling.answers import AnswerStream
from server.sampling.service import stream
from server.sampling.target import Target
from server.sampling.targets import find_target
from wire.errors import InvalidRequest
from wire.process.closing_stream import ClosingStream

log = structlog.get_logger(__name__)

router = PageRouter()


@router.post("/forms/playground/stream")
async def ask(context: ContextDep, request: Request, visitor: SamplingVisitorDep) -> Response:
    """The form, and which `side` of it. Refusals are JSON, with a status of their own as long as nothing was sent."""
    try:
        fields = await submitted(request, visitor)
        asked, side = asked_by(fields), next((one for one in SIDES if one == fields.get("side")), None)
        if side is None or side not in asked.sides:
            raise InvalidRequest("side must be a or b, and name a model")
        target = await find_target(context.sampling, visitor.caller, asked.model_of(side))
        wanted = asked.request(side, whole=False)
        events = await unless_disconnected(request, stream(context.sampling, target, wanted))
    except REFUSED as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        return JSONResponse({"problem": refusal.message}, refusal.status, headers={"Cache-Control": "no-store"})
    lines = _lines(context, visitor, asked, side, target, events)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
    return ClosingStream(lines, lines, media_type="application/x-ndjson", headers=headers)


async def _lines(
    context: Context, visitor: Visitor, asked: Asked, side: Side, target: Target, events: AnswerStream
) -> AsyncGenerator[str]:
    try:
        async with aclosing(events):
            async for _, event in events:
                for delta in event.deltas:
                    if delta.content or delta.reasoning_content:
                        yield _line(text=delta.content or "", reasoning=delta.reasoning_content or "")
        trace_id, (answer,) = asked.trace_of(side), events.answers
        await end_recorded(context.database, visitor.caller, trace_id)
        yield _line(
            end=answer.finish_reason,
            by=target.checkpoint.name if target.checkpoint else None,
            num_tokens=len(answer.tokens),
            trace=str(trace_id) if trace_id else None,
        )
    except REFUSED as error:
        refusal = refusal_of(error)
        yield _line(problem=refusal.message if refusal else "The answer broke off.")
    except Exception as error:
        log.error("stream_broken", exc_info=error)
        yield _line(problem="The answer broke off.")


def _line(**values: Any) -> str:
    return json.dumps(values) + "\n"
