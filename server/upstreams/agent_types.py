"""Which of the SDK's agents can be run here: each asks its model in one API, in which that must answer."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.service import get_callers_model
from server.principals.callers import Caller
from server.upstreams.types import Api
from store.tables import ModelRow
from wire.errors import InvalidRequest, ModelNotFound

_ASKS: dict[str, tuple[Api, str]] = {
    "claude": ("anthropic", "/v1/messages"),
    "openai": ("openai", "/responses"),
    "gemini": ("gemini", "/v1beta/models"),
}
_ASKS_OURS = ("claude", "openai")
"""Agents in whose API the models of this server answer, too."""
_COMPATIBLE = "openai_compatible"
_NEEDS_A_PROGRAM = ("claude_cli", "codex_cli")
_MOST_SHOWN = 200


async def require_agent_type(session: AsyncSession, caller: Caller, agent_type: str, model: str) -> ModelRow:
    """The model that an agent of this type asks. `model`: as the agent's configuration names it.

    Raises InvalidRequest where no runner can play the agent, or its model does not answer in its API; ModelNotFound,
    and Forbidden where the caller's key is for other models.
    """
    if agent_type in _NEEDS_A_PROGRAM:
        raise _refusal(agent_type, "it needs a program of its own inside of the environment; use 'openai_compatible'")
    if agent_type == _COMPATIBLE:
        row = await get_callers_model(session, caller, model)
        if row.upstream is not None and row.upstream["api"] != "openai":
            fitting = next(name for name, (api, _) in _ASKS.items() if api == row.upstream["api"])
            raise _refusal(agent_type, f"{row.slug!r} is asked in another API: use the agent type {fitting!r}")
        return row
    if agent_type not in _ASKS:
        known = ", ".join((_COMPATIBLE, *_ASKS))
        raise InvalidRequest(f"there is no agent type {agent_type[:_MOST_SHOWN]!r} here; known: {known}", param="agent")
    api, route = _ASKS[agent_type]
    try:
        row = await get_callers_model(session, caller, model)
    except ModelNotFound:
        raise _refusal(
            agent_type,
            f"it asks {route} for {model[:_MOST_SHOWN]!r}, which is not in the catalog; an operator can add it: "
            f"headway upstreams add NAME --api {api} --base-url URL --model VENDOR_NAME --key-file PATH",
        ) from None
    if row.upstream is None and agent_type in _ASKS_OURS:
        return row
    if row.upstream is None or row.upstream["api"] != api:
        raise _refusal(
            agent_type,
            f"it asks {route}, where {row.slug!r} does not answer; use 'openai_compatible', or a model of that vendor",
        )
    return row


def _refusal(agent_type: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"agent type {agent_type!r} cannot be run here; {why}", param="agent")
