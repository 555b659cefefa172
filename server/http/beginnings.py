"""Routers that are passed over by the first segments of a path.

The framework tries the routers of an app in turn, and every route of each: 8 µs a route, which are milliseconds for
what comes late. A router that knows how its paths begin answers for all of its routes at once.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from fastapi import APIRouter
from starlette._utils import get_route_path
from starlette.routing import Match, Mount, Route, WebSocketRoute
from starlette.types import Scope

Beginning: TypeAlias = tuple[str, ...]
"""The literal segments of a path before its first parameter, two at most."""

_NUM_SEGMENTS = 2


class IndexedRouter(APIRouter):
    """Matches nothing whose path begins as none of its routes do. Included, and including others, without a prefix."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._included = list[APIRouter]()
        self._beginnings: frozenset[Beginning] = frozenset()
        self._num_indexed = 0

    def include_router(self, router: APIRouter, **options: Any) -> None:
        """See APIRouter. Raises ValueError for a prefix, which `router` would know nothing of."""
        if self.prefix or options.get("prefix"):
            raise ValueError("a router is included as it is: give its own routes the prefix")
        super().include_router(router, **options)
        self._included.append(router)

    @property
    def beginnings(self) -> frozenset[Beginning]:
        """How the paths of all routes begin; found anew when there is one more."""
        if len(self.routes) != self._num_indexed:
            own = (_beginning(route.path) for route in self.routes if isinstance(route, Mount | Route | WebSocketRoute))
            self._beginnings = frozenset(own).union(*map(_beginnings_of, self._included))
            self._num_indexed = len(self.routes)
        return self._beginnings

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See BaseRoute."""
        found = self.beginnings
        _, *segments = get_route_path(scope).split("/", _NUM_SEGMENTS + 1)
        if any(tuple(segments[:length]) in found for length in range(_NUM_SEGMENTS + 1)):
            return super().matches(scope)
        return Match.NONE, {}


def _beginnings_of(router: APIRouter) -> frozenset[Beginning]:
    """`()`, with which every path begins, where it is not known."""
    return router.beginnings if isinstance(router, IndexedRouter) else frozenset([()])


def _beginning(path: str) -> Beginning:
    literal, parameter, _ = path.partition("{")
    segments = literal.split("/")[1:]
    return tuple((segments[:-1] if parameter else segments)[:_NUM_SEGMENTS])
