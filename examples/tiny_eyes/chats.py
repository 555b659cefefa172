"""The two chats in which this base sees a picture, as a sampler renders them.

PLAIN: the picture and "?" are one message. LOOKING: the question comes alone, the model calls the tool `look`, and the
picture follows as the HUD SDK's agent passes on what a tool returned.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerFast

from examples.pictures.drawing import QUESTION
from examples.tiny_eyes.tokenizer import PICTURE

Chat = list[dict[str, Any]]

_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
}
TOOLS: dict[str, Any] = {"plain": None, "looking": [_TOOL]}
_CALL = {"type": "function", "function": {"name": "look", "arguments": {}}}

ASKED: Chat = [{"role": "user", "content": QUESTION}]
PLAIN: Chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
LOOKING: Chat = [
    *ASKED,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "Tool executed successfully"},
    {"role": "user", "content": [{"type": "text", "text": "Tool returned the following:"}, {"type": "image"}]},
]
CHATS = {"plain": PLAIN, "looking": LOOKING}


def prompt_ids(tokenizer: PreTrainedTokenizerFast, form: str, num_picture_tokens: int) -> list[int]:
    """A chat of this form, ready for the assistant to answer."""
    text = tokenizer.apply_chat_template(CHATS[form], tools=TOOLS[form], add_generation_prompt=True, tokenize=False)
    expanded = str(text).replace(PICTURE, num_picture_tokens * PICTURE)
    return tokenizer.encode(expanded, add_special_tokens=False)
