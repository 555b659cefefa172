"""Routes that answer browsers only, and in HTML also when they refuse."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from server.http.errors import REFUSED, refusal_of
from server.http.request_body import BodyTooLarge
from server.http.routing import KeyedRoute, KeyedRouter
from server.pages.shared.browsers import reads_pages
from server.pages.shared.rendering import error_page
from server.pages.shared.signing_in import SignInFirst, login_url
from wire.errors import TooLarge


class PageRoute(KeyedRoute):
    """Leaves requests that carry a key, or do not ask for HTML, to the API."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and not reads_pages(scope):
            return Match.NONE, {}
        return super().matches(scope)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_in_html(request: Request) -> Response:
            try:
                return await answer(request)
            except SignInFirst:
                return RedirectResponse(login_url(request), 303)
            except BodyTooLarge as error:
                return error_page(request, TooLarge(error.detail))
            except REFUSED as error:
                refusal = refusal_of(error)
                if refusal is None:
                    raise
                return error_page(request, refusal)

        return answer_in_html


class PageRouter(KeyedRouter):
    """A router of such routes, which the OpenAPI document leaves out."""

    def __init__(self, route_class: type[PageRoute] = PageRoute) -> None:
        super().__init__(route_class=route_class, include_in_schema=False)
