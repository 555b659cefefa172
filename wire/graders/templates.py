"""Templates of graders: `{{item.answer}}`, `{{sample.output_text}}`, `{{sample.output_json.steps[0]}}`.

`item` is the line of the file, `sample` what the model answered. A value that is no text is inserted as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_PATH = re.compile(r"(item|sample)((?:\.[\w-]+|\[\d{1,6}\]|\[\"[^\"\]]*\"\]|\['[^'\]]*'\])+)")
_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]|\[\"([^\"]*)\"\]|\['([^']*)'\]")
_MOST_CHARACTERS = 1000
_OF_A_SAMPLE = ("output_text", "output_json")


class TemplateError(ValueError):
    """A template that means nothing."""


class NoSuchValue(LookupError):
    """What a template names is not there."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One hole of a template: `root` is `item` or `sample`."""

    root: str
    steps: tuple[str | int, ...]

    def __str__(self) -> str:
        return self.root + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps)

    def value(self, root: Any) -> Any:
        """What it names. Raises NoSuchValue."""
        value = root
        for step in self.steps:
            try:
                value = value[int(step)] if isinstance(value, list) else value[step]
            except (LookupError, TypeError, ValueError):
                raise NoSuchValue(str(self)) from None
        return value


class Template:
    """A text with holes. Raises TemplateError for a hole that is none of ours."""

    def __init__(self, text: str) -> None:
        before, *rest = text.split("{{")
        self._pieces: list[str | Reference] = [before]
        for piece in rest:
            inner, is_closed, after = piece.partition("}}")
            self._pieces += [_reference(inner.strip()), after] if is_closed else ["{{" + inner]

    def references(self) -> Iterator[Reference]:
        """Its holes."""
        return (piece for piece in self._pieces if isinstance(piece, Reference))

    def render(self, values: Mapping[str, Any]) -> str:
        """The text with `values` (`item`, `sample`) in its holes. Raises NoSuchValue."""
        return "".join(
            piece if isinstance(piece, str) else _text(piece.value(values[piece.root])) for piece in self._pieces
        )


def _reference(text: str) -> Reference:
    found = _PATH.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
    if found is None:
        raise TemplateError(
            f"{{{{{text[:100]}}}}} is no template: write {{{{item.FIELD}}}} or {{{{sample.output_text}}}}"
        )
    steps = tuple(_step(step) for step in _STEP.finditer(found[2]))
    if found[1] == "sample" and steps[0] == "output_tools":
        raise TemplateError("{{sample.output_tools}} is not offered: no tools are offered where a grader grades")
    if found[1] == "sample" and steps[0] not in _OF_A_SAMPLE:
        raise TemplateError(f"{{{{{text[:100]}}}}}: a sample has output_text and output_json alone")
    if steps[0] == "output_text" and found[1] == "sample" and len(steps) > 1:
        raise TemplateError(f"{{{{{text[:100]}}}}}: output_text is a text, and has no parts")
    return Reference(found[1], steps)


def _step(found: re.Match[str]) -> str | int:
    if found[2] is not None:
        return int(found[2])
    return next(group for group in (found[1], found[3], found[4]) if group is not None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
