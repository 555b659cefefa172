"""Content of messages with pictures: what protocols put in the place of one that a client sent, until it was taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.pictures.taking import LOW_DETAIL, SentPicture
from server.sampling.requests import Content, Part
from wire.errors import InvalidRequest

IMAGE = "image_url"
"""The type of a part that is a picture as it was sent."""

_LONGEST_SIDES: Mapping[Any, int | None] = {None: None, "auto": None, "high": None, "low": LOW_DETAIL}


def image_part(where: str, url: Any, detail: Any = None) -> Part:
    """A picture by its URL, which may hold all of it. `where`: what the client calls the part. Raises InvalidRequest,
    which names it."""
    if not isinstance(url, str) or not url:
        raise InvalidRequest(f"{where} must have a URL as a text: data:image/png;base64,…", param=where)
    if not isinstance(detail, str | None) or detail not in _LONGEST_SIDES:
        raise InvalidRequest(f"{where}: detail must be auto, low or high", param=where)
    return {"type": IMAGE, "sent": SentPicture(where, url, _LONGEST_SIDES[detail])}


def is_sent(part: Any) -> bool:
    """Whether it is what `image_part` made."""
    return isinstance(part, dict) and isinstance(part.get("sent"), SentPicture)


def content_of(parts: Sequence[str | Part]) -> Content:
    """Texts in one piece; beside a picture, each as a part."""
    if all(isinstance(part, str) for part in parts):
        return "".join(map(str, parts))
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def joined(before: Content, after: Content, between: str) -> Content:
    """One message of two, with `between` where texts meet."""
    if isinstance(before, str) and isinstance(after, str):
        return before + between + after
    first, second = _parts(before), _parts(after)
    if first[-1]["type"] == second[0]["type"] == "text":
        first[-1] = {"type": "text", "text": first[-1]["text"] + between + second.pop(0)["text"]}
    return [*first, *second]


def _parts(content: Content) -> list[Part]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
