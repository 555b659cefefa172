"""The pictures of a rollout, for its page."""

from __future__ import annotations

from fastapi.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from server.catalog.repository import as_uuid
from server.http.context import ContextDep
from server.http.picture_replies import png_reply
from server.pages.shared.routing import PageRoute, PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.pictures.showing import picture_of_trace
from server.rollouts.visibility import require_trace
from wire.errors import NotFound


class PictureRoute(PageRoute):
    """Of pages, though browsers ask for a picture by another Accept header than for a page."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super(PageRoute, self).matches(scope)


router = PageRouter(PictureRoute)


@router.get("/trace/{trace_id}/pictures/{name}")
async def picture(
    context: ContextDep,
    visitor: VisitorDep,
    trace_id: str,
    name: str,
    size: int | None = None,
) -> Response:
    """One that the rollout names. size: of its longer side, in pixels."""
    found_id, team_id = as_uuid(trace_id), visitor.caller.team_id
    if found_id is None:
        raise NotFound(f"there is no trace {trace_id}")
    await require_trace(context.database, visitor.caller, found_id)
    return png_reply(await picture_of_trace(context.database, context.pictures, team_id, found_id, name, size))
