"""Which agents run here: `openai_compatible`, whose calls the gateway answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.repository import find_model
from server.catalog.service import no_such_model
from server.principals.callers import Caller
from store.tables import ModelRow
from wire.errors import InvalidRequest

_HERE = "openai_compatible"
_IN_THE_ENVIRONMENT = ("claude_cli", "codex_cli")
_PROVIDERS = ("claude", "openai", "gemini")

_REDIRECTING = ("api_key", "base_url", "model_client", "hosted_tools")
"""Keys of a config by which an agent would speak to others than the gateway, with the key that it gets here."""
_REDIRECTING_CALLS = ("api_key", "base_url", "extra_headers", "extra_query")
"""The same of `completion_kwargs`."""


async def sampled_model(session: AsyncSession, caller: Caller, agent_type: str, config: Mapping[str, Any]) -> ModelRow:
    """The model that the agent samples.

    Raises InvalidRequest for an agent that cannot run here, NotFound for its model, Forbidden where the caller's key
    does not open that.
    """
    _refuse_redirecting(config)
    _require_agent_type(agent_type)
    reference = config.get("model", config.get("checkpoint_name"))
    if not isinstance(reference, str):
        raise InvalidRequest("agent.config.model is missing: name the model that the agent samples", param="agent")
    found = await find_model(session, caller.team_id, reference)
    if found is None:
        raise no_such_model(reference)
    caller.require_model(found[0].id, found[0].slug)
    return found[0]


def _require_agent_type(agent_type: str) -> None:
    if agent_type == _HERE:
        return
    if agent_type in _IN_THE_ENVIRONMENT:
        why = "it needs a program inside the environment"
    elif agent_type in _PROVIDERS:
        why = "no provider of its models is forwarded to"
    else:
        why = "this service does not know it"
    raise InvalidRequest(
        f"agent type {agent_type[:50]!r} cannot be run here; {why}. Take 'openai_compatible' with a model from "
        "'hud models list'",
        param="agent.type",
    )


def _refuse_redirecting(config: Mapping[str, Any]) -> None:
    for key in _REDIRECTING:
        if config.get(key):
            raise _refused(key)
    calls = config.get("completion_kwargs")
    if calls is None:
        return
    if not isinstance(calls, dict):
        raise InvalidRequest("agent.config.completion_kwargs is no object", param="agent.config.completion_kwargs")
    for key in _REDIRECTING_CALLS:
        if cast(dict[str, Any], calls).get(key):
            raise _refused(f"completion_kwargs.{key}")


def _refused(key: str) -> InvalidRequest:
    return InvalidRequest(
        f"agent.config.{key} cannot be set for a rollout that runs here: its agent speaks to this service alone, with "
        "a key of its own; leave it out",
        param=f"agent.config.{key}",
    )
