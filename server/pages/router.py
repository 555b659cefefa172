"""All pages. The last route catches what no page and no endpoint answers."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from server.pages import (
    alarms,
    job_list,
    job_page,
    keys,
    login,
    model_list,
    model_page,
    moving_heads,
    rollout_list,
    scoring,
    static_files,
    system,
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
    alarms,
    job_list,
    job_page,
    rollout_list,
    trace_page,
    scoring,
    system,
    keys,
)
for room in _ROOMS:
    router.include_router(room.router)

rest = APIRouter(route_class=PageRoute, include_in_schema=False)
"""Included after every endpoint."""


@rest.get("/{path:path}")
async def no_such_page(visitor: VisitorDep, path: str) -> Response:
    """Whatever else a browser asks for."""
    raise NotFound(f"there is no page /{path}")
