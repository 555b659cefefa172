"""What the suite of sampler backends knows of each of them, and how it asks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampler.backends.base import SamplerBackend
from wire.sampling import GenerateEvent, GenerateRequest, PromptScores, SampledTokens, SamplingParams, ScoreRequest

CONTEXT = 512


@dataclass(frozen=True)
class Answer:
    """All events of a generation, put together."""

    tokens: SampledTokens
    text: str
    finish_reason: str | None

    @property
    def ids(self) -> list[int]:
        return self.tokens.ids

    @property
    def logprobs(self) -> list[float]:
        return self.tokens.logprobs


@dataclass(frozen=True)
class Sampler:
    """A backend with a context of CONTEXT tokens that holds `base`, which has no weights of its own, and an adapter of
    each folder's name. `end_text`: how it shows the token that ends an answer. `open_another`: one that holds nothing,
    which the test closes; `ends_requests`: and which then ends what is in flight, unlike one that attached to a vLLM of
    somebody else."""

    backend: SamplerBackend
    adapters: dict[str, Path]
    end_text: str
    open_another: Callable[[], SamplerBackend]
    ends_requests: bool = True

    async def ask(self, prompt: list[int], **params: Any) -> Answer:
        return await ask_backend(self.backend, prompt, **params)

    async def score(self, ids: list[int], *, adapter: str = "base", **params: Any) -> PromptScores:
        return await self.backend.score(ScoreRequest(adapter=adapter, prompt_token_ids=ids, **params))


async def ask_backend(backend: SamplerBackend, prompt: list[int], *, adapter: str = "base", **params: Any) -> Answer:
    return await collect(backend, asking(prompt, adapter=adapter, **params))


def asking(prompt: list[int], *, adapter: str = "base", **params: Any) -> GenerateRequest:
    return GenerateRequest(adapter=adapter, prompt_token_ids=prompt, params=SamplingParams(**params))


async def collect(backend: SamplerBackend, request: GenerateRequest) -> Answer:
    async with aclosing(backend.generate(request)) as generated:
        events = [event async for event in generated]
    assert all(event.finish_reason is None for event in events[:-1])
    return put_together(events)


def put_together(events: list[GenerateEvent]) -> Answer:
    tokens = SampledTokens()
    for event in events:
        tokens.extend(event.tokens)
    return Answer(tokens, "".join(event.text for event in events), events[-1].finish_reason)


def load_all(backend: SamplerBackend, adapters: dict[str, Path]) -> None:
    """What the backends of these suites hold. Blocks."""
    backend.load_adapter("base", None)
    for name, folder in adapters.items():
        backend.load_adapter(name, folder)
