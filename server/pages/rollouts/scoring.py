"""The button of a rollout's page that has the trainer go over it."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.catalog.repository import as_uuid
from server.http.context import ContextDep
from server.http.disconnects import unless_disconnected
from server.pages.shared.forms import submitted
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.training.scoring import score_trace
from store.database import AsyncConnection
from store.rollouts import TraceFacts
from wire.errors import NotFound

router = PageRouter()

_IS_TRAINED = "select exists (select from models where id = %(id)s and base_id is not null) as so"


async def is_scorable(connection: AsyncConnection, trace: TraceFacts) -> bool:
    """Whether the button is of use: the rollout is complete, and from a model that has a trainer."""
    if trace.model_id is None or trace.status != "completed" or not trace.num_samples or trace.reward is None:
        return False
    row = await (await connection.execute(_IS_TRAINED, {"id": trace.model_id})).fetchone()
    return bool(row and row.so)


@router.post("/forms/traces/{trace_id}/logprobs")
async def score(context: ContextDep, request: Request, visitor: VisitorDep, trace_id: str) -> Response:
    """Wait for it, then show the rollout by what came of it."""
    await submitted(request, visitor)
    found_id = as_uuid(trace_id)
    if found_id is None:
        raise NotFound(f"there is no trace {trace_id}")
    await unless_disconnected(request, score_trace(context.training, visitor.caller, found_id, None))
    return RedirectResponse(f"/trace/{found_id}?by=trainer", 303)
