"""Answers read by vLLM's parsers while they come.

vLLM keeps no state between the pieces of a stream, and reads all earlier ones again for each. So pieces grow with the
answer: their number grows like the logarithm of its length.
"""

from __future__ import annotations

from typing import Any, Protocol

import structlog

from sampler.backends.vllm.routes import DERENDER, Post, chat_request
from wire.errors import InvalidRequest
from wire.sampling import CallDelta, DerenderRequest, GenerateEvent, MessageDelta, ParsedMessage, Reading

log = structlog.get_logger(__name__)

_GROWTH = 16


class Vllm(Protocol):
    """What a piecewise reader needs of VllmReading."""

    post: Post

    async def derender(self, request: DerenderRequest) -> ParsedMessage: ...

    def without_end(self, ids: list[int]) -> list[int]: ...

    def without_control(self, text: str | None, ids: list[int]) -> str: ...

    async def begins_in_reasoning(self, reading: Reading) -> bool: ...


class AsItComes:
    """An AnswerReader where nothing is to be read."""

    async def take(self, event: GenerateEvent) -> list[MessageDelta]:
        return [MessageDelta(content=event.text)] if event.text else []


class PieceByPiece:
    """An AnswerReader that asks vLLM for the delta of every piece."""

    def __init__(self, vllm: Vllm, prompt: list[int], reading: Reading) -> None:
        self._vllm = vllm
        self._prompt = prompt
        self._reading = reading
        self._state: dict[str, Any] | None = None
        self._ids: list[int] = []
        self._text = ""
        self._num_read = 0
        self._untold = ""
        self._told = ""
        self._called = False
        self._is_read = True
        self._is_reasoning: bool | None = None

    async def take(self, event: GenerateEvent) -> list[MessageDelta]:
        self._ids += event.tokens.ids
        self._text += event.text
        self._untold += event.text
        ended = event.finish_reason is not None
        if self._is_read and not ended and len(self._ids) - self._num_read < max(1, self._num_read // _GROWTH):
            return []
        delta = await self._next(ended=ended)
        deltas = [delta] if delta.content or delta.reasoning_content or delta.tool_calls else []
        if ended and self._is_read and self._reading.tools and not self._called:
            deltas += await self._dropped()
        return deltas

    async def _next(self, *, ended: bool) -> MessageDelta:
        untold, self._untold = self._untold, ""
        if not self._is_read:
            return MessageDelta(content=untold)
        ids = self._vllm.without_end(self._ids) if ended else self._ids
        piece, self._num_read = ids[self._num_read :], len(ids)
        chunk = {"index": 0, "token_ids": piece, "finish_reason": "stop" if ended else None}
        body = {
            "stream": True,
            "generate_chunk": {"choices": [chunk]},
            "stream_state": self._state,
            "prompt_token_ids": self._prompt,
            "chat_request": chat_request(self._reading),
        }
        try:
            reply = await self._vllm.post(DERENDER, body)
        except InvalidRequest as refused:
            log.warning("answer_not_read", reason=refused.message)
            self._is_read = False
            return MessageDelta(content=untold)
        self._state = reply["stream_state"]
        return await self._delta(reply["chunk"]["choices"][0]["delta"], piece)

    async def _delta(self, said: dict[str, Any], piece: list[int]) -> MessageDelta:
        content = self._vllm.without_control(said.get("content"), piece)
        reasoning = self._vllm.without_control(said.get("reasoning"), piece)
        if reasoning and self._is_reasoning is None:
            # As in a whole answer: what begins without a mark of reasoning is none, unless the prompt opened it.
            marked = not self._text.lstrip().startswith(reasoning.lstrip())
            self._is_reasoning = marked or await self._vllm.begins_in_reasoning(self._reading)
        if reasoning and not self._is_reasoning:
            content, reasoning = reasoning + content, ""
        calls = [_call_delta(call) for call in said.get("tool_calls") or []]
        self._called = self._called or bool(calls)
        self._told += content
        return MessageDelta(content=content or None, reasoning_content=reasoning or None, tool_calls=calls)

    async def _dropped(self) -> list[MessageDelta]:
        """What looked like a call up to the end, and was none."""
        request = DerenderRequest(token_ids=self._ids, text=self._text, **dict(self._reading))
        content = (await self._vllm.derender(request)).content or ""
        rest = content.removeprefix(self._told)
        return [MessageDelta(content=rest)] if content.startswith(self._told) and rest.strip() else []


def _call_delta(call: dict[str, Any]) -> CallDelta:
    function = call.get("function") or {}
    return CallDelta(index=call["index"], name=function.get("name"), arguments=function.get("arguments") or "")
