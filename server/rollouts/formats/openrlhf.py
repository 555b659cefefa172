"""Rows for OpenRLHF: `--data.input_key input --data.output_key output`, with its `apply_chat_template`.

https://openrlhf.readthedocs.io: `PromptDataset` reads input and `datasource`, `SFTDataset` input and output. Both take
lists of messages, or plain texts.
"""

from __future__ import annotations

from typing import Any

from server.rollouts.formats.dialogue import dialogue_of
from server.rollouts.formats.headway import finite
from store.rollouts import Resolved


def openrlhf_row(resolved: Resolved) -> dict[str, Any] | None:
    """None for a rollout without text."""
    dialogue, trace = dialogue_of(resolved), resolved.trace
    if dialogue is None:
        return None
    return {
        "input": dialogue.prompt,
        "output": dialogue.completion,
        "reward": finite(trace.reward),
        "datasource": trace.task_slug or "default",
        "group_id": trace.group_id or "",
        "trace_id": str(trace.id),
    }
