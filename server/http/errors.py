"""Every failure as a JSON object, in the shape that the route names (`KeyedRoute.error_body`).

Where no route was chosen, because there is none or before one could be, it is the shape that `install_error_handlers`
was given; but the plain one where there is no key either.
"""

from __future__ import annotations

from typing import Any, cast

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import StatementError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from server.http.access import sent_key
from server.http.access_log import request_id
from server.http.body_memory import BodiesInTheWay
from server.http.problem import ErrorBody, own_status, problem
from server.http.request_body import BodyTooLarge
from server.values.validation_messages import first_field, first_problem
from store.database import DATABASE_AWAY, DATABASE_REFUSES, away_sentence
from wire.errors import HeadwayError, InvalidRequest, Unauthenticated, Unavailable

log = structlog.get_logger(__name__)

_RETRY_AFTER_S = 2
_NO_ROUTE = (404, 405)
"""What there is is for those to know who have a key."""
_HTTP_CODES = {404: "not_found", 413: "too_large", 503: "unavailable"}
_HTTP_SENTENCES = {
    400: "the body is not valid JSON",
    404: "there is no such endpoint: {method} {path}",
    405: "{method} is not possible on {path}",
}


_UNSTORABLE = (psycopg.DataError, UnicodeEncodeError, OverflowError)
"""What PostgreSQL or its driver raise for a value of the client's that no row can hold: a NUL character, half a
surrogate pair, a number out of range."""
REFUSED = (HeadwayError, RequestValidationError, StatementError, *DATABASE_AWAY, *DATABASE_REFUSES, *_UNSTORABLE)
"""Exceptions that are answered, by routes and pages alike, with what `refusal_of` makes of them."""


def install_error_handlers(app: FastAPI, unrouted: ErrorBody) -> None:
    """Answer every exception as this module describes. `unrouted`: the shape where no route names one."""
    app.state.unrouted_error_body = unrouted
    app.add_exception_handler(HTTPException, _http_exception)
    for kind in REFUSED:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(Exception, _unexpected)


def refusal_of(error: Exception) -> HeadwayError | None:
    """The refusal with which an exception of `REFUSED` is answered; None where it is a fault of ours."""
    if isinstance(error, HeadwayError):
        return error
    if isinstance(error, RequestValidationError):
        problems = error.errors()
        return InvalidRequest(first_problem(problems, error.body), param=first_field(problems, error.body))
    if isinstance(error, DATABASE_AWAY):
        log.warning("database_away", error=str(error).partition("\n")[0])
        return Unavailable(f"{away_sentence(error)} at the moment; try again")
    cause = error.orig if isinstance(error, StatementError) else error
    if isinstance(cause, _UNSTORABLE):
        log.warning("value_refused", error=str(cause).partition("\n")[0])
        return InvalidRequest("the request holds a value that cannot be stored or looked for, such as a NUL character")
    if isinstance(cause, DATABASE_REFUSES):
        log.error("database_refuses", error=str(cause).partition("\n")[0], then="see `headway doctor`")
        return Unavailable(
            "the database refuses the server what it needs, whose log says what; try again once it is given"
        )
    return None


def error_response(request: HTTPConnection, error: HeadwayError) -> JSONResponse:
    """A refusal as it goes over the wire."""
    status_of = getattr(request.scope.get("route"), "refusal_status", own_status)
    return _response(error, error_body_of(request.scope), status_of(error))


def error_body_of(scope: Scope) -> ErrorBody:
    """The shape of refusals for the client of this request."""
    route: Any = scope.get("route")
    return getattr(route, "error_body", None) or scope["app"].state.unrouted_error_body


def _response(error: HeadwayError, shape: ErrorBody, status: int) -> JSONResponse:
    retry_after_s = error.retry_after_s or (_RETRY_AFTER_S if status == 503 else None)
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(shape(status, error.code, error.message, error.param), status, headers)


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    error = cast(HTTPException, error)
    if error.status_code in _NO_ROUTE:
        try:
            sent_key(request)
        except Unauthenticated as no_key:
            return _response(no_key, getattr(request.scope.get("route"), "error_body", problem), no_key.status)
    sentence = error.detail
    if not isinstance(error, BodyTooLarge | BodiesInTheWay) and error.status_code in _HTTP_SENTENCES:
        sentence = _HTTP_SENTENCES[error.status_code].format(method=request.method, path=request.url.path)
    code = _HTTP_CODES.get(error.status_code, "invalid_request")
    headers = dict(error.headers or {})
    is_unrouted = error.status_code in _NO_ROUTE
    shape = request.app.state.unrouted_error_body if is_unrouted else error_body_of(request.scope)
    return JSONResponse(shape(error.status_code, code, sentence), error.status_code, headers)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    refusal = refusal_of(error)
    return await _unexpected(request, error) if refusal is None else error_response(request, refusal)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected_error", method=request.method, path=request.url.path, exc_info=error)
    sentence = f"internal error; request id {request_id(request.scope)}"
    return JSONResponse(error_body_of(request.scope)(500, "internal", sentence), 500)
