"""`/traces/compare?a=…&b=…`: two rollouts side by side, turn by turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from fastapi.responses import Response

from server.http.context import Context, ContextDep
from server.pages.rollouts.aligning import Row, aligned, is_same, row_of
from server.pages.rollouts.list_filter import asked_traces
from server.pages.rollouts.reading_transcripts import read_transcript
from server.pages.rollouts.rollout_rows import CheckpointName, checkpoint_names
from server.pages.shared.filters import Filter
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.rollouts.service import describe, no_such_trace
from server.rollouts.transcript import Scene
from server.rollouts.types import Trace
from server.rollouts.visibility import require_trace
from store.rollouts import Rollout, TraceFacts, list_traces, read_recorded, resolve_rollout

PAGE = 30
"""Rows of a page."""
_MOST_OF_A_GROUP = 32

router = PageRouter()

TraceId = Annotated[str, Query(max_length=64)]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. `checkpoints`: that served it."""

    trace: Trace
    checkpoints: list[CheckpointName]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Some of the rows, from `start` on. `first_difference`: the row in which both differ first, from 1."""

    rows: list[Row]
    start: int
    total: int
    num_same: int
    first_difference: int | None


@router.get("/traces/compare")
async def compare(
    context: ContextDep,
    request: Request,
    visitor: VisitorDep,
    a: TraceId = "",
    b: TraceId = "",
    start: Annotated[int, Query(alias="from", ge=0, le=2**31)] = 0,
) -> Response:
    """Asks for two ids as long as it has none."""
    said = Filter({name: value.strip() for name, value in (("a", a), ("b", b)) if value.strip()})
    asked = [said.uuid(name) for name in ("a", "b")]
    found = [await _recorded(context, visitor, one) for one in asked if one is not None]
    values: dict[str, Any] = {"said": said, "sides": [], "group": [], "compared": None, "page_size": PAGE}
    if len(found) == 2:
        values["sides"] = await _sides(context, visitor, [rollout for rollout, _ in found])
        values["compared"] = await asyncio.to_thread(_compared, found[0][1], found[1][1], start)
        values["group"] = await _group(context, visitor, found[0][0].trace)
    return page(request, "rollouts/side_by_side.html", visitor, **values)


async def _recorded(context: Context, visitor: Visitor, trace_id: UUID) -> tuple[Rollout, list[Scene]]:
    await require_trace(context.database, visitor.caller, trace_id)
    found = await read_recorded(context.database, context.blobs, visitor.caller.team_id, trace_id, arrays=False)
    if found is None:
        raise no_such_trace(trace_id)
    rollout, spans = found
    return rollout, (await read_transcript(context, rollout, resolve_rollout(rollout), spans)).scenes


async def _sides(context: Context, visitor: Visitor, rollouts: Sequence[Rollout]) -> list[Side]:
    ids = {one for rollout in rollouts for one in rollout.trace.checkpoint_ids}
    async with context.database.connection() as connection:
        names = await checkpoint_names(connection, visitor.caller.team_id, ids)
    return [
        Side(describe(one.trace), [names[known] for known in one.trace.checkpoint_ids if known in names])
        for one in rollouts
    ]


async def _group(context: Context, visitor: Visitor, trace: TraceFacts) -> list[TraceFacts]:
    """The rollouts of the first one's group, the newest first."""
    if trace.group_id is None:
        return []
    wanted = await asked_traces(context, visitor.caller, Filter({"group": trace.group_id}), trace.job_id)
    async with context.database.connection() as connection:
        return (await list_traces(connection, trace.team_id, wanted, limit=_MOST_OF_A_GROUP)).traces


def _compared(first: Sequence[Scene], second: Sequence[Scene], start: int) -> Comparison:
    pairs = aligned(first, second)
    same = [is_same(*pair) for pair in pairs]
    start = max(0, min(start, len(pairs) - 1) // PAGE * PAGE)
    rows = [row_of(*pair) for pair in pairs[start : start + PAGE]]
    differing = next((place for place, is_equal in enumerate(same, 1) if not is_equal), None)
    return Comparison(rows, start, len(pairs), sum(same), differing)
