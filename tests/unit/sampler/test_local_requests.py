"""Requests join, leave, wait and come back; ends and refusals."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wire.errors import ContextLengthExceeded, InvalidRequest
from wire.sampling import GenerateRequest, SamplingParams, TokenizeRequest

PROMPT = [11, 12, 13, 14, 15, 16]


async def test_a_late_rollout_shares_a_prompt_that_is_already_computed(ask):
    expected = await ask(PROMPT, seed=5, max_tokens=20)
    early = asyncio.ensure_future(ask(PROMPT, max_tokens=120, ignore_eos=True))
    await asyncio.sleep(0.03)
    late, single = await asyncio.gather(ask(PROMPT, seed=5, max_tokens=20), ask(PROMPT[:1], seed=5, max_tokens=5))
    assert not early.done()
    assert late.ids == expected.ids
    assert single.ids == (await ask(PROMPT[:1], seed=5, max_tokens=5)).ids
    await early


async def test_a_cache_too_small_for_all_makes_them_take_turns_and_changes_nothing(open_backend, ask_on, ask):
    small = open_backend(kv_cache_tokens=200)
    requests = [
        {"prompt": [n] * (3 + 7 * n), "adapter": name, "seed": n, "max_tokens": 40, "ignore_eos": True}
        for n, name in enumerate(["base", "all-targets", "attention-only"] * 2)
    ]
    crowded = await asyncio.gather(*(ask_on(small, **request) for request in requests))
    roomy = [await ask(**request) for request in requests]
    assert [answer.ids for answer in crowded] == [answer.ids for answer in roomy]


async def test_a_prompt_may_fill_the_context_but_for_one_token(open_backend, ask_on, ask):
    small = open_backend(kv_cache_tokens=64)
    assert small.info.context_length == 64
    answer = await ask_on(small, [1] * 63)
    assert (len(answer.ids), answer.finish_reason) == (1, "length")
    cut = await ask_on(small, [1] * 60, max_tokens=5, ignore_eos=True)
    assert (len(cut.ids), cut.finish_reason) == (4, "length")
    with pytest.raises(ContextLengthExceeded, match="maximum context length is 64 tokens. However, the prompt has 64"):
        await ask_on(small, [1] * 64)
    for params in ({"min_tokens": 5}, {"min_tokens": 5, "max_tokens": 9}, {"min_tokens": 5, "max_tokens": 4}):
        with pytest.raises(InvalidRequest, match="min_tokens is 5, more than the 4 tokens that may be sampled"):
            await ask_on(small, [1] * 60, **params)


async def test_a_cancelled_request_frees_its_place(open_backend, ask_on):
    backend = open_backend(max_running=1)
    endless = GenerateRequest(adapter="base", prompt_token_ids=PROMPT, params=SamplingParams(ignore_eos=True))
    events = backend.generate(endless)
    await anext(events)
    waiting = asyncio.ensure_future(ask_on(backend, PROMPT, max_tokens=3, ignore_eos=True))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await events.aclose()
    assert len((await asyncio.wait_for(waiting, 5)).ids) == 3


async def test_a_request_cancelled_while_it_waits_never_runs(open_backend, ask_on):
    backend = open_backend(max_running=1)
    first = asyncio.ensure_future(ask_on(backend, PROMPT, max_tokens=200, ignore_eos=True))
    second = asyncio.ensure_future(ask_on(backend, PROMPT, max_tokens=200, ignore_eos=True))
    await asyncio.sleep(0.02)
    second.cancel()
    assert len((await first).ids) == 200
    assert len((await ask_on(backend, PROMPT, max_tokens=2, ignore_eos=True)).ids) == 2
    assert second.cancelled()


async def test_a_step_that_fails_ends_what_ran_in_it_and_nothing_more(open_backend, ask_on, monkeypatch):
    backend = open_backend()
    forward = backend._engine._model.forward
    monkeypatch.setattr(backend._engine._model, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(Exception, match="step failed"):
        await ask_on(backend, PROMPT)
    monkeypatch.setattr(backend._engine._model, "forward", forward)
    assert (await ask_on(backend, PROMPT, max_tokens=2, ignore_eos=True)).finish_reason == "length"


async def test_a_step_however_long_does_not_hold_up_the_event_loop(open_backend, ask_on, monkeypatch):
    backend = open_backend()
    forward, step_may_end = backend._engine._model.forward, threading.Event()

    def slow_forward(*args, **kwargs):
        assert step_may_end.wait(30)
        return forward(*args, **kwargs)

    monkeypatch.setattr(backend._engine._model, "forward", slow_forward)
    running = asyncio.ensure_future(ask_on(backend, PROMPT, max_tokens=2, ignore_eos=True))
    await asyncio.sleep(0.05)
    assert not running.done()
    assert await backend.tokenize(TokenizeRequest(text="us")) == [256]
    step_may_end.set()
    assert len((await running).ids) == 2
