"""A SamplerBackend without a model, for tests of what stands in front of a sampler; `test_sampler_port` proves it.

A token is a character. The answers are a script's; without a script, they are drawn from one distribution, whatever
came before.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from sampler.admission.limits import check_scoring, max_new_tokens
from sampler.admission.prompt_limits import PromptLimits
from sampler.backends.base import NO_PICTURES, AnswerReader, SamplerInfo
from sampler.chat.reading import BufferingParser
from sampler.draws import Draws
from sampler.incremental_detokenizer import IncrementalDetokenizer
from wire.errors import Conflict, InvalidRequest, NotFound, Unavailable
from wire.loaded import Loaded
from wire.sampling import (
    Constraint,
    DerenderRequest,
    GenerateEvent,
    GenerateRequest,
    MediaItem,
    MessageDelta,
    ParsedCall,
    ParsedMessage,
    ParseOptions,
    PromptScores,
    RenderRequest,
    SampledTokens,
    SamplingParams,
    ScoreRequest,
    TokenIds,
    TokenizeRequest,
    TokenTexts,
    TopLogprob,
)

END = 2
"""Ends an answer, and has no text. Every other token is its character's code point."""

_WEIGHTS = {ord(letter): 10.0 - n for n, letter in enumerate("abcdefgh")} | {END: 2.0}
"""Of what is drawn, in the order of their probability."""


@dataclass
class SamplerScript:
    """What the sampler does next, and what was asked of it. `answer` None: whatever is drawn."""

    answer: str | None = "36"
    calls: int = 1
    requests: list[GenerateRequest] = field(default_factory=list)
    renders: list[RenderRequest] = field(default_factory=list)
    cancelled: int = 0
    endless: bool = False
    die_times: int = 0
    die_after_tokens: int = 0
    refusal: str = ""
    die_after_s: float = 0.0


class ScriptedBackend:
    """See SamplerBackend. `holds_all`: every name counts as loaded, for tests in which nobody loads adapters, because
    the rows of the database alone say what a sampler holds."""

    def __init__(self, script: SamplerScript, info: SamplerInfo, *, holds_all: bool = False) -> None:
        self._script = script
        self._info = info
        self._holds_all = holds_all
        self._adapters: set[str] = set()
        self._draws = Draws(0)
        self._closed = False

    @property
    def info(self) -> SamplerInfo:
        return self._info

    @property
    def prompt_limits(self) -> PromptLimits:
        return PromptLimits(self._info.context_length, longest_token=1)

    @property
    def details(self) -> Loaded:
        return Loaded(version="0", architecture="Scripted", tokens_per_s=1.0)

    def load_adapter(self, name: str, path: Path | None) -> None:
        if name in self._adapters:
            raise Conflict(f"adapter {name} is loaded already; new weights need a new name")
        if path is not None and not path.is_dir():
            raise NotFound(f"there is no adapter in {path}")
        self._adapters.add(name)

    def unload_adapter(self, name: str) -> None:
        self._adapters.discard(name)

    def loaded(self) -> set[str]:
        return set(self._adapters)

    def trouble(self) -> str | None:
        return "the sampler was closed" if self._closed else None

    def final_trouble(self) -> str | None:
        return None

    async def render(self, request: RenderRequest) -> TokenIds:
        self._script.renders.append(request)
        self.prompt_limits.check_chat(request)
        following = request.messages[request.continued_messages :] if request.continued_ids else request.messages
        rendered = TokenIds(token_ids=list(request.continued_ids or []), media=list(request.continued_media))
        for message in following:
            rendered.token_ids += map(ord, f"<{message['role']}>")
            self._show(message["content"], rendered)
        rendered.token_ids += map(ord, "<assistant>" * request.add_generation_prompt)
        self.prompt_limits.check_ids(len(rendered.token_ids))
        return rendered

    def _show(self, content: Any, rendered: TokenIds) -> None:
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            if part["type"] == "picture" and (rule := self._info.pictures) is not None:
                num_tokens = rule.num_tokens(part["width"], part["height"])
                shown = {name: part[name] for name in ("name", "width", "height")}
                rendered.media.append(MediaItem(start=len(rendered.token_ids), num_tokens=num_tokens, **shown))
                rendered.token_ids += [rule.placeholder_id] * num_tokens
            else:
                rendered.token_ids += map(ord, str(part["text"]))

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        self.prompt_limits.check_text(len(request.text))
        return list(map(ord, request.text))

    def token_texts(self, token_ids: Sequence[int]) -> TokenTexts:
        texts = ["<end>" if one == END else chr(one) if 0 <= one < 0x110000 else "" for one in token_ids]
        return TokenTexts(texts=texts, special=[at for at, one in enumerate(token_ids) if one == END])

    async def generate(
        self, request: GenerateRequest, pictures: Mapping[str, bytes] = NO_PICTURES
    ) -> AsyncGenerator[GenerateEvent, None]:
        script, finished = self._script, False
        limit = self._admit(request)
        answer = _Answer(request.params, limit)
        policy = self._policy(request)
        try:
            while not finished:
                if script.die_times > 0 and answer.num_tokens == script.die_after_tokens:
                    script.die_times -= 1
                    await asyncio.sleep(script.die_after_s)
                    raise RuntimeError("the script has the sampler die here")
                event = answer.take(*next(policy))
                finished = event.finish_reason is not None
                yield event
                await asyncio.sleep(0.1 if script.endless else 0)
                if self._closed:
                    raise _closed()
        finally:
            script.cancelled += not finished

    async def score(self, request: ScoreRequest, pictures: Mapping[str, bytes] = NO_PICTURES) -> PromptScores:
        if self._closed:
            raise _closed()
        self._require(request.adapter)
        check_scoring(request, self._info)
        if self._script.die_times > 0:
            self._script.die_times -= 1
            raise RuntimeError("the script has the sampler die here")
        scored = request.prompt_token_ids[request.first :]
        likeliest = list(_WEIGHTS)[: request.top_logprobs]
        return PromptScores(
            logprobs=[_logprob(token) for token in scored],
            top_ids=[likeliest] * len(scored) if likeliest else [],
            top_logprobs=[[_logprob(token) for token in likeliest]] * len(scored) if likeliest else [],
            targets=request.targets
            and [
                [None if token < 0 or at < request.first - 1 else _logprob(token) for token in row]
                for at, row in enumerate(request.targets)
            ],
        )

    async def derender(self, request: DerenderRequest) -> ParsedMessage:
        thought, _, text = request.text.rpartition("</think>")
        thought = thought.removeprefix("<think>") or None
        if request.tools and text.startswith("CALL "):
            _, name, arguments = text.split(" ", 2)
            calls = [ParsedCall(name=name, arguments=arguments)] * self._script.calls
            return ParsedMessage(content=None, reasoning_content=thought, tool_calls=calls)
        return ParsedMessage(content=text, reasoning_content=thought)

    def reader(self, request: GenerateRequest, reading: ParseOptions) -> AnswerReader:
        """Tells apart at the end; what can only be content, as it comes."""
        answer = self._script.answer
        if reading.tools or answer is None or answer.startswith("<think>"):
            return BufferingParser(reading, self.derender)
        return _AsItComes()

    async def close(self) -> None:
        self._closed = True

    def _admit(self, request: GenerateRequest) -> int:
        """How many tokens may be sampled at most. Raises what SamplerBackend says of `generate`."""
        if self._closed:
            raise _closed()
        self._require(request.adapter)
        limit = max_new_tokens(request, self._info)
        self._script.requests.append(request)
        if self._script.refusal:
            raise InvalidRequest(self._script.refusal, param="constraint")
        if self._script.die_times > 0 and self._script.die_after_tokens == 0:
            self._script.die_times -= 1
            raise NotFound(f"adapter {request.adapter} is not loaded on this sampler")
        return limit

    def _require(self, adapter: str) -> None:
        if not self._holds_all and adapter not in self._adapters:
            raise NotFound(f"adapter {adapter} is not loaded on this sampler")

    def _policy(self, request: GenerateRequest) -> Iterator[_Choice]:
        """The tokens of an answer that nothing ends."""
        if self._script.endless:
            return _spoken("x" * self._info.context_length, request.params)
        if self._script.answer is not None:
            return _spoken(self._script.answer, request.params)
        draws = self._draws.stream(request.params.seed, request.prompt_token_ids, request.prompt_media)
        if request.params.constraint is not None:
            return _spoken(_choice(request.params.constraint, draws), request.params)
        return _drawn(draws, request.params)


_Choice = tuple[int, float, list[TopLogprob]]
"""A token, its logprob, and the most likely ones."""


class _Answer:
    """Which of the tokens count, the text that they settle, and when it ends."""

    def __init__(self, params: SamplingParams, limit: int) -> None:
        self._params = params
        self._limit = limit
        self._stop_ids = {*params.stop_token_ids, *(() if params.ignore_eos else (END,))}
        characters: Any = _Characters()
        self._text = IncrementalDetokenizer(characters, params.stop, skip_special_tokens=params.skip_special_tokens)
        self.num_tokens = 0

    def take(self, token_id: int, logprob: float, alternatives: list[TopLogprob]) -> GenerateEvent:
        self.num_tokens += 1
        tokens = SampledTokens()
        tokens.add(token_id, _text_of(token_id), logprob, alternatives if self._params.top_logprobs else None)
        ended = token_id in self._stop_ids
        text = "" if ended else self._text.feed(token_id, may_stop=self.num_tokens > self._params.min_tokens)
        event = GenerateEvent(tokens=tokens, text=text)
        if ended or self._text.stopped:
            event.finish_reason = "stop"
        elif self.num_tokens >= self._limit:
            event.finish_reason = "length"
        if event.finish_reason is not None:
            event.text += self._text.flush()
        return event


class _Characters:
    """The vocabulary."""

    def bytes_of(self, token_id: int) -> bytes:
        return _text_of(token_id).encode()

    named_bytes_of = bytes_of


class _AsItComes:
    async def take(self, event: GenerateEvent) -> list[MessageDelta]:
        return [MessageDelta(content=event.text)] if event.text else []


def _text_of(token_id: int) -> str:
    return "" if token_id == END else chr(token_id)


def _spoken(text: str, params: SamplingParams) -> Iterator[_Choice]:
    alternatives = [TopLogprob(token_id=65 + i, token=chr(65 + i), logprob=-2.0) for i in range(params.top_logprobs)]
    for token_id in (*map(ord, text), END):
        yield token_id, -0.5, alternatives
    while True:  # somebody ignores the end
        yield END, -0.5, alternatives


def _choice(constraint: Constraint, draws: random.Random) -> str:
    """Raises InvalidRequest for every form but a choice."""
    if not constraint.choice:
        raise InvalidRequest("the sampler cannot keep to this constraint: it only knows choices", param="constraint")
    return draws.choice(constraint.choice)


def _drawn(draws: random.Random, params: SamplingParams) -> Iterator[_Choice]:
    banned = {*params.stop_token_ids, *(() if params.ignore_eos else (END,))}
    num_tokens = 0
    while True:
        chances = _chances(params, banned if num_tokens < params.min_tokens else set())
        reported = (
            chances if params.temperature > 0 else _chances(params.model_copy(update={"temperature": 1.0}), set())
        )
        drawn = draws.random() * sum(chances.values())
        so_far = zip(chances, accumulate(chances.values()), strict=True)
        token_id = next((token for token, end in so_far if drawn < end), next(reversed(chances)))
        alternatives = [
            TopLogprob(token_id=token, token=_text_of(token), logprob=math.log(chance))
            for token, chance in list(reported.items())[: params.top_logprobs]
        ]
        yield token_id, math.log(reported[token_id]), alternatives
        num_tokens += 1


def _chances(params: SamplingParams, banned: set[int]) -> dict[int, float]:
    """What may be drawn, the most likely first, after temperature, top-k and top-p."""
    weights = {token: weight for token, weight in _WEIGHTS.items() if token not in banned}
    if params.temperature == 0:
        return {next(iter(weights)): 1.0}
    weights = {token: weight ** (1 / params.temperature) for token, weight in weights.items()}
    kept = _normalized(dict(list(weights.items())[: params.top_k or None]))
    before = [0.0, *accumulate(kept.values())]
    return _normalized({token: kept[token] for token, start in zip(kept, before, strict=False) if start < params.top_p})


def _logprob(token_id: int) -> float:
    """At temperature 1; of what is never drawn, very little."""
    chances = _chances(SamplingParams(), set())
    return math.log(chances[token_id]) if token_id in chances else -30.0


def _normalized(weights: dict[int, float]) -> dict[int, float]:
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def _closed() -> Unavailable:
    return Unavailable("the sampler is shutting down", retry_after_s=1)
