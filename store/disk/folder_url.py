"""The URL of a store that is a folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit


def folder_of_url(url: str) -> Path:
    """Of `file:///ABSOLUTE/PATH`. Raises ValueError: in `file://data/blobs`, `data` is a host, and the folder another
    one than was meant."""
    parts = urlsplit(url)
    folder = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not folder.is_absolute() or parts.query or parts.fragment:
        raise ValueError(f"{url} names no folder: write file:///ABSOLUTE/PATH, with three slashes")
    return folder
