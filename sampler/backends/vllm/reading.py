"""Answers read by vLLM's own parsers, through its derender route: reasoning, content, tool calls.

The parsers get the sampled ids, so they see the control tokens that some formats are made of. What they drop without
having read a call out of it is put back into the content.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

import structlog

from sampler.backends.base import AnswerReader
from sampler.backends.vllm.parsers import Parsers, opens_reasoning
from sampler.backends.vllm.piecewise import AsItComes, PieceByPiece
from sampler.backends.vllm.routes import DERENDER, Post, chat_request
from sampler.chat_text import ChatText
from sampler.reading import HoldingBack
from sampler.vocabulary import Vocabulary
from wire.errors import InvalidRequest
from wire.sampling import (
    DerenderRequest,
    GenerateRequest,
    ParsedCall,
    ParsedMessage,
    Reading,
)

log = structlog.get_logger(__name__)

_CLOSING_MARK = re.compile(r"\s*(?:</[\w:|]+>|\[/\w+\])")


class VllmReading:
    """Reads through one server; `parsers` are None for one that somebody else started with whatever parsers."""

    def __init__(
        self, chat_text: ChatText, vocabulary: Vocabulary, eos_ids: frozenset[int], parsers: Parsers | None, post: Post
    ) -> None:
        self._chat_text = chat_text
        self._vocabulary = vocabulary
        self._eos_ids = eos_ids
        self._parsers = parsers
        self.post = post

    async def derender(self, request: DerenderRequest) -> ParsedMessage:
        """See SamplerBackend."""
        unread = ParsedMessage(content=request.text)
        ids = await self._readable_ids(request) if self._is_parsed(request) else []
        if not ids:
            return unread
        choice = {"index": 0, "token_ids": ids, "finish_reason": "stop"}
        body = {"generate_response": {"choices": [choice]}, "chat_request": chat_request(request)}
        try:
            message = (await self.post(DERENDER, body))["choices"][0]["message"]
        except InvalidRequest as refused:
            log.warning("answer_not_read", reason=refused.message)
            return unread
        return await self._checked(request, self._parsed(message, ids))

    def reader(self, request: GenerateRequest, reading: Reading) -> AnswerReader:
        """See SamplerBackend."""
        if not self._is_parsed(reading):
            return AsItComes()
        if request.params.stop:  # ids run ahead of a text that may turn out to be cut
            return HoldingBack(reading, self.derender)
        return PieceByPiece(self, request.prompt_token_ids, reading)

    def without_end(self, ids: list[int]) -> list[int]:
        """Ids of an answer without the token that ended it."""
        return ids[:-1] if ids and ids[-1] in self._eos_ids else ids

    def without_control(self, text: str | None, ids: list[int]) -> str:
        """A text without the control tokens that are among these ids: parsers leave in it what they do not need."""
        for token_id in set(ids) & self._vocabulary.special_ids:
            text = (text or "").replace(self._vocabulary.text_of(token_id), "")
        return text or ""

    async def begins_in_reasoning(self, reading: Reading) -> bool:
        """Whether the prompt has opened a reasoning block for the answer."""
        return opens_reasoning(await self._chat_text.generation_prompt(reading.chat_template_kwargs))

    def _is_parsed(self, reading: Reading) -> bool:
        if self._parsers is None or self._parsers.reasoning:
            return True
        return bool(self._parsers.tool_call and reading.tools)

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
        return self.without_end(request.token_ids)

    async def _rest(self, request: DerenderRequest, whole: int) -> list[int]:
        told = b"".join(self._vocabulary.bytes_of(token_id) for token_id in request.token_ids[:whole])
        return await self._chat_text.tokenize_bare(request.text[len(told.decode(errors="replace")) :])

    def _parsed(self, message: dict[str, Any], ids: list[int]) -> ParsedMessage:
        functions = [call["function"] for call in message.get("tool_calls") or []]
        calls = [
            ParsedCall(name=function["name"], arguments=_arguments(function["arguments"])) for function in functions
        ]
        reasoning = self.without_control(message.get("reasoning"), ids) or None
        content = self.without_control(message.get("content"), ids)
        return ParsedMessage(
            content=content or None if calls or reasoning else content, reasoning_content=reasoning, tool_calls=calls
        )

    async def _checked(self, request: DerenderRequest, parsed: ParsedMessage) -> ParsedMessage:
        """Without calls, all that is not reasoning is content. What shows no mark of reasoning is none, unless the
        prompt opened it."""
        if parsed.tool_calls:
            return parsed
        reasoning = parsed.reasoning_content or ""
        if reasoning == request.text and not await self.begins_in_reasoning(request):
            return ParsedMessage(content=request.text)
        _, found, rest = request.text.partition(reasoning) if reasoning else ("", "", request.text)
        if not reasoning or found:
            mark = _CLOSING_MARK.match(rest) if reasoning else None
            rest = rest[mark.end() :] if mark else rest
            if rest.strip() and rest.strip() != (parsed.content or "").strip():
                parsed.content = rest
        return parsed


def _arguments(written: str | None) -> str:
    """A call without arguments has an empty object of them, however it was written."""
    return written if written and written.strip() not in ("", "null", '""') else "{}"
