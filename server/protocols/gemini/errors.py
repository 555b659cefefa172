"""Refusals as Gemini's clients read them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

_STATES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class GeminiError(BaseModel):
    """What Gemini's clients read."""

    code: int
    message: str
    status: str


class GeminiProblem(BaseModel):
    """A refusal, and the sentence and the code again where HUD's SDK looks for them."""

    error: GeminiError
    detail: str
    code: str


def gemini_error(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """As `GeminiProblem`."""
    state = _STATES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    return {"error": {"code": status, "message": message, "status": state}, "detail": message, "code": code}
