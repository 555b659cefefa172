"""Generating one or several sequences on one sampler, together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from hashlib import blake2b
from typing import Any

from server.sampling.answers import Events
from server.sampling.sampler_client import SamplerClient
from wire.sampling import GenerateEvent, GenerateRequest, SamplingParams

Waiting = asyncio.Queue[tuple[int, GenerateEvent | BaseException | None]]

_MOST_WAITING = 16
"""Events of a sequence that wait for their reader, before the sampler is held back."""


def seeded_by_turn(params: SamplingParams, messages: Sequence[Mapping[str, Any]]) -> SamplingParams:
    """The parameters of a rollout's turn. An agent sends one seed with every turn, and turns that began with the same
    random numbers would not be independent: from the second on, each has a seed that is made of the agent's and of how
    many answers came before."""
    turn = sum(message.get("role") == "assistant" for message in messages)
    if params.seed is None or not turn:
        return params
    digest = blake2b(f"{params.seed}/{turn}".encode(), digest_size=8).digest()
    return params.model_copy(update={"seed": int.from_bytes(digest) >> 1})


def seeded(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of the index-th sequence of a request: each has a seed of its own."""
    if params.seed is None:
        return params
    return params.model_copy(update={"seed": (params.seed + index) % 2**63})


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
