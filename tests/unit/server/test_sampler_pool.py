"""Who gets a request: the sampler that knows the prompt, unless it is much busier."""

from __future__ import annotations

import uuid
from collections import Counter

from server.gateway.sampler_pool import SamplerPool
from store.tables import SamplerRow


def samplers(count: int) -> list[SamplerRow]:
    return [SamplerRow(id=uuid.UUID(int=i), url=f"http://s{i}") for i in range(count)]


def test_the_same_prompt_goes_to_the_same_sampler_in_every_replica():
    rows = samplers(4)
    chosen = {SamplerPool().choose(order, b"prompt").id for order in (rows, rows[::-1])}
    assert len(chosen) == 1


def test_prompts_spread_over_samplers():
    rows, pool = samplers(4), SamplerPool()
    counts = Counter(pool.choose(rows, str(i).encode()).id for i in range(400))
    assert min(counts.values()) > 50


def test_a_much_busier_favourite_is_passed_over():
    rows, pool = samplers(2), SamplerPool()
    favourite = pool.choose(rows, b"prompt")
    with pool.occupied(favourite, 8):
        assert pool.choose(rows, b"prompt") is not favourite
    assert pool.choose(rows, b"prompt") is favourite
