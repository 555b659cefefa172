"""Reading an answer while it comes. A whole one is read as a stream in one piece, so that the two cannot differ."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from sampler.chat.call_forms import CallForm
from sampler.chat.harmony import HARMONY_TOKENS, HarmonyParser
from sampler.chat.parsing import AnswerParser, Marks
from sampler.vocabulary import Vocabulary
from wire.sampling import (
    CallDelta,
    DerenderRequest,
    GenerateEvent,
    MessageDelta,
    ParsedCall,
    ParsedMessage,
    ParseOptions,
)

Derender = Callable[[DerenderRequest], Awaitable[ParsedMessage]]

_PROMPT_TAIL = 64
"""Tokens at the end of a prompt that decide whether it opens the reasoning."""


class SymbolReader:
    """An AnswerReader over a parser of symbols, for backends that leave reading to us. `unread` and `reasons` are
    those of Marks."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        form: CallForm | None,
        prompt: Sequence[int],
        reading: ParseOptions,
        *,
        unread: tuple[str, ...] | None = None,
        reasons: bool = True,
    ) -> None:
        is_offered = offers_tools(reading)
        names = frozenset(_names(reading.tools)) if is_offered else frozenset[str]()
        marks = Marks(
            form if is_offered else None,
            names,
            vocabulary.symbols_of,
            unread=unread if is_offered else None,
            reasons=reasons,
        )
        self._symbols = _SettledSymbols(vocabulary)
        self._parser: AnswerParser | HarmonyParser = (
            HarmonyParser(reads_calls=is_offered)
            if vocabulary.control_names >= HARMONY_TOKENS
            else AnswerParser(marks, opened=opens_reasoning(vocabulary, prompt))
        )

    async def take(self, event: GenerateEvent) -> list[MessageDelta]:
        """See AnswerReader."""
        return self.read(event.tokens.ids, event.text, ended=event.finish_reason is not None)

    def read(self, token_ids: Sequence[int], text: str, *, ended: bool) -> list[MessageDelta]:
        """The deltas of the next tokens, and of the text that they settle."""
        deltas = self._parser.feed(self._symbols.take(token_ids, len(text)))
        return [*deltas, *self._parser.end()] if ended else deltas

    @property
    def unread(self) -> str:
        """See AnswerParser."""
        return self._parser.unread if isinstance(self._parser, AnswerParser) else ""


class _SettledSymbols:
    """The symbols of tokens, as far as their text has settled; nothing that a stop string cut off."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting: deque[str] = deque()
        self._num_settled = 0

    def take(self, token_ids: Iterable[int], num_characters: int) -> Iterator[str]:
        for token_id in token_ids:
            if token_id in self._vocabulary.special_ids:
                self._waiting.append(self._vocabulary.text_of(token_id))
            else:
                self._waiting.extend(self._decoder.decode(self._vocabulary.bytes_of(token_id)))
        self._num_settled += num_characters
        while self._waiting and (len(self._waiting[0]) > 1 or self._num_settled):
            self._num_settled -= len(self._waiting[0]) == 1
            yield self._waiting.popleft()


class BufferingParser:
    """An AnswerReader that says nothing before the end, for a whole answer's parser."""

    def __init__(self, reading: ParseOptions, derender: Derender) -> None:
        self._reading = reading
        self._derender = derender
        self._token_ids: list[int] = []
        self._text = ""

    async def take(self, event: GenerateEvent) -> list[MessageDelta]:
        """See AnswerReader."""
        self._token_ids += event.tokens.ids
        self._text += event.text
        if event.finish_reason is None:
            return []
        request = DerenderRequest(token_ids=self._token_ids, text=self._text, **dict(self._reading))
        return as_deltas(await self._derender(request))


def offers_tools(reading: ParseOptions) -> bool:
    """Whether an answer may have calls in it."""
    return bool(reading.tools) and reading.tool_choice != "none"


def opens_reasoning(vocabulary: Vocabulary, prompt: Sequence[int]) -> bool:
    """Whether an answer after this prompt begins inside of a reasoning block."""
    tail = "".join(vocabulary.text_of(token_id) for token_id in prompt[-_PROMPT_TAIL:])
    return tail.rstrip().endswith("<think>")


def as_deltas(parsed: ParsedMessage) -> list[MessageDelta]:
    """A whole message as a stream says it."""
    calls = [
        CallDelta(index=index, name=call.name, arguments=call.arguments) for index, call in enumerate(parsed.tool_calls)
    ]
    deltas = [
        MessageDelta(reasoning_content=parsed.reasoning_content),
        MessageDelta(content=parsed.content),
        MessageDelta(tool_calls=calls),
    ]
    return [delta for delta in deltas if delta.reasoning_content or delta.content or delta.tool_calls]


def joined(deltas: Iterable[MessageDelta]) -> ParsedMessage:
    """The message that a stream says. Its content is None where there is only something else."""
    reasoning, content, calls = list[str](), list[str](), list[ParsedCall]()
    for delta in deltas:
        reasoning.append(delta.reasoning_content or "")
        content.append(delta.content or "")
        for call in delta.tool_calls:
            if call.index == len(calls):
                calls.append(ParsedCall(name=call.name or "", arguments=""))
            calls[call.index].arguments += call.arguments
    thought, said = "".join(reasoning) or None, "".join(content)
    return ParsedMessage(
        content=said or None if thought or calls else said, reasoning_content=thought, tool_calls=calls
    )


def _names(tools: Sequence[object]) -> Iterator[str]:
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str):
            yield name
