"""Which requests come from a browser that reads pages. Pages and API share paths: `/models/<id>` is both the link
that the SDK prints and OpenAI's description of a model."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

OPEN_PATHS = ("/login", "/logout")
OPEN_FOLDERS = ("/static/", "/live/", "/forms/")
"""Of the pages alone: what is below ends without a session, whatever it is sent."""


def reads_pages(scope: Scope) -> bool:
    """Whether this request wants a page: it carries no key, and asks for HTML or for something only pages have."""
    headers = Headers(scope=scope)
    if "authorization" in headers or "x-api-key" in headers:
        return False
    if scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_FOLDERS):
        return True
    return scope["method"] in ("GET", "HEAD") and "text/html" in headers.get("accept", "")
