"""Reading answers with vLLM behind: as every backend does where the form is known here, and through vLLM's derender
route where it is not.

Whoever reads, a whole answer is read as a stream in one piece, so that the two cannot differ: from where vLLM's parser
has to look, a stream waits for the end of the answer, and vLLM reads it once. The parsers get the sampled ids, so they
see the control tokens that some formats are made of. What they drop without having read a call out of it is put back
into the content.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Any

import structlog

from sampler.backends.base import AnswerReader
from sampler.backends.vllm.parsers import Division, opens_reasoning
from sampler.backends.vllm.routes import DERENDER, Post, chat_request
from sampler.chat.reading import BufferingParser, SymbolReader, as_deltas, joined
from sampler.chat.text import ChatText
from sampler.vocabulary import Vocabulary
from wire.errors import InvalidRequest
from wire.sampling import (
    DerenderRequest,
    GenerateEvent,
    GenerateRequest,
    MessageDelta,
    ParsedCall,
    ParsedMessage,
    ParseOptions,
)

log = structlog.get_logger(__name__)

_CLOSING_MARK = re.compile(r"\s*(?:</[\w:|]+>|\[/\w+\])")
_END_THINK = "</think>"


class VllmReading:
    """Reads through one server what `division` leaves to it."""

    def __init__(
        self, chat_text: ChatText, vocabulary: Vocabulary, eos_ids: frozenset[int], division: Division, post: Post
    ) -> None:
        self._chat_text = chat_text
        self._vocabulary = vocabulary
        self._eos_ids = eos_ids
        self._division = division
        self._post = post

    async def derender(self, request: DerenderRequest) -> ParsedMessage:
        """See SamplerBackend."""
        if self._division.all_by_vllm:
            return await self._read_by_vllm(request)
        reader = self._divided(request.prompt_token_ids, request)
        return joined(await reader.read(request.token_ids, request.text, ended=True))

    def reader(self, request: GenerateRequest, reading: ParseOptions) -> AnswerReader:
        """See SamplerBackend."""
        if self._division.all_by_vllm:
            return BufferingParser(reading, self._read_by_vllm)
        return self._divided(request.prompt_token_ids, reading)

    async def calls(self, request: DerenderRequest) -> list[ParsedCall]:
        """What vLLM's tool parser finds behind the reasoning."""
        ids = await self._readable_ids(request)
        if _END_THINK not in request.text:  # some parsers take an answer without it for reasoning
            ids = [*await self._chat_text.tokenize_bare(_END_THINK), *ids]
        message = await self._message(request, ids)
        return _calls(message) if message else []

    def _divided(self, prompt: Sequence[int], reading: ParseOptions) -> DividedReader:
        division = self._division
        symbols = SymbolReader(
            self._vocabulary, division.form, prompt, reading, unread=division.unread, reasons=division.reasons
        )
        return DividedReader(self, symbols, reading)

    async def _read_by_vllm(self, request: DerenderRequest) -> ParsedMessage:
        ids = await self._readable_ids(request)
        message = await self._message(request, ids) if ids else None
        if message is None:
            return ParsedMessage(content=request.text)
        return await self._checked(request, self._parsed(message, ids))

    async def _message(self, reading: ParseOptions, ids: list[int]) -> dict[str, Any] | None:
        choice = {"index": 0, "token_ids": ids, "finish_reason": "stop"}
        body = {"generate_response": {"choices": [choice]}, "chat_request": chat_request(reading)}
        try:
            return (await self._post(DERENDER, body))["choices"][0]["message"]
        except InvalidRequest as refused:
            log.warning("answer_not_read", reason=refused.message)
            return None

    async def _readable_ids(self, request: DerenderRequest) -> list[int]:
        """The ids that make the text: all but the end token, or those before the cut of a stop string and what is left
        of the token that was cut."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        length, whole = 0, 0
        for index, token_id in enumerate(request.token_ids):
            length += len(piece := decoder.decode(self._vocabulary.bytes_of(token_id)))
            if not request.text.startswith(piece, length - len(piece)):
                return [*request.token_ids[:whole], *await self._rest(request, whole)]
            if not decoder.getstate()[0]:
                whole = index + 1
        ids = request.token_ids
        return ids[:-1] if ids and ids[-1] in self._eos_ids else ids

    async def _rest(self, request: DerenderRequest, whole: int) -> list[int]:
        said = b"".join(self._vocabulary.bytes_of(token_id) for token_id in request.token_ids[:whole])
        return await self._chat_text.tokenize_bare(request.text[len(said.decode(errors="replace")) :])

    def _without_control(self, text: str | None, ids: list[int]) -> str:
        """A text without the control tokens that are among these ids: parsers leave in it what they do not need."""
        for token_id in set(ids) & self._vocabulary.special_ids:
            text = (text or "").replace(self._vocabulary.text_of(token_id), "")
        return text or ""

    def _parsed(self, message: dict[str, Any], ids: list[int]) -> ParsedMessage:
        calls = _calls(message)
        reasoning = self._without_control(message.get("reasoning"), ids) or None
        content = self._without_control(message.get("content"), ids)
        return ParsedMessage(
            content=content or None if calls or reasoning else content, reasoning_content=reasoning, tool_calls=calls
        )

    async def _checked(self, request: DerenderRequest, parsed: ParsedMessage) -> ParsedMessage:
        """Without calls, all that is not reasoning is content. What shows no mark of reasoning is none, unless the
        prompt opened it."""
        if parsed.tool_calls:
            return parsed
        reasoning = parsed.reasoning_content or ""
        opening = await self._chat_text.generation_prompt(request.chat_template_kwargs)
        if reasoning == request.text and not opens_reasoning(opening):
            return ParsedMessage(content=request.text)
        _, found, rest = request.text.partition(reasoning) if reasoning else ("", "", request.text)
        if not reasoning or found:
            mark = _CLOSING_MARK.match(rest) if reasoning else None
            rest = rest[mark.end() :] if mark else rest
            if rest.strip() and rest.strip() != (parsed.content or "").strip():
                parsed.content = rest
        return parsed


class DividedReader:
    """An AnswerReader that asks vLLM at the end about what is left unread."""

    def __init__(self, vllm: VllmReading, symbols: SymbolReader, reading: ParseOptions) -> None:
        self._vllm = vllm
        self._symbols = symbols
        self._reading = reading
        self._ids: list[int] = []
        self._texts: list[str] = []

    async def take(self, event: GenerateEvent) -> list[MessageDelta]:
        """See AnswerReader."""
        return await self.read(event.tokens.ids, event.text, ended=event.finish_reason is not None)

    async def read(self, token_ids: Sequence[int], text: str, *, ended: bool) -> list[MessageDelta]:
        """See SymbolReader."""
        self._ids += token_ids
        self._texts.append(text)
        deltas = self._symbols.read(token_ids, text, ended=ended)
        if not ended or not self._symbols.unread:
            return deltas
        fields = {name: getattr(self._reading, name) for name in ParseOptions.model_fields}
        answer = DerenderRequest(token_ids=self._ids, text="".join(self._texts), **fields)
        calls = await self._vllm.calls(answer)
        left = ParsedMessage(content=None if calls else self._symbols.unread, tool_calls=calls)
        return [*deltas, *as_deltas(left)]


def _calls(message: dict[str, Any]) -> list[ParsedCall]:
    functions = [call["function"] for call in message.get("tool_calls") or []]
    return [ParsedCall(name=function["name"], arguments=_arguments(function["arguments"])) for function in functions]


def _arguments(written: str | None) -> str:
    """A call without arguments has an empty object of them, however it was written."""
    return written if written and written.strip() not in ("", "null", '""') else "{}"
