"""Who does not read gets nothing more sampled: its sequence waits outside the steps, and goes on where it was."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from sampler.backends.local import event_stream
from tests.ports.sampler_backends import collect
from wire.sampling import GenerateRequest, SampledTokens, SamplingParams

MOST_UNREAD, LONG = 8, 100


@pytest.fixture(autouse=True)
def few_unread(monkeypatch):
    monkeypatch.setattr(event_stream, "_MOST_UNREAD", MOST_UNREAD)


def asking(seed: int, max_tokens: int = LONG) -> GenerateRequest:
    params = SamplingParams(seed=seed, max_tokens=max_tokens, ignore_eos=True, top_logprobs=2)
    return GenerateRequest(adapter="all-targets", prompt_token_ids=[1, 2, 3, 4], params=params)


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (nothing signals it)
            await asyncio.sleep(0.001)


def is_parked(scheduler) -> bool:
    return any(one.stream.is_behind for one in scheduler.parked)


async def test_an_unread_answer_is_parked_for_others_and_comes_out_the_same(backend):
    scheduler = backend._engine._scheduler
    undisturbed = await collect(backend, asking(1))
    async with aclosing(backend.generate(asking(1))) as events:
        tokens, num_parked = SampledTokens(), 0
        async for event in events:
            tokens.extend(event.tokens)
            if len(tokens) < LONG // 2:
                await until(lambda: is_parked(scheduler))
                (parked,) = scheduler.parked
                assert (parked.row, scheduler.running, len(scheduler.waiting)) == (-1, [], 0)
                num_unread, num_parked = parked.num_new - len(tokens), num_parked + 1
                await collect(backend, asking(2, max_tokens=12))
                assert scheduler.parked == [parked]
                assert parked.num_new - len(tokens) == num_unread
    assert num_parked > 3
    assert tokens.ids == undisturbed.ids
    assert tokens.logprobs == pytest.approx(undisturbed.logprobs, abs=1e-5)


async def test_memory_of_an_unread_answer_is_bounded(backend):
    scheduler = backend._engine._scheduler
    async with aclosing(backend.generate(asking(3))) as events:
        num_read = len((await anext(events)).tokens)
        await until(lambda: scheduler.parked)
        (parked,) = scheduler.parked
        await collect(backend, asking(2, max_tokens=12))
        assert parked.num_new - num_read == MOST_UNREAD


async def test_one_that_goes_away_without_reading_is_forgotten(backend):
    scheduler = backend._engine._scheduler
    async with aclosing(backend.generate(asking(4))) as events:
        await anext(events)
        await until(lambda: scheduler.parked)
    await until(lambda: not list(scheduler.sequences()))


async def test_closing_ends_a_parked_answer_too(open_backend):
    backend = open_backend(seed=0)
    async with aclosing(backend.generate(asking(5))) as events:
        await anext(events)
        await until(lambda: backend._engine._scheduler.parked)
        await asyncio.to_thread(backend._engine.close)
        with pytest.raises(Exception, match="shutting down"):
            async for _ in events:
                pass
