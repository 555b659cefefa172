"""Reading an answer, symbol by symbol: `<think>…</think>`, and tool calls in the base's own form.

A symbol is a character, or a control token by its name. The parser takes them one by one, so an answer is read the same
whole and in any pieces. What cannot be read stays in the content: nothing that a policy wrote is lost, and nothing it
writes is an error. A call ends where its JSON does, whatever its strings hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sampler.chat.call_forms import CallForm
from sampler.chat.json_objects import JsonObject, NotThisObject, read_members
from sampler.chat.json_texts import is_sendable
from wire.sampling import CallDelta, MessageDelta, ParsedCall

Symbols = tuple[str, ...]
Attempt = Generator[None, str, Any]
Part = Literal["reasoning", "content", "unread"]

END = ""
"""The symbol behind the last one."""
_BLANKS = frozenset(" \t\r\n")
_LONGEST_NAME = 256
_THINK, _END_THINK = "<think>", "</think>"


class _Mismatch(Exception):
    """It is not what it began like."""


@dataclass(frozen=True)
class Marks:
    """What to look for in an answer. `form` None: no calls. `tool_names`: those on offer, which a call without any mark
    has to name. `unread`: what begins calls that somebody else reads, from there to the end of the answer; without any
    marks in it, all content may be calls. `reasons`: whether `<think>` means anything."""

    form: CallForm | None
    tool_names: frozenset[str]
    symbols_of: Callable[[str], Symbols] = tuple
    unread: tuple[str, ...] | None = None
    reasons: bool = True
    think: Symbols = field(init=False)
    end_think: Symbols = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "think", self.symbols_of(_THINK))
        object.__setattr__(self, "end_think", self.symbols_of(_END_THINK))

    def of_calls(self, *, at_start: bool, after_call: bool) -> dict[Symbols, str]:
        """What a call may begin with here, and what may follow one."""
        form = self.form
        if form is None:
            return {self.symbols_of(mark): "unread" for mark in self.unread or ()}
        marks = {form.section_open: "section", form.open_mark: "call"}
        if after_call:
            marks |= {form.separator: "next", form.section_close: "close"}
        found = {self.symbols_of(mark.strip()): kind for mark, kind in marks.items() if mark.strip()}
        is_bare = not form.open_mark and not form.section_open
        return found | {("{",): "bare"} if is_bare and at_start else found


class AnswerParser:
    """Takes an answer's symbols, gives what they say. `opened`: the prompt has begun the reasoning."""

    def __init__(self, marks: Marks, *, opened: bool) -> None:
        self._marks = marks
        self._part: Part = "reasoning" if opened and marks.reasons else "content"
        self._may_think = marks.reasons
        self._at_start = True
        self._after_call = False
        self._drops_newlines = False
        self._blanks: list[str] = []
        self._attempt: Attempt | None = None
        self._attempted: list[str] = []
        self._num_calls = 0
        self._unread: list[str] = []
        self._saying: Part = "content"
        self._said: list[str] = []
        self._deltas: list[MessageDelta] = []
        self._known: dict[tuple[str, bool, bool, bool], tuple[dict[Symbols, str], frozenset[str]]] = {}

    def feed(self, symbols: Iterable[str]) -> list[MessageDelta]:
        """What is settled by these symbols."""
        for symbol in symbols:
            self._take(symbol)
        self._flush()
        deltas, self._deltas = self._deltas, []
        return deltas

    def end(self) -> list[MessageDelta]:
        """All that is left."""
        self._take(END)
        if self._part == "content" and not self._num_calls:
            self._say("content", "".join(self._blanks))
        return self.feed(())

    @property
    def unread(self) -> str:
        """The text that somebody else reads, with the blanks before it."""
        return "".join(self._unread)

    def _take(self, symbol: str) -> None:
        waiting = [symbol]
        while waiting:
            symbol = waiting.pop()
            if self._attempt is None and not self._begins(symbol):
                self._is_plain(symbol)
                continue
            assert self._attempt is not None
            self._attempted.append(symbol)
            try:
                self._attempt.send(symbol)
            except StopIteration as done:
                attempted, self._attempt, self._attempted = self._attempted, None, []
                self._is_read(done.value, attempted)
            except (_Mismatch, NotThisObject):
                first, *rest = self._attempted
                self._attempt, self._attempted = None, []
                self._is_plain(first)
                waiting += reversed(rest)

    def _begins(self, symbol: str) -> bool:
        state = (self._part, self._may_think, self._at_start, self._after_call)
        if state not in self._known:
            openings = self._openings()
            self._known[state] = openings, frozenset(opening[0] for opening in openings)
        openings, firsts = self._known[state]
        if symbol not in firsts:
            return False
        self._attempt = self._reading(openings)
        next(self._attempt)
        return True

    def _openings(self) -> dict[Symbols, str]:
        if self._part == "unread":
            return {}
        thinking = {self._marks.think: "think"} if self._may_think else {}
        if self._part == "reasoning":
            return {**thinking, self._marks.end_think: "end_think"}
        return {**thinking, **self._marks.of_calls(at_start=self._at_start, after_call=self._after_call)}

    def _is_plain(self, symbol: str) -> None:
        if len(symbol) != 1:
            return  # control tokens are no text
        if self._part == "reasoning":
            self._is_reasoning(symbol)
        elif self._part == "unread":
            self._unread.append(symbol)
        elif symbol in _BLANKS:
            self._drops_newlines = self._drops_newlines and symbol == "\n"
            self._blanks += [] if self._drops_newlines or self._after_call else [symbol]
        elif self._marks.unread == ():
            self._leave_unread((symbol,))
        else:
            self._say("content", "".join([*self._blanks, symbol]))
            self._blanks, self._drops_newlines = [], False
            self._may_think = self._at_start = self._after_call = False

    def _is_reasoning(self, symbol: str) -> None:
        if symbol == "\n":
            self._blanks += [] if self._may_think else [symbol]
        else:
            self._say("reasoning", "".join([*self._blanks, symbol]))
            self._blanks, self._may_think = [], False

    def _leave_unread(self, symbols: Iterable[str]) -> None:
        self._part = "unread"
        self._unread = [*self._blanks, *(symbol for symbol in symbols if len(symbol) == 1)]
        self._blanks = []

    def _is_read(self, found: ParsedCall | str, symbols: list[str]) -> None:
        if found == "unread":
            self._leave_unread(symbols)
            return
        self._blanks = []
        if isinstance(found, ParsedCall):
            self._flush()
            call = CallDelta(index=self._num_calls, name=found.name, arguments=found.arguments)
            self._deltas.append(MessageDelta(tool_calls=[call]))
            self._num_calls += 1
            self._after_call, self._may_think = True, False
        elif found == "think":
            self._part = "reasoning"
        elif found == "end_think":
            self._part, self._drops_newlines, self._may_think = "content", True, False

    def _say(self, part: Part, text: str) -> None:
        if part != self._saying:
            self._flush()
            self._saying = part
        self._said.append(text)

    def _flush(self) -> None:
        if text := "".join(self._said):
            said = MessageDelta(content=text) if self._saying == "content" else MessageDelta(reasoning_content=text)
            self._deltas.append(said)
        self._said = []

    def _reading(self, openings: dict[Symbols, str]) -> Attempt:
        kind = yield from _opening(openings)
        form = self._marks.form
        if kind in ("think", "end_think", "close") or form is None:
            return kind
        symbol = "{" if kind == "bare" else (yield from _after_blanks())
        if kind in ("section", "next") and form.open_mark:
            yield from _literal(self._marks.symbols_of(form.open_mark), symbol)
            symbol = yield from _after_blanks()
        call = yield from self._call(form, symbol)
        if kind == "bare" and call.name not in self._marks.tool_names:
            raise _Mismatch
        if form.close_mark:
            symbol = yield from _after_blanks()
            if symbol != END:  # cut off, or ended by the end of the turn
                yield from _literal(self._marks.symbols_of(form.close_mark), symbol)
        return call

    def _call(self, form: CallForm, symbol: str) -> Generator[None, str, ParsedCall]:
        name = None
        if not form.is_object:
            name, symbol = yield from _name(self._marks.symbols_of(form.between.strip()), symbol)
        written = JsonObject()
        while not written.take(symbol):
            symbol = yield
        return _as_call(written.text) if name is None else ParsedCall(name=name, arguments=written.checked())


def _opening(openings: dict[Symbols, str]) -> Generator[None, str, str]:
    seen: Symbols = ()
    while True:
        seen = (*seen, (yield))
        if seen in openings:
            return openings[seen]
        if not any(opening[: len(seen)] == seen for opening in openings):
            raise _Mismatch


def _after_blanks() -> Generator[None, str, str]:
    while (symbol := (yield)) in _BLANKS:
        pass
    return symbol


def _literal(expected: Sequence[str], first: str) -> Generator[None, str, None]:
    if first != expected[0]:
        raise _Mismatch
    for symbol in expected[1:]:
        if (yield) != symbol:
            raise _Mismatch


def _name(end: Symbols, first: str) -> Generator[None, str, tuple[str, str]]:
    """A function's name up to this mark (or a brace, if there is none), and the symbol behind it."""
    name = [first]
    while len(name) <= _LONGEST_NAME and END not in name:
        if end and tuple(name[-len(end) :]) == end:
            return _checked_name(name[: -len(end)]), (yield from _after_blanks())
        if not end and name[-1] == "{":
            return _checked_name(name[:-1]), "{"
        name.append((yield))
    raise _Mismatch


def _checked_name(symbols: list[str]) -> str:
    name = "".join(symbols).strip()
    if not name or any(len(symbol) != 1 for symbol in symbols) or _BLANKS & set(name):
        raise _Mismatch
    return name


def _as_call(text: str) -> ParsedCall:
    values, raw = read_members(text)
    key = next((key for key in ("arguments", "parameters") if key in values), "arguments")
    name, arguments = values.get("name"), values.get(key)
    written = raw.get(key, "{}")
    if isinstance(arguments, str):
        written = arguments
        arguments = _loads_or_none(arguments) if arguments.strip() else None
    if arguments is None and (not written.strip() or written == "null" or key not in values):
        arguments, written = {}, "{}"
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise _Mismatch
    if not is_sendable(name) or not is_sendable(written):
        raise _Mismatch
    return ParsedCall(name=name, arguments=written)


def _loads_or_none(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
