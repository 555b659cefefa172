"""Sampling one or several sequences on one sampler, together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from server.protocols.openai.schemas import SamplingRequest
from server.sampling.sampler_client import SamplerClient
from wire.sampling import Constraint, GenerateEvent, GenerateRequest, ParsedMessage, SampledTokens, SamplingParams

Events = AsyncGenerator[tuple[int, GenerateEvent]]
Waiting = asyncio.Queue[tuple[int, GenerateEvent | BaseException | None]]

_MOST_WAITING = 16
"""Events of a sequence that wait for their reader, before the sampler is held back."""


@dataclass(slots=True)
class Answer:
    """One sampled sequence, as far as it has come. `prompt_ids`: after which; of a chat that the sampler renders, they
    come with the first tokens."""

    prompt_ids: list[int]
    tokens: SampledTokens = field(default_factory=SampledTokens)
    text: str = ""
    finish_reason: str | None = None
    message: ParsedMessage | None = None

    def add(self, event: GenerateEvent) -> None:
        """Take the next tokens."""
        if event.prompt_token_ids is not None:
            self.prompt_ids = event.prompt_token_ids
        self.tokens.extend(event.tokens)
        self.text += event.text
        self.finish_reason = event.finish_reason
        self.message = event.message


def sampling_params(
    request: SamplingRequest, max_tokens: int | None, top_logprobs: int, constraint: Constraint | None
) -> SamplingParams:
    """How to sample. What the context has room for is the sampler's to say, who knows the prompt's length."""
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(request.top_k or 0, 0),
        min_tokens=request.min_tokens or 0,
        stop=stop,
        stop_token_ids=request.stop_token_ids or [],
        ignore_eos=request.ignore_eos,
        top_logprobs=top_logprobs,
        constraint=constraint,
    )


def seeded(params: SamplingParams, seed: int | None, index: int) -> SamplingParams:
    """The parameters of the index-th sequence of a request: each has a seed of its own."""
    if seed is None:
        return params
    return params.model_copy(update={"seed": (seed + index) % 2**63})


async def generate_all(client: SamplerClient, url: str, requests: Sequence[GenerateRequest]) -> Events:
    """(index of the request, event) as they come, until every sequence has ended. Closing it stops all of them."""
    if len(requests) == 1:
        async with aclosing(client.generate(url, requests[0])) as events:
            async for event in events:
                yield 0, event
        return
    queue: asyncio.Queue[tuple[int, GenerateEvent | BaseException | None]] = asyncio.Queue(
        _MOST_WAITING * len(requests)
    )
    tasks = [asyncio.create_task(_pump(client, url, i, request, queue)) for i, request in enumerate(requests)]
    try:
        running = len(tasks)
        while running:
            index, event = await queue.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                running -= 1
            else:
                yield index, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def collect(client: SamplerClient, url: str, requests: Sequence[GenerateRequest]) -> list[Answer]:
    """Every sequence, complete."""
    answers = [Answer(request.prompt_token_ids) for request in requests]
    async with aclosing(generate_all(client, url, requests)) as events:
        async for index, event in events:
            answers[index].add(event)
    return answers


async def _pump(
    client: SamplerClient,
    url: str,
    index: int,
    request: GenerateRequest,
    queue: Waiting,
) -> None:
    try:
        async with aclosing(client.generate(url, request)) as events:
            async for event in events:
                await queue.put((index, event))
        await queue.put((index, None))
    except Exception as error:  # handed to the one who reads the queue
        await queue.put((index, error))
