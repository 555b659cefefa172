"""The pictures of a sample's prompt, as bytes of its row, and the names of those that a sample brings to its trace.

Layout: version (1 byte), then of each picture start, number of tokens, width and height (uint32, little-endian) and the
digest (32 bytes). Starts are places in the whole prompt.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from wire.extension import Media
from wire.pictures import is_name, name_in

_VERSION = b"\x01"
_ITEM = struct.Struct("<IIII32s")


def pack_media(media: Sequence[Media]) -> bytes | None:
    """None where there are none."""
    if not media:
        return None
    return _VERSION + b"".join(
        _ITEM.pack(item.start, item.num_tokens, item.width, item.height, item.digest) for item in media
    )


def unpack_media(data: bytes | None) -> tuple[Media, ...]:
    """What `pack_media` was given. Raises ValueError for another version."""
    if data is None:
        return ()
    if data[:1] != _VERSION or len(data) % _ITEM.size != 1:
        raise ValueError("media of an unknown version")
    return tuple(
        Media(start, num_tokens, digest, width, height)
        for start, num_tokens, width, height, digest in _ITEM.iter_unpack(data[1:])
    )


def named_in(messages: Sequence[Any]) -> Iterator[str]:
    """Names of the pictures in messages as the gateway records them: whatever is a `picture` with a `name`, wherever it
    stands, or has a `sha256:` URL."""
    left: list[Any] = list(messages)
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            yield from _named(value)
            left += value.values()


def _named(part: dict[Any, Any]) -> Iterator[str]:
    if part.get("type") == "picture" and isinstance(name := part.get("name"), str) and is_name(name):
        yield name
    if isinstance(url := part.get("url") or part.get("image_url"), str) and (name := name_in(url)) is not None:
        yield name
