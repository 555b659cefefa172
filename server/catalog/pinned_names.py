"""`MODEL:CHECKPOINT`: a model's name with the name of one of its checkpoints, as fine-tuning jobs list them."""

from __future__ import annotations

import re

_PINNED = re.compile(r"(.+):(\d{4,}-[0-9a-f]{8})", re.DOTALL)


def split_pinned(text: str) -> tuple[str, str | None]:
    """The model, and the checkpoint where the text names one."""
    found = _PINNED.fullmatch(text)
    return (found[1], found[2]) if found else (text, None)


def pinned_name(model: str, checkpoint: str) -> str:
    """Both in one."""
    return f"{model}:{checkpoint}"
