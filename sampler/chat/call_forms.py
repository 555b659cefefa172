"""How a base writes tool calls, read off its chat template: a history with a call is rendered, and what surrounds the
name and the arguments is the form."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wire.errors import InvalidRequest

Message = dict[str, Any]
Render = Callable[[list[Message], list[dict[str, Any]], bool], str]
"""Messages, tools, and whether to add a generation prompt → text. Raises InvalidRequest."""

_NAME, _ANSWER = "headwayprobe", "headwayanswer"
_ARGUMENTS = {"headwaykey": "headwayvalue"}
_ARGUMENTS_JSON = re.compile(r'\{\s*"headwaykey"\s*:\s*"headwayvalue"\s*\}')
_CALL_ID = "headway01"  # some templates insist on nine letters and digits
_WITH_ID = re.compile(rf',\s*"id"\s*:\s*"{_CALL_ID}"')
_OPEN_OBJECT = re.compile(r'\{\s*"name"\s*:\s*"$')
_BETWEEN_IN_OBJECT = re.compile(r'^"\s*,\s*"(?P<key>\w+)"\s*:\s*$')
_END_REASONING = "</think>"
_TOOL = {
    "type": "function",
    "function": {"name": _NAME, "description": ".", "parameters": {"type": "object", "properties": {}}},
}
_QUESTION: Message = {"role": "user", "content": "."}


@dataclass(frozen=True, slots=True)
class CallForm:
    """The texts around the parts of calls: `section_open`, then for each call `before`, its name, `between`, its
    arguments, `after`, with `separator` from one call to the next, then `section_close`. Control tokens stand in them
    by their names. `several`: whether an answer may have more than one."""

    before: str
    between: str
    after: str
    section_open: str = ""
    section_close: str = ""
    separator: str = ""
    several: bool = False

    @property
    def is_object(self) -> bool:
        """Whether the name is inside of a JSON object with the arguments, which may be written in any order."""
        inside = _OPEN_OBJECT.search(self.before) and _BETWEEN_IN_OBJECT.match(self.between)
        return bool(inside) and self.after.lstrip().startswith("}")

    @property
    def open_mark(self) -> str:
        """What announces a call, without blanks; empty for a JSON object that stands by itself."""
        return (_OPEN_OBJECT.sub("", self.before) if self.is_object else self.before).strip()

    @property
    def close_mark(self) -> str:
        """What ends a call, without blanks; may be empty."""
        return (self.after.lstrip().removeprefix("}") if self.is_object else self.after).strip()

    def text_of(self, calls: Sequence[tuple[str, str]]) -> str:
        """Calls (name, arguments as JSON) as the base writes them."""
        written = (f"{self.before}{name}{self.between}{arguments}{self.after}" for name, arguments in calls)
        return f"{self.section_open}{self.separator.join(written)}{self.section_close}"


HERMES = CallForm(
    before='<tool_call>\n{"name": "', between='", "arguments": ', after="}\n</tool_call>", separator="\n", several=True
)
"""Hermes' and Qwen's; and of bases whose template shows no calls at all."""


@dataclass(frozen=True, slots=True)
class CallStyle:
    """`form` None: the template writes calls, but not in a form that is known here. `shows_calls`: whether the template
    writes the calls of a history. It may want their arguments as text and not as an object, and the content beside
    them absent and not empty; and it may leave calls out that stand beside a content."""

    form: CallForm | None
    shows_calls: bool
    arguments_as_text: bool = False
    content_absent: bool = False
    beside_content: bool = True


def call_style(render: Render, end_marks: Sequence[str]) -> CallStyle:
    """How the template behind `render` writes calls. `end_marks` are the tokens that end an answer."""
    for arguments_as_text, content_absent in ((False, False), (False, True), (True, False), (True, True)):
        content = None if content_absent else ""
        one = _rendered(render, _calling(1, content, as_text=arguments_as_text))
        if _NAME in one and "headwayvalue" in one:
            two = _rendered(render, _calling(2, content, as_text=arguments_as_text))
            beside = _rendered(render, _calling(1, _ANSWER, as_text=arguments_as_text))
            form = _form(render, one, two, end_marks)
            return CallStyle(form, True, arguments_as_text, content_absent, beside_content=_NAME in beside)
    return CallStyle(HERMES, shows_calls=False)


def _calling(num_calls: int, content: str | None, *, as_text: bool) -> Message:
    arguments: Any = '{"headwaykey": "headwayvalue"}' if as_text else _ARGUMENTS
    call = {"id": _CALL_ID, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call] * num_calls}


def _rendered(render: Render, message: Message | None, *, opened: bool = False) -> str:
    """A chat up to this answer, after the question; empty where the template refuses."""
    try:
        before = render([_QUESTION], [_TOOL], False)
        whole = render([_QUESTION, message] if message else [_QUESTION], [_TOOL], opened)
    except InvalidRequest:
        return ""
    return whole.removeprefix(before) if whole.startswith(before) else ""


def _form(render: Render, one: str, two: str, end_marks: Sequence[str]) -> CallForm | None:
    header, _, end = _rendered(render, {"role": "assistant", "content": _ANSWER}).partition(_ANSWER)
    starts = (header, _rendered(render, None, opened=True))

    def parts(text: str) -> list[str]:
        """What is before, between and after names and arguments."""
        found = re.split(f"{_NAME}|{_ARGUMENTS_JSON.pattern}", _WITH_ID.sub("", text))
        return [_without_header(found[0], starts), *found[1:-1], _without_end(found[-1], end, end_marks)]

    single = parts(one)
    if len(single) != 3:
        return None
    before, between, after = single
    several = parts(two)
    if len(several) != 5 or several[3] != between:
        return CallForm(before, between, after)
    opening = _common_start(before[::-1], several[2][::-1])[::-1]
    closing = several[2].removesuffix(opening)
    closed = _common_start(closing, several[4])
    return CallForm(
        before=opening,
        between=between,
        after=closed,
        section_open=before.removesuffix(opening),
        section_close=several[4].removeprefix(closed),
        separator=closing.removeprefix(closed),
        several=True,
    )


def _without_header(text: str, starts: Sequence[str]) -> str:
    start = next((start for start in starts if start and text.startswith(start)), _common_start(text, starts[0]))
    _, reasoned, rest = text.removeprefix(start).rpartition(_END_REASONING)
    return rest.lstrip() if reasoned else rest


def _without_end(text: str, end: str, end_marks: Sequence[str]) -> str:
    ends = [at for mark in end_marks if (at := text.find(mark)) >= 0]
    return text[: min(ends)] if ends else text.removesuffix(end)


def _common_start(one: str, other: str) -> str:
    length = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]
