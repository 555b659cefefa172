"""Anthropic's API, as far as it samples."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.anthropic import endpoints
from server.protocols.anthropic.errors import AnthropicProblem

ANTHROPIC = Protocol((endpoints.router,), refusal=AnthropicProblem)
