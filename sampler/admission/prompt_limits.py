"""Prompts that cannot fit into the context are refused by their length, before anything is rendered or tokenized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wire.errors import ContextLengthExceeded
from wire.sampling import RenderRequest

_SURELY_RENDERED = ("system", "user", "tool")
"""Whose contents every template shows. Of answers, many leave the reasoning out."""


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """`longest_token`: bytes of the vocabulary's longest; so a text has at least its length over this many tokens."""

    context_length: int
    longest_token: int

    @property
    def max_characters(self) -> int:
        """Of a text that might fit."""
        return self.context_length * self.longest_token

    def check_chat(self, request: RenderRequest) -> None:
        """Raises ContextLengthExceeded for a chat that cannot fit, whatever its template makes of it."""
        self.check_ids(len(request.continued_ids or ()))
        following = len(request.messages) - request.continued_messages
        if following > self.context_length:
            raise ContextLengthExceeded.of(self.context_length, f"the chat has {following} messages")
        messages = request.messages[max(request.continued_messages, 0) :]
        self.check_text(sum(_num_characters(message) for message in messages))

    def check_text(self, num_characters: int) -> None:
        """Raises ContextLengthExceeded for a text of more characters than tokens could hold."""
        if num_characters > self.max_characters:
            raise ContextLengthExceeded.of(
                self.context_length,
                f"the prompt has {num_characters} characters, and a token at most {self.longest_token}",
            )

    def check_ids(self, num_tokens: int) -> None:
        """Raises ContextLengthExceeded for so many tokens."""
        if num_tokens >= self.context_length:
            raise ContextLengthExceeded.of(self.context_length, f"the prompt has {num_tokens} tokens")


def _num_characters(message: Mapping[str, Any]) -> int:
    if message.get("role") not in _SURELY_RENDERED:
        return 0
    content = message.get("content")
    parts: list[Any] = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return sum(len(text) for text in texts if isinstance(text, str))
