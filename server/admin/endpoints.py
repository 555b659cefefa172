"""`/v2/admin`: for keys with the scope `admin`. One router a noun; together they are `router`."""

from __future__ import annotations

from server.admin import base_endpoints, key_endpoints, model_endpoints, plane_endpoints, team_endpoints
from server.routing import KeyedRouter

router = KeyedRouter(prefix="/v2/admin", tags=["admin"])
for part in (team_endpoints, key_endpoints, base_endpoints, plane_endpoints, model_endpoints):
    router.include_router(part.router)
