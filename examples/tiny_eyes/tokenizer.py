"""The byte-level ChatML tokenizer of the small bases, with the markers of pictures and a token for each phrase with
which the SDK's agent passes a picture on."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from examples.tiny_base.tokenizer import END, PAD, START
from examples.tiny_tools.tokenizer import with_phrases

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
PICTURE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL = (PAD, START, END, VISION_START, VISION_END, PICTURE, VIDEO)

# A merge wins over those after it: longer phrases come first.
PHRASES = (
    "Tool returned the following:",
    "Tool executed successfully",
    '\n{"name": "',
    '", "arguments": {',
    "}}\n",
    "look",
)

TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")


def build_tokenizer(context_length: int) -> PreTrainedTokenizerFast:
    """ChatML tokens and those of pictures are special."""
    return with_phrases(PHRASES, SPECIAL, TEMPLATE_FILE, context_length)
