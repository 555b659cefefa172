"""A rollout, or one of its turns, as a JSON file."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import Response

from server.catalog.repository import as_uuid
from server.http.context import ContextDep
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.rollouts.details import trace_detail
from server.rollouts.visibility import require_trace
from wire.errors import NotFound

router = PageRouter()


@router.get("/trace/{trace_id}/json")
async def download(
    context: ContextDep,
    visitor: VisitorDep,
    trace_id: str,
    turn: Annotated[int | None, Query(ge=1, le=2**31)] = None,
) -> Response:
    """What `GET /v2/traces/ID` says. turn: of that turn alone, from 1."""
    found_id = as_uuid(trace_id)
    if found_id is None:
        raise NotFound(f"there is no trace {trace_id}")
    await require_trace(context.database, visitor.caller, found_id)
    detail = await trace_detail(context.database, context.blobs, visitor.caller.team_id, found_id, tokens=True)
    name = f"rollout-{found_id.hex[:8]}"
    if turn is not None:
        detail, name = await asyncio.to_thread(_turn, detail, turn), f"{name}-turn-{turn}"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}.json"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(detail, media_type="application/json", headers=headers)


def _turn(detail: bytes, number: int) -> bytes:
    turns: list[Any] = json.loads(detail)["turns"]
    if number > len(turns):
        raise NotFound(f"this rollout has {len(turns)} turns, and no turn {number}")
    return json.dumps(turns[number - 1]).encode()
