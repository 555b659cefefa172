"""Routes of Gemini's API."""

from __future__ import annotations

from typing import ClassVar

from server.http.direct import DirectRoute
from server.http.problem import ErrorBody
from server.protocols.gemini.errors import gemini_error


class GeminiRoute(DirectRoute):
    """Refuses in the words of Gemini's clients."""

    error_body: ClassVar[ErrorBody] = staticmethod(gemini_error)
