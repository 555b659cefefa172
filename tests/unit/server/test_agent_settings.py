"""The settings of agents that are checked here have the types that the SDK gives them."""

from __future__ import annotations

import pytest
from hud.agents.types import ClaudeConfig, GeminiConfig, OpenAIChatConfig, OpenAIConfig

from server.hosted_rollouts.agents import AgentSettings


@pytest.mark.parametrize("config", [ClaudeConfig, GeminiConfig, OpenAIChatConfig, OpenAIConfig])
def test_each_has_the_sdk_s_type(config):
    ours, theirs = (
        {name: field.annotation for name, field in of.model_fields.items()} for of in (AgentSettings, config)
    )
    assert ours.items() <= theirs.items()
