"""`/v2/admin`: for keys with the scope `admin`. One router a noun; together they are `router`."""

from __future__ import annotations

from server.protocols.hud.admin import bases, keys, models, planes, teams
from server.protocols.hud.shared.routing import HudRouter

router = HudRouter(tags=["admin"])
for part in (teams, keys, bases, planes, models):
    router.include_router(part.router)
