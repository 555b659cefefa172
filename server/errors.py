"""Every failure as a JSON object: `detail`, one sentence that the SDK prints, and `code`.

The gateway's routes add OpenAI's `error` object, which is what OpenAI clients read (docs/gateway.md, "Errors").
"""

from __future__ import annotations

import re
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, StatementError
from starlette.exceptions import HTTPException

from server.access_log import request_id
from server.sentences import field_name, first_problem
from store.database import DATABASE_AWAY
from wire.errors import HeadwayError, InvalidRequest, Unavailable

log = structlog.get_logger(__name__)

_RETRY_AFTER_S = 2
_OPENAI_ROUTES = re.compile(r"(/v1)?/(chat/completions|completions|responses|models(/[^/]*)?)")
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_OPENAI_CODES = {"unauthenticated": "invalid_api_key", "too_many_requests": "rate_limit_exceeded"}
"""What OpenAI calls what we call otherwise."""
_HTTP_SENTENCES = {
    400: "the body is not valid JSON",
    404: "there is no such endpoint: {method} {path}",
    405: "{method} is not possible on {path}",
}


class BodyTooLarge(HTTPException):
    """A body over the limit, found while it is read. FastAPI lets only its own kind of exception through there."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"the request is larger than {limit_bytes} bytes, the most this server takes")


def install_error_handlers(app: FastAPI) -> None:
    """Answer every exception as this module describes."""
    app.add_exception_handler(HeadwayError, _headway_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(StatementError, _statement_error)
    for kind in DATABASE_AWAY:
        app.add_exception_handler(kind, _database_away)
    app.add_exception_handler(Exception, _unexpected)


def error_response(request: Request, error: HeadwayError) -> JSONResponse:
    """A refusal as it goes over the wire."""
    retry_after_s = error.retry_after_s or (_RETRY_AFTER_S if error.status == 503 else None)
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _response(request, error.status, error.code, error.message, headers, error.param)


def openai_error(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object, and the sentence again where the SDK looks for it."""
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": _OPENAI_CODES.get(code, code)}
    return {"error": error, "detail": message, "code": code}


async def _headway_error(request: Request, error: Exception) -> JSONResponse:
    return error_response(request, cast(HeadwayError, error))


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    problems = cast(RequestValidationError, error).errors()
    param = field_name(problems[0]["loc"]) or None if problems[0]["type"] != "json_invalid" else None
    return error_response(request, InvalidRequest(first_problem(problems), param=param))


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    error = cast(HTTPException, error)
    sentence = error.detail
    if not isinstance(error, BodyTooLarge) and error.status_code in _HTTP_SENTENCES:
        sentence = _HTTP_SENTENCES[error.status_code].format(method=request.method, path=request.url.path)
    code = "too_large" if error.status_code == 413 else "not_found" if error.status_code == 404 else "invalid_request"
    return _response(request, error.status_code, code, sentence, dict(error.headers or {}))


async def _statement_error(request: Request, error: Exception) -> JSONResponse:
    """What PostgreSQL cannot hold (a NUL character, a number out of range) is the client's mistake."""
    unencodable = isinstance(cast(StatementError, error).orig, (ValueError, OverflowError))
    if isinstance(error, DataError) or unencodable:
        return error_response(request, InvalidRequest("the request holds a value that cannot be stored"))
    return await _unexpected(request, error)


async def _database_away(request: Request, error: Exception) -> JSONResponse:
    log.warning("database_away", method=request.method, path=request.url.path, error=str(error).partition("\n")[0])
    return error_response(request, Unavailable("the database does not answer at the moment; try again"))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected_error", method=request.method, path=request.url.path, exc_info=error)
    return _response(request, 500, "internal", f"internal error; request id {request_id(request.scope)}", {})


def _response(
    request: Request, status: int, code: str, message: str, headers: dict[str, str], param: str | None = None
) -> JSONResponse:
    if _OPENAI_ROUTES.fullmatch(request.url.path):
        return JSONResponse(openai_error(status, code, message, param), status, headers)
    return JSONResponse({"detail": message, "code": code}, status, headers)
