"""What a completion was asked and what it answered, as compressed JSON.

The request is a list of items: first what is no message (tools, template arguments), then the messages. As prompts do,
a request repeats those before it; what it shares with another sample's request is left out.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

_VERSION = b"\x01"


@dataclass(frozen=True, slots=True)
class Conversation:
    """`preamble`: tools and chat_template_kwargs, or the prompt of a plain completion. `reply`: the message, or the
    text, that was read out of the sampled tokens."""

    preamble: dict[str, Any]
    messages: list[Any]
    reply: Any

    def items(self) -> list[bytes]:
        """The request's items, each as JSON bytes."""
        return [_dumps(self.preamble), *(_dumps(message) for message in self.messages)]


def pack_conversation(items: list[bytes], reply: Any) -> bytes:
    """The items that are not shared, and the reply."""
    return _VERSION + zlib.compress(b'{"items":[' + b",".join(items) + b'],"reply":' + _dumps(reply) + b"}", 6)


def unpack_conversation(data: bytes, shared: list[Any]) -> tuple[list[Any], Any]:
    """All items and the reply, given the items that were left out. Raises ValueError for another version."""
    if data[:1] != _VERSION:
        raise ValueError("a conversation of an unknown version")
    content = json.loads(zlib.decompress(data[1:]))
    return [*shared, *content["items"]], content["reply"]


def from_items(items: list[Any], reply: Any) -> Conversation:
    """What `Conversation.items` took apart."""
    return Conversation(items[0] if items else {}, items[1:], reply)


def _dumps(value: Any) -> bytes:
    """JSON that escapes whatever is not ASCII: half surrogate pairs too come back as they were."""
    return json.dumps(value, separators=(",", ":")).encode()
