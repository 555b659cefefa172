"""OpenAI's responses. They are chats in other words, so they import those, and the app serves them beside them."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.openai.responses import endpoints
from server.protocols.openai.shared.errors import OpenAIProblem

RESPONSES = Protocol((), first=(endpoints.router,), refusal=OpenAIProblem)
