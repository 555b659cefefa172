"""Rendering and reading chats, for backends that leave it to us: templates and tokenizers off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from sampler.backends.base import AnswerReader
from sampler.parsing import parse_answer
from sampler.reading import HoldingBack
from sampler.rendering import ChatRenderer
from wire.sampling import DerenderRequest, GenerateRequest, ParsedMessage, Reading, RenderRequest

_Result = TypeVar("_Result")


class WithChatText:
    """The chat methods of a SamplerBackend that leaves them to us."""

    _chat_text: ChatText

    async def render(self, request: RenderRequest) -> list[int]:
        """See SamplerBackend."""
        return await self._chat_text.render(request)

    async def tokenize(self, text: str) -> list[int]:
        """See SamplerBackend."""
        return await self._chat_text.tokenize(text)

    async def derender(self, request: DerenderRequest) -> ParsedMessage:
        """See SamplerBackend."""
        return parse_answer(request.text, tools_offered=bool(request.tools) and request.tool_choice != "none")

    def reader(self, request: GenerateRequest, reading: Reading) -> AnswerReader:
        """See SamplerBackend."""
        return HoldingBack(reading, self.derender)


class ChatText:
    """The text half of a SamplerBackend. One thread: templates and tokenizers are quick, and not all of them stand
    concurrent use."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._renderer = ChatRenderer(tokenizer)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chat-text")

    async def render(self, request: RenderRequest) -> list[int]:
        """See SamplerBackend."""
        return await self._off_the_loop(self._renderer.render, request)

    async def tokenize(self, text: str) -> list[int]:
        """See SamplerBackend."""
        return await self._off_the_loop(self._renderer.tokenize, text)

    async def tokenize_bare(self, text: str) -> list[int]:
        """Text to token ids, with nothing around it."""
        return await self._off_the_loop(self._renderer.tokenize_bare, text)

    async def generation_prompt(self, chat_template_kwargs: dict[str, Any]) -> str:
        """See ChatRenderer."""
        return await self._off_the_loop(self._renderer.generation_prompt, chat_template_kwargs)

    def close(self) -> None:
        """End, without waiting."""
        self._thread.shutdown(wait=False)

    async def _off_the_loop(self, work: Callable[[Any], _Result], argument: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, argument)
