"""Several sequences at once go no faster than their reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from server.sampling.generation import generate_all
from wire.sampling import GenerateEvent, GenerateRequest, SamplingParams

REQUEST = GenerateRequest(adapter="a", prompt_token_ids=[1], params=SamplingParams())


class EagerSampler:
    """Answers without end, as fast as it is read."""

    def __init__(self) -> None:
        self.num_events = 0
        self.num_ended = 0

    async def generate(self, url: str, request: GenerateRequest) -> AsyncGenerator[GenerateEvent]:
        try:
            while True:
                self.num_events += 1
                yield GenerateEvent(text="x")
                await asyncio.sleep(0)
        finally:
            self.num_ended += 1


@pytest.mark.parametrize("num_sequences", [1, 4])
async def test_the_sampler_is_held_back_by_a_reader_who_stops(num_sequences):
    sampler: Any = EagerSampler()
    events = generate_all(sampler, "http://nowhere", [REQUEST] * num_sequences)
    await anext(events)
    for _ in range(2000):
        await asyncio.sleep(0)
    assert sampler.num_events <= 20 * num_sequences
    for _ in range(1000):
        await anext(events)
    await events.aclose()
    assert sampler.num_ended == num_sequences
