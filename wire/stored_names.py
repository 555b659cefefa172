"""Under which names the files of a base store what an adapter names by its path in the model.

Vision models of transformers have their text part at `model.language_model`, and adapters name its layers so. Their
files keep names of older versions, also when they were saved by this one: `model.layers.…` of Qwen2.5-VL,
`model.language_model.layers.…` of Qwen3-VL, `language_model.model.layers.…` of Gemma 3. Files of text models may leave
out the leading `model.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT_PART = "model.language_model."
"""What paths of a vision model's decoder begin with."""
HEAD = "lm_head"
_STORED_TEXT_PARTS = (TEXT_PART, "language_model.model.", "model.")


def stored_names(path: str) -> tuple[str, ...]:
    """Of the module at this path, the likeliest first. No base has two of them that are not the same module."""
    if path.startswith(TEXT_PART):
        return tuple(part + path.removeprefix(TEXT_PART) for part in _STORED_TEXT_PARTS)
    if path == HEAD:
        return HEAD, f"language_model.{HEAD}"
    return path, path.removeprefix("model."), f"model.{path}"


def path_in_text_part(stored: str) -> str | None:
    """Of a stored name of a vision model, the path by which adapters name it; None for what is no part of the decoder,
    as layers of the tower are, which may be called the same in their own place."""
    for part in _STORED_TEXT_PARTS:
        inner = stored.removeprefix(part)
        if inner != stored and inner.startswith(("layers.", "embed_tokens.")):
            return TEXT_PART + inner
    return None


def has_vision(config: Mapping[str, Any]) -> bool:
    """Whether this config.json is of a model that is made of a text part and a vision tower."""
    return isinstance(config.get("vision_config"), dict)
