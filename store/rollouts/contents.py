"""Pictures in base64 within JSON: taken out as bytes by name, and put back as they were.

They stand as `data` beside an image's `mimeType` or `media_type`, as tools return them, and as `data:image/…;base64,`
URLs, as chats have them. Only text that is the one way of writing its bytes is taken out, so that all comes back.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MARK = "hw:content"
"""The first key of an object that stands for a text: the name of its bytes. The others say what stood before them, and
the width and height of a PNG."""
_BEFORE, _SIZE = "before", "size"
_PNG = b"\x89PNG\r\n\x1a\n"

_LEAST = 1024
"""Shorter texts stay: a blob costs more."""
_DEEPEST = 60
"""What is nested deeper is not looked at."""


def taken_out(value: Any) -> tuple[Any, dict[str, bytes]]:
    """The value with marks in the place of pictures, and these by the SHA-256 of their bytes. Nothing that was passed
    in is altered."""
    contents = dict[str, bytes]()
    return _changed(value, lambda text, is_image: _mark(text, is_image, contents)), contents


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that were taken out. name: their SHA-256, which is their blob's. width, height: of a PNG, else None."""

    name: str
    width: int | None = None
    height: int | None = None


def content_of(mark: Any) -> Content | None:
    """What a mark stands for; None for what is none."""
    if not isinstance(mark, dict) or set(mark) != {MARK, _BEFORE, _SIZE}:
        return None
    return Content(mark[MARK], *(mark[_SIZE] or ()))


def put_back(value: Any, read: Callable[[str], bytes]) -> Any:
    """What `taken_out` was given, `read` giving bytes by name."""

    def text_of(mark: Any) -> Any:
        return mark[_BEFORE] + base64.b64encode(read(mark[MARK])).decode()

    return _changed(value, lambda leaf, _: text_of(leaf) if isinstance(leaf, dict) else leaf)


Change = Callable[[Any, bool], Any]
"""What stands in the place of a text or a mark, given whether it is what an image consists of."""


def _changed(value: Any, change: Change, depth: int = 0, *, is_image: bool = False) -> Any:
    if isinstance(value, str):
        return change(value, is_image)
    if depth > _DEEPEST or not value:
        return value
    if isinstance(value, list):
        # Token ids and logprobs are long.
        is_text = not isinstance(value[0], int | float)
        return [_changed(each, change, depth + 1) for each in value] if is_text else value
    if not isinstance(value, dict):
        return value
    if content_of(value) is not None:
        return change(value, is_image)
    has_image = any(str(value.get(kind)).startswith("image/") for kind in ("mimeType", "media_type"))
    return {
        name: _changed(each, change, depth + 1, is_image=has_image and name == "data") for name, each in value.items()
    }


def _mark(text: Any, is_image: bool, contents: dict[str, bytes]) -> Any:
    if len(text) < _LEAST:
        return text
    before = text[: text.find(",") + 1] if text.startswith("data:image/") else ""
    if not before.endswith(";base64,") and not is_image:
        return text
    try:
        content = base64.b64decode(text[len(before) :], validate=True)
    except ValueError:
        return text
    if base64.b64encode(content).decode() != text[len(before) :]:
        return text
    name = hashlib.sha256(content).hexdigest()
    contents[name] = content
    return {MARK: name, _BEFORE: before, _SIZE: _size(content)}


def _size(content: bytes) -> list[int] | None:
    if not content.startswith(_PNG) or len(content) < 24:
        return None
    return [int.from_bytes(content[16:20]), int.from_bytes(content[20:24])]
