"""Two rollouts in rows: turn beside turn, and what came before a turn beside what came before the same turn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest

from server.rollouts.seen_pictures import SeenPicture
from server.rollouts.transcript import Part, Scene

_MOST_TEXT = 1_500
_MOST_WORDS = 400
"""Of a text whose differences are marked word by word; comparing takes the square of it."""
_PIECE = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class MarkedText:
    """`pieces`: text, and whether the other side has something else there. `num_hidden`: characters that were cut.
    `pictures`: in the place of a text, and whether the other side has others there."""

    label: str
    pieces: list[tuple[str, bool]]
    num_hidden: int
    is_code: bool
    is_error: bool
    pictures: tuple[SeenPicture, ...] = ()
    other_pictures: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """`number`: of the turn, where both sides are one. `is_same`: word for word, and picture for picture."""

    number: int | None
    sides: tuple[Scene | None, Scene | None]
    texts: tuple[list[MarkedText], list[MarkedText]]
    is_same: bool


def aligned(first: Sequence[Scene], second: Sequence[Scene]) -> list[tuple[Scene | None, Scene | None]]:
    """Scenes of both, None where one side has nothing to set against the other."""
    pairs = list[tuple[Scene | None, Scene | None]]()
    for one, other in zip_longest(_by_turns(first), _by_turns(second), fillvalue=list[Scene]()):
        ends = tuple(part[-1] if part and part[-1].number is not None else None for part in (one, other))
        before = [part[:-1] if end is not None else part for part, end in zip((one, other), ends, strict=True)]
        pairs += [(left, right) for left, right in zip_longest(before[0], before[1])]
        if any(ends):
            pairs.append((ends[0], ends[1]))
    return pairs


def row_of(first: Scene | None, second: Scene | None) -> Row:
    """Two scenes with their differences."""
    numbers = {scene.number for scene in (first, second) if scene is not None}
    texts = _texts(first, second), _texts(second, first)
    return Row(numbers.pop() if len(numbers) == 1 else None, (first, second), texts, is_same(first, second))


def is_same(first: Scene | None, second: Scene | None) -> bool:
    """Whether both sides say the same, word for word, and show the same pictures."""
    return first is not None and second is not None and _said(first) == _said(second)


def _by_turns(scenes: Sequence[Scene]) -> list[list[Scene]]:
    """Each turn with what came before it; what came behind the last one."""
    parts = [list[Scene]()]
    for scene in scenes:
        parts[-1].append(scene)
        if scene.number is not None:
            parts.append([])
    return parts if parts[-1] else parts[:-1]


def _said(scene: Scene) -> tuple[str, list[tuple[str, str, list[str]]]]:
    return scene.title, [(part.label, part.text, _names(part)) for part in scene.parts]


def _names(part: Part) -> list[str]:
    return [picture.name for picture in part.pictures]


def _texts(own: Scene | None, other: Scene | None) -> list[MarkedText]:
    if own is None:
        return []
    beside = _by_label(other) if other is not None else {}
    marked, seen = list[MarkedText](), Counter[str]()
    for part in own.parts:
        marked.append(_beside(part, beside.get((part.label, seen[part.label]))))
        seen[part.label] += 1
    return marked


def _beside(part: Part, other: Part | None) -> MarkedText:
    pieces = _marked(part.text[:_MOST_TEXT], other.text[:_MOST_TEXT] if other is not None else None)
    num_hidden = max(0, len(part.text) - _MOST_TEXT)
    is_other = bool(part.pictures) and (other is None or _names(part) != _names(other))
    return MarkedText(part.label, pieces, num_hidden, part.is_code, part.is_error, part.pictures, is_other)


def _by_label(scene: Scene) -> dict[tuple[str, int], Part]:
    """Parts by their label and which of that label they are."""
    seen, found = Counter[str](), dict[tuple[str, int], Part]()
    for part in scene.parts:
        found[part.label, seen[part.label]] = part
        seen[part.label] += 1
    return found


def _marked(own: str, other: str | None) -> list[tuple[str, bool]]:
    """All of it is marked where it has nothing to be compared with, or is too long to be compared."""
    if own == other:
        return [(own, False)]
    if other is None:
        return [(own, True)]
    words, others = _PIECE.findall(own), _PIECE.findall(other)
    if max(len(words), len(others)) > _MOST_WORDS:
        return _ends_marked(own, other)
    pieces = list[tuple[str, bool]]()
    for tag, start, end, _, _ in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        if start < end:
            pieces.append(("".join(words[start:end]), tag != "equal"))
    return pieces


def _ends_marked(own: str, other: str) -> list[tuple[str, bool]]:
    """What follows the common beginning is marked."""
    shared = next((place for place, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), None)
    shared = min(len(own), len(other)) if shared is None else shared
    return [piece for piece in ((own[:shared], False), (own[shared:], True)) if piece[0]]
