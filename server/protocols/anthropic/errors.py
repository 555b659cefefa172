"""Refusals as Anthropic's clients read them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from wire.errors import ContextLengthExceeded

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicError(BaseModel):
    """What Anthropic's clients read."""

    type: str
    message: str


class AnthropicProblem(BaseModel):
    """A refusal, and the sentence and the code again where HUD's SDK looks for them."""

    type: Literal["error"]
    error: AnthropicError
    detail: str
    code: str


def anthropic_error(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """As `AnthropicProblem`. Agents recognise by its first words that they have to shorten their conversation."""
    if code == ContextLengthExceeded.code:
        message = f"prompt is too long: {message}"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "detail": message, "code": code}
