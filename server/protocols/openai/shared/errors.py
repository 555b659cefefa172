"""Refusals as OpenAI's clients read them (docs/gateway.md, "Errors")."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODES = {"unauthenticated": "invalid_api_key", "too_many_requests": "rate_limit_exceeded"}
"""What OpenAI calls what we call otherwise."""


class OpenAIError(BaseModel):
    """What OpenAI's clients read."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIProblem(BaseModel):
    """A refusal, and the sentence and the code again where HUD's SDK looks for them."""

    error: OpenAIError
    detail: str
    code: str


def openai_error(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object, and the sentence again where the SDK looks for it."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": _CODES.get(code, code)}
    return {"error": error, "detail": message, "code": code}
