"""What every refusal looks like on the wire."""

from __future__ import annotations

from pydantic import BaseModel


class OpenAIError(BaseModel):
    """The refusal again, where OpenAI clients read it; routes of the gateway add it."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(BaseModel):
    """What happened and what to do next, in one sentence, and a stable code for programs."""

    detail: str
    code: str
    error: OpenAIError | None = None
