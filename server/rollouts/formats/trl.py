"""Rows for TRL: prompt and completion, conversational or plain text.

https://huggingface.co/docs/trl/dataset_formats: `GRPOTrainer` takes the prompt and hands the other columns to reward
functions, `SFTTrainer` takes prompt and completion; it reads `tools` as JSON text too.
"""

from __future__ import annotations

import json
from typing import Any

from server.rollouts.formats.dialogue import dialogue_of
from server.rollouts.formats.headway import finite
from store.rollouts import Resolved


def trl_row(resolved: Resolved) -> dict[str, Any] | None:
    """None for a rollout without text."""
    dialogue, trace = dialogue_of(resolved), resolved.trace
    if dialogue is None:
        return None
    row = {
        "prompt": dialogue.prompt,
        "completion": dialogue.completion,
        "reward": finite(trace.reward),
        "task_slug": trace.task_slug or "",
        "group_id": trace.group_id or "",
        "trace_id": str(trace.id),
    }
    return {**row, "tools": json.dumps(dialogue.tools)} if dialogue.tools else row
