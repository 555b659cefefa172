"""Rendering and reading chats off the event loop, for backends that leave both to us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from sampler.parsing import parse_answer
from sampler.rendering import ChatRenderer
from wire.sampling import DerenderRequest, ParsedMessage, RenderRequest

_Result = TypeVar("_Result")


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

    def derender(self, request: DerenderRequest) -> ParsedMessage:
        """See SamplerBackend."""
        return parse_answer(request.text, tools_offered=bool(request.tools))

    def close(self) -> None:
        """End, without waiting."""
        self._thread.shutdown(wait=False)

    async def _off_the_loop(self, work: Callable[[Any], _Result], argument: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, argument)
