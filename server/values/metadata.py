"""What users note about their things, to be shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_texts(metadata: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Texts as they are, other values as JSON."""
    if metadata is None:
        return None
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
