"""Rendering and reading chats, for backends that leave it to us: templates and tokenizers off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from sampler.admission.fair_gate import FairGate
from sampler.admission.prompt_limits import PromptLimits
from sampler.backends.base import AnswerReader
from sampler.chat.call_forms import CallForm
from sampler.chat.reading import SymbolReader, joined
from sampler.chat.rendering import ChatRenderer
from sampler.chat.worker import ChatWorker
from sampler.vocabulary import Vocabulary
from wire.picture_rule import PictureRule
from wire.sampling import (
    DerenderRequest,
    GenerateRequest,
    ParsedMessage,
    ParseOptions,
    RenderRequest,
    TokenIds,
    TokenizeRequest,
    TokenTexts,
)

_LARGE_BYTES = 32 * 1024
_NODE_BYTES = 32
"""What a list's or an object's entry counts for: templates look at each."""

_Result = TypeVar("_Result")


class WithChatText:
    """The chat methods of a SamplerBackend that leaves them to us."""

    _chat_text: ChatText
    _vocabulary: Vocabulary

    @property
    def prompt_limits(self) -> PromptLimits:
        """See SamplerBackend."""
        return self._chat_text.limits

    async def render(self, request: RenderRequest) -> TokenIds:
        """See SamplerBackend."""
        return await self._chat_text.render(request)

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """See SamplerBackend."""
        return await self._chat_text.tokenize(request)

    def token_texts(self, token_ids: Sequence[int]) -> TokenTexts:
        """See SamplerBackend."""
        special = self._vocabulary.special_ids
        texts = [self._vocabulary.text_of(token_id) if token_id >= 0 else "" for token_id in token_ids]
        return TokenTexts(texts=texts, special=[at for at, token_id in enumerate(token_ids) if token_id in special])

    async def derender(self, request: DerenderRequest) -> ParsedMessage:
        """See SamplerBackend."""
        reader = SymbolReader(self._vocabulary, self._chat_text.call_form, request.prompt_token_ids, request)
        return joined(reader.read(request.token_ids, request.text, ended=True))

    def reader(self, request: GenerateRequest, reading: ParseOptions) -> AnswerReader:
        """See SamplerBackend."""
        return SymbolReader(self._vocabulary, self._chat_text.call_form, request.prompt_token_ids, reading)


class ChatText:
    """The text half of a SamplerBackend. What cannot fit is refused by its length. Small prompts are worked on in one
    thread: templates and tokenizers are quick with them, and not all stand concurrent use. For large ones there is a
    process, in which teams take turns."""

    def __init__(
        self,
        base: str,
        tokenizer: PreTrainedTokenizerBase,
        limits: PromptLimits,
        end_ids: Sequence[int] = (),
        pictures: PictureRule | None = None,
    ) -> None:
        self.limits = limits
        self._renderer = ChatRenderer(tokenizer, limits, end_ids, pictures)
        self.calls = self._renderer.calls
        """How the template writes calls."""
        self.call_form: CallForm | None = self.calls.form
        """How the base writes calls, where that is known."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chat-text")
        self._worker = ChatWorker(base, limits, end_ids, pictures)
        self._large = FairGate(1)

    async def render(self, request: RenderRequest) -> TokenIds:
        """See SamplerBackend."""
        self.limits.check_chat(request)
        if not is_large([request.messages[request.continued_messages :], request.tools, request.chat_template_kwargs]):
            return await self._off_the_loop(self._renderer.render, request)
        return await self._apart(request)

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """See SamplerBackend."""
        self.limits.check_text(len(request.text))
        if not is_large(request.text):
            return await self._off_the_loop(self._renderer.tokenize, request.text)
        return (await self._apart(request)).token_ids

    async def _apart(self, request: RenderRequest | TokenizeRequest) -> TokenIds:
        async with self._large.place(request) as place:
            tokens = await self._worker.ids(request)
            place.serve(len(tokens.token_ids))
            return tokens

    async def tokenize_bare(self, text: str) -> list[int]:
        """Text to token ids, with nothing around it."""
        return await self._off_the_loop(self._renderer.tokenize_bare, text)

    async def generation_prompt(self, chat_template_kwargs: dict[str, Any]) -> str:
        """See ChatRenderer."""
        return await self._off_the_loop(self._renderer.generation_prompt, chat_template_kwargs)

    def close(self) -> None:
        """End, without waiting."""
        self._thread.shutdown(wait=False)
        self._worker.close()

    async def _off_the_loop(self, work: Callable[[Any], _Result], argument: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, argument)


def is_large(value: Any) -> bool:
    """Whether rendering this holds the interpreter, or the tokenizer, for more than some milliseconds. Looks at no more
    of it than that takes."""
    size, rest = 0, [value]
    while rest and size <= _LARGE_BYTES:
        part = rest.pop()
        size += len(part) if isinstance(part, str) else _NODE_BYTES
        if isinstance(part, dict):
            rest += part.values()
            size += _NODE_BYTES * len(part)
        elif isinstance(part, list):
            rest += part
            size += _NODE_BYTES * len(part)
    return size > _LARGE_BYTES
