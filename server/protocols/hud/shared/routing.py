"""Routes of HUD's API."""

from __future__ import annotations

from typing import Any, ClassVar

from server.http.problem import ErrorBody
from server.http.routing import KeyedRoute, KeyedRouter
from server.protocols.hud.shared.errors import hud_error


class HudRoute(KeyedRoute):
    """Refuses in the words of HUD's SDK."""

    error_body: ClassVar[ErrorBody] = staticmethod(hud_error)


class HudRouter(KeyedRouter):
    """A router of such routes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=HudRoute, **options)
