"""Pictures in what was said: which, how large, and where the agent clicked on them next.

A picture is known by the name of its blob: that of the canonical PNG where the gateway recorded it, the SHA-256 of the
bytes where telemetry had these in base64. Short ones stay in telemetry as they are, and have the same names.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from store.rollouts.contents import Content, content_of
from wire.pictures import is_name, name_in

SHOWN_SIDE = 320
"""Pixels of the longer side of a small form."""
MARK = 7
"""Radius of a click's mark in pixels of the small form."""

_MOST_SIDE = 2**20
_NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")
_PNG = b"\x89PNG\r\n\x1a\n"
_PRESSES = ("click", "tap", "press")


@dataclass(frozen=True, slots=True)
class Click:
    """In pixels from the left and from above."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """name: of its blob. width, height: in pixels; None where they are not known."""

    name: str
    width: int | None = None
    height: int | None = None
    clicks: tuple[Click, ...] = ()

    @property
    def words(self) -> str:
        """For those who do not see it."""
        size = f", {self.width} × {self.height} pixels" if self.width and self.height else ""
        return f"Picture{size}" + "".join(f", clicked at {click.x:g}, {click.y:g}" for click in self.clicks)

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of its small form; of one whose size is known."""
        width, height = self.width or 1, self.height or 1
        scale = min(1.0, SHOWN_SIDE / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    @property
    def mark(self) -> float:
        """Radius of the mark of a click, in pixels of the picture."""
        return max(self.width or 1, self.height or 1) / max(self.shown_size) * MARK

    def takes(self, click: Click) -> bool:
        """Whether it lies on the picture."""
        return bool(self.width and self.height and 0 <= click.x <= self.width and 0 <= click.y <= self.height)


def picture_in(block: Mapping[str, Any]) -> SeenPicture | None:
    """Of a content block: our own, or one in the form of chats, of MCP or of Anthropic's messages. None for anything
    else, and for pictures of which nothing is kept here."""
    kind = block.get("type")
    if kind == "picture":
        name = block.get("name")
        if not isinstance(name, str) or not is_name(name):
            return None
        return SeenPicture(name, _side(block.get("width")), _side(block.get("height")))
    if kind in ("image_url", "input_image"):
        image = block.get("image_url")
        return _taken_out(image) or _at(image.get("url") if isinstance(image, dict) else image)
    if kind == "image":
        source = block.get("source")
        return _of_base64((source if isinstance(source, dict) else block).get("data"))
    return None


def click_in(arguments: Any) -> Click | None:
    """Where a call of a tool clicks, by its arguments: `x` and `y`, `coordinate: [x, y]` or `start_box`. A call that
    names its action has to name a click."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    action = arguments.get("action", arguments.get("type"))
    if isinstance(action, str) and not any(press in action.lower() for press in _PRESSES):
        return None
    pair: list[Any] = [arguments.get("x"), arguments.get("y")]
    for name in ("coordinate", "coordinates", "point", "position"):
        pair = arguments[name] if isinstance(arguments.get(name), list) else pair
    if "start_box" in arguments:
        pair = _middle(arguments["start_box"])
    return Click(*pair) if len(pair) == 2 and all(map(_is_place, pair)) else None


def _at(url: Any) -> SeenPicture | None:
    if (content := content_of(url)) is not None:
        return _of_content(content)
    if not isinstance(url, str):
        return _taken_out(url)
    if (name := name_in(url)) is not None:
        return SeenPicture(name)
    head, _, data = url.partition(",")
    return _of_base64(data) if head.startswith("data:") and head.endswith(";base64") else None


def _taken_out(mark: Any) -> SeenPicture | None:
    """Of bytes that a span had in base64 and that are a blob now."""
    content = content_of(mark)
    return SeenPicture(content.name, _side(content.width), _side(content.height)) if content else None


def _of_base64(data: Any) -> SeenPicture | None:
    if (content := content_of(data)) is not None:
        return _of_content(content)
    if not isinstance(data, str):
        return _taken_out(data)
    try:
        found = base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error):
        return None
    if not found:
        return None
    width, height = _size(found)
    return SeenPicture(hashlib.sha256(found).hexdigest(), width, height)


def _of_content(content: Content) -> SeenPicture:
    return SeenPicture(content.name, _side(content.width), _side(content.height))


def _size(data: bytes) -> tuple[int | None, int | None]:
    """Of a PNG; pages lay others out when they have them."""
    if not data.startswith(_PNG) or len(data) < 24:
        return None, None
    return _side(int.from_bytes(data[16:20])), _side(int.from_bytes(data[20:24]))


def _side(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= _MOST_SIDE else None


def _middle(box: Any) -> list[Any]:
    """Of a point or a box, in a list or in text."""
    text = box if isinstance(box, str) else json.dumps(box) if isinstance(box, list) else ""
    found = [float(number) for number in _NUMBERS.findall(text[:200])]
    if len(found) == 4:
        return [(found[0] + found[2]) / 2, (found[1] + found[3]) / 2]
    return found


def _is_place(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= _MOST_SIDE
