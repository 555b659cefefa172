"""Who gets a request: the sampler that knows the prompt, unless it is much busier, or was lost."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from contextlib import ExitStack

from server.sampling.sampler_pool import SamplerPool
from store.planes.serving import Sampler


def samplers(count: int) -> list[Sampler]:
    return [Sampler(uuid.UUID(int=i), f"http://s{i}") for i in range(count)]


def test_the_same_prompt_goes_to_the_same_sampler_in_every_replica():
    rows = samplers(4)
    chosen = {SamplerPool().choose(order, b"prompt").id for order in (rows, rows[::-1])}
    assert len(chosen) == 1


def test_prompts_spread_over_samplers():
    rows, pool = samplers(4), SamplerPool()
    counts = Counter(pool.choose(rows, str(i).encode()).id for i in range(400))
    assert min(counts.values()) > 50


def test_a_sampler_that_joins_takes_its_share_and_no_more():
    rows, pool = samplers(5), SamplerPool()
    before = [pool.choose(rows[:4], str(i).encode()) for i in range(400)]
    after = [pool.choose(rows, str(i).encode()) for i in range(400)]
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {rows[4]}


def test_a_much_busier_favourite_is_passed_over():
    rows, pool = samplers(2), SamplerPool()
    favourite = pool.choose(rows, b"prompt")
    with pool.occupied(favourite, 8):
        assert pool.choose(rows, b"prompt") is not favourite
    assert pool.choose(rows, b"prompt") is favourite


def test_what_overflows_from_one_prompt_stays_together_and_nobody_gets_more_than_his_share():
    rows, pool = samplers(8), SamplerPool()
    with ExitStack() as stack:
        for sampler in rows:
            stack.enter_context(pool.occupied(sampler, 100))
        counts = Counter[uuid.UUID]()
        for _ in range(60):
            chosen = pool.choose(rows, b"one prompt for all")
            counts[chosen.id] += 1
            stack.enter_context(pool.occupied(chosen))
    assert len(counts) <= 3
    assert max(counts.values()) <= 35


async def test_a_lost_sampler_is_asked_again_once_it_can_be_reached():
    rows, there = samplers(2), asyncio.Event()

    async def is_answering(url: str) -> bool:
        return there.is_set()

    pool = SamplerPool(is_answering)
    favourite, other = pool.choose(rows, b"prompt"), None
    pool.lost(favourite.url)
    other = pool.choose(rows, b"prompt")
    assert other is not favourite
    assert pool.choose([favourite], b"prompt") is favourite, "better than nobody"
    there.set()
    async with asyncio.timeout(2):
        while pool.choose(rows, b"prompt") is not favourite:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.02)
    pool.close()
