"""The session of a request, as a dependency, and where to go without one. `VisitorDep` asks for the scope `read` where
a page is shown, and for `train` where a form was sent; the others are for routes about which that is not true."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Request

from server.http.access import Access
from server.http.context import Context
from server.pages.shared.sessions import Visitor, find_visitor
from server.principals.roles import Scope
from wire.errors import Unauthenticated

COOKIE = "headway_session"


class SignInFirst(Unauthenticated):
    """Nobody is signed in, or not any more."""


class Visiting(Access):
    """Somebody is signed in with a key that may read, and has the scope. Without one: as the request's method says."""

    def __init__(self, scope: Scope | None = None) -> None:
        self._scope: Scope | None = scope

    async def admit(self, request: Request) -> None:
        """Raises SignInFirst, or Forbidden."""
        visitor = request.state.visitor = await _visitor(request)
        visitor.caller.require("read")
        visitor.caller.require(self._scope or ("read" if request.method in ("GET", "HEAD") else "train"))

    async def __call__(self, request: Request) -> Visitor:
        """Who looks at the page."""
        return request.state.visitor


async def _visitor(request: Request) -> Visitor:
    context: Context = request.app.state.context
    token = request.cookies.get(COOKIE)
    if not token:
        raise SignInFirst("sign in first")
    async with context.database.session() as session:
        visitor = await find_visitor(session, token)
    if visitor is None:
        raise SignInFirst("your session has ended; sign in again")
    context.key_uses.note(visitor.caller.key_id)
    return visitor


VisitorDep = Annotated[Visitor, Depends(Visiting())]
ReadingVisitorDep = Annotated[Visitor, Depends(Visiting("read"))]
SamplingVisitorDep = Annotated[Visitor, Depends(Visiting("sample"))]
KeyKeeperDep = Annotated[Visitor, Depends(Visiting("keys"))]
OperatorDep = Annotated[Visitor, Depends(Visiting("admin"))]


def login_url(request: Request) -> str:
    """The form, with the way back to this page."""
    if request.method != "GET" or request.url.path.startswith(("/live/", "/forms/")):
        return "/login"
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return "/login" if back == "/" else f"/login?next={quote(back, safe='')}"


def own_path(path: str) -> str:
    """The path if it leads to a page of ours, else the front page: links of strangers do not lead elsewhere."""
    return path if _is_plain(path) and path.startswith("/") and not path.startswith("//") else "/"


def _is_plain(path: str) -> bool:
    """Browsers read a backslash as a slash, and skip control characters."""
    return path.isascii() and path.isprintable() and "\\" not in path
