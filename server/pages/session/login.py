"""`/login` and `/logout`."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.http.access import ANYBODY
from server.http.context import Context, ContextDep
from server.pages.shared.forms import submitted, submitted_by_anybody
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import SESSION_S, end_session, find_visitor, start_session
from server.pages.shared.signing_in import COOKIE, ReadingVisitorDep, own_path
from wire.errors import HeadwayError, Unauthenticated

router = PageRouter()


@router.get("/login", dependencies=[ANYBODY])
async def login_form(context: ContextDep, request: Request) -> Response:
    """The form; whoever is signed in goes on."""
    next_path = own_path(request.query_params.get("next", "/"))
    if token := request.cookies.get(COOKIE):
        async with context.database.session() as session:
            if await find_visitor(session, token):
                return RedirectResponse(next_path, 303)
    return page(request, "session/login.html", None, next_path=next_path)


@router.post("/login", dependencies=[ANYBODY])
async def log_in(context: ContextDep, request: Request) -> Response:
    """Exchange a key for a session."""
    fields = await submitted_by_anybody(request)
    next_path, address = own_path(fields.get("next", "/")), request.client.host if request.client else "?"
    try:
        token = await _token_for(context, fields.get("key", "").strip(), address)
    except HeadwayError as error:
        refusal = page(
            request, "session/login.html", None, status=error.status, next_path=next_path, problem=error.message
        )
        if error.retry_after_s:
            refusal.headers["Retry-After"] = str(error.retry_after_s)
        return refusal
    response = RedirectResponse(next_path, 303)
    is_https = request.url.scheme == "https"
    # Lax: a link in a terminal or a chat opens the page that it names.
    response.set_cookie(COOKIE, token, max_age=SESSION_S, httponly=True, samesite="lax", secure=is_https)
    return response


@router.post("/logout")
async def log_out(context: ContextDep, request: Request, visitor: ReadingVisitorDep) -> Response:
    """End the session."""
    await submitted(request, visitor)
    async with context.database.session() as session:
        await end_session(session, request.cookies[COOKIE])
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


async def _token_for(context: Context, key: str, address: str) -> str:
    """The cookie of a new session. Raises TooManyAttempts for a wrong key after too many others, and what
    `start_session` raises."""
    try:
        async with context.database.session() as session:
            return await start_session(session, key)
    except Unauthenticated:
        context.attempts.failed(address)
        raise
