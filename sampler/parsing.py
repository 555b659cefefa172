"""Reading a sampled answer: `<think>…</think>`, and tool calls as `<tool_call>{json}</tool_call>` (Hermes, Qwen).

What cannot be read stays in the content: nothing that a policy wrote is lost, and nothing it writes is an error.
"""

from __future__ import annotations

import json
import re
from json.decoder import JSONDecodeError

from wire.sampling import ParsedCall, ParsedMessage

_THINK, _END_THINK = "<think>", "</think>"
# The last call may lack its end: cut off, or ended by the end-of-turn token.
_TOOL_CALL = re.compile(r"<tool_call>(?P<body>.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def parse_answer(text: str, *, tools_offered: bool) -> ParsedMessage:
    """Reasoning first, then tool calls. Content is None when there is nothing but those."""
    reasoning, answer = _split_reasoning(text)
    calls, rest = _take_calls(answer) if tools_offered else ([], answer)
    content = rest or None if calls or reasoning is not None else rest
    return ParsedMessage(content=content, reasoning_content=reasoning or None, tool_calls=calls)


def _split_reasoning(text: str) -> tuple[str | None, str]:
    """Reasoning (None: no think block) and the rest. The opening tag may be missing, as part of the prompt; the
    closing one too, when the answer was cut off."""
    before, closed, after = text.partition(_END_THINK)
    opened = before.lstrip().startswith(_THINK)
    if not opened and (not closed or _THINK in before):
        return None, text
    reasoning = before.lstrip().removeprefix(_THINK).strip("\n")
    return reasoning, after.lstrip("\n")


def _take_calls(text: str) -> tuple[list[ParsedCall], str]:
    """The calls that can be read, and the text without them."""
    calls: list[ParsedCall] = []

    def take(match: re.Match[str]) -> str:
        call = _read_call(match["body"])
        if call is None:
            return match[0]
        calls.append(call)
        return ""

    rest = _TOOL_CALL.sub(take, text)
    return calls, rest.strip() if calls else rest


def _read_call(body: str) -> ParsedCall | None:
    try:
        values, raw = _scan_object(body.strip())
    except (ValueError, RecursionError):
        return None
    name, arguments = values.get("name"), values.get("arguments", {})
    if isinstance(arguments, str):
        raw["arguments"] = arguments
        arguments = _loads_or_none(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return ParsedCall(name=name, arguments=raw.get("arguments", "{}"))


def _scan_object(text: str) -> tuple[dict[str, object], dict[str, str]]:
    """A JSON object's values and, verbatim, their text. Raises ValueError."""
    values: dict[str, object] = {}
    raw: dict[str, str] = {}
    at = _expect(text, 0, "{")
    while True:
        key, at = _DECODER.raw_decode(text, _skip_space(text, at))
        start = _skip_space(text, _expect(text, _skip_space(text, at), ":"))
        values[key], at = _DECODER.raw_decode(text, start)
        raw[key] = text[start:at]
        at = _skip_space(text, at)
        if text[at : at + 1] != ",":
            break
        at += 1
    if _expect(text, at, "}") != len(text):
        raise JSONDecodeError("extra text behind the object", text, at)
    return values, raw


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise JSONDecodeError(f"expected {character}", text, at)
    return at + 1


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _loads_or_none(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
