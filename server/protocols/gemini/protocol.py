"""Gemini's API, as far as it samples."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.gemini import endpoints
from server.protocols.gemini.errors import GeminiProblem

GEMINI = Protocol((endpoints.router,), refusal=GeminiProblem)
