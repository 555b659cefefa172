"""Routes of OpenAI's API."""

from __future__ import annotations

from typing import ClassVar

from server.http.direct import DirectRoute
from server.http.problem import ErrorBody
from server.http.routing import KeyedRoute
from server.protocols.openai.shared.errors import openai_error


class OpenAIRoute(KeyedRoute):
    """Refuses in the words of OpenAI's clients."""

    error_body: ClassVar[ErrorBody] = staticmethod(openai_error)


class OpenAISamplingRoute(DirectRoute):
    """The same, without the framework's dependency resolution."""

    error_body: ClassVar[ErrorBody] = staticmethod(openai_error)
