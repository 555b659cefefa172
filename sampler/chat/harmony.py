"""Reading an answer in gpt-oss' Harmony format: messages with a header, `<|channel|>` and `<|message|>`.

The channel `analysis` is reasoning; a recipient `functions.name` makes a message the arguments of a call; all else is
content. The prompt has begun the first header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sampler.chat.json_objects import NotThisObject, read_members
from wire.sampling import CallDelta, MessageDelta

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
HARMONY_END = "<|end|>"
"""Ends a message; an answer is ended by one of the others."""
_ENDS = (HARMONY_END, "<|return|>", "<|call|>")
_RECIPIENT = re.compile(r"to=functions\.([^\s<]+)")
_LONGEST_HEADER = 256
HARMONY_TOKENS = frozenset({_START, _CHANNEL, _MESSAGE})
"""A base with these control tokens writes Harmony."""


class HarmonyParser:
    """Takes an answer's symbols, gives what they say, as AnswerParser does. Without tools on offer, a message to a
    function is content."""

    def __init__(self, *, reads_calls: bool) -> None:
        self._reads_calls = reads_calls
        self._header: list[str] | None = []
        self._body: list[str] = []
        self._is_reasoning = False
        self._function: str | None = None
        self._num_calls = 0

    def feed(self, symbols: Iterable[str]) -> list[MessageDelta]:
        """What is settled by these symbols."""
        deltas = list[MessageDelta]()
        for symbol in symbols:
            deltas += self._take(symbol)
        return deltas if self._function else [*deltas, *self._said()]

    def end(self) -> list[MessageDelta]:
        """All that is left; a header without a message is content."""
        self._body += [symbol for symbol in self._header or () if len(symbol) == 1]
        return self._closed()

    def _take(self, symbol: str) -> list[MessageDelta]:
        if symbol == _START or symbol in _ENDS:
            left = self.end()
            self._header = []
            return left
        if self._header is None:
            self._body += [symbol] if len(symbol) == 1 else []
        elif symbol == _MESSAGE:
            self._open("".join(self._header))
        else:
            self._header.append(symbol)
            if len(self._header) > _LONGEST_HEADER:
                self._body, self._header = [one for one in self._header if len(one) == 1], None
        return []

    def _open(self, header: str) -> None:
        recipient = _RECIPIENT.search(header)
        self._header, self._body = None, []
        self._function = recipient[1] if recipient and self._reads_calls else None
        self._is_reasoning = f"{_CHANNEL}analysis" in header and self._function is None

    def _closed(self) -> list[MessageDelta]:
        name, self._function = self._function, None
        text = "".join(self._body)
        if name is not None and _is_object(text):
            self._body = []
            call = CallDelta(index=self._num_calls, name=name, arguments=text.strip() or "{}")
            self._num_calls += 1
            return [MessageDelta(tool_calls=[call])]
        said = self._said()
        self._is_reasoning = False
        return said

    def _said(self) -> list[MessageDelta]:
        text, self._body = "".join(self._body), []
        if not text:
            return []
        return [MessageDelta(reasoning_content=text) if self._is_reasoning else MessageDelta(content=text)]


def _is_object(text: str) -> bool:
    try:
        return not text.strip() or bool(read_members(text.strip()))
    except NotThisObject:
        return False
