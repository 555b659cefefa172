"""Templates into responses."""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from server.http.access_log import request_id
from server.pages.shared import formats
from server.pages.shared.addresses import address
from server.pages.shared.sessions import Visitor
from server.pages.shared.static_files import static_url
from wire.errors import HeadwayError

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept, Authorization, X-API-Key, Cookie",
}
_THEMES = ("light", "dark")

_templates = Environment(
    loader=PackageLoader("server.pages", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_globals: dict[str, Any] = {"static": static_url, "address": address}
_templates.globals.update(_globals)
_templates.filters.update(formats.FILTERS)


def page(
    request: Request,
    template: str,
    visitor: Visitor | None,
    *,
    status: int = 200,
    error: HeadwayError | None = None,
    **values: Any,
) -> Response:
    """A page, or 304 when it is as the browser knows it. error: what a form on it was refused for, as its `problem`."""
    status, problem = (error.status, error.message) if error else (status, None)
    theme = request.cookies.get("headway_theme")
    body = _templates.get_template(template).render(
        visitor=visitor,
        path=request.url.path,
        theme=theme if theme in _THEMES else None,
        **{"problem": problem, **values},
    )
    tag = f'"{hashlib.sha256(body.encode()).hexdigest()[:24]}"'
    if request.headers.get("if-none-match") == tag:
        return not_modified(tag)
    return HTMLResponse(body, status, headers={**_HEADERS, "ETag": tag})


def not_modified(tag: str) -> Response:
    """Nothing has changed since the browser asked last."""
    return Response(status_code=304, headers={**_HEADERS, "ETag": tag})


def error_page(request: Request, error: HeadwayError) -> Response:
    """A refusal as a page."""
    visitor = getattr(request.state, "visitor", None)
    sentence = error.message[:1].upper() + error.message[1:]
    reply = page(
        request, "shared/error.html", visitor, status=error.status, sentence=sentence, request_id=_request_id(request)
    )
    if error.retry_after_s:
        reply.headers["Retry-After"] = str(error.retry_after_s)
    return reply


def _request_id(request: Request) -> str:
    return request_id(request.scope)
