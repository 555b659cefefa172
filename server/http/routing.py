"""Routes that admit the caller before a byte of the body is read.

The framework reads and parses a body before it resolves the dependencies of its endpoint, hence before one of them
could ask for a key. A `KeyedRoute` finds the dependencies that are an `Access` when it is made, and has each of them
decide before anything else. A route without any is an error when its module is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ClassVar

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.responses import Response
from fastapi.routing import APIRoute

from server.http.access import Access, Anybody
from server.http.beginnings import IndexedRouter
from server.http.problem import ErrorBody, RefusalStatus, own_status, problem
from server.http.request_body import OPEN_TO_ANYBODY, SMALL, BodyBound, open_body

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class KeyedRoute(APIRoute):
    """Admits, opens the body, and goes on. `error_body`: the shape of refusals; a protocol's routes have another, and
    may have another `refusal_status`."""

    error_body: ClassVar[ErrorBody] = staticmethod(problem)
    refusal_status: ClassVar[RefusalStatus] = staticmethod(own_status)

    def get_route_handler(self) -> Handler:
        """See APIRoute."""
        answer, accesses, bound = self.get_answer_handler(), accesses_of(self), bound_of(self)
        opens = any(access.opens_body for access in accesses)

        async def admit_first(request: Request) -> Response:
            for access in accesses:
                await access.admit(request)
            if opens:
                open_body(request, bound)
            return await answer(request)

        return admit_first

    def get_answer_handler(self) -> Handler:
        """What answers a request that was admitted."""
        return super().get_route_handler()


class KeyedRouter(IndexedRouter):
    """A router of such routes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=options.pop("route_class", KeyedRoute), **options)


def accesses_of(route: APIRoute) -> list[Access]:
    """Who decides about callers of a route. Raises TypeError where nobody does."""
    found = list({id(call): call for call in _calls(route.dependant) if isinstance(call, Access)}.values())
    if not found:
        raise TypeError(f"{route.path} does not say who may call it: take a CallerDep, or depend on ANYBODY")
    return found


def bound_of(route: APIRoute) -> BodyBound:
    """How large the body of a route may be."""
    if any(isinstance(access, Anybody) for access in accesses_of(route)):
        return OPEN_TO_ANYBODY
    return next((call for call in _calls(route.dependant) if isinstance(call, BodyBound)), SMALL)


def _calls(dependant: Dependant) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)
