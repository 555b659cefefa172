"""JSON that a policy wrote inside of its answers, read where its texts can be tokenized and sent again.

A JSON text may escape half a surrogate pair, which is no character: it has no UTF-8, so no tokenizer takes it and no
reply can hold it.
"""

from __future__ import annotations

import json
import re
from typing import Any

_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(text: str) -> Any:
    """The value. Raises ValueError where it is no JSON or holds half a surrogate pair, in keys too; RecursionError."""
    value = json.loads(text)
    if _ESCAPED_HALF.search(text) and not is_sendable(json.dumps(value, ensure_ascii=False)):
        raise ValueError("half a surrogate pair is not a character")
    return value


def is_sendable(text: str) -> bool:
    """Whether a text consists of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
