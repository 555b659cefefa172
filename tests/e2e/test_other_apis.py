"""The SDK's Claude and OpenAI agents play with a policy in their own APIs; it is trained on their rollouts by id."""

from __future__ import annotations

import uuid
from itertools import pairwise
from typing import Any

import numpy as np

from tests.e2e.box import Box

ASKED = ("12+30=?", "and 7+8=?", "and 1+1=?")


def agent_of(kind: str, model: str, max_tokens: int = 6) -> Any:
    from hud.agents.claude.agent import ClaudeAgent
    from hud.agents.openai.agent import OpenAIAgent
    from hud.agents.types import ClaudeConfig, OpenAIConfig

    if kind == "claude":
        return ClaudeAgent(ClaudeConfig(model=model, max_tokens=max_tokens))
    return OpenAIAgent(OpenAIConfig(model=model, max_output_tokens=max_tokens))


async def played(box: Box, agent: Any, reward: float) -> str:
    """The id of a rollout of three turns."""
    from hud.telemetry.context import set_trace_context

    trace = uuid.uuid4().hex
    box.call("POST", f"/v2/trace/{trace}/enter", {"model": agent.config.model})
    with set_trace_context(trace):
        state = await agent._initialize_state(prompt=[])
        for text in ASKED:
            state.messages.append(agent._format_message("user", text))
            await agent.get_response(state, system_prompt="Answer with a number.")
    box.call("POST", f"/v2/trace/{trace}/exit", {"status": "completed", "reward": reward})
    return trace


async def test_rollouts_of_both_agents_train_by_their_ids_as_one_sequence_each(box: Box):
    model_id = box.fork("other-apis")
    traces = [await played(box, agent_of(kind, "other-apis"), float(i)) for i, kind in enumerate(("claude", "openai"))]
    for trace in traces:
        shown = box.call("GET", f"/v2/traces/{trace}")
        assert len(shown["turns"]) == len(ASKED)
        for earlier, later in pairwise(shown["turns"]):
            history = earlier["prompt_token_ids"] + earlier["output_token_ids"]
            assert later["prompt_token_ids"][: len(history)] == history
        assert [message["role"] for message in shown["turns"][1]["messages"]] == [
            "system",
            "user",
            "assistant",
            "user",
        ]
    passed = box.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": traces, "group_size": 2})
    assert passed["num_datums"] == 2
    data = box.call("POST", f"/v1/models/{model_id}/train/forward", {"inputs": traces})["data"]
    for datum in data:
        mask = np.array(datum["mask"]) == 1.0
        assert np.abs(np.array(datum["logprobs"]) - np.array(datum["sampling_logprobs"]))[mask].max() < 1e-4
    assert box.call("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3})["step"] == 1
