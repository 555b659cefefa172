"""Agents that run here: their models are asked through the gateway, with a key that opens nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from server.principals.callers import Caller
from server.upstreams.agent_types import require_agent_type
from server.values.validation_messages import first_problem
from store.tables import ModelRow
from wire.errors import InvalidRequest

_REDIRECTING = ("api_key", "base_url", "model_client", "hosted_tools")
"""Keys of a config by which an agent would speak to others than the gateway, with the key that it gets here."""
_REDIRECTING_CALLS = ("api_key", "base_url", "extra_headers", "extra_query")
"""The same of `completion_kwargs`."""


async def sampled_model(session: AsyncSession, caller: Caller, agent_type: str, config: Mapping[str, Any]) -> ModelRow:
    """The model that the agent samples, of a config that `check_agent_config` took.

    Raises InvalidRequest for an agent that cannot run here, NotFound for its model, Forbidden where the caller's key
    does not open that.
    """
    reference = config.get("model", config.get("checkpoint_name"))
    if not isinstance(reference, str):
        raise InvalidRequest("agent.config.model is missing: name the model that the agent samples", param="agent")
    return await require_agent_type(session, caller, agent_type, reference)


class AgentSettings(BaseModel):
    """Types that the SDK's agents give to these settings (hud.agents.types). Others are theirs to judge."""

    timeout_seconds: float | None = None
    tool_timeout_seconds: float | None = None
    max_steps: int = 10
    auto_respond: bool = False
    system_prompt: str | None = None
    citations_enabled: bool = False


def check_agent_config(config: Mapping[str, Any]) -> None:
    """Raises InvalidRequest, naming the field, for what no agent takes or what none may have here."""
    _refuse_redirecting(config)
    try:
        AgentSettings.model_validate(dict(config))
    except ValidationError as error:
        raise InvalidRequest(f"agent.config.{first_problem(error.errors())}", param="agent.config") from None


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
