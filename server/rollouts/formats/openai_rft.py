"""Rows for OpenAI's reinforcement fine-tuning: messages that end with the user's, and what graders see as `item`.

https://platform.openai.com/docs/guides/reinforcement-fine-tuning
"""

from __future__ import annotations

from typing import Any

from server.rollouts.formats.dialogue import dialogue_of
from server.rollouts.formats.headway import finite
from store.rollouts import Resolved

_DEVELOPER = {"system": "developer"}
"""Reasoning models know no system role."""


def openai_rft_row(resolved: Resolved) -> dict[str, Any] | None:
    """None for a rollout without words, or whose prompt does not end with the user's message."""
    dialogue, trace = dialogue_of(resolved), resolved.trace
    if dialogue is None:
        return None
    prompt, completion = dialogue.messages()
    if not prompt or prompt[-1]["role"] != "user":
        return None
    row: dict[str, Any] = {
        "messages": [{**message, "role": _DEVELOPER.get(message["role"], message["role"])} for message in prompt],
        "reference_answer": completion[-1]["content"],
        "reward": finite(trace.reward),
        "task_slug": trace.task_slug or "",
        "trace_id": str(trace.id),
    }
    return {**row, "tools": dialogue.tools} if dialogue.tools else row
