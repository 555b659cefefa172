"""`/runs/<id>`: a run's settings, its curve, what its present steps wait for, and what has happened to it."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import Response

from server.catalog.repository import as_uuid
from server.http.context import ContextDep
from server.pages.runs.curve import curve_of
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.runs.events import newest_events
from server.runs.metrics import metrics_of
from server.runs.reading import describe, find_run
from server.runs.steps import steps_of
from server.runs.types import RunStep
from wire.errors import NotFound

_EVENTS, _STEPS, _ROWS = 50, 3, 200
_ROLLOUTS = 256
"""Places of a step that are listed one by one."""

router = PageRouter()


@router.get("/runs/{run_id}")
async def run_page(context: ContextDep, request: Request, visitor: VisitorDep, run_id: str) -> Response:
    """One run; the id with dashes or without."""
    found_id = as_uuid(run_id)
    if found_id is None:
        raise NotFound(f"there is no run {run_id[:100]!r}; see /runs")
    async with context.database.session() as session:
        row, model = await find_run(session, visitor.caller, found_id)
        metrics = (await metrics_of(session, row.id)).items
        events = await newest_events(session, row.id, None, _EVENTS)
        steps = await steps_of(session, row, _STEPS)
    return page(
        request,
        "runs/run.html",
        visitor,
        run=describe(row, model),
        curve=curve_of(metrics),
        metrics=list(reversed(metrics))[:_ROWS],
        events=events,
        steps=[(step, _counts(step)) for step in steps if step.phase not in ("done", "dropped")],
        most_rollouts=_ROLLOUTS,
    )


def _counts(step: RunStep) -> Sequence[tuple[str, int]]:
    """How many rollouts are in each state, in the order in which they go through them."""
    words = ("waiting", "queued", "running", "usable", "failed")
    counted = [(word, sum(rollout.state == word for rollout in step.rollouts)) for word in words]
    return [(word, count) for word, count in counted if count]
