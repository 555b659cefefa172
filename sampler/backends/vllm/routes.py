"""vLLM's routes around chats, as far as they are asked. None of them sees the chat itself: prompts are rendered here,
so that a continued one keeps its ids, and a parser looks at tools and settings alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from wire.sampling import ParseOptions

RENDER = "/v1/chat/completions/render"
DERENDER = "/v1/chat/completions/derender"
EMPTY_CHAT = [{"role": "user", "content": "."}]

Post = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Asks the server: a route and a body. Raises HeadwayError."""


def chat_request(reading: ParseOptions) -> dict[str, Any]:
    """The chat as far as vLLM's parsers look at it."""
    request: dict[str, Any] = {"messages": EMPTY_CHAT, "chat_template_kwargs": reading.chat_template_kwargs}
    return {**request, "tools": reading.tools, "tool_choice": reading.tool_choice} if reading.tools else request
