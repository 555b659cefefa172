"""`/environments/<id>`, which `hud deploy` prints: its versions, what the serving one offers, and the end of a log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.repository import as_uuid
from server.environments.finding import environment_of_id
from server.environments.registry import LogLine, builds_of, last_log_lines
from server.http.context import ContextDep
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.principals.callers import Caller
from store.tables import EnvironmentBuildRow, EnvironmentRow
from wire.errors import NotFound

PAGE = 20
_LINES = 200
_TASKS = 100

router = PageRouter()

Version = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


@router.get("/environments/{environment_id}")
async def environment_page(
    context: ContextDep,
    request: Request,
    visitor: VisitorDep,
    environment_id: str,
    version: Version = None,
    below: Version = None,
) -> Response:
    """One environment; `version`: whose log is shown, else the newest; `below`: older versions."""
    found_id = as_uuid(environment_id)
    if found_id is None:
        raise NotFound(f"there is no environment {environment_id[:100]!r}; see /environments")
    async with context.database.session() as session:
        row = await environment_of_id(session, visitor.caller, found_id)
        builds = await builds_of(session, row.id, PAGE + 1, below)
        shown = await _shown(session, row, builds, version)
        serving = await session.get(EnvironmentBuildRow, row.current_build_id) if row.current_build_id else None
        lines: Sequence[LogLine] = []
        if shown is not None and _may_read_log(visitor.caller, shown):
            lines = await last_log_lines(session, shown.id, _LINES)
    tasks: list[dict[str, Any]] = (serving.manifest or {}).get("tasks", []) if serving else []
    values: dict[str, Any] = {
        "environment": row,
        "serving": serving,
        "tasks": tasks[:_TASKS],
        "num_tasks": len(tasks),
        "capabilities": (serving.manifest or {}).get("capabilities", []) if serving else [],
        "builds": builds[:PAGE],
        "below": below,
        "following": builds[PAGE - 1].version if len(builds) > PAGE else None,
        "shown": shown,
        "lines": lines,
        "num_left_out": max(0, (shown.num_log_lines if shown else 0) - len(lines)),
    }
    return page(request, "environments/environment.html", visitor, **values)


async def _shown(
    session: AsyncSession, row: EnvironmentRow, builds: Sequence[EnvironmentBuildRow], version: int | None
) -> EnvironmentBuildRow | None:
    if version is None:
        return builds[0] if builds else None
    found = await builds_of(session, row.id, 1, version + 1)
    if not found or found[0].version != version:
        raise NotFound(f"the environment {row.name!r} has no version {version}")
    return found[0]


def _may_read_log(caller: Caller, build: EnvironmentBuildRow) -> bool:
    """What everybody's environments wrote is for operators."""
    return build.team_id == caller.team_id or caller.is_admin
