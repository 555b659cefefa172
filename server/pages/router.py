"""All pages. The last route catches what no page and no endpoint answers."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from server.pages import (
    alarms,
    draining,
    guard_form,
    job_list,
    job_page,
    keys,
    login,
    model_list,
    model_page,
    moving_heads,
    new_keys,
    pausing_models,
    revoking_keys,
    rollout_list,
    scoring,
    static_files,
    system,
    taskset_page,
    tasksets,
    team_page,
    trace_page,
)
from server.pages.routing import PageRoute
from server.pages.signing_in import VisitorDep
from wire.errors import NotFound

router = APIRouter(include_in_schema=False)
_ROOMS = (
    static_files,
    login,
    model_list,
    model_page,
    moving_heads,
    pausing_models,
    alarms,
    guard_form,
    job_list,
    job_page,
    rollout_list,
    trace_page,
    scoring,
    tasksets,
    taskset_page,
    system,
    draining,
    keys,
    new_keys,
    revoking_keys,
    team_page,
)
for room in _ROOMS:
    router.include_router(room.router)

rest = APIRouter(route_class=PageRoute, include_in_schema=False)
"""Included after every endpoint."""


@rest.get("/{path:path}")
async def no_such_page(visitor: VisitorDep, path: str) -> Response:
    """Whatever else a browser asks for."""
    raise NotFound(f"there is no page /{path}")
