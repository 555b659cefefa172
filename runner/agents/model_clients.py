"""Clients of models, one of each provider for all agents of a process: they share its connections."""

from __future__ import annotations

from functools import cache
from typing import Any

from hud.types import AgentType
from hud.utils.gateway import build_gateway_client

MAX_RETRIES = 16
"""After 0.5, 1, 2, 4 and then 8 s each: a gateway that is away for a minute and a half is waited for. The SDK's own six
retries last 20 s."""

_PROVIDERS = {
    AgentType.OPENAI_COMPATIBLE: "openai",
    AgentType.OPENAI: "openai",
    AgentType.CLAUDE: "anthropic",
    AgentType.GEMINI: "gemini",
}


def model_client(agent: AgentType) -> Any:
    """What an agent of this type calls the gateway with. Raises KeyError for one that calls no model by itself."""
    return _client(_PROVIDERS[agent])


@cache
def _client(provider: str) -> Any:
    client: Any = build_gateway_client(provider)
    return client.with_options(max_retries=MAX_RETRIES) if hasattr(client, "with_options") else client
