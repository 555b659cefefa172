"""Rows for verl's `RLHFDataset`, which reads JSONL as it reads Parquet.

https://verl.readthedocs.io/en/latest/preparation/prepare_data.html: data_source, prompt (messages), ability,
reward_model (style, ground_truth), extra_info (split, index). What was answered, and its reward, are in extra_info,
which verl hands to the reward function.
"""

from __future__ import annotations

from typing import Any

from server.rollouts.formats.dialogue import dialogue_of
from server.rollouts.formats.headway import finite
from store.rollouts import Resolved


def verl_row(resolved: Resolved, index: int) -> dict[str, Any] | None:
    """None for a rollout without text. `ground_truth` is empty: the service never knew it."""
    dialogue, trace = dialogue_of(resolved), resolved.trace
    if dialogue is None:
        return None
    prompt, completion = dialogue.messages()
    return {
        "data_source": trace.task_slug or "headway",
        "prompt": prompt,
        "ability": "",
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {
            "split": "train",
            "index": index,
            "trace_id": str(trace.id),
            "group_id": trace.group_id or "",
            "reward": finite(trace.reward),
            "completion": completion,
        },
    }
