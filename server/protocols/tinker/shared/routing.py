"""Routes of the Tinker API."""

from __future__ import annotations

from typing import Any, ClassVar

from server.http.problem import ErrorBody, RefusalStatus
from server.http.routing import KeyedRoute, KeyedRouter
from server.protocols.tinker.shared.errors import tinker_error, tinker_status


class TinkerRoute(KeyedRoute):
    """Refuses in the words of the Tinker SDK."""

    error_body: ClassVar[ErrorBody] = staticmethod(tinker_error)
    refusal_status: ClassVar[RefusalStatus] = staticmethod(tinker_status)


class TinkerRouter(KeyedRouter):
    """A router of such routes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(prefix="/api/v1", tags=["tinker"], route_class=TinkerRoute, **options)
