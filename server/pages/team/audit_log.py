"""`/team/audit`: who did what, newest first: a team's own lines for its members, those of all teams for operators."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.responses import Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.listing import EventFilter, list_events
from server.audit.types import Event
from server.http.context import ContextDep
from server.pages.shared.filters import Cursor, Filter, Text, filter_of
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from store.tables import ModelRow, TeamRow

PAGE = 100

router = PageRouter()


def audit_filter(action: Text = "", subject: Text = "", key: Text = "") -> Filter:
    """Of the log."""
    return filter_of(action=action.strip(), subject=subject.strip(), key=key.strip())


AuditFilterDep = Annotated[Filter, Depends(audit_filter)]


@router.get("/team/audit")
async def audit_log(
    context: ContextDep, request: Request, visitor: VisitorDep, said: AuditFilterDep, cursor: Cursor = None
) -> Response:
    """A page of the log; to a key for some models, what was done to these."""
    caller = visitor.caller
    wanted = EventFilter(said.text("action"), said.uuid("subject"), said.uuid("key"))
    team_id = None if caller.is_admin else caller.team_id
    async with context.database.session() as session:
        found = await list_events(session, team_id, wanted, cursor, PAGE, model_ids=caller.model_ids)
        models = await _names(session, ModelRow, {event.subject_id for event in found.items})
        teams = await _names(session, TeamRow, {event.team_id for event in found.items})
    return page(
        request,
        "team/audit.html",
        visitor,
        events=[(event, _detail(event)) for event in found.items],
        models=models,
        teams=teams,
        said=said,
        cursor=cursor,
        older=found.next_cursor,
    )


async def _names(session: AsyncSession, kind: type[ModelRow] | type[TeamRow], ids: set[UUID | None]) -> dict[UUID, str]:
    query = select(kind.id, kind.name).where(kind.id.in_(_known(ids)))
    return {row[0]: row[1] for row in await session.execute(query)}


def _known(ids: set[UUID | None]) -> Sequence[UUID]:
    return [one for one in ids if one is not None]


def _detail(event: Event) -> str:
    said = {name: value for name, value in event.detail.items() if value is not None}
    return "; ".join(
        f"{name.replace('_', ' ')}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in said.items()
    )
