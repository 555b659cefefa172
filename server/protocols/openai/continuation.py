"""Multi-turn continuation: earlier turns keep the very token ids that were sampled.

The client sends the ids so far and how many of its messages they cover. It does not count a system message that it
puts in front, so its number may be one too small. What decides is that the ids end with an answer of the policy:
the last covered message is an assistant's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wire.errors import InvalidRequest


def covered_messages(messages: Sequence[Mapping[str, Any]], continuation_from: int) -> int:
    """How many messages the continued ids cover. Raises InvalidRequest when no assistant message ends there."""
    if _is_assistant(messages, continuation_from - 1):
        return continuation_from
    if messages[0].get("role") == "system" and _is_assistant(messages, continuation_from):
        return continuation_from + 1
    raise InvalidRequest(
        f"continuation_from is {continuation_from}, but the message before that boundary is not an assistant's; "
        "prompt_token_ids must cover the messages up to and including the policy's last answer"
    )


def _is_assistant(messages: Sequence[Mapping[str, Any]], index: int) -> bool:
    return 0 <= index < len(messages) and messages[index].get("role") == "assistant"
