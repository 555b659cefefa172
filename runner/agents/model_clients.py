"""Clients of models, one of each provider for all agents of a process: they share its connections."""

from __future__ import annotations

from typing import Any

import httpx
from hud.telemetry.context import get_trace_headers
from hud.types import AgentType
from hud.utils.gateway import build_gateway_client
from openai import DefaultAsyncHttpxClient

MAX_RETRIES = 16
"""After 0.5, 1, 2, 4 and then 8 s each: a gateway that is away for a minute and a half is waited for. The SDK's own six
retries last 20 s."""

_PROVIDERS = {
    AgentType.OPENAI_COMPATIBLE: "openai",
    AgentType.OPENAI: "openai",
    AgentType.CLAUDE: "anthropic",
    AgentType.GEMINI: "gemini",
}
_TRACE_HEADER = "Trace-Id"
_UNAUTHORIZED = 401


class ModelClients:
    """Of one key."""

    def __init__(self) -> None:
        self._clients: dict[str, Any] = {}
        self._refused: set[str] = set()

    def of(self, agent: AgentType) -> Any:
        """What an agent of this type calls the gateway with. Raises KeyError for one that calls no model by itself."""
        provider = _PROVIDERS[agent]
        if provider not in self._clients:
            self._clients[provider] = self._made(provider)
        return self._clients[provider]

    def take_refused(self, trace_id: str) -> bool:
        """Whether the key was refused for a call of this trace, which is forgotten."""
        was_refused = trace_id in self._refused
        self._refused.discard(trace_id)
        return was_refused

    def _made(self, provider: str) -> Any:
        client: Any = build_gateway_client(provider)
        if not hasattr(client, "with_options"):
            return client
        http = DefaultAsyncHttpxClient(event_hooks={"request": [_name_trace], "response": [self._note_refusal]})
        return client.with_options(max_retries=MAX_RETRIES, http_client=http)

    async def _note_refusal(self, response: httpx.Response) -> None:
        if response.status_code == _UNAUTHORIZED:
            self._refused.add(response.request.headers.get(_TRACE_HEADER, ""))


async def _name_trace(request: httpx.Request) -> None:
    request.headers.update(get_trace_headers())
