"""OpenAI's API, as far as it samples: chats, completions and the list of models."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.openai import endpoints
from server.protocols.openai.errors import OpenAIProblem

OPENAI = Protocol((endpoints.router,), first=(endpoints.sampling,), refusal=OpenAIProblem)
