"""Routes of Anthropic's API."""

from __future__ import annotations

from typing import ClassVar

from server.http.direct import DirectRoute
from server.http.problem import ErrorBody
from server.protocols.anthropic.errors import anthropic_error


class AnthropicRoute(DirectRoute):
    """Refuses in the words of Anthropic's clients."""

    error_body: ClassVar[ErrorBody] = staticmethod(anthropic_error)
