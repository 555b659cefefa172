"""The session of a request, as a dependency, and where to go without one."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request

from server.context import ContextDep
from server.pages.sessions import Visitor, find_visitor
from wire.errors import Unauthenticated

COOKIE = "headway_session"


class SignInFirst(Unauthenticated):
    """Nobody is signed in, or not any more."""


async def visiting(context: ContextDep, request: Request) -> Visitor:
    """Who looks at the page. Raises SignInFirst."""
    token = request.cookies.get(COOKIE)
    if not token:
        raise SignInFirst("sign in first")
    async with context.database.session() as session:
        visitor = await find_visitor(session, token)
    if visitor is None:
        raise SignInFirst("your session has ended; sign in again")
    request.state.visitor = visitor
    visitor.caller.require("read")
    context.key_uses.note(visitor.caller.key_id)
    return visitor


VisitorDep = Annotated[Visitor, Depends(visiting)]


def login_url(request: Request) -> str:
    """The form, with the way back to this page."""
    if request.method != "GET" or request.url.path.startswith(("/live/", "/forms/")):
        return "/login"
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return "/login" if back == "/" else f"/login?next={quote(back, safe='')}"


def own_path(path: str) -> str:
    """The path if it leads to a page of ours, else the front page: links of strangers do not lead elsewhere."""
    parts = urlsplit(path) if _is_plain(path) else None
    if parts is None or parts.scheme or parts.netloc or not path.startswith("/") or path.startswith("//"):
        return "/"
    return path


def _is_plain(path: str) -> bool:
    """Browsers read a backslash as a slash, and skip control characters."""
    return path.isascii() and path.isprintable() and "\\" not in path
