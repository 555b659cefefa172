"""Every failure as a JSON object: `detail`, one sentence that the SDK prints, and `code`.

The gateway's routes add OpenAI's `error` object, which is what OpenAI clients read (docs/gateway.md, "Errors").
"""

from __future__ import annotations

import re
from typing import cast

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import StatementError
from starlette.exceptions import HTTPException

from server.http.access import sent_key
from server.http.access_log import request_id
from server.http.body_memory import BodiesInTheWay
from server.http.request_body import BodyTooLarge
from server.protocols.openai.errors import openai_error
from server.validation_messages import first_field, first_problem
from store.database import DATABASE_AWAY
from wire.errors import HeadwayError, InvalidRequest, Unauthenticated, Unavailable

log = structlog.get_logger(__name__)

_RETRY_AFTER_S = 2
_OPENAI_ROUTES = re.compile(r"(/v1)?/(chat/completions|completions|responses|models(/[^/]*)?)")
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
REFUSED = (HeadwayError, RequestValidationError, StatementError, *DATABASE_AWAY, *_UNSTORABLE)
"""Exceptions that are answered, by routes and pages alike, with what `refusal_of` makes of them."""


def install_error_handlers(app: FastAPI) -> None:
    """Answer every exception as this module describes."""
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
        return Unavailable("the database does not answer at the moment; try again")
    cause = error.orig if isinstance(error, StatementError) else error
    if isinstance(cause, _UNSTORABLE):
        log.warning("value_refused", error=str(cause).partition("\n")[0])
        return InvalidRequest("the request holds a value that cannot be stored or looked for, such as a NUL character")
    return None


def error_response(request: Request, error: HeadwayError) -> JSONResponse:
    """A refusal as it goes over the wire."""
    retry_after_s = error.retry_after_s or (_RETRY_AFTER_S if error.status == 503 else None)
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _response(request, error.status, error.code, error.message, headers, error.param)


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    error = cast(HTTPException, error)
    if error.status_code in _NO_ROUTE:
        try:
            sent_key(request)
        except Unauthenticated as no_key:
            return error_response(request, no_key)
    sentence = error.detail
    if not isinstance(error, BodyTooLarge | BodiesInTheWay) and error.status_code in _HTTP_SENTENCES:
        sentence = _HTTP_SENTENCES[error.status_code].format(method=request.method, path=request.url.path)
    code = _HTTP_CODES.get(error.status_code, "invalid_request")
    headers = dict(error.headers or {})
    if error.status_code in _NO_ROUTE:  # OpenAI's clients ask for many that are not served here
        return JSONResponse(openai_error(error.status_code, code, sentence), error.status_code, headers)
    return _response(request, error.status_code, code, sentence, headers)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    refusal = refusal_of(error)
    return await _unexpected(request, error) if refusal is None else error_response(request, refusal)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected_error", method=request.method, path=request.url.path, exc_info=error)
    return _response(request, 500, "internal", f"internal error; request id {request_id(request.scope)}", {})


def _response(
    request: Request, status: int, code: str, message: str, headers: dict[str, str], param: str | None = None
) -> JSONResponse:
    if _OPENAI_ROUTES.fullmatch(request.url.path):
        return JSONResponse(openai_error(status, code, message, param), status, headers)
    return JSONResponse({"detail": message, "code": code}, status, headers)
